//! Budgets and the meters that keep to them: the room's, the token's, and an integration's own throttle.
//!
//! One mechanism serves all three. A meter counts messages in slots of a sliding window; a message is
//! counted when its answer came back, so that no window of `per` on the server's clock holds more than the
//! budget, however long the request took to get there. The property test below tries to break that.

use std::time::Duration;

use jiff::Timestamp;

/// So many messages (or calls) in any window of `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub messages: u32,
    pub per: Duration,
}

impl Budget {
    /// HipChat's limit on messages to one room. Source: Atlassian, "HipChat REST API rate limits".
    pub const ROOM: Self = Self { messages: 30, per: Duration::from_secs(60) };
    /// HipChat's limit on calls with one add-on token. Source: the same page.
    pub const TOKEN: Self = Self { messages: 500, per: Duration::from_secs(5 * 60) };
}

/// How finely a window is divided. The oldest slot is given back whole, so a message is forgotten up to
/// `per / SLOTS` late: 3 s of a minute. More slots are exacter and cost more room in the store.
const SLOTS: usize = 20;

/// A server's limit holds for so many windows after it was told last. One that was told once, by mistake or in an
/// emergency, by a server that tells none any more, must not slow a room down for ever.
const LEARNED_WINDOWS: u32 = 10;

/// The longest wait a server may ask for. A clock that is off by years must not silence a room for years.
pub const LONGEST_SERVER_WAIT: Duration = Duration::from_secs(15 * 60);

/// The longest wait of our own making between two answers that say the limit is reached.
const LIMITED_LONGEST: Duration = Duration::from_secs(60);

/// What has been spent of one budget lately, and what the server said about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meter {
    /// Width of a slot in milliseconds; changes when the budget's `per` does.
    pub slot_ms: i64,
    /// Number of the newest slot, counted from the Unix epoch.
    pub newest: i64,
    /// Messages by slot, newest last. Never longer than `SLOTS + 1`.
    pub counts: Vec<u32>,
    /// The server's own limit, where a header said it.
    pub learned: Option<Learned>,
    /// Nothing may be sent before this, by the server's word.
    pub blocked_until: Option<Timestamp>,
    /// Answers in a row that said the limit is reached, since a message was accepted.
    pub limited: u32,
}

/// A limit as the server told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    pub limit: u32,
    /// When it was told last.
    pub at: Timestamp,
}

/// What an answer's headers say of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitHint {
    pub limit: Option<u32>,
    pub remaining: Option<u32>,
    /// When the server's count starts anew, already turned into a time.
    pub reset_at: Option<Timestamp>,
}

impl Meter {
    /// How many messages may go out at `now`.
    pub fn available(&self, budget: Budget, now: Timestamp) -> u32 {
        if self.block(now).is_some() {
            return 0;
        }
        self.limit(budget, now).saturating_sub(self.spent(budget, now))
    }

    /// When at least one message may go out: `now`, or later.
    pub fn opens_at(&self, budget: Budget, now: Timestamp) -> Timestamp {
        let blocked = self.block(now).unwrap_or(now);
        let limit = self.limit(budget, now);
        if self.spent(budget, now) < limit {
            return blocked;
        }
        let mut meter = self.clone();
        meter.roll_to(budget, now);
        let mut left = meter.counts.iter().sum::<u32>();
        for (age_index, count) in meter.counts.iter().enumerate() {
            left -= count;
            if left < limit {
                // The slot at `age_index` leaves the window SLOTS + 1 slots after it began.
                let slot = meter.newest - (meter.counts.len() - 1 - age_index) as i64;
                let free_ms = (slot + SLOTS as i64 + 1) * meter.slot_ms;
                return blocked.max(from_ms(free_ms));
            }
        }
        blocked
    }

    /// Counts `n` messages whose answers came at `now`.
    pub fn record(&mut self, budget: Budget, now: Timestamp, n: u32) {
        self.roll_to(budget, now);
        if let Some(last) = self.counts.last_mut() {
            *last = last.saturating_add(n);
        }
    }

    /// Takes over what the server's headers say. A limit lower than the configured one holds at once; a
    /// higher one is not used, since what is configured is the operator's wish. It lapses when no answer says it
    /// again for ten windows.
    pub fn correct(&mut self, hint: &LimitHint, now: Timestamp) {
        if let Some(limit) = hint.limit.filter(|limit| *limit > 0) {
            self.learned = Some(Learned { limit, at: now });
        }
        if hint.remaining == Some(0)
            && let Some(reset) = hint.reset_at
        {
            self.block_until(reset, now);
        }
    }

