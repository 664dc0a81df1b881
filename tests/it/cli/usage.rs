//! What can be asked of the program itself: help, usage errors, schemas, the sandbox, closed pipes.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;

use crate::support::broker::eventually;
use crate::support::cli::{Ran, client, program, run, signal};

async fn ran(arguments: &[&str]) -> Ran {
    run(program(arguments), b"").await
}

/// Every verb, and every verb of a verb.
const VERBS: [&str; 19] = [
    "run",
    "check",
    "publish",
    "integrations",
    "integrations list",
    "integrations show",
    "integrations apply",
    "integrations remove",
    "integrations pause",
    "integrations resume",
    "integrations test",
    "explain",
    "simulate",
    "dead-letters",
    "dead-letters list",
    "dead-letters show",
    "dead-letters replay",
    "dead-letters discard",
    "schema",
];

#[tokio::test]
async fn the_help_of_every_verb_shows_an_example_of_it() {
    for verb in VERBS.into_iter().chain(["sandbox"]) {
        let arguments: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = ran(&arguments).await.done();
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{verb}: {help}"));
        assert!(examples.contains(&format!("hipchat-notifier {verb}")), "{verb}: {help}");
        assert!(help.contains("--config <FILE>"), "{verb}: {help}");
    }
    let top = ran(&["--help"]).await.done();
    for verb in VERBS.iter().filter(|verb| !verb.contains(' ')) {
        assert!(top.contains(&format!("\n  {verb} ")), "{verb}: {top}");
    }
    assert!(top.contains("Exit codes: 0 done, 1 failed, 2 usage, 78 configuration is wrong"), "{top}");
}

#[tokio::test]
async fn usage_errors_exit_2_and_say_what_to_write() {
    let cases: [(&[&str], &str); 12] = [
        (&[], "Usage: hipchat-notifier [OPTIONS] <COMMAND>"),
        (&["deliver"], "unrecognized subcommand 'deliver'"),
        (&["run", "--now"], "unexpected argument '--now'"),
        (&["publish"], "<FILES>"),
        (&["publish", "a.json", "--newman", "b.json"], "cannot be used with '--newman <REPORT>'"),
        (&["explain"], "<EVENT_ID>"),
        (&["explain", "e-1", "--output", "xml"], "[possible values: human, json]"),
        (&["simulate", "events.json"], "--integrations <FILE>"),
        (
            &["dead-letters", "list", "--reason", "bored"],
            "possible values: malformed-event, rejected-by-hipchat",
        ),
        (&["dead-letters", "replay", "a-letter", "--integration", "b"], "cannot be used with"),
        (&["dead-letters", "list", "--since", "yesterday"], "invalid value 'yesterday' for '--since <TIME>'"),
        (&["sandbox", "--room", "42"], "write a room and its token, as in 42:secret"),
    ];
    for (arguments, expected) in cases {
        let ran = ran(arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(expected), "{arguments:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn schemas_are_printed_by_name() {
    let names = ran(&["schema", "--list"]).await.done();
    let expected = [
        "monitor-webhook",
        "api-run",
        "activity-webhook",
        "cloudevent",
        "integrations",
        "room-notification",
        "asyncapi",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
    for name in expected {
        let document = ran(&["schema", name]).await.json();
        let form = if name == "asyncapi" { "asyncapi" } else { "$schema" };
        assert!(document[form].is_string(), "{name}");
    }
    assert_eq!(ran(&["schema"]).await, ran(&["schema", "asyncapi"]).await);
    let help = ran(&["schema", "--help"]).await.done();
    let shown = help.trim_end().rsplit(' ').next().expect("an example");
    assert!(expected.contains(&shown), "the help's example works: {shown}");
    assert_eq!(
        ran(&["schema", "monitor"]).await.complaint(1),
        format!("there is no schema \"monitor\"; there are {}", expected.join(", "))
    );
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_fault() {
    let mut child = program(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut first = String::new();
    // Dropped after one line, as `head -1` does.
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
    let mut complaints = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut complaints).expect("text");
    assert_eq!((first.as_str(), complaints.as_str()), ("{\n", ""));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[tokio::test]
async fn the_sandbox_says_where_it_is_and_stops_when_asked() {
    for stop in ["TERM", "INT"] {
        let mut child = program(&["sandbox", "--listen", "127.0.0.1:0", "--room", "42:s3cretToken"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("a line");
        let address = line
            .strip_prefix("sandbox: rooms at ")
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(scheme, rest)| {
                Some(format!("{scheme}//{}", rest.strip_prefix('/')?.split_once('/')?.0))
            })
            .unwrap_or_else(|| panic!("{line}"));
        let page = client().get(&address).send().await.expect("an answer");
        assert_eq!(page.status(), 200);
        let listing = client().get(format!("{address}/sandbox/rooms")).send().await.expect("an answer");
        let rooms: Value = serde_json::from_str(&listing.text().await.expect("text")).expect("JSON");
        assert_eq!(rooms[0]["id"], "42");
        signal(child.id(), stop);
        let status = eventually("the sandbox stops", async || child.try_wait().expect("a child")).await;
        assert_eq!(status.code(), Some(0), "{stop}");
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("text");
        child.stderr.take().expect("piped").read_to_string(&mut rest).expect("text");
        assert!(!format!("{line}{rest}").contains("s3cretToken"), "{line}{rest}");
    }
}

#[tokio::test]
async fn the_sandbox_stays_on_this_machine_unless_it_is_told_otherwise() {
    let refused = ran(&["sandbox", "--listen", "0.0.0.0:0"]).await.complaint(1);
    assert_eq!(
        refused,
        "can't listen on 0.0.0.0:0: the sandbox listens on loopback only, and 0.0.0.0:0 is not: use 127.0.0.1, \
         or allow remote access (anyone who reaches it can control it)"
    );
}
