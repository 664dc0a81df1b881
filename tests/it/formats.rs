//! Producers' bytes: every body form, every kind of bad input with its message, Newman reports, and the
//! published schemas.

mod agreement;
mod envelopes;
mod newman;
mod reading;
mod refusals;
mod schemas;

use std::path::PathBuf;

use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::event::{Activity, Event, MonitorRun, Subject};
use hipchat_notifier::domain::ids::EventId;
use hipchat_notifier::formats::{Malformed, read_event};
use serde_json::Value;

/// A recorded body.
fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An envelope with nothing but a body.
fn plain(body: impl Into<Vec<u8>>) -> Envelope {
    Envelope { body: body.into(), ..Envelope::default() }
}

fn read(envelope: &Envelope) -> Result<Event, Malformed> {
    read_event(envelope, || EventId::new("made"))
}

fn run_of(body: impl Into<Vec<u8>>) -> MonitorRun {
    match read(&plain(body)).expect("an event").subject {
        Subject::Run(run) => run,
        Subject::Activity(activity) => panic!("a run, not {activity:?}"),
    }
}

fn activity_of(body: impl Into<Vec<u8>>) -> Activity {
    match read(&plain(body)).expect("an event").subject {
        Subject::Activity(activity) => activity,
        Subject::Run(run) => panic!("an activity, not {run:?}"),
    }
}

/// `base` with the members of `extra` in place of its own.
fn merged(mut base: Value, extra: Value) -> Value {
    if let Value::Object(extra) = extra {
        extra.into_iter().for_each(|(name, value)| base[name] = value);
    }
    base
}
