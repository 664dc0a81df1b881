//! Logs: one subscriber for the process, for people or for machines.
//!
//! Lines go to stderr, so that stdout stays what a verb prints. Times are RFC 3339 in UTC. Both formats carry
//! the fields of the event and of the spans around it; in JSON all of them stand at the top level of the object,
//! so that a search for an event's id finds every line about it, wherever the id was attached.
//!
//! # Field names
//! | field | is |
//! | --- | --- |
//! | `event_id` | the event's identity |
//! | `integration_id` | the integration |
//! | `room` | the room's public name, without token |
//! | `attempt` | which HTTP call of a message, counted from 1 |
//! | `status` | the room's server's answer |
//! | `outcome`, `reason` | the words of `domain::reason` |
//! | `error` | a sentence for people |
//!
//! # Secrets
//! Nothing here redacts: a filter over text would miss the next form of a secret. Tokens, room URLs and
//! passwords are `SecretString` or `settings::SecretUrl` from where they are read, whose `Debug` and `Display`
//! do not show them, and adapters strip URLs from errors before they hand them on.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{LogFormat, LogSettings};

/// Silenced unless the level names them: the worker tells of its sessions itself, in one line each.
const QUIET: &str = "lapin=off";

/// Where lapin is named: at `trace` it writes out every frame, the one with the password among them.
const NO_FRAMES: &str = "lapin::io_loop=debug";

/// Names that the line itself uses; fields of these names are left out.
const OWN: [&str; 4] = ["timestamp", "level", "target", "message"];

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process. To be called once.
///
/// # Errors
/// When the level's directives cannot be read (validated settings can), or logging is set up already.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let terminal = io::stderr().is_terminal();
    let by_place = if terminal { LogFormat::Human } else { LogFormat::Json };
    match settings.format.unwrap_or(by_place) {
        LogFormat::Human => human(filter(settings)?, terminal, Stderr).try_init()?,
        LogFormat::Json => json(filter(settings)?, Stderr).try_init()?,
    }
    Ok(())
}

fn filter(settings: &LogSettings) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let level = &settings.level;
    match level.contains("lapin") {
        true => EnvFilter::try_new(format!("{QUIET},{level},{NO_FRAMES}")),
        false => EnvFilter::try_new(format!("{QUIET},{level}")),
    }
}

/// One compact line an event.
fn human<W>(filter: EnvFilter, colours: bool, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .compact()
        .with_ansi(colours)
        .with_env_filter(filter)
        .with_writer(writer)
        .log_internal_errors(false)
        .finish()
}

/// One flat object an event.
fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .fmt_fields(JsonPairs)
        .event_format(FlatJson)
        .with_env_filter(filter)
        .with_writer(writer)
        .finish()
}

/// Stderr that may go away. A worker whose log reader has died goes on working; `eprintln!` would panic.
#[derive(Debug, Clone, Copy)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// `{"timestamp", "level", "target", "message", …fields}`. The library's own JSON nests the spans' fields. There is a
/// line for every message that is told, so nothing is taken apart that was put together before.
struct FlatJson;

impl<S> FormatEvent<S, JsonPairs> for FlatJson
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonPairs>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut own = Pairs::default();
        event.record(&mut own);
        let metadata = event.metadata();
        let mut line = String::with_capacity(512);
        line.push_str("{\"timestamp\":\"");
        // Fails only for clocks beyond the year 9999; the line is worth more than its time.
        let _ = SystemTime.format_time(&mut Writer::new(&mut line));
        line.push_str("\",\"level\":\"");
        line.push_str(metadata.level().as_str());
        line.push_str("\",\"target\":");
        quote(&mut line, metadata.target());
        line.push_str(",\"message\":");
        line.push_str(pairs(&own.0).find(|(name, _)| *name == "message").map_or("\"\"", |(_, json)| json));
        let mut told: Vec<&str> = OWN.to_vec();
        let mut tell = |name: &str, json: &str| {
            line.push_str(",\"");
            line.push_str(name);
            line.push_str("\":");
            line.push_str(json);
        };
        // The nearest value of a name wins: the event's, then that of the innermost span.
        tell_new(&own.0, &mut told, &mut tell);
        let spans: Vec<_> = context.event_scope().into_iter().flatten().collect();
        let extensions: Vec<_> = spans.iter().map(|span| span.extensions()).collect();
        for fields in extensions.iter().filter_map(|e| e.get::<FormattedFields<JsonPairs>>()) {
            tell_new(&fields.fields, &mut told, &mut tell);
        }
        line.push_str("}\n");
        writer.write_str(&line)
    }
}

