//! Where links go, and which are refused.

use super::*;

fn links(key: &str, template: &str) -> Result<Links, LinkTemplateError> {
    Links::new([(key.to_owned(), template.to_owned())])
}

#[test]
fn a_runs_link_is_the_nearest_to_the_run() {
    let base = MonitorRun {
        run_url: WebAddress::parse("https://r.example/"),
        monitor_url: WebAddress::parse("https://m.example/"),
        ..run(RunResult::Success)
    };
    let cases = [
        ("its own", base.clone(), Some("https://r.example/")),
        (
            "the run's template",
            MonitorRun { run_url: None, ..base.clone() },
            Some("https://go.postman.co/monitors/1e6b8957?job=1e6ba2e3-1aaf"),
        ),
        (
            "not a web address",
            MonitorRun { run_url: WebAddress::parse("javascript:alert(1)"), run_id: None, ..base.clone() },
            Some("https://m.example/"),
        ),
        (
            "the monitor's template",
            MonitorRun { run_url: None, run_id: some(" "), monitor_url: None, ..base.clone() },
            Some(MONITOR),
        ),
        (
            "nothing",
            MonitorRun { run_url: None, monitor_url: None, monitor_uid: "".into(), ..base.clone() },
            None,
        ),
    ];
    for (name, run, want) in cases {
        let event = event("e", Subject::Run(run.clone()));
        assert_eq!(Links::postman().run(&event, &run).as_ref().map(Href::as_str), want, "{name}");
    }
}

#[test]
fn templates_take_the_place_of_postmans() {
    let run = run(RunResult::Success);
    let event = event("e", Subject::Run(run.clone()));
    let of =
        |template| links("run", template).unwrap().run(&event, &run).map(|href| href.as_str().to_owned());
    assert_eq!(
        of("https://p.example/{monitor_uid}/{run_id}").unwrap(),
        "https://p.example/5852-1e6b8957/1e6ba2e3-1aaf"
    );
    assert_eq!(of("").unwrap(), MONITOR, "switched off");
    assert_eq!(of("https://p.example/{team}").unwrap(), MONITOR, "the event names no team");
    let odd = MonitorRun { run_id: some("a/../b?c=\"<d>&e é"), ..run };
    let href = links("run", "https://p.example/{run_id}{?collection_id}")
        .unwrap()
        .run(&event_of(&odd), &odd)
        .unwrap();
    assert_eq!(
        href.as_str(),
        "https://p.example/a%2F..%2Fb%3Fc%3D%22%3Cd%3E%26e%20%C3%A9?collection_id=1d3daef4"
    );
}

fn event_of(run: &MonitorRun) -> Event {
    event("e", Subject::Run(run.clone()))
}

#[test]
fn a_model_of_any_name_can_have_a_template() {
    let activity = Activity { model: "Mock".to_owned(), ..activity("create") };
    let event = event("e", Subject::Activity(activity.clone()));
    let href =
        links("mock", "https://p.example/{model}/{model_id}").unwrap().instance(&event, &activity).unwrap();
    assert_eq!(href.as_str(), "https://p.example/Mock/9c0aa1d2");
}

#[test]
fn a_uid_without_its_owner() {
    let cases = [
        ("5852-1e6b8957", "1e6b8957"),
        ("5852-1e6b8957-0000-4000-8000-000000000001", "1e6b8957-0000-4000-8000-000000000001"),
        ("12345678-0000-4000-8000-000000000001", "12345678-0000-4000-8000-000000000001"),
        ("orders-health", "orders-health"),
        ("5852-", "5852-"),
    ];
    for (uid, id) in cases {
        let run = MonitorRun { monitor_uid: uid.into(), run_id: None, ..run(RunResult::Success) };
        let href =
            links("monitor", "https://p.example/{monitor_id}").unwrap().run(&event_of(&run), &run).unwrap();
        assert_eq!(href.as_str(), format!("https://p.example/{id}"));
    }
}

#[test]
fn wrong_templates_are_named() {
    let cases = [
        (
            "https://p.example/{run_id",
            "links.run: `https://p.example/{run_id` is not a URI template (RFC 6570)",
        ),
        (
            "https://p.example/{runid}",
            "links.run: there is no variable `runid`; use one of monitor_uid, monitor_id, run_id",
        ),
        (
            "ftp://p.example/{run_id}",
            "links.run: `ftp://p.example/{run_id}` must make an address that starts with https://",
        ),
        ("/monitors/{run_id}", "links.run: `/monitors/{run_id}` must make an address"),
        ("https://me@p.example/{run_id}", "links.run: `https://me@p.example/{run_id}` must make an address"),
    ];
    for (template, want) in cases {
        let error = links("run", template).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn only_plain_web_addresses_are_links() {
    let long = format!("https://x.example/{}", "a".repeat(1_000));
    let bad = [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//x.example",
        "x",
        "",
        "https://",
        "https://a@b.example",
        "https://a:b@c.example",
        &long,
    ];
    for raw in bad {
        assert_eq!(Href::parse(raw), None, "{raw}");
    }
    assert_eq!(
        Href::parse("HTTPS://x.example/a\"b'c<d>").unwrap().escaped(),
        "https://x.example/a%22b&#39;c%3Cd%3E"
    );
}
