//! What a run of chaos is asked for: how long, on what, by which seed; and the times that its workers are given.

use std::fmt;
use std::time::Duration;

use crate::pipeline::Scale;

/// How long a worker keeps a room without a sign of life: three calls, as by default.
pub const LEASE: Duration = Duration::from_secs(9);
/// How long a call to a room may take.
pub const CALL: Duration = Duration::from_secs(3);
/// How long a worker may take to stop; longer than a call.
pub const GRACE: Duration = Duration::from_secs(6);
/// Events published a second.
const PACE: f64 = 20.0;

/// What the workers stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// One worker, one node of RabbitMQ.
    Sqlite,
    /// Three workers, PostgreSQL, a cluster of three nodes.
    Postgres,
    /// The same with RabbitMQ 4.
    Rabbitmq4,
}

impl Setting {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Rabbitmq4];

    fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Rabbitmq4 => "rabbitmq4",
        }
    }

    pub fn workers(self) -> usize {
        if self == Self::Sqlite { 1 } else { 3 }
    }

    pub fn nodes(self) -> usize {
        self.workers()
    }

    pub fn is_shared(self) -> bool {
        self != Self::Sqlite
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub lasts: Duration,
    pub setting: Setting,
    pub seed: u64,
}

impl Terms {
    /// As `scripts/chaos` asks; else what every run of the tests has time for.
    pub fn asked() -> Self {
        let said = |name: &str| std::env::var(name).ok();
        let minutes =
            said("CHAOS_MINUTES").map_or(0.5, |text| text.parse().expect("CHAOS_MINUTES is a number"));
        let setting = said("CHAOS_SETTING").map_or(Setting::Sqlite, |name| {
            let found = Setting::ALL.into_iter().find(|setting| setting.as_str() == name);
            found.expect("CHAOS_SETTING is sqlite, postgres or rabbitmq4")
        });
        let seed = said("CHAOS_SEED").map_or(1, |text| text.parse().expect("CHAOS_SEED is a whole number"));
        Self { lasts: Duration::from_secs_f64(minutes * 60.0), setting, seed }
    }

    /// HipChat's own budgets, six times as fast: a minute of 10 s.
    pub fn scale(self) -> Scale {
        Scale {
            events: (self.lasts.as_secs_f64() * PACE) as usize,
            integrations: 100,
            rooms: 25,
            room: (30, Duration::from_secs(10)),
            token: (500, Duration::from_secs(50)),
            publish_over: self.lasts,
            collate: Duration::from_secs(5),
            every: Duration::from_secs(10),
            patience: Duration::from_secs(10 * 60),
        }
    }
}

impl fmt::Display for Terms {
    /// The command that does it again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.lasts.as_secs_f64() / 60.0;
        write!(f, "scripts/chaos --minutes {minutes} --setting {} --seed {}", self.setting, self.seed)
    }
}
