//! The contract's rules once more, as plainly as possible and with nothing of the worker's own: what of a history of
//! runs and activities is told.

use super::wishes::Rule;

/// What becomes of one event for one integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Told(&'static str),
    Suppressed(&'static str),
}

/// What the room was told last of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Believes {
    #[default]
    Passing,
    Failing,
    /// Something was lost on its way, or the room is another.
    Unsure,
}

/// A monitor's history in one region, as one integration heard of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct History {
    pub failed_in_a_row: u32,
    /// In microseconds.
    pub newest: Option<i64>,
    pub believes: Believes,
    /// The latest notification that tells of it.
    pub news: u64,
}

/// A finished run; times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub failed: bool,
    pub finished_at: Option<i64>,
    pub received_at: i64,
}

impl History {
    pub fn judge(&mut self, rule: Rule, run: Run) -> Verdict {
        use Verdict::{Suppressed, Told};
        if run.finished_at.zip(self.newest).is_some_and(|(this, newest)| this < newest) {
            return match rule {
                Rule::All => Told("stale"),
                Rule::Failures if !run.failed => Suppressed("success-not-wanted"),
                Rule::Failures | Rule::FailuresAndRecovery if run.failed => Told("stale"),
                _ => Suppressed("stale"),
            };
        }
        self.newest = self.newest.max(run.finished_at.map(|at| at.min(run.received_at)));
        if run.failed { self.failure(rule) } else { self.success(rule) }
    }

    fn failure(&mut self, rule: Rule) -> Verdict {
        use Verdict::{Suppressed, Told};
        self.failed_in_a_row += 1;
        let nth = self.failed_in_a_row;
        let verdict = match rule {
            Rule::All => Told("every-run"),
            Rule::Failures | Rule::FailuresAndRecovery => Told("failure"),
            Rule::FailuresThenSuccess(n) if nth <= n => Told("failure"),
            Rule::FailuresThenSuccess(_) => Suppressed("failures-already-told"),
            Rule::AfterFailures(n) if nth < n => return Suppressed("below-threshold"),
            Rule::AfterFailures(n) if nth == n => Told("threshold-reached"),
            Rule::Changes if nth == 1 => Told("failure"),
            Rule::AfterFailures(_) | Rule::Changes => Suppressed("already-failing"),
        };
        let verdict = match verdict {
            Suppressed(_) if self.believes != Believes::Failing => Told("still-failing"),
            verdict => verdict,
        };
        if matches!(verdict, Told(_)) {
            self.believes = Believes::Failing;
        }
        verdict
    }

    fn success(&mut self, rule: Rule) -> Verdict {
        use Verdict::{Suppressed, Told};
        let failed = std::mem::take(&mut self.failed_in_a_row) > 0;
        let knows_it_passes = self.believes == Believes::Passing;
        match rule {
            Rule::Failures => return Suppressed("success-not-wanted"),
            Rule::All if knows_it_passes && !failed => return Told("every-run"),
            Rule::All => {}
            _ if knows_it_passes && failed => return Suppressed("below-threshold"),
            _ if knows_it_passes => return Suppressed("still-passing"),
            _ => {}
        }
        self.believes = Believes::Passing;
        Told("recovered")
    }
}

/// Of one user's doings on one instance: told at once, or gathered until the end of what the first of them began.
pub fn repeat(until: &mut Option<i64>, collate_seconds: u64, received_at: i64) -> Verdict {
    if until.is_some_and(|until| received_at < until) {
        return Verdict::Told("collated");
    }
    if collate_seconds > 0 {
        let collate = i64::try_from(collate_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        *until = Some(received_at.saturating_add(collate));
    }
    Verdict::Told("activity")
}
