//! Which calls a list of faults is done to.

use serde_json::{Value, json};

use super::*;

fn faults(list: Value) -> Result<Faults, String> {
    let faults = Faults::default();
    let specs = serde_json::from_value(list).map_err(|fault| fault.to_string())?;
    faults.set(specs, false)?;
    Ok(faults)
}

fn due(faults: &Faults, room: &str) -> Option<u16> {
    faults.due(|name| name == room).map(|fault| fault.status.as_u16())
}

#[test]
fn the_first_due_fault_of_the_room_is_done_as_often_as_asked() {
    let faults = faults(json!([
        {"kind": "status", "status": 500, "room": "a", "times": 1},
        {"kind": "status", "status": 503, "times": 2},
    ]))
    .expect("valid");
    let calls = ["b", "a", "a", "a", "b"];
    let done: Vec<_> = calls.into_iter().map(|room| due(&faults, room)).collect();
    assert_eq!(done, [Some(503), Some(500), Some(503), None, None]);
}

#[test]
fn skip_and_every_choose_calls() {
    let faults = faults(json!([{"kind": "status", "status": 500, "skip": 1, "every": 3}])).expect("valid");
    let done: Vec<_> = (1..=9).filter(|_| due(&faults, "a").is_some()).collect();
    assert_eq!(done, [4, 7]);
}

#[test]
fn probability_is_the_same_for_the_same_seed() {
    let draw = |seed: u64| -> Vec<bool> {
        let list = json!([{"kind": "status", "status": 500, "probability": 0.3, "seed": seed}]);
        let faults = faults(list).expect("valid");
        (0..1000).map(|_| due(&faults, "a").is_some()).collect()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let share = draw(7).into_iter().filter(|done| *done).count();
    assert!((200..400).contains(&share), "{share} of 1000 at 0.3");
}

#[test]
fn a_message_is_accepted_by_default_only_where_the_answer_is_a_success() {
    for (spec, accept) in [
        (json!({"kind": "answer"}), true),
        (json!({"kind": "status", "status": 201}), true),
        (json!({"kind": "status", "status": 500}), false),
        (json!({"kind": "status", "status": 500, "accept": true}), true),
        (json!({"kind": "drop"}), false),
        (json!({"kind": "drop", "accept": true}), true),
        (json!({"kind": "hang"}), false),
        (json!({"kind": "trickle"}), true),
        (json!({"kind": "huge", "mib": 1, "status": 500}), false),
        (json!({"kind": "redirect", "location": "http://a.test/"}), false),
    ] {
        let faults = faults(json!([spec])).expect("valid");
        assert_eq!(faults.due(|_| true).expect("due").accept, accept, "{spec}");
    }
}

#[test]
fn an_unusable_fault_is_refused_by_name() {
    for (spec, says) in [
        (json!({"kind": "status"}), "needs a status"),
        (json!({"kind": "status", "status": 101}), "from 200"),
        (json!({"kind": "status", "status": 500, "times": 0}), "at least 1"),
        (json!({"kind": "drop", "probability": 1.5}), "from 0 to 1"),
        (json!({"kind": "redirect"}), "needs a location"),
        (json!({"kind": "huge"}), "needs mib"),
        (json!({"kind": "status", "status": 500, "headers": {"a b": "c"}}), "\"a b\""),
        (json!({"kind": "status", "status": 500, "headers": {"Content-Length": "3"}}), "Content-Length"),
        (json!({"kind": "explode"}), "explode"),
        (json!({"kind": "drop", "time": 1}), "time"),
    ] {
        let fault = faults(json!([spec])).err().unwrap_or_else(|| panic!("{spec} was taken"));
        assert!(fault.contains(says), "{spec}: {fault}");
    }
}
