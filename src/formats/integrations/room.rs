//! An integration's room URL: written in the file, in an environment variable, or in a file of its own. Nothing of
//! it is ever shown.

use std::path::Path;

use secrecy::SecretString;

use super::fields::{Fields, Report, shown};
use super::{RoomRef, SecretSources};

/// The fields that can give it; exactly one of them does.
const ROOM_FIELDS: [&str; 3] = ["room_url", "room_url_env", "room_url_file"];

/// The room URL from wherever it is, and what it says.
pub(super) fn read_room(
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

/// Whoever checks URLs promises to keep the tokens to himself; this holds him to it. What is too short to be a
/// token stays: it would be found in the words of any sentence.
fn without_secret(problem: &str, url: &str) -> String {
    const SHORTEST_TOKEN: usize = 6;
    const NOT_SHOWN: &str = "(not shown)";
    let values = url.split("auth_token=").skip(1).filter_map(|rest| rest.split(['&', '#']).next());
    let problem = problem.replace(url, NOT_SHOWN).replace('\n', " ");
    values
        .filter(|value| value.len() >= SHORTEST_TOKEN)
        .fold(problem, |problem, token| problem.replace(token, NOT_SHOWN))
}
