//! Reads single fields of a TOML table, and notes a fault with its line where one is not as it must be.
//!
//! Reading never stops at a fault: a field that cannot be used reads as absent, so that all faults come to
//! light at once. Knows TOML and nothing of integrations.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::IntegrationFault;
use super::words::choices;
use crate::formats::{duration, nearest::nearest};

/// Characters at most of a pattern. Each costs time with every event that it is held against.
const LONGEST_PATTERN: usize = 1_000;

/// Faults found so far, and in which integration we are.
pub(super) struct Report<'a> {
    text: &'a str,
    /// The byte that each line begins with: the lines of many integrations are asked for.
    lines: Vec<usize>,
    integration: Option<String>,
    faults: Vec<IntegrationFault>,
}

impl<'a> Report<'a> {
    pub fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines, integration: None, faults: Vec::new() }
    }

    /// What follows is about this integration.
    pub fn enter(&mut self, integration: String) {
        self.integration = Some(integration);
    }

    /// How many faults there are.
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    pub fn into_faults(self) -> Vec<IntegrationFault> {
        self.faults
    }

    /// A fault of what stands at `span`.
    pub fn fault(
        &mut self,
        span: &Range<usize>,
        field: &str,
        found: Option<String>,
        problem: &str,
        fix: &str,
    ) {
        self.faults.push(IntegrationFault {
            line: self.line(span.start),
            column: None,
            integration: self.integration.clone(),
            field: field.to_owned(),
            found,
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        });
    }

    /// What keeps the file from being TOML. Only the parser's message: the source line may hold a secret.
    pub fn syntax(&mut self, error: &toml::de::Error) {
        let at = error.span().map_or(0, |span| span.start).min(self.text.len());
        let before = self.text.get(..at).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.faults.push(IntegrationFault {
            line: self.line(at),
            column: Some(column),
            integration: None,
            field: String::new(),
            found: None,
            problem: format!("not TOML: {}", error.message().replace('\n', ", ")),
            fix: String::new(),
        });
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub value: T,
    pub span: Range<usize>,
    /// As a fault shows it.
    pub shown: String,
}

