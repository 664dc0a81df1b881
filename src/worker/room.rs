//! One held room: decide the next step, post, settle; until nothing is left or the room has to wait.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::Instrument;

use crate::domain::delivery::{self, Attempt, Consequence};
use crate::domain::ids::{EventId, IntegrationId};
use crate::domain::integration::Integration;
use crate::domain::line::{RoomLine, Shape, Step, TokenCalls, Transition, next_step};
use crate::domain::lines::Untold;
use crate::domain::pacing::later;
use crate::domain::reason::{DeadLetterReason, Outcome, WaitReason};
use crate::ports::{Answer, AnswerClass, Settled, Settlement, StoreError, Then};
use crate::worker::catalogue::Snapshot;
use crate::worker::compose::compose;
use crate::worker::dispatch::Dispatch;
use crate::worker::moment::Moment;
use crate::worker::places::Recording;
use crate::worker::wake::Stop;

/// Give the room back; what is ready in its line is due at once, behind the rooms that are due longer.
const AT_ONCE: Then = Then::Release { due: None };

/// How long a room is worked on before it goes behind the others that are due.
const TURN: Duration = Duration::from_secs(1);

/// How long a settlement waits before the store is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Counts a room that holds an answer which the store has not taken, for as long as it lives.
struct Unsettled<'a>(&'a AtomicUsize);

impl<'a> Unsettled<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How long a room rests whose waiting notifications the catalogue knows nothing of.
const AGREE_WITHIN: Duration = Duration::from_secs(1);

/// A room that this process holds.
pub struct Held {
    pub line: RoomLine,
    /// The lease counts from here: the claim, or the settlement that renewed it last.
    pub since: Moment,
    /// Begins with the last answer before the room is given back.
    pub recording: Recording,
}

impl Held {
    /// As it was claimed.
    pub fn new(line: RoomLine, since: Moment) -> Self {
        Self { line, since, recording: Recording::default() }
    }
}

/// What a step left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The room is still held.
    Goes,
    /// The room was given back.
    Released,
    /// The room was given back, and nothing waits in it.
    AtRest,
    /// Somebody else holds the room; it must be left alone.
    Lost,
}

impl Dispatch {
    /// Works off a held room's line, and gives the room back.
    pub async fn work_off(&self, mut held: Held, stop: &Stop) -> Progress {
        let turn_ends = later(self.clock.now(), TURN);
        loop {
            match self.step(&mut held, stop.is_set()).await {
                // A slow room with a long line must not keep its place while others wait for one.
                Progress::Goes if self.clock.now() >= turn_ends => {
                    let span = turn(&held.line);
                    return self.give_back(&held.line, AT_ONCE).instrument(span).await;
                }
                Progress::Goes => {}
                Progress::Lost => {
                    let room = held.line.room.as_str();
                    tracing::warn!(room, "the room is not held by this worker any more; leaving it alone");
                    return Progress::Lost;
                }
                given_back => return given_back,
            }
        }
    }

    /// One step: decide, post if there is something to post, settle. With `stopping` no attempt is begun.
    async fn step(&self, held: &mut Held, stopping: bool) -> Progress {
        let moment = Moment::now(&*self.clock);
        let snapshot = self.catalogue.now();
        let lookup = |id: &IntegrationId| snapshot.integration(id);
        match next_step(&held.line, &lookup, &self.terms.rules, moment.wall) {
            Step::Post { take, shape }
                if !stopping && !held.since.may_be_past(self.terms.lease / 2, &moment) =>
            {
                self.tell(held, &take, shape, &snapshot).await
            }
            step => {
                let span = turn(&held.line);
                self.go_on(held, step, stopping, &snapshot, moment.wall).instrument(span).await
            }
        }
    }

