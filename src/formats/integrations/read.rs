//! From the file's TOML to definitions, with every fault of the file.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{Fields, Report, shown};
use super::spec::{DEFAULT_EVERY, FilterSpec, IntegrationSpec, NotifySpec};
use super::words::{
    self, ACTIVITY_RULES, DETAILS, KINDS, MONITOR_RESULTS, OVERFLOWS, PINGS, RUN_RULES, TEAM_ACTIVITY,
    choices,
};
use super::{IntegrationFaults, RoomRef, SecretSources};
use crate::domain::ids::IntegrationId;
use crate::domain::integration::{ActivityRule, RunRule};
use crate::formats::duration;
use crate::ports::Definition;

const COMMON: [&str; 10] = [
    "id",
    "name",
    "kind",
    "team",
    "paused",
    "room_url",
    "room_url_env",
    "room_url_file",
    "notify",
    "throttle",
];
const MESSAGE: [&str; 2] = ["detail", "ping"];
const NOTIFY: [&str; 4] = ["on", "failures", "collate", "every"];
const THROTTLE: [&str; 3] = ["messages", "per", "overflow"];
const ROOM_FIELDS: [&str; 3] = ["room_url", "room_url_env", "room_url_file"];

/// The longest name. It is shown beside every message.
const LONGEST_NAME: usize = 100;
/// `failures`: what Postman's own setting allows.
const FAILURES: std::ops::RangeInclusive<u32> = 1..=99;
/// Shorter waits would be lost in the time that a message takes.
const SHORTEST: Duration = Duration::from_secs(1);
/// Repeats told later than this are no news.
const LONGEST_COLLATE: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_PERIOD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Reads the whole file.
pub(super) fn read(text: &str, sources: &SecretSources<'_>) -> Result<Vec<Definition>, IntegrationFaults> {
    let mut report = Report::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        errors.iter().for_each(|error| report.syntax(error));
        return Err(IntegrationFaults::new(report.into_faults()));
    }
    let root = Fields::new(document.get_ref(), document.span());
    root.refuse_unknown(&mut report, &["integrations"], &[("[[integrations]]", &known_fields())]);
    let mut definitions = Vec::new();
    let mut lines = HashMap::new();
    for (n, table) in tables(&root, &mut report).into_iter().enumerate() {
        definitions.extend(read_one(table, n, &mut lines, &mut report, sources));
    }
    if report.count() == 0 { Ok(definitions) } else { Err(IntegrationFaults::new(report.into_faults())) }
}

fn known_fields() -> Vec<&'static str> {
    COMMON.iter().chain(&["message", "monitors"]).chain(FilterSpec::FIELDS).copied().collect()
}

/// The `[[integrations]]` of the file.
fn tables<'a>(root: &Fields<'a>, report: &mut Report<'_>) -> Vec<&'a Spanned<DeValue<'a>>> {
    const FIX: &str = "write [[integrations]] before the fields of each integration";
    let Some(value) = root.get("integrations") else { return Vec::new() };
    let Some(array) = value.get_ref().as_array() else {
        root.fault_at(report, "integrations", "not a list of integrations", FIX);
        return Vec::new();
    };
    let (tables, others): (Vec<_>, Vec<_>) = array.iter().partition(|item| item.get_ref().is_table());
    for item in others {
        report.fault(&item.span(), "integrations", Some(shown(item)), "not an integration", FIX);
    }
    tables
}

