//! A letter's row as every store has it, and the letter that it makes.

use super::rows::{envelope, time};
use crate::domain::envelope::Envelope;
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::reason::DeadLetterReason;
use crate::ports::Letter;

/// A row of the outbox with its event's properties and body.
pub struct LetterRow {
    pub id: i64,
    pub properties: Option<String>,
    pub body: Option<Vec<u8>>,
    pub reason: String,
    pub detail: String,
    pub event: Option<String>,
    pub integration: Option<String>,
    pub attempts: i64,
    pub last_status: Option<i64>,
    pub first_attempt_at: Option<i64>,
    pub at: i64,
}

impl LetterRow {
    /// Reads what can be read: a letter that is damaged goes out damaged, rather than keep all others in.
    pub fn read(self) -> Letter {
        let Self { id, properties, body, mut detail, event, integration, .. } = self;
        let left = if body.is_some() { "its body alone" } else { "nothing" };
        let kept = properties.filter(|_| body.is_some()).and_then(|kept| envelope(&kept, Vec::new()));
        let mut envelope = kept.unwrap_or_else(|| {
            tracing::error!(
                letter = id,
                event_id = event,
                integration_id = integration,
                "a dead letter is damaged in the store: of its event, {left} could be read"
            );
            detail.push_str(&format!(" (damaged in the store: of the event, {left} could be read)"));
            Envelope::default()
        });
        envelope.body = body.unwrap_or_default();
        Letter {
            id,
            envelope,
            reason: DeadLetterReason::from_text(&self.reason).unwrap_or(DeadLetterReason::WorkerFault),
            detail,
            event: event.map(EventId::new),
            integration: integration.map(IntegrationId::new),
            attempts: u32::try_from(self.attempts).unwrap_or_default(),
            last_status: self.last_status.and_then(|status| u16::try_from(status).ok()),
            first_attempt_at: self.first_attempt_at.map(time),
            at: time(self.at),
        }
    }
}
