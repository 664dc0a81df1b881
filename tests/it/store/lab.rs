//! Where a store under test comes from, and short words for what the cases do with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::domain::envelope::{Envelope, Received};
use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey, TokenKey};
use hipchat_notifier::domain::pacing::Budget;
use hipchat_notifier::domain::reason::{Belief, SendReason, SuppressReason};
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::{
    ClaimTerms, DecidedEvent, Definition, Fate, InHand, IntakeChanges, IntakeQuery, IntakeReceipt,
    IntakeState, JournalEntry, ManagedBy, NewNotification, RoomLine, Settled, Settlement, Storage,
    StoreError, Stored, Straight, StreakKey, Then, Transition,
};
use jiff::Timestamp;
use secrecy::SecretString;

/// All that a store is.
pub trait AnyStore: Storage {}
impl<T: Storage> AnyStore for T {}

/// One empty store of some kind, which can be opened more than once.
#[async_trait]
pub trait Lab: Send + Sync {
    /// Opens it as the worker does. The one before must have been closed.
    async fn worker(&self) -> Result<Arc<dyn AnyStore>, StoreError>;
    /// Opens it as a verb does, beside a worker.
    async fn tool(&self) -> Result<Arc<dyn AnyStore>, StoreError>;
}

pub const LEASE: Duration = Duration::from_secs(30);

pub const TERMS: ClaimTerms = ClaimTerms {
    rooms: 64,
    retries: 64,
    line: 100,
    lease: LEASE,
    token_budget: Budget::TOKEN,
    room_budget: Budget::ROOM,
};

/// So many milliseconds after the beginning of the test's time.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_764_000_000_000 + ms).unwrap()
}

pub fn event(id: &str) -> EventId {
    EventId::new(id)
}

pub fn integration(id: &str) -> IntegrationId {
    IntegrationId::new(id)
}

pub fn room(id: &str) -> RoomKey {
    RoomKey::new(format!("https://acme.hipchat.com/v2/room/{id}"))
}

pub fn secret_url(room_id: &str, token: &str) -> SecretString {
    SecretString::from(format!("https://acme.hipchat.com/v2/room/{room_id}/notification?auth_token={token}"))
}

