//! What can go wrong: what each trouble is, how it is told and counted.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// One trouble. Each sees to it that all is as before when it is over.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// SIGKILL; another is started after a while, and perhaps killed too while it works off what has piled up.
    Kill {
        away: Duration,
        again: Option<Duration>,
    },
    /// SIGSTOP, mostly for longer than a lease, then SIGCONT; and perhaps SIGKILL while it finds out what it has missed.
    Freeze {
        lasts: Duration,
        killed: Option<Duration>,
    },
    /// SIGTERM, and another is started.
    Replace,
    CutBroker,
    StallBroker {
        lasts: Duration,
    },
    CutStore,
    StallStore {
        lasts: Duration,
    },
    /// SIGKILL of the node that leads the work queue, or of the only one.
    KillLeader {
        away: Duration,
    },
    /// A node is stopped as an operator does, and started.
    RestartNode {
        node: usize,
    },
    /// The broker says that its disk is full, and takes no publishes.
    BlockPublishers {
        lasts: Duration,
    },
    RestartStore,
    /// With a worker, it is killed while it can't get rid of what it has in hand.
    KillStore {
        away: Duration,
        with_worker: bool,
    },
    FillDisk {
        lasts: Duration,
        with_worker: bool,
    },
    Rooms {
        fails: Fails,
        lasts: Duration,
        only: Option<usize>,
    },
}

/// How rooms fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    Status(u16),
    /// 429, with so many seconds to wait.
    Limits(u64),
    /// So many milliseconds.
    Late(u64),
    /// Closed before anything is read.
    HangsUp,
    /// Closed when the message is in the room.
    HangsUpAfter,
    /// An error though the message is in the room.
    StatusAfter(u16),
    /// No answer ever, though the message is in the room.
    Silence,
}

/// A trouble, when it begins, and the worker that it befalls.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    pub at: Duration,
    pub whom: usize,
    pub trouble: Trouble,
}

impl Trouble {
    /// At least how long it lasts.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::Kill { away, .. } | Self::KillLeader { away } | Self::KillStore { away, .. } => *away,
            Self::Freeze { lasts, .. }
            | Self::StallBroker { lasts }
            | Self::StallStore { lasts }
            | Self::BlockPublishers { lasts }
            | Self::FillDisk { lasts, .. }
            | Self::Rooms { lasts, .. } => *lasts,
            Self::Replace
            | Self::CutBroker
            | Self::CutStore
            | Self::RestartNode { .. }
            | Self::RestartStore => Duration::ZERO,
        }
    }

    /// By what it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "workers killed",
            Self::Freeze { .. } => "workers frozen",
            Self::Replace => "workers replaced",
            Self::CutBroker => "broker connections cut",
            Self::StallBroker { .. } => "broker connections stalled",
            Self::CutStore => "store connections cut",
            Self::StallStore { .. } => "store connections stalled",
            Self::KillLeader { .. } => "broker nodes killed",
            Self::RestartNode { .. } => "broker nodes restarted",
            Self::BlockPublishers { .. } => "publishers blocked",
            Self::RestartStore => "PostgreSQL restarted",
            Self::KillStore { .. } => "PostgreSQL killed",
            Self::FillDisk { .. } => "disks filled",
            Self::Rooms { .. } => "rooms made to fail",
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = self.whom;
        match &self.trouble {
            Trouble::Kill { away, again: None } => {
                write!(f, "worker {whom} killed, another comes in {away:.1?}")
            }
            Trouble::Kill { away, again: Some(again) } => {
                write!(f, "worker {whom} killed, another comes in {away:.1?} and is killed {again:.1?} later")
            }
            Trouble::Freeze { lasts, killed: None } => write!(f, "worker {whom} frozen for {lasts:.1?}"),
            Trouble::Freeze { lasts, killed: Some(after) } => {
                write!(f, "worker {whom} frozen for {lasts:.1?}, and killed {after:.1?} later")
            }
            Trouble::Replace => write!(f, "worker {whom} stopped and replaced"),
            Trouble::CutBroker => write!(f, "worker {whom} cut off from the broker"),
            Trouble::StallBroker { lasts } => {
                write!(f, "worker {whom} hears nothing of the broker for {lasts:.1?}")
            }
            Trouble::CutStore => write!(f, "worker {whom} cut off from PostgreSQL"),
            Trouble::StallStore { lasts } => {
                write!(f, "worker {whom} hears nothing of PostgreSQL for {lasts:.1?}")
            }
            Trouble::KillLeader { away } => {
                write!(f, "the work queue's node killed, started again in {away:.1?}")
            }
            Trouble::RestartNode { node } => write!(f, "node {node} of the broker restarted"),
            Trouble::BlockPublishers { lasts } => {
                write!(f, "publishers blocked by a disk alarm for {lasts:.1?}")
            }
            Trouble::RestartStore => f.write_str("PostgreSQL restarted"),
            Trouble::KillStore { away, with_worker } => {
                let also =
                    if *with_worker { format!(", and worker {whom} meanwhile") } else { String::new() };
                write!(f, "PostgreSQL killed, started again in {away:.1?}{also}")
            }
            Trouble::FillDisk { lasts, with_worker } => {
                let also = if *with_worker {
                    format!(", and worker {whom} killed meanwhile")
                } else {
                    String::new()
                };
                write!(f, "the store's disk full for {lasts:.1?}{also}")
            }
            Trouble::Rooms { fails, lasts, only } => {
                let which = if only.is_some() { "every third room fails" } else { "all rooms fail" };
                write!(f, "{which} for {lasts:.1?}: {fails:?}")
            }
        }
    }
}

impl Fails {
    /// As `/sandbox/faults` takes it.
    pub fn spec(self, seed: u64) -> Value {
        let mut spec = match self {
            Self::Status(status) => json!({"kind": "status", "status": status, "probability": 0.7}),
            Self::Limits(seconds) => json!({
                "kind": "status", "status": 429, "headers": {"Retry-After": seconds.to_string()}, "probability": 0.5,
            }),
            Self::Late(millis) => json!({"kind": "answer", "latency_ms": millis}),
            Self::HangsUp => json!({"kind": "drop", "probability": 0.6}),
            Self::HangsUpAfter => json!({"kind": "drop", "accept": true, "probability": 0.3}),
            Self::StatusAfter(status) => {
                json!({"kind": "status", "status": status, "accept": true, "probability": 0.3})
            }
            Self::Silence => json!({"kind": "hang", "accept": true, "probability": 0.2}),
        };
        spec["seed"] = json!(seed);
        spec
    }
}
