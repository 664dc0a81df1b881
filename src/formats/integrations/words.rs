//! The words that stand for the domain's choices in the file and in the store.

use crate::domain::integration::{Detail, Overflow, Ping};

/// `notify.on` for monitor results, and whether the rule counts `failures`.
pub(super) const RUN_RULES: [(&str, bool); 6] = [
    ("all", false),
    ("failures-then-success", true),
    ("failures", false),
    ("failures-and-recovery", false),
    ("after-failures", true),
    ("changes", false),
];

/// `notify.on` for team activity, and the field that the rule takes.
pub(super) const ACTIVITY_RULES: [(&str, &str); 2] = [("each", "collate"), ("digest", "every")];

pub(super) const KINDS: [&str; 2] = [MONITOR_RESULTS, TEAM_ACTIVITY];
pub(super) const MONITOR_RESULTS: &str = "monitor-results";
pub(super) const TEAM_ACTIVITY: &str = "team-activity";

pub(super) const OVERFLOWS: [(&str, Overflow); 2] =
    [("digest", Overflow::Digest), ("queue", Overflow::Queue)];
pub(super) const DETAILS: [(&str, Detail); 2] = [("full", Detail::Full), ("compact", Detail::Compact)];
pub(super) const PINGS: [(&str, Ping); 3] =
    [("failures", Ping::Failures), ("all", Ping::All), ("never", Ping::Never)];

/// The value that `word` stands for.
pub(super) fn meaning<T: Copy>(words: &[(&'static str, T)], word: &str) -> Option<T> {
    words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
}

/// The words of a table.
pub(super) fn of<T>(words: &[(&'static str, T)]) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

/// `"a", "b" or "c"`.
pub(super) fn choices(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
