//! A room's line: what is posted next, and as what; or until when the room waits, and why.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::endings;
use super::envelope::Received;
use super::event::Event;
use super::ids::{EventId, GatherKey, IntegrationId, RoomKey, TokenKey};
use super::integration::{Integration, Overflow};
use super::pacing::{Budget, LimitHint, Meter, later};
use super::reason::{
    DeadLetterReason, EXPIRED_REASON, Outcome, STALE_IN_WORDS, SendReason, SuppressReason, WaitReason,
};
use super::retry::RetryRule;
use super::story::Story;

/// A room that this worker holds: nobody else posts to it until it is settled with `release`, or the lease
/// lapses.
#[derive(Debug, Clone)]
pub struct RoomLine {
    pub room: RoomKey,
    /// Proves that the room is still held by whoever settles. A later claim has a higher one.
    pub claim: u64,
    pub state: RoomState,
    /// The head of the line in the order of the events: at most the number asked for (less where
    /// events are large, but never none), only what is ready now.
    pub waiting: Vec<Waiting>,
    /// What is told together and goes on beyond `waiting`, so that its message can say so: scheduled digests, and
    /// what the last of `waiting` is told together with.
    pub going_on: Vec<(IntegrationId, GatherKey)>,
    /// Calls reserved for this claim, by token.
    pub tokens: HashMap<TokenKey, TokenGrant>,
    /// Meters of the integrations in `waiting` that have spent some of a throttle of their own; what is
    /// missing is unused.
    pub throttles: HashMap<IntegrationId, Meter>,
}

/// How many calls this claim may make with a token, and when it is worth asking for more. Rooms claimed
/// together share evenly; what others hold reserved is asked for again within a second, since they may give
/// it back. What a lapsed claim had reserved counts as spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenGrant {
    pub calls: u32,
    pub opens_at: Timestamp,
}

impl RoomLine {
    /// Of the bodies that it holds in memory. One that is there for several notifications is counted for each.
    pub fn bytes(&self) -> usize {
        self.waiting.iter().map(|one| one.received.envelope.body.len()).sum()
    }
}

/// A room's pacing and retry state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoomState {
    pub meter: Meter,
    /// Attempts in a row that got no good answer, and when the next may be made.
    pub retry: Option<Retry>,
    /// Expired notifications that the next message has to mention.
    pub expired_untold: u32,
}

/// Where a room stands in its retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    pub failures: u32,
    pub at: Timestamp,
}

/// A pending notification in its room's line.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its place: lower goes first.
    pub seq: i64,
    pub event: EventId,
    pub integration: IntegrationId,
    pub story: Story,
    pub ready_at: Timestamp,
    pub gather: Option<GatherKey>,
    pub attempts: u32,
    pub first_attempt_at: Option<Timestamp>,
    /// What the latest attempt got, for people; empty before the first.
    pub last_answer: String,
    /// HipChat refused the first form: the next attempt goes without a card.
    pub plain: bool,
    /// The event itself; shared between the notifications of one event.
    pub received: Arc<Received>,
    /// The same, read, where that was a moment ago.
    pub read: Option<Arc<Event>>,
}

/// What a step spent of a token's budget, and what was learned about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCalls {
    pub token: TokenKey,
    pub calls: u32,
    pub hint: LimitHint,
    /// The server said 429 for the token itself: nothing before this.
    pub blocked_until: Option<Timestamp>,
}

/// A named change of pending notifications. Nothing else ends one.
///
/// `Sent` and `Digested` hold whatever the row became meanwhile, since the message is in the room; they count
/// the attempt. The others touch only what still waits in this room's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Told alone.
    Sent { seq: i64, reason: SendReason, at: Timestamp, status: u16 },
    /// Told together in one message.
    Digested { seqs: Vec<i64>, reason: SendReason, at: Timestamp, status: u16 },
    /// An attempt got no answer or a bad one; another will be made. Costs an attempt.
    Attempted { seqs: Vec<i64>, at: Timestamp, status: Option<u16>, detail: String, plain_next: bool },
    /// Not to be told after all.
    Suppressed { seqs: Vec<i64>, reason: SuppressReason, detail: String, at: Timestamp },
    /// Waited too long.
    Expired { seqs: Vec<i64>, at: Timestamp, detail: String },
    /// Given up: into the outbox of letters, and dead-lettered once the broker has confirmed.
    DeadLettered {
        seqs: Vec<i64>,
        reason: DeadLetterReason,
        detail: String,
        at: Timestamp,
        status: Option<u16>,
        /// Whether the attempt that led here is still to be counted.
        attempted: bool,
    },
    /// The room refuses this integration for good: it is suspended, and all its pending notifications are
    /// dead-lettered as `integration-broken`; `seqs` are those that the refused attempt carried. If its room
    /// URL was changed after the room was claimed, only the attempt counts: the new one may be good.
    Broken { integration: IntegrationId, seqs: Vec<i64>, detail: String, at: Timestamp, status: Option<u16> },
}

