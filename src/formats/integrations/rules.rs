//! `[integrations.notify]`: the frequency rule of an integration, by its kind.

use std::time::Duration;

use super::fields::{Fields, Report};
use super::read::{LONGEST_PERIOD, SHORTEST};
use super::spec::{DEFAULT_EVERY, NotifySpec};
use super::words::{self, ACTIVITY_RULES, MONITOR_RESULTS, RUN_RULES, TEAM_ACTIVITY, choices};
use crate::domain::integration::{ActivityRule, RunRule};
use crate::formats::duration;

/// `failures`: what Postman's own setting allows.
const FAILURES: std::ops::RangeInclusive<u32> = 1..=99;
/// Repeats told later than this are no news.
const LONGEST_COLLATE: Duration = Duration::from_secs(24 * 60 * 60);

/// `notify.on`, if it is a word of this kind; `None` when it is left out or a fault.
fn rule_word(
    notify: &Fields<'_>,
    report: &mut Report<'_>,
    kind: &str,
    mine: &[&'static str],
    others: &[&'static str],
) -> Option<&'static str> {
    let text = notify.get("on").and_then(|on| on.get_ref().as_str());
    if text.is_some_and(|text| others.contains(&text)) {
        let fix = format!("write {}", choices(mine));
        notify.fault_at(report, "on", &format!("not a rule for kind = \"{kind}\""), &fix);
        return None;
    }
    notify.word(report, "on", mine)
}

/// The rule of an integration for monitor results.
pub(super) fn run_rule(notify: &Fields<'_>, report: &mut Report<'_>) -> NotifySpec {
    let (mine, others) = (words::of(&RUN_RULES), words::of(&ACTIVITY_RULES));
    for field in ["collate", "every"] {
        if notify.get(field).is_some() {
            notify.fault_at(report, field, "only for kind = \"team-activity\"", "leave it out");
        }
    }
    let failures = notify.number(report, "failures", FAILURES);
    let given = rule_word(notify, report, MONITOR_RESULTS, &mine, &others);
    let on = given.unwrap_or(RunRule::DEFAULT.as_str());
    let counts = words::meaning(&RUN_RULES, on).unwrap_or_default();
    // With a faulty `on` nobody knows whether `failures` fits.
    if !counts && notify.get("failures").is_some() && given.is_some() {
        let fix = "leave it out, or write on = \"failures-then-success\" or \"after-failures\"";
        notify.fault_at(report, "failures", &format!("on = \"{on}\" counts no failures"), fix);
    }
    let failures = counts.then(|| failures.unwrap_or(RunRule::DEFAULT_FAILURES));
    NotifySpec { on: on.to_owned(), failures, ..NotifySpec::default() }
}

/// The rule of an integration for team activity.
pub(super) fn activity_rule(notify: &Fields<'_>, report: &mut Report<'_>) -> NotifySpec {
    let (mine, others) = (words::of(&ACTIVITY_RULES), words::of(&RUN_RULES));
    if notify.get("failures").is_some() {
        notify.fault_at(report, "failures", "only for kind = \"monitor-results\"", "leave it out");
    }
    let collate = notify.duration(report, "collate", SHORTEST..=LONGEST_COLLATE, true);
    let every = notify.duration(report, "every", SHORTEST..=LONGEST_PERIOD, false);
    let word = rule_word(notify, report, TEAM_ACTIVITY, &mine, &others);
    // With a faulty `on` nobody knows which field fits.
    let misplaced = if notify.get("on").is_some() && word.is_none() { &[][..] } else { &ACTIVITY_RULES };
    let on = word.unwrap_or(mine[0]);
    for (rule, field) in misplaced {
        if *rule != on && notify.get(field).is_some() {
            let fix = format!("leave it out, or write on = \"{rule}\"");
            notify.fault_at(report, field, &format!("on = \"{on}\" has no {field}"), &fix);
        }
    }
    let each = on == mine[0];
    let collate = each.then(|| duration::format(collate.unwrap_or(ActivityRule::DEFAULT_COLLATE)));
    let every = (!each).then(|| duration::format(every.unwrap_or(DEFAULT_EVERY)));
    NotifySpec { on: on.to_owned(), failures: None, collate, every }
}
