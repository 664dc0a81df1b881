//! From file to domain and back; what the store's JSON tolerates. Faults are in `tests/it/settings.rs`.

use std::io;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::ids::{IntegrationId, TeamId};
use crate::domain::integration::{
    ActivityRule, Detail, Glob, Interest, MessageStyle, Overflow, Ping, RunRule, Throttle,
};
use crate::domain::pacing::Budget;

fn read(text: &str) -> Result<Vec<Definition>, IntegrationFaults> {
    read_file_text(
        text,
        &SecretSources {
            env: &|_| None,
            read_file: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
            check_url: &|_| {
                Ok(RoomRef { room: RoomKey::new("https://h/v2/room/1"), token: TokenKey::new("t") })
            },
        },
    )
}

fn integration(fields: &str) -> Integration {
    let text = format!("[[integrations]]\nid = \"a\"\nroom_url = \"u\"\n{fields}");
    let definitions = read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    integration_of(&definitions[0], IntegrationState::Active).unwrap()
}

fn stored_json(json: &str) -> Result<Integration, String> {
    let definition = Definition {
        id: IntegrationId::new("a"),
        json: json.to_owned(),
        room_url: "u".into(),
        room: RoomKey::new("r"),
        token: TokenKey::new("t"),
        paused: false,
    };
    integration_of(&definition, IntegrationState::Active)
}

#[test]
fn an_integration_that_says_little_gets_the_defaults() {
    let monitors = integration("kind = \"monitor-results\"");
    assert_eq!(monitors.name, "a");
    assert_eq!(monitors.team, None);
    assert_eq!(
        monitors.interest,
        Interest::MonitorResults { monitors: Box::default(), rule: RunRule::DEFAULT }
    );
    assert_eq!(monitors.throttle, Throttle::default());
    assert_eq!(monitors.message, MessageStyle::default());
    let activity = integration("kind = \"team-activity\"");
    let rule = ActivityRule::Each { collate: ActivityRule::DEFAULT_COLLATE };
    assert!(matches!(activity.interest, Interest::TeamActivity { rule: found, .. } if found == rule));
    let digest = integration("kind = \"team-activity\"\nnotify.on = \"digest\"");
    let rule = ActivityRule::Digest { every: Duration::from_secs(3600) };
    assert!(matches!(digest.interest, Interest::TeamActivity { rule: found, .. } if found == rule));
}

#[test]
fn filters_reach_the_field_of_their_name() {
    let feed = integration(
        "kind = \"team-activity\"\nmodels = [\"m\"]\nnot_actions = [\"a*\"]\nusers = [\"u\"]\ncollections = [\"c\"]\nnot_workspaces = [\"w\"]",
    );
    let Interest::TeamActivity { filters, .. } = feed.interest else { panic!("another kind") };
    assert!(filters.models.passes(&[Some("m")]) && !filters.models.passes(&[Some("n")]));
    assert!(!filters.actions.passes(&[Some("any")]) && filters.actions.passes(&[Some("b")]));
    assert!(filters.users.passes(&[Some("u")]) && !filters.users.passes(&[Some("m")]));
    assert!(filters.collections.passes(&[Some("c")]) && !filters.collections.passes(&[Some("m")]));
    assert!(!filters.workspaces.passes(&[Some("w")]) && filters.workspaces.passes(&[Some("m")]));
}

#[test]
fn a_pattern_has_an_end_and_so_has_what_is_held_against_it() {
    let of = |pattern: &str| {
        format!(
            "[[integrations]]\nid = \"a\"\nroom_url = \"u\"\nkind = \"team-activity\"\nusers = [\"{pattern}\"]"
        )
    };
    assert!(read(&of(&"*".repeat(1_000))).is_ok());
    let faults = read(&of(&"*?".repeat(5_000))).unwrap_err().to_string();
    assert!(
        faults.contains("users") && faults.contains("too long; write at most 1000 characters"),
        "{faults}"
    );
    assert!(faults.len() < 300, "{faults}");

    let long = "x".repeat(1_000_000) + "end";
    assert!(Glob::new("x*").matches(&long) && !Glob::new("*end").matches(&long));
    assert!(Glob::new("*ä").matches(&("ä".repeat(512) + "x")), "cut at the end of a character");
    assert!(Glob::new(&long).matches(&long), "without a wildcard it is the value");
}

