//! What a step's transitions do to a line that is held, so that its holder can go on without asking the store.

use std::collections::HashSet;

use super::line::{RoomLine, Transition};

impl RoomLine {
    /// Brings the held line up to date with `transitions`, as the store does with what it keeps: what has ended
    /// leaves, what was tried in vain stays with its attempt counted, and what expired is noted for the next
    /// message.
    pub fn apply(&mut self, transitions: &[Transition]) {
        for transition in transitions {
            match transition {
                Transition::Attempted { seqs, at, detail, plain_next, .. } => {
                    for w in self.waiting.iter_mut().filter(|w| seqs.contains(&w.seq)) {
                        w.attempts = w.attempts.saturating_add(1);
                        w.first_attempt_at.get_or_insert(*at);
                        w.last_answer.clone_from(detail);
                        w.plain = *plain_next;
                    }
                }
                Transition::Broken { integration, .. } => {
                    self.waiting.retain(|w| w.integration != *integration)
                }
                ended => {
                    if let Transition::Expired { seqs, .. } = ended {
                        let expired = u32::try_from(seqs.len()).unwrap_or(u32::MAX);
                        self.state.expired_untold = self.state.expired_untold.saturating_add(expired);
                    }
                    let ended: HashSet<i64> = ended.seqs().iter().copied().collect();
                    self.waiting.retain(|w| !ended.contains(&w.seq));
                }
            }
        }
    }
}
