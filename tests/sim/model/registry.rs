//! The integrations, and what a change of one means for what waits.

use std::collections::{BTreeMap, HashSet};

use hipchat_notifier::domain::ids::{IntegrationId, RoomKey};
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::domain::reason::{Belief, SuppressReason};
use hipchat_notifier::ports::{Applied, Definition, ManagedBy, StoreError, Stored};
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::{KeptIntegration, Tables, refused};

impl Tables {
    pub(super) fn list(&self) -> Vec<Stored> {
        let mut pending: BTreeMap<&IntegrationId, u64> = BTreeMap::new();
        for note in self.notes.values().filter(|note| note.state.is_open()) {
            *pending.entry(&note.integration).or_default() += 1;
        }
        let stored = |kept: &KeptIntegration| Stored {
            definition: kept.definition.clone(),
            managed_by: kept.managed_by,
            state: match (kept.definition.paused, &kept.suspended) {
                (true, _) => IntegrationState::Paused,
                (false, Some(reason)) => IntegrationState::Suspended { reason: reason.clone() },
                (false, None) => IntegrationState::Active,
            },
            pending: pending.get(&kept.definition.id).copied().unwrap_or(0),
            unreadable: None,
        };
        self.integrations.values().map(stored).collect()
    }

    pub(super) fn apply(
        &mut self,
        definitions: Vec<Definition>,
        by: ManagedBy,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        let mut ids = HashSet::new();
        for definition in &definitions {
            let id = &definition.id;
            if !ids.insert(id.clone()) {
                return refused(format!("integration {id} is defined twice: an id names one integration"));
            }
            let kept = self.integrations.get(id);
            if by == ManagedBy::Operator && kept.is_some_and(|kept| kept.managed_by == ManagedBy::File) {
                return refused(by_file(id));
            }
        }
        let mut applied = Applied::default();
        for definition in definitions {
            let id = definition.id.clone();
            if self.integrations.get(&id).is_some_and(|kept| kept.managed_by != by) {
                applied.taken_over.push(id.clone());
            }
            match self.change(definition, by, now) {
                Change::Added => applied.changes.added.push(id),
                Change::Changed => applied.changes.changed.push(id),
                Change::None => applied.unchanged += 1,
            }
        }
        if by == ManagedBy::File {
            let gone = |(id, kept): (&IntegrationId, &KeptIntegration)| {
                (kept.managed_by == ManagedBy::File && !ids.contains(id)).then(|| id.clone())
            };
            let gone: Vec<IntegrationId> = self.integrations.iter().filter_map(gone).collect();
            for id in gone {
                self.delete(&id, now);
                applied.changes.removed.push(id);
            }
        }
        if !applied.changes.is_empty() {
            self.revision += 1;
        }
        Ok(applied)
    }

    /// Takes over one definition. Its revision is the one that the whole change will have.
    fn change(&mut self, new: Definition, by: ManagedBy, now: Timestamp) -> Change {
        let url_revision = self.revision + 1;
        let Some(old) = self.integrations.get(&new.id) else {
            let id = new.id.clone();
            let kept = KeptIntegration { definition: new, suspended: None, managed_by: by, url_revision };
            self.integrations.insert(id, kept);
            return Change::Added;
        };
        let before = old.definition.clone();
        let moved = before.room != new.room;
        let same_url = before.room_url.expose_secret() == new.room_url.expose_secret();
        let url = moved || !same_url || before.token != new.token;
        if !url && before.json == new.json && before.paused == new.paused && old.managed_by == by {
            return Change::None;
        }
        let newly_paused = new.paused && !before.paused;
        let heard_again = moved || ((before.paused || (old.suspended.is_some() && url)) && !new.paused);
        let (id, room) = (new.id.clone(), new.room.clone());
        let kept = KeptIntegration {
            suspended: old.suspended.clone().filter(|_| !url),
            url_revision: if url { url_revision } else { old.url_revision },
            managed_by: by,
            definition: new,
        };
        self.integrations.insert(id.clone(), kept);
        if newly_paused {
            self.paused(&id, now);
        }
        if moved {
            self.move_line(&id, &room);
        }
        if self.throttles.get_mut(&id).is_some_and(|throttled| throttled.closed_until.take().is_some()) {
            self.wake_room(&room, now.as_microsecond());
        }
        if url || newly_paused {
            self.look_again(&before.room, now);
            self.look_again(&room, now);
        }
        if heard_again {
            self.retell_failing(&id);
        }
        Change::Changed
    }

