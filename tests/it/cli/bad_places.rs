//! Stores that are none, and a disk that gets full under a running worker.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rusqlite::Connection;

use crate::support::broker::eventually;
use crate::support::cli::{BINARY, Lab, Worker, run_body};

#[tokio::test]
async fn a_store_that_can_not_be_used_is_told_by_every_verb_and_left_alone() {
    let lab = Lab::new().await;
    let at = |name: &str| lab.path(name);
    std::fs::write(at("text.db"), "this is no database, but it is long enough to be one".repeat(50)).unwrap();
    std::fs::create_dir(at("folder.db")).unwrap();
    Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let newer = format!("sqlite:{}", at("newer.db").display());
    lab.run_with(&["migrate"], &[("store.url", &newer)], b"").await.done();
    let history = "INSERT INTO refinery_schema_history SELECT 77, name, applied_on, checksum FROM refinery_schema_history";
    Connection::open(at("newer.db")).unwrap().execute_batch(history).unwrap();

    let cases = [
        ("text.db", "is not an SQLite database: set store.url to another file, or move this one away"),
        ("folder.db", "is a folder: name a file in it"),
        ("other.db", "is another program's database: set store.url to another file"),
        (
            "newer.db",
            "has schema 77, made by a newer version of this program, which knows schemas up to 1: run that version, or use another file",
        ),
        ("none/store.db", "NO FOLDER"),
        // Where nobody may make a file, not even root.
        ("/sys/store.db", "is read-only or not yours"),
    ];
    for (name, expected) in cases {
        let path = at(name);
        let url = format!("sqlite:{}", path.display());
        let keys = [("store.url", url.as_str())];
        let before = std::fs::read(&path).ok();
        let expected = match expected {
            "NO FOLDER" => format!(
                "store {}: there is no folder {}; make it first",
                path.display(),
                path.parent().expect("it has one").display()
            ),
            text => format!("store {} {text}", path.display()),
        };
        // A verb that works on what is there makes nothing, and says so before anything else.
        let missing = format!("there is no store at {}", path.display());
        let expected_here = if path.exists() { &expected } else { &missing };
        for verb in [
            &["explain", "e-1"][..],
            &["integrations", "list"],
            &["integrations", "show", "one"],
            &["integrations", "pause", "one"],
            &["integrations", "resume", "one"],
            &["integrations", "remove", "one"],
            &["integrations", "test", "one"],
        ] {
            let told = lab.run_with(verb, &keys, b"").await.complaint(78);
            assert!(told.starts_with(expected_here) && !told.contains('\n'), "{name}: {verb:?}: {told}");
        }
        let mut worker = lab.start(&keys);
        assert_eq!(worker.ended().await.code(), Some(78), "{name}: {}", worker.log());
        assert!(worker.log().contains(&format!("hipchat-notifier: {expected}")), "{name}: {}", worker.log());
        let check = lab.run_with(&["check"], &keys, b"").await;
        assert!(check.out.contains(&format!("FAULT store: {expected}")), "{name}: {}", check.out);
        assert_eq!(check.complaint(78), "1 of 4 checks found a fault");
        assert_eq!(std::fs::read(&path).ok(), before, "{name} is left as it was");
    }
}

#[tokio::test]
async fn the_key_is_its_owners_alone_and_another_key_is_refused() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    let mode =
        std::fs::metadata(lab.path("store.db.key")).expect("made beside the store").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bad = lab.write("bad.key", "not a key");
    let told =
        lab.run_with(&["integrations", "list"], &[("secrets.key_file", &bad)], b"").await.complaint(78);
    assert_eq!(told, format!("key file {bad} is not a key: it must hold 64 hex digits and nothing else"));
    let other = lab.write("other.key", "ab".repeat(32));
    let told =
        lab.run_with(&["integrations", "list"], &[("secrets.key_file", &other)], b"").await.complaint(78);
    assert_eq!(
        told,
        format!(
            "integration runs: its room URL can't be decrypted with key file {other}: put back the key it was encrypted \
             with, or remove the integration and apply it again"
        )
    );
}