#[test]
fn words_of_the_rules_are_the_domains() {
    let rules = words::RUN_RULES.map(|(word, _)| {
        let Interest::MonitorResults { rule, .. } =
            integration(&format!("kind = \"monitor-results\"\nnotify.on = \"{word}\"")).interest
        else {
            panic!("another kind")
        };
        assert_eq!(rule.as_str(), word);
        rule
    });
    assert_eq!(rules[1], RunRule::DEFAULT);
    assert_eq!(rules[4], RunRule::AfterFailures { failures: 3 });
    for (word, _) in words::ACTIVITY_RULES {
        let found = integration(&format!("kind = \"team-activity\"\nnotify.on = \"{word}\"")).interest;
        assert_eq!((found.notify_on(), found.kind()), (word, words::TEAM_ACTIVITY));
    }
}

#[test]
fn stored_json_of_a_later_version_is_read_as_far_as_it_is_understood() {
    let later = r#"{"version":2,"id":"a","name":"A","kind":"monitor-results","colour":"red",
        "notify":{"on":"failures","quietly":true},"throttle":{"overflow":"queue","burst":3}}"#;
    let read = stored_json(later).unwrap();
    assert_eq!(read.interest, Interest::MonitorResults { monitors: Box::default(), rule: RunRule::Failures });
    assert_eq!(read.throttle.overflow, Overflow::Queue);

    let unknown = later.replace("\"failures\"", "\"hourly\"");
    assert_eq!(
        stored_json(&unknown).unwrap_err(),
        "integration \"a\": notify.on \"hourly\" in its stored definition (version 2) is unknown to this version of \
         hipchat-notifier; apply the integration again, or run the version that stored it"
    );
    let broken = stored_json("{\"version\":1").unwrap_err();
    assert!(broken.starts_with("integration \"a\": its stored definition cannot be read: "), "{broken}");
}

#[test]
fn the_same_file_makes_the_same_json() {
    let text = "[[integrations]]\nid = \"a\"\nkind = \"monitor-results\"\nroom_url = \"u\"\n";
    let explicit = format!(
        "{text}name = \"a\"\npaused = false\nnotify = {{ failures = 3 }}\nmessage = {{ ping = \"failures\" }}\n"
    );
    let of = |text: &str| read(text).unwrap().remove(0).json;
    assert_eq!(of(text), of(&explicit));
    assert_eq!(
        of(text),
        r#"{"version":1,"id":"a","name":"a","kind":"monitor-results","paused":false,"notify":{"on":"failures-then-success","failures":3},"throttle":{"overflow":"digest"},"message":{"detail":"full","ping":"failures"}}"#
    );
}

#[test]
fn a_fault_names_its_line_whatever_ends_the_lines_before_it() {
    for (before, line) in [("", 2), ("# a\n", 3), ("\n\n", 4), ("# a\r\n# ü\r\n", 4)] {
        let faults = read(&format!("{before}[[integrations]]\nid = 1")).unwrap_err();
        assert!(faults.faults().iter().any(|f| f.field == "id" && f.line == line), "{before:?}: {faults}");
    }
}

#[test]
fn a_file_that_is_wrong_throughout_shows_its_first_faults_and_counts_the_others() {
    let text = |n: usize| {
        (0..n)
            .map(|n| format!("[[integrations]]\nid = \"a{n}\"\nkind = \"no\"\nroom_url = \"u\"\n"))
            .collect::<String>()
    };
    let shown = |n: usize| read(&text(n)).unwrap_err().to_string();
    assert_eq!(shown(50).lines().count(), 50);
    assert_eq!(shown(51).lines().last(), Some("and 1 more fault"));
    assert_eq!(shown(51).lines().count(), 51);
    assert_eq!(shown(70).lines().last(), Some("and 20 more faults"));
}

