//! A small set-up for one scene at a time: a worker with impatient retries, rooms, and monitor runs in plain
//! order.

use std::time::Duration;

use hipchat_notifier::sandbox::Limit;
use serde_json::{Value, json};

use crate::support::broker::{Broker, eventually};
use crate::support::postgres::Postgres;
use crate::support::process::{Site, Worker};
use crate::support::rooms::{Hipchat, Posted};

pub struct Stage {
    // Fields are dropped in this order: the worker goes before what it works with.
    pub worker: Worker,
    pub site: Site,
    pub hipchat: Hipchat,
    pub broker: Broker,
}

/// What the journal says of one event for one integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub outcome: String,
    pub reason: String,
    pub attempts: u64,
}

/// An integration for every run of the team, posting to the room of its name.
pub fn every_run(hipchat: &Hipchat, room: &str) -> String {
    wish(hipchat, room, "all")
}

/// An integration with a rule, posting to the room of its name.
pub fn wish(hipchat: &Hipchat, room: &str, on: &str) -> String {
    let url = hipchat.room_url(room, &format!("token-of-{room}"));
    format!(
        "[[integrations]]\nid = \"{room}\"\nkind = \"monitor-results\"\nteam = \"acme\"\nroom_url = \"{url}\"\n\
         [integrations.notify]\non = \"{on}\"\n"
    )
}

impl Stage {
    /// With these integrations and a worker that is ready.
    pub async fn with(integrations: impl Fn(&Hipchat) -> String) -> Self {
        Self::set_up(integrations, |site| site).await
    }

    /// The same on a shared store, by workers that are quick to give up.
    pub async fn sharing(postgres: &Postgres, integrations: impl Fn(&Hipchat) -> String) -> Self {
        let quick = |site: Site| {
            site.sharing(postgres)
                .with("DISPATCH__LEASE", "5s")
                .with("HIPCHAT__TIMEOUT", "2s")
                .with("AMQP__YIELD_AFTER", "4s")
        };
        Self::set_up(integrations, quick).await
    }

    /// With settings of its own.
    pub async fn set_up(
        integrations: impl Fn(&Hipchat) -> String,
        set_up: impl FnOnce(Site) -> Site,
    ) -> Self {
        let unlimited: Option<Limit> = None;
        let (broker, hipchat) = (Broker::fresh().await, Hipchat::with_limits(unlimited, unlimited).await);
        let site = Site::on(&broker)
            .with("RETRY__FIRST", "50ms")
            .with("RETRY__LONGEST", "200ms")
            .with("HIPCHAT__TIMEOUT", "5s")
            .with("HIPCHAT__CONNECT_TIMEOUT", "1s");
        let site = set_up(site);
        site.apply(&integrations(&hipchat)).await;
        let worker = site.start().await;
        Self { broker, hipchat, site, worker }
    }

    /// Publishes runs of one monitor: `F` failed, `.` passed; with these ids.
    pub async fn publish(&self, runs: &[(&str, char)]) {
        for (id, result) in runs {
            let failed = u8::from(*result == 'F');
            let body = json!({
                "monitor_uid": "1-orders", "monitor_name": "Orders", "run_id": id,
                "run_url": format!("https://runs.example/{id}"),
                "metrics": {"passedTests": 3, "failedTests": failed, "errors": 0},
            });
            self.broker.publish("monitor.acme.1-orders", id, body.to_string().as_bytes()).await;
        }
    }

    /// Waits until a room has so many messages.
    pub async fn hears(&self, room: &str, count: usize) -> Vec<Posted> {
        eventually(&format!("{room} has {count} messages"), async || {
            Some(self.hipchat.messages(room).await).filter(|messages| messages.len() >= count)
        })
        .await
    }

    /// Waits until all that the room was told is exactly these events, each in a message of its own.
    pub async fn hears_in_order(&self, room: &str, ids: &[&str]) {
        let messages = self.hears(room, ids.len()).await;
        let texts: Vec<&str> = messages.iter().map(|message| message.message.as_str()).collect();
        let fits = texts.iter().zip(ids).all(|(text, id)| text.contains(&format!("/{id}\"")));
        assert!(texts.len() == ids.len() && fits, "{room} heard {texts:#?}, not {ids:?}");
    }

    /// What the journal says; `None` where it knows nothing.
    pub async fn outcome(&self, event: &str, integration: &str) -> Option<Outcome> {
        let ran = self.site.run(&["explain", event, "--output", "json"]).await;
        let explained = (ran.code == Some(0)).then(|| ran.json())?;
        let all = explained["outcomes"].as_array().expect("a list");
        let one = all.iter().find(|outcome| outcome["integration_id"] == integration)?;
        let text = |name: &str| one[name].as_str().expect("text").to_owned();
        Some(Outcome {
            outcome: text("outcome"),
            reason: text("reason"),
            attempts: one["attempts"].as_u64().expect("a number"),
        })
    }

    /// Waits until an event has ended so.
    pub async fn ends(&self, event: &str, integration: &str, outcome: &str, reason: &str, attempts: u64) {
        let expected = Outcome { outcome: outcome.to_owned(), reason: reason.to_owned(), attempts };
        let mut found = None;
        let ended = async || {
            found = self.outcome(event, integration).await;
            found.as_ref().is_some_and(|found| found.outcome != "pending").then_some(())
        };
        eventually(&format!("{event} has ended for {integration}"), ended).await;
        assert_eq!(found, Some(expected), "{event}");
    }

    /// The integration's entry in `integrations list`.
    pub async fn listed(&self, integration: &str) -> Value {
        let all = self.site.run(&["integrations", "list", "--output", "json"]).await.done().json();
        let all = all.as_array().expect("a list").clone();
        all.into_iter().find(|one| one["id"] == integration).expect("it is there")
    }

    /// Waits until the integration is in this state.
    pub async fn is_in_state(&self, integration: &str, state: &str) {
        eventually(&format!("{integration} is {state}"), async || {
            (self.listed(integration).await["state"] == state).then_some(())
        })
        .await;
    }

    /// The dead letters, oldest first.
    pub async fn letters(&self) -> Vec<Value> {
        let listed = self.site.run(&["dead-letters", "list", "--each", "--output", "json"]).await.done();
        listed.json().as_array().expect("a list").clone()
    }
}

/// Longer than the worker's longest pause between two looks at its store.
pub const TWO_SECONDS: Duration = Duration::from_secs(2);
