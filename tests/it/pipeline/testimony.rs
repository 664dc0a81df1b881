//! What a failing judge shows: the faults, and what the journal says of the events that they are about.

use hipchat_notifier::domain::ids::EventId;

use super::oracle::{Fault, Scene};
use super::workload::{Means, Published};

/// Faults that are shown.
const SHOWN: usize = 12;

impl Scene<'_> {
    /// Fails with these.
    pub async fn fail(&self, faults: &[Fault]) {
        let mut text = format!("seed {}: {} faults\n", self.work.seed, faults.len());
        for fault in faults.iter().take(SHOWN) {
            text += &format!("* {}\n", fault.says);
            let Some(event) = fault.event.map(|e| &self.work.events[e]) else { continue };
            let explained = self.site.run(&["explain", &event.id]).await;
            text += &format!("  {:?}\n{}{}", event.means, explained.stdout, explained.stderr);
            text += &self.runs_around(event).await;
        }
        panic!("{text}");
    }

    /// What was published of the same monitor and region right before and after, and when each came in: decisions rest
    /// on it.
    async fn runs_around(&self, event: &Published) -> String {
        let line_of = |means: &Means| match means {
            Means::Run { monitor, region, .. } => Some((monitor.clone(), region.clone())),
            _ => None,
        };
        let Some(line) = line_of(&event.means) else { return String::new() };
        let runs: Vec<&Published> =
            self.work.events.iter().filter(|other| line_of(&other.means).as_ref() == Some(&line)).collect();
        let here = runs.iter().position(|other| other.id == event.id).unwrap_or_default();
        let store = self.site.store().await;
        let mut text = String::new();
        for other in &runs[here.saturating_sub(6)..runs.len().min(here + 4)] {
            let known = store.explain(&EventId::new(&other.id)).await.expect("the journal");
            let received = known.first().map(|entry| entry.received_at);
            text += &format!("  {} received {received:?}: {:?}\n", other.id, other.means);
        }
        text
    }
}