#[test]
fn a_refused_room_url_hides_its_tokens_and_nothing_else() {
    let refused = |url: &str, problem: &str| {
        let sources = SecretSources {
            env: &|_| None,
            read_file: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
            check_url: &|_| Err(problem.to_owned()),
        };
        let text =
            format!("[[integrations]]\nid = \"a\"\nkind = \"team-activity\"\nroom_url = {}", quoted(url));
        read_file_text(&text, &sources).unwrap_err().faults()[0].problem.clone()
    };
    let twice = "the room URL has more than one auth_token: keep one";
    assert_eq!(refused("https://h/?auth_token=a&auth_token=o", twice), twice);
    assert_eq!(
        refused("https://h/?auth_token=first-token&auth_token=other-token", "first-token and other-token"),
        "(not shown) and (not shown)"
    );
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

prop_compose! {
    fn budgets()(budget in prop::option::of((1u32..1_000_000, 1_000u64..604_800_000))) -> Option<Budget> {
        budget.map(|(messages, ms)| Budget { messages, per: Duration::from_millis(ms) })
    }
}

fn styles() -> impl Strategy<Value = (Overflow, Detail, Ping)> {
    (
        prop::sample::select(words::OVERFLOWS.map(|(_, v)| v).to_vec()),
        prop::sample::select(words::DETAILS.map(|(_, v)| v).to_vec()),
        prop::sample::select(words::PINGS.map(|(_, v)| v).to_vec()),
    )
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map(|(word, _)| *word).unwrap()
}

fn rules() -> impl Strategy<Value = RunRule> {
    prop_oneof![
        Just(RunRule::All),
        Just(RunRule::Failures),
        Just(RunRule::FailuresAndRecovery),
        Just(RunRule::Changes),
        (1u32..100).prop_map(|failures| RunRule::FailuresThenSuccess { failures }),
        (1u32..100).prop_map(|failures| RunRule::AfterFailures { failures }),
    ]
}

proptest! {
    /// File to definition to integration: what was written is what is meant.
    #[test]
    fn what_is_written_is_what_is_meant(
        id in "[a-z0-9-]{1,64}",
        name in "[^\\s\\pC]\\PC{0,40}[^\\s\\pC]",
        team in prop::option::of("[a-z]{1,9}"),
        paused: bool,
        rule in rules(),
        budget in budgets(),
        (overflow, detail, ping) in styles(),
    ) {
        let mut text = format!("[[integrations]]\nid = \"{id}\"\nname = {}\nkind = \"monitor-results\"\nroom_url = \"u\"\npaused = {paused}\n", quoted(&name));
        if let Some(team) = &team {
            text.push_str(&format!("team = \"{team}\"\n"));
        }
        text.push_str(&format!("notify.on = \"{}\"\n", rule.as_str()));
        if let RunRule::FailuresThenSuccess { failures } | RunRule::AfterFailures { failures } = rule {
            text.push_str(&format!("notify.failures = {failures}\n"));
        }
        text.push_str(&format!("throttle.overflow = \"{}\"\n", word_of(&words::OVERFLOWS, &overflow)));
        if let Some(Budget { messages, per }) = budget {
            let per = crate::formats::duration::format(per);
            text.push_str(&format!("throttle.messages = {messages}\nthrottle.per = \"{per}\"\n"));
        }
        let words = (word_of(&words::DETAILS, &detail), word_of(&words::PINGS, &ping));
        text.push_str(&format!("message = {{ detail = \"{}\", ping = \"{}\" }}\n", words.0, words.1));

        let definition = read(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?.remove(0);
        prop_assert_eq!(definition.paused, paused);
        let read = integration_of(&definition, IntegrationState::Paused).map_err(TestCaseError::fail)?;
        let meant = Integration {
            id: IntegrationId::new(&id),
            name,
            team: team.map(TeamId::new),
            interest: Interest::MonitorResults { monitors: Box::default(), rule },
            room: definition.room.clone(),
            token: definition.token.clone(),
            throttle: Throttle { budget, overflow },
            message: MessageStyle { detail, ping },
            state: IntegrationState::Paused,
        };
        prop_assert_eq!(read, meant);
        let again = IntegrationSpec::from_json(&definition.json).unwrap().to_stored_json().unwrap();
        prop_assert_eq!(again, definition.json);
    }

    /// Whatever is in the file, reading ends with definitions or with faults that name a line of it.
    #[test]
    fn no_file_panics(text in "(\\[\\[integrations\\]\\]\n|(id|kind|notify|throttle\\.per|monitors|room_url|\u{fe0f})( = |=)(\"[a-z]{0,3}\"|[0-9-]{1,25}|true|\\[|\\{\\}|''|1e9)\n|\\PC{0,8}\n){0,12}") {
        if let Err(faults) = read(&text) {
            let lines = text.lines().count() + 1;
            prop_assert!(!faults.faults().is_empty());
            prop_assert!(faults.faults().iter().all(|fault| (1..=lines).contains(&fault.line)));
        }
    }
}
