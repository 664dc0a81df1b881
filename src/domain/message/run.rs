//! How one monitor run reads.
//!
//! ```text
//! Orders health failed: 2 of 12 tests, 3rd failed run in a row since 2026-11-22 09:00 UTC
//! Collection Orders · Environment prod · Region us-east · Trigger schedule · 2026-11-22 10:00 UTC
//! Passed 10 · Failed 2 · Errors 0 · Warnings 1 · Requests 7 · Average response 203 ms
//!   • Get order · status is 200: expected response to have status code 200 but got 404
//!   • and 1 more
//! ```
//! Compact, it is the first line with the counts, the environment, the region and the time behind it.

use jiff::Timestamp;

use super::card::{self, attribute, number};
use super::html::{Block, MESSAGE_LIMIT, Phrase, page};
use super::links::Href;
use super::text::{self, count};
use super::{Attribute, Card, Color, Extras, Lozenge, Style};
use crate::domain::event::{Event, FailedTest, MonitorRun, RunMetrics, RunResult};
use crate::domain::integration::Detail;
use crate::domain::reason::SendReason;
use crate::domain::story::{Story, Told};

/// How wide a value may get, in UTF-16 units of HTML: no one of them can push out the rest.
pub(super) const NAME: usize = 200;
pub(super) const WORD: usize = 60;
const REQUEST: usize = 120;
const TEST: usize = 200;
const TEST_MESSAGE: usize = 300;
/// How many failed tests are shown; the rest is counted.
const TESTS_SHOWN: usize = 5;
/// Between facts on one line.
pub(super) const DOT: &str = " · ";

/// One run as one integration's room reads it.
pub(super) struct RunText<'a> {
    style: Style<'a>,
    event: &'a Event,
    run: &'a MonitorRun,
    at: Timestamp,
    link: Option<Href>,
    collection_link: Option<Href>,
    headline: Phrase,
    /// Those failed tests that are shown.
    tests: Vec<Phrase>,
}

impl<'a> RunText<'a> {
    pub fn new(style: Style<'a>, told: &Told<'a>, run: &'a MonitorRun) -> Self {
        let Told { event, story, received_at } = *told;
        let link = style.links.run(event, run);
        let collection_link = style.links.collection(event);
        let headline = headline(run, story, link.as_ref());
        let shown = match (style.integration.message.detail, run.result.is_failed()) {
            (Detail::Full, true) => TESTS_SHOWN,
            (Detail::Full, false) | (Detail::Compact, _) => 0,
        };
        let tests = run.failures.iter().take(shown).map(failed_test).collect();
        Self { style, event, run, at: time_of(run, received_at), link, collection_link, headline, tests }
    }

    /// The message's HTML.
    pub fn html(self, extras: Extras) -> String {
        let in_all = if self.tests.is_empty() { 0 } else { self.failed_in_all() };
        let blocks = match self.style.integration.message.detail {
            Detail::Compact => vec![Block::Line(self.one_line())],
            Detail::Full => self.all_lines(),
        };
        page(blocks, in_all, extras.line(), MESSAGE_LIMIT)
    }

    fn one_line(self) -> Phrase {
        let m = &self.run.metrics;
        let counts = [("Passed", m.passed_tests), ("Failed", m.failed_tests), ("Errors", m.errors)];
        let place = [self.run.environment_name.as_deref(), self.run.region.as_deref()];
        let line = counts.into_iter().fold(self.headline, counted);
        let line = place.into_iter().fold(line, |line, name| {
            let value = shown_value(name, NAME);
            if value.is_empty() { line } else { line.and(DOT).then(value) }
        });
        line.and(DOT).say(&text::time(self.at))
    }

    fn all_lines(self) -> Vec<Block> {
        let (place, metrics) = (self.place(), metrics_line(&self.run.metrics));
        let lines = [self.headline, place, metrics].into_iter().filter(|line| !line.is_empty());
        lines.map(Block::Line).chain(self.tests.into_iter().map(|test| Block::Item(test, 1))).collect()
    }

