//! The workers, each behind gates of its own, and what becomes of them. One that ends by itself is started again, as
//! an orchestrator would, and told of.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::diary::{Diary, Impossible};
use super::terms::GRACE;
use crate::pipeline::{Cut, now};
use crate::support::gate::Gate;
use crate::support::process::{Site, Worker};

/// How often it is looked whether a worker has ended.
const LOOK: Duration = Duration::from_millis(500);

/// One worker's place, and the ways from there.
pub struct Place {
    worker: Mutex<Option<Worker>>,
    /// Settings of its own.
    own: Vec<(&'static str, String)>,
    /// Before each node of the broker.
    pub to_broker: Vec<Gate>,
    /// Before PostgreSQL.
    pub to_store: Option<Gate>,
}

impl Place {
    pub fn new(own: Vec<(&'static str, String)>, to_broker: Vec<Gate>, to_store: Option<Gate>) -> Self {
        Self { worker: Mutex::new(None), own, to_broker, to_store }
    }
}

pub struct Crew<'a> {
    pub places: Vec<Place>,
    pub site: &'a Site,
    pub diary: &'a Diary,
}

impl Crew<'_> {
    pub async fn start(&self) {
        for place in &self.places {
            let worker = self.spawn(place);
            worker.becomes_ready().await;
            *place.worker.lock().await = Some(worker);
        }
    }

    fn spawn(&self, place: &Place) -> Worker {
        self.site.spawn_with(&place.own)
    }

    /// What befalls the only worker makes all impossible.
    fn was_away(&self, from: Timestamp) {
        if self.places.len() == 1 {
            self.diary.impossible(Impossible::All, (from, now()));
        }
    }

    /// Kills one as a crash would, and starts another after a while.
    pub async fn kill(&self, whom: usize, away: Duration) {
        let place = &self.places[whom];
        let mut worker = place.worker.lock().await;
        worker.take().expect("it is there").kill();
        let from = now();
        self.diary.cut(whom, Cut::at(from));
        tokio::time::sleep(away).await;
        *worker = Some(self.spawn(place));
        self.was_away(from);
    }

    /// Freezes one.
    pub async fn freeze(&self, whom: usize, lasts: Duration) {
        let held = self.places[whom].worker.lock().await;
        let worker = held.as_ref().expect("it is there");
        let from = now();
        worker.signal("STOP");
        tokio::time::sleep(lasts).await;
        worker.signal("CONT");
        self.diary.cut(whom, Cut { from, to: now() });
        self.was_away(from);
    }

    /// Stops one as an orchestrator does, and starts another.
    pub async fn replace(&self, whom: usize) {
        let place = &self.places[whom];
        let mut held = place.worker.lock().await;
        let from = now();
        let (status, took) = held.as_mut().expect("it is there").terminate().await;
        if !status.success() {
            self.diary.amiss(format!("a worker that was told to stop ended with {status}"));
        }
        if took > GRACE {
            // What was still under way then was cut off.
            self.diary.cut(whom, Cut { from, to: now() });
        }
        *held = Some(self.spawn(place));
        self.was_away(from);
    }

    /// Starts again what ends by itself. `may_end` says whether there is a reason to.
    pub async fn look_after(&self, may_end: impl Fn() -> bool) {
        loop {
            tokio::time::sleep(LOOK).await;
            for (whom, place) in self.places.iter().enumerate() {
                // Whoever holds it is doing something to it.
                let Ok(mut held) = place.worker.try_lock() else { continue };
                let Some(worker) = held.as_mut() else { continue };
                let Some(status) = worker.ended() else { continue };
                let log = worker.log();
                let last = log.lines().last().unwrap_or("nothing");
                let says = format!("worker {whom} ended by itself with {status}, and said last: {last}");
                if may_end() {
                    self.diary.say(&says)
                } else {
                    self.diary.amiss(says)
                }
                self.diary.cut(whom, Cut::at(now()));
                *held = Some(self.spawn(place));
            }
        }
    }

    /// Stops all.
    pub async fn stop(&self) {
        for place in &self.places {
            let mut worker = place.worker.lock().await.take().expect("it is there");
            let (status, _) = worker.terminate().await;
            if !status.success() {
                self.diary.amiss(format!("a worker ended with {status}"));
            }
        }
    }
}
