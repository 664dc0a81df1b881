//! The batches that the intake has of a session: first in line to be decided, one after the other, then waiting to be
//! durable. They leave in the order in which they came, and a batch that takes too long is given up with all behind it,
//! so that it is not tried on while a successor has it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::domain::envelope::Received;
use crate::ports::{Durable, TakeIn};

/// Batches that the intake has at most before they are decided: one that is, and the next, which it reads meanwhile.
const UNDECIDED: usize = 2;

/// Batches in the hands of the intake, each known by a `T`.
pub struct Batches<T> {
    undecided: FuturesOrdered<BoxFuture<'static, (T, Durable)>>,
    /// As many as the prefetch allows; `None` for one that took too long.
    decided: FuturesOrdered<BoxFuture<'static, Option<T>>>,
    /// How long a batch may take to be decided, and then to be durable; `None`: for ever.
    patience: Option<Duration>,
    /// When the first of `undecided` had its turn: that the one before it took long is not its fault.
    turn_since: Instant,
}

/// What became of the first batch in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<T> {
    /// It is decided, and the next has its turn.
    Decided,
    /// It, and all before it, may be acknowledged.
    Durable(T),
    /// It took too long.
    Overdue,
}

impl<T: Send + 'static> Batches<T> {
    /// None yet.
    pub fn new(patience: Option<Duration>) -> Self {
        let (undecided, decided) = (FuturesOrdered::new(), FuturesOrdered::new());
        Self { undecided, decided, patience, turn_since: Instant::now() }
    }

    /// Whether the intake has none.
    pub fn are_none(&self) -> bool {
        self.undecided.is_empty() && self.decided.is_empty()
    }

    /// Whether the intake has none to decide.
    pub fn are_decided(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Whether the intake takes one more.
    pub fn have_room(&self) -> bool {
        self.undecided.len() < UNDECIDED
    }

    /// Gives one to the intake.
    pub fn add(&mut self, which: T, events: Vec<Received>, intake: &Arc<impl TakeIn + ?Sized + 'static>) {
        if self.undecided.is_empty() {
            self.turn_since = Instant::now();
        }
        let intake = Arc::clone(intake);
        self.undecided.push_back(async move { (which, intake.take_in(events).await) }.boxed());
    }

    /// Waits for what happens next; `None` if there is none. May be dropped at any time, and asked again.
    pub async fn next(&mut self) -> Option<Next<T>> {
        let overdue = self.patience.map(|patience| self.turn_since + patience);
        tokio::select! {
            biased;
            Some((which, durable)) = self.undecided.next() => {
                self.turn_since = Instant::now();
                self.decided.push_back(within(self.patience, durable.map(move |()| which)).boxed());
                Some(Next::Decided)
            }
            Some(durable) = self.decided.next() => Some(durable.map_or(Next::Overdue, Next::Durable)),
            () = at(overdue), if !self.undecided.is_empty() => Some(Next::Overdue),
            else => None,
        }
    }

    /// The next in line if it is durable by now.
    pub fn durable_now(&mut self) -> Option<Next<T>> {
        let durable = self.decided.next().now_or_never()??;
        Some(durable.map_or(Next::Overdue, Next::Durable))
    }

    /// Drops all: what comes after a batch that was given up must not be decided before it.
    pub fn give_up(&mut self) {
        *self = Self::new(self.patience);
    }
}

async fn at(time: Option<Instant>) {
    match time {
        None => std::future::pending().await,
        Some(time) => tokio::time::sleep_until(time).await,
    }
}

/// What `work` gives, or `None` if it takes longer than `patience`, if there is a limit.
async fn within<T>(patience: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match patience {
        None => Some(work.await),
        Some(patience) => tokio::time::timeout(patience, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An intake that has decided after so many seconds, and made durable after so many more.
    struct Taking(u32, u32);

    #[async_trait]
    impl TakeIn for Taking {
        async fn take_in(&self, _: Vec<Received>) -> Durable {
            tokio::time::sleep(SECOND * self.0).await;
            Box::pin(tokio::time::sleep(SECOND * self.1))
        }

        async fn able(&self) {}
    }

    fn add(batches: &mut Batches<u32>, which: u32, taking: Taking) {
        batches.add(which, Vec::new(), &Arc::new(taking));
    }

    /// What becomes of all, one after the other.
    async fn ends(batches: &mut Batches<u32>) -> Vec<Next<u32>> {
        let mut ends = Vec::new();
        while let Some(next) = batches.next().await {
            let over = next == Next::Overdue;
            ends.push(next);
            if over {
                batches.give_up();
            }
        }
        ends
    }

    #[tokio::test(start_paused = true)]
    async fn batches_leave_in_their_order() {
        let mut batches = Batches::new(None);
        add(&mut batches, 1, Taking(3_600, 5));
        assert!(batches.have_room());
        add(&mut batches, 2, Taking(0, 0));
        assert!(!batches.have_room() && !batches.are_none());
        let expected = [Next::Decided, Next::Decided, Next::Durable(1), Next::Durable(2)];
        assert_eq!(ends(&mut batches).await, expected);
        assert!(batches.are_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_has_all_its_time_from_when_it_is_the_first() {
        let mut batches = Batches::new(Some(SECOND * 10));
        add(&mut batches, 1, Taking(9, 0));
        // It waits for the one before it.
        add(&mut batches, 2, Taking(18, 9));
        let expected = [Next::Decided, Next::Durable(1), Next::Decided, Next::Durable(2)];
        assert_eq!(ends(&mut batches).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_with_all_behind_it() {
        for (first, then) in [((11, 0), vec![]), ((0, 11), vec![Next::Decided, Next::Decided])] {
            let mut batches = Batches::new(Some(SECOND * 10));
            add(&mut batches, 1, Taking(first.0, first.1));
            add(&mut batches, 2, Taking(1, 0));
            let expected = [then, vec![Next::Overdue]].concat();
            assert_eq!(ends(&mut batches).await, expected);
            assert!(batches.are_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn asking_again_and_again_gives_no_more_time() {
        let mut batches = Batches::new(Some(SECOND * 10));
        add(&mut batches, 1, Taking(3_600, 0));
        let began = Instant::now();
        let mut next = None;
        while next.is_none() && began.elapsed() < SECOND * 60 {
            next = tokio::time::timeout(SECOND, batches.next()).await.ok().flatten();
        }
        assert_eq!((next, began.elapsed()), (Some(Next::Overdue), SECOND * 10));
    }
}
