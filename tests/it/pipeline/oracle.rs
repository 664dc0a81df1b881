//! The judge: reads what was published, the journal, what each room received and the dead-letter queue, and
//! says everything in which they do not fit together. It knows of the kills there were, and allows nothing
//! more than what these explain.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use hipchat_notifier::domain::ids::EventId;
use hipchat_notifier::domain::reason::Outcome;
use hipchat_notifier::ports::JournalEntry;
use jiff::Timestamp;

use super::budgets;
use super::expected::{self, Gathered, Pair, Verdict};
use super::letters;
use super::told::{self, Heard, Room};
use super::twice::{Cut, Twice};
use super::workload::{Means, Workload};
use crate::support::broker::Broker;
use crate::support::process::Site;
use crate::support::rooms::{Figures, Hipchat};

/// What the judge looks at.
pub struct Scene<'a> {
    pub work: &'a Workload,
    pub site: &'a Site,
    pub broker: &'a Broker,
    pub hipchat: &'a Hipchat,
    /// When calls to rooms may have been cut off.
    pub cuts: &'a [Cut],
    /// How long before a cut that which it cut off may have got into its room.
    pub reach: Duration,
    /// Whether a confirm of the broker can have been lost, so that a letter was put down once more.
    pub confirms_lost: bool,
}

/// What was found where all is well.
#[derive(Debug, Default)]
pub struct Findings {
    pub events: usize,
    pub notifications: usize,
    pub suppressed: usize,
    pub sent: usize,
    pub digested: usize,
    /// Those that were merged because a budget was used up, and not their own integration's.
    pub merged: usize,
    pub messages: usize,
    pub malformed: usize,
    /// Messages that a room got once more, because the worker was killed before it could note the answer, or got
    /// none.
    pub repeats: usize,
    /// Of these, those whose answer the room itself has withheld.
    pub unanswered: usize,
    /// Dead letters that are in the queue more than once, for the same cause.
    pub letters_again: usize,
    pub max_in_window: u64,
    /// What was told as soon as its room's budget let it: neither gathered nor held back by a throttle of its own.
    pub prompt: Vec<Prompt>,
}

/// A notification that had nothing to wait for but its room.
#[derive(Debug)]
pub struct Prompt {
    pub event: usize,
    pub room: String,
    pub taken_in: Timestamp,
    pub told: Timestamp,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} notifications ({} suppressed, {} sent, {} in digests), {} messages, \
             {} malformed, lost 0, repeats {} ({} unanswered), dead letters twice {}, max in window {}",
            self.events,
            self.notifications,
            self.suppressed,
            self.sent,
            self.digested,
            self.messages,
            self.malformed,
            self.repeats,
            self.unanswered,
            self.letters_again,
            self.max_in_window
        )
    }
}

/// What was found wrong: a sentence, and the event that shows it.
#[derive(Debug)]
pub struct Fault {
    pub says: String,
    pub event: Option<usize>,
}

impl Fault {
    pub fn of(event: usize, says: impl Into<String>) -> Self {
        Self { says: says.into(), event: Some(event) }
    }

    pub fn general(says: impl Into<String>) -> Self {
        Self { says: says.into(), event: None }
    }
}

/// The journal's entries by event and integration.
pub type Entries = BTreeMap<Pair, JournalEntry>;

