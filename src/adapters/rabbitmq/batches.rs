//! The batches that the intake has of a session: first in line to be decided, one after the other, then waiting to be
//! durable. They leave in the order in which they came. A batch that takes too long is given up with all behind it: it is
//! not tried on while a successor has it, and what came later is not decided before it.
//!
//! The simulation runs this too, so it knows no time but tokio's, and what is ready at once has an order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::domain::envelope::Received;
use crate::ports::{Decided, Durable, TakeIn, Undurable};

/// Batches that the intake has at most before they are decided: one that is, and the next, which it reads meanwhile.
const UNDECIDED: usize = 2;

/// Notifications that one batch should have in hand at most. It is acknowledged when the slowest of them is told, and
/// until then nothing comes in the place of the others.
const IN_HAND: usize = 64;

/// Batches in the hands of the intake, each known by a `T`.
pub struct Batches<T> {
    undecided: FuturesOrdered<BoxFuture<'static, (T, usize, Decided)>>,
    /// As many as the prefetch allows.
    decided: FuturesOrdered<BoxFuture<'static, Next<T>>>,
    /// How long a batch may take to be decided, and then to be durable; `None`: for ever.
    patience: Option<Duration>,
    /// Events of the latest that was decided, and how many notifications it has in hand.
    latest: (usize, usize),
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
    /// It took too long. It is given up, with all behind it.
    Overdue,
    /// Nobody knows what of it is written. It is given up, with all behind it.
    Undurable,
}

impl<T: Send + 'static> Batches<T> {
    /// None yet.
    pub fn new(patience: Option<Duration>) -> Self {
        let (undecided, decided) = (FuturesOrdered::new(), FuturesOrdered::new());
        Self { undecided, decided, patience, latest: (0, 0), turn_since: Instant::now() }
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

    /// How many events the next one should have at most, of `most` that it may have: as many as have 64
    /// notifications in hand, if it is like the latest.
    pub fn size(&self, most: usize) -> usize {
        let (events, in_hand) = self.latest;
        (events * IN_HAND).checked_div(in_hand).map_or(most, |events| events.clamp(1, most))
    }

    /// Gives one to the intake.
    pub fn add(&mut self, which: T, events: Vec<Received>, intake: &Arc<impl TakeIn + ?Sized + 'static>) {
        if self.undecided.is_empty() {
            self.turn_since = Instant::now();
        }
        let intake = Arc::clone(intake);
        self.undecided.push_back(async move { (which, events.len(), intake.take_in(events).await) }.boxed());
    }

    /// Waits for what happens next; `None` if there is none. May be dropped at any time, and asked again.
    pub async fn next(&mut self) -> Option<Next<T>> {
        let overdue = self.patience.map(|patience| self.turn_since + patience);
        let next = tokio::select! {
            biased;
            Some((which, events, Decided { in_hand, durable })) = self.undecided.next() => {
                self.turn_since = Instant::now();
                self.latest = (events, in_hand);
                self.decided.push_back(durable_within(self.patience, which, durable).boxed());
                Next::Decided
            }
            Some(next) = self.decided.next() => next,
            () = at(overdue), if !self.undecided.is_empty() => Next::Overdue,
            else => return None,
        };
        Some(self.followed(next))
    }

    /// What the next in line came to, if it is no longer waited for.
    pub fn durable_now(&mut self) -> Option<Next<T>> {
        let next = self.decided.next().now_or_never()??;
        Some(self.followed(next))
    }

    fn followed(&mut self, next: Next<T>) -> Next<T> {
        if matches!(next, Next::Overdue | Next::Undurable) {
            self.give_up();
        }
        next
    }

    /// Drops all.
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

async fn durable_within<T>(patience: Option<Duration>, which: T, durable: Durable) -> Next<T> {
    let durable = match patience {
        None => Some(durable.await),
        Some(patience) => tokio::time::timeout(patience, durable).await.ok(),
    };
    match durable {
        None => Next::Overdue,
        Some(Ok(())) => Next::Durable(which),
        Some(Err(Undurable)) => Next::Undurable,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An intake that has decided after so many seconds, and made durable after so many more; or which never will. What
    /// a batch has in hand is as many as it has decided in.
    struct Taking(u32, u32);

    const NEVER: u32 = u32::MAX;

    #[async_trait]
    impl TakeIn for Taking {
        async fn take_in(&self, _: Vec<Received>) -> Decided {
            let Self(decided, durable) = *self;
            tokio::time::sleep(SECOND * decided).await;
            let durable = async move {
                if durable == NEVER {
                    return Err(Undurable);
                }
                tokio::time::sleep(SECOND * durable).await;
                Ok(())
            };
            Decided { in_hand: self.0 as usize, durable: Box::pin(durable) }
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
            ends.push(next);
        }
        ends
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_batch_has_as_many_events_as_told_straight_at_once_if_it_is_like_the_latest() {
        let cases = [
            (256, 0, 256),
            (256, 256, 64),
            (64, 64, 64),
            (100, 50, 128),
            (256, 5, 256),
            (1, 1, 64),
            (1, 10_000, 1),
        ];
        for (events, in_hand, expected) in cases {
            let mut batches = Batches::new(None);
            assert_eq!(batches.size(256), 256, "nothing is known yet");
            let received = Received { envelope: Default::default(), at: jiff::Timestamp::UNIX_EPOCH };
            batches.add(1, vec![received; events], &Arc::new(Taking(in_hand, 0)));
            assert_eq!(batches.next().await, Some(Next::Decided));
            assert_eq!(batches.size(256), expected, "after {events} events with {in_hand}");
        }
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
    async fn what_can_not_be_waited_for_is_given_up_with_all_behind_it() {
        let decided = || vec![Next::Decided, Next::Decided];
        let cases = [
            (Taking(11, 0), vec![Next::Overdue]),
            (Taking(0, 11), [decided(), vec![Next::Overdue]].concat()),
            (Taking(0, NEVER), vec![Next::Decided, Next::Undurable]),
            (Taking(2, NEVER), [decided(), vec![Next::Undurable]].concat()),
        ];
        for (first, expected) in cases {
            let mut batches = Batches::new(Some(SECOND * 10));
            add(&mut batches, 1, first);
            add(&mut batches, 2, Taking(1, 0));
            assert_eq!(ends(&mut batches).await, expected);
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
