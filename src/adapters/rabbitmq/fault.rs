//! What lapin and the broker report, as sentences for an operator, classified while the typed cause is in hand.

use std::time::Duration;

use lapin::ErrorKind;

use super::options::Address;
use crate::ports::BrokerError;

/// AMQP 0-9-1 reply codes that say that configuration is wrong, not that something broke.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// The reply code and text, if the broker itself said no.
pub(super) fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => Some((reply.get_id(), reply.get_message().to_string())),
        _ => None,
    }
}

/// Whether the broker said that there is no such thing.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    reply(error).is_some_and(|(code, _)| code == NOT_FOUND)
}

/// What happened, in words, without what only a programmer reads.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => format!("the broker said {}", reply.get_message()),
        ErrorKind::IOError(error) if is_of_tls(error) => format!(
            "TLS failed: {error}; if the broker has a certificate of your own, name its CA in amqp.ca_file"
        ),
        ErrorKind::IOError(error) => format!("the connection failed: {error}"),
        ErrorKind::MissingHeartbeatError => "the broker was silent for too long".into(),
        ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_) => "the channel is closed".into(),
        ErrorKind::InvalidConnectionState(_) => "the connection is closed".into(),
        _ => error.to_string(),
    }
}

fn is_of_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>())
}

/// A connection that could not be opened.
pub(super) fn connecting(address: &Address, error: &lapin::Error) -> BrokerError {
    match reply(error) {
        Some((ACCESS_REFUSED, text)) => BrokerError::Misconfigured(format!(
            "RabbitMQ at {address} refuses the login of user '{}' ({}): check user and password in amqp.url, and \
             that the user may log in from here",
            address.user(),
            address.redact(&text),
        )),
        Some((NOT_ALLOWED, text)) => BrokerError::Misconfigured(format!(
            "RabbitMQ at {address} does not let user '{}' use vhost '{}' ({}): check the vhost at the end of \
             amqp.url ('/' is written %2f) and the user's permissions",
            address.user(),
            address.vhost(),
            address.redact(&text),
        )),
        _ => BrokerError::Unavailable(format!(
            "RabbitMQ at {address} can't be reached: {}",
            address.redact(&words(error))
        )),
    }
}

/// A step that the broker did not do: `doing` completes "while …".
pub(super) fn during(doing: &str, error: &lapin::Error) -> BrokerError {
    match reply(error) {
        Some((ACCESS_REFUSED, text)) => BrokerError::Misconfigured(format!(
            "RabbitMQ refused while {doing} ({text}): give the user of amqp.url the configure, write and read \
             permissions on it (rabbitmqctl set_permissions)"
        )),
        Some((NOT_FOUND, text)) => BrokerError::Misconfigured(format!(
            "RabbitMQ has no such thing while {doing} ({text}): the worker declares what it needs when it starts; \
             check the names and the vhost, or start the worker once"
        )),
        Some((PRECONDITION_FAILED | NOT_ALLOWED, text)) => {
            BrokerError::Misconfigured(format!("RabbitMQ refused while {doing}: {text}"))
        }
        _ => BrokerError::Unavailable(format!("RabbitMQ failed while {doing}: {}", words(error))),
    }
}

/// A step that got no answer.
pub(super) fn silent(doing: &str, after: Duration) -> BrokerError {
    BrokerError::Unavailable(format!("RabbitMQ gave no answer within {} s while {doing}", after.as_secs()))
}
