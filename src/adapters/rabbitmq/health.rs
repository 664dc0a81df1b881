//! What the worker's session with the broker is doing, for `/readyz` and the log. Holds no connection.

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::ports::Readiness;

/// Where the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// No session: why not.
    Connecting { reason: String },
    /// Deliveries can arrive.
    Consuming,
    /// Subscribed, while another worker takes the events in; healthy. It holds until the first delivery: RabbitMQ
    /// tells nobody that he has become the active consumer.
    StandingBy,
    /// The broker has blocked the connection: its reason. Holds until it says that it has unblocked it.
    Blocked { reason: String },
    /// Has given up its place as the consumer, since what it was handed could not be made durable: why. It
    /// subscribes again when that would work.
    Yielded { reason: String },
    /// Shut down.
    Stopped,
}

impl SessionState {
    /// All words of [`Self::as_str`].
    pub const WORDS: [&'static str; 6] =
        ["connecting", "consuming", "standing-by", "blocked", "yielded", "stopped"];

    /// One word for it.
    pub fn as_str(&self) -> &'static str {
        let [connecting, consuming, standing_by, blocked, yielded, stopped] = Self::WORDS;
        match self {
            Self::Connecting { .. } => connecting,
            Self::Consuming => consuming,
            Self::StandingBy => standing_by,
            Self::Blocked { .. } => blocked,
            Self::Yielded { .. } => yielded,
            Self::Stopped => stopped,
        }
    }
}

/// Shared between the session, which writes it, and whoever asks.
#[derive(Debug)]
pub struct BrokerHealth {
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    state: SessionState,
    since: Instant,
    /// What the session does while its connection is not blocked.
    unblocked: SessionState,
}

#[async_trait]
impl Readiness for BrokerHealth {
    async fn ready(&self) -> Result<(), String> {
        self.verdict()
    }
}

impl Default for BrokerHealth {
    fn default() -> Self {
        Self::new()
    }
}

impl BrokerHealth {
    /// Before the first session.
    pub fn new() -> Self {
        let state = SessionState::Connecting { reason: "not connected yet".into() };
        let unblocked = SessionState::Consuming;
        Self { inner: Mutex::new(Inner { state, since: Instant::now(), unblocked }) }
    }

    /// What the session is doing now.
    pub fn state(&self) -> SessionState {
        self.lock().state.clone()
    }

    /// Whether deliveries can arrive; if not, why not and since when.
    pub fn verdict(&self) -> Result<(), String> {
        let Inner { state, since, .. } = self.lock().clone();
        let seconds = since.elapsed().as_secs();
        match state {
            SessionState::Consuming | SessionState::StandingBy => Ok(()),
            SessionState::Connecting { reason } => {
                Err(format!("no session with RabbitMQ for {seconds} s: {reason}"))
            }
            SessionState::Blocked { reason } => {
                Err(format!("RabbitMQ has blocked this connection for {seconds} s: {reason}"))
            }
            SessionState::Yielded { reason } => {
                Err(format!("not subscribed at RabbitMQ for {seconds} s: {reason}"))
            }
            SessionState::Stopped => Err("shut down".into()),
        }
    }

    /// Changes the state; the time since which it holds moves only when the kind of state does. A connection
    /// that is blocked stays so for as long as the session lasts: only the broker can end it.
    pub(super) fn set(&self, state: SessionState) {
        let is_alive = matches!(state, SessionState::Consuming | SessionState::StandingBy);
        let mut inner = self.lock();
        if is_alive {
            inner.unblocked = state.clone();
            if matches!(inner.state, SessionState::Blocked { .. }) {
                return;
            }
        }
        Self::replace(&mut inner, state);
    }

    /// The broker has unblocked the connection.
    pub(super) fn unblocked(&self) {
        let mut inner = self.lock();
        let state = inner.unblocked.clone();
        Self::replace(&mut inner, state);
    }

    fn replace(inner: &mut Inner, state: SessionState) {
        if std::mem::discriminant(&inner.state) != std::mem::discriminant(&state) {
            inner.since = Instant::now();
        }
        inner.state = state;
    }

    pub(super) fn connecting(&self, reason: impl Into<String>) {
        self.set(SessionState::Connecting { reason: reason.into() });
    }

    /// A panic elsewhere can't leave this half-written, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_says_why_not() {
        let health = BrokerHealth::new();
        assert!(health.verdict().is_err_and(|why| why.contains("not connected yet")));
        for state in [SessionState::Consuming, SessionState::StandingBy] {
            health.set(state);
            assert_eq!(health.verdict(), Ok(()));
        }
        health.connecting("the queue was deleted");
        assert!(health.verdict().is_err_and(|why| why.contains("the queue was deleted")));
        health.set(SessionState::Yielded { reason: "the store is away".into() });
        assert!(health.verdict().is_err_and(|why| why.contains("the store is away")));
        health.set(SessionState::Blocked { reason: "low on memory".into() });
        health.set(SessionState::Consuming);
        assert!(health.verdict().is_err_and(|why| why.contains("low on memory")), "only the broker ends it");
        health.unblocked();
        assert_eq!(health.state(), SessionState::Consuming);
        health.set(SessionState::StandingBy);
        health.set(SessionState::Blocked { reason: "low on memory".into() });
        health.unblocked();
        assert_eq!(health.state(), SessionState::StandingBy, "what it was before");
        health.set(SessionState::Blocked { reason: "low on memory".into() });
        health.connecting("the connection is closed");
        health.set(SessionState::Consuming);
        assert_eq!(health.verdict(), Ok(()), "another session is not blocked");
    }
}
