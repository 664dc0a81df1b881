//! Any notification, and any digest of several, makes a message that HipChat takes and that reads as what was
//! meant: see `judge`.

use arbitrary::{Result, Unstructured};
use hipchat_notifier::domain::event::{
    Activity, Event, FailedTest, MonitorRun, RunMetrics, RunResult, Subject,
};
use hipchat_notifier::domain::ids::{EventId, IntegrationId, RoomKey, TeamId, TokenKey};
use hipchat_notifier::domain::integration::{
    ActivityRule, Detail, Integration, IntegrationState, Interest, MessageStyle, Ping, RunRule, Throttle,
};
use hipchat_notifier::domain::message::{Extras, Links, RoomMessage, render, render_digest, render_test};
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::{Story, Told};
use jiff::Timestamp;

use crate::judge;

/// Pieces that mean harm, as far as random bytes would be long in finding them.
const PIECES: [&str; 24] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=y>",
    "&amp;",
    "&lt",
    "&#x27;",
    "&",
    "<",
    "'",
    "</b></a>",
    "<br>",
    "\u{1f600}",
    "\u{1f469}\u{200d}\u{1f680}",
    "\u{202e}",
    "\u{0}",
    "\r\n\t",
    "\u{2028}",
    "\u{feff}",
    "\u{e0041}",
    "\u{301}",
    "https://a.example/?b=1&c='",
    "https://user:pass@a.example/",
    "javascript:alert(1)",
    "@all @here /code ",
    "(success)",
];

pub fn check(input: &[u8]) {
    // Bytes that run out leave what is left at its simplest, so nothing is refused.
    let _ = check_some(&mut Unstructured::new(input));
}

fn check_some(u: &mut Unstructured<'_>) -> Result<()> {
    let links = links(u)?;
    let integrations: Vec<Integration> = many(u, 3, integration)?;
    let Some(first) = integrations.first() else { return Ok(()) };
    judge::message(&render_test(first));
    let received_at = time(u)?.unwrap_or(Timestamp::UNIX_EPOCH);
    let extras = Extras { expired: u.arbitrary()?, continues: u.arbitrary()? };
    let events: Vec<(Event, Story, usize)> =
        many(u, 12, |u| Ok((event(u)?, story(u)?, u.int_in_range(0..=integrations.len() - 1)?)))?;
    let items: Vec<(&Integration, Told<'_>)> = events
        .iter()
        .map(|(event, story, at)| (&integrations[*at], Told { event, story, received_at }))
        .collect();
    for (integration, told) in &items {
        let message = render(integration, told, &links, extras);
        assert_eq!(message, render(integration, told, &links, extras), "the same again");
        judge::message(&message);
        judge::message(&message.plain());
    }
    if !items.is_empty() {
        for why in [SendReason::OverBudget, SendReason::Collated, SendReason::ScheduledDigest] {
            let message: RoomMessage = render_digest(&items, &links, extras, why);
            judge::message(&message);
        }
    }
    Ok(())
}

fn many<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(1..=most)?;
    (0..count).map(|_| one(u)).collect()
}

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    let mut text = String::new();
    for _ in 0..u.int_in_range(0..=4)? {
        match u.int_in_range(0_u8..=3)? {
            0 => text.push_str(u.choose(&PIECES)?),
            1 => text.push(u.arbitrary()?),
            2 => {
                let length = u.int_in_range(0..=40)?.min(u.len());
                text.push_str(&String::from_utf8_lossy(u.bytes(length)?));
            }
            _ => text.push_str("Get order"),
        }
    }
    let times = match u.int_in_range(0_u8..=15)? {
        0 => u.int_in_range(2..=3_000)?,
        _ => 1,
    };
    Ok(text.repeat(times))
}

fn maybe(u: &mut Unstructured<'_>) -> Result<Option<String>> {
    if u.ratio(4, 5)? { text(u).map(Some) } else { Ok(None) }
}

fn time(u: &mut Unstructured<'_>) -> Result<Option<Timestamp>> {
    Ok(match u.int_in_range(0_u8..=4)? {
        0 => None,
        1 => Some(Timestamp::MIN),
        2 => Some(Timestamp::MAX),
        _ => {
            let seconds = u.int_in_range(Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())?;
            Timestamp::from_second(seconds).ok()
        }
    })
}

