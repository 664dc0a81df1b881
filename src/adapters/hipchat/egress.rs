//! Which servers may be reached: public https, and beyond that only what `egress.allow` names.
//!
//! A room URL is pasted by people and comes from files and pages, so it must not become a way into the
//! network that the worker stands in. Names are checked when the connection is made, after DNS, by the
//! resolver in here: what was public when the URL was stored may be private later. Addresses written into
//! the URL never see a resolver, so [`Egress::check`] is asked before every request as well.
//!
//! Behind a proxy it is the proxy that resolves names and opens connections; then only what can be seen in
//! the URL is checked here, and the proxy's own rules count for the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address::is_public;

/// What may be reached although it is private or plain http. The default allows nothing but public https.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// By host name, or by address where a port was given with it.
    hosts: BTreeMap<String, Ports>,
    networks: Vec<IpNet>,
}

/// The ports at which a named host may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ports {
    Any,
    Only(BTreeSet<u16>),
}

/// An entry of `egress.allow` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("egress.allow: {entry:?} {problem}")]
pub struct EgressError {
    /// The entry as it was written.
    pub entry: String,
    problem: &'static str,
}

/// Why a room's server may not be reached. Names hosts and addresses only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenied {
    /// `http://` to a host that nothing allows.
    #[error(
        "room host {host} is reached by plain http, which egress.allow does not allow; use https, or add {host:?} to egress.allow"
    )]
    PlainHttp { host: String },
    /// The URL's host is an address that is not public, or a name of this machine.
    #[error(
        "room host {host} is a private or reserved address, which egress.allow does not allow; add {host:?} or its network to egress.allow"
    )]
    Private { host: String },
    /// The name leads to nothing that may be reached.
    #[error(
        "room host {host} resolves to {address}, which egress.allow does not allow; add {host:?} or the address's network to egress.allow"
    )]
    Resolved { host: String, address: IpAddr },
    /// Plain http to a name whose address is in none of the allowed networks.
    #[error(
        "room host {host} is reached by plain http and resolves to {address}, which is in no network of egress.allow; use https, or add {host:?} to egress.allow"
    )]
    PlainResolved { host: String, address: IpAddr },
    /// The host is listed, but with other ports.
    #[error(
        "room host {host} is in egress.allow, but not with port {port}; add \"{host}:{port}\" to egress.allow"
    )]
    OtherPort { host: String, port: u16 },
}

impl EgressDenied {
    /// The name that led to a forbidden address, unless it is one of this machine: those lead nowhere else.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Resolved { host, .. } | Self::PlainResolved { host, .. } => {
                Some(host.as_str()).filter(|host| !is_local(host))
            }
            Self::PlainHttp { .. } | Self::Private { .. } | Self::OtherPort { .. } => None,
        }
    }
}

/// Whether a name, in lower case, is this machine's own.
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

impl Egress {
    /// Reads the entries of `egress.allow`: host names, addresses, networks (`10.0.0.0/8`), and names or
    /// addresses with a port. A host that is listed with ports only may be reached at those ports only.
    /// Reports every bad entry at once.
    pub fn from_entries<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<EgressError>> {
        let (mut egress, mut errors) = (Self::default(), Vec::new());
        for entry in entries {
            if let Err(problem) = egress.add(entry.as_ref().trim()) {
                errors.push(EgressError { entry: entry.as_ref().to_owned(), problem });
            }
        }
        if errors.is_empty() { Ok(egress) } else { Err(errors) }
    }

