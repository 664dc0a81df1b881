//! Every fault that the configuration and the integrations file can have: one fixture each, named after it.
//! What is expected of a fixture stands at its end, a line of `#! ` for each line that the fault is told in.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use hipchat_notifier::domain::ids::{RoomKey, TokenKey};
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::domain::reason::DeadLetterReason;
use hipchat_notifier::formats::integrations::{self, RoomRef, SecretSources};
use hipchat_notifier::ports::{Definition, ManagedBy, Stored};
use hipchat_notifier::settings::{MANUAL, Settings};

/// Stands in every fixture's secrets, and in no fault.
const SECRET: &str = "hunter2";

fn fixtures(folder: &str) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    all.sort();
    all
}

/// Compares what each fixture of `folder` says is expected with what `told` makes of it.
fn each_fixture_is_told_as_it_says(folder: &str, told: impl Fn(&Path) -> String) {
    let mut wrong = Vec::new();
    for (name, path) in fixtures(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let told = told(&path);
        assert!(!told.contains(SECRET), "{name}: {told}");
        if told.lines().collect::<Vec<_>>() != expected || expected.is_empty() {
            wrong.push(format!("== {name}\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn faults_of_the_configuration() {
    each_fixture_is_told_as_it_says("config", |path| {
        let faults = Settings::load(Some(path), std::iter::empty()).expect_err(&path.display().to_string());
        assert!(!format!("{faults:?}").contains(SECRET), "{faults:?}");
        faults.to_string().replace(&path.display().to_string(), "FILE")
    });
}

#[test]
fn faults_of_the_integrations_file() {
    each_fixture_is_told_as_it_says("integrations", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let faults = read(&text).expect_err(&path.display().to_string());
        assert!(!format!("{faults:?}").contains(SECRET), "{faults:?}");
        faults.to_string()
    });
}

#[test]
fn faults_name_the_integrations_file_when_told_to() {
    let faults = read("[[integrations]]\nid = \"a\"\n").unwrap_err().in_file(Path::new("teams/a.toml"));
    assert!(
        faults.to_string().lines().all(|line| line.starts_with("teams/a.toml: line 1: integration \"a\": "))
    );
    assert_eq!(faults.faults().len(), 2);
}

#[test]
fn a_file_that_is_too_long_is_one_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    let of = |length: usize| {
        std::fs::write(&file, "#".repeat(length)).unwrap();
        Settings::load(Some(&file), std::iter::empty()).map_err(|faults| faults.to_string())
    };
    assert!(of(1024 * 1024).is_ok());
    let fault = of(1024 * 1024 + 1).unwrap_err();
    let expected = "/a.toml: cannot be read: it is longer than 1 MiB; give the path of a TOML file that this user may read";
    assert!(fault.ends_with(expected), "{fault}");
}

#[test]
fn a_file_that_is_not_there_is_one_fault() {
    let faults = Settings::load(Some(Path::new("/nonexistent/a.toml")), std::iter::empty()).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "/nonexistent/a.toml: cannot be read: No such file or directory (os error 2); \
         give the path of a TOML file that this user may read"
    );
}

#[test]
fn the_file_in_the_folder_is_read_and_a_named_one_read_instead() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("named.toml");
    std::fs::write(folder.path().join("hipchat-notifier.toml"), "[amqp]\nprefetch = 300\nbatch = 100\n")
        .unwrap();
    std::fs::write(&named, "[amqp]\nprefetch = 400\n").unwrap();
    let env = || [("NOTIFIER__AMQP__BATCH".to_owned(), "200".to_owned())].into_iter();
    let beside = Settings::load_in(folder.path(), None, env()).unwrap();
    assert_eq!((beside.amqp.prefetch, beside.amqp.batch), (300, 200));
    let named = Settings::load_in(folder.path(), Some(&named), env()).unwrap();
    assert_eq!((named.amqp.prefetch, named.amqp.batch), (400, 200));
}

/// The keys that others rely on, with the defaults they rely on.
#[test]
fn the_manual_has_the_promised_defaults() {
    let manual: toml::Table = MANUAL.parse().unwrap();
    let promised = [
        ("amqp.url", "amqp://guest:guest@127.0.0.1:5672/%2f"),
        ("store.url", "sqlite:hipchat-notifier.db"),
        ("http.listen", "127.0.0.1:8320"),
        ("pacing.room.messages", "30"),
        ("pacing.room.per", "1m"),
        ("pacing.token.calls", "500"),
        ("pacing.token.per", "5m"),
        ("retry.first", "1s"),
        ("retry.longest", "5m"),
        ("retry.give_up_after", "24h"),
        ("notifications.max_age", "24h"),
        ("journal.keep", "7d"),
        ("egress.allow", "[]"),
        ("links.monitor", "https://go.postman.co/monitors/{monitor_id}"),
        ("links.run", "https://go.postman.co/monitors/{monitor_id}?job={run_id}"),
        ("amqp.exchange", "postman.events"),
        ("amqp.queue", "hipchat.events"),
        ("amqp.dead_letters", "hipchat.dead-letters"),
    ];
    for (key, default) in promised {
        let mut found = &toml::Value::Table(manual.clone());
        for name in key.split('.') {
            found = found.get(name).unwrap_or_else(|| panic!("{key} is not in the manual"));
        }
        let shown = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        assert_eq!(shown, default, "{key}");
    }
    for commented in ["# file = ", "# key_file = ", "# urls = ", "# format = ", "# bearer_token = "] {
        assert!(MANUAL.contains(commented), "{commented}");
    }
}

