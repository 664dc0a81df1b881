//! The second stage: from raw values to [`Settings`], section by section, then what must hold between them.
//!
//! Each function reads all of its keys before it gives up on one, so that every fault is noted. `None` means
//! that a fault was noted.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::forms::{amqp_url, bearer, key, link_template, peer, proxy_url, store_url};
use super::reader::Reader;
use super::sections::*;
use crate::domain::pacing::Budget;
use crate::domain::retry::RetryRule;
use crate::files;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = seconds(24 * 60 * 60);
/// For waits: shorter ones would be busy loops.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// For budgets' windows: as `domain::pacing` counts in slots of a twentieth, each at least a millisecond.
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(20)..=DAY;
/// For how long things are kept or waited for.
const AGE: RangeInclusive<Duration> = seconds(1)..=Duration::from_secs(366 * 24 * 60 * 60);
/// For one call: longer would hold a room's line for nothing.
const CALL: RangeInclusive<Duration> = MILLISECOND..=seconds(10 * 60);
/// Shorter, a store that is only busy would be left; longer, the broker closes the channel itself (30 minutes).
const YIELD_AFTER: RangeInclusive<Duration> = seconds(1)..=seconds(20 * 60);
/// The broker counts heartbeats in whole seconds.
const HEARTBEAT: RangeInclusive<Duration> = seconds(1)..=seconds(10 * 60);
/// AMQP's short string.
const LONGEST_NAME: usize = 255;

/// All sections, and the checks between them.
pub(super) fn settings(r: &mut Reader) -> Option<Settings> {
    let amqp = amqp(r);
    let store = store(r);
    let integrations = IntegrationsSettings { file: optional_path(r, "integrations.file") };
    let http = http(r);
    let egress = egress(r);
    let secrets = secrets(r);
    let room = budget(r, "pacing.room.messages", "pacing.room.per");
    let token = budget(r, "pacing.token.calls", "pacing.token.per");
    let retry = retry(r);
    let notifications = r.duration("notifications.max_age", AGE);
    let journal = r.duration("journal.keep", AGE);
    let links = links(r);
    let hipchat = hipchat(r);
    let dispatch = dispatch(r);
    let grace = r.duration("shutdown.grace", seconds(0)..=seconds(60 * 60));
    let log = log(r);

    if let Some(store) = &store {
        shared_store_has_a_key(r, store);
    }
    if let (Some(max_age), Some(keep)) = (notifications, journal) {
        not_above(r, ("notifications.max_age", max_age), ("journal.keep", keep));
    }
    if let (Some(hipchat), Some(dispatch)) = (&hipchat, dispatch) {
        lease_outlasts_call(r, dispatch, hipchat);
    }
    Some(Settings {
        amqp: amqp?,
        store: store?,
        integrations,
        http: http?,
        egress: egress?,
        secrets,
        pacing: PacingSettings { room: room?, token: token? },
        retry: retry?,
        notifications: NotificationSettings { max_age: notifications? },
        journal: JournalSettings { keep: journal? },
        links,
        hipchat: hipchat?,
        dispatch: dispatch?,
        shutdown: ShutdownSettings { grace: grace? },
        log: log?,
    })
}

/// A worker that waits for one slow answer must not lose its room meanwhile. A call may begin when half of the lease
/// is over.
fn lease_outlasts_call(r: &mut Reader, dispatch: DispatchSettings, hipchat: &HipchatSettings) {
    if hipchat.timeout.saturating_mul(2) >= dispatch.lease {
        let problem = format!(
            "not longer than twice {}: a slow call would cost its room",
            r.described("hipchat.timeout")
        );
        r.fault("dispatch.lease", problem, "make it longer, or hipchat.timeout shorter");
    }
}

/// Notes a fault if the first of two durations is above the second.
fn not_above(r: &mut Reader, lower: (&str, Duration), upper: (&str, Duration)) {
    if lower.1 > upper.1 {
        let problem = format!("longer than {}", r.described(upper.0));
        r.fault(lower.0, problem, format!("shorten it, or make {} longer", upper.0));
    }
}

fn optional_path(r: &mut Reader, key: &str) -> Option<PathBuf> {
    r.known_as(key);
    r.origin(key)?;
    r.text(key, "write a path, or leave it out").map(PathBuf::from)
}

fn optional_file(r: &mut Reader, key: &str) -> Option<PathBuf> {
    r.known_as(key);
    r.origin(key)?;
    r.readable_file(key)
}