/// Tells the pairs whose names are new.
fn tell_new<'a>(text: &'a str, told: &mut Vec<&'a str>, tell: &mut impl FnMut(&str, &str)) {
    for (name, json) in pairs(text) {
        if !told.contains(&name) {
            told.push(name);
            tell(name, json);
        }
    }
}

/// Fields as lines of a name and a JSON value, which itself has no line break and no NUL.
struct JsonPairs;

impl<'w> FormatFields<'w> for JsonPairs {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut own = Pairs::default();
        fields.record(&mut own);
        writer.write_str(&own.0)
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

/// The names and values of [`JsonPairs`], the first first.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('\0'))
}

/// Writes `text` as JSON.
fn quote(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // A text always has a JSON form.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// What [`JsonPairs`] writes.
#[derive(Default)]
struct Pairs(String);

impl Pairs {
    fn put(&mut self, field: &Field, json: impl fmt::Display) {
        // Writing into a text can't fail.
        let _ = writeln!(self.0, "{}\0{json}", field.name());
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        self.0.push_str(field.name());
        self.0.push('\0');
        quote(&mut self.0, text);
        self.0.push('\n');
    }
}

impl Visit for Pairs {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() { self.put(field, value) } else { self.put(field, "null") }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put_text(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Memory {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn level(level: &str) -> EnvFilter {
        filter(&LogSettings { format: None, level: level.to_owned() }).unwrap()
    }

    fn tell() {
        let _outer = tracing::info_span!("event", event_id = "e-1", room = "outer").entered();
        let _inner =
            tracing::info_span!("room", room = "https://acme.example/v2/room/42", attempt = 1).entered();
        tracing::info!(status = 204u64, level = "mine", reason = %"failure", "posted \"it\"\nto {}", "42");
    }

    #[test]
    fn a_json_line_is_one_flat_object_with_the_spans_fields() {
        let memory = Memory::default();
        tracing::subscriber::with_default(json(level("info"), memory.clone()), tell);
        let text = memory.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        for (name, expected) in [
            ("level", Value::from("INFO")),
            ("message", "posted \"it\"\nto 42".into()),
            ("event_id", "e-1".into()),
            ("room", "https://acme.example/v2/room/42".into()),
            ("attempt", 1.into()),
            ("status", 204.into()),
            ("reason", "failure".into()),
        ] {
            assert_eq!(line[name], expected, "{name} in {text}");
        }
        assert!(text.starts_with("{\"timestamp\":\"2"), "{text}");
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[derive(Clone, Copy)]
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    }

    impl MakeWriter<'_> for Broken {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            *self
        }
    }

    #[test]
    fn a_broken_pipe_stops_nothing() {
        tracing::subscriber::with_default(json(level("info"), Broken), tell);
        tracing::subscriber::with_default(human(level("info"), false, Broken), tell);
    }

    #[test]
    fn a_human_line_has_the_fields_and_no_colours_where_there_is_no_terminal() {
        let memory = Memory::default();
        tracing::subscriber::with_default(human(level("info"), false, memory.clone()), tell);
        let text = memory.text();
        assert!(text.contains("event_id=\"e-1\"") && text.contains("status=204"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn the_broker_library_is_silent_unless_it_is_named() {
        for (directives, lines) in [("info", 0), ("trace", 0), ("info,lapin=warn", 1)] {
            let memory = Memory::default();
            tracing::subscriber::with_default(json(level(directives), memory.clone()), || {
                tracing::error!(target: "lapin::channel", "closed");
            });
            assert_eq!(memory.text().lines().count(), lines, "{directives}");
        }
    }
}
