//! From the outbox of letters to the dead-letter queue: published, confirmed, and only then forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::lines::{Lines, Untold};
use crate::domain::reason::{DeadLetterReason, Outcome};
use crate::metrics::Metrics;
use crate::ports::{BrokerError, Clock, Letter, LetterBox, Store, StoreError};
use crate::worker::trouble::Trouble;
use crate::worker::wake::{Bell, Stop};

/// Letters published in one round: enough to be quick, few enough that a broken round repeats little and that
/// their bodies, which may be large, fit into memory together.
const ROUND: usize = 32;

/// The pause between two looks when no bell rings: letters that another process left.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Buries letters.
pub struct Burial {
    pub store: Arc<dyn Store>,
    pub letter_box: Arc<dyn LetterBox>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// With the dead-letter queue.
    pub trouble: Arc<Trouble>,
    /// With the store, when letters are read from its outbox or let go.
    pub outbox: Arc<Trouble>,
    pub wake: Arc<Bell>,
}

impl Burial {
    /// Buries until stopped. What is left then is in the outbox still, and buried after the next start; what the
    /// broker has by then is let go first, however long the store takes.
    pub async fn run(self, mut stop: Stop) {
        let mut owed = Owed::default();
        while !stop.is_set() {
            match self.step(&mut owed).await {
                // A round may be short because its letters are large.
                Ok(1..) => {}
                Ok(0) => {
                    tokio::select! {
                        biased;
                        () = stop.wait() => {}
                        () = self.wake.wait(LOOK_EVERY) => {}
                    }
                }
                Err(_) => {
                    tokio::select! {
                        biased;
                        () = stop.wait() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
            }
        }
        // What the broker has confirmed would be published once more after the next start.
        while let Err(error) = self.let_go(&mut owed).await {
            self.outbox.failed("note what was dead-lettered", &error);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        owed.lines.iter_mut().for_each(|(reason, lines)| say_untold(*reason, lines.end()));
        self.letter_box.close().await;
    }

    /// One round. Returns how many letters the store has let go. While it `owed` some before, these come first
    /// and alone: what the broker has confirmed is not published again, however long the store takes.
    ///
    /// # Errors
    /// What went wrong, which is told already.
    pub async fn step(&self, owed: &mut Owed) -> Result<usize, Fault> {
        let done = self.round(owed).await;
        match &done {
            Ok(_) => {
                self.outbox.worked();
                self.trouble.worked();
            }
            Err(Fault::Store(error)) => self.outbox.failed("go on with dead letters", error),
            Err(Fault::Queue(error)) => {
                self.outbox.worked();
                self.trouble.failed("bury dead letters", error);
            }
        }
        done
    }

    async fn round(&self, owed: &mut Owed) -> Result<usize, Fault> {
        let mut failed = None;
        let now = self.clock.now();
        owed.lines.iter_mut().for_each(|(reason, lines)| say_untold(*reason, lines.ended(now)));
        if owed.letters.is_empty() {
            let letters = self.store.letters(ROUND).await?;
            if !letters.is_empty() {
                let buried = self.letter_box.bury(&letters).await;
                let confirmed = letters.into_iter().filter(|letter| buried.confirmed.contains(&letter.id));
                owed.letters = confirmed.map(Confirmed::from).collect();
                failed = buried.failed;
            }
        }
        let count = self.let_go(owed).await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(count),
        }
    }

    /// Lets the store know of what the broker has confirmed.
    async fn let_go(&self, owed: &mut Owed) -> Result<usize, StoreError> {
        if owed.letters.is_empty() {
            return Ok(0);
        }
        let ids: Vec<i64> = owed.letters.iter().map(|letter| letter.id).collect();
        let now = self.clock.now();
        self.store.buried(&ids, now).await?;
        let Owed { letters, lines } = owed;
        for letter in letters.drain(..) {
            self.metrics.dead_letter(letter.reason);
            if letter.integration.is_some() {
                self.metrics.notification(Outcome::DeadLettered, letter.reason.as_str());
            }
            if lines.entry(letter.reason).or_default().admit(now) {
                tracing::warn!(
                    event_id = letter.event.as_ref().map(EventId::as_str),
                    integration_id = letter.integration.as_ref().map(IntegrationId::as_str),
                    routing_key = letter.routing_key,
                    reason = letter.reason.as_str(),
                    "dead-lettered: {}",
                    letter.detail
                );
            }
        }
        Ok(ids.len())
    }
}

/// Why a round was not done: by the store, or by the dead-letter queue.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] BrokerError),
}

/// What is said of the lines that a flood kept out of the log.
fn say_untold(reason: DeadLetterReason, untold: Option<Untold>) {
    if let Some(Untold { count, since }) = untold {
        tracing::warn!(
            reason = reason.as_str(), %since,
            "{count} more were dead-lettered and not told here; dead-letters list shows them"
        );
    }
}

/// What burial remembers from round to round.
#[derive(Debug, Default)]
pub struct Owed {
    /// Letters that the broker has confirmed and the store still holds. Lost when the worker ends: then they are
    /// published once more.
    letters: Vec<Confirmed>,
    /// The log lines about letters, by reason: a flood of one kind hides no other.
    lines: BTreeMap<DeadLetterReason, Lines>,
}

/// What is still to be told of a letter; not its body.
#[derive(Debug)]
struct Confirmed {
    id: i64,
    reason: DeadLetterReason,
    detail: String,
    routing_key: String,
    event: Option<EventId>,
    integration: Option<IntegrationId>,
}

impl From<Letter> for Confirmed {
    fn from(letter: Letter) -> Self {
        let Letter { id, reason, detail, event, integration, envelope, .. } = letter;
        Self { id, reason, detail, routing_key: envelope.routing_key, event, integration }
    }
}
