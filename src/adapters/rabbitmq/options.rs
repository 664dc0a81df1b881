//! Where the broker is and how the worker behaves towards it. Holds the password; shows it to nobody.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use url::{Host, Url};

use super::topology::Topology;
use crate::ports::BrokerError;

/// Everything that the parts of this module need to know.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// One broker, or several addresses of one cluster, tried in turn. Never empty.
    pub addresses: Vec<Address>,
    pub topology: Topology,
    /// How many events the broker hands over before the first is acknowledged. With the broker's limit on one
    /// message, it is the only bound on what waits in memory.
    pub prefetch: u16,
    /// How many events at most are taken in at once.
    pub batch: usize,
    /// How long a batch may take to get durable before it is given back, with the place as the queue's one
    /// consumer, so that another worker goes on. `None` where there can be no other.
    pub yield_after: Option<Duration>,
    /// How often the queue is asked whether events wait that do not arrive; after two such looks in a row the
    /// session is given up.
    pub look_every: Duration,
    /// PEM of authorities to trust for `amqps` beside the system's.
    pub authorities_pem: Option<String>,
}

impl BrokerOptions {
    /// The contract's names and the measured defaults, on these addresses.
    pub fn new(addresses: Vec<Address>) -> Self {
        Self {
            addresses,
            topology: Topology::default(),
            prefetch: 512,
            batch: 256,
            yield_after: None,
            look_every: Duration::from_secs(15),
            authorities_pem: None,
        }
    }
}

/// One broker's address. `Debug` and `Display` leave out user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    uri: AMQPUri,
    /// Seconds, where the URL itself does not say.
    heartbeat: u16,
}

impl Address {
    /// Seconds between heartbeats; a silent peer is given up after twice this.
    const HEARTBEAT: u16 = 10;

    /// Bytes of the largest frame, unless the URL says otherwise or the broker wants less: what RabbitMQ allows by
    /// default. Of a broker that allows more, or any size at all, lapin would keep 64 times as much in memory.
    const FRAME_MAX: u32 = 128 << 10;

    /// The same address with another heartbeat, in whole seconds; a `?heartbeat=` in the URL still wins.
    #[must_use]
    pub fn with_heartbeat(self, every: Duration) -> Self {
        Self { heartbeat: u16::try_from(every.as_secs()).unwrap_or(u16::MAX), ..self }
    }

    /// The form that lapin connects to.
    pub(super) fn uri(&self) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.query.heartbeat.get_or_insert(self.heartbeat);
        // 0 is any size.
        uri.query.frame_max = uri.query.frame_max.filter(|max| *max > 0).or(Some(Self::FRAME_MAX));
        uri
    }

    /// Whether TLS is spoken there.
    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// `host:port`, for people.
    pub(super) fn host_and_port(&self) -> String {
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The user who logs in; not secret.
    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// The virtual host.
    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// Takes the password out of a text that others wrote.
    pub(super) fn redact(&self, text: &str) -> String {
        let password = &self.uri.authority.userinfo.password;
        // A short one ("guest" apart) would turn ordinary words into stars; brokers do not echo passwords, this
        // is the second lock on the door.
        if password.len() < 6 { text.to_owned() } else { text.replace(password.as_str(), "***") }
    }

    /// Takes the password out of an error's text.
    pub(super) fn redact_error(&self, error: BrokerError) -> BrokerError {
        match error {
            BrokerError::Unavailable(text) => BrokerError::Unavailable(self.redact(&text)),
            BrokerError::Misconfigured(text) => BrokerError::Misconfigured(self.redact(&text)),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `amqp://user:password@host:port/vhost` or `amqps://…`. The error never quotes the text, since
    /// that holds the password.
    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| {
            format!("is not a URL ({error}); write it as amqp://user:password@host:5672/%2f")
        })?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err("must begin with amqp:// or amqps://".into());
        }
        let mut uri: AMQPUri = text.parse().map_err(|error| format!("is not an AMQP address ({error})"))?;
        // lapin's parser takes an IP literal for no host at all.
        match url.host() {
            Some(Host::Ipv6(address)) => uri.authority.host = address.to_string(),
            Some(host) if !host.to_string().is_empty() => uri.authority.host = host.to_string(),
            _ => return Err("names no host; write it as amqp://user:password@host:5672/%2f".into()),
        }
        Ok(Self { uri, heartbeat: Self::HEARTBEAT })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        write!(f, "{scheme}://{} (vhost '{}')", self.host_and_port(), self.uri.vhost)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let cases = [
            ("the default", "amqp://guest:guest@127.0.0.1:5672/%2f", "127.0.0.1:5672", "/"),
            ("a vhost", "amqp://u:p@mq.example:1/team", "mq.example:1", "team"),
            ("no port", "amqp://u:p@mq.example/%2f", "mq.example:5672", "/"),
            ("TLS", "amqps://u:p@mq.example/%2f", "mq.example:5671", "/"),
            ("IPv6", "amqp://u:p@[::1]:5673/%2f", "[::1]:5673", "/"),
        ];
        for (name, text, host_and_port, vhost) in cases {
            let address: Address = text.parse().expect(name);
            assert_eq!(address.host_and_port(), host_and_port, "{name}");
            assert_eq!(address.vhost(), vhost, "{name}");
            assert_eq!(address.uri().query.heartbeat, Some(10), "{name}");
        }
    }

    #[test]
    fn the_heartbeat_is_the_urls_own_or_the_one_given() {
        for (text, expected) in [("amqp://u:p@h/%2f", 30), ("amqp://u:p@h/%2f?heartbeat=5", 5)] {
            let address: Address = text.parse().expect("is valid");
            assert_eq!(address.with_heartbeat(Duration::from_secs(30)).uri().query.heartbeat, Some(expected));
        }
    }

    #[test]
    fn frames_are_no_larger_than_the_url_says_or_rabbitmq_by_default() {
        let default = Some(Address::FRAME_MAX);
        for (query, expected) in
            [("", default), ("?frame_max=0", default), ("?frame_max=65536", Some(65_536))]
        {
            let address: Address = format!("amqp://u:p@h/%2f{query}").parse().expect(query);
            assert_eq!(address.uri().query.frame_max, expected, "{query}");
        }
    }

    #[test]
    fn faults_are_named_and_the_password_is_not() {
        for text in
            ["amqp//u:hunter22@h", "http://u:hunter22@h/", "amqp:///x", "", "amqp://u:hunter22@h:port/"]
        {
            let error = text.parse::<Address>().expect_err(text);
            assert!(!error.contains("hunter22") && !error.is_empty(), "{text}: {error}");
        }
        let address: Address = "amqp://u:hunter22@h/%2f".parse().expect("is valid");
        assert!(!format!("{address:?} {address}").contains("hunter22"));
        assert_eq!(address.redact("login as hunter22 failed"), "login as *** failed");
        let error = address.redact_error(BrokerError::Unavailable("it said hunter22".into()));
        assert_eq!(error.to_string(), "it said ***");
    }
}
