//! From the outbox of letters to the dead-letter queue: published, confirmed, and only then forgotten.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::reason::Outcome;
use crate::metrics::Metrics;
use crate::ports::{Clock, LetterBox, Store};
use crate::worker::trouble::Trouble;
use crate::worker::wake::{Bell, Stop};

/// Letters published in one round: enough to be quick, few enough that a broken round repeats little.
const ROUND: usize = 200;

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
    pub wake: Arc<Bell>,
}

impl Burial {
    /// Buries until stopped. What is left then is in the outbox still, and buried after the next start.
    pub async fn run(self, mut stop: Stop) {
        while !stop.is_set() {
            match self.step().await {
                // A round may be short because its letters are large.
                Ok(1..) => {}
                Ok(0) => {
                    tokio::select! {
                        () = self.wake.wait(LOOK_EVERY) => {}
                        () = stop.wait() => {}
                    }
                }
                Err(error) => {
                    self.trouble.failed("bury dead letters", &error);
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                        () = stop.wait() => {}
                    }
                }
            }
        }
    }

    /// One round. Returns how many letters are in the queue now that were not before.
    pub async fn step(&self) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let letters = self.store.letters(ROUND).await?;
        if letters.is_empty() {
            return Ok(0);
        }
        self.letter_box.bury(&letters).await?;
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        self.store.buried(&ids, self.clock.now()).await?;
        self.trouble.worked();
        for letter in &letters {
            self.metrics.dead_letter(letter.reason);
            if letter.integration.is_some() {
                self.metrics.notification(Outcome::DeadLettered, letter.reason.as_str());
            }
            tracing::warn!(
                event_id = letter.event.as_ref().map(EventId::as_str),
                integration_id = letter.integration.as_ref().map(IntegrationId::as_str),
                reason = letter.reason.as_str(),
                "dead-lettered: {}",
                letter.detail
            );
        }
        Ok(letters.len())
    }
}
