//! Any notification, and any digest of several, makes a message that HipChat takes (see `judge`) and that says what
//! it should: what has a name is named, letter by letter, and what is left out is counted.
//!
//! An input that begins with `==` is a text that a person can read: events as in `envelope`, each after such a line.
//! `reason: …`, `failures: …` and `integration: …` (a name) above an event say how it is told. Any other bytes are
//! what anything is made of.

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
use hipchat_notifier::domain::web_address::WebAddress;
use hipchat_notifier::formats::read_event;
use jiff::Timestamp;

use crate::{envelope, judge, says};

/// In one input at most: digests are made of them, too.
const EVENTS: usize = 12;
/// Bytes of a long text; a message holds 10,000 characters.
const LONG: usize = 24_000;

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
    let room = match input.strip_prefix(b"==\n") {
        Some(text) => Ok(written(text)),
        None => any(&mut Unstructured::new(input)),
    };
    if let Ok(room) = room {
        judged(&room);
    }
}

/// What a room is to hear.
struct Room {
    links: Links,
    integrations: Vec<Integration>,
    received_at: Timestamp,
    extras: Extras,
    /// With the place of its integration.
    events: Vec<(Event, Story, usize)>,
}

fn judged(room: &Room) {
    let Room { links, integrations, received_at, extras, events } = room;
    let Some(first) = integrations.first() else { return };
    judge::message(&render_test(first));
    let told = |event, story| Told { event, story, received_at: *received_at };
    let items: Vec<(&Integration, Told<'_>)> =
        events.iter().map(|(event, story, at)| (&integrations[*at], told(event, story))).collect();
    for (integration, told) in &items {
        let message = render(integration, told, links, *extras);
        assert_eq!(message, render(integration, told, links, *extras), "the same again");
        let shown = judge::message(&message);
        judge::fits(&message.plain());
        says::alone(&shown, told.event, integration.message.detail);
    }
    if !items.is_empty() {
        for why in [SendReason::OverBudget, SendReason::Collated, SendReason::ScheduledDigest] {
            let message: RoomMessage = render_digest(&items, links, *extras, why);
            let shown = judge::message(&message);
            if items.len() > 1 {
                says::together(&shown, events.iter().map(|(event, _, _)| event));
            }
        }
    }
}

/// The events of a text, each for a room that wants all of it and for one that wants a line.
fn written(text: &[u8]) -> Room {
    let mut room = Room {
        links: Links::postman(),
        integrations: Vec::new(),
        received_at: Timestamp::from_second(1_764_000_000).expect("a time"),
        extras: Extras::default(),
        events: Vec::new(),
    };
    for (n, (_, text)) in envelope::several(text).into_iter().take(EVENTS).enumerate() {
        let mut envelope = envelope::read(text);
        let mut take = |name: &str| envelope.headers.remove(name).unwrap_or_default();
        let (reason, failures, name) = (take("reason"), take("failures"), take("integration"));
        let Ok(event) = read_event(&envelope, || EventId::new(format!("event-{n}"))) else { continue };
        let is_run = matches!(event.subject, Subject::Run(_));
        let usual = if is_run { SendReason::Failure } else { SendReason::Activity };
        let story = Story {
            reason: SendReason::from_text(&reason).unwrap_or(usual),
            failures: failures.parse().unwrap_or(0),
            first_failed_at: None,
        };
        for detail in [Detail::Full, Detail::Compact] {
            let style = MessageStyle { detail, ping: Ping::Failures };
            let at = room.integrations.len();
            room.integrations.push(integration(at, name.clone(), is_run, style));
            room.events.push((event.clone(), story, at));
        }
    }
    room
}

fn any(u: &mut Unstructured<'_>) -> Result<Room> {
    let links = links(u)?;
    let mut integrations: Vec<Integration> = Vec::new();
    for at in 0..u.int_in_range(1..=3)? {
        integrations.push(any_integration(u, at)?);
    }
    let received_at = time(u)?.unwrap_or(Timestamp::UNIX_EPOCH);
    let extras = Extras { expired: u.arbitrary()?, continues: u.arbitrary()? };
    let events =
        many(u, EVENTS, |u| Ok((event(u)?, story(u)?, u.int_in_range(0..=integrations.len() - 1)?)))?;
    Ok(Room { links, integrations, received_at, extras, events })
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
    // Longer than all limits, now and then.
    let times = if u.ratio(1, 32)? { u.int_in_range(2..=3_000)? } else { 1 };
    Ok(text.repeat(times.min(LONG / text.len().max(1)).max(1)))
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

fn any_integration(u: &mut Unstructured<'_>, at: usize) -> Result<Integration> {
    let (name, runs) = (text(u)?, u.arbitrary()?);
    let detail = *u.choose(&[Detail::Full, Detail::Compact])?;
    let ping = *u.choose(&[Ping::Failures, Ping::All, Ping::Never])?;
    Ok(integration(at, name, runs, MessageStyle { detail, ping }))
}

fn integration(at: usize, name: String, runs: bool, message: MessageStyle) -> Integration {
    Integration {
        id: IntegrationId::new(format!("on-call-{at}")),
        name,
        team: None,
        interest: match runs {
            true => Interest::MonitorResults { monitors: Box::default(), rule: RunRule::DEFAULT },
            false => Interest::TeamActivity {
                filters: Box::default(),
                rule: ActivityRule::Each { collate: ActivityRule::DEFAULT_COLLATE },
            },
        },
        room: RoomKey::new("https://acme.hipchat.com/v2/room/42"),
        token: TokenKey::new("0011223344556677"),
        throttle: Throttle::default(),
        message,
        state: IntegrationState::Active,
    }
}

fn story(u: &mut Unstructured<'_>) -> Result<Story> {
    Ok(Story { reason: *u.choose(SendReason::ALL)?, failures: u.arbitrary()?, first_failed_at: time(u)? })
}

fn event(u: &mut Unstructured<'_>) -> Result<Event> {
    Ok(Event {
        // Now and then the same as another's.
        id: EventId::new(u.arbitrary::<u8>()?.to_string()),
        team: maybe(u)?.map(TeamId::new),
        subject: match u.arbitrary()? {
            true => Subject::Run(run(u)?),
            false => Subject::Activity(activity(u)?),
        },
    })
}

fn link(u: &mut Unstructured<'_>) -> Result<Option<WebAddress>> {
    let texts = ["https://a.example/b?c=d&e=f", "http://a.example/\"b'c", "https://b\u{fc}cher.example/<b>"];
    let raw = if u.ratio(3, 4)? { (*u.choose(&texts)?).to_owned() } else { text(u)? };
    Ok(WebAddress::parse(&raw))
}

fn run(u: &mut Unstructured<'_>) -> Result<MonitorRun> {
    let results = [RunResult::Success, RunResult::Failure, RunResult::Error, RunResult::Abort];
    Ok(MonitorRun {
        monitor_uid: if u.ratio(3, 4)? { (*u.choose(&["5852-1", "5852-2"])?).into() } else { text(u)?.into() },
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
        region: maybe(u)?.map(Into::into),
        trigger: maybe(u)?,
        started_at: time(u)?,
        finished_at: time(u)?,
        monitor_url: link(u)?,
        run_url: link(u)?,
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
        model_url: link(u)?,
        collection_url: link(u)?,
    })
}
