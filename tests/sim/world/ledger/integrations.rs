//! The integrations, as operators change them and as each life knows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hipchat_notifier::domain::ids::{IntegrationId, RoomKey};

use super::{Believes, Ledger, Means, Note, Pair, State, Wish};
use crate::world::wishes::Interest;

/// An integration as it stands.
#[derive(Debug, Clone)]
pub struct Kept {
    pub wish: Wish,
    pub suspended: bool,
    pub(super) url_revision: u64,
}

/// All of them at one moment.
pub type Registry = Arc<BTreeMap<IntegrationId, Kept>>;

impl Ledger {
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A life knows the integrations as they were at some moment.
    pub fn snapshot_of(&mut self, life: usize, registry: Registry) {
        self.snapshots.insert(life, registry);
    }

    /// A life has a new batch in hand.
    pub fn batch_received(&mut self, life: usize) {
        self.batch.remove(&life);
    }

    /// It has read it, by the integrations that it knew then.
    pub fn batch_begun(&mut self, life: usize) -> Registry {
        let known = self.snapshots.get(&life).cloned().unwrap_or_default();
        self.batch.entry(life).or_insert(known).clone()
    }

    pub fn applied(&mut self, new: Wish) {
        let id = IntegrationId::new(&new.id);
        let next = self.revision + 1;
        let registry = Arc::make_mut(&mut self.registry);
        let Some(old) = registry.get_mut(&id) else {
            registry.insert(id.clone(), Kept { wish: new, suspended: false, url_revision: next });
            self.revision = next;
            if !self.events.is_empty() {
                self.touched.insert(id);
            }
            return;
        };
        self.touched.insert(id.clone());
        let before = std::mem::replace(&mut old.wish, new.clone());
        if before == new {
            return;
        }
        let moved = before.room != new.room;
        let url = moved || before.token != new.token;
        let was_suspended = old.suspended;
        if url {
            old.suspended = false;
            old.url_revision = next;
        }
        self.revision = next;
        if new.paused && !before.paused {
            self.silence(&id, "integration-paused");
        }
        if moved {
            *self.moves.entry(id.clone()).or_default() += 1;
            let room = RoomKey::new(new.room_key());
            for pair in self.waiting_of(&id) {
                if let Some(note) = self.notes.get_mut(&pair) {
                    note.room = room.clone();
                }
            }
        }
        if moved || ((before.paused || (was_suspended && url)) && !new.paused) {
            self.hears_again(&id);
        }
    }

    fn silence(&mut self, id: &IntegrationId, reason: &str) {
        for pair in self.waiting_of(id) {
            self.lose(&pair, State::Ended { outcome: "suppressed", reason: reason.to_owned() });
        }
    }

    fn hears_again(&mut self, id: &IntegrationId) {
        for (_, history) in self.histories.iter_mut().filter(|((of, ..), _)| of == id) {
            if history.failed_in_a_row > 0 && history.believes != Believes::Passing {
                history.believes = Believes::Unsure;
            }
        }
    }

    pub(super) fn waiting_of(&self, id: &IntegrationId) -> Vec<Pair> {
        let waits = |(pair, note): &(&Pair, &Note)| pair.1 == *id && note.state == State::Waits;
        let mut found: Vec<(u64, Pair)> =
            self.notes.iter().filter(waits).map(|(pair, note)| (note.order, pair.clone())).collect();
        found.sort();
        found.into_iter().map(|(_, pair)| pair).collect()
    }

    pub fn pause(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        let Some(kept) = Arc::make_mut(&mut self.registry).get_mut(id) else { return };
        if !std::mem::replace(&mut kept.wish.paused, true) {
            self.revision += 1;
            self.silence(id, "integration-paused");
        }
    }

    pub fn resume(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        let Some(kept) = Arc::make_mut(&mut self.registry).get_mut(id) else { return };
        if kept.wish.paused || kept.suspended {
            (kept.wish.paused, kept.suspended) = (false, false);
            self.revision += 1;
            self.hears_again(id);
        }
    }

    pub fn removed(&mut self, id: &IntegrationId) {
        self.touched.insert(id.clone());
        self.silence(id, "integration-removed");
        Arc::make_mut(&mut self.registry).remove(id);
        self.revision += 1;
        self.histories.retain(|(of, ..), _| of != id);
        self.repeats.retain(|(of, ..), _| of != id);
    }
}

/// Whether an integration wants to hear of such an event at all.
pub fn wants(wish: &Wish, means: &Means) -> bool {
    match means {
        Means::Run { monitor, .. } => wish.interest.wants_run(monitor),
        Means::Activity { .. } => !matches!(wish.interest, Interest::Runs { .. }),
        Means::Malformed => false,
    }
}
