//! `integrations.file`: what it manages, when it is applied, and what is said of it.

use serde_json::json;

use crate::support::broker::eventually;
use crate::support::cli::{Lab, TOKEN};

#[tokio::test]
async fn what_a_file_manages_is_changed_in_that_file_only() {
    let lab = Lab::new().await;
    let text = lab.integration("runs", "monitor-results");
    let file = lab.write("managed.toml", &text);
    let managed = [("integrations.file", file.as_str())];
    let worker = lab.start(&managed);
    worker.is_ready().await;
    for arguments in [
        &["integrations", "pause", "runs"][..],
        &["integrations", "remove", "runs"],
        &["integrations", "remove", "runs", "--yes"],
        &["integrations", "apply", &file],
    ] {
        let told = lab.run(arguments).await.complaint(1);
        assert_eq!(
            told, "integration runs is managed by integrations.file: change it there",
            "{arguments:?}"
        );
    }
    let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
    assert_eq!(
        (&listed[0]["managed_by"], &listed[0]["state"]),
        (&json!("integrations.file"), &json!("active"))
    );

    // A change with a fault in it is told and changes nothing; a good one takes effect.
    lab.write("managed.toml", text.replace("on = \"all\"", "on = \"everything\""));
    let told = worker.says(&["the integrations stay as they are", "notify.on = "]).await;
    assert!(!told.contains(TOKEN), "{told}");
    assert_eq!(lab.run(&["integrations", "list", "--output", "json"]).await.json(), listed);
    assert_eq!(worker.figure("hipchat_notifier_integrations_file_applied ").await, Some(0.0));
    lab.write("managed.toml", text.replace("id = \"runs\"", "id = \"runs\"\npaused = true"));
    eventually("the change takes effect", async || {
        let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
        (listed[0]["state"] == "paused").then_some(())
    })
    .await;
    assert_eq!(
        lab.run(&["integrations", "resume", "runs"]).await.complaint(1),
        "integration runs is paused in integrations.file: change it there"
    );
    worker.says(&["integrations changed: changed runs"]).await;
    assert_eq!(worker.figure("hipchat_notifier_integrations_file_applied ").await, Some(1.0));
    let applied_at = worker.figure("hipchat_notifier_integrations_file_applied_timestamp_seconds ").await;
    assert!(applied_at.is_some_and(|at| at > 1_700_000_000.0), "{applied_at:?}");
    worker.stop().await;
}

#[tokio::test]
async fn an_emptied_file_removes_nothing_unless_it_says_so() {
    let lab = Lab::new().await;
    let file = lab.write("managed.toml", lab.integration("runs", "monitor-results"));
    let worker = lab.start(&[("integrations.file", file.as_str())]);
    worker.is_ready().await;
    let fault = "line 1: integrations: the file names no integration; add [[integrations]]; if there is to be none, say \
                 so by writing integrations = []";
    for emptied in ["", "# to be written\n"] {
        lab.write("managed.toml", emptied);
        assert_eq!(
            lab.run(&["integrations", "apply", &file]).await.complaint(78),
            format!("{file}:\n{fault}")
        );
    }
    worker.says(&["the integrations stay as they are"]).await;
    worker.says(&[fault]).await;
    let listed = lab.run(&["integrations", "list", "--output", "json"]).await.json();
    assert_eq!(listed[0]["id"], "runs");
    assert_eq!(worker.figure("hipchat_notifier_integrations_file_applied ").await, Some(0.0));

    lab.write("managed.toml", "integrations = []");
    worker.says(&["integrations changed: removed runs"]).await;
    worker.says(&["integrations file applied: removed runs"]).await;
    assert_eq!(lab.run(&["integrations", "list", "--output", "json"]).await.json(), json!([]));
    worker.stop().await;
}

#[tokio::test]
async fn a_room_url_that_comes_after_the_file_that_names_it_is_taken() {
    let lab = Lab::new().await;
    let text = lab.integration("runs", "monitor-results");
    let file = lab.write("managed.toml", &text);
    let worker = lab.start(&[("integrations.file", file.as_str())]);
    worker.is_ready().await;
    let room_url = lab.room_url("later", TOKEN);
    let old = text.lines().find(|line| line.starts_with("room_url")).expect("it has one");
    lab.write("managed.toml", text.replace(old, &format!("room_url_file = {:?}", lab.path("later.url"))));
    worker.says(&["the integrations stay as they are", "this file cannot be read"]).await;
    lab.write("later.url", room_url);
    worker.says(&["integrations file applied: changed runs"]).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_and_the_worker_goes_on() {
    let lab = Lab::new().await;
    let text = lab.integration("runs", "monitor-results");
    let file = lab.write("managed.toml", &text);
    let worker = lab.start(&[("integrations.file", file.as_str())]);
    worker.is_ready().await;
    let fifo = lab.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let old = text.lines().find(|line| line.starts_with("room_url")).expect("it has one");
    lab.write("managed.toml", text.replace(old, &format!("room_url_file = {fifo:?}")));
    let fault = "this file cannot be read: it is not a regular file";
    worker.says(&["the integrations stay as they are", fault]).await;
    std::fs::remove_file(lab.path("managed.toml")).expect("removed");
    std::fs::rename(&fifo, lab.path("managed.toml")).expect("renamed");
    worker.says(&["managed.toml: it is not a regular file"]).await;
    assert_eq!(
        lab.run(&["integrations", "apply", &file]).await.complaint(78),
        format!("can't read {file}: it is not a regular file")
    );
    std::fs::remove_file(lab.path("managed.toml")).expect("removed");
    lab.write("managed.toml", "integrations = []");
    worker.says(&["integrations file applied: removed runs"]).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_a_file_takes_over_and_lets_go_is_told_and_stays_somebodys() {
    let lab = Lab::new().await;
    let text = lab.integration("runs", "monitor-results");
    lab.apply(&text).await;
    lab.run(&["integrations", "pause", "runs"]).await.done();
    let file = lab.write("managed.toml", &text);
    let state = async || {
        let shown = lab.run(&["integrations", "show", "runs", "--output", "json"]).await.json();
        [shown["managed_by"].clone(), shown["state"].clone()]
    };
    assert_eq!(state().await, [json!("operator"), json!("paused")]);
    let worker = lab.start(&[("integrations.file", file.as_str())]);
    worker.says(&["the file takes over what operators had made: runs; from now on the file alone"]).await;
    worker.is_ready().await;
    assert_eq!(state().await, [json!("integrations.file"), json!("active")]);
    worker.stop().await;

    let worker = lab.worker().await;
    worker.says(&["there is no integrations.file any more; what it managed stays as it is", ": runs"]).await;
    assert_eq!(state().await, [json!("operator"), json!("active")]);
    lab.run(&["integrations", "remove", "runs"]).await.done();
    worker.stop().await;
}
