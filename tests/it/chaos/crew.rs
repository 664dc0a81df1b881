//! The workers, each behind gates of its own, and what becomes of them. One that ends by itself is started again, as
//! an orchestrator would, and told of.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::diary::{Diary, Impossible};
use super::ends::{is_excused, last_words, was_killed, was_too_young_to_stop};
use super::terms::GRACE;
use crate::pipeline::{Cut, now};
use crate::support::gate::Gate;
use crate::support::process::{End, Site, Worker};

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

    /// Starts another in the place of one that has ended by itself, as an orchestrator would.
    fn renew(&self, whom: usize, held: &mut Option<Worker>) {
        let Some(end) = held.as_mut().and_then(Worker::ended) else { return };
        self.ended_by_itself(whom, &end);
        *held = Some(self.spawn(&self.places[whom]));
        self.was_away(end.ended);
    }

    fn ended_by_itself(&self, whom: usize, end: &End) {
        self.diary.cut(whom, Cut::at(end.ended));
        let (status, words) = (end.status, last_words(end));
        let lived = end.ended.duration_since(end.started).as_secs_f64();
        let ended = self.diary.seconds_at(end.ended);
        let says = format!(
            "worker {whom} ended by itself at {ended:.1} s after {lived:.1} s with {status}, and said last: {words}"
        );
        if is_excused(end, &self.diary.disk_full()) {
            self.diary.count("starts refused by a full disk");
            self.diary.say(&says);
        } else {
            self.diary.amiss(says);
        }
    }

    /// Kills one as a crash would, and starts another after a while.
    pub async fn kill(&self, whom: usize, away: Duration) {
        let place = &self.places[whom];
        let mut held = place.worker.lock().await;
        self.renew(whom, &mut held);
        let end = held.take().expect("it is there").kill();
        if was_killed(&end) {
            self.diary.cut(whom, Cut::at(end.ended));
        } else {
            self.ended_by_itself(whom, &end);
        }
        tokio::time::sleep(away).await;
        *held = Some(self.spawn(place));
        self.was_away(end.ended);
    }

    /// Freezes one.
    pub async fn freeze(&self, whom: usize, lasts: Duration) {
        let mut held = self.places[whom].worker.lock().await;
        self.renew(whom, &mut held);
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
        self.renew(whom, &mut held);
        let from = now();
        let took = self.told_to_stop(whom, held.as_mut().expect("it is there")).await;
        if took > GRACE {
            // What was still under way then was cut off.
            self.diary.cut(whom, Cut { from, to: now() });
        }
        *held = Some(self.spawn(place));
        self.was_away(from);
    }

    /// Stops one, which has to end well. Returns how long that took.
    async fn told_to_stop(&self, whom: usize, worker: &mut Worker) -> Duration {
        let (status, took) = worker.terminate().await;
        if !status.success() {
            let end = worker.ended().expect("waited for");
            if !was_too_young_to_stop(&end) {
                // It may have been about to end by itself.
                self.ended_by_itself(whom, &end);
            }
        }
        took
    }

    /// Starts again what ends by itself.
    pub async fn look_after(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            for (whom, place) in self.places.iter().enumerate() {
                // Whoever holds it is doing something to it, and looks first.
                if let Ok(mut held) = place.worker.try_lock() {
                    self.renew(whom, &mut held);
                }
            }
        }
    }

    /// Stops all.
    pub async fn stop(&self) {
        for (whom, place) in self.places.iter().enumerate() {
            let mut worker = place.worker.lock().await.take().expect("it is there");
            self.told_to_stop(whom, &mut worker).await;
        }
    }
}