impl Scene<'_> {
    /// Judges, and fails with what is wrong and what the journal says of it.
    pub async fn judge(&self) -> Findings {
        let (findings, faults) = self.examine().await;
        if !faults.is_empty() {
            self.fail(&faults).await;
        }
        findings
    }

    /// Counts, and says everything that does not fit together.
    pub async fn examine(&self) -> (Findings, Vec<Fault>) {
        let verdicts = expected::verdicts(self.work);
        let mut faults = Vec::new();
        let entries = self.journal(&mut faults).await;
        check_outcomes(&verdicts, &entries, &mut faults);
        check_reasons(self.work, &verdicts, &entries, &mut faults);
        let mut findings = count(self.work, &entries);
        self.check_rooms(&verdicts, &entries, &mut findings, &mut faults).await;
        letters::check(self, &mut findings, &mut faults).await;
        self.check_rest(&mut faults).await;
        (findings, faults)
    }

    async fn journal(&self, faults: &mut Vec<Fault>) -> Entries {
        let store = self.site.store().await;
        let places: HashMap<&str, usize> =
            self.work.wishes.iter().enumerate().map(|(w, wish)| (wish.id.as_str(), w)).collect();
        let mut entries = Entries::new();
        let known = self.work.events.iter().enumerate();
        for (e, event) in known.filter(|(_, event)| !matches!(event.means, Means::Again)) {
            for entry in store.explain(&EventId::new(&event.id)).await.expect("the journal") {
                match places.get(entry.integration.as_str()) {
                    Some(w) => drop(entries.insert((e, *w), entry)),
                    None => {
                        faults.push(Fault::of(e, format!("integration {} is unknown", entry.integration)))
                    }
                }
            }
        }
        entries
    }

    async fn check_rooms(
        &self,
        verdicts: &BTreeMap<Pair, Verdict>,
        entries: &Entries,
        findings: &mut Findings,
        faults: &mut Vec<Fault>,
    ) {
        let figures: HashMap<String, Figures> =
            self.hipchat.figures().await.into_iter().map(|room| (room.id.clone(), room)).collect();
        let rooms: BTreeSet<&str> = self.work.wishes.iter().map(|wish| wish.room.as_str()).collect();
        for room in rooms {
            let posted = self.hipchat.messages(room).await;
            findings.messages += posted.len();
            let told = Room { name: room, work: self.work, verdicts, entries, posted: &posted };
            let heard = told::check(&told, faults);
            findings.prompt.extend(self.prompt(room, entries, &heard));
            let extra = heard.extra;
            let calls = self.hipchat.attempts(room).await;
            findings.repeats += extra.len();
            let twice = Twice { room, extra: &extra, calls: &calls, cuts: self.cuts, reach: self.reach };
            findings.unanswered += twice.check(faults);
            budgets::check(room, &calls, &extra, self.work.scale, faults);
            if let Some(figures) = figures.get(room) {
                findings.max_in_window = findings.max_in_window.max(figures.max_in_window);
                self.check_budget(figures, extra.len() as u64, faults);
            }
        }
    }

    fn prompt(&self, room: &str, entries: &Entries, heard: &Heard<'_>) -> Vec<Prompt> {
        let of_told = |(pair @ (event, w), told): &(Pair, Timestamp)| {
            let entry = &entries[pair];
            let gathered = matches!(entry.reason.as_str(), "collated" | "scheduled-digest");
            let prompt = !gathered && self.work.wishes[*w].throttle.is_none();
            let (room, taken_in) = (room.to_owned(), entry.received_at);
            prompt.then_some(Prompt { event: *event, room, taken_in, told: *told })
        };
        heard.told.iter().filter_map(of_told).collect()
    }

    /// What the worker could not note counts for the room, and not for the worker.
    fn check_budget(&self, figures: &Figures, unnoted: u64, faults: &mut Vec<Fault>) {
        let limit = u64::from(self.work.scale.room.0) + unnoted;
        if figures.max_in_window > limit || figures.over_limit > unnoted {
            faults.push(Fault::general(format!("over the room's budget of {limit}: {figures:?}")));
        }
    }

    async fn check_rest(&self, faults: &mut Vec<Fault>) {
        let gauges = self.site.store().await.gauges(Timestamp::MAX).await.expect("the gauges");
        if gauges.pending > 0 || gauges.letters > 0 {
            faults.push(Fault::general(format!("not all has ended: {gauges:?}")));
        }
        let left = self.broker.depth(&self.broker.topology.queue).await;
        if left > 0 {
            faults.push(Fault::general(format!("{left} events are in the work queue")));
        }
    }
}