fn links(u: &mut Unstructured<'_>) -> Result<Links> {
    let templates = [
        ("request", "https://a.example/{model_uid}?x={team}#{model}"),
        ("monitor", "http://a.example/{+monitor_uid}{?run_id}"),
        ("collection", ""),
        ("run", "https://a.example{/run_id,region}"),
    ];
    let mut chosen = Vec::new();
    for (key, template) in templates {
        if u.ratio(1, 4)? {
            chosen.push((key.to_owned(), template.to_owned()));
        }
    }
    Ok(Links::new(chosen).unwrap_or_else(|_| Links::postman()))
}

fn integration(u: &mut Unstructured<'_>) -> Result<Integration> {
    Ok(Integration {
        id: IntegrationId::new("checkout-on-call"),
        name: text(u)?,
        team: None,
        interest: match u.arbitrary()? {
            true => Interest::MonitorResults { monitors: Box::default(), rule: RunRule::DEFAULT },
            false => Interest::TeamActivity {
                filters: Box::default(),
                rule: ActivityRule::Each { collate: ActivityRule::DEFAULT_COLLATE },
            },
        },
        room: RoomKey::new("https://acme.hipchat.com/v2/room/42"),
        token: TokenKey::new("0011223344556677"),
        throttle: Throttle::default(),
        message: MessageStyle {
            detail: *u.choose(&[Detail::Full, Detail::Compact])?,
            ping: *u.choose(&[Ping::Failures, Ping::All, Ping::Never])?,
        },
        state: IntegrationState::Active,
    })
}

fn story(u: &mut Unstructured<'_>) -> Result<Story> {
    Ok(Story { reason: *u.choose(SendReason::ALL)?, failures: u.arbitrary()?, first_failed_at: time(u)? })
}

fn event(u: &mut Unstructured<'_>) -> Result<Event> {
    Ok(Event {
        id: EventId::new(text(u)?),
        team: maybe(u)?.map(TeamId::new),
        subject: match u.arbitrary()? {
            true => Subject::Run(run(u)?),
            false => Subject::Activity(activity(u)?),
        },
    })
}

fn run(u: &mut Unstructured<'_>) -> Result<MonitorRun> {
    let results = [RunResult::Success, RunResult::Failure, RunResult::Error, RunResult::Abort];
    Ok(MonitorRun {
        monitor_uid: text(u)?,
        monitor_name: maybe(u)?,
        collection_uid: maybe(u)?,
        collection_name: maybe(u)?,
        environment_uid: maybe(u)?,
        environment_name: maybe(u)?,
        user_id: maybe(u)?,
        user_name: maybe(u)?,
        result: *u.choose(&results)?,
        metrics: RunMetrics {
            passed_tests: u.arbitrary()?,
            failed_tests: u.arbitrary()?,
            errors: u.arbitrary()?,
            warnings: u.arbitrary()?,
            request_count: u.arbitrary()?,
            total_latency_ms: u.arbitrary()?,
        },
        run_id: maybe(u)?,
        region: maybe(u)?,
        trigger: maybe(u)?,
        started_at: time(u)?,
        finished_at: time(u)?,
        monitor_url: maybe(u)?,
        run_url: maybe(u)?,
        failures: many(u, 9, |u| Ok(FailedTest { request: maybe(u)?, test: maybe(u)?, message: maybe(u)? }))?,
    })
}

fn activity(u: &mut Unstructured<'_>) -> Result<Activity> {
    Ok(Activity {
        action: text(u)?,
        model: text(u)?,
        model_uid: maybe(u)?,
        model_name: maybe(u)?,
        collection_uid: maybe(u)?,
        collection_name: maybe(u)?,
        message: maybe(u)?,
        user_id: maybe(u)?,
        user_name: maybe(u)?,
        occurred_at: time(u)?,
        workspace_id: maybe(u)?,
        workspace_name: maybe(u)?,
        model_url: maybe(u)?,
        collection_url: maybe(u)?,
    })
}
