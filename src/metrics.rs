//! The figures operators watch. Names and labels are the contract's; no label ever holds an id.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use crate::domain::answer::AnswerClass;
use crate::domain::reason::{DeadLetterReason, EventFate, Outcome, SuppressReason, WaitReason};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Labelled<const N: usize> = Family<Labels<N>, Counter>;

/// Upper bounds in seconds for `time_to_room_seconds`: from the broker's own latency to a day of retries.
const TIME_TO_ROOM: [f64; 13] =
    [0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0];

/// All metrics of one worker.
pub struct Metrics {
    registry: Registry,
    events: Labelled<1>,
    notifications: Labelled<2>,
    attempts: Labelled<1>,
    waits: Labelled<1>,
    dead_letters: Labelled<1>,
    time_to_room: Histogram,
    pub store_errors: Counter,
    pub pending_notifications: Gauge,
    pub oldest_due_seconds: Gauge<f64, AtomicU64>,
    pub unburied_letters: Gauge,
    integrations: Family<Labels<1>, Gauge>,
    session: Family<Labels<1>, Gauge>,
    file_applied: Gauge,
    file_applied_at: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hipchat_notifier");
        let metrics = Self {
            events: Family::default(),
            notifications: Family::default(),
            attempts: Family::default(),
            waits: Family::default(),
            dead_letters: Family::default(),
            time_to_room: Histogram::new(TIME_TO_ROOM),
            store_errors: Counter::default(),
            pending_notifications: Gauge::default(),
            oldest_due_seconds: Gauge::default(),
            unburied_letters: Gauge::default(),
            integrations: Family::default(),
            session: Family::default(),
            file_applied: Gauge::default(),
            file_applied_at: Gauge::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("events", "Events taken in, by what they were", m.events.clone());
        registry.register("notifications", "Notifications by how they ended", m.notifications.clone());
        registry.register("attempts", "HTTP calls to rooms, by result", m.attempts.clone());
        registry.register("waits", "How often a room's line had to wait, by reason", m.waits.clone());
        registry.register("dead_letters", "Letters confirmed by the broker", m.dead_letters.clone());
        registry.register("time_to_room_seconds", "From taken in to told", m.time_to_room.clone());
        registry.register("store_errors", "Failed calls of the store", m.store_errors.clone());
        registry.register("pending_notifications", "Waiting to be told", m.pending_notifications.clone());
        registry.register(
            "oldest_due_seconds",
            "How long the longest due waits",
            m.oldest_due_seconds.clone(),
        );
        registry.register(
            "unburied_letters",
            "Letters the broker has not confirmed",
            m.unburied_letters.clone(),
        );
        registry.register("integrations", "Integrations known, by state", m.integrations.clone());
        registry.register(
            "broker_session",
            "1 for what the session with RabbitMQ is doing, else 0",
            m.session.clone(),
        );
        metrics.announce();
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// These label values from the start at 0, so that a first failure shows as a rise.
    fn announce(&self) {
        for fate in EventFate::ALL {
            let _ = self.events.get_or_create(&[("outcome", fate.as_str())]);
        }
        for result in AnswerClass::RESULTS {
            let _ = self.attempts.get_or_create(&[("result", result)]);
        }
        for reason in DeadLetterReason::ALL {
            let _ = self.dead_letters.get_or_create(&[("reason", reason.as_str())]);
        }
    }

    /// Shows the figures of the integrations file too: without one they would tell of a fault that is none.
    #[must_use]
    pub fn with_integrations_file(mut self) -> Self {
        self.registry.register(
            "integrations_file_applied",
            "1 if the integrations file as it is now is applied, 0 if it was rejected",
            self.file_applied.clone(),
        );
        self.registry.register(
            "integrations_file_applied_timestamp_seconds",
            "When the integrations file was applied last, in Unix time",
            self.file_applied_at.clone(),
        );
        self
    }

    /// Counts one event.
    pub fn event(&self, fate: EventFate) {
        self.events.get_or_create(&[("outcome", fate.as_str())]).inc();
    }

    /// Counts one notification that ended.
    pub fn notification(&self, outcome: Outcome, reason: &'static str) {
        self.notifications.get_or_create(&[("outcome", outcome.as_str()), ("reason", reason)]).inc();
    }

    /// Counts notifications that intake suppressed.
    pub fn suppressed(&self, reason: SuppressReason, count: u64) {
        let labels = [("outcome", Outcome::Suppressed.as_str()), ("reason", reason.as_str())];
        self.notifications.get_or_create(&labels).inc_by(count);
    }

    /// Counts one HTTP call.
    pub fn attempt(&self, class: AnswerClass) {
        self.attempts.get_or_create(&[("result", class.as_str())]).inc();
    }

    /// Counts one wait of a room.
    pub fn waits(&self, reason: WaitReason) {
        self.waits.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// Counts one confirmed letter.
    pub fn dead_letter(&self, reason: DeadLetterReason) {
        self.dead_letters.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// Notes how long one notification took from intake to its room.
    pub fn time_to_room(&self, seconds: f64) {
        self.time_to_room.observe(seconds);
    }

    /// Notes how many integrations are in one state.
    pub fn integrations(&self, state: &'static str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.integrations.get_or_create(&[("state", state)]).set(count);
    }

    /// Notes which of `states` the session with the broker is in.
    pub fn broker_session(&self, states: &[&'static str], now: &'static str) {
        for state in states {
            self.session.get_or_create(&[("state", state)]).set(i64::from(*state == now));
        }
    }

    /// Notes that the integrations file was applied at this time.
    pub fn integrations_file_applied(&self, unix_seconds: i64) {
        self.file_applied.set(1);
        self.file_applied_at.set(unix_seconds);
    }

    /// Notes that the integrations file as it is now could not be applied.
    pub fn integrations_file_rejected(&self) {
        self.file_applied.set(0);
    }

    /// All metrics in Prometheus' text form.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
