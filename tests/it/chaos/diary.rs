//! What was done and when, as far as the judge has to know it; and the lines by which a run is followed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};

use super::stalls::Span;
use crate::pipeline::{Cut, now};

/// After an outage of the store nobody claims rooms for 5 s, and what could not be recorded is recorded then.
const RECORDING: SignedDuration = SignedDuration::from_secs(6);

/// What a trouble makes impossible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    All,
    Intake,
    Telling { room: String },
}

#[derive(Default)]
struct Pages {
    counts: BTreeMap<&'static str, usize>,
    /// By the worker that was cut off.
    cuts: Vec<(usize, Cut)>,
    /// When a worker, or each, could record nothing.
    unrecorded: Vec<(Option<usize>, Span)>,
    impossible: Vec<(Impossible, Span)>,
    /// When no worker could start, for its disk was full; the last time may go on.
    disk_full: Vec<(Timestamp, Option<Timestamp>)>,
    /// When events were confirmed, by their places.
    confirmed: Vec<Timestamp>,
    /// What must not happen.
    amiss: Vec<String>,
}

pub struct Diary {
    began: Timestamp,
    pages: Mutex<Pages>,
}

impl Diary {
    pub fn begin() -> Self {
        Self { began: now(), pages: Mutex::default() }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("not poisoned")
    }

    /// A line of progress.
    pub fn say(&self, text: &str) {
        println!("{:7.1} s  {text}", self.seconds_at(now()));
    }

    /// How far a moment is from the beginning, as the lines tell it.
    pub fn seconds_at(&self, moment: Timestamp) -> f64 {
        moment.duration_since(self.began).as_secs_f64()
    }

    pub fn count(&self, kind: &'static str) {
        *self.pages().counts.entry(kind).or_default() += 1;
    }

    pub fn counted(&self, kind: &str) -> usize {
        self.pages().counts.get(kind).copied().unwrap_or_default()
    }

    /// Calls of this worker may have been cut off.
    pub fn cut(&self, worker: usize, cut: Cut) {
        self.pages().cuts.push((worker, cut));
    }

    /// This worker could record nothing, or none could.
    pub fn unrecorded(&self, worker: Option<usize>, span: Span) {
        self.pages().unrecorded.push((worker, span));
    }

    pub fn impossible(&self, what: Impossible, span: Span) {
        self.pages().impossible.push((what, span));
    }

    /// From now on no worker can start, since its disk is full.
    pub fn disk_fills(&self, from: Timestamp) {
        self.pages().disk_full.push((from, None));
    }

    pub fn disk_is_whole(&self, to: Timestamp) {
        if let Some((_, open @ None)) = self.pages().disk_full.last_mut() {
            *open = Some(to);
        }
    }

    /// When workers' disk was full until now.
    pub fn disk_full(&self) -> Vec<Span> {
        self.pages().disk_full.iter().map(|(from, to)| (*from, to.unwrap_or_else(now))).collect()
    }

    /// So many more events are confirmed.
    pub fn confirmed(&self, events: usize, at: Timestamp) {
        let mut pages = self.pages();
        let all = pages.confirmed.len() + events;
        pages.confirmed.resize(all, at);
    }

    pub fn amiss(&self, what: String) {
        self.say(&what);
        self.pages().amiss.push(what);
    }

    pub fn all_amiss(&self) -> Vec<String> {
        self.pages().amiss.clone()
    }

    pub fn confirms(&self) -> Vec<Timestamp> {
        self.pages().confirmed.clone()
    }

    /// When calls may have been cut off. What a worker had posted while it could record nothing it still had in hand
    /// when it was cut off, so such a cut reaches back to where that began.
    pub fn cuts(&self) -> Vec<Cut> {
        let pages = self.pages();
        let back = |(worker, cut): &(usize, Cut)| {
            let touches = |(whose, (from, to)): &&(Option<usize>, Span)| {
                whose.is_none_or(|whose| whose == *worker) && *from <= cut.to && cut.from <= *to + RECORDING
            };
            let since = pages.unrecorded.iter().filter(touches).map(|(_, (from, _))| *from).min();
            Cut { from: since.map_or(cut.from, |since| since.min(cut.from)), to: cut.to }
        };
        pages.cuts.iter().map(back).collect()
    }

    /// When nothing could be taken in, or be told in a room.
    pub fn no_intake(&self) -> Vec<Span> {
        self.spans(|what| matches!(what, Impossible::All | Impossible::Intake))
    }

    pub fn no_telling(&self, room: &str) -> Vec<Span> {
        self.spans(|what| match what {
            Impossible::All => true,
            Impossible::Telling { room: named } => named == room,
            Impossible::Intake => false,
        })
    }

    fn spans(&self, is_meant: impl Fn(&Impossible) -> bool) -> Vec<Span> {
        let pages = self.pages();
        pages.impossible.iter().filter(|(what, _)| is_meant(what)).map(|(_, span)| *span).collect()
    }

    /// All counts in one line.
    pub fn summary(&self) -> String {
        let pages = self.pages();
        pages.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn a_cut_reaches_back_to_where_its_worker_could_record_nothing() {
    let at = |second| Timestamp::from_second(second).expect("a time");
    let diary = Diary::begin();
    diary.unrecorded(None, (at(10), at(20)));
    diary.unrecorded(Some(1), (at(40), at(50)));
    let from = |worker, second| {
        diary.cut(worker, Cut::at(at(second)));
        diary.cuts().pop().expect("just made").from
    };
    assert_eq!(from(0, 15), at(10), "in the middle");
    assert_eq!(from(0, 24), at(10), "before it had time to record");
    assert_eq!(from(0, 30), at(30), "long after");
    assert_eq!(from(0, 45), at(45), "another's");
    assert_eq!(from(1, 45), at(40), "its own");
}
