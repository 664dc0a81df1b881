//! No secret anywhere: a busy worker with failures of every kind, at the loudest log levels in both formats, and
//! then a search through all that it and the verbs have written.

use serde_json::json;

use crate::support::cli::{Lab, Rooms, Worker, cloud_run};
use hipchat_notifier::sandbox::RoomSpec;

/// How rooms fail, and each one's token: with characters that are encoded in URLs, and without.
const ROOMS: [(&str, &str); 8] = [
    ("fine", "fineToken0aB3xY9zQ7wE5rT1uI4oP6"),
    ("refused", "refusedToken1aB3xY9zQ7wE5rT1uI4o"),
    ("echo", "echoToken2%2Bplus%2FslashY9zQ7wE5rT"),
    ("unauthorised", "unauthorisedToken3aB3xY9zQ7wE5rT"),
    ("moved", "movedToken4aB3xY9zQ7wE5rT1uI4oP6"),
    ("hangs", "hangsToken5aB3xY9zQ7wE5rT1uI4oP6"),
    ("fails", "failsToken6aB3xY9zQ7wE5rT1uI4oP6"),
    ("drops", "dropsToken7aB3xY9zQ7wE5rT1uI4oP6"),
];

/// Where nobody listens: a port that the system gives to no server, so that none of another test gets it meanwhile.
const NOBODY: &str = "127.0.0.1:1";

fn decoded(token: &str) -> String {
    token.replace("%2B", "+").replace("%2F", "/")
}

/// Every room that exists has its token, except that one of them is not told of its integration's.
async fn lab() -> Lab {
    let mut lab = Lab::new().await;
    let grant = |(room, token): &(&str, &str)| {
        let token = if *room == "unauthorised" { "another".to_owned() } else { decoded(token) };
        RoomSpec::new(*room, Some(token))
    };
    lab.rooms = Rooms::of(ROOMS.iter().map(grant).collect()).await;
    let integration = |(room, token): &(&str, &str)| {
        let mut url = lab.room_url(room, token);
        if *room == "refused" {
            url = url.replace(&lab.rooms.address, NOBODY);
        }
        format!(
            "[[integrations]]\nid = \"{room}\"\nkind = \"monitor-results\"\nroom_url = \"{url}\"\n\
             [integrations.notify]\non = \"all\"\n"
        )
    };
    let text: String = ROOMS.iter().map(integration).collect();
    lab.apply(&text).await;
    let (echo, moved) = (decoded(ROOMS[2].1), ROOMS[4].1);
    lab.rooms
        .fail(json!([
            {"kind": "status", "status": 400, "room": "echo", "body": format!("bad token {echo} ({}), sorry", ROOMS[2].1)},
            {"kind": "redirect", "room": "moved", "location": format!("http://127.0.0.1:1/v2?auth_token={moved}")},
            {"kind": "hang", "room": "hangs"},
            {"kind": "status", "status": 500, "room": "fails", "body": format!("trace: auth_token={}", ROOMS[6].1)},
            {"kind": "drop", "room": "drops"},
        ]))
        .await;
    lab
}