impl Transition {
    /// The notifications it names.
    pub fn seqs(&self) -> &[i64] {
        match self {
            Self::Sent { seq, .. } => std::slice::from_ref(seq),
            Self::Digested { seqs, .. }
            | Self::Attempted { seqs, .. }
            | Self::Suppressed { seqs, .. }
            | Self::Expired { seqs, .. }
            | Self::DeadLettered { seqs, .. }
            | Self::Broken { seqs, .. } => seqs,
        }
    }

    /// The sentence that the journal keeps of each notification that was told; empty where the reason says it.
    pub fn detail_of_told(&self) -> String {
        match self {
            Self::Sent { reason: SendReason::Stale, .. } => STALE_IN_WORDS.to_owned(),
            Self::Digested { seqs, .. } => match seqs.len() {
                0 | 1 => String::new(),
                2 => "told in one message with 1 other".to_owned(),
                n => format!("told in one message with {} others", n - 1),
            },
            _ => String::new(),
        }
    }

    /// How its notifications end, and the stable reason string; `None` where they stay pending.
    pub fn outcome(&self) -> Option<(Outcome, &'static str)> {
        match self {
            Self::Sent { reason, .. } => Some((Outcome::Sent, reason.as_str())),
            Self::Digested { reason, .. } => Some((Outcome::Digested, reason.as_str())),
            Self::Attempted { .. } => None,
            Self::Suppressed { reason, .. } => Some((Outcome::Suppressed, reason.as_str())),
            Self::Expired { .. } => Some((Outcome::Expired, EXPIRED_REASON)),
            Self::DeadLettered { reason, .. } => Some((Outcome::DeadLettered, reason.as_str())),
            Self::Broken { .. } => {
                Some((Outcome::DeadLettered, DeadLetterReason::IntegrationBroken.as_str()))
            }
        }
    }
}

/// What the steps of every line go by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineRules {
    pub room: Budget,
    pub retry: RetryRule,
    /// `notifications.max_age`.
    pub max_age: Duration,
}

/// The integrations as they are now, by id; `None` for one that was removed.
pub type Lookup<'a> = dyn Fn(&IntegrationId) -> Option<Arc<Integration>> + 'a;

/// What to do next with a held room.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// These end without being told; then ask again.
    Drop(Vec<Transition>),
    /// Post one message that tells `take` (places in `waiting`, in order).
    Post { take: Vec<usize>, shape: Shape },
    /// Nothing may be posted before `until`, whatever arrives: the whole room waits.
    WaitUntil { until: Timestamp, reason: WaitReason },
    /// What is held waits for its integration's own throttle until then; others may go before.
    Throttled { until: Timestamp },
    /// Nothing is left of what was held.
    Empty,
}

/// One notification alone, or several in one message and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Single,
    Together(SendReason),
}

/// Decides the next step for a held room at `now`.
///
/// A message needs a place in three budgets: the room's, its token's, and its integration's throttle if it
/// has one. While what waits fits into what is left, each notification gets a message of its own. When it
/// does not fit, what waits is merged into one digest, which takes one place, so a storm is told at once
/// and briefly instead of late. `overflow = "queue"` is never merged.
pub fn next_step(line: &RoomLine, integrations: &Lookup<'_>, rules: &LineRules, now: Timestamp) -> Step {
    let dropped = endings::due(line, integrations, rules, now);
    if !dropped.is_empty() {
        return Step::Drop(dropped);
    }
    let candidates: Vec<Candidate> = line
        .waiting
        .iter()
        .enumerate()
        .filter_map(|(at, w)| Candidate::of(at, w, line, integrations, now))
        .collect();
    if candidates.is_empty() {
        return Step::Empty;
    }
    // A retry further ahead than any wait was set before the clock was set back, and counts no more.
    let latest = later(now, rules.retry.longest);
    if let Some(retry) = line.state.retry.filter(|retry| now < retry.at && retry.at <= latest) {
        return Step::WaitUntil { until: retry.at, reason: WaitReason::Retrying };
    }
    let room_left = line.state.meter.available(rules.room, now);
    if room_left == 0 {
        return room_is_closed(&line.state.meter, rules.room, now);
    }
    let Some(first) = candidates.iter().position(|candidate| candidate.throttle_left > 0) else {
        let until = candidates.iter().map(|candidate| candidate.throttle_opens).min().unwrap_or(now);
        return Step::Throttled { until };
    };
    match line.tokens.get(&candidates[first].integration.token) {
        Some(grant) if grant.calls > 0 => {
            choose(line, &candidates, first, room_left.min(left_of_token(grant, now)))
        }
        Some(grant) => Step::WaitUntil { until: grant.opens_at.max(now), reason: WaitReason::TokenBudget },
        // The room URL was changed after the room was claimed: claim it anew.
        None => Step::WaitUntil { until: later(now, RECLAIM_AFTER), reason: WaitReason::TokenBudget },
    }
}

