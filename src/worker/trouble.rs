//! An outage of something the worker needs: told when it begins, now and then while it lasts, and when it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::pacing::later;
use crate::ports::{Clock, Readiness};

/// A lasting outage is told again in this time; in between, repetitions of it say nothing new.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Whether one needed thing is in trouble. Shared by all parts that use it.
pub struct Trouble {
    /// `the store`, `the dead-letter queue`.
    with: &'static str,
    clock: Arc<dyn Clock>,
    lasting: Mutex<Option<Lasting>>,
}

/// A trouble that has not ended.
struct Lasting {
    since: Timestamp,
    told_at: Timestamp,
    line: String,
}

impl Trouble {
    /// No trouble yet.
    pub fn new(with: &'static str, clock: Arc<dyn Clock>) -> Self {
        Self { with, clock, lasting: Mutex::default() }
    }

    /// Something failed: `doing` says what could not be done, for the log.
    pub fn failed(&self, doing: &str, error: &dyn std::fmt::Display) {
        let now = self.clock.now();
        let line = error.to_string();
        let mut lasting = self.lock();
        let (since, told_at) = lasting.as_ref().map_or((now, None), |l| (l.since, Some(l.told_at)));
        let tell = told_at.is_none_or(|told_at| later(told_at, TELL_AGAIN) <= now);
        if tell {
            tracing::error!(%since, "{}: can't {doing}: {line}; trying again until it works", self.with);
        }
        *lasting = Some(Lasting { since, told_at: if tell { now } else { told_at.unwrap_or(now) }, line });
    }

    /// Something worked, so the trouble is over if there was one.
    pub fn worked(&self) {
        if let Some(over) = self.lock().take() {
            tracing::info!(since = %over.since, "{} works again", self.with);
        }
    }

    /// Whether something failed, and nothing has worked since.
    pub fn lasts(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lasting>> {
        // Whoever panicked held a whole value: it is replaced in one assignment.
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Readiness for Trouble {
    async fn ready(&self) -> Result<(), String> {
        match &*self.lock() {
            None => Ok(()),
            Some(lasting) => Err(format!("{}: {} (since {:.0})", self.with, lasting.line, lasting.since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    #[tokio::test]
    async fn it_is_not_ready_from_the_first_failure_until_something_works() {
        let trouble = Trouble::new("the store", Arc::new(Stopped));
        assert_eq!(trouble.ready().await, Ok(()));
        trouble.failed("take events in", &"disk full");
        trouble.failed("claim rooms", &"disk is still full");
        assert_eq!(
            trouble.ready().await,
            Err("the store: disk is still full (since 1970-01-01T00:00:00Z)".to_owned())
        );
        trouble.worked();
        assert_eq!(trouble.ready().await, Ok(()));
    }

    struct Moved(std::sync::atomic::AtomicI64);

    impl Clock for Moved {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(std::sync::atomic::Ordering::SeqCst)).unwrap()
        }
    }

    #[test]
    fn it_is_told_when_it_begins_and_now_and_then() {
        let clock = Arc::new(Moved(0.into()));
        let trouble = Trouble::new("the store", clock.clone());
        let told = (0..=61).filter(|second| {
            clock.0.store(*second, std::sync::atomic::Ordering::SeqCst);
            trouble.failed("take events in", &"disk full");
            trouble.lock().as_ref().unwrap().told_at == clock.now()
        });
        assert_eq!(told.collect::<Vec<_>>(), [0, 30, 60]);
    }
}
