//! Several notifications, one message.

use super::*;

fn runs(results: &[(&str, &str, RunResult, u32)]) -> Vec<(Event, Story)> {
    let item = |(n, (uid, name, result, failures)): (usize, &(&str, &str, RunResult, u32))| {
        let run = MonitorRun {
            monitor_uid: (*uid).into(),
            monitor_name: some(name),
            finished_at: Some(at(&format!("10:{:02}:00", n % 60))),
            ..run(*result)
        };
        (event(&format!("r{n}"), Subject::Run(run)), story(SendReason::Failure, *failures))
    };
    results.iter().enumerate().map(item).collect()
}

fn activities(of: &[Activity]) -> Vec<(Event, Story)> {
    let item = |(n, activity): (usize, &Activity)| {
        let activity =
            Activity { occurred_at: Some(at(&format!("10:{:02}:00", n % 60))), ..activity.clone() };
        (event(&format!("a{n}"), Subject::Activity(activity)), Story::plain(SendReason::Activity))
    };
    of.iter().enumerate().map(item).collect()
}

const REQUEST: &str = "<a href=\"https://go.postman.co/request/5852-9c0aa1d2\">Get order</a>";

#[test]
fn over_budget_worst_first() {
    use RunResult::{Error, Failure, Success};
    let mut events = runs(&[
        ("1-a", "Fine", Success, 0),
        ("1-b", "Mended", Failure, 1),
        ("1-c", "Broken", Failure, 1),
        ("1-c", "Broken", Failure, 2),
        ("1-d", "Dead", Error, 7),
        ("1-b", "Mended", Success, 1),
    ]);
    events.extend(activities(&[activity("update"), activity("update"), activity("delete")]));
    let integration = integration(Detail::Full, Ping::Failures);
    let message = told_together(
        &integration,
        &events,
        SendReason::OverBudget,
        Extras { expired: 2, ..Extras::default() },
    );
    let link = |id: &str, name: &str| {
        format!(
            "<a href=\"https://go.postman.co/monitors/{id}?job=1e6ba2e3-1aaf\"><b>{name}</b></a> (prod, us-east)"
        )
    };
    assert_eq!(
        message.html,
        [
            "<b>4 runs failed in 3 monitors, 1 recovered, 2 runs passed; 3 activities</b> \
             (merged to keep to the room&#39;s message limit) · 2026-11-22 10:00 to 10:05 UTC",
            "<ul><li>", &link("d", "Dead"), ": 1 could not complete; <b>still failing</b>, 7 failed runs in a row since 2026-11-22 08:30 UTC</li>",
            "<li>", &link("c", "Broken"), ": 2 failed; <b>still failing</b>, 2 failed runs in a row since 2026-11-22 08:30 UTC</li>",
            "<li>", &link("b", "Mended"), ": 1 failed, 1 passed; now passing after 1 failed run, at 2026-11-22 08:30 UTC</li>",
            "<li>", &link("a", "Fine"), ": 1 passed</li></ul>",
            &format!("<b>Collection <a href=\"{COLLECTION}\">Orders</a></b>"),
            &format!("<ul><li>Ana updated request {REQUEST} ×2</li><li>Ana deleted request {REQUEST}</li></ul>"),
            "<i>2 other notifications were not sent: they waited longer than allowed.</i>",
        ]
        .concat()
    );
    assert_eq!((message.color, message.notify), (Color::Red, true));
    let card = message.card.unwrap();
    let facts: Vec<_> = card.attributes.iter().map(|a| (&*a.label, a.value.as_str())).collect();
    let time = ("Time", "2026-11-22 10:00 to 10:05 UTC");
    assert_eq!(
        facts,
        [("Failed runs", "4"), ("Passed runs", "2"), ("Recovered", "1"), ("Activities", "3"), time]
    );
}

#[test]
fn a_digests_colour_is_the_worst_that_still_holds() {
    use RunResult::{Abort, Failure, Success};
    let cases = [
        ("still failing", vec![("a", "A", Failure, 1), ("b", "B", Success, 0)], Color::Red),
        (
            "failing again",
            vec![("a", "A", Failure, 1), ("a", "A", Success, 1), ("a", "A", Abort, 1)],
            Color::Red,
        ),
        ("mended", vec![("a", "A", Failure, 1), ("a", "A", Success, 1)], Color::Yellow),
        ("fine", vec![("a", "A", Success, 0), ("b", "B", Success, 2)], Color::Green),
    ];
    for (name, results, color) in cases {
        let message = told_together(
            &integration(Detail::Full, Ping::Failures),
            &runs(&results),
            SendReason::OverBudget,
            Extras::default(),
        );
        assert_eq!(message.color, color, "{name}");
    }
    for (actions, color) in [(["update", "create"], Color::Gray), (["update", "delete"], Color::Yellow)] {
        let events = activities(&actions.map(activity));
        let message =
            told_together(&activities_integration(), &events, SendReason::ScheduledDigest, Extras::default());
        assert_eq!((message.color, message.notify), (color, false), "{actions:?}");
    }
}

#[test]
fn collated_repeats_are_one_sentence() {
    for (n, again) in [(4, "4 more times"), (1, "once more")] {
        let events = activities(&vec![activity("update"); n]);
        let message =
            told_together(&activities_integration(), &events, SendReason::Collated, Extras::default());
        let when = if n == 1 { "2026-11-22 10:00 UTC" } else { "2026-11-22 10:00 to 10:03 UTC" };
        assert_eq!(
            message.html,
            format!(
                "Ana updated request {REQUEST} {again}<br>Collection <a href=\"{COLLECTION}\">Orders</a> · {when}"
            )
        );
    }
}