fn amqp(r: &mut Reader) -> Option<AmqpSettings> {
    let urls = amqp_urls(r);
    let exchange = amqp_name(r, "amqp.exchange");
    let queue = amqp_name(r, "amqp.queue");
    let dead_letters = amqp_name(r, "amqp.dead_letters");
    let prefetch = r.number("amqp.prefetch", 1..=u32::from(u16::MAX));
    let batch = r.number("amqp.batch", 1..=10_000);
    let heartbeat = r.duration("amqp.heartbeat", HEARTBEAT);
    let yield_after = r.duration("amqp.yield_after", YIELD_AFTER);
    let ca_file = optional_file(r, "amqp.ca_file");
    if let (Some(prefetch), Some(batch)) = (prefetch, batch)
        && batch > prefetch
    {
        let problem = format!("above {}: no batch would get full", r.described("amqp.prefetch"));
        r.fault("amqp.batch", problem, "lower it, or raise amqp.prefetch");
    }
    if heartbeat.is_some_and(|heartbeat| heartbeat.subsec_nanos() > 0) {
        r.fault("amqp.heartbeat", "not whole seconds", "write whole seconds, like \"10s\"");
    }
    if queue.is_some() && queue == dead_letters {
        r.fault("amqp.dead_letters", "the same as amqp.queue", "give the two queues different names");
    }
    if exchange.is_some() && exchange == dead_letters {
        r.fault("amqp.dead_letters", "the same as amqp.exchange", "give the two exchanges different names");
    }
    Some(AmqpSettings {
        urls: urls?,
        exchange: exchange?,
        queue: queue?,
        dead_letters: dead_letters?,
        prefetch: u16::try_from(prefetch?).ok()?,
        batch: batch? as usize,
        heartbeat: heartbeat?,
        yield_after: yield_after?,
        ca_file,
    })
}

fn amqp_urls(r: &mut Reader) -> Option<Vec<SecretUrl>> {
    const FIX: &str = "write amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS";
    match r.either("amqp.url", "amqp.urls")? {
        "amqp.url" => r.parsed("amqp.url", FIX, amqp_url).map(|url| vec![url]),
        key => {
            let texts = r.list(key)?;
            if texts.is_empty() {
                r.fault(key, "the list is empty", "leave it out to use amqp.url");
                return None;
            }
            let mut urls = Vec::new();
            for (n, text) in texts.iter().enumerate() {
                match amqp_url(text) {
                    Ok(url) => urls.push(url),
                    Err(problem) => r.fault(key, format!("address {}: {problem}", n + 1), FIX),
                }
            }
            (urls.len() == texts.len()).then_some(urls)
        }
    }
}

fn amqp_name(r: &mut Reader, key: &str) -> Option<String> {
    r.parsed(key, "write a name of at most 255 bytes that does not begin with \"amq.\"", |name| {
        if name.starts_with("amq.") {
            Err("names that begin with \"amq.\" are the broker's own".to_owned())
        } else if name.len() > LONGEST_NAME {
            Err("too long".to_owned())
        } else {
            Ok(name.to_owned())
        }
    })
}

fn store(r: &mut Reader) -> Option<StoreSettings> {
    const URL: &str = "write sqlite:PATH, as in sqlite:hipchat-notifier.db, or \
                       postgres://USER:PASSWORD@HOST:PORT/DATABASE";
    let url = r.parsed("store.url", URL, store_url);
    let connections = r.number("store.connections", 2..=64);
    let migrate = r.flag("store.migrate");
    Some(StoreSettings { url: url?, connections: connections? as usize, migrate: migrate? })
}

fn secrets(r: &mut Reader) -> SecretsSettings {
    let (one, other) = ("secrets.key", "secrets.key_file");
    let key = match r.either(one, other) {
        Some(chosen) if chosen == one => r
            .parsed(one, "write 64 hex digits, as `openssl rand -hex 32` makes them", key)
            .map(KeySource::Given),
        Some(_) => optional_path(r, other).map(KeySource::File),
        None => None,
    };
    SecretsSettings { key }
}

/// Of several workers none may make a key of its own: the others could not read what it encrypts.
fn shared_store_has_a_key(r: &mut Reader, store: &StoreSettings) {
    let given = r.origin("secrets.key").is_some() || r.origin("secrets.key_file").is_some();
    if matches!(store.url, StoreUrl::Postgres(_)) && !given {
        let problem =
            format!("not set, but {} is shared: every worker needs the same key", r.described("store.url"));
        let fix =
            "make one with `openssl rand -hex 32 > FILE`, and give every worker that file (or secrets.key)";
        r.fault("secrets.key_file", problem, fix);
    }
}

fn http(r: &mut Reader) -> Option<HttpSettings> {
    const LISTEN: &str = "write ADDRESS:PORT, as in 127.0.0.1:8320 or [::1]:8320";
    let listen = r.parsed("http.listen", LISTEN, |text| {
        text.parse::<SocketAddr>().map_err(|_| "not an address with a port".to_owned())
    });
    let (one, other) = ("http.bearer_token", "http.bearer_token_file");
    let given = r.origin(one).is_some() || r.origin(other).is_some();
    let bearer_token = match r.either(one, other) {
        Some(key) if key == one => r.parsed(key, "write visible ASCII characters without blanks", bearer),
        Some(key) => r.parsed(key, "write the path of a file that holds the token alone", |path| {
            let text = files::read_text(path.as_ref(), files::LONGEST_SECRET)
                .map_err(|e| format!("cannot be read: {e}"))?;
            bearer(text.trim()).map_err(|problem| format!("what it holds is no token: {problem}"))
        }),
        None => None,
    };
    if let Some(listen) = listen
        && !listen.ip().is_loopback()
        && !given
    {
        let fix = "set http.bearer_token or http.bearer_token_file, or listen at 127.0.0.1";
        r.fault("http.listen", "reachable from other machines without authentication", fix);
    }
    Some(HttpSettings { listen: listen?, bearer_token })
}