/// One integration; `None` when it has a fault. `lines` says where each id was first seen.
fn read_one<'a>(
    table: &'a Spanned<DeValue<'a>>,
    n: usize,
    lines: &mut HashMap<&'a str, usize>,
    report: &mut Report<'_>,
    sources: &SecretSources<'_>,
) -> Option<Definition> {
    let fields = Fields::new(table.get_ref().as_table()?, table.span());
    let before = report.count();
    let given =
        fields.get("id").and_then(|id| id.get_ref().as_str()).filter(|id| IntegrationId::is_valid(id));
    report.enter(given.map_or_else(|| format!("number {}", n + 1), |id| format!("\"{id}\"")));

    let id = read_id(&fields, lines, report);
    let kind = fields.word(report, "kind", &KINDS);
    if fields.get("kind").is_none() {
        fields.fault_at(report, "kind", "missing", &format!("write {}", choices(&KINDS)));
    }
    let mut spec = IntegrationSpec::new(id.unwrap_or_default(), kind.unwrap_or_default());
    read_name_and_team(&fields, &mut spec, report);
    spec.paused = fields.boolean(report, "paused").unwrap_or(false);
    read_filters(&fields, kind, &mut spec, report);
    let notify = fields.table(report, "notify", "notify.");
    match kind {
        Some(MONITOR_RESULTS) => spec.notify = run_rule(&notify, report),
        Some(_) => spec.notify = activity_rule(&notify, report),
        None => {}
    }
    refuse_unknown_below(&notify, &NOTIFY, report);
    read_throttle(&fields.table(report, "throttle", "throttle."), &mut spec, report);
    read_message(&fields.table(report, "message", "message."), &mut spec, report);
    refuse_unknown(&fields, report);
    let room = read_room(&fields, report, sources);
    if report.count() > before {
        return None;
    }
    let (url, RoomRef { room, token }) = room?;
    Some(Definition {
        id: IntegrationId::new(&spec.id),
        json: spec.to_stored_json().ok()?,
        room_url: url,
        room,
        token,
        paused: spec.paused,
    })
}

fn read_id<'a>(
    fields: &Fields<'a>,
    lines: &mut HashMap<&'a str, usize>,
    report: &mut Report<'_>,
) -> Option<&'a str> {
    const FIX: &str = "write 1 to 64 of a-z, 0-9 and -";
    let Some(value) = fields.get("id") else {
        fields.fault_at(report, "id", "missing", FIX);
        return None;
    };
    let Some(id) = value.get_ref().as_str().filter(|id| IntegrationId::is_valid(id)) else {
        fields.fault_at(report, "id", "not an id", FIX);
        return None;
    };
    let line = report.line(value.span().start);
    match lines.get(id) {
        Some(first) => {
            let problem = format!("the same id as the integration at line {first}");
            fields.fault_at(report, "id", &problem, "give each integration an id of its own");
            None
        }
        None => {
            lines.insert(id, line);
            Some(id)
        }
    }
}

fn read_name_and_team(fields: &Fields<'_>, spec: &mut IntegrationSpec, report: &mut Report<'_>) {
    if let Some(name) = fields.text(report, "name") {
        if name.value.chars().count() > LONGEST_NAME {
            let fix = format!("write at most {LONGEST_NAME} characters");
            report.fault(&name.span, "name", Some(name.shown), "too long", &fix);
        }
        spec.name = name.value.trim().to_owned();
    }
    spec.team = fields.text(report, "team").map(|team| team.value.to_owned());
}

/// `monitors`, or the filters for activities. Those of the other kind are faults.
fn read_filters(
    fields: &Fields<'_>,
    kind: Option<&str>,
    spec: &mut IntegrationSpec,
    report: &mut Report<'_>,
) {
    if let Some(monitors) = fields.list(report, "monitors") {
        if kind == Some(TEAM_ACTIVITY) {
            fields.fault_at(report, "monitors", "only for kind = \"monitor-results\"", "leave it out");
        }
        spec.monitors = monitors;
    }
    for name in FilterSpec::FIELDS {
        let Some(globs) = fields.list(report, name) else { continue };
        if kind == Some(MONITOR_RESULTS) {
            fields.fault_at(report, name, "only for kind = \"team-activity\"", "leave it out");
        }
        if let Some(field) = spec.filters.field_mut(name) {
            *field = globs;
        }
    }
}

