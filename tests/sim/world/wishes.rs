//! Integrations as a seed draws them, and as the worker is given them.

use std::cell::RefCell;
use std::collections::HashMap;

use fastrand::Rng;
use hipchat_notifier::adapters::hipchat::{self, Egress};
use hipchat_notifier::formats::integrations::{self, RoomRef, SecretSources};
use hipchat_notifier::ports::Definition;

use super::plan::ROOMS;

pub const MONITORS: [&str; 3] = ["m-1", "m-2", "n-1"];
pub const REGIONS: [&str; 2] = ["", "eu"];
pub const USERS: [&str; 2] = ["ana", "ben"];
pub const UIDS: [&str; 2] = ["r-1", "r-2"];
const TOKENS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    All,
    FailuresThenSuccess(u32),
    Failures,
    FailuresAndRecovery,
    AfterFailures(u32),
    Changes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Of monitors that the glob matches.
    Runs { rule: Rule, monitors: Option<&'static str> },
    /// Seconds for which repeats are gathered.
    Each { collate: u64 },
    /// Seconds between two digests.
    Digest { every: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub id: String,
    pub interest: Interest,
    pub room: usize,
    pub token: usize,
    /// Messages, and in how many seconds.
    pub throttle: Option<(u32, u64)>,
    pub queue: bool,
    pub paused: bool,
}

pub fn draw(rng: &mut Rng) -> Vec<Wish> {
    let rooms = rng.usize(1..=ROOMS - 1);
    let tokens = rng.usize(1..=TOKENS);
    (0..rng.usize(1..=5))
        .map(|n| {
            let (room, token) = (rng.usize(..rooms), rng.usize(..tokens));
            let interest = Interest::draw(rng);
            let throttle = (rng.u8(..4) == 0).then(|| (rng.u32(1..=3), rng.u64(2..=15)));
            let (queue, paused) = (rng.u8(..3) == 0, rng.u8(..12) == 0);
            Wish { id: format!("i-{n}"), interest, room, token, throttle, queue, paused }
        })
        .collect()
}

impl Interest {
    fn draw(rng: &mut Rng) -> Self {
        if rng.u8(..4) == 0 {
            return match rng.u8(..3) {
                0 => Self::Digest { every: rng.u64(2..=20) },
                _ => Self::Each { collate: if rng.u8(..4) == 0 { 0 } else { rng.u64(1..=20) } },
            };
        }
        let monitors = [None, None, Some("m-*"), Some("m-1"), Some("n-1")][rng.usize(..5)];
        Self::Runs { rule: Rule::draw(rng), monitors }
    }

    /// Whether it is about runs, and of this monitor.
    pub fn wants_run(&self, monitor: &str) -> bool {
        match self {
            Self::Runs { monitors: None, .. } => true,
            Self::Runs { monitors: Some(glob), .. } => match glob.strip_suffix('*') {
                Some(begin) => monitor.starts_with(begin),
                None => monitor == *glob,
            },
            Self::Each { .. } | Self::Digest { .. } => false,
        }
    }
}

impl Rule {
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.u8(..6) {
            0 => Self::All,
            1 => Self::Failures,
            2 => Self::FailuresAndRecovery,
            3 => Self::AfterFailures(rng.u32(1..=3)),
            4 => Self::Changes,
            _ => Self::FailuresThenSuccess(rng.u32(1..=3)),
        }
    }
}

impl Wish {
    /// The room's public name.
    pub fn room_key(&self) -> String {
        format!("https://h.example/v2/room/{}", self.room)
    }

    fn toml(&self) -> String {
        let Self { id, room, token, paused, .. } = self;
        let kind = match self.interest {
            Interest::Runs { .. } => "monitor-results",
            Interest::Each { .. } | Interest::Digest { .. } => "team-activity",
        };
        let notify = match self.interest {
            Interest::Runs { rule, .. } => match rule {
                Rule::All => "on = \"all\"".to_owned(),
                Rule::Failures => "on = \"failures\"".to_owned(),
                Rule::FailuresAndRecovery => "on = \"failures-and-recovery\"".to_owned(),
                Rule::Changes => "on = \"changes\"".to_owned(),
                Rule::AfterFailures(n) => format!("on = \"after-failures\", failures = {n}"),
                Rule::FailuresThenSuccess(n) => format!("on = \"failures-then-success\", failures = {n}"),
            },
            Interest::Each { collate } => format!("on = \"each\", collate = \"{collate}s\""),
            Interest::Digest { every } => format!("on = \"digest\", every = \"{every}s\""),
        };
        let mut text = format!(
            "[[integrations]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"{kind}\"\npaused = {paused}\n\
             room_url = \"https://h.example/v2/room/{room}/notification?auth_token=t-{token}\"\n\
             notify = {{ {notify} }}\n"
        );
        if let Interest::Runs { monitors: Some(glob), .. } = self.interest {
            text += &format!("monitors = [\"{glob}\"]\n");
        }
        let overflow = if self.queue { "queue" } else { "digest" };
        text += &match self.throttle {
            Some((messages, per)) => {
                format!(
                    "throttle = {{ messages = {messages}, per = \"{per}s\", overflow = \"{overflow}\" }}\n"
                )
            }
            None => format!("throttle = {{ overflow = \"{overflow}\" }}\n"),
        };
        text
    }

    /// As the store is given it, read by the worker's own reader.
    pub fn definition(&self) -> Definition {
        thread_local! {
            // Few differ from seed to seed, and reading TOML takes longer than most of what is simulated.
            static READ: RefCell<HashMap<String, Definition>> = RefCell::default();
        }
        let text = self.toml();
        READ.with_borrow_mut(|read| {
            if read.len() > 10_000 {
                read.clear();
            }
            read.entry(text.clone()).or_insert_with(|| read_one(&text)).clone()
        })
    }
}

fn read_one(text: &str) -> Definition {
    let sources = SecretSources {
        env: &|_| None,
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        check_url: &|url| {
            let target =
                hipchat::parse_room_url(url, &Egress::default()).map_err(|error| error.to_string())?;
            Ok(RoomRef { token: hipchat::token_key(&target), room: target.room })
        },
    };
    let mut read = integrations::read_file_text(text, &sources).expect("a definition");
    read.pop().expect("one")
}
