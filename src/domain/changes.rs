//! Which integrations a change is about, as logs name them.

use std::fmt;

use super::ids::IntegrationId;

/// Ids named of each kind; a change of thousands must not fill a log line.
const NAMED: usize = 10;

/// The integrations that a change added, changed and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    pub added: Vec<IntegrationId>,
    pub changed: Vec<IntegrationId>,
    pub removed: Vec<IntegrationId>,
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let told: Vec<String> = kinds
            .into_iter()
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(word, ids)| format!("{word} {}", named(ids)))
            .collect();
        if told.is_empty() { f.write_str("nothing changed") } else { f.write_str(&told.join("; ")) }
    }
}

/// `a, b and 3 more`.
pub fn named(ids: &[IntegrationId]) -> String {
    let first: Vec<&str> = ids.iter().take(NAMED).map(IntegrationId::as_str).collect();
    let more = ids.len().saturating_sub(NAMED);
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_its_integrations_but_not_thousands_of_them() {
        let ids = |from: usize, to: usize| (from..to).map(|n| IntegrationId::new(format!("i{n}"))).collect();
        let mut changes = Changes::default();
        assert_eq!((changes.is_empty(), changes.to_string()), (true, "nothing changed".to_owned()));
        changes.added = ids(0, 2);
        changes.removed = ids(100, 5_000);
        assert_eq!(
            changes.to_string(),
            "added i0, i1; removed i100, i101, i102, i103, i104, i105, i106, i107, i108, i109 and 4890 more"
        );
    }
}
