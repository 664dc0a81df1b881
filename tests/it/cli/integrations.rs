//! `integrations …`, beside a worker and without one.

use serde_json::{Value, json};

use crate::support::broker::eventually;
use crate::support::cli::{Lab, TOKEN, cloud_run, fixture};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn they_are_applied_listed_and_shown_without_their_token() {
    let lab = Lab::new().await;
    lab.run(&["migrate"]).await.done();
    assert_eq!(
        lab.run(&["integrations", "list"]).await.done(),
        "there are no integrations; add some with `integrations apply FILE`\n"
    );
    let text = lab.integration("runs", "monitor-results") + &lab.integration("feed", "team-activity");
    let file = lab.write("i.toml", &text);
    assert_eq!(
        lab.run(&["integrations", "apply", &file]).await.done(),
        "2 added, 0 changed, 0 unchanged\nadded runs, feed\n"
    );
    let changed = text.replace("id = \"feed\"", "id = \"feed\"\nname = \"The feed\"");
    let ran =
        lab.run_with(&["integrations", "apply", "-", "--output", "json"], &[], changed.as_bytes()).await;
    assert_eq!(ran.json(), json!({"added": 0, "changed": 1, "unchanged": 1}));

    let address = &lab.rooms.address;
    assert_eq!(
        lab.run(&["integrations", "list"]).await.done(),
        format!(
            "ID    STATE   KIND             NOTIFY ON  PENDING  ROOM\n\
             feed  active  team-activity    each       0        http://{address}/v2/room/feed\n\
             runs  active  monitor-results  all        0        http://{address}/v2/room/runs\n"
        )
    );
    let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
    assert_eq!(
        listed[0],
        json!({
            "id": "feed", "name": "The feed", "kind": "team-activity",
            "room": format!("http://{address}/v2/room/feed"), "state": "active", "state_reason": null,
            "notify": "each", "pending": 0, "managed_by": "operator",
        })
    );
    let shown = lab.run(&["integrations", "show", "feed", "--output", "json"]).await.json();
    for key in keys(&listed[0]) {
        assert_eq!(shown[key], listed[0][key], "{key}");
    }
    assert_eq!(shown["definition"]["notify"], json!({"on": "each", "collate": "0s"}));
    let human = lab.run(&["integrations", "show", "feed"]).await.done();
    assert_eq!(
        human,
        format!(
            "id                 feed\n\
             name               The feed\n\
             kind               team-activity\n\
             room               http://{address}/v2/room/feed\n\
             state              active\n\
             pending            0\n\
             managed_by         operator\n\
             message.detail     full\n\
             message.ping       failures\n\
             notify.collate     0s\n\
             notify.on          each\n\
             paused             false\n\
             throttle.overflow  digest\n"
        )
    );
    for told in [listed.to_string(), shown.to_string(), human] {
        assert!(!told.contains(TOKEN), "{told}");
    }
}

