//! What is told straight from intake: kept apart until the journal has it, since it goes with the process.

use hipchat_notifier::adapters::store::handing::told_alone;
use hipchat_notifier::domain::ids::{EventId, RoomKey};
use hipchat_notifier::domain::line::RoomLine;
use hipchat_notifier::ports::{DecidedEvent, InHand, Settlement};
use jiff::Timestamp;

use super::{Believes, Faults, History, Ledger, Pair, Registry, State, StreakKey, Verdict, differs};

/// In microseconds: what has no outcome after a quarter of a second is written down, and a call takes some milliseconds.
const LONGEST_FLIGHT: i64 = 300_000;

/// What intake handed out of one batch.
pub struct Handed<'a> {
    pub life: usize,
    pub lines: &'a [RoomLine],
    pub batch: Option<InHand>,
    /// When the worker began with the batch: its leases last from then on.
    pub asked: Timestamp,
    pub now: Timestamp,
    /// In microseconds since the beginning.
    pub elapsed: i64,
}

/// A notification on its way to its room of which nothing is written.
pub(super) struct Flight {
    event: DecidedEvent,
    verdict: Verdict,
    /// As it is if this lands.
    history: Option<(StreakKey, History)>,
    seq: i64,
    batch: Option<InHand>,
    since: i64,
    disturbed: u64,
}

impl Ledger {
    /// A room is told before anything is written.
    pub(super) fn handed_out(
        &mut self,
        event: &DecidedEvent,
        snapshot: &Registry,
        (handed, line): (&Handed<'_>, &RoomLine),
        faults: &mut Faults,
    ) {
        let (id, room) = (event.id.as_str(), &line.room);
        let ([new], Some((_, means))) = (&event.notifications[..], self.events.get(id).cloned()) else {
            return faults.push(format!("{id} is told straight, and is not for one alone"));
        };
        let pair = (event.id.clone(), new.integration.clone());
        if self.known.contains(&event.id) || self.flights.contains_key(&pair) {
            return faults.push(format!("{id} was taken in twice"));
        }
        if self.notes.values().any(|note| note.room == *room && note.state == State::Waits) {
            faults.push(format!("{id} is told straight, past what waits in {room}"));
        }
        if let Some(held_for) = self.is_still_held(room, handed.now) {
            faults.push(format!("{id} is told straight in {room}, which was held for {held_for} us"));
        }
        self.is_for_all_who_want_it(event, &means, snapshot, faults);
        let Some(kept) = snapshot.get(&new.integration) else { return };
        // The rules' histories stay as they are until it is written.
        let (histories, repeats) = (self.histories.clone(), self.repeats.clone());
        let (verdict, streak) = self.verdict(&means, kept, event.received.at);
        let history = streak.and_then(|key| Some((key.clone(), *self.histories.get(&key)?)));
        (self.histories, self.repeats) = (histories, repeats);
        if let Some(says) = differs(&new.fate, verdict) {
            faults.push(format!("{id} for {}: {says}, by the rules {verdict:?}", new.integration));
        }
        let seq = line.waiting[0].seq;
        self.seqs.insert(seq, pair.clone());
        self.held(handed.life, line, handed.asked);
        let (batch, since, disturbed) = (handed.batch, handed.elapsed, self.disturbed);
        self.flights
            .insert(pair, Flight { event: event.clone(), verdict, history, seq, batch, since, disturbed });
    }

    /// What is told straight and not known to be written.
    pub fn flying(&self) -> Vec<Pair> {
        self.flights.keys().cloned().collect()
    }

    pub fn is_flying(&self, batch: InHand) -> bool {
        self.flights.values().any(|flight| flight.batch == Some(batch))
    }

    /// Those of `ids` that are being told, and would be lost with the process.
    pub fn told_and_unwritten(&self, ids: &[String]) -> Vec<EventId> {
        let events = self.flights.keys().map(|(event, _)| event);
        events.filter(|event| ids.iter().any(|id| id == event.as_str())).cloned().collect()
    }

    /// It is written: with its outcome, if `settlement` says that and no more, or else as what waits by now.
    pub fn landed(&mut self, pair: &Pair, settlement: Option<&Settlement>, elapsed: i64) -> Faults {
        let mut faults = Faults::new();
        let Some(Flight { event, verdict, history, seq, since, disturbed, .. }) = self.flights.remove(pair)
        else {
            return faults;
        };
        let id = event.id.as_str();
        if !self.known.insert(event.id.clone()) {
            faults.push(format!("{id} was taken in twice"));
        }
        if let Some((n, _)) = self.events.get(id).cloned() {
            self.is_in_order(&event, n, &mut faults);
        }
        let took = elapsed - since;
        if took > LONGEST_FLIGHT && disturbed == self.disturbed {
            faults.push(format!("{id} was not written for {took} us while its room was told"));
        }
        let new = &event.notifications[0];
        let room = self.registry.get(&new.integration).map(|kept| RoomKey::new(kept.wish.room_key()));
        let streak = history.map(|(key, mut history)| {
            if room.as_ref() != Some(&new.room) && history.believes == Believes::Failing {
                history.believes = Believes::Unsure;
            }
            if room.is_some() {
                self.histories.insert(key.clone(), history);
            }
            key
        });
        let mut untold = Vec::new();
        let told = settlement.is_some_and(|s| s.room == new.room && told_alone(s, seq).is_some());
        self.enter(&event, new, verdict, streak, &mut untold);
        if let Some(note) = self.notes.get_mut(pair) {
            note.seq = Some(seq);
            if told {
                // Whatever became of its integration meanwhile.
                (note.state, note.room) = (State::Waits, new.room.clone());
                if let Some(history) = note.streak.as_ref().and_then(|key| self.histories.get_mut(key)) {
                    history.news = note.order;
                }
            }
        }
        for key in untold.iter().filter(|_| !told) {
            self.doubt(key, u64::MAX);
        }
        faults
    }
}
