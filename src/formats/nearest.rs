//! "Did you mean": the known name that a misspelt one is nearest to.

/// The name of `known` that `found` is most likely a slip of; `None` when none is near enough to be more help
/// than confusion. Of equally near ones the first.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = normal(found);
    let limit = (found.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, &normal(name)), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Case, and which of `-` and `_` joins words, are slips that count for nothing.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["messages", "per", "overflow", "room_url"];
        for (found, expected) in [
            ("mesages", Some("messages")),
            ("Room-URL", Some("room_url")),
            ("pre", Some("per")),
            ("overlfow", Some("overflow")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, known), expected, "{found}");
        }
    }
}