/// `notify.on`, if it is a word of this kind; `None` when it is left out or a fault.
fn rule_word(
    notify: &Fields<'_>,
    report: &mut Report<'_>,
    kind: &str,
    mine: &[&'static str],
    others: &[&'static str],
) -> Option<&'static str> {
    let text = notify.get("on").and_then(|on| on.get_ref().as_str());
    if text.is_some_and(|text| others.contains(&text)) {
        let fix = format!("write {}", choices(mine));
        notify.fault_at(report, "on", &format!("not a rule for kind = \"{kind}\""), &fix);
        return None;
    }
    notify.word(report, "on", mine)
}

fn run_rule(notify: &Fields<'_>, report: &mut Report<'_>) -> NotifySpec {
    let (mine, others) = (words::of(&RUN_RULES), words::of(&ACTIVITY_RULES));
    for field in ["collate", "every"] {
        if notify.get(field).is_some() {
            notify.fault_at(report, field, "only for kind = \"team-activity\"", "leave it out");
        }
    }
    let failures = notify.number(report, "failures", FAILURES);
    let given = rule_word(notify, report, MONITOR_RESULTS, &mine, &others);
    let on = given.unwrap_or(RunRule::DEFAULT.as_str());
    let counts = words::meaning(&RUN_RULES, on).unwrap_or_default();
    // With a faulty `on` nobody knows whether `failures` fits.
    if !counts && notify.get("failures").is_some() && given.is_some() {
        let fix = "leave it out, or write on = \"failures-then-success\" or \"after-failures\"";
        notify.fault_at(report, "failures", &format!("on = \"{on}\" counts no failures"), fix);
    }
    let failures = counts.then(|| failures.unwrap_or(RunRule::DEFAULT_FAILURES));
    NotifySpec { on: on.to_owned(), failures, ..NotifySpec::default() }
}

fn activity_rule(notify: &Fields<'_>, report: &mut Report<'_>) -> NotifySpec {
    let (mine, others) = (words::of(&ACTIVITY_RULES), words::of(&RUN_RULES));
    if notify.get("failures").is_some() {
        notify.fault_at(report, "failures", "only for kind = \"monitor-results\"", "leave it out");
    }
    let collate = notify.duration(report, "collate", SHORTEST..=LONGEST_COLLATE, true);
    let every = notify.duration(report, "every", SHORTEST..=LONGEST_PERIOD, false);
    let word = rule_word(notify, report, TEAM_ACTIVITY, &mine, &others);
    // With a faulty `on` nobody knows which field fits.
    let misplaced = if notify.get("on").is_some() && word.is_none() { &[][..] } else { &ACTIVITY_RULES };
    let on = word.unwrap_or(mine[0]);
    for (rule, field) in misplaced {
        if *rule != on && notify.get(field).is_some() {
            let fix = format!("leave it out, or write on = \"{rule}\"");
            notify.fault_at(report, field, &format!("on = \"{on}\" has no {field}"), &fix);
        }
    }
    let each = on == mine[0];
    let collate = each.then(|| duration::format(collate.unwrap_or(ActivityRule::DEFAULT_COLLATE)));
    let every = (!each).then(|| duration::format(every.unwrap_or(DEFAULT_EVERY)));
    NotifySpec { on: on.to_owned(), failures: None, collate, every }
}

fn read_throttle(throttle: &Fields<'_>, spec: &mut IntegrationSpec, report: &mut Report<'_>) {
    let messages = throttle.number(report, "messages", 1..=1_000_000);
    let per = throttle.duration(report, "per", SHORTEST..=LONGEST_PERIOD, false);
    for (there, missing, example) in [("messages", "per", "\"1h\""), ("per", "messages", "10")] {
        if throttle.get(there).is_some() && throttle.get(missing).is_none() {
            let fix = format!("write both, {missing} = {example} for one, or neither");
            throttle.fault_at(report, there, &format!("without throttle.{missing}"), &fix);
        }
    }
    spec.throttle.messages = messages;
    spec.throttle.per = per.map(duration::format);
    if let Some(overflow) = throttle.word(report, "overflow", &words::of(&OVERFLOWS)) {
        overflow.clone_into(&mut spec.throttle.overflow);
    }
    refuse_unknown_below(throttle, &THROTTLE, report);
}

fn read_message(message: &Fields<'_>, spec: &mut IntegrationSpec, report: &mut Report<'_>) {
    if let Some(detail) = message.word(report, "detail", &words::of(&DETAILS)) {
        detail.clone_into(&mut spec.message.detail);
    }
    if let Some(ping) = message.word(report, "ping", &words::of(&PINGS)) {
        ping.clone_into(&mut spec.message.ping);
    }
    refuse_unknown_below(message, &MESSAGE, report);
}

/// Fields that belong elsewhere are told where.
fn refuse_unknown(fields: &Fields<'_>, report: &mut Report<'_>) {
    let below: [(&str, &[&str]); 3] = [
        ("[integrations.notify]", &NOTIFY),
        ("[integrations.throttle]", &THROTTLE),
        ("[integrations.message]", &MESSAGE),
    ];
    fields.refuse_unknown(report, &known_fields(), &below);
}

/// The same for a table of an integration.
fn refuse_unknown_below(table: &Fields<'_>, known: &[&str], report: &mut Report<'_>) {
    table.refuse_unknown(report, known, &[("[[integrations]], above the tables", &known_fields())]);
}

/// The room URL from wherever it is, and what it says. Nothing of it is ever shown.
fn read_room(
    fields: &Fields<'_>,
    report: &mut Report<'_>,
    sources: &SecretSources<'_>,
) -> Option<(SecretString, RoomRef)> {
    let given: Vec<_> = ROOM_FIELDS.into_iter().filter(|field| fields.get(field).is_some()).collect();
    let field = match given.as_slice() {
        [] => {
            let fix = "write one of room_url, room_url_env and room_url_file";
            report.fault(&fields.span, "room_url", None, "missing", fix);
            return None;
        }
        [field] => *field,
        [_, second, ..] => {
            let span = fields.get(second).map_or(fields.span.clone(), |value| value.span());
            let problem = format!("given beside {}", given[0]);
            report.fault(
                &span,
                second,
                None,
                &problem,
                "write only one of room_url, room_url_env and room_url_file",
            );
            return None;
        }
    };
    let value = fields.get(field)?;
    let refuse = |report: &mut Report<'_>, problem: &str, fix: &str| {
        let named = (field != "room_url").then(|| shown(value));
        report.fault(
            &value.span(),
            field,
            Some(named.unwrap_or_else(|| "(not shown)".to_owned())),
            problem,
            fix,
        );
    };
    let Some(text) = value.get_ref().as_str().map(str::trim).filter(|text| !text.is_empty()) else {
        refuse(report, "no text", "write a text in quotes");
        return None;
    };
    let url = match fetch(field, text, sources) {
        Ok(url) => url,
        Err((problem, fix)) => {
            refuse(report, &problem, fix);
            return None;
        }
    };
    match (sources.check_url)(&url) {
        Ok(room) => Some((SecretString::from(url), room)),
        Err(problem) => {
            let fix = "write the address that HipChat shows for the room's own integration";
            refuse(report, &without_secret(&problem, &url), fix);
            None
        }
    }
}

/// The URL that a field gives or points to, or what keeps it from being had and what to do.
fn fetch(field: &str, text: &str, sources: &SecretSources<'_>) -> Result<String, (String, &'static str)> {
    let url = match field {
        "room_url_env" => (sources.env)(text).ok_or_else(|| {
            ("this environment variable is not set".to_owned(), "set it to the room's URL before the start")
        })?,
        "room_url_file" => (sources.read_file)(Path::new(text)).map_err(|e| {
            (format!("this file cannot be read: {e}"), "write the path of a file that holds the room's URL")
        })?,
        _ => text.to_owned(),
    };
    match url.trim() {
        "" => Err(("it holds nothing".to_owned(), "put the room's URL into it")),
        url => Ok(url.to_owned()),
    }
}

/// Whoever checks URLs promises to keep the token to himself; this holds him to it.
fn without_secret(problem: &str, url: &str) -> String {
    let token =
        url.split_once("auth_token=").map_or("", |(_, rest)| rest.split(['&', '#']).next().unwrap_or(""));
    let problem = problem.replace(url, "(not shown)").replace('\n', " ");
    if token.is_empty() { problem } else { problem.replace(token, "(not shown)") }
}