fn egress(r: &mut Reader) -> Option<EgressSettings> {
    let allow = r.list("egress.allow")?;
    for (n, entry) in allow.iter().enumerate() {
        if let Err(problem) = peer(entry) {
            let fix = "write a host, an address or a network: \"hipchat.internal\", \"10.1.2.3:8080\", \"10.0.0.0/8\"";
            r.fault("egress.allow", format!("entry {} is {problem}", n + 1), fix);
        }
    }
    Some(EgressSettings { allow })
}

fn budget(r: &mut Reader, messages: &str, per: &str) -> Option<Budget> {
    let messages = r.number(messages, 1..=u32::MAX);
    let per = r.duration(per, WINDOW);
    Some(Budget { messages: messages?, per: per? })
}

fn retry(r: &mut Reader) -> Option<RetryRule> {
    let first = r.duration("retry.first", WAIT);
    let longest = r.duration("retry.longest", WAIT);
    let give_up_after = r.duration("retry.give_up_after", AGE);
    if let (Some(first), Some(longest)) = (first, longest) {
        not_above(r, ("retry.first", first), ("retry.longest", longest));
    }
    if let (Some(longest), Some(give_up_after)) = (longest, give_up_after) {
        not_above(r, ("retry.longest", longest), ("retry.give_up_after", give_up_after));
    }
    Some(RetryRule { first: first?, longest: longest?, give_up_after: give_up_after? })
}

fn links(r: &mut Reader) -> LinkSettings {
    let mut templates = std::collections::BTreeMap::new();
    for (name, template) in r.open_section("links") {
        if let Err(problem) = link_template(template.trim()) {
            let fix =
                "write an address like \"https://go.postman.co/monitors/{monitor_id}\", or \"\" for no link";
            r.fault(&format!("links.{name}"), problem, fix);
        }
        templates.insert(name.to_lowercase(), template.trim().to_owned());
    }
    LinkSettings { templates }
}

fn hipchat(r: &mut Reader) -> Option<HipchatSettings> {
    let connect_timeout = r.duration("hipchat.connect_timeout", CALL);
    let timeout = r.duration("hipchat.timeout", CALL);
    let token_in = r.word("hipchat.token_in", &[("header", TokenIn::Header), ("query", TokenIn::Query)]);
    let ca_file = optional_file(r, "hipchat.ca_file");
    r.known_as("hipchat.proxy");
    let proxy = r.origin("hipchat.proxy").and_then(|_| {
        r.parsed("hipchat.proxy", "write http://HOST:PORT or https://USER:PASSWORD@HOST:PORT", proxy_url)
    });
    let no_proxy = r.list("hipchat.no_proxy");
    if let (Some(connect), Some(whole)) = (connect_timeout, timeout) {
        not_above(r, ("hipchat.connect_timeout", connect), ("hipchat.timeout", whole));
    }
    Some(HipchatSettings {
        connect_timeout: connect_timeout?,
        timeout: timeout?,
        token_in: token_in?,
        ca_file,
        proxy,
        no_proxy: no_proxy?,
    })
}

fn dispatch(r: &mut Reader) -> Option<DispatchSettings> {
    let concurrency = r.number("dispatch.concurrency", 1..=4096);
    // Dispatch takes it for a freeze when it has not looked at the store for a quarter of a lease, and it looks twice a
    // second where nothing is to be done.
    let lease = r.duration("dispatch.lease", seconds(4)..=seconds(60 * 60));
    Some(DispatchSettings { concurrency: concurrency? as usize, lease: lease? })
}

fn log(r: &mut Reader) -> Option<LogSettings> {
    r.known_as("log.format");
    let format = r
        .origin("log.format")
        .and_then(|_| r.word("log.format", &[("human", LogFormat::Human), ("json", LogFormat::Json)]));
    let level = r.parsed(
        "log.level",
        "write error, warn, info, debug or trace, or directives like \"info,hipchat_notifier::worker=debug\"",
        |text| {
            // To the filter a lone word is a module, of which all is told, and nothing of any other: a misspelt level
            // would silence the worker.
            let is_level = |word: &&str| word.parse::<LevelFilter>().is_ok();
            let mut words = text.split(',').filter(|one| !one.contains(['=', '[']));
            if let Some(word) = words.find(|word| !is_level(word)) {
                return Err(format!("{word:?} is no level (of a module alone write \"{word}=trace\")"));
            }
            EnvFilter::try_new(text)
                .map(|_| text.to_owned())
                .map_err(|_| "not a level and not directives".to_owned())
        },
    );
    Some(LogSettings { format, level: level? })
}
