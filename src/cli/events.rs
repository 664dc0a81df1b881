//! Events from files: what `publish` and `simulate` read.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::value::RawValue;

/// The most that is read of one file: 64 MiB, far more than any sensible set of events.
const MAX_FILE: u64 = 64 << 20;

/// The content type of a structured CloudEvent.
pub const CLOUD_EVENT: &str = "application/cloudevents+json";

/// One event's bytes and where they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `runs.jsonl, event 3`.
    pub place: String,
    /// The event as it stands in the file.
    pub body: Vec<u8>,
    /// Whether it is a CloudEvents envelope.
    pub cloud_event: bool,
}

/// Reads the whole of a file, or of stdin for `-`.
///
/// # Errors
/// If it can't be read or is too large.
pub fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("can't read {}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} is larger than 64 MiB; publish it in parts", path.display());
    }
    Ok(bytes)
}

/// Reads a file with one event, a JSON array of events, or several events one after another (JSON lines).
/// Each keeps the bytes it has in the file.
///
/// # Errors
/// If the file can't be read, holds nothing, or is not JSON: with the place.
pub fn read(path: &Path) -> anyhow::Result<Vec<Document>> {
    split(&read_bytes(path)?, &path.display().to_string())
}

/// Takes a file as one event, whatever is in it.
///
/// # Errors
/// If the file can't be read.
pub fn read_whole(path: &Path) -> anyhow::Result<Document> {
    let body = read_bytes(path)?;
    Ok(Document { place: path.display().to_string(), cloud_event: is_cloud_event(&body), body })
}

fn split(bytes: &[u8], file: &str) -> anyhow::Result<Vec<Document>> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Box<RawValue>>() {
        let value = value.with_context(|| match bodies.len() {
            0 => format!("{file} is not JSON"),
            n => format!("{file} is not JSON after event {n}"),
        })?;
        if value.get().starts_with('[') {
            let items: Vec<Box<RawValue>> = serde_json::from_str(value.get())
                .with_context(|| format!("{file}: the array is not JSON"))?;
            bodies.extend(items.into_iter().map(|item| item.get().as_bytes().to_vec()));
        } else {
            bodies.push(value.get().as_bytes().to_vec());
        }
    }
    if bodies.is_empty() {
        bail!("{file} holds no event");
    }
    Ok(bodies
        .into_iter()
        .enumerate()
        .map(|(at, body)| Document {
            place: format!("{file}, event {}", at + 1),
            cloud_event: is_cloud_event(&body),
            body,
        })
        .collect())
}

fn is_cloud_event(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Probe {
        specversion: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Probe>(body).is_ok_and(|probe| probe.specversion.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_an_array_and_lines_are_read_alike() {
        for (form, text) in [
            ("array", r#"[{"a":1}, {"b": 2}]"#),
            ("lines", "{\"a\":1}\n{\"b\": 2}\n"),
            ("side by side", r#"{"a":1}{"b": 2}"#),
        ] {
            let documents = split(text.as_bytes(), "f").unwrap();
            let bodies: Vec<&[u8]> = documents.iter().map(|d| &d.body[..]).collect();
            assert_eq!(bodies, [&b"{\"a\":1}"[..], b"{\"b\": 2}"], "{form}: byte for byte");
            assert_eq!(documents[1].place, "f, event 2");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_left_to_who_reads_the_event() {
        for text in [r#"{"a":"\ud83d"}"#, r#"[{"a":"\ud83d"}]"#, r#"{"specversion":"1.0","a":"\ud83d"}"#] {
            let documents = split(text.as_bytes(), "f").unwrap();
            assert_eq!(
                (documents.len(), documents[0].cloud_event),
                (1, text.contains("specversion")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_json_is_said_with_its_place() {
        for (text, expected) in [
            ("", "f holds no event"),
            ("[]", "f holds no event"),
            ("{oops", "f is not JSON"),
            ("{\"a\":1}\n{oops", "f is not JSON after event 1"),
        ] {
            assert_eq!(split(text.as_bytes(), "f").unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_cloud_event_is_recognised() {
        assert!(split(br#"{"specversion":"1.0"}"#, "f").unwrap()[0].cloud_event);
        assert!(!split(br#"{"monitor_uid":"1"}"#, "f").unwrap()[0].cloud_event);
    }
}