    /// Does whatever a step is that posts nothing.
    async fn go_on(
        &self,
        held: &mut Held,
        step: Step,
        stopping: bool,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Progress {
        let line = &held.line;
        match step {
            Step::Drop(transitions) => self.drop_untold(held, transitions).await,
            // This process was frozen since it was handed the room, or the room was slow: somebody else may have it
            // by now. Nothing is posted on a lease that could lapse before the answer is there.
            Step::Post { .. } if !stopping => {
                let renewal = self.settlement(line, Vec::new(), Then::Hold);
                self.hold(held, renewal).await
            }
            Step::Empty if !line.waiting.is_empty() => {
                // Not for this room any more, or of an integration that is just being changed: the store and
                // the catalogue will agree in a moment.
                self.give_back(line, Then::Rest { until: later(now, AGREE_WITHIN) }).await
            }
            Step::Post { .. } | Step::Empty => self.give_back(line, AT_ONCE).await,
            // What was reserved is spent, and there is more.
            Step::WaitUntil { until, .. } if until <= now => self.give_back(line, AT_ONCE).await,
            Step::WaitUntil { until, reason } => {
                self.metrics.waits(reason);
                tracing::debug!(reason = reason.as_str(), %until, "the room waits");
                self.give_back(line, Then::Rest { until }).await
            }
            Step::Throttled { until } => {
                self.metrics.waits(WaitReason::IntegrationThrottle);
                let then = Then::Release { due: Some(until) };
                let mut settlement = self.settlement(line, Vec::new(), then);
                settlement.closed = closed(line, snapshot, now);
                self.settle(settlement).await
            }
        }
    }

    async fn drop_untold(&self, held: &mut Held, transitions: Vec<Transition>) -> Progress {
        let ended = self.ended(&transitions, &held.line);
        held.line.apply(&transitions);
        let settlement = self.settlement(&held.line, transitions, Then::Hold);
        let progress = self.hold(held, settlement).await;
        self.report(progress, &held.line, ended)
    }

    /// Renders and posts one message, and settles what follows from the answer.
    async fn tell(&self, held: &mut Held, take: &[usize], shape: Shape, snapshot: &Snapshot) -> Progress {
        let head = &held.line.waiting[take[0]];
        // At the highest level, so that no filter which lets a line through leaves its ids out, also one of a library.
        let span = tracing::error_span!(
            "attempt",
            room = held.line.room.as_str(),
            event_id = head.event.as_str(),
            integration_id = head.integration.as_str(),
            attempt = head.attempts.saturating_add(1)
        );
        let (progress, ended) = self.attempt(held, take, shape, snapshot).instrument(span).await;
        self.report(progress, &held.line, ended)
    }

    async fn attempt(
        &self,
        held: &mut Held,
        take: &[usize],
        shape: Shape,
        snapshot: &Snapshot,
    ) -> (Progress, Vec<Ended>) {
        let line = &held.line;
        let head = &line.waiting[take[0]];
        let (Some(integration), Some(target)) =
            (snapshot.integration(&head.integration), snapshot.target(&head.integration))
        else {
            // Removed since the step was decided; the next claim drops it.
            return (self.give_back(line, AT_ONCE).await, Vec::new());
        };
        let Some(message) = compose(line, take, shape, snapshot, &self.terms.links) else {
            return self.give_up_unwritable(held, take).await;
        };
        let posted_at = self.clock.now();
        let answer = self.gateway.post(&target, &message).await;
        let now = self.clock.now();
        let took = Duration::try_from(now.duration_since(posted_at)).unwrap_or_default();
        self.handover.answered(&line.room, (answer.class == AnswerClass::Accepted).then_some(took));
        let spoke_for = spoke_for(line, take, snapshot);
        let spoke_for: Vec<&Integration> = spoke_for.iter().map(Arc::as_ref).collect();
        let attempt = Attempt { line, take, shape, integration: &integration };
        let consequence =
            delivery::after(attempt, &answer, &spoke_for, &self.terms.rules, now, fastrand::f64());
        self.report_answer(take.len(), &answer);
        let ended = self.ended(&consequence.transitions, line);
        (self.conclude(held, consequence, answer.class).await, ended)
    }

    /// Brings the held line up to date with what an attempt changed, and settles it.
    async fn conclude(&self, held: &mut Held, consequence: Consequence, class: AnswerClass) -> Progress {
        let Consequence { transitions, state, calls, throttles } = consequence;
        let line = &mut held.line;
        line.state = state;
        line.throttles.extend(throttles.iter().cloned());
        if let Some(grant) = line.tokens.get_mut(&calls.token) {
            grant.calls = grant.calls.saturating_sub(calls.calls);
        }
        line.apply(&transitions);
        let broken = class == AnswerClass::Broken;
        // What this claim had reserved of it does not count any more.
        let token_used_up = calls.blocked_until.is_some() || calls.hint.remaining == Some(0);
        // The store knows best what comes next where more has changed than this room's own state.
        let then = if broken || token_used_up || line.waiting.is_empty() { AT_ONCE } else { Then::Hold };
        let mut settlement = self.settlement(line, transitions, then);
        if then == AT_ONCE {
            held.recording.begin();
        }
        settlement.calls = vec![calls];
        settlement.throttles = throttles;
        let progress = self.hold(held, settlement).await;
        if broken {
            self.catalogue.hint();
        }
        progress
    }

    /// A message that can't be written is this notification's fault alone, not the room's.
    async fn give_up_unwritable(&self, held: &mut Held, take: &[usize]) -> (Progress, Vec<Ended>) {
        let line = &mut held.line;
        let transition = Transition::DeadLettered {
            seqs: take.iter().map(|at| line.waiting[*at].seq).collect(),
            reason: DeadLetterReason::WorkerFault,
            detail: "the worker failed while writing the message; please report it with the body".to_owned(),
            at: self.clock.now(),
            status: None,
            attempted: false,
        };
        let transitions = vec![transition];
        let ended = self.ended(&transitions, line);
        line.apply(&transitions);
        let settlement = self.settlement(line, transitions, Then::Hold);
        (self.hold(held, settlement).await, ended)
    }

    async fn give_back(&self, line: &RoomLine, then: Then) -> Progress {
        self.settle(self.settlement(line, Vec::new(), then)).await
    }

    fn settlement(&self, line: &RoomLine, transitions: Vec<Transition>, then: Then) -> Settlement {
        Settlement {
            room: line.room.clone(),
            claim: line.claim,
            transitions,
            state: line.state.clone(),
            calls: Vec::<TokenCalls>::new(),
            throttles: Vec::new(),
            closed: Vec::new(),
            then,
            now: self.clock.now(),
        }
    }

    /// Settles; if the room is still held after that, its lease counts from the settlement.
    async fn hold(&self, held: &mut Held, settlement: Settlement) -> Progress {
        let now = Moment::now(&*self.clock);
        let progress = self.settle(Settlement { now: now.wall, ..settlement }).await;
        if progress == Progress::Goes {
            held.since = now;
        }
        progress
    }

    async fn settle(&self, settlement: Settlement) -> Progress {
        let then = settlement.then;
        let buries = settlement.transitions.iter().any(makes_letters);
        let settled = self.record(settlement).await;
        if buries {
            self.burial.ring();
        }
        match (settled, then) {
            (Settled::LostClaim, _) => Progress::Lost,
            (Settled::AtRest, _) => Progress::AtRest,
            (Settled::Applied, Then::Hold) => Progress::Goes,
            (Settled::Applied, Then::Release { .. } | Then::Rest { .. }) => Progress::Released,
        }
    }

    /// Hands a settlement to the store for as long as it takes: what the room has heard can't be unheard, so
    /// giving up would make it hear the same again.
    async fn record(&self, settlement: Settlement) -> Settled {
        let mut waiting = None;
        loop {
            match self.store.settle(settlement.clone()).await {
                Ok(settled) => {
                    self.trouble.worked();
                    return settled;
                }
                Err(error) => {
                    self.metrics.store_errors.inc();
                    if !matches!(error, StoreError::Unavailable(_)) {
                        // Asking again can't help. The room is left to its lease, the others go on.
                        tracing::error!(
                            "what became of a message can't be recorded: {error}; the room is left alone until its \
                             lease ends, and then told the same again"
                        );
                        return Settled::LostClaim;
                    }
                    self.trouble.failed("record what became of a message", &error);
                    waiting.get_or_insert_with(|| Unsettled::new(&self.unsettled));
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// Counts an answer, and says it where it is not the good one. The span around it has the ids.
    fn report_answer(&self, notifications: usize, answer: &Answer) {
        self.metrics.attempt(answer.class);
        let (status, detail) = (answer.status, &answer.detail);
        match answer.class {
            AnswerClass::Accepted => {}
            AnswerClass::RateLimited { until } => {
                let now = self.clock.now();
                let (untold, told) = {
                    let mut lines = self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner);
                    (lines.ended(now), lines.admit(now))
                };
                say_untold(untold);
                if told {
                    tracing::info!(%until, "rate limit: {detail}");
                }
            }
            AnswerClass::Unavailable | AnswerClass::Refused => {
                tracing::warn!(notifications, status, "attempt failed: {detail}");
            }
            AnswerClass::Broken => tracing::error!(status, "integration suspended: {detail}"),
        }
    }

    /// What ends by `transitions` of what is held in `line`, which they were not applied to yet.
    fn ended(&self, transitions: &[Transition], line: &RoomLine) -> Vec<Ended> {
        let now = self.clock.now();
        let mut all = Vec::new();
        for transition in transitions {
            let Some((outcome, reason)) = transition.outcome() else { continue };
            let seqs: HashSet<i64> = transition.seqs().iter().copied().collect();
            all.extend(line.waiting.iter().filter(|w| seqs.contains(&w.seq)).map(|w| Ended {
                event: w.event.clone(),
                integration: w.integration.clone(),
                outcome,
                reason,
                took: outcome.is_told().then(|| seconds_between(w.received.at, now)),
            }));
        }
        all
    }

    /// Counts and says what has ended by a step that was settled. Where it was not, because somebody else holds the
    /// room by now, nothing has ended by it: that one will report it.
    fn report(&self, progress: Progress, line: &RoomLine, ended: Vec<Ended>) -> Progress {
        if progress == Progress::Lost {
            return progress;
        }
        for Ended { event, integration, outcome, reason, took } in ended {
            // What is dead-lettered is counted when it is buried: a broken integration takes more with it than this
            // line shows.
            if outcome != Outcome::DeadLettered {
                self.metrics.notification(outcome, reason);
            }
            if let Some(took) = took {
                self.metrics.time_to_room(took);
            }
            tracing::info!(
                event_id = event.as_str(),
                integration_id = integration.as_str(),
                reason,
                room = line.room.as_str(),
                "{outcome}"
            );
        }
        progress
    }
}

/// Around what is done with a room and is no attempt, so that every line of the log that comes of it names the room.
fn turn(line: &RoomLine) -> tracing::Span {
    tracing::error_span!("turn", room = line.room.as_str())
}

/// A notification that ends by a step.
struct Ended {
    event: EventId,
    integration: IntegrationId,
    outcome: Outcome,
    reason: &'static str,
    /// Seconds from its event's arrival to the room, if it was told.
    took: Option<f64>,
}

/// What is said of the rate limits that a flood kept out of the log.
pub fn say_untold(untold: Option<Untold>) {
    if let Some(Untold { count, since }) = untold {
        tracing::info!(count, %since, "more answers of a reached rate limit, not told one by one");
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

fn makes_letters(transition: &Transition) -> bool {
    matches!(transition, Transition::DeadLettered { .. } | Transition::Broken { .. })
}

/// The integrations whose notifications one message tells, each once.
fn spoke_for(line: &RoomLine, take: &[usize], snapshot: &Snapshot) -> Vec<Arc<Integration>> {
    let mut seen = HashSet::new();
    take.iter()
        .map(|at| &line.waiting[*at].integration)
        .filter(|id| seen.insert((*id).clone()))
        .filter_map(|id| snapshot.integration(id))
        .collect()
}

/// The integrations in a held line whose own throttle is used up, and until when.
fn closed(line: &RoomLine, snapshot: &Snapshot, now: Timestamp) -> Vec<(IntegrationId, Timestamp)> {
    line.throttles
        .iter()
        .filter_map(|(id, meter)| {
            let budget = snapshot.integration(id)?.throttle.budget?;
            (meter.available(budget, now) == 0).then(|| (id.clone(), meter.opens_at(budget, now)))
        })
        .collect()
}
