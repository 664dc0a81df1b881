//! One run, one message; what stands below it; the test message.

use super::*;

#[test]
fn a_success() {
    let message = told_run(
        &integration(Detail::Full, Ping::Failures),
        run(RunResult::Success),
        story(SendReason::EveryRun, 0),
    );
    assert_eq!(
        message.html,
        format!(
            "<a href=\"{MONITOR}?job=1e6ba2e3-1aaf\"><b>Orders health</b></a> passed<br>\
             Collection <a href=\"{COLLECTION}\">Orders</a> · Environment prod · Region us-east · Trigger schedule · \
             2026-11-22 10:00 UTC<br>\
             Passed 12 · Failed 0 · Errors 0 · Warnings 1 · Requests 7 · Average response 203 ms"
        )
    );
    assert_eq!(
        (message.color, message.notify, message.from.as_deref()),
        (Color::Green, false, Some("Checkout on call"))
    );
}

fn failing() -> MonitorRun {
    let failures =
        (1..=6).map(|n| failed_test("Get order", &format!("check {n}"), "expected 200 but got 404"));
    MonitorRun {
        metrics: metrics([5, 7, 0, 0, 7, 1423]),
        failures: failures.collect(),
        ..run(RunResult::Failure)
    }
}

#[test]
fn a_failure_in_full() {
    let message =
        told_run(&integration(Detail::Full, Ping::Failures), failing(), story(SendReason::Failure, 3));
    let items: String =
        (1..=5).map(|n| format!("<li><b>Get order</b> · check {n}: expected 200 but got 404</li>")).collect();
    assert_eq!(
        message.html,
        format!(
            "<a href=\"{MONITOR}?job=1e6ba2e3-1aaf\"><b>Orders health</b></a> failed: 7 of 12 tests, \
             3rd failed run in a row since 2026-11-22 08:30 UTC<br>\
             Collection <a href=\"{COLLECTION}\">Orders</a> · Environment prod · Region us-east · Trigger schedule · \
             2026-11-22 10:00 UTC<br>\
             Passed 5 · <b>Failed 7</b> · Errors 0 · Warnings 0 · Requests 7 · Average response 203 ms\
             <ul>{items}<li><i>and 2 more</i></li></ul>"
        )
    );
    assert_eq!((message.color, message.notify), (Color::Red, true));
}

#[test]
fn a_failure_in_one_line() {
    let message =
        told_run(&integration(Detail::Compact, Ping::Never), failing(), story(SendReason::Failure, 1));
    assert_eq!(
        message.html,
        format!(
            "<a href=\"{MONITOR}?job=1e6ba2e3-1aaf\"><b>Orders health</b></a> failed: 7 of 12 tests · \
             Passed 5 · <b>Failed 7</b> · Errors 0 · prod · us-east · 2026-11-22 10:00 UTC"
        )
    );
    assert!(!message.notify);
}

#[test]
fn headlines() {
    use RunResult::{Abort, Error, Failure, Success};
    let unknown = RunMetrics::default();
    let cases = [
        (
            "an error is no failed test",
            Error,
            metrics([0, 0, 3, 0, 1, 9]),
            story(SendReason::Failure, 1),
            "could not complete: 3 errors, 0 failed tests",
        ),
        (
            "both",
            Error,
            metrics([0, 1, 1, 0, 1, 9]),
            story(SendReason::Failure, 2),
            "could not complete: 1 error, 1 failed test, 2nd failed run in a row since 2026-11-22 08:30 UTC",
        ),
        (
            "an error without figures",
            Error,
            unknown,
            story(SendReason::Failure, 1),
            "could not complete: error",
        ),
        ("a failure without figures", Failure, unknown, story(SendReason::Failure, 1), "failed"),
        (
            "a failure with errors",
            Failure,
            metrics([3, 1, 2, 0, 1, 9]),
            story(SendReason::Failure, 1),
            "failed: 1 of 4 tests, 2 errors",
        ),
        (
            "an abort",
            Abort,
            unknown,
            story(SendReason::Failure, 1),
            "was aborted (stopped, or over the time limit)",
        ),
        (
            "still failing",
            Failure,
            unknown,
            story(SendReason::StillFailing, 11),
            "failed, still failing, 11th failed run in a row since 2026-11-22 08:30 UTC",
        ),
        (
            "the Nth",
            Failure,
            unknown,
            story(SendReason::ThresholdReached, 3),
            "failed, 3rd failed run in a row since 2026-11-22 08:30 UTC",
        ),
        (
            "a recovery",
            Success,
            unknown,
            story(SendReason::Recovered, 5),
            "recovered after 5 failed runs, first at 2026-11-22 08:30 UTC",
        ),
        (
            "a recovery from one",
            Success,
            unknown,
            story(SendReason::Recovered, 1),
            "recovered after 1 failed run, at 2026-11-22 08:30 UTC",
        ),
        (
            "a recovery at an unknown time",
            Success,
            unknown,
            Story { first_failed_at: None, ..story(SendReason::EveryRun, 2) },
            "recovered after 2 failed runs",
        ),
        ("replayed", Failure, unknown, story(SendReason::Replayed, 0), "failed (replayed)"),
    ];
    for (name, result, metrics, story, want) in cases {
        let message = told_run(
            &integration(Detail::Full, Ping::Failures),
            MonitorRun { metrics, ..run(result) },
            story,
        );
        let headline = message.html.split("<br>").next().unwrap();
        assert_eq!(headline.split_once("</a> ").unwrap().1, want, "{name}");
    }
}

