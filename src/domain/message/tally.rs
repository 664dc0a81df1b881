//! Runs of one message, counted by monitor and region, worst first.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::Color;
use super::html::{Block, Phrase};
use super::links::Links;
use super::run::{NAME, WORD, after, monitor_name, named, shown_value, since};
use super::text::count;
use crate::domain::event::{MonitorRun, RunResult};
use crate::domain::story::Told;

/// The runs of one monitor in one region.
struct Tally<'a> {
    last: (Told<'a>, &'a MonitorRun),
    /// By result, in the order of `RESULTS`.
    counts: [u64; RESULTS.len()],
    /// A success here ended failed runs, here or before.
    recovered: bool,
}

/// Results from the worst to the best, and how a digest counts them.
const RESULTS: [(RunResult, &str); 4] = [
    (RunResult::Error, "could not complete"),
    (RunResult::Failure, "failed"),
    (RunResult::Abort, "aborted"),
    (RunResult::Success, "passed"),
];

impl<'a> Tally<'a> {
    fn failed(&self) -> u64 {
        RESULTS.iter().zip(self.counts).filter(|((result, _), _)| result.is_failed()).map(|(_, n)| n).sum()
    }

    fn is_failing(&self) -> bool {
        self.last.1.result.is_failed()
    }

    fn add(&mut self, told: Told<'a>, run: &'a MonitorRun) {
        if run.result == RunResult::Success && (told.story.failures > 0 || self.is_failing()) {
            self.recovered = true;
        }
        for ((result, _), n) in RESULTS.iter().zip(&mut self.counts) {
            *n += u64::from(*result == run.result);
        }
        self.last = (told, run);
    }

    /// Still failing before mended before fine; then by the worst result, then by how often.
    fn badness(&self) -> impl Ord + use<> {
        let [errors, failures, aborts, _] = self.counts;
        (self.is_failing(), self.failed() > 0, errors > 0, failures > 0, aborts > 0, self.failed())
    }

    /// `Orders health (us-east): 4 failed, 1 passed; still failing, 7 failed runs in a row since …`
    fn line(&self, links: &Links) -> Phrase {
        let (told, run) = &self.last;
        let story = told.story;
        let name = monitor_name(run).bold().link(links.run(told.event, run).as_ref());
        let environment = shown_value(named(&run.environment_name, &run.environment_uid), NAME);
        let place = Phrase::joined([environment, shown_value(run.region.as_deref(), WORD)], ", ");
        let name = if place.is_empty() { name } else { name.say(" (").then(place).say(")") };
        let counts = RESULTS.iter().zip(self.counts).filter(|(_, n)| *n > 0);
        let counts: Vec<String> = counts.map(|((_, word), n)| format!("{n} {word}")).collect();
        let line = name.say(": ").say(&counts.join(", "));
        let still_failing = Phrase::text("still failing").bold();
        match (self.is_failing(), story.failures) {
            (true, 2..) => {
                let streak = format!(", {} failed runs in a row{}", story.failures, since(story));
                line.say("; ").then(still_failing).say(&streak)
            }
            (true, _) => line.say("; ").then(still_failing),
            (false, _) if self.recovered => line.say("; now passing").say(&after(story)),
            (false, _) => line,
        }
    }
}

/// All monitors of one message.
pub(super) struct Tallies<'a> {
    tallies: Vec<Tally<'a>>,
}

impl<'a> Tallies<'a> {
    /// `runs` in the order in which they were; what stands last is how it is now.
    pub fn of(runs: &[(Told<'a>, &'a MonitorRun)]) -> Self {
        let mut tallies: Vec<Tally<'a>> = Vec::new();
        let mut known = HashMap::new();
        for &(told, run) in runs {
            let region = run.region.as_deref().unwrap_or_default();
            let at = *known.entry((&*run.monitor_uid, region)).or_insert_with(|| {
                tallies.push(Tally { last: (told, run), counts: [0; RESULTS.len()], recovered: false });
                tallies.len() - 1
            });
            tallies[at].add(told, run);
        }
        tallies.sort_by_cached_key(|tally| Reverse(tally.badness()));
        Self { tallies }
    }

    fn any_failing(&self) -> bool {
        self.tallies.iter().any(Tally::is_failing)
    }

    /// Red while anything fails, yellow if something did, else green. `None` without runs.
    pub fn color(&self) -> Option<Color> {
        match self.tallies.as_slice() {
            [] => None,
            _ if self.any_failing() => Some(Color::Red),
            tallies if tallies.iter().any(|tally| tally.failed() > 0) => Some(Color::Yellow),
            _ => Some(Color::Green),
        }
    }

    /// Failed runs.
    pub fn failed(&self) -> u64 {
        self.tallies.iter().map(Tally::failed).sum()
    }

    /// Successful runs.
    pub fn passed(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.counts.iter().sum::<u64>() - tally.failed()).sum()
    }

    /// Monitors that pass now and did not before, each region for itself.
    pub fn recovered(&self) -> u64 {
        self.tallies.iter().filter(|tally| tally.recovered && !tally.is_failing()).count() as u64
    }

    /// `14 runs failed in 3 monitors, 2 recovered, 5 runs passed`.
    pub fn headline(&self) -> String {
        let monitors: HashSet<_> =
            self.tallies.iter().filter(|t| t.failed() > 0).map(|t| &*t.last.1.monitor_uid).collect();
        let (failed, recovered, passed) = (self.failed(), self.recovered(), self.passed());
        let mut parts = Vec::new();
        if failed > 0 {
            let monitors = count(monitors.len() as u64, "monitor", "monitors");
            parts.push(format!("{} failed in {monitors}", count(failed, "run", "runs")));
        }
        match (failed, recovered) {
            (_, 0) => {}
            (0, _) => parts.push(format!("{} recovered", count(recovered, "monitor", "monitors"))),
            _ => parts.push(format!("{recovered} recovered")),
        }
        if passed > recovered {
            parts.push(format!("{} passed", count(passed, "run", "runs")));
        }
        parts.join(", ")
    }

    /// An item for each monitor and region.
    pub fn blocks(&self, links: &Links) -> impl Iterator<Item = Block> {
        self.tallies.iter().map(|tally| Block::Item(tally.line(links), tally.counts.iter().sum()))
    }
}
