//! Carries out what the schedule says, each trouble to its end: what it broke is whole again when it is over.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::crew::{Crew, Place};
use super::diary::{Diary, Impossible};
use super::disk::Disk;
use super::schedule::Lane;
use super::terms::{CALL, Terms};
use super::trouble::{Fails, Strike, Trouble};
use crate::pipeline::{Cut, Play, now};
use crate::support::services::Services;

/// A worker that hears nothing of its store for longer than this may lose rooms to others.
const SOON: Duration = Duration::from_secs(2);
/// How late rooms answer when all is well: so that a kill has something to interrupt.
const USUAL_MS: u64 = 60;

/// All that can be broken.
pub struct Ground<'a> {
    pub terms: Terms,
    pub play: &'a Play,
    pub crew: &'a Crew<'a>,
    pub services: &'a Services,
    pub disk: Option<&'a Disk>,
    pub diary: &'a Diary,
}

impl Ground<'_> {
    /// Rooms answer as they do when all is well.
    pub async fn mend_rooms(&self) {
        self.play.hipchat.set_faults(json!([usual()])).await;
    }

    /// All of a lane, each when its time has come, or as soon as the one before is over.
    pub async fn walk(&self, lane: &Lane, began: Instant) {
        for strike in lane {
            tokio::time::sleep(strike.at.saturating_sub(began.elapsed())).await;
            if began.elapsed() >= self.terms.lasts {
                return;
            }
            self.diary.say(&strike.to_string());
            self.carry_out(strike).await;
            self.diary.count(strike.trouble.kind());
        }
    }

    async fn carry_out(&self, strike: &Strike) {
        let (crew, whom) = (self.crew, strike.whom);
        let place = &crew.places[whom];
        match &strike.trouble {
            Trouble::Kill { away, again } => {
                crew.kill(whom, *away).await;
                self.kill_after(whom, *again).await;
            }
            Trouble::Freeze { lasts, killed } => {
                crew.freeze(whom, *lasts).await;
                self.kill_after(whom, *killed).await;
            }
            Trouble::Replace => crew.replace(whom).await,
            Trouble::CutBroker => place.to_broker.iter().for_each(|gate| gate.cut()),
            Trouble::StallBroker { lasts } => self.stall_broker(place, *lasts).await,
            Trouble::CutStore => place.to_store.iter().for_each(|gate| gate.cut()),
            Trouble::StallStore { lasts } => self.stall_store(whom, *lasts).await,
            Trouble::KillLeader { away } => self.kill_leader(*away).await,
            Trouble::RestartNode { node } => {
                let from = now();
                self.services.does("restart", &node.to_string()).await;
                self.broker_was_away(from);
            }
            Trouble::BlockPublishers { lasts } => {
                self.services.ctl(1, &["-q", "set_disk_free_limit", "1000000000000000"]).await;
                tokio::time::sleep(*lasts).await;
                self.services.ctl(1, &["-q", "set_disk_free_limit", "50000000"]).await;
            }
            Trouble::RestartStore => {
                let from = now();
                self.services.does("restart", "postgres").await;
                self.store_was_away(from);
            }
            Trouble::KillStore { away, with_worker } => {
                let from = now();
                self.services.does("kill9", "postgres").await;
                self.wait_out(*away, with_worker.then_some(whom)).await;
                self.services.does("start", "postgres").await;
                self.store_was_away(from);
            }
            Trouble::FillDisk { lasts, with_worker } => {
                self.fill_disk(*lasts, with_worker.then_some(whom)).await;
            }
            Trouble::Rooms { fails, lasts, only } => self.fail_rooms(*fails, *lasts, *only, strike.at).await,
        }
    }

    async fn kill_after(&self, whom: usize, wait: Option<Duration>) {
        let Some(wait) = wait else { return };
        tokio::time::sleep(wait).await;
        self.crew.kill(whom, Duration::ZERO).await;
        self.diary.count("workers killed besides");
    }

    /// Kills a worker half way, if one is named.
    async fn wait_out(&self, lasts: Duration, whom: Option<usize>) {
        let kill = self.kill_after(whom.unwrap_or_default(), whom.map(|_| lasts / 2));
        tokio::join!(tokio::time::sleep(lasts), kill);
    }

    async fn stall_broker(&self, place: &Place, lasts: Duration) {
        let from = now();
        place.to_broker.iter().for_each(|gate| gate.stall(true));
        tokio::time::sleep(lasts).await;
        place.to_broker.iter().for_each(|gate| gate.stall(false));
        if self.crew.places.len() == 1 {
            self.diary.impossible(Impossible::Intake, (from, now()));
        }
    }

    async fn stall_store(&self, whom: usize, lasts: Duration) {
        let gate = self.crew.places[whom].to_store.as_ref().expect("a shared store");
        let from = now();
        gate.stall(true);
        tokio::time::sleep(lasts).await;
        gate.stall(false);
        self.diary.unrecorded(Some(whom), (from, now()));
        if lasts > SOON {
            self.diary.cut(whom, Cut { from, to: now() });
        }
    }

    async fn kill_leader(&self, away: Duration) {
        let one = self.terms.setting.nodes() == 1;
        let leader = if one { 1 } else { self.services.leader(&self.play.broker.topology.queue).await };
        let from = now();
        self.services.does("kill9", &leader.to_string()).await;
        tokio::time::sleep(away).await;
        self.services.does("start", &leader.to_string()).await;
        self.broker_was_away(from);
    }

    /// The only node, that is: of a cluster the rest goes on.
    fn broker_was_away(&self, from: Timestamp) {
        if self.terms.setting.nodes() == 1 {
            self.diary.impossible(Impossible::Intake, (from, now()));
        }
    }

    fn store_was_away(&self, from: Timestamp) {
        self.diary.unrecorded(None, (from, now()));
        self.diary.impossible(Impossible::All, (from, now()));
    }

    async fn fill_disk(&self, lasts: Duration, whom: Option<usize>) {
        let disk = self.disk.expect("only drawn where there is one");
        let shared = self.terms.setting.is_shared();
        let from = now();
        if !shared {
            // A worker waits for a shared store that does not take it; one of its own it can't start on.
            self.diary.disk_fills(from);
        }
        disk.fill();
        self.wait_out(lasts, whom).await;
        disk.empty();
        self.diary.disk_is_whole(now());
        if shared {
            // It ends where it can't write down what it has promised.
            self.services.does("start", "postgres").await;
        }
        self.store_was_away(from);
    }

    async fn fail_rooms(&self, fails: Fails, lasts: Duration, only: Option<usize>, at: Duration) {
        let all = 0..self.play.work.scale.rooms;
        let rooms: Vec<String> =
            all.filter(|n| only.is_none_or(|third| n % 3 == third)).map(|n| format!("room-{n}")).collect();
        let of_room = |room: &String| {
            let mut spec = fails.spec(at.as_millis() as u64);
            spec["room"] = json!(room);
            spec
        };
        let from = now();
        self.play.hipchat.set_faults(rooms.iter().map(of_room).chain([usual()]).collect()).await;
        tokio::time::sleep(lasts).await;
        self.mend_rooms().await;
        // What was under way, or was told to wait, still is.
        let rest = match fails {
            Fails::Limits(seconds) => Duration::from_secs(seconds),
            Fails::Late(millis) => Duration::from_millis(millis),
            Fails::Silence => CALL,
            Fails::Status(_) | Fails::StatusAfter(_) | Fails::HangsUp | Fails::HangsUpAfter => Duration::ZERO,
        };
        for room in rooms {
            self.diary.impossible(Impossible::Telling { room }, (from, now() + rest));
        }
    }
}

/// How rooms answer otherwise.
fn usual() -> Value {
    json!({"kind": "answer", "latency_ms": USUAL_MS})
}