/// Lets everything happen once, and gives all that was said of it.
async fn busy(lab: &Lab, worker: Worker, event: &str) -> String {
    lab.broker.publish("monitor.acme.m", &format!("{event}-bad"), b"{\"monitor_uid\":7}").await;
    lab.run_with(&["publish", "-"], &[], cloud_run(event, "m", 1).to_string().as_bytes()).await.done();
    let outcomes = lab.outcomes(event).await;
    assert_eq!(outcomes.len(), ROOMS.len());
    let of = |id: &str| {
        outcomes.iter().find(|(room, _, _)| room == id).map(|(_, outcome, _)| outcome.clone()).unwrap()
    };
    assert_eq!(of("fine"), "sent");
    for room in ["echo", "refused", "unauthorised", "moved", "hangs", "fails", "drops"] {
        assert_eq!(of(room), "dead-lettered", "{room}");
    }
    let mut told = String::new();
    for path in ["/metrics", "/readyz", "/healthz"] {
        told += &worker.get(path).await.1;
    }
    let mut verbs: Vec<Vec<&str>> = vec![
        vec!["explain", event],
        vec!["explain", event, "--output", "json"],
        vec!["integrations", "list"],
        vec!["integrations", "list", "--output", "json"],
        vec!["check", "--rooms"],
        vec!["dead-letters", "list"],
        vec!["dead-letters", "list", "--each"],
        vec!["dead-letters", "list", "--each", "--output", "json"],
    ];
    for (room, _) in &ROOMS {
        verbs.push(vec!["integrations", "show", room, "--output", "json"]);
        verbs.push(vec!["integrations", "test", room]);
    }
    for verb in verbs {
        let ran =
            lab.run_with(&verb, &[("hipchat.timeout", "1s"), ("hipchat.connect_timeout", "1s")], b"").await;
        told += &format!("{ran:?}");
    }
    told + &worker.stop().await
}

/// The places in `hay` where one of the secrets stands, with what is around it.
fn found(place: &str, hay: &[u8], secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for secret in secrets {
        if let Some(at) = hay.windows(secret.len()).position(|window| window == secret.as_bytes()) {
            let around = &hay[at.saturating_sub(200)..(at + 80).min(hay.len())];
            found.push(format!("{secret} in {place}: …{}…", String::from_utf8_lossy(around)));
        }
    }
    found
}

#[tokio::test]
async fn no_secret_is_written_anywhere() {
    let lab = lab().await;
    let password = url::Url::parse(&lab.broker.url).expect("a URL").password().expect("has one").to_owned();
    let mut secrets: Vec<String> =
        ROOMS.iter().flat_map(|(_, token)| [(*token).to_owned(), decoded(token)]).collect();
    // RabbitMQ's own default is a word that stands everywhere, and no secret.
    secrets.extend((password != "guest").then_some(password));
    // As `Debug` writes bytes.
    let numbers = |secret: &String| secret.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    secrets.extend(secrets.iter().map(numbers).collect::<Vec<_>>());
    let runs = [
        ("debug", "json", "header"),
        ("debug", "human", "header"),
        ("trace", "human", "header"),
        ("trace", "json", "query"),
        ("trace,lapin=trace", "json", "header"),
    ];
    let mut leaks = Vec::new();
    for (n, (level, format, token_in)) in runs.into_iter().enumerate() {
        for (room, _) in &ROOMS {
            lab.run(&["integrations", "resume", room]).await.done();
        }
        let worker = lab.start(&[
            ("log.level", level),
            ("log.format", format),
            ("hipchat.token_in", token_in),
            ("hipchat.timeout", "1s"),
            ("hipchat.connect_timeout", "1s"),
            ("retry.give_up_after", "1s"),
            ("pacing.room.messages", "1000"),
        ]);
        worker.is_ready().await;
        let told = busy(&lab, worker, &format!("run-{n}")).await;
        assert!(told.contains("integration suspended") && told.contains("attempt failed"), "{told}");
        leaks.extend(found(&format!("{level} {format} {token_in}"), told.as_bytes(), &secrets));
    }
    let mut files = 0;
    for file in std::fs::read_dir(lab.folder.path()).expect("a folder") {
        let path = file.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // All that the program made; what the test wrote holds the secrets on purpose.
        if name.starts_with("store.db") {
            files += 1;
            leaks.extend(found(&name, &std::fs::read(&path).expect("readable"), &secrets));
        }
    }
    assert!(files >= 3, "store, key and lock at least: {files}");
    while lab.broker.depth(&lab.broker.topology.dead_letters).await > 0 {
        let delivery = lab.broker.take(&lab.broker.topology.dead_letters).await;
        let whole = format!("{:?} {:?}", delivery.properties, String::from_utf8_lossy(&delivery.data));
        leaks.extend(found("a dead letter", whole.as_bytes(), &secrets));
    }
    assert_eq!(leaks, Vec::<String>::new());
}