#[test]
fn colours_by_result_and_pings_by_setting() {
    let cases = [
        (RunResult::Success, Color::Green, false),
        (RunResult::Failure, Color::Red, true),
        (RunResult::Error, Color::Red, true),
        (RunResult::Abort, Color::Yellow, true),
    ];
    for (result, color, fails) in cases {
        for (ping, notify) in [(Ping::Failures, fails), (Ping::All, true), (Ping::Never, false)] {
            let message =
                told_run(&integration(Detail::Full, ping), run(result), story(SendReason::EveryRun, 0));
            assert_eq!((message.color, message.notify), (color, notify), "{result:?} {ping:?}");
        }
    }
}

#[test]
fn what_is_not_known_leaves_its_line_out() {
    let bare = MonitorRun {
        monitor_uid: "5852-1e6b8957".into(),
        monitor_name: some(" \u{200B}"),
        collection_uid: None,
        collection_name: some(""),
        environment_uid: None,
        environment_name: None,
        run_id: None,
        region: None,
        trigger: None,
        started_at: None,
        finished_at: None,
        metrics: RunMetrics {
            errors: Some(0),
            total_latency_ms: Some(5),
            request_count: Some(0),
            ..RunMetrics::default()
        },
        ..run(RunResult::Success)
    };
    let message = told_run(&integration(Detail::Full, Ping::Failures), bare, story(SendReason::EveryRun, 0));
    let name = format!("<a href=\"{MONITOR}\"><b>5852-1e6b8957</b></a>");
    assert_eq!(message.html, format!("{name} passed<br>2026-11-22 10:00 UTC<br>Errors 0 · Requests 0"));
}

#[test]
fn a_runs_card_has_the_same_facts() {
    let message =
        told_run(&integration(Detail::Full, Ping::Failures), failing(), story(SendReason::Failure, 3));
    let card = message.card.unwrap();
    assert_eq!(
        card.title,
        "Orders health failed: 7 of 12 tests, 3rd failed run in a row since 2026-11-22 08:30 UTC"
    );
    assert_eq!(card.url.as_deref(), Some(format!("{MONITOR}?job=1e6ba2e3-1aaf").as_str()));
    let description = card.description.unwrap();
    assert!(description.starts_with("Trigger schedule\nGet order · check 1: expected 200"), "{description}");
    assert!(description.ends_with("\nand 2 more"), "{description}");
    assert_eq!(card.date, Some(at("10:00:02")));
    let facts: Vec<_> = card.attributes.iter().map(|a| (&*a.label, a.value.as_str(), a.style)).collect();
    let want = [
        ("Result", "failure", Some(Lozenge::Error)),
        ("Collection", "Orders", None),
        ("Environment", "prod", None),
        ("Region", "us-east", None),
        ("Passed", "5", None),
        ("Failed", "7", Some(Lozenge::Error)),
        ("Errors", "0", None),
        ("Warnings", "0", None),
        ("Requests", "7", None),
        ("Average response", "203 ms", None),
    ];
    assert_eq!(facts, want);
}

#[test]
fn a_cards_id_is_the_notifications() {
    let (ours, mut theirs) = (integration(Detail::Full, Ping::Failures), activities_integration());
    theirs.id = IntegrationId::new("feed");
    let id = |integration: &Integration, event| {
        let story = Story::plain(SendReason::Failure);
        let told = Told { event, story: &story, received_at: received() };
        render(integration, &told, &Links::postman(), Extras::default()).card.unwrap().id
    };
    let (one, two) = (
        event("e1", Subject::Run(run(RunResult::Success))),
        event("e2", Subject::Run(run(RunResult::Success))),
    );
    assert_eq!(id(&ours, &one), id(&ours, &one));
    assert_ne!(id(&ours, &one), id(&ours, &two));
    assert_ne!(id(&ours, &one), id(&theirs, &one));
}

#[test]
fn expired_ones_are_mentioned_last() {
    let event = event("e1", Subject::Activity(activity("update")));
    let story = Story::plain(SendReason::Activity);
    let told = Told { event: &event, story: &story, received_at: received() };
    for (expired, want) in [
        (1, "<br><i>1 other notification was not sent: it waited longer than allowed.</i>"),
        (7, "<br><i>7 other notifications were not sent: they waited longer than allowed.</i>"),
    ] {
        let message = render(
            &activities_integration(),
            &told,
            &Links::postman(),
            Extras { expired, ..Extras::default() },
        );
        assert!(message.html.ends_with(want), "{}", message.html);
        assert!(message.card.unwrap().description.unwrap().contains("waited longer"));
    }
}

#[test]
fn a_test_says_that_it_is_one() {
    let message = checker::checked(render_test(&integration(Detail::Full, Ping::Failures)));
    assert_eq!(
        message.html,
        "<b>Test message</b> of the integration <b>Checkout on call</b><br>\
         This room is set up. Nothing has happened: no run failed and nobody changed anything."
    );
    assert_eq!((message.color, message.notify), (Color::Purple, false));
}