/// A table, the fields it may have, and the names by which faults call them.
pub(super) struct Fields<'a> {
    table: Option<&'a DeTable<'a>>,
    /// Where the table stands: the place of what is missing in it.
    pub span: Range<usize>,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    pub fn new(table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self { table: Some(table), span, prefix: "" }
    }

    /// The table under `key`; without one, a table without fields. `prefix` is `key` and a dot.
    pub fn table(&self, report: &mut Report<'_>, key: &str, prefix: &'static str) -> Fields<'a> {
        let none = Fields { table: None, span: self.span.clone(), prefix };
        let Some(value) = self.get(key) else { return none };
        match value.get_ref().as_table() {
            Some(table) => Fields { table: Some(table), span: value.span(), prefix },
            None => {
                let fix = format!("write [integrations.{key}] and its fields below it");
                report.fault(&value.span(), &self.name(key), Some(shown(value)), "not a table", &fix);
                none
            }
        }
    }

    /// The field's name for people: `notify.on`.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    /// Notes every field that is not in `known`; `elsewhere` are the names that other tables know.
    pub fn refuse_unknown(&self, report: &mut Report<'_>, known: &[&str], elsewhere: &[(&str, &[&str])]) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let home = elsewhere.iter().find(|(_, fields)| fields.contains(&name));
            let fix = match (home, nearest(name, known.iter().copied())) {
                (Some((table, _)), _) => format!("it belongs in {table}"),
                (None, Some(near)) => format!("did you mean {}?", self.name(near)),
                (None, None) => format!("known here: {}", known.join(", ")),
            };
            // Unknown fields may hold anything, a room URL too: their values are not shown.
            let name: String = name.chars().take(40).flat_map(char::escape_debug).collect();
            report.fault(&key.span(), &self.name(&name), None, "unknown field", &fix);
        }
    }

    /// A text that is not blank.
    pub fn text(&self, report: &mut Report<'_>, key: &str) -> Option<Found<&'a str>> {
        let value = self.get(key)?;
        let problem = match value.get_ref().as_str() {
            Some(text) if !text.trim().is_empty() => {
                return Some(Found { value: text, span: value.span(), shown: shown(value) });
            }
            Some(_) => "it is empty",
            None => "not text",
        };
        self.fault_at(report, key, problem, "write a text in quotes, or leave it out");
        None
    }

    pub fn boolean(&self, report: &mut Report<'_>, key: &str) -> Option<bool> {
        let value = self.get(key)?.get_ref().as_bool();
        if value.is_none() {
            self.fault_at(report, key, "not true or false", "write true or false without quotes");
        }
        value
    }

    /// A whole number within `range`.
    pub fn number(
        &self,
        report: &mut Report<'_>,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.get(key)?.get_ref();
        let number = value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        let number = number.and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let problem = if value.is_integer() { "out of range" } else { "not a whole number" };
            let fix = format!("write a number from {} to {}", range.start(), range.end());
            self.fault_at(report, key, problem, &fix);
        }
        number
    }

    /// A duration within `range`, or zero where `zero` allows it.
    pub fn duration(
        &self,
        report: &mut Report<'_>,
        key: &str,
        range: std::ops::RangeInclusive<Duration>,
        zero: bool,
    ) -> Option<Duration> {
        let read = self.get(key)?.get_ref().as_str().map(duration::parse);
        let (problem, fix) = match read {
            Some(Ok(value)) if range.contains(&value) || (zero && value.is_zero()) => return Some(value),
            Some(Ok(_)) => {
                let (from, to) = (duration::format(*range.start()), duration::format(*range.end()));
                let or_zero = if zero { ", or \"0s\"" } else { "" };
                ("out of range".to_owned(), format!("write from \"{from}\" to \"{to}\"{or_zero}"))
            }
            Some(Err(e)) => (format!("not a duration: {e}"), duration::HOW_TO_WRITE.to_owned()),
            None => ("not a duration".to_owned(), duration::HOW_TO_WRITE.to_owned()),
        };
        self.fault_at(report, key, &problem, &fix);
        None
    }

    /// One of a few words.
    pub fn word(&self, report: &mut Report<'_>, key: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.get(key)?.get_ref().as_str();
        let word = words.iter().copied().find(|word| Some(*word) == value);
        if word.is_none() {
            let meant = value.and_then(|value| nearest(value, words.iter().copied()));
            let fix = match meant {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("write {}", choices(words)),
            };
            self.fault_at(report, key, "not one of the words for it", &fix);
        }
        word
    }

    /// A list of texts, none of them blank or longer than [`LONGEST_PATTERN`], at least one.
    pub fn list(&self, report: &mut Report<'_>, key: &str) -> Option<Vec<String>> {
        const FIX: &str = "write a list of texts, [\"like-this\", \"or-this*\"]";
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.fault_at(report, key, "not a list", FIX);
            return None;
        };
        if array.is_empty() {
            self.fault_at(report, key, "the list is empty", "leave it out to let everything through");
        }
        let mut texts = Vec::new();
        for item in array {
            match item.get_ref().as_str() {
                Some(text) if text.chars().nth(LONGEST_PATTERN).is_some() => {
                    let fix = format!("write at most {LONGEST_PATTERN} characters");
                    report.fault(&item.span(), &self.name(key), Some(shown(item)), "too long", &fix);
                }
                Some(text) if !text.trim().is_empty() => texts.push(text.to_owned()),
                _ => {
                    report.fault(&item.span(), &self.name(key), Some(shown(item)), "no text in the list", FIX)
                }
            }
        }
        Some(texts)
    }

    /// Notes a fault of a field that is there.
    pub fn fault_at(&self, report: &mut Report<'_>, key: &str, problem: &str, fix: &str) {
        let (span, found) = match self.get(key) {
            Some(value) => (value.span(), Some(shown(value))),
            None => (self.span.clone(), None),
        };
        report.fault(&span, &self.name(key), found, problem, fix);
    }
}

/// A value in one short line. What may be an address with a secret is not shown.
pub(super) fn shown(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) => shown_text(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

fn shown_text(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.contains("://") || text.contains("auth_token") {
        return "(not shown)".to_owned();
    }
    let more = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    format!("{:?}", text.chars().take(LONGEST).chain(more.chars()).collect::<String>())
}
