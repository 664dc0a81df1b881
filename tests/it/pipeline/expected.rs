//! What must come of a workload, computed once more and as plainly as possible: the contract's words, applied
//! to whole histories, with nothing shared with the program.

use std::collections::BTreeMap;

use super::wishes::{Interest, Rule, Telling, Wish};
use super::workload::{Means, Workload};

/// What an integration must hear of an event: places of both in the workload.
pub type Pair = (usize, usize);

/// The decision about one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Told, alone with this reason or merged with others.
    Told(&'static str),
    Suppressed(&'static str),
    /// An activity: whether it is a repeat depends on when it came; see [`repeats`].
    Activity(Telling),
}

/// One run in the history of an integration, monitor and region.
#[derive(Debug, Clone, Copy)]
struct Run {
    event: usize,
    failed: bool,
    finished_at: Option<i64>,
}

/// Every event's decision for every integration that wants it.
pub fn verdicts(work: &Workload) -> BTreeMap<Pair, Verdict> {
    let mut all = BTreeMap::new();
    for (w, wish) in work.wishes.iter().enumerate() {
        let mut histories: BTreeMap<(&str, &str), Vec<Run>> = BTreeMap::new();
        for (e, event) in work.events.iter().enumerate().filter(|(_, event)| wants(wish, &event.means)) {
            match (&wish.interest, &event.means) {
                _ if wish.paused => drop(all.insert((e, w), Verdict::Suppressed("integration-paused"))),
                (_, Means::Run { monitor, region, failed, finished_at, .. }) => histories
                    .entry((monitor, region))
                    .or_default()
                    .push(Run { event: e, failed: *failed, finished_at: *finished_at }),
                (Interest::Activities { telling, .. }, _) => {
                    all.insert((e, w), Verdict::Activity(*telling));
                }
                _ => unreachable!("an activity for a monitor's integration"),
            }
        }
        let Interest::Runs { rule, .. } = wish.interest else { continue };
        for history in histories.values() {
            all.extend((0..history.len()).map(|n| ((history[n].event, w), judge(rule, history, n))));
        }
    }
    all
}

fn wants(wish: &Wish, means: &Means) -> bool {
    let in_team = |team: &String| wish.team.as_ref().is_none_or(|wanted| wanted == team);
    match (&wish.interest, means) {
        (Interest::Runs { monitors, .. }, Means::Run { team, monitor, .. }) => {
            in_team(team) && (monitors.is_empty() || monitors.iter().any(|glob| matches(glob, monitor)))
        }
        (Interest::Activities { models, not_users, .. }, Means::Activity { team, model, user, .. }) => {
            let name = format!("Name of {user}");
            in_team(team)
                && (models.is_empty() || models.iter().any(|glob| matches(glob, model)))
                && !not_users.iter().any(|glob| matches(glob, user) || matches(glob, &name))
        }
        _ => false,
    }
}

fn matches(glob: &str, text: &str) -> bool {
    glob.strip_suffix('*').map_or(glob == text, |start| text.starts_with(start))
}

/// The contract's table, for the run at `n` of a history.
fn judge(rule: Rule, history: &[Run], n: usize) -> Verdict {
    use Verdict::{Suppressed, Told};
    let this = history[n];
    let is_late = |at: usize| {
        let ends = |run: &Run| run.finished_at;
        history[..at].iter().filter_map(ends).any(|earlier| ends(&history[at]).is_some_and(|t| t < earlier))
    };
    if is_late(n) {
        return match (rule, this.failed) {
            (Rule::All, _) | (Rule::Failures | Rule::FailuresAndRecovery, true) => Told("stale"),
            (Rule::Failures, false) => Suppressed("success-not-wanted"),
            _ => Suppressed("stale"),
        };
    }
    // How many runs right before this one failed.
    let before = (0..n).rev().filter(|at| !is_late(*at)).take_while(|at| history[*at].failed).count() as u32;
    if this.failed {
        failure(rule, before + 1)
    } else {
        match rule {
            Rule::Failures => Suppressed("success-not-wanted"),
            Rule::All if before == 0 => Told("every-run"),
            _ if before == 0 => Suppressed("still-passing"),
            Rule::AfterFailures(wanted) if before < wanted => Suppressed("below-threshold"),
            _ => Told("recovered"),
        }
    }
}

/// The `nth` failure in a row.
fn failure(rule: Rule, nth: u32) -> Verdict {
    use Verdict::{Suppressed, Told};
    match rule {
        Rule::All => Told("every-run"),
        Rule::Failures | Rule::FailuresAndRecovery => Told("failure"),
        Rule::FailuresThenSuccess(wanted) if nth <= wanted => Told("failure"),
        Rule::FailuresThenSuccess(_) => Suppressed("failures-already-told"),
        Rule::AfterFailures(wanted) if nth == wanted => Told("threshold-reached"),
        Rule::AfterFailures(wanted) if nth < wanted => Suppressed("below-threshold"),
        Rule::Changes if nth == 1 => Told("failure"),
        Rule::AfterFailures(_) | Rule::Changes => Suppressed("already-failing"),
    }
}

/// What is told in one message with others of its integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gathered {
    /// All activities of an interval, by its number.
    Interval(i64),
    /// The repeats of this event. (Not the time at which it came: events of one batch may have the same.)
    RepeatsOf(usize),
}

/// Of activities by one user on one instance, which came as these events at these times (in microseconds, in order):
/// the reason by which each is told, and with which others.
pub fn repeats(telling: Telling, came: &[(usize, i64)]) -> Vec<(&'static str, Option<Gathered>)> {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).expect("short");
    let mut first = None;
    came.iter()
        .map(|(event, at)| match telling {
            Telling::Digest { every } => ("scheduled-digest", Some(Gathered::Interval(at / micros(every)))),
            Telling::Each { collate } => match first {
                Some((first, start)) if *at < start + micros(collate) => {
                    ("collated", Some(Gathered::RepeatsOf(first)))
                }
                _ => {
                    first = Some((*event, *at));
                    ("activity", None)
                }
            },
        })
        .collect()
}
