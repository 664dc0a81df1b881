//! Values that have a form of their own: addresses, tokens, templates.
//!
//! Each function either reads its text or says in half a sentence what is wrong with it, without a word of the
//! text: it may be a secret.

use std::net::SocketAddr;
use std::path::PathBuf;

use iri_string::template::UriTemplateStr;
use secrecy::SecretString;
use url::Url;

use super::sections::{SecretUrl, StoreUrl};

/// How a password is written in a URL.
const ESCAPED: &str = "in a password \"/\" is written %2F, \"?\" %3F, \"#\" %23 and \"@\" %40";

/// A URL that may have a password. One that is not escaped would be read as a port, a path or parameters in part, and
/// that part would be shown.
fn with_password(text: &str) -> Result<Url, String> {
    let login = text.contains('@');
    let url = Url::parse(text).map_err(|e| match login {
        true => format!("not a URL: {e}; {ESCAPED}"),
        false => format!("not a URL: {e}"),
    })?;
    let behind_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let behind_host = behind_scheme.find(['/', '?', '#']).map_or("", |at| &behind_scheme[at..]);
    if behind_host.contains('@') {
        return Err(format!("it has an \"@\" behind its host; {ESCAPED}"));
    }
    Ok(url)
}

/// A broker's address.
pub(super) fn amqp_url(text: &str) -> Result<SecretUrl, String> {
    let url = with_password(text)?;
    if !matches!(url.scheme(), "amqp" | "amqps") {
        return Err("it does not begin with amqp:// or amqps://".to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    if url.fragment().is_some() {
        return Err("it has a \"#\"; in a password that is written %23".to_owned());
    }
    if url.path().trim_start_matches('/').contains('/') {
        return Err("its virtual host has a \"/\"; that is written %2f".to_owned());
    }
    Ok(SecretUrl::new(text, &url))
}

/// Where the store is.
pub(super) fn store_url(text: &str) -> Result<StoreUrl, String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let url = with_password(text)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        if url.fragment().is_some() {
            return Err("it has a \"#\"; in a password that is written %23".to_owned());
        }
        // The client takes the first for the end of the password, and the rest for the host.
        if text.matches('@').count() > 1 {
            return Err(format!("it has more than one \"@\"; {ESCAPED}"));
        }
        return Ok(StoreUrl::Postgres(SecretUrl::new(text, &url)));
    }
    let Some(path) = text.strip_prefix("sqlite:") else {
        return Err("it does not begin with sqlite: or postgres://".to_owned());
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    match path {
        "" => Err("it names no file".to_owned()),
        ":memory:" => Err("a store in memory forgets everything at a restart".to_owned()),
        path if path.contains('?') => Err("it takes no parameters after \"?\"".to_owned()),
        path if path.ends_with('/') => Err("it names a folder".to_owned()),
        path => Ok(StoreUrl::Sqlite(PathBuf::from(path))),
    }
}

/// A proxy's address.
pub(super) fn proxy_url(text: &str) -> Result<SecretUrl, String> {
    let url = with_password(text)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it does not begin with http:// or https://".to_owned());
    }
    Ok(SecretUrl::new(text, &url))
}

/// A token that can stand in a header.
pub(super) fn bearer(text: &str) -> Result<SecretString, String> {
    if text.is_empty() {
        Err("it is empty".to_owned())
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("it holds blanks or characters that no header may hold".to_owned())
    } else {
        Ok(SecretString::from(text))
    }
}

/// A key of 64 hex digits.
pub(super) fn key(text: &str) -> Result<SecretString, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(SecretString::from(text))
    } else {
        Err("not 64 hex digits".to_owned())
    }
}

/// Whether an entry has the form of a host, an address (both also with a port) or a network.
pub(super) fn peer(entry: &str) -> Result<(), &'static str> {
    if entry.contains("://") {
        return Err("a URL");
    }
    if entry.contains('/') {
        return entry.parse::<ipnet::IpNet>().map(drop).map_err(|_| "not a network");
    }
    if entry.contains('*') {
        return Err("a pattern; those are not known here");
    }
    if entry.parse::<std::net::IpAddr>().is_ok() || entry.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    match Url::parse(&format!("http://{entry}/")) {
        Ok(url) if url.username().is_empty() && url.password().is_none() && url.path() == "/" => Ok(()),
        _ => Err("not a host"),
    }
}

/// The form of a template. Which variables there are is for the messages to say.
pub(super) fn link_template(template: &str) -> Result<(), String> {
    if template.is_empty() {
        return Ok(());
    }
    if !template.starts_with("https://") && !template.starts_with("http://") {
        return Err("it does not begin with https:// or http://".to_owned());
    }
    match UriTemplateStr::new(template) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("not a URI template (RFC 6570): {e}")),
    }
}
