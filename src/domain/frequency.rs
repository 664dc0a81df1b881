//! Monitor results: which runs are news, by each integration's rule and its streak.

use jiff::Timestamp;

use super::event::MonitorRun;
use super::integration::RunRule;
use super::reason::{SendReason, SuppressReason};
use super::story::Story;

/// What is known of the latest runs of one monitor in one region, as one integration heard of them.
/// Before any run is known the state is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streak {
    /// Failed runs in a row; 0 while it succeeds.
    pub failures: u32,
    /// When the first of them was.
    pub first_failed_at: Option<Timestamp>,
    /// The latest `finished_at` seen.
    pub newest: Option<Timestamp>,
    /// The room may have missed that it is failing (a pause, a suspension): the next failure is told whatever
    /// the count.
    pub retell: bool,
}

/// Whether a run is told, and why or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Tell(Story),
    Suppress(SuppressReason),
}

/// Decides one run by `rule` and moves the streak. `received_at` dates a failure that carries no time.
pub fn decide(rule: RunRule, streak: &mut Streak, run: &MonitorRun, received_at: Timestamp) -> Verdict {
    let stale = matches!((run.finished_at, streak.newest), (Some(this), Some(newest)) if this < newest);
    let _ = (rule, stale, received_at, SendReason::Failure);
    unimplemented!()
}