    /// Blocks until `until`, but never for longer than [`LONGEST_SERVER_WAIT`], and never shortens a block.
    pub fn block_until(&mut self, until: Timestamp, now: Timestamp) {
        let until = until.min(later(now, LONGEST_SERVER_WAIT));
        if until > now && self.blocked_until.is_none_or(|old| old < until) {
            self.blocked_until = Some(until);
        }
    }

    /// One more answer that says the limit is reached. From the second in a row on it blocks, 2 s and twice as long
    /// each time, to a minute at most: a server whose reset is always over, or just ahead, is not asked for ever.
    pub fn limited_again(&mut self, now: Timestamp) {
        self.limited = self.limited.saturating_add(1);
        if self.limited > 1 {
            let seconds = 1u64 << (self.limited - 1).min(6);
            self.block_until(later(now, LIMITED_LONGEST.min(Duration::from_secs(seconds))), now);
        }
    }

    /// Messages counted in the window that ends at `now`.
    pub fn spent(&self, budget: Budget, now: Timestamp) -> u32 {
        let mut meter = self.clone();
        meter.roll_to(budget, now);
        meter.counts.iter().sum()
    }

    /// Until when the server's word blocks, seen from `now`. A block that lies further ahead than any server may
    /// ask for was set before the clock was set back, and counts no more.
    pub fn block(&self, now: Timestamp) -> Option<Timestamp> {
        self.blocked_until.filter(|until| now < *until && *until <= later(now, LONGEST_SERVER_WAIT))
    }

    fn limit(&self, budget: Budget, now: Timestamp) -> u32 {
        let holds = |learned: &Learned| now < later(learned.at, budget.per.saturating_mul(LEARNED_WINDOWS));
        self.learned.filter(holds).map_or(budget.messages, |learned| learned.limit.min(budget.messages))
    }

    /// Moves the window to `now`. A clock that went back a little keeps the newest slot: nothing is forgotten
    /// early.
    fn roll_to(&mut self, budget: Budget, now: Timestamp) {
        let slot_ms = ((budget.per.as_millis() as i64) / SLOTS as i64).max(1);
        let slot = now.as_millisecond().div_euclid(slot_ms);
        if self.slot_ms != slot_ms {
            // Another window width: all counts as spent when the last of it was, which errs on the safe side. Not as
            // spent just now: each look would begin the wait anew.
            let spent = self.counts.iter().sum();
            let latest = self.newest.saturating_add(1).saturating_mul(self.slot_ms).saturating_sub(1);
            self.slot_ms = slot_ms;
            self.newest = latest.div_euclid(slot_ms).min(slot);
            self.counts = vec![spent];
        }
        let ahead = slot - self.newest;
        if ahead < -1 {
            // The clock was set back. What was spent counts as spent just now: a wait of one window at most,
            // instead of one until the clock is where it was.
            self.counts = vec![self.counts.iter().sum()];
            self.newest = slot;
            return;
        }
        if ahead > SLOTS as i64 || self.counts.is_empty() {
            self.newest = slot.max(self.newest);
            self.counts = vec![0];
            return;
        }
        for _ in 0..ahead {
            self.counts.push(0);
        }
        self.newest = slot.max(self.newest);
        let too_many = self.counts.len().saturating_sub(SLOTS + 1);
        self.counts.drain(..too_many);
    }
}

fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// `at` plus `wait`, or the end of time.
pub fn later(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: i64 = 1_764_000_000_000;

    fn at(ms: i64) -> Timestamp {
        from_ms(T0 + ms)
    }

    #[test]
    fn an_unused_meter_gives_the_whole_budget() {
        assert_eq!(Meter::default().available(Budget::ROOM, at(0)), 30);
        assert_eq!(Meter::default().opens_at(Budget::ROOM, at(0)), at(0));
    }

    #[test]
    fn a_used_up_budget_opens_when_its_oldest_message_leaves_the_window() {
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, at(0), 30);
        assert_eq!(meter.available(Budget::ROOM, at(59_999)), 0);
        let opens = meter.opens_at(Budget::ROOM, at(1_000));
        assert!(opens >= at(60_000) && opens <= at(63_000), "{opens}");
        assert_eq!(meter.available(Budget::ROOM, opens), 30);
    }

    #[test]
    fn a_lower_limit_from_the_server_holds_and_a_higher_one_does_not() {
        let mut meter = Meter::default();
        meter.correct(&LimitHint { limit: Some(10), ..LimitHint::default() }, at(0));
        assert_eq!(meter.available(Budget::ROOM, at(0)), 10);
        meter.correct(&LimitHint { limit: Some(1000), ..LimitHint::default() }, at(0));
        assert_eq!(meter.available(Budget::ROOM, at(0)), 30);
    }

    #[test]
    fn a_limit_from_the_server_lapses_when_it_is_not_told_again() {
        let lower = LimitHint { limit: Some(10), ..LimitHint::default() };
        let mut meter = Meter::default();
        meter.correct(&lower, at(0));
        meter.correct(&LimitHint::default(), at(300_000));
        assert_eq!(meter.available(Budget::ROOM, at(599_999)), 10);
        assert_eq!(meter.available(Budget::ROOM, at(600_000)), 30);
        meter.correct(&lower, at(500_000));
        assert_eq!(meter.available(Budget::ROOM, at(1_099_999)), 10, "confirmed, it holds on");
        meter.record(Budget::ROOM, at(1_099_000), 10);
        let opens = meter.opens_at(Budget::ROOM, at(1_099_999));
        assert!(meter.available(Budget::ROOM, opens) > 0);
        assert_eq!(meter.available(Budget::ROOM, at(1_100_000)), 20);
    }

    #[test]
    fn a_reset_blocks_only_when_nothing_remains_and_only_so_long() {
        let mut meter = Meter::default();
        meter.correct(&LimitHint { remaining: Some(3), reset_at: Some(at(40_000)), limit: None }, at(0));
        assert_eq!(meter.blocked_until, None);
        meter.correct(&LimitHint { remaining: Some(0), reset_at: Some(at(40_000)), limit: None }, at(0));
        assert_eq!(meter.opens_at(Budget::ROOM, at(0)), at(40_000));
        meter.correct(
            &LimitHint { remaining: Some(0), reset_at: Some(at(i64::from(u32::MAX))), limit: None },
            at(0),
        );
        assert_eq!(meter.blocked_until, Some(later(at(0), LONGEST_SERVER_WAIT)));
    }

    #[test]
    fn a_clock_that_is_set_back_costs_one_window_and_not_the_time_it_was_set_back_by() {
        let hour = 3_600_000;
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, at(hour), 30);
        meter.block_until(at(hour + 600_000), at(hour));
        assert_eq!(meter.available(Budget::ROOM, at(0)), 0, "nothing is forgotten");
        meter.record(Budget::ROOM, at(0), 0);
        assert!(meter.opens_at(Budget::ROOM, at(1)) <= at(64_000));
        assert_eq!(meter.available(Budget::ROOM, at(64_000)), 30);
    }

    #[test]
    fn another_window_width_forgets_nothing() {
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, at(0), 30);
        let wider = Budget { messages: 30, per: Duration::from_secs(120) };
        assert_eq!(meter.available(wider, at(1)), 0);
    }

    #[test]
    fn another_window_width_keeps_nobody_waiting_longer_than_its_window() {
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, at(0), 30);
        for seconds in [1, 10, 120, 3600] {
            let other = Budget { messages: 30, per: Duration::from_secs(seconds) };
            let slot = Budget::ROOM.per / 20 + other.per / 10;
            let opens = later(at(0), other.per + slot);
            assert!(meter.opens_at(other, at(1)) <= opens, "{seconds} s");
            assert_eq!(
                meter.available(other, opens),
                30,
                "{seconds} s: looking alone must not begin the wait anew"
            );
        }
    }

    proptest! {
        /// Whoever sends whenever the meter lets him never has more than the budget in any window, counted
        /// at any moment between sending and answer, and is never kept waiting for ever.
        #[test]
        fn no_window_ever_holds_more_than_the_budget(
            messages in 1u32..40,
            per_ms in 100i64..120_000,
            steps in prop::collection::vec((0i64..20_000, 0i64..5_000), 1..120),
        ) {
            let budget = Budget { messages, per: Duration::from_millis(per_ms as u64) };
            let (mut meter, mut now, mut received) = (Meter::default(), 0i64, Vec::new());
            for (pause, trip) in steps {
                now += pause;
                let opens = meter.opens_at(budget, at(now));
                prop_assert!(opens.as_millisecond() - T0 - now <= per_ms + per_ms / 10 + 20);
                now = now.max(opens.as_millisecond() - T0);
                prop_assert!(meter.available(budget, at(now)) > 0);
                received.push(now + trip / 2);
                now += trip;
                meter.record(budget, at(now), 1);
            }
            for (i, first) in received.iter().enumerate() {
                let in_window = received[i..].iter().filter(|r| **r - first < per_ms).count();
                prop_assert!(in_window <= messages as usize, "{in_window} in {per_ms} ms");
            }
        }
    }
}
