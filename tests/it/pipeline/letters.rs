//! The dead-letter queue against the malformed events: each is there byte for byte, with its reason and the
//! field that is wrong, and nothing else is.

use std::collections::HashMap;

use super::oracle::{Fault, Findings, Scene};
use super::workload::Means;
use hipchat_notifier::adapters::rabbitmq::LetterSummary;
use hipchat_notifier::adapters::rabbitmq::{DeadLetters, LetterFilter};

/// Checks the whole queue; leaves it as it is.
pub async fn check(scene: &Scene<'_>, findings: &mut Findings, faults: &mut Vec<Fault>) {
    let mut letters = read(scene).await;
    for (e, event) in scene.work.events.iter().enumerate() {
        let Means::Malformed { field } = event.means else { continue };
        let found = letters.remove(event.id.as_str()).unwrap_or_default();
        if found.is_empty() {
            faults.push(Fault::of(e, "lost: malformed, and not in the dead-letter queue"));
        }
        findings.letters_again += found.len().saturating_sub(1);
        if found.len() > 1 && !scene.confirms_lost {
            faults.push(Fault::of(e, format!("{} dead letters", found.len())));
        }
        for (letter, body) in &found {
            let named = letter.detail.starts_with(&format!("{field}:"));
            if letter.reason.as_str() != "malformed-event" || !named || letter.integration_id.is_some() {
                faults.push(Fault::of(e, format!("not {field}, but {letter:?}")));
            }
            if *body != event.envelope.body {
                faults.push(Fault::of(e, format!("another body: {body:?}")));
            }
        }
    }
    for (id, letters) in letters {
        faults.push(Fault::general(format!("{id} is in the dead-letter queue: {:?}", letters[0].0)));
    }
}

/// All letters with their bodies, by event.
async fn read(scene: &Scene<'_>) -> HashMap<String, Vec<(LetterSummary, Vec<u8>)>> {
    let looks = DeadLetters::new(scene.broker.options());
    let listed = looks.list(&LetterFilter::default(), None).await.expect("the dead-letter queue");
    let mut by_event: HashMap<String, Vec<(LetterSummary, Vec<u8>)>> = HashMap::new();
    let mut bodies = scene.broker.bodies(&scene.broker.topology.dead_letters).await;
    for letter in listed {
        let id = letter.event_id.clone().unwrap_or_default();
        let body = bodies.get_mut(&id).and_then(Vec::pop).unwrap_or_default();
        by_event.entry(id).or_default().push((letter, body));
    }
    by_event
}