/// Integration `id` with room `room_id` and a token.
pub fn definition(id: &str, room_id: &str, token: &str) -> Definition {
    Definition {
        id: integration(id),
        json: format!(r#"{{"id":"{id}"}}"#),
        room_url: secret_url(room_id, token),
        room: room(room_id),
        token: TokenKey::new(format!("fingerprint-{token}")),
        paused: false,
    }
}

pub fn envelope(id: &str) -> Envelope {
    Envelope {
        body: format!("body of {id} \u{0}").into_bytes(),
        message_id: Some(id.to_owned()),
        content_type: Some("application/json".to_owned()),
        headers: [("team".to_owned(), "acme".to_owned())].into(),
        exchange: "postman.events".to_owned(),
        routing_key: "monitor.acme.1".to_owned(),
    }
}

pub fn story(failures: u32) -> Story {
    Story { reason: SendReason::Failure, failures, first_failed_at: Some(at(-5)) }
}

/// Told at once.
pub fn tell(ms: i64) -> Fate {
    Fate::Tell { story: story(1), ready_at: at(ms), gather: None }
}

pub fn passing() -> Fate {
    Fate::Suppress { reason: SuppressReason::StillPassing, detail: String::new() }
}

/// Event `id`, received at `ms`, as it is for each of some (integration, room, fate).
pub fn decided(id: &str, ms: i64, fates: &[(&str, &str, Fate)]) -> DecidedEvent {
    DecidedEvent {
        id: event(id),
        received: Arc::new(Received { envelope: envelope(id), at: at(ms) }),
        read: None,
        notifications: fates
            .iter()
            .map(|(who, room_id, fate)| NewNotification {
                integration: integration(who),
                room: room(room_id),
                fate: fate.clone(),
                streak: None,
            })
            .collect(),
    }
}

/// Event `id` for `who`, told at once, and decided by the streak of its monitor `m`.
pub fn news(id: &str, who: &str, ms: i64) -> DecidedEvent {
    let mut decided = decided(id, ms, &[(who, home(who), tell(ms))]);
    decided.notifications[0].streak = Some(streak_key(who, "m"));
    decided
}

pub fn streak_key(who: &str, monitor: &str) -> StreakKey {
    StreakKey { integration: integration(who), monitor_uid: monitor.into(), region: "eu".into() }
}

/// A batch that was taken in, and what of it was handed out.
pub struct Taken {
    pub lines: Vec<RoomLine>,
    pub in_hand: Option<InHand>,
}

impl Taken {
    /// The only room that was handed out.
    pub fn line(&self) -> &RoomLine {
        assert_eq!(self.lines.len(), 1, "{:?}", self.lines);
        &self.lines[0]
    }
}

/// A store with short words.
#[derive(Clone)]
pub struct Desk(pub Arc<dyn AnyStore>);

impl Desk {
    /// A worker's store with integrations `a` (room 1), `b` (room 2), `c` (room 3), each with its own token,
    /// and `a2`, which shares room and token with `a`.
    pub async fn new(lab: &dyn Lab) -> Self {
        let desk = Self(lab.worker().await.unwrap());
        let definitions = [("a", "1", "ta"), ("b", "2", "tb"), ("c", "3", "tc"), ("a2", "1", "ta")];
        let definitions = definitions.map(|(id, room, token)| definition(id, room, token));
        desk.0.apply(definitions.into(), ManagedBy::Operator, at(0)).await.unwrap();
        desk
    }

    /// All integrations, as they are handed out one by one.
    pub async fn handed_out(&self) -> Result<Vec<Stored>, StoreError> {
        let (give, take) = std::sync::mpsc::channel();
        self.0.integrations(Box::new(move |stored| give.send(stored).unwrap())).await?;
        Ok(take.iter().collect())
    }

    pub async fn take(&self, events: Vec<DecidedEvent>) -> IntakeReceipt {
        self.change(IntakeChanges { events, ..IntakeChanges::default() }).await
    }

    pub async fn change(&self, changes: IntakeChanges) -> IntakeReceipt {
        self.0.take_in(IntakeQuery::default(), Box::new(move |_| changes)).await.unwrap()
    }

    /// Takes in with idle rooms told straight.
    pub async fn take_telling(&self, ms: i64, terms: ClaimTerms, changes: IntakeChanges) -> Taken {
        self.take_telling_at_most(usize::MAX, ms, terms, changes).await
    }

    /// The same, with so many rooms at most.
    pub async fn take_telling_at_most(
        &self,
        most: usize,
        ms: i64,
        terms: ClaimTerms,
        changes: IntakeChanges,
    ) -> Taken {
        let lines = Arc::<Mutex<Vec<RoomLine>>>::default();
        let got = lines.clone();
        let hand = Arc::new(move |line| got.lock().unwrap().push(line));
        let straight = Straight { terms, now: at(ms), most, is_quick: Arc::new(|_| true), hand };
        let events = changes.events.iter().map(|event| event.id.clone()).collect();
        let streaks = changes.streaks.iter().map(|(key, _)| key.clone()).collect();
        let query = IntakeQuery { events, streaks, ..IntakeQuery::default() };
        // As an event that is known already is not decided again.
        let decide = move |state: IntakeState| {
            let events =
                changes.events.into_iter().filter(|event| !state.known.contains(&event.id)).collect();
            IntakeChanges { events, ..changes }
        };
        let receipt = self.0.take_in_telling(query, Box::new(decide), straight).await.unwrap();
        let lines = std::mem::take(&mut *lines.lock().unwrap());
        Taken { lines, in_hand: receipt.in_hand }
    }

    /// One event at `ms` for integration `a`, `b` or `c` in its room.
    pub async fn tell(&self, id: &str, who: &str, ms: i64) {
        self.take(vec![decided(id, ms, &[(who, home(who), tell(ms))])]).await;
    }

    /// What the room of `who` believes of the monitor `m`.
    pub async fn belief(&self, who: &str) -> Option<Belief> {
        let key = streak_key(who, "m");
        let query = IntakeQuery { streaks: vec![key.clone()], ..IntakeQuery::default() };
        self.look_up(query).await.streaks.get(&key).map(|streak| streak.belief)
    }

    pub async fn look_up(&self, query: IntakeQuery) -> IntakeState {
        let (send, receive) = std::sync::mpsc::channel();
        let decide = Box::new(move |state| {
            send.send(state).unwrap();
            IntakeChanges::default()
        });
        self.0.take_in(query, decide).await.unwrap();
        receive.recv().unwrap()
    }

    pub async fn claim(&self, ms: i64) -> Vec<RoomLine> {
        self.0.claim_rooms(TERMS, at(ms)).await.unwrap()
    }

    /// The only room that is due.
    pub async fn claim_one(&self, ms: i64) -> RoomLine {
        let mut lines = self.claim(ms).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    pub async fn settle(
        &self,
        line: &RoomLine,
        ms: i64,
        transitions: Vec<Transition>,
        then: Then,
    ) -> Settled {
        self.0.settle(settlement(line, ms, transitions, then)).await.unwrap()
    }

    /// Settles and gives the room back until something new arrives.
    pub async fn finish(&self, line: &RoomLine, ms: i64, transitions: Vec<Transition>) {
        assert_ne!(self.settle(line, ms, transitions, RELEASE).await, Settled::LostClaim);
    }

    pub async fn explain(&self, id: &str) -> Vec<JournalEntry> {
        self.0.explain(&event(id)).await.unwrap()
    }

    /// The outcome and its reason of an event for one integration, as words.
    pub async fn fate(&self, id: &str, who: &str) -> String {
        let entries = self.explain(id).await;
        let entry = entries.iter().find(|e| e.integration == integration(who)).expect("it is in the journal");
        format!("{} {}", entry.outcome, entry.reason)
    }
}

/// Until something new arrives.
pub const RELEASE: Then = Then::Release { due: None };

/// The room of `a`, `b` or `c`.
pub fn home(who: &str) -> &'static str {
    match who {
        "a" | "a2" => "1",
        "b" => "2",
        _ => "3",
    }
}

pub fn settlement(line: &RoomLine, ms: i64, transitions: Vec<Transition>, then: Then) -> Settlement {
    Settlement {
        room: line.room.clone(),
        claim: line.claim,
        transitions,
        state: line.state.clone(),
        calls: Vec::new(),
        throttles: Vec::new(),
        closed: Vec::new(),
        then,
        now: at(ms),
    }
}

pub fn seqs(line: &RoomLine) -> Vec<i64> {
    line.waiting.iter().map(|w| w.seq).collect()
}

pub fn ids(line: &RoomLine) -> Vec<String> {
    line.waiting.iter().map(|w| w.event.to_string()).collect()
}

pub fn sent(seq: i64, ms: i64) -> Transition {
    Transition::Sent { seq, reason: SendReason::Failure, at: at(ms), status: 204 }
}

/// All of the line, each sent alone.
pub fn all_sent(line: &RoomLine, ms: i64) -> Vec<Transition> {
    line.waiting.iter().map(|w| sent(w.seq, ms)).collect()
}