    /// Collection, environment, region, trigger, time.
    fn place(&self) -> Phrase {
        let run = self.run;
        let collection = named(&run.collection_name, &run.collection_uid);
        let collection = shown_value(collection, NAME).link(self.collection_link.as_ref());
        let environment = shown_value(named(&run.environment_name, &run.environment_uid), NAME);
        let facts = [
            ("Collection", collection),
            ("Environment", environment),
            ("Region", shown_value(run.region.as_deref(), WORD)),
            ("Trigger", shown_value(run.trigger.as_deref(), WORD)),
        ];
        facts.into_iter().fold(Phrase::line(), labelled).and(DOT).say(&text::time(self.at))
    }

    /// How many failed tests and errors there were, listed by the producer or not.
    fn failed_in_all(&self) -> u64 {
        let m = &self.run.metrics;
        let counted = m.failed_tests.unwrap_or(0).saturating_add(m.errors.unwrap_or(0));
        counted.max(self.run.failures.len() as u64)
    }

    /// The same facts as a card.
    pub fn card(&self, extras: Extras) -> Card {
        let (run, m) = (self.run, &self.run.metrics);
        let collection = attribute("Collection", named(&run.collection_name, &run.collection_uid));
        let attributes = vec![
            attribute("Result", Some(run.result.as_str())).map(|a| a.styled(lozenge(run.result))),
            collection.map(|a| a.linked(self.collection_link.as_ref())),
            attribute("Environment", named(&run.environment_name, &run.environment_uid)),
            attribute("Region", run.region.as_deref()),
            number("Passed", m.passed_tests),
            alarming(number("Failed", m.failed_tests), m.failed_tests),
            alarming(number("Errors", m.errors), m.errors),
            number("Warnings", m.warnings),
            number("Requests", m.request_count),
            attribute("Average response", m.average_response_ms().map(|ms| format!("{ms} ms")).as_deref()),
        ];
        card::Parts {
            id: card::id([(&self.style.integration.id, &self.event.id)]),
            title: &self.headline,
            url: self.link.as_ref(),
            description: self.card_description(extras),
            attributes,
            date: Some(self.at),
        }
        .card()
    }

    fn card_description(&self, extras: Extras) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(trigger) = text::shown(self.run.trigger.as_deref()) {
            lines.push(format!("Trigger {}", text::clamp(trigger, WORD)));
        }
        if !self.tests.is_empty() {
            lines.extend(self.tests.iter().map(|test| test.plain().to_owned()));
            let left = self.failed_in_all().saturating_sub(self.tests.len() as u64);
            lines.extend((left > 0).then(|| format!("and {left} more")));
        }
        lines.extend(extras.line().map(|line| line.plain().to_owned()));
        lines
    }
}

/// Which monitor, how it ended, and where in a streak that stands.
fn headline(run: &MonitorRun, story: &Story, link: Option<&Href>) -> Phrase {
    let mut line = monitor_name(run).bold().link(link).say(" ").then(ending(run, story));
    if run.result.is_failed() {
        if story.reason == SendReason::StillFailing {
            line = line.say(", still failing");
        }
        if story.failures > 1 {
            let nth = text::ordinal(story.failures);
            line = line.say(&format!(", {nth} failed run in a row{}", since(story)));
        }
    }
    match story.reason {
        SendReason::Replayed => line.say(" (replayed)"),
        SendReason::Stale => line.say(" (late: a newer run was heard of before)"),
        _ => line,
    }
}

/// The colour of a run's result.
pub(super) fn color(result: RunResult) -> Color {
    match result {
        RunResult::Success => Color::Green,
        RunResult::Failure | RunResult::Error => Color::Red,
        RunResult::Abort => Color::Yellow,
    }
}

fn lozenge(result: RunResult) -> Lozenge {
    match result {
        RunResult::Success => Lozenge::Success,
        RunResult::Failure | RunResult::Error => Lozenge::Error,
        RunResult::Abort => Lozenge::Current,
    }
}

fn alarming(attribute: Option<Attribute>, n: Option<u64>) -> Option<Attribute> {
    attribute.map(|a| if n > Some(0) { a.styled(Lozenge::Error) } else { a })
}

/// When a run was: as the event says, else when it came in.
pub(super) fn time_of(run: &MonitorRun, received_at: Timestamp) -> Timestamp {
    run.finished_at.or(run.started_at).unwrap_or(received_at)
}

/// The monitor's name, else its uid.
pub(super) fn monitor_name(run: &MonitorRun) -> Phrase {
    let name = text::shown(run.monitor_name.as_deref()).or(text::shown(Some(&run.monitor_uid)));
    Phrase::value(name.unwrap_or("(unnamed monitor)"), NAME)
}

