//! Keeps a session for taking in events, for as long as the worker runs: whatever ends one, the next follows.
//! One log line a session's end; decides nothing about events.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::health::{BrokerHealth, SessionState};
use super::options::BrokerOptions;
use super::session::{End, Session, Terms, stopped};
use crate::adapters::reconnect::Reconnect;
use crate::ports::{BrokerError, Clock, TakeIn};

/// What is wrong with the configuration of a running broker is for a person to mend: no hurry.
const MISCONFIGURED: Duration = Duration::from_secs(30);
/// A session that has lived so long was a good one, and the next is waited for as if it were the first.
const STEADY: Duration = Duration::from_secs(10);
/// An outage is told when it begins, and then once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Takes in until `shutdown` turns true: then what the intake has is finished and acknowledged, and the rest given
/// back. A broker that is away is waited for.
///
/// # Errors
/// [`BrokerError::Misconfigured`] if no session was had yet; later the same is logged, and tried again slowly.
pub async fn consume(
    options: BrokerOptions,
    intake: Arc<dyn TakeIn>,
    clock: Arc<dyn Clock>,
    health: Arc<BrokerHealth>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let mut sessions = Sessions::new();
    let mut turn = 0;
    while !*shutdown.borrow() {
        let Some(address) = options.addresses.get(turn % options.addresses.len().max(1)) else {
            return Err(BrokerError::Misconfigured("amqp.url names no broker".into()));
        };
        turn += 1;
        let terms = Terms { options: &options, address, intake: &intake, clock: &clock, health: &health };
        let opened = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            opened = Session::open(terms) => opened,
        };
        let wait = match opened {
            Ok(mut session) => {
                sessions.opened(&address.to_string(), session.stands_by);
                let end = session.run(&mut shutdown).await;
                match &end {
                    End::Shutdown => {}
                    End::Lost(why) => health.connecting(why.as_str()),
                    End::Yielded(reason) => health.set(SessionState::Yielded { reason: reason.clone() }),
                }
                session.close().await;
                match end {
                    End::Shutdown => break,
                    End::Lost(why) => sessions.lost(&why),
                    End::Yielded(why) => {
                        let wait = sessions.yielded(&why);
                        tokio::select! {
                            () = stopped(&mut shutdown) => break,
                            () = intake.able() => wait,
                        }
                    }
                }
            }
            Err(error) => {
                let error = address.redact_error(error);
                health.connecting(error.to_string());
                sessions.refused(error)?
            }
        };
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    health.set(SessionState::Stopped);
    Ok(())
}

/// What was had, and what was said of it.
struct Sessions {
    reconnect: Reconnect,
    had_one: bool,
    /// When the latest one began.
    opened_at: Option<Instant>,
    told: Option<Instant>,
    untold: u32,
}

impl Sessions {
    fn new() -> Self {
        Self { reconnect: Reconnect::new(), had_one: false, opened_at: None, told: None, untold: 0 }
    }

    fn opened(&mut self, address: &str, stands_by: bool) {
        if stands_by {
            tracing::info!(broker = address, "standing by: another worker takes in events from RabbitMQ");
        } else {
            tracing::info!(broker = address, "taking in events from RabbitMQ");
        }
        self.had_one = true;
        self.told = None;
        self.untold = 0;
        self.opened_at = Some(Instant::now());
    }

    fn lost(&mut self, why: &str) -> Duration {
        // One that ends as soon as it has begun is no reason to hurry: whatever ended it may do so again.
        if self.opened_at.is_some_and(|opened| opened.elapsed() >= STEADY) {
            self.reconnect.reset();
        }
        let wait = self.reconnect.next_delay();
        tracing::warn!(
            wait_ms = wait.as_millis() as u64,
            "the session with RabbitMQ ended: {why}; connecting anew, and what was not acknowledged comes again"
        );
        wait
    }

    /// Whoever has given up its place stands at the end of the line, and is told of again when it is subscribed.
    fn yielded(&mut self, why: &str) -> Duration {
        tracing::warn!(
            "giving up the place as the queue's consumer: {why}; another worker goes on if there is one, and this \
             one subscribes again when its store takes events in"
        );
        self.reconnect.reset();
        self.reconnect.next_delay()
    }

    /// A session that did not come about: how long to wait, or the error if it is not to be waited for.
    fn refused(&mut self, error: BrokerError) -> Result<Duration, BrokerError> {
        let wait = match &error {
            BrokerError::Misconfigured(_) if !self.had_one => return Err(error),
            BrokerError::Misconfigured(_) => MISCONFIGURED,
            BrokerError::Unavailable(_) => self.reconnect.next_delay(),
        };
        if self.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            self.untold += 1;
            return Ok(wait);
        }
        let untold = Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0);
        self.told = Some(Instant::now());
        match error {
            BrokerError::Misconfigured(_) => {
                tracing::error!(untold, "{error}; trying again every {} s", MISCONFIGURED.as_secs());
            }
            BrokerError::Unavailable(_) => tracing::warn!(untold, "{error}; trying again"),
        }
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that is had and then lives for so long; how long the next is waited for.
    async fn live(sessions: &mut Sessions, life: Duration) -> Duration {
        sessions.opened("amqp://broker", false);
        tokio::time::advance(life).await;
        sessions.lost("it ended")
    }

    /// The longest that the first wait may be, and the shortest that the longest may be, with their jitter.
    const HURRY: Duration = Duration::from_millis(131);
    const PATIENCE: Duration = Duration::from_millis(3_400);

    #[tokio::test(start_paused = true)]
    async fn sessions_that_end_soon_are_waited_for_longer_and_longer_until_one_lasts() {
        let mut sessions = Sessions::new();
        let almost = STEADY - Duration::from_millis(1);
        assert!(live(&mut sessions, Duration::ZERO).await <= HURRY);
        for _ in 0..20 {
            live(&mut sessions, almost).await;
        }
        assert!(live(&mut sessions, almost).await >= PATIENCE);
        assert!(live(&mut sessions, STEADY).await <= HURRY, "whatever ended it was something new");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_after_a_steady_session_begins_with_short_waits() {
        let mut sessions = Sessions::new();
        let refused = |sessions: &mut Sessions| sessions.refused(BrokerError::Unavailable("gone".into()));
        for _ in 0..20 {
            refused(&mut sessions).unwrap();
        }
        assert!(refused(&mut sessions).unwrap() >= PATIENCE);
        assert!(live(&mut sessions, STEADY).await <= HURRY);
        assert!(refused(&mut sessions).unwrap() <= 2 * HURRY, "the second of the outage");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_at_its_begin_and_then_now_and_again() {
        let mut sessions = Sessions::new();
        for untold in [0, 1, 2] {
            sessions.refused(BrokerError::Unavailable("gone".into())).unwrap();
            assert_eq!(sessions.untold, untold);
        }
        tokio::time::advance(TELL_AGAIN).await;
        sessions.refused(BrokerError::Unavailable("gone".into())).unwrap();
        assert_eq!(sessions.untold, 0, "told, with how often it was not");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_misconfigured_ends_the_start_and_later_only_slows_down() {
        let misconfigured = || BrokerError::Misconfigured("another queue stands there".into());
        let mut sessions = Sessions::new();
        assert!(sessions.refused(misconfigured()).is_err());
        live(&mut sessions, STEADY).await;
        assert_eq!(sessions.refused(misconfigured()).unwrap(), MISCONFIGURED);
    }
}