// ------------------------------------------------------------------------------------- integrations

fn read(text: &str) -> Result<Vec<Definition>, integrations::IntegrationFaults> {
    integrations::read_file_text(
        text,
        &SecretSources {
            env: &|name| match name {
                "ROOM" => {
                    Some(format!("https://acme.hipchat.com/v2/room/43/notification?auth_token={SECRET}"))
                }
                "EMPTY" => Some(String::new()),
                _ => None,
            },
            read_file: &|path| match path.to_str() {
                Some("/empty") => Ok("\n".to_owned()),
                Some("/room") => {
                    Ok(format!("https://acme.hipchat.com/v2/room/44/notification?auth_token={SECRET}\n"))
                }
                _ => Err(io::Error::from(io::ErrorKind::NotFound)),
            },
            check_url: &|url| {
                let room = url.split_once('?').and_then(|(path, _)| path.strip_suffix("/notification"));
                // Careless on purpose: the reader must not pass a token on.
                let room = room.ok_or_else(|| format!("{url} does not end in /notification ({SECRET})"))?;
                Ok(RoomRef { room: RoomKey::new(room), token: TokenKey::new("t") })
            },
        },
    )
}

const COMPLETE: &str = include_str!("../fixtures/complete-integrations.toml");

fn stored(definition: Definition) -> Stored {
    Stored {
        definition,
        managed_by: ManagedBy::File,
        state: IntegrationState::Active,
        pending: 2,
        unreadable: None,
    }
}

#[test]
fn a_complete_file_is_read_from_all_three_sources() {
    let definitions = read(COMPLETE).unwrap();
    let rooms: Vec<_> = definitions.iter().map(|d| d.room.as_str()).collect();
    let room = |n| format!("https://acme.hipchat.com/v2/room/{n}");
    assert_eq!(rooms, [room(42), room(43), room(44)]);
    for definition in definitions {
        assert!(!definition.json.contains(SECRET) && !format!("{definition:?}").contains(SECRET));
        let id = definition.id.clone();
        let shown = integrations::to_json(&stored(definition)).unwrap();
        assert_eq!((shown["id"].as_str(), shown["pending"].as_u64()), (Some(id.as_str()), Some(2)));
        assert!(!shown.to_string().contains(SECRET));
    }
}

#[test]
fn the_shown_form_has_the_files_fields_and_the_state() {
    let mut first = stored(read(COMPLETE).unwrap().remove(0));
    first.state = IntegrationState::Suspended { reason: "the room is gone".to_owned() };
    let shown = integrations::to_json(&first).unwrap();
    let names: BTreeSet<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "id",
        "kind",
        "managed_by",
        "message",
        "monitors",
        "name",
        "notify",
        "paused",
        "pending",
        "room",
        "state",
        "state_reason",
        "team",
        "throttle",
        "version",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert_eq!(shown["state"], "suspended");
    assert_eq!(shown["state_reason"], "the room is gone");
    assert_eq!(shown["notify"], serde_json::json!({"on": "failures-then-success", "failures": 3}));
    assert_eq!(shown["throttle"], serde_json::json!({"messages": 10, "per": "1h", "overflow": "digest"}));
}

#[test]
fn a_file_without_integrations_has_to_say_so() {
    assert_eq!(read("integrations = []").unwrap().len(), 0);
    for emptied in ["", "# none yet\n", "\n\n"] {
        let faults = read(emptied).unwrap_err();
        assert_eq!(faults.faults().len(), 1, "{faults}");
    }
}

#[test]
fn the_reasons_that_dead_letters_are_filtered_by_are_those_of_the_domain() {
    use clap::CommandFactory;
    let command = hipchat_notifier::cli::args::Cli::command();
    let list = command.find_subcommand("dead-letters").and_then(|c| c.find_subcommand("list")).unwrap();
    let reason = list.get_arguments().find(|arg| arg.get_id() == "reason").unwrap();
    let values: Vec<_> = reason.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
    assert_eq!(values, DeadLetterReason::ALL.iter().map(|r| r.as_str()).collect::<Vec<_>>());
}
