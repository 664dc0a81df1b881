//! What is published and who wants to hear of it, drawn from a seed: all rules, all body forms, late runs,
//! ids that come twice, malformed events, and events that nobody wants.
//!
//! Every event carries its id in what its message shows (the run's link, the activity's name), so that it can
//! be found in a room.

use std::time::Duration;

use fastrand::Rng;
use hipchat_notifier::domain::envelope::Envelope;

use super::bodies;
use super::wishes::{self, Wish};
use crate::support::rooms::Hipchat;

/// How much, and within which limits.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub events: usize,
    pub integrations: usize,
    pub rooms: usize,
    /// Messages to one room, and in how long.
    pub room: (u32, Duration),
    /// Calls with one token, and in how long.
    pub token: (u32, Duration),
    pub publish_over: Duration,
    pub collate: Duration,
    pub every: Duration,
    /// How long after the last event all may take to end.
    pub patience: Duration,
}

/// What an event is about.
#[derive(Debug, Clone)]
pub enum Means {
    /// `finished_at` in seconds, where the body says it.
    Run {
        team: String,
        monitor: String,
        region: String,
        failed: bool,
        finished_at: Option<i64>,
    },
    Activity {
        team: String,
        model: String,
        uid: String,
        user: String,
    },
    Malformed {
        field: &'static str,
    },
    /// The id of an earlier event again.
    Again,
}

#[derive(Debug, Clone)]
pub struct Published {
    pub id: String,
    pub envelope: Envelope,
    pub means: Means,
}

pub struct Workload {
    pub seed: u64,
    pub scale: Scale,
    pub wishes: Vec<Wish>,
    /// In the order of their publishing; the last is wanted by the last wish, which wants nothing else.
    pub events: Vec<Published>,
}

pub const TEAMS: usize = 4;
pub const MONITORS: usize = 48;
const REGIONS: [&str; 3] = ["", "us-east", "eu-west"];
pub const MODELS: [&str; 3] = ["request", "collection", "environment"];
pub const LAST: &str = "777-last";

impl Workload {
    pub fn draw(seed: u64, scale: Scale) -> Self {
        let mut rng = Rng::with_seed(seed);
        let wishes = wishes::draw(&mut rng, scale);
        let mut draw = Events { rng, failing: vec![false; MONITORS * REGIONS.len()], made: Vec::new() };
        (1..scale.events).for_each(|n| draw.one(n));
        let id = format!("event-{:06}", scale.events);
        let last = Means::Run {
            team: "t-0".to_owned(),
            monitor: LAST.to_owned(),
            region: String::new(),
            failed: false,
            finished_at: None,
        };
        let envelope = bodies::envelope(&mut draw.rng, &id, &last, 0);
        draw.made.push(Published { id, envelope, means: last });
        Self { seed, scale, wishes, events: draw.made }
    }

    /// The integrations file.
    pub fn integrations(&self, hipchat: &Hipchat) -> String {
        self.wishes.iter().map(|wish| wish.toml(hipchat)).collect()
    }
}

pub fn some<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

pub fn monitor(n: usize) -> String {
    format!("100-m{n:02}")
}

struct Events {
    rng: Rng,
    /// Monitors fail in streaks.
    failing: Vec<bool>,
    made: Vec<Published>,
}

impl Events {
    fn one(&mut self, n: usize) {
        let id = format!("event-{n:06}");
        let (id, envelope, means) = match self.rng.u8(..100) {
            0..=2 => {
                let (field, envelope) = bodies::malformed(&mut self.rng, &id);
                (id, envelope, Means::Malformed { field })
            }
            3..=5 if n > 50 => match self.again(n) {
                Some((id, envelope)) => (id, envelope, Means::Again),
                None => return self.one(n),
            },
            6..=8 => {
                let means = self.unwanted();
                (id.clone(), bodies::envelope(&mut self.rng, &id, &means, n), means)
            }
            9..=33 => {
                let means = self.activity();
                (id.clone(), bodies::envelope(&mut self.rng, &id, &means, n), means)
            }
            _ => {
                let means = self.run(n);
                (id.clone(), bodies::envelope(&mut self.rng, &id, &means, n), means)
            }
        };
        self.made.push(Published { id, envelope, means });
    }

    fn run(&mut self, n: usize) -> Means {
        let (m, r) = (self.rng.usize(..MONITORS), self.rng.usize(..REGIONS.len()));
        let failing = &mut self.failing[m * REGIONS.len() + r];
        if self.rng.u8(..3) == 0 {
            *failing = !*failing;
        }
        let at = i64::try_from(n).expect("small") * 10;
        let finished_at = match self.rng.u8(..10) {
            0..=2 => None,
            // Late: out of the order of their ends.
            3 => Some(at - self.rng.i64(1_000..20_000)),
            _ => Some(at),
        };
        Means::Run {
            team: format!("t-{}", m % TEAMS),
            monitor: monitor(m),
            region: REGIONS[r].to_owned(),
            failed: *failing,
            finished_at,
        }
    }

    fn activity(&mut self) -> Means {
        let rng = &mut self.rng;
        let model = some(rng, &MODELS);
        Means::Activity {
            team: format!("t-{}", rng.usize(..TEAMS)),
            model: model.to_owned(),
            uid: format!("{model}-{}", rng.u8(..3)),
            user: some(rng, &["u-ana", "u-ben", "u-bot-1"]).to_owned(),
        }
    }

    fn unwanted(&mut self) -> Means {
        Means::Run {
            team: "nobody".to_owned(),
            monitor: "999-unheard".to_owned(),
            region: String::new(),
            failed: self.rng.bool(),
            finished_at: None,
        }
    }

    /// An earlier event's id: with its own body, or with that of a run which ended the other way.
    fn again(&mut self, n: usize) -> Option<(String, Envelope)> {
        let earlier = &self.made[self.rng.usize(..self.made.len())];
        let (id, envelope, means) = (earlier.id.clone(), earlier.envelope.clone(), earlier.means.clone());
        match means {
            Means::Malformed { .. } | Means::Again => None,
            Means::Run { team, monitor, region, failed, .. } if self.rng.bool() => {
                let other = Means::Run { team, monitor, region, failed: !failed, finished_at: None };
                Some((id.clone(), bodies::run_as_webhook(&id, &format!("again-{n:06}"), &other)))
            }
            _ => Some((id, envelope)),
        }
    }
}