    fn move_line(&mut self, id: &IntegrationId, room: &RoomKey) {
        for seq in self.waiting_of(id) {
            let Some(note) = self.notes.get_mut(&seq) else { continue };
            let old = std::mem::replace(&mut note.room, room.clone());
            let ready_at = note.ready_at.as_microsecond();
            if let Some(line) = self.lines.get_mut(&old) {
                line.remove(&seq);
            }
            self.lines.entry(room.clone()).or_default().insert(seq);
            self.wake_room(room, ready_at);
        }
    }

    fn look_again(&mut self, room: &RoomKey, now: Timestamp) {
        if let Some(room) = self.rooms.get_mut(room).filter(|room| room.lease_until.is_none()) {
            room.due_at = room.due_at.map(|due| due.min(now.as_microsecond()));
            room.hold_until = None;
        }
    }

    fn paused(&mut self, id: &IntegrationId, now: Timestamp) {
        if !self.flaws.pause_keeps_line {
            self.suppress_waiting(
                id,
                SuppressReason::Paused,
                "the integration was paused while this waited",
                now,
            );
        }
    }

    fn delete(&mut self, id: &IntegrationId, now: Timestamp) {
        self.suppress_waiting(
            id,
            SuppressReason::Removed,
            "the integration was removed while this waited",
            now,
        );
        if let Some(kept) = self.integrations.remove(id) {
            self.look_again(&kept.definition.room, now);
        }
        self.streaks.retain(|(of, ..), _| of != id);
        self.collations.retain(|(of, _), _| of != id);
        self.throttles.remove(id);
    }

    pub(super) fn release(&mut self) -> Vec<IntegrationId> {
        let mut released = Vec::new();
        for (id, kept) in self.integrations.iter_mut().filter(|(_, kept)| kept.managed_by == ManagedBy::File)
        {
            kept.managed_by = ManagedBy::Operator;
            released.push(id.clone());
        }
        self.revision += u64::from(!released.is_empty());
        released
    }

    /// What a worker asks for at its start: its budgets may be others than those that sent rooms to rest.
    pub(super) fn look_again_at_all(&mut self, now: Timestamp) {
        let now = now.as_microsecond();
        for room in self.rooms.values_mut().filter(|room| {
            room.hold_until.is_some_and(|hold| hold > now)
                && room.lease_until.is_none()
                && room.state.retry.is_none()
        }) {
            room.due_at = room.due_at.map(|due| due.min(now));
            room.hold_until = None;
        }
    }

    fn own(&mut self, id: &IntegrationId) -> Result<&mut KeptIntegration, StoreError> {
        match self.integrations.get_mut(id) {
            None => refused(unknown(id)),
            Some(kept) if kept.managed_by == ManagedBy::File => refused(by_file(id)),
            Some(kept) => Ok(kept),
        }
    }

    pub(super) fn remove(&mut self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        self.own(id)?;
        self.delete(id, now);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn pause(&mut self, id: &IntegrationId, now: Timestamp) -> Result<(), StoreError> {
        let kept = self.own(id)?;
        if kept.definition.paused {
            return Ok(());
        }
        kept.definition.paused = true;
        let room = kept.definition.room.clone();
        self.paused(id, now);
        self.look_again(&room, now);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn resume(&mut self, id: &IntegrationId) -> Result<(), StoreError> {
        let Some(kept) = self.integrations.get_mut(id) else { return refused(unknown(id)) };
        let by_file = kept.managed_by == ManagedBy::File;
        if by_file && kept.definition.paused && kept.suspended.is_none() {
            return refused(format!("integration {id} is paused in integrations.file: change it there"));
        }
        if !kept.definition.paused && kept.suspended.is_none() {
            return Ok(());
        }
        kept.suspended = None;
        kept.definition.paused &= by_file;
        self.retell_failing(id);
        self.revision += 1;
        Ok(())
    }

    fn retell_failing(&mut self, id: &IntegrationId) {
        let of_it = self.streaks.iter_mut().filter(|((of, ..), _)| of == id);
        for (_, kept) in of_it {
            if kept.streak.failures > 0 && kept.streak.belief != Belief::Passing {
                kept.streak.belief = Belief::Unsure;
            }
        }
    }
}

enum Change {
    Added,
    Changed,
    None,
}

fn by_file(id: &IntegrationId) -> String {
    format!("integration {id} is managed by integrations.file: change it there")
}

fn unknown(id: &IntegrationId) -> String {
    format!("there is no integration {id}: `integrations list` shows those that are")
}