/// What a token's budget leaves for the line. A grant is what the line asked for, with nothing for a call that
/// has to be made again, so only where no more could be had does it say that the budget is used up.
fn left_of_token(grant: &TokenGrant, now: Timestamp) -> u32 {
    if grant.opens_at <= now { u32::MAX } else { grant.calls }
}

/// How long to wait for the store and the worker to agree on an integration that is just being changed.
const RECLAIM_AFTER: Duration = Duration::from_millis(200);

/// One waiting notification that may be posted to this room, with what its integration allows.
struct Candidate {
    /// Where it is in `RoomLine::waiting`.
    at: usize,
    integration: Arc<Integration>,
    throttle_left: u32,
    throttle_opens: Timestamp,
}

impl Candidate {
    /// `None`: its integration moved to another room, and the notification with it.
    fn of(
        at: usize,
        w: &Waiting,
        line: &RoomLine,
        integrations: &Lookup<'_>,
        now: Timestamp,
    ) -> Option<Self> {
        let integration = integrations(&w.integration).filter(|i| i.room == line.room)?;
        let meter = line.throttles.get(&w.integration);
        let (throttle_left, throttle_opens) = match (integration.throttle.budget, meter) {
            (None, _) => (u32::MAX, now),
            (Some(budget), None) => (budget.messages, now),
            (Some(budget), Some(meter)) => (meter.available(budget, now), meter.opens_at(budget, now)),
        };
        Some(Self { at, integration, throttle_left, throttle_opens })
    }

    fn open(&self) -> bool {
        self.throttle_left > 0
    }
}

fn room_is_closed(meter: &Meter, budget: Budget, now: Timestamp) -> Step {
    let told_so = meter.block(now).is_some();
    let reason = if told_so { WaitReason::RateLimited } else { WaitReason::RoomBudget };
    Step::WaitUntil { until: meter.opens_at(budget, now), reason }
}

/// Chooses what the next message tells, beginning with `candidates[first]`. `room_left` is what the room's and
/// the token's budgets leave.
fn choose(line: &RoomLine, candidates: &[Candidate], first: usize, room_left: u32) -> Step {
    let head = &candidates[first];
    let waiting = |candidate: &Candidate| &line.waiting[candidate.at];
    let rest = || candidates[first..].iter().filter(|candidate| candidate.open());
    let same_gathering = |candidate: &&Candidate| {
        waiting(candidate).gather == waiting(head).gather && candidate.integration.id == head.integration.id
    };
    if waiting(head).gather.is_some() {
        let reason = waiting(head).story.reason;
        return together(rest().filter(same_gathering), reason);
    }
    let mergeable = |candidate: &Candidate| {
        candidate.integration.throttle.overflow == Overflow::Digest && waiting(candidate).gather.is_none()
    };
    let of_head = rest().filter(|candidate| candidate.integration.id == head.integration.id).count();
    let room_is_crowded = rest().count() > room_left as usize;
    let integration_is_crowded = of_head > head.throttle_left as usize;
    let merges = |candidate: &&Candidate| {
        let own = candidate.integration.id == head.integration.id;
        let as_head = if waiting(head).plain {
            // Refused with a card: the same again without. What was told together then stays together.
            waiting(candidate).plain
        } else {
            !waiting(candidate).plain && (own || room_is_crowded)
        };
        as_head && mergeable(candidate)
    };
    let crowded = room_is_crowded || integration_is_crowded;
    if (waiting(head).plain || crowded) && merges(&head) {
        return together(rest().take_while(merges), SendReason::OverBudget);
    }
    Step::Post { take: vec![head.at], shape: Shape::Single }
}

fn together<'a>(candidates: impl Iterator<Item = &'a Candidate>, reason: SendReason) -> Step {
    let take: Vec<usize> = candidates.map(|candidate| candidate.at).collect();
    let shape = if take.len() == 1 { Shape::Single } else { Shape::Together(reason) };
    Step::Post { take, shape }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
