//! What a message has to say, reckoned from its events alone: names letter by letter, and how many of what.

use std::collections::{HashMap, HashSet};

use hipchat_notifier::domain::event::{Activity, Event, MonitorRun, Subject};
use hipchat_notifier::domain::integration::Detail;

/// How many UTF-16 units of HTML a value of each kind has at least.
const NAME: usize = 200;
const WORD: usize = 60;
const REQUEST: usize = 120;
const TEST_MESSAGE: usize = 300;
const SENTENCE: usize = 500;
/// The longest that one character becomes in HTML (`&quot;`).
const WIDEST: usize = 6;
const TESTS_SHOWN: usize = 5;

/// Panics unless `shown`, which tells of one event, names all that the event does.
pub fn alone(shown: &str, event: &Event, detail: Detail) {
    match &event.subject {
        Subject::Run(run) => of_run(shown, run, detail),
        Subject::Activity(activity) => of_activity(shown, activity),
    }
}

/// Panics unless `shown`, which tells of several events, counts them and names each monitor.
pub fn together<'a>(shown: &str, events: impl Iterator<Item = &'a Event>) {
    let mut ids = HashSet::new();
    let (mut runs, mut activities) = (Vec::new(), 0);
    for event in events.filter(|event| ids.insert(&event.id)) {
        match &event.subject {
            Subject::Run(run) => runs.push(run),
            Subject::Activity(_) => activities += 1,
        }
    }
    let count = |n: usize, one: &str, many: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    };
    let failed = runs.iter().filter(|run| run.result.is_failed()).count();
    if ids.len() == 1 {
        // Maybe told as if it stood alone.
        return;
    }
    if failed > 0 {
        has(shown, &format!("{} failed in ", count(failed, "run", "runs")), "how many failed");
    }
    if !runs.is_empty() && activities > 0 {
        let (counted, more) = (
            count(activities, "activity", "activities"),
            count(activities, "more activity", "more activities"),
        );
        assert!(shown.contains(&counted) || shown.contains(&more), "{activities} activities in {shown:?}");
    }
    if shown.contains("… (shortened)") || shown.contains(" more") {
        return;
    }
    let last: HashMap<_, _> =
        runs.iter().map(|run| ((&run.monitor_uid, run.region.as_deref().unwrap_or_default()), run)).collect();
    for run in last.values() {
        names(shown, run.monitor_name.as_deref().or(Some(&*run.monitor_uid)), NAME);
    }
}

fn of_run(shown: &str, run: &MonitorRun, detail: Detail) {
    names(shown, run.monitor_name.as_deref().or(Some(&*run.monitor_uid)), NAME);
    names(shown, run.region.as_deref(), WORD);
    names(shown, run.environment_name.as_deref(), NAME);
    if detail == Detail::Compact {
        return;
    }
    names(shown, run.collection_name.as_deref().or(run.collection_uid.as_deref()), NAME);
    names(shown, run.environment_name.as_deref().or(run.environment_uid.as_deref()), NAME);
    names(shown, run.trigger.as_deref(), WORD);
    if !run.result.is_failed() {
        return;
    }
    for test in run.failures.iter().take(TESTS_SHOWN) {
        names(shown, test.request.as_deref(), REQUEST);
        names(shown, test.test.as_deref(), NAME);
        names(shown, test.message.as_deref(), TEST_MESSAGE);
    }
    let (failed, errors) = (run.metrics.failed_tests.unwrap_or(0), run.metrics.errors.unwrap_or(0));
    let all = failed.saturating_add(errors).max(run.failures.len() as u64);
    let left = all - run.failures.len().min(TESTS_SHOWN) as u64;
    if left > 0 && !run.failures.is_empty() {
        has(shown, &format!("and {left} more"), "what is left out");
    }
}

fn of_activity(shown: &str, activity: &Activity) {
    let a = activity;
    match &a.message {
        None => {
            names(shown, a.user_name.as_deref(), NAME);
            if a.user_name.is_none() {
                names(shown, a.user_id.as_deref(), WORD);
            }
            // The verbs that are known read as what they mean.
            if a.action.contains(|c: char| !c.is_ascii_alphabetic()) {
                names(shown, Some(&a.action), WORD);
            }
            names(shown, Some(&a.model), WORD);
        }
        Some(message) => {
            names(shown, a.user_name.as_deref(), NAME);
            names(shown, Some(message.trim_end_matches('.')), SENTENCE);
        }
    }
    names(shown, a.model_name.as_deref().or(a.model_uid.as_deref()), NAME);
    if !a.model.eq_ignore_ascii_case("collection") {
        names(shown, a.collection_name.as_deref().or(a.collection_uid.as_deref()), NAME);
    }
    names(shown, a.workspace_name.as_deref().or(a.workspace_id.as_deref()), NAME);
}

/// `value`, where nothing of it is to be cleaned away or cut, stands in `shown` as it is.
fn names(shown: &str, value: Option<&str>, width: usize) {
    let Some(value) = value else { return };
    let is_clean = value.bytes().all(|b| matches!(b, b' '..=b'~'))
        && !value.contains("  ")
        && value.trim().len() == value.len();
    if is_clean && value.len() * WIDEST <= width {
        has(shown, value, "a name");
    }
}

fn has(shown: &str, part: &str, what: &str) {
    assert!(shown.contains(part), "{what}, {part:?}, is not in {shown:?}");
}
