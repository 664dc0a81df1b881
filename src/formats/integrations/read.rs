//! From the file's TOML to definitions, with every fault of the file.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{Fields, Report, shown};
use super::room::read_room;
use super::rules::{activity_rule, run_rule};
use super::spec::{FilterSpec, IntegrationSpec};
use super::words::{self, DETAILS, KINDS, MONITOR_RESULTS, OVERFLOWS, PINGS, TEAM_ACTIVITY, choices};
use super::{IntegrationFaults, RoomRef, SecretSources};
use crate::domain::ids::IntegrationId;
use crate::formats::{duration, nearest::nearest};
use crate::ports::Definition;

/// Fields of both kinds.
const COMMON: [&str; 8] =
    ["id", "name", "kind", "team", "paused", "room_url", "room_url_env", "room_url_file"];
const TABLES: [&str; 3] = ["notify", "throttle", "message"];
const MESSAGE: [&str; 2] = ["detail", "ping"];
const NOTIFY: [&str; 4] = ["on", "failures", "collate", "every"];
const THROTTLE: [&str; 3] = ["messages", "per", "overflow"];

/// The longest name. It is shown beside every message.
const LONGEST_NAME: usize = 100;
/// Shorter waits would be lost in the time that a message takes.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// A week: what is told later is history.
pub(super) const LONGEST_PERIOD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A longer file is read in parts of about this many bytes. Parsed, a text takes twenty times its memory.
const PART: usize = 64 * 1024;
/// Begins an integration's table.
const BEGINNING: &str = "[[integrations]]";

/// Reads a file.
pub(super) fn read(text: &str, sources: &SecretSources<'_>) -> Result<Vec<Definition>, IntegrationFaults> {
    let in_parts = if text.len() > PART { read_in_parts(text, sources) } else { None };
    in_parts.map_or_else(|| read_whole(text, sources), Ok)
}

/// What [`read_whole`] reads of a file without a fault. `None`: there may be one, which only the whole file shows.
///
/// Something that stands before the first integration, a list of them perhaps, is the whole file's matter, too. Parts
/// end before lines that look like the beginning of an integration. If one is not, because it stands in a string
/// or in a list, then the part before it ends within that string or list, which is a fault.
fn read_in_parts(text: &str, sources: &SecretSources<'_>) -> Option<Vec<Definition>> {
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().map(str::trim_start).find(said)?.strip_prefix(BEGINNING)?;
    let (mut definitions, mut ids) = (Vec::new(), HashSet::new());
    let mut rest = text;
    while !rest.is_empty() {
        let from = rest.floor_char_boundary(PART);
        let beginning =
            rest[from..].match_indices(BEGINNING).find(|(at, _)| rest[..from + at].ends_with('\n'));
        let end = beginning.map_or(rest.len(), |(at, _)| from + at);
        let part;
        (part, rest) = rest.split_at(end);
        let read = read_whole(part, sources).ok()?;
        if !read.iter().all(|definition| ids.insert(definition.id.clone())) {
            return None;
        }
        definitions.extend(read);
    }
    Some(definitions)
}

fn read_whole(text: &str, sources: &SecretSources<'_>) -> Result<Vec<Definition>, IntegrationFaults> {
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
    COMMON.iter().chain(&["monitors"]).chain(FilterSpec::FIELDS).chain(&TABLES).copied().collect()
}

/// The `[[integrations]]` of the file.
fn tables<'a>(root: &Fields<'a>, report: &mut Report<'_>) -> Vec<&'a Spanned<DeValue<'a>>> {
    const NONE_FIX: &str =
        "add [[integrations]]; if there is to be none, say so by writing integrations = []";
    const FIX: &str = "write [[integrations]] before the fields of each integration";
    let Some(value) = root.get("integrations") else {
        // A file that was emptied by mistake, or that is about to be written, must not remove them all.
        if report.count() == 0 {
            root.fault_at(report, "integrations", "the file names no integration", NONE_FIX);
        }
        return Vec::new();
    };
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
    let kind = read_kind(&fields, report);
    let mut spec = IntegrationSpec::new(id.unwrap_or_default(), kind.unwrap_or_default());
    read_name_and_team(&fields, &mut spec, report);
    spec.paused = fields.boolean(report, "paused").unwrap_or(false);
    // What else is wrong is told at once, by the kind that a misspelt one seems to mean.
    let likely = kind.or_else(|| likely_kind(&fields));
    read_filters(&fields, likely, &mut spec, report);
    let notify = fields.table(report, "notify", "notify.");
    match likely {
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

fn read_kind(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<&'static str> {
    if fields.get("kind").is_none() {
        fields.fault_at(report, "kind", "missing", &format!("write {}", choices(&KINDS)));
    }
    fields.word(report, "kind", &KINDS)
}

fn likely_kind(fields: &Fields<'_>) -> Option<&'static str> {
    nearest(fields.get("kind")?.get_ref().as_str()?, KINDS)
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