/// Exactly one outcome for each integration that wants an event, and none for another.
fn check_outcomes(verdicts: &BTreeMap<Pair, Verdict>, entries: &Entries, faults: &mut Vec<Fault>) {
    for pair in verdicts.keys().filter(|pair| !entries.contains_key(pair)) {
        faults.push(Fault::of(pair.0, format!("lost: no outcome for wish {}", pair.1)));
    }
    for (pair, entry) in entries {
        if !verdicts.contains_key(pair) {
            faults.push(Fault::of(pair.0, format!("{} does not want it", entry.integration)));
        }
        let ended = matches!(entry.outcome, Outcome::Sent | Outcome::Digested | Outcome::Suppressed);
        if !ended {
            faults.push(Fault::of(pair.0, format!("ended as {} for {}", entry.outcome, entry.integration)));
        }
    }
}

/// The decisions are those of the plain re-computation.
fn check_reasons(
    work: &Workload,
    verdicts: &BTreeMap<Pair, Verdict>,
    entries: &Entries,
    faults: &mut Vec<Fault>,
) {
    let repeats = repeats(work, verdicts, entries);
    for (pair, entry) in entries {
        let expected = match verdicts.get(pair) {
            Some(Verdict::Suppressed(reason)) => (Outcome::Suppressed, *reason),
            Some(Verdict::Told(reason)) => (Outcome::Sent, *reason),
            Some(Verdict::Activity(_)) => (Outcome::Sent, repeats[pair].0),
            None => continue,
        };
        let gathered = matches!(expected.1, "collated" | "scheduled-digest");
        let merged = if gathered { expected.1 } else { "over-budget" };
        let found = (entry.outcome, entry.reason.as_str());
        let fits = found == expected || (expected.0 == Outcome::Sent && found == (Outcome::Digested, merged));
        if !fits {
            faults.push(Fault::of(pair.0, format!("{found:?} for {}, not {expected:?}", entry.integration)));
        }
    }
}

/// By which reason each activity is told, and with which others: those of one number, user and instance.
pub fn repeats(
    work: &Workload,
    verdicts: &BTreeMap<Pair, Verdict>,
    entries: &Entries,
) -> BTreeMap<Pair, (&'static str, Option<Gathered>)> {
    // By integration, user, model and instance: events and the times at which they came.
    type Series<'a> = BTreeMap<(usize, &'a str, &'a str, &'a str), Vec<(usize, i64)>>;
    let mut of_one = Series::new();
    let mut telling = BTreeMap::new();
    for (pair @ (e, w), entry) in entries {
        let (Some(Verdict::Activity(how)), Means::Activity { model, uid, user, .. }) =
            (verdicts.get(pair), &work.events[*e].means)
        else {
            continue;
        };
        telling.insert(*w, *how);
        of_one.entry((*w, user, model, uid)).or_default().push((*e, entry.received_at.as_microsecond()));
    }
    let mut all = BTreeMap::new();
    for ((w, ..), came) in &of_one {
        let reasons = expected::repeats(telling[w], came);
        all.extend(came.iter().zip(reasons).map(|((e, _), reason)| ((*e, *w), reason)));
    }
    all
}

fn count(work: &Workload, entries: &Entries) -> Findings {
    let ended = |outcome| entries.values().filter(|entry| entry.outcome == outcome).count();
    let merged = |((_, w), entry): &(&Pair, &JournalEntry)| {
        entry.reason == "over-budget" && work.wishes[*w].throttle.is_none()
    };
    Findings {
        merged: entries.iter().filter(merged).count(),
        events: work.events.len(),
        notifications: entries.len(),
        suppressed: ended(Outcome::Suppressed),
        sent: ended(Outcome::Sent),
        digested: ended(Outcome::Digested),
        malformed: work.events.iter().filter(|e| matches!(e.means, Means::Malformed { .. })).count(),
        ..Findings::default()
    }
}
