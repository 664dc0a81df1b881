//! Where the server is, and how to speak TLS with it, from a URL.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use crate::adapters::tls;
use crate::files;
use crate::ports::StoreError;

/// How TLS is spoken where the URL's `sslmode` wants it.
pub type Tls = MakeRustlsConnect;

/// How long setting up a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// After this long without an acknowledgement of what was sent, the server counts as gone.
const SILENCE: Duration = Duration::from_secs(15);
/// When a connection that says nothing is first asked whether it is still there.
const IDLE: Duration = Duration::from_secs(10);

/// A server's address, read.
#[derive(Debug)]
pub struct Address {
    config: Config,
    /// A PEM file with the authorities to trust beside the system's.
    authorities: Option<PathBuf>,
}

impl Address {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…`: the parameters of libpq that this program knows.
    /// `sslmode=verify-full` means the same as `require`: a certificate is always checked, against the system's
    /// authorities and those in `sslrootcert`.
    ///
    /// # Errors
    /// What is wrong with it, in half a sentence without a word of it: it may be a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("it does not begin with postgres://".to_owned());
        }
        if url.fragment().is_some() {
            return Err("it has a \"#\"; in a password that is written %23".to_owned());
        }
        let mut authorities = None;
        let mut kept = Vec::new();
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("sslrootcert", path) => authorities = Some(PathBuf::from(path)),
                ("sslmode", "verify-full") => kept.push(("sslmode".to_owned(), "require".to_owned())),
                ("sslmode", mode) if !matches!(mode, "disable" | "prefer" | "require") => {
                    return Err("its sslmode is none of disable, prefer, require, verify-full".to_owned());
                }
                _ => kept.push((name.into_owned(), value.into_owned())),
            }
        }
        let query: Vec<String> =
            kept.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        url.set_query((!query.is_empty()).then_some(query.join("&")).as_deref());
        // Its error may show the value at fault.
        let mut config: Config = url
            .as_str()
            .parse()
            .map_err(|_| "it has a parameter that is not known or not right".to_owned())?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        if config.get_user().is_none() {
            return Err("it names no user".to_owned());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err("it names no database".to_owned());
        }
        bound(&mut config);
        Ok(Self { config, authorities })
    }

    /// What to connect with.
    ///
    /// # Errors
    /// A file of authorities that can't be read or holds none.
    pub fn open(self) -> Result<(Config, Tls), StoreError> {
        let refused = |path: &PathBuf, why: String| {
            StoreError::Refused(format!("store.url: sslrootcert {}: {why}", path.display()))
        };
        let pem = self.authorities.as_ref().map(|path| {
            files::read_text(path, files::LONGEST_AUTHORITIES)
                .map_err(|error| refused(path, format!("it can't be read: {error}")))
        });
        let pem = pem.transpose()?;
        let client = tls::client(pem.as_deref()).map_err(|why| match &self.authorities {
            Some(path) => refused(path, why),
            None => StoreError::Refused(format!("store.url: TLS: {why}")),
        })?;
        Ok((self.config, MakeRustlsConnect::new((*client).clone())))
    }
}

/// Every wait for the server ends. What the URL says goes before what is said here.
fn bound(config: &mut Config) {
    if config.get_application_name().is_none() {
        config.application_name("hipchat-notifier");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    config.keepalives_idle(IDLE);
    config.keepalives_interval(IDLE / 2);
    config.keepalives_retries(2);
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_faults_give_nothing_away() {
        for good in [
            "postgres://u:p@host/db",
            "postgresql://u@host:5433/db?sslmode=require",
            "postgres://u:p%23w@host/db?sslmode=verify-full&application_name=x",
            "postgres://u@host/db?options=-csearch_path%3Dnotifier",
            "postgres://u@%2Frun%2Fpostgresql/db",
        ] {
            assert!(Address::parse(good).is_ok(), "{good}: {:?}", Address::parse(good).err());
        }
        let cases = [
            ("postgres://u:s3cret@host/db?sslmode=maybe", "sslmode"),
            ("postgres://u:s3cret@host/db?hunter2=1", "not known"),
            ("postgres://u@host/db#s3cret", "#"),
            ("postgres://u:s3cret@host", "no database"),
            ("postgres://host/db", "no user"),
            ("mysql://u:s3cret@host/db", "postgres://"),
        ];
        for (bad, why) in cases {
            let fault = Address::parse(bad).expect_err(bad);
            assert!(fault.contains(why), "{bad}: {fault}");
            assert!(!fault.contains("s3") && !fault.contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn tls_is_wanted_as_the_url_says() {
        use tokio_postgres::config::SslMode;
        let mode = |mode: &str| {
            let url = format!("postgres://u@host/db?sslmode={mode}&sslrootcert=%2Fetc%2Fca.pem");
            let address = Address::parse(&url).unwrap();
            (address.config.get_ssl_mode(), address.authorities)
        };
        let file = Some(PathBuf::from("/etc/ca.pem"));
        assert_eq!(mode("disable"), (SslMode::Disable, file.clone()));
        assert_eq!(mode("prefer"), (SslMode::Prefer, file.clone()));
        assert_eq!(mode("require"), (SslMode::Require, file.clone()));
        assert_eq!(mode("verify-full"), (SslMode::Require, file));
    }

    #[test]
    fn a_file_of_authorities_that_is_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "#".repeat(4 * 1024 * 1024 + 1)).unwrap();
        let path = file.display().to_string();
        let url = format!("postgres://u@host/db?sslrootcert={}", path.replace('/', "%2F"));
        let error = Address::parse(&url).unwrap().open().err().unwrap().to_string();
        assert_eq!(
            error,
            format!("store.url: sslrootcert {path}: it can't be read: it is longer than 4 MiB")
        );
    }
}
