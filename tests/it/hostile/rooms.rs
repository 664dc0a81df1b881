//! Rooms whose servers do their worst, and good ones beside them.

use std::collections::BTreeSet;

use super::*;
use crate::hipchat::raw::{RawServer, Reply, answer};
use crate::support::authority::Authority;
use crate::support::rooms::Hipchat;

/// Events that every room is to hear.
const EVENTS: usize = 20;

fn token(room: &str) -> String {
    format!("{room}Token0aB3xY9zQ7wE5rT1uI4oP6").replace('-', "")
}

/// What each hostile room does.
fn replies(trap: &RawServer) -> Vec<(&'static str, Reply)> {
    let head = |text: &str| text.as_bytes().to_vec();
    let endless = |status: &str| head(&format!("HTTP/1.1 {status}\r\ncontent-length: 99999999999\r\n\r\n"));
    let redirect = format!("location: http://{}/v2/room/1/notification?auth_token=x\r\n", trap.addr);
    let many = (0..90).map(|n| format!("x-{n}: {}\r\n", "y".repeat(4_000))).collect::<String>();
    vec![
        ("silent", Reply::Silence),
        ("drops", Reply::Drop),
        ("drips-headers", Reply::Trickle(head("HTTP/1.1 204 No Content\r\nx: "))),
        ("drips-body", Reply::Trickle(endless("500 Oops"))),
        ("headers-without-end", Reply::Endless(head("HTTP/1.1 204 No Content\r\nx: "))),
        ("many-headers", answer("500 Oops", &many, "")),
        ("gigabytes", Reply::Endless(endless("500 Oops"))),
        (
            "chunks-without-end",
            Reply::Endless(head("HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\nfffffff0\r\n")),
        ),
        ("speaks-ssh", Reply::Bytes(head("SSH-2.0-OpenSSH_9.2\r\n\r\n"))),
        ("leads-inside", answer("307 Temporary Redirect", &redirect, "")),
        (
            "limits-for-ever",
            answer("429 Slow", "retry-after: 99999999999999\r\nx-floodcontrol-reset: 9e300\r\n", ""),
        ),
        ("echoes", answer("400 Bad", "", &format!("auth_token={}", token("echoes")))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_do_their_worst_harm_no_other() {
    let (broker, hipchat) = (Broker::fresh().await, Hipchat::with_limits(None, None).await);
    let authority = Authority::new();
    let acceptor = authority.acceptor("other.example");
    let wrong_name = RawServer::start_with(answer("204 No Content", "", ""), move |stream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream).await.ok() }
    })
    .await;
    let trap = RawServer::start(answer("204 No Content", "", "")).await;
    let mut rooms = Vec::new();
    for (room, reply) in replies(&trap) {
        let server = RawServer::start(reply).await;
        let url = format!("http://{}/v2/room/1/notification?auth_token={}", server.addr, token(room));
        rooms.push((room, url, server));
    }
    let url =
        format!("https://{}/v2/room/1/notification?auth_token={}", wrong_name.addr, token("wrong-name"));
    rooms.push(("wrong-name", url, wrong_name));

    let ca_file = authority.file().to_string_lossy().into_owned();
    let site = Site::on(&broker)
        .with("HIPCHAT__CA_FILE", &ca_file)
        .with("HIPCHAT__TIMEOUT", "5s")
        .with("HIPCHAT__CONNECT_TIMEOUT", "5s")
        .with("RETRY__FIRST", "50ms")
        .with("RETRY__LONGEST", "100ms")
        .with("RETRY__GIVE_UP_AFTER", "2s")
        .with("LOG__LEVEL", "debug");
    let good: String =
        ["good-1", "good-2"].map(|room| every_run(room, &hipchat.room_url(room, &token(room)))).concat();
    let bad: String = rooms.iter().map(|(room, url, _)| every_run(room, url)).collect();
    site.apply(&(good + &bad)).await;
    let mut worker = site.start().await;
    let at_first = worker.peak_memory();
    for n in 0..EVENTS {
        broker.publish("monitor.acme.1-orders", &format!("e-{n}"), &run(&format!("e-{n}"))).await;
    }

    for room in ["good-1", "good-2"] {
        let heard = eventually(&format!("{room} hears all"), async || {
            Some(hipchat.messages(room).await).filter(|messages| messages.len() >= EVENTS)
        })
        .await;
        let in_order = heard.iter().enumerate().all(|(n, one)| one.message.contains(&format!("/e-{n}\"")));
        assert!(in_order && heard.len() == EVENTS, "{room}: {heard:#?}");
    }
    // Each hostile room's first event ends where somebody sees it, but for the one that asks for patience.
    for (room, _, server) in &rooms {
        if *room == "limits-for-ever" {
            continue;
        }
        eventually(&format!("{room}'s first ends"), async || {
            let explained = site.run(&["explain", "e-0", "--output", "json"]).await.json();
            let outcomes = explained["outcomes"].as_array().expect("a list").clone();
            let one =
                outcomes.into_iter().find(|outcome| outcome["integration_id"] == *room).expect("it is there");
            (one["outcome"] == "dead-lettered").then_some(())
        })
        .await;
        if *room == "wrong-name" {
            assert!(server.requests().is_empty(), "the token went to a server that is not the room's");
        }
    }
    assert_eq!(trap.opened(), 0, "nothing goes where a room points");

    memory_is_bounded(&worker, at_first);
    assert!(worker.terminate().await.0.success());
    let secrets: BTreeSet<String> =
        rooms.iter().map(|(room, ..)| token(room)).chain([token("good-1")]).collect();
    let secrets: Vec<String> = secrets.into_iter().collect();
    assert_eq!(leaks(&site, &worker.log(), &secrets).await, Vec::<String>::new());
}
