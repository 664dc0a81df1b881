//! One connection to the broker, opened and closed in bounded time. lapin's own recovery stays off: it can hang
//! without a sign, so sessions are built anew by their owners.

use std::future::Future;
use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};

use super::options::{Address, BrokerOptions};
use super::{fault, transport};
use crate::adapters::tls;
use crate::ports::BrokerError;

/// lapin has no timeout of its own for connecting, and none for the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// Declaring, asking, subscribing: the broker answers in milliseconds or is in trouble.
const ANSWER: Duration = Duration::from_secs(5);
/// `close` on a broken connection may never return.
const CLOSE: Duration = Duration::from_secs(2);

/// Opens a connection to one address; `role` is added to its name on the broker's own pages.
pub(super) async fn open(
    options: &BrokerOptions,
    address: &Address,
    role: &str,
) -> Result<Connection, BrokerError> {
    let name = format!("hipchat-notifier {role}");
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = address.is_tls().then(|| tls::client(options.authorities_pem.as_deref())).transpose();
    let tls = tls.map_err(|fault| BrokerError::Misconfigured(format!("amqp.ca_file: {fault}")))?;
    match tokio::time::timeout(CONNECT, transport::connect(address.uri(), properties, tls)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(fault::connecting(address, &error)),
        Err(_) => Err(fault::silent(&format!("connecting to {address}"), CONNECT)),
    }
}

/// Opens a connection to the first address that answers. A refusal by configuration ends the search.
pub(super) async fn open_any(options: &BrokerOptions, role: &str) -> Result<Connection, BrokerError> {
    let mut last = BrokerError::Misconfigured("amqp.url names no broker".into());
    for address in &options.addresses {
        match open(options, address, role).await {
            Ok(connection) => return Ok(connection),
            Err(error @ BrokerError::Misconfigured(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits for the broker's answer to one step, in bounded time. `doing` completes "while …".
pub(super) async fn answer<T>(
    doing: &str,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER, step).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault::during(doing, &error)),
        Err(_) => Err(fault::silent(doing, ANSWER)),
    }
}

/// A new channel.
pub(super) async fn channel(connection: &Connection) -> Result<Channel, BrokerError> {
    answer("opening a channel", connection.create_channel()).await
}

/// Closes a channel, which gives back what it holds unacknowledged. Says nothing when that fails: then the
/// broker gives it back itself.
pub(super) async fn close_channel(channel: &Channel) {
    let _ = tokio::time::timeout(CLOSE, channel.close(200, "done".into())).await;
}

/// Closes a connection, or leaves it to the broker if that takes too long.
pub(super) async fn close(connection: &Connection) {
    let _ = tokio::time::timeout(CLOSE, connection.close(200, "done".into())).await;
}
