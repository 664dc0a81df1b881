//! What is published and who wants to hear of it, drawn from a seed: all rules, all body forms, late runs,
//! ids that come twice, malformed events, and events that nobody wants.
//!
//! Every event carries its id in what its message shows (the run's link, the activity's name), so that it can
//! be found in a room.

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;
use hipchat_notifier::domain::envelope::Envelope;

use super::bodies;
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
}

/// `notify.on` of monitor results, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    All,
    FailuresThenSuccess(u32),
    Failures,
    FailuresAndRecovery,
    AfterFailures(u32),
    Changes,
}

/// `notify.on` of team activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    Each { collate: Duration },
    Digest { every: Duration },
}

#[derive(Debug, Clone)]
pub enum Interest {
    /// Uids, or uids that begin so (`…*`); empty: all.
    Runs {
        monitors: Vec<String>,
        rule: Rule,
    },
    Activities {
        models: Vec<String>,
        not_users: Vec<String>,
        telling: Telling,
    },
}

/// An integration, as the test knows it.
#[derive(Debug, Clone)]
pub struct Wish {
    pub id: String,
    pub team: Option<String>,
    pub interest: Interest,
    pub room: String,
    pub token: String,
    pub throttle: Option<(u32, Duration)>,
    pub queue: bool,
    pub paused: bool,
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
const MONITORS: usize = 48;
const REGIONS: [&str; 3] = ["", "us-east", "eu-west"];
const MODELS: [&str; 3] = ["request", "collection", "environment"];
const LAST: &str = "777-last";

impl Workload {
    pub fn draw(seed: u64, scale: Scale) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut wishes: Vec<Wish> = (0..scale.integrations - 1).map(|n| wish(&mut rng, n, scale)).collect();
        wishes.push(Wish {
            id: "z-last".to_owned(),
            team: None,
            interest: Interest::Runs { monitors: vec![LAST.to_owned()], rule: Rule::All },
            room: "room-0".to_owned(),
            token: "token-0".to_owned(),
            throttle: None,
            queue: false,
            paused: false,
        });
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

fn some<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

fn monitor(n: usize) -> String {
    format!("100-m{n:02}")
}

fn wish(rng: &mut Rng, n: usize, scale: Scale) -> Wish {
    let room = n % scale.rooms;
    let team = rng.usize(..TEAMS);
    let runs = n % 10 < 7;
    let interest = if runs { runs_wanted(rng, n, team) } else { activities_wanted(rng, n, scale) };
    let quiet = matches!(interest, Interest::Runs { rule: Rule::Changes | Rule::AfterFailures(_), .. });
    Wish {
        id: format!("i-{n:03}"),
        team: (!runs || rng.u8(..10) > 0).then(|| format!("t-{team}")),
        interest,
        room: format!("room-{room}"),
        // Some rooms are reached with two tokens.
        token: if rng.u8(..5) == 0 { format!("token-{room}-b") } else { format!("token-{room}") },
        throttle: (rng.u8(..8) == 0).then_some((5, scale.room.1)),
        queue: quiet && rng.u8(..3) == 0,
        paused: n % 25 == 24,
    }
}

fn runs_wanted(rng: &mut Rng, n: usize, team: usize) -> Interest {
    let of_team = |rng: &mut Rng| monitor(rng.usize(..MONITORS / TEAMS) * TEAMS + team);
    let number = rng.u32(1..=4);
    let rule = match n % 6 {
        0 => Rule::All,
        1 => Rule::FailuresThenSuccess(number),
        2 => Rule::Failures,
        3 => Rule::FailuresAndRecovery,
        4 => Rule::AfterFailures(number),
        _ => Rule::Changes,
    };
    let monitors = match rng.u8(..6) {
        0 if matches!(rule, Rule::Changes | Rule::FailuresThenSuccess(_)) => vec!["100-m*".to_owned()],
        1 => vec![format!("100-m{}*", rng.u8(..4))],
        2 => vec![of_team(rng)],
        _ => vec![of_team(rng), of_team(rng), "100-never".to_owned()],
    };
    Interest::Runs { monitors, rule }
}

fn activities_wanted(rng: &mut Rng, n: usize, scale: Scale) -> Interest {
    let telling = match n % 3 {
        0 => Telling::Each { collate: Duration::ZERO },
        1 => Telling::Each { collate: scale.collate },
        _ => Telling::Digest { every: scale.every },
    };
    let models =
        if rng.bool() { Vec::new() } else { vec![some(rng, &MODELS).to_owned(), "none*".to_owned()] };
    let not_users = if rng.bool() { Vec::new() } else { vec!["u-bot*".to_owned()] };
    Interest::Activities { models, not_users, telling }
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

impl Wish {
    fn toml(&self, hipchat: &Hipchat) -> String {
        let mut text = format!("[[integrations]]\nid = \"{}\"\nname = \"Wish {0}\"\n", self.id);
        let kind = match self.interest {
            Interest::Runs { .. } => "monitor-results",
            Interest::Activities { .. } => "team-activity",
        };
        let url = hipchat.room_url(&self.room, &self.token);
        let _ = writeln!(text, "kind = \"{kind}\"\nroom_url = \"{url}\"\npaused = {}", self.paused);
        if let Some(team) = &self.team {
            let _ = writeln!(text, "team = \"{team}\"");
        }
        match &self.interest {
            Interest::Runs { monitors, rule } => {
                let _ = writeln!(text, "monitors = {monitors:?}\n[integrations.notify]\n{}", rule.toml());
            }
            Interest::Activities { models, not_users, telling } => {
                for (name, globs) in [("models", models), ("not_users", not_users)] {
                    if !globs.is_empty() {
                        let _ = writeln!(text, "{name} = {globs:?}");
                    }
                }
                let _ = writeln!(text, "[integrations.notify]\n{}", telling.toml());
            }
        }
        let overflow = if self.queue { "queue" } else { "digest" };
        let _ = writeln!(text, "[integrations.throttle]\noverflow = \"{overflow}\"");
        if let Some((messages, per)) = self.throttle {
            let _ = writeln!(text, "messages = {messages}\nper = \"{}ms\"", per.as_millis());
        }
        text
    }
}

impl Rule {
    fn toml(self) -> String {
        match self {
            Self::All => "on = \"all\"".to_owned(),
            Self::FailuresThenSuccess(n) => format!("on = \"failures-then-success\"\nfailures = {n}"),
            Self::Failures => "on = \"failures\"".to_owned(),
            Self::FailuresAndRecovery => "on = \"failures-and-recovery\"".to_owned(),
            Self::AfterFailures(n) => format!("on = \"after-failures\"\nfailures = {n}"),
            Self::Changes => "on = \"changes\"".to_owned(),
        }
    }
}

impl Telling {
    fn toml(self) -> String {
        match self {
            Self::Each { collate } => format!("on = \"each\"\ncollate = \"{}ms\"", collate.as_millis()),
            Self::Digest { every } => format!("on = \"digest\"\nevery = \"{}ms\"", every.as_millis()),
        }
    }
}
