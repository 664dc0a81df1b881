//! Held rooms on their way from intake to dispatch: what is told straight, before it is written down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::line::RoomLine;
use crate::ports::{ClaimTerms, Clock, Straight};
use crate::worker::wake::Bell;

/// Where intake puts rooms and dispatch takes them.
pub struct Handover {
    lines: Mutex<VecDeque<RoomLine>>,
    terms: ClaimTerms,
    clock: Arc<dyn Clock>,
    /// Rung when a room was put here, or a place for one is free.
    pub bell: Bell,
}

impl Handover {
    /// An empty one, for rooms that are held by `terms`.
    pub fn new(terms: ClaimTerms, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), terms, clock, bell: Bell::default() })
    }

    /// What a store needs to hand rooms over.
    pub fn straight(self: &Arc<Self>) -> Straight {
        let this = self.clone();
        Straight { terms: self.terms, now: self.clock.now(), hand: Arc::new(move |line| this.put(line)) }
    }

    fn put(&self, line: RoomLine) {
        self.lines().push_back(line);
        self.bell.ring();
    }

    /// The room that has waited longest, if `take` takes it.
    pub fn take<T>(&self, take: impl FnOnce(&RoomLine) -> Option<T>) -> Option<(RoomLine, T)> {
        let mut lines = self.lines();
        let taken = take(lines.front()?)?;
        Some((lines.pop_front()?, taken))
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<RoomLine>> {
        // No step of it leaves it half changed.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