/// How the run ended, in words that can't be mistaken: an error is no failed test.
fn ending(run: &MonitorRun, story: &Story) -> Phrase {
    let m = &run.metrics;
    let errors = m.errors.map(|n| count(n, "error", "errors"));
    match run.result {
        RunResult::Success if story.failures > 0 => Phrase::text("recovered").say(&after(story)),
        RunResult::Success if story.reason == SendReason::Recovered => Phrase::text("passing again"),
        RunResult::Success => Phrase::text("passed"),
        RunResult::Failure => {
            let tests = m.failed_tests.filter(|failed| *failed > 0).map(|failed| match m.passed_tests {
                Some(passed) => {
                    format!("{failed} of {}", count(failed.saturating_add(passed), "test", "tests"))
                }
                None => count(failed, "failed test", "failed tests"),
            });
            explained(Phrase::text("failed"), [tests, errors.filter(|_| m.errors > Some(0))])
        }
        RunResult::Error => {
            let errors = errors.filter(|_| m.errors > Some(0)).or(Some("error".to_owned()));
            let tests = m.failed_tests.map(|failed| count(failed, "failed test", "failed tests"));
            explained(Phrase::text("could not complete"), [errors, tests])
        }
        RunResult::Abort => Phrase::text("was aborted").say(" (stopped, or over the time limit)"),
    }
}

fn explained(what: Phrase, by: [Option<String>; 2]) -> Phrase {
    let by: Vec<String> = by.into_iter().flatten().collect();
    if by.is_empty() { what } else { what.say(": ").say(&by.join(", ")) }
}

/// What a recovery ends; nothing for a success that ends nothing.
pub(super) fn after(story: &Story) -> String {
    if story.failures == 0 {
        return String::new();
    }
    let runs = count(story.failures.into(), "failed run", "failed runs");
    match story.first_failed_at {
        Some(at) if story.failures == 1 => format!(" after {runs}, at {}", text::time(at)),
        Some(at) => format!(" after {runs}, first at {}", text::time(at)),
        None => format!(" after {runs}"),
    }
}

pub(super) fn since(story: &Story) -> String {
    story.first_failed_at.map(|at| format!(" since {}", text::time(at))).unwrap_or_default()
}

fn metrics_line(m: &RunMetrics) -> Phrase {
    let counts = [
        ("Passed", m.passed_tests),
        ("Failed", m.failed_tests),
        ("Errors", m.errors),
        ("Warnings", m.warnings),
        ("Requests", m.request_count),
    ];
    let line = counts.into_iter().fold(Phrase::line(), counted);
    match m.average_response_ms() {
        Some(ms) => line.and(DOT).say(&format!("Average response {ms} ms")),
        None => line,
    }
}

/// The line, then `Passed 10`; in bold what is wrong; no more where it is not known.
fn counted(line: Phrase, (label, n): (&str, Option<u64>)) -> Phrase {
    let Some(n) = n else { return line };
    let (line, words) = (line.and(DOT), format!("{label} {n}"));
    if n > 0 && matches!(label, "Failed" | "Errors") { line.say_bold(&words) } else { line.say(&words) }
}

fn failed_test(test: &FailedTest) -> Phrase {
    let what = Phrase::joined(
        [shown_value(test.request.as_deref(), REQUEST).bold(), shown_value(test.test.as_deref(), TEST)],
        DOT,
    );
    let line = Phrase::joined([what, shown_value(test.message.as_deref(), TEST_MESSAGE)], ": ");
    if line.is_empty() { Phrase::text("(no details)") } else { line }
}

/// The name, else the uid.
pub(super) fn named<'a>(name: &'a Option<String>, uid: &'a Option<String>) -> Option<&'a str> {
    text::shown(name.as_deref()).or(text::shown(uid.as_deref()))
}

/// The value if there is one to be seen, else nothing.
pub(super) fn shown_value(value: Option<&str>, max: usize) -> Phrase {
    text::shown(value).map(|value| Phrase::value(value, max)).unwrap_or_default()
}

/// The line, then `Label value`; no more where there is no value.
pub(super) fn labelled(line: Phrase, (label, value): (&str, Phrase)) -> Phrase {
    if value.is_empty() { line } else { line.and(DOT).say(label).say(" ").then(value) }
}