#[tokio::test]
async fn a_file_with_every_kind_of_fault_changes_nothing() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    let worker = lab.worker().await;
    let before = lab.run(&["integrations", "list", "--output", "json"]).await.json();
    let file = fixture("integrations/all-at-once.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
    let told = lab.run(&["integrations", "apply", &file]).await.complaint(78);
    assert_eq!(told, format!("{file}:\n{}", expected.join("\n")));
    assert!(!told.contains("hunter2"), "{told}");

    let urls = [
        (
            "no token",
            "https://acme.hipchat.com/v2/room/42/notification",
            "the room URL has no token: add ?auth_token=… as HipChat shows it",
        ),
        (
            "wrong path",
            "https://acme.hipchat.com/v2/room/42?auth_token=hunter2222",
            "the room URL's path must end in /v2/room/ROOM/notification; add /notification after the room, and write ? in a room's name as %3F",
        ),
        (
            "a raw #",
            "https://acme.hipchat.com/v2/room/dev #1/notification?auth_token=hunter2222",
            "the room URL has a raw # in it, which cuts it off: write # in a room's name as %23",
        ),
        (
            "plain http",
            "http://hipchat.example.com/v2/room/42/notification?auth_token=hunter2222",
            "room host hipchat.example.com is reached by plain http, which egress.allow does not allow; use https, or add \"hipchat.example.com\" to egress.allow",
        ),
        (
            "private",
            "https://10.1.2.3/v2/room/42/notification?auth_token=hunter2222",
            "room host 10.1.2.3 is a private or reserved address, which egress.allow does not allow; add \"10.1.2.3\" or its network to egress.allow",
        ),
        (
            "the cloud's own",
            "https://169.254.169.254/v2/room/42/notification?auth_token=hunter2222",
            "room host 169.254.169.254 is a private or reserved address, which egress.allow does not allow; add \"169.254.169.254\" or its network to egress.allow",
        ),
        (
            "of this machine",
            "https://localhost/v2/room/42/notification?auth_token=hunter2222",
            "room host localhost is a private or reserved address, which egress.allow does not allow; add \"localhost\" or its network to egress.allow",
        ),
    ];
    let every: String = urls
        .iter()
        .enumerate()
        .map(|(n, (_, url, _))| {
            format!("[[integrations]]\nid = \"r{n}\"\nkind = \"monitor-results\"\nroom_url = \"{url}\"\n")
        })
        .collect();
    let every = lab.write("urls.toml", every);
    // With a network allowed, a name's address counts, which is known when it is connected to.
    let allowed = [("egress.allow", "hipchat.internal")];
    let told = lab.run_with(&["integrations", "apply", &every], &allowed, b"").await.complaint(78);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), urls.len() + 1, "{told}");
    for (n, (name, _, fault)) in urls.iter().enumerate() {
        let place = format!("line {}: integration \"r{n}\": room_url = (not shown): {fault}", n * 4 + 4);
        assert!(lines[n + 1].starts_with(&place), "{name}: {}", lines[n + 1]);
    }
    assert!(!told.contains("hunter2222"), "{told}");

    // Encoded, the same names are good.
    let good = lab.room_url("dev%20%231", TOKEN);
    let good = format!(
        "[[integrations]]\nid = \"dev\"\nkind = \"monitor-results\"\nroom_url = \"{good}\"\n[integrations.notify]\non = \"all\"\n"
    );
    assert_eq!(lab.run(&["integrations", "list", "--output", "json"]).await.json(), before);
    lab.apply(&good).await;
    eventually("the worker knows of it", async || {
        (worker.figure("hipchat_notifier_integrations{state=\"active\"}").await == Some(2.0)).then_some(())
    })
    .await;
    lab.run_with(&["publish", "-"], &[], cloud_run("e-1", "m", 1).to_string().as_bytes()).await.done();
    lab.rooms.receives("runs", 1).await;
    lab.rooms.receives("dev%20%231", 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn ids_that_are_not_there_are_told() {
    let lab = Lab::new().await;
    lab.run(&["migrate"]).await.done();
    for verb in ["show", "pause", "resume", "remove", "test"] {
        let told = lab.run(&["integrations", verb, "nobody"]).await.complaint(1);
        assert!(told.starts_with("there is no integration nobody"), "{verb}: {told}");
        assert!(told.contains("`integrations list` shows"), "{verb}: {told}");
        assert_eq!(
            lab.run(&["integrations", verb, "No Body"]).await.complaint(1),
            "\"No Body\" can't be an integration's id: 1 to 64 of a-z 0-9 -"
        );
    }
    let missing = lab.run(&["integrations", "apply", "nowhere.toml"]).await.complaint(78);
    assert_eq!(missing, "can't read nowhere.toml: No such file or directory (os error 2)");
}

#[tokio::test]
async fn pause_resume_and_remove_reach_a_running_worker() {
    let lab = Lab::new().await;
    lab.apply(&lab.integration("runs", "monitor-results")).await;
    let worker = lab.worker().await;
    let publish = async |id: &str| {
        lab.run_with(&["publish", "-"], &[], cloud_run(id, "m", 1).to_string().as_bytes()).await.done();
    };
    let changes = async |told: &str, seen: usize| {
        eventually(&format!("the worker has seen that {told}"), async || {
            (worker.log().matches("integrations changed").count() >= seen).then_some(())
        })
        .await;
    };
    assert_eq!(
        lab.run(&["integrations", "pause", "runs"]).await.done(),
        "runs is paused; events for it are suppressed until `integrations resume runs`\n"
    );
    changes("it is paused", 1).await;
    let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
    assert_eq!(
        (&listed[0]["state"], &listed[0]["state_reason"]),
        (&json!("paused"), &json!("paused by its owner"))
    );
    publish("while-paused").await;
    let expected =
        |outcome: &str, reason: &str| vec![("runs".to_owned(), outcome.to_owned(), reason.to_owned())];
    assert_eq!(lab.outcomes("while-paused").await, expected("suppressed", "integration-paused"));

    assert_eq!(lab.run(&["integrations", "resume", "runs"]).await.done(), "runs is active\n");
    changes("it is resumed", 2).await;
    publish("resumed").await;
    assert_eq!(lab.outcomes("resumed").await[0].1, "sent");

    lab.rooms.fail(json!([{"kind": "status", "status": 503}])).await;
    let waits = async |id: &str| {
        publish(id).await;
        eventually(&format!("{id} waits"), async || {
            let ran = lab.run(&["explain", id, "--output", "json"]).await;
            (ran.code == Some(0) && ran.json()["outcomes"][0]["outcome"] == "pending").then_some(())
        })
        .await;
    };
    waits("paused-meanwhile").await;
    assert_eq!(
        lab.run(&["integrations", "pause", "runs"]).await.done(),
        "runs is paused; events for it are suppressed until `integrations resume runs`\n\
         1 notification of it that waited ended as suppressed (integration-paused)\n"
    );
    changes("it is paused again", 3).await;
    assert_eq!(lab.outcomes("paused-meanwhile").await, expected("suppressed", "integration-paused"));
    assert_eq!(lab.run(&["integrations", "resume", "runs"]).await.done(), "runs is active\n");
    changes("it is resumed again", 4).await;
    waits("waiting").await;
    assert_eq!(
        lab.run(&["integrations", "remove", "runs"]).await.complaint(1),
        "runs has 1 pending notification, which would end as suppressed; add --yes to remove it"
    );
    assert_eq!(lab.run(&["integrations", "remove", "runs", "--yes"]).await.done(), "runs is removed\n");
    assert_eq!(lab.outcomes("waiting").await, expected("suppressed", "integration-removed"));
    lab.apply(&lab.integration("idle", "monitor-results")).await;
    assert_eq!(lab.run(&["integrations", "remove", "idle"]).await.done(), "idle is removed\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_test_message_is_marked_as_one() {
    let lab = Lab::new().await;
    let wrong = "wrongToken0123456789abcdefghijklmnopqrst";
    let broken = lab.integration("broken", "monitor-results").replace(TOKEN, wrong);
    lab.apply(&(lab.integration("runs", "monitor-results") + &broken)).await;
    assert_eq!(
        lab.run(&["integrations", "test", "runs"]).await.done(),
        format!("runs: the test message is in http://{}/v2/room/runs\n", lab.rooms.address)
    );
    lab.run(&["integrations", "pause", "runs"]).await.done();
    assert_eq!(
        lab.run(&["integrations", "test", "runs"]).await.done(),
        format!(
            "runs: the test message is in http://{}/v2/room/runs\nruns is still paused; `integrations resume runs` \
             lets it be told again\n",
            lab.rooms.address
        )
    );
    let posted = lab.rooms.receives("runs", 2).await;
    assert!(
        posted[0]["message"].as_str().is_some_and(|text| text.starts_with("<b>Test message</b>")),
        "{posted:?}"
    );
    let ran = lab.run(&["integrations", "test", "broken"]).await;
    assert!(!format!("{ran:?}").contains(wrong), "{ran:?}");
    let told = ran.complaint(1);
    let start = format!(
        "broken: the test message did not get to http://{}/v2/room/broken: HipChat answered 401",
        lab.rooms.address
    );
    assert!(told.starts_with(&start), "{told}");
}