    fn add(&mut self, entry: &str) -> Result<(), &'static str> {
        if entry.is_empty() {
            return Err("is empty: write a host, an address or a network such as 10.0.0.0/8");
        }
        if entry.contains("://") {
            return Err("is a URL: write the host alone, such as hipchat.example.com");
        }
        if entry.contains('*') {
            return Err("has a wildcard, which is not supported: list the hosts, or allow their network");
        }
        if entry.contains('/') {
            let network: IpNet =
                entry.parse().map_err(|_| "is not a network: write it such as 10.0.0.0/8 or fd00::/8")?;
            self.networks.push(network.trunc());
            return Ok(());
        }
        if let Ok(address) = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            self.networks.push(address.to_canonical().into());
            return Ok(());
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or("has no valid port after the colon: write 1 to 65535")?))
            }
            None => (entry, None),
        };
        let host = Host::parse(host.trim_end_matches('.'))
            .map_err(|_| "is neither a host name, an address nor a network")?;
        self.add_host(host_text(&host), port);
        Ok(())
    }

    fn add_host(&mut self, host: String, port: Option<u16>) {
        let ports = self.hosts.entry(host).or_insert_with(|| Ports::Only(BTreeSet::new()));
        match (port, ports) {
            (Some(port), Ports::Only(only)) => {
                only.insert(port);
            }
            (None, ports) => *ports = Ports::Any,
            (Some(_), Ports::Any) => {}
        }
    }

    /// Whether a request to `url` may be started. Says yes to names that only DNS can decide on: those are
    /// checked again by the resolver when the connection is made.
    pub fn check(&self, url: &Url) -> Result<(), EgressDenied> {
        let Some(host) = url.host() else {
            return Err(EgressDenied::Private { host: String::from("(none)") });
        };
        let text = host_text(&host);
        let address = match &host {
            Host::Ipv4(v4) => Some(IpAddr::V4(*v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(*v6)),
            Host::Domain(_) => None,
        };
        if address.is_some_and(|address| self.names_address(address)) {
            return Ok(());
        }
        match (self.hosts.get(&text), url.port_or_known_default().unwrap_or_default()) {
            (Some(Ports::Any), _) => return Ok(()),
            (Some(Ports::Only(only)), port) if only.contains(&port) => return Ok(()),
            (Some(Ports::Only(_)), port) => return Err(EgressDenied::OtherPort { host: text, port }),
            (None, _) => {}
        }
        let plain = url.scheme() != "https";
        match address {
            Some(address) if !is_public(address) => Err(EgressDenied::Private { host: text }),
            // A name of this machine may still be in an allowed network (127.0.0.0/8).
            None if is_local(&text) && self.networks.is_empty() => Err(EgressDenied::Private { host: text }),
            // A name may turn out to be in an allowed network; the resolver for plain http insists on it.
            None if plain && !self.networks.is_empty() => Ok(()),
            _ if plain => Err(EgressDenied::PlainHttp { host: text }),
            _ => Ok(()),
        }
    }

    /// Picks those of a name's addresses that may be connected to.
    pub(super) fn permitted(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
        scheme: Scheme,
    ) -> Result<Vec<SocketAddr>, EgressDenied> {
        if self.hosts.contains_key(&host.trim_end_matches('.').to_ascii_lowercase()) {
            return Ok(addresses);
        }
        let allowed = |address: &IpAddr| {
            self.names_address(*address) || (scheme == Scheme::Https && is_public(*address))
        };
        let refused = addresses.iter().map(SocketAddr::ip).find(|address| !allowed(address));
        let left: Vec<_> = addresses.into_iter().filter(|address| allowed(&address.ip())).collect();
        match (left.is_empty(), refused, scheme) {
            (true, Some(address), Scheme::Https) => {
                Err(EgressDenied::Resolved { host: host.to_owned(), address })
            }
            (true, Some(address), Scheme::Http) => {
                Err(EgressDenied::PlainResolved { host: host.to_owned(), address })
            }
            _ => Ok(left),
        }
    }

    fn names_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// A host as `egress.allow` names it: lower case, no brackets, no trailing dot; IPv4 in IPv6 as IPv4.
fn host_text<S: AsRef<str>>(host: &Host<S>) -> String {
    match host {
        Host::Domain(name) => name.as_ref().trim_end_matches('.').to_ascii_lowercase(),
        Host::Ipv4(v4) => v4.to_string(),
        Host::Ipv6(v6) => IpAddr::V6(*v6).to_canonical().to_string(),
    }
}

/// Which rule a resolver applies: public addresses will do for https only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Finds a name's addresses.
pub(super) type Lookup = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Asks the system.
pub(super) fn by_system(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    // Port 0 is replaced by the URL's.
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Resolves names and lets only permitted addresses through. What it lets through is what is connected to: no name
/// is resolved a second time, so it can't lead elsewhere by then.
#[derive(Debug, Clone)]
pub(super) struct CheckedResolver {
    pub(super) lookup: Lookup,
    pub(super) egress: Arc<Egress>,
    pub(super) scheme: Scheme,
    /// The proxy's own name: the operator chose it, wherever it is.
    pub(super) proxy_host: Option<String>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let addresses = (resolver.lookup)(host.to_owned()).await?;
            let is_proxy = resolver.proxy_host.as_deref().is_some_and(|p| p.eq_ignore_ascii_case(host));
            let left = if is_proxy {
                addresses
            } else {
                resolver.egress.permitted(host, addresses, resolver.scheme)?
            };
            Ok(Box::new(left.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
