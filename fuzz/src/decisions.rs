//! `simulate` and the worker decide alike: events one after another on the whole state, as `simulate` takes them,
//! and in batches cut anywhere on a store that gives only what a batch asks for, as the worker does.
//!
//! The input is a text: events as in `envelope`, each after a line `==`; `==|` begins a new batch. An event comes in
//! a minute after the one before it, or so many seconds after the first as `at: …` above it says.

use std::sync::LazyLock;

use hipchat_notifier::adapters::hipchat::{Egress, parse_room_url, token_key};
use hipchat_notifier::domain::envelope::{Envelope, Received};
use hipchat_notifier::domain::intake::{Fate, IntakeState};
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::formats::integrations::{RoomRef, SecretSources, integration_of, read_file_text};
use hipchat_notifier::ports::{IntakeQuery, ManagedBy, Stored};
use hipchat_notifier::worker::batch::{self, Read};
use hipchat_notifier::worker::catalogue::{Opened, Snapshot};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use crate::envelope;

const EVENTS: usize = 64;
/// In seconds.
const A_YEAR: i64 = 366 * 24 * 60 * 60;

/// Every rule, and teams, monitors and filters that want different events.
const INTEGRATIONS: &str = r#"
[[integrations]]
id = "all"
kind = "monitor-results"
notify.on = "all"
[[integrations]]
id = "default"
kind = "monitor-results"
monitors = ["m*"]
[[integrations]]
id = "failures"
kind = "monitor-results"
notify.on = "failures"
team = "acme"
[[integrations]]
id = "recovery"
kind = "monitor-results"
notify.on = "failures-and-recovery"
[[integrations]]
id = "threshold"
kind = "monitor-results"
notify = { on = "after-failures", failures = 2 }
monitors = ["m-1", "m-2"]
[[integrations]]
id = "changes"
kind = "monitor-results"
notify.on = "changes"
[[integrations]]
id = "paused"
kind = "monitor-results"
paused = true
[[integrations]]
id = "feed"
kind = "team-activity"
[[integrations]]
id = "digest"
kind = "team-activity"
notify = { on = "digest", every = "1h" }
not_actions = ["delete*"]
"#;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let check_url = |url: &str| {
        let target = parse_room_url(url, &Egress::default()).map_err(|error| error.to_string())?;
        Ok(RoomRef { token: token_key(&target), room: target.room })
    };
    let url = "room_url = \"https://acme.hipchat.com/v2/room/42/notification?auth_token=t\"\nid =";
    let text = INTEGRATIONS.replace("id =", url);
    let sources = SecretSources { env: &|_| None, read_file: &|_| Ok(String::new()), check_url: &check_url };
    let definitions = read_file_text(&text, &sources).unwrap_or_else(|faults| panic!("{faults}"));
    let stored: Vec<Stored> = definitions
        .into_iter()
        .map(|definition| {
            let state = if definition.paused { IntegrationState::Paused } else { IntegrationState::Active };
            Stored { definition, managed_by: ManagedBy::Operator, state, pending: 0, unreadable: None }
        })
        .collect();
    let (snapshot, unusable) = Snapshot::build(1, &stored, &|stored| {
        let integration = integration_of(&stored.definition, stored.state.clone())?;
        let target = parse_room_url(stored.definition.room_url.expose_secret(), &Egress::default());
        Ok(Opened { integration, target: target.map_err(|error| error.to_string()) })
    });
    assert!(unusable.is_empty(), "all can be used");
    snapshot
});

pub fn check(input: &[u8]) {
    let mut batches: Vec<Vec<Read>> = vec![Vec::new()];
    let now = Timestamp::from_second(1_764_000_000).expect("a time");
    for (n, (cut, text)) in envelope::several(input).into_iter().take(EVENTS).enumerate() {
        let mut envelope: Envelope = envelope::read(text);
        // Ids that the worker makes are other ones each time.
        envelope.message_id.get_or_insert_with(|| format!("event-{n}"));
        let at: Option<i64> = envelope.headers.remove("at").and_then(|at| at.parse().ok());
        let at = SignedDuration::from_secs(at.unwrap_or(60 * n as i64).clamp(-A_YEAR, A_YEAR));
        if cut {
            batches.push(Vec::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(batch::read(Received { envelope, at: now + at }, &SNAPSHOT));
        }
    }

    let mut alone = IntakeState::default();
    let decide = |read: &Read| {
        let (fate, fates) = read.decide(&mut alone);
        format!("{fate:?} {}", told(fates.iter().map(|(integration, fate)| (integration.id.as_str(), fate))))
    };
    let one_by_one: Vec<String> = batches.iter().flatten().map(decide).collect();

    let mut store = IntakeState::default();
    let mut in_batches = Vec::new();
    for batch in &batches {
        let state = asked_for(&store, &batch::query(batch));
        let (changes, fates) = batch::decide(batch, state);
        let mut decided = changes.events.iter();
        for fate in fates {
            // Only what some integration hears of is written down.
            let is_written = matches!(format!("{fate:?}").as_str(), "Taken" | "Replayed");
            let of = is_written.then(|| decided.next().expect("each that was taken is written down"));
            let fates = of.into_iter().flat_map(|event| &event.notifications);
            in_batches.push(format!("{fate:?} {}", told(fates.map(|n| (n.integration.as_str(), &n.fate)))));
        }
        assert!(decided.next().is_none(), "more is written down than was taken");
        store.known.extend(changes.events.into_iter().map(|event| event.id));
        store.streaks.extend(changes.streaks);
        store.collations.extend(changes.collations);
    }
    assert_eq!(one_by_one, in_batches);
    assert_eq!(alone.streaks, store.streaks);
    assert_eq!(alone.collations, store.collations);
}

fn told<'a>(fates: impl Iterator<Item = (&'a str, &'a Fate)>) -> String {
    fates.map(|(integration, fate)| format!("{integration}: {fate:?}; ")).collect()
}

/// What a store gives that knows `all`: what was asked for, and nothing else.
fn asked_for(all: &IntakeState, query: &IntakeQuery) -> IntakeState {
    IntakeState {
        known: query.events.iter().filter(|id| all.known.contains(id)).cloned().collect(),
        streaks: query.streaks.iter().filter_map(|key| Some((key.clone(), *all.streaks.get(key)?))).collect(),
        collations: query
            .collations
            .iter()
            .filter_map(|key| Some((key.clone(), *all.collations.get(key)?)))
            .collect(),
    }
}
