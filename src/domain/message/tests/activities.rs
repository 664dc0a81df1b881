//! One activity, one message.

use super::*;

const REQUEST: &str = "<a href=\"https://go.postman.co/request/5852-9c0aa1d2\">Get order</a>";

#[test]
fn an_activity() {
    let message = told_activity(&activities_integration(), activity("update"));
    assert_eq!(
        message.html,
        format!(
            "Ana updated request {REQUEST}<br>Collection <a href=\"{COLLECTION}\">Orders</a> · 2026-11-22 10:00 UTC"
        )
    );
    assert_eq!(
        (message.color, message.notify, message.from.as_deref()),
        (Color::Gray, false, Some("Team feed"))
    );
    let card = message.card.unwrap();
    assert_eq!(card.title, "Ana updated request Get order");
    let facts: Vec<_> = card.attributes.iter().map(|a| (&*a.label, a.value.as_str())).collect();
    assert_eq!(
        facts,
        [("Who", "Ana"), ("Action", "update"), ("request", "Get order"), ("Collection", "Orders")]
    );
}

#[test]
fn sentences() {
    let base = activity("update");
    let cases = [
        ("an unknown action", activity("frobnicate"), format!("Ana: frobnicate request {REQUEST}")),
        ("a past form", activity("Created"), format!("Ana created request {REQUEST}")),
        (
            "Postman's sentence",
            Activity { message: some("Ana updated the request Get order"), ..base.clone() },
            format!("Ana updated the request {REQUEST}"),
        ),
        (
            "… that names nobody",
            Activity { message: some("Get order was moved"), ..base.clone() },
            format!("Ana: {REQUEST} was moved"),
        ),
        (
            "… that does not name the instance",
            Activity { message: some("Ana tidied up <b>"), ..base.clone() },
            format!("Ana tidied up &lt;b&gt; (request {REQUEST})"),
        ),
        (
            "… in which the name is part of a word",
            Activity { message: some("Ana updated a thing"), model_name: some("thin"), ..base.clone() },
            "Ana updated a thing (request <a href=\"https://go.postman.co/request/5852-9c0aa1d2\">thin</a>)"
                .to_owned(),
        ),
        (
            "only a user id",
            Activity { user_name: None, ..base.clone() },
            format!("User 5852 updated request {REQUEST}"),
        ),
        (
            "nobody",
            Activity { user_name: None, user_id: None, ..base.clone() },
            format!("Someone updated request {REQUEST}"),
        ),
        (
            "its own link",
            Activity { model_url: WebAddress::parse("https://x.example/?a=1&b=2"), ..base.clone() },
            "Ana updated request <a href=\"https://x.example/?a=1&amp;b=2\">Get order</a>".to_owned(),
        ),
        (
            "a model without a page: its collection",
            Activity { model: "folder".to_owned(), ..base.clone() },
            format!("Ana updated folder <a href=\"{COLLECTION}\">Get order</a>"),
        ),
        (
            "no page at all",
            Activity {
                model: "mock".to_owned(),
                collection_uid: None,
                model_name: some("\n"),
                ..base.clone()
            },
            "Ana updated mock 5852-9c0aa1d2".to_owned(),
        ),
        (
            "nothing but the required",
            Activity {
                model_uid: None,
                model_name: None,
                user_name: None,
                user_id: None,
                collection_uid: None,
                ..base.clone()
            },
            "Someone updated request (unnamed)".to_owned(),
        ),
    ];
    for (name, activity, want) in cases {
        let message = told_activity(&activities_integration(), activity);
        assert_eq!(message.html.split("<br>").next().unwrap(), want, "{name}");
    }
}

#[test]
fn an_activity_on_a_nameless_model_has_a_card_with_labels() {
    let message =
        told_activity(&activities_integration(), Activity { model: " ".to_owned(), ..activity("update") });
    assert!(message.html.starts_with("Ana updated <a "), "{}", message.html);
    assert!(message.card.unwrap().attributes.iter().any(|a| a.label == "Instance" && a.value == "Get order"));
}

#[test]
fn what_takes_away_is_yellow() {
    for (action, color) in
        [("delete", Color::Yellow), ("Removed", Color::Yellow), ("create", Color::Gray), ("x", Color::Gray)]
    {
        assert_eq!(told_activity(&activities_integration(), activity(action)).color, color, "{action}");
    }
}

#[test]
fn a_compact_activity_is_one_line() {
    let mut integration = activities_integration();
    integration.message.detail = Detail::Compact;
    let message =
        told_activity(&integration, Activity { workspace_name: some("Shop"), ..activity("delete") });
    assert_eq!(
        message.html,
        format!(
            "Ana deleted request {REQUEST} · Collection <a href=\"{COLLECTION}\">Orders</a> · Workspace Shop · 2026-11-22 10:00 UTC"
        )
    );
}
