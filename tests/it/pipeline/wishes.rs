//! Who wants to hear of what: integrations drawn from a seed, and how the integrations file says them.

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;

use super::workload::{LAST, MODELS, MONITORS, Scale, TEAMS, monitor, some};
use crate::support::rooms::Hipchat;

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

/// All integrations; the last wants the last event and nothing else.
pub fn draw(rng: &mut Rng, scale: Scale) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = (0..scale.integrations - 1).map(|n| wish(rng, n, scale)).collect();
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
    wishes
}

fn wish(rng: &mut Rng, n: usize, scale: Scale) -> Wish {
    let room = n % scale.rooms;
    let team = rng.usize(..TEAMS);
    let runs = n % 10 < 7;
    let interest = if runs { runs_wanted(rng, n, team) } else { activities_wanted(rng, n, scale) };
    let quiet = is_quiet(&interest);
    Wish {
        id: format!("i-{n:03}"),
        team: (!runs || rng.u8(..10) > 0).then(|| format!("t-{team}")),
        interest,
        room: format!("room-{room}"),
        // Some rooms are reached with two tokens.
        token: if rng.u8(..5) == 0 { format!("token-{room}-b") } else { format!("token-{room}") },
        throttle: (rng.u8(..8) == 0).then_some((scale.room.0 / 2, scale.room.1)),
        queue: quiet && rng.u8(..3) == 0,
        paused: n % 25 == 24,
    }
}

/// Whether what it wants fits into its room's budget for sure: what is never merged would pile up otherwise, for as
/// long as there are events.
fn is_quiet(interest: &Interest) -> bool {
    let Interest::Runs { monitors, rule } = interest else { return false };
    let few = !monitors.iter().any(|uid| uid.ends_with('*'));
    few && matches!(rule, Rule::Changes | Rule::AfterFailures(_))
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

impl Wish {
    /// Its table in the integrations file.
    pub fn toml(&self, hipchat: &Hipchat) -> String {
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