#[tokio::test]
async fn a_full_disk_keeps_no_worker_from_stopping() {
    // With a grace time that no test waits for, it is the second signal that ends it.
    for (grace, again) in [("1s", false), ("1h", true)] {
        let lab = Lab::new().await;
        lab.apply(&lab.integration("runs", "monitor-results")).await;
        let mut worker = limited(&lab, 256, grace);
        worker.is_ready().await;
        for n in 0..8 {
            lab.broker.publish("monitor.acme.m", &format!("e-{n}"), large(n).as_bytes()).await;
        }
        // Whoever finds out first says it: who takes in, or who records an answer.
        worker.says(&["the store: can't"]).await;
        worker.signal("TERM");
        worker.says(&["stopping: no more events are taken in"]).await;
        let status = eventually("it ends", async || {
            let status = worker.exit();
            if again && status.is_none() {
                worker.signal("TERM");
            }
            status
        })
        .await;
        assert_eq!(status.code(), Some(0), "{}", worker.log());
        worker.says(&["what was not finished"]).await;

        let worker = lab.start(&[("pacing.room.messages", "10000")]);
        for n in 0..8 {
            assert_eq!(lab.outcomes(&format!("e-{n}")).await[0].1, "sent", "e-{n}");
        }
        worker.stop().await;
    }
}

/// An event of 100 KB.
fn large(n: usize) -> String {
    let mut body: serde_json::Value = serde_json::from_str(&run_body(&format!("m-{n}"), 1)).expect("JSON");
    body["collection_name"] = "c".repeat(100_000).into();
    body.to_string()
}

/// A worker whose files may not grow beyond `blocks` of 1 KiB. `bash` ignores the signal that comes with that, and
/// so does what it starts; then a write fails, as on a disk that is full.
fn limited(lab: &Lab, blocks: u32, grace: &str) -> Worker {
    let plain = lab.command(&["run"], &[("pacing.room.messages", "10000"), ("shutdown.grace", grace)]);
    let mut command = Command::new("bash");
    command.args(["-c", &format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\""), "limited", BINARY]);
    command.args(plain.get_args()).current_dir(lab.folder.path());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Worker::start(command)
}

#[tokio::test]
async fn a_full_disk_pauses_the_intake_and_loses_nothing() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    let worker = limited(&lab, 256, "20s");
    worker.is_ready().await;
    lab.broker.publish("monitor.acme.m", "small", run_body("small", 1).as_bytes()).await;
    lab.rooms.receives("runs", 1).await;
    let count = 8;
    for n in 0..count {
        lab.broker.publish("monitor.acme.m", &format!("large-{n}"), large(n).as_bytes()).await;
    }
    let line = worker.says(&["the store: can't"]).await;
    assert!(line.contains("store.db"), "{line}");
    let why = worker.is_not_ready().await;
    assert!(why.contains("the store: store "), "{why}");
    assert_eq!(worker.get("/healthz").await.0, 200, "a restart would not help");
    let told = lab.rooms.messages("runs").await.len();
    assert!(told < 1 + count, "some wait: {told}");

    // There is room again, and it goes on by itself.
    let lifted =
        Command::new("prlimit").args(["--pid", &worker.id().to_string(), "--fsize=unlimited:"]).status();
    assert!(lifted.expect("prlimit (util-linux) is there").success());
    worker.is_ready().await;
    lab.rooms.receives("runs", 1 + count).await;
    for n in 0..count {
        assert_eq!(lab.outcomes(&format!("large-{n}")).await[0].1, "sent");
    }
    lab.broker.depth_becomes(&lab.broker.topology.queue, 0).await;
    eventually("nothing is pending", async || {
        let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
        (listed[0]["pending"] == 0).then_some(())
    })
    .await;
    worker.stop().await;
}