#[test]
fn collated_repeats_with_postmans_sentence() {
    let said = |message: &str| Activity { message: some(message), ..activity("update") };
    let same = activities(&[said("Ana updated Get order."), said("Ana updated Get order.")]);
    let differing = activities(&[said("Ana changed the url"), said("Ana changed the body")]);
    for (events, want) in [
        (same, format!("Ana updated {REQUEST} 2 more times<br>")),
        (differing, format!("Ana updated request {REQUEST} 2 more times<br>")),
    ] {
        let message =
            told_together(&activities_integration(), &events, SendReason::Collated, Extras::default());
        assert!(message.html.starts_with(&want), "{}", message.html);
    }
}

#[test]
fn collated_actions_that_differ_are_listed() {
    let events = activities(&[activity("update"), activity("rename"), activity("update")]);
    let message = told_together(&activities_integration(), &events, SendReason::Collated, Extras::default());
    assert_eq!(
        message.html,
        format!(
            "<b>3 more activities</b> · 2026-11-22 10:00 to 10:02 UTC<br><b>Collection <a href=\"{COLLECTION}\">Orders</a></b>\
             <ul><li>Ana updated request {REQUEST} ×2</li><li>Ana renamed request {REQUEST}</li></ul>"
        )
    );
}

#[test]
fn a_scheduled_digest_has_a_section_for_each_place() {
    let other = Activity { model_uid: some("5852-other"), model_name: some("Login"), ..activity("create") };
    let environment = Activity {
        model: "environment".to_owned(),
        model_uid: some("5852-env"),
        model_name: some("prod"),
        collection_uid: None,
        collection_name: None,
        workspace_name: some("Shop"),
        ..activity("delete")
    };
    let ben = Activity { user_id: some("77"), user_name: some("Ben"), ..activity("update") };
    let events =
        activities(&[activity("update"), other, activity("update"), environment, ben, activity("update")]);
    let message =
        told_together(&activities_integration(), &events, SendReason::ScheduledDigest, Extras::default());
    assert_eq!(
        message.html,
        format!(
            "<b>6 activities</b> · 2026-11-22 10:00 to 10:05 UTC<br><b>Collection <a href=\"{COLLECTION}\">Orders</a></b>\
             <ul><li>Ana updated request {REQUEST} ×3</li><li>Ben updated request {REQUEST}</li>\
             <li>Ana created request <a href=\"https://go.postman.co/request/5852-other\">Login</a></li></ul>\
             <b>Workspace Shop</b>\
             <ul><li>Ana deleted environment <a href=\"https://go.postman.co/environments/5852-env\">prod</a></li></ul>"
        )
    );
    assert_eq!(message.from.as_deref(), Some("Team feed"));
}

#[test]
fn a_long_digest_ends_at_an_item_and_counts_the_rest() {
    let distinct = |n: usize| Activity {
        model_uid: Some(format!("5852-{n}")),
        model_name: Some(format!("Request {n}")),
        ..activity("update")
    };
    let events = activities(&(0..1000).map(distinct).collect::<Vec<_>>());
    let message = told_together(
        &activities_integration(),
        &events,
        SendReason::ScheduledDigest,
        Extras { expired: 3, ..Extras::default() },
    );
    let shown = message.html.matches("<li>Ana updated").count();
    assert!(shown > 60, "{shown}");
    assert!(
        message.html.contains(&format!("<li><i>and {} more</i></li></ul><i>3 other", 1000 - shown)),
        "{}",
        message.html
    );
    assert!(message.html.encode_utf16().count() > 9_700);
}

#[test]
fn the_same_event_by_two_integrations_is_told_once_and_both_are_named() {
    let ours = integration(Detail::Compact, Ping::Never);
    let theirs = Integration {
        id: IntegrationId::new("b"),
        name: "x".repeat(80),
        ..integration(Detail::Full, Ping::Failures)
    };
    let events = runs(&[("1-a", "A", RunResult::Failure, 1), ("1-b", "B", RunResult::Success, 0)]);
    let told = |n: usize| Told { event: &events[n].0, story: &events[n].1, received_at: received() };
    let items = [(&theirs, told(0)), (&ours, told(0)), (&ours, told(1))];
    let message =
        checker::checked(render_digest(&items, &Links::postman(), Extras::default(), SendReason::OverBudget));
    assert!(message.html.starts_with("<b>1 run failed in 1 monitor, 1 run passed</b>"), "{}", message.html);
    assert_eq!(message.from.unwrap(), format!("{}… and 1 more", "x".repeat(52)));
    assert!(message.notify, "the one that wants pings gets them");
}

#[test]
fn one_that_goes_on_in_the_next_message_says_so_before_what_expired() {
    let integration = integration(Detail::Full, Ping::Failures);
    let events = runs(&[("1-a", "A", RunResult::Failure, 1), ("1-b", "B", RunResult::Success, 0)]);
    let extras = Extras { expired: 1, continues: true };
    let message = told_together(&integration, &events, SendReason::ScheduledDigest, extras);
    let end = "<i>The next message tells more of this. 1 other notification was not sent: it waited longer than allowed.</i>";
    assert!(message.html.ends_with(end), "{}", message.html);
}

#[test]
fn one_alone_and_none_at_all() {
    let integration = integration(Detail::Full, Ping::Failures);
    let one = runs(&[("1-a", "A", RunResult::Failure, 1)]);
    let merged = told_together(&integration, &one, SendReason::OverBudget, Extras::default());
    let told = Told { event: &one[0].0, story: &one[0].1, received_at: received() };
    assert_eq!(merged, render(&integration, &told, &Links::postman(), Extras::default()));

    let none =
        told_together(&integration, &[], SendReason::OverBudget, Extras { expired: 1, ..Extras::default() });
    assert!(none.html.contains("1 other notification was not sent"), "{}", none.html);
}
