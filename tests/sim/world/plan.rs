//! What one seed stands for: who runs, what is published, who wants it, and what goes wrong. Each kind of trouble is
//! there or not, so that some seeds have all of it and others one kind alone.

use std::time::Duration;

use fastrand::Rng;
use hipchat_notifier::domain::line::LineRules;
use hipchat_notifier::domain::pacing::Budget;
use hipchat_notifier::domain::retry::RetryRule;

use super::wishes::{self, Wish};

/// Which rooms there may be: `https://h.example/v2/room/N`.
pub const ROOMS: usize = 4;

/// How often each kind of trouble comes, in 1/10,000 of its chances.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// A worker dies right before or after an effect.
    pub crash: u32,
    /// A worker is stopped for a while, and goes on.
    pub freeze: u32,
    /// A worker is asked to stop in good order: of all that are started.
    pub stop: u32,
    /// The store refuses a call.
    pub store_fails: u32,
    /// The store does what it is asked, and its answer is lost.
    pub store_forgets_to_answer: u32,
    /// A call of the store takes long.
    pub store_slow: u32,
    /// The store says that a batch can't be taken in, ever.
    pub store_corrupt: u32,
    /// A room's server says 429, or 403 that speaks of the limit.
    pub limited: u32,
    /// 5xx, 408, or no connection: the message is not in the room.
    pub unavailable: u32,
    /// The message is in the room, and the answer is lost or bad.
    pub answer_lost: u32,
    /// 400, 413, 422: a message with a card is refused.
    pub refused: u32,
    /// 401, 404, 410: the integration is broken.
    pub broken: u32,
    pub slow_room: u32,
    /// The dead-letter queue takes a letter, and the confirm is lost.
    pub confirm_lost: u32,
    /// It does not take the letter.
    pub letter_refused: u32,
    /// The session with the broker breaks off.
    pub session: u32,
    /// A producer's confirm is lost, so that it publishes again.
    pub published_again: u32,
}

/// A seed, drawn.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// Several workers on a shared store; else one, alone on its own.
    pub shared: bool,
    pub workers: usize,
    pub rules: LineRules,
    pub token_budget: Budget,
    pub concurrency: usize,
    pub line: usize,
    pub lease: Duration,
    /// The longest that a room may take to answer.
    pub timeout: Duration,
    pub batch: usize,
    /// How long a batch is tried before it is left to another worker.
    pub yield_after: Option<Duration>,
    pub rates: Rates,
    /// How long there is trouble; then all is well.
    pub trouble: Duration,
    pub events: usize,
    pub wishes: Vec<Wish>,
    /// How often operators do something.
    pub operators: bool,
    pub replays: bool,
    /// Microseconds by which the clock jumps, and when.
    pub jumps: Vec<(Duration, i64)>,
    /// The rooms' server allows less than is configured, and says so.
    pub server_allows_less: bool,
    /// When the store is away altogether, and for how long.
    pub outages: Vec<(Duration, Duration)>,
    /// Quick rooms are told straight from intake.
    pub straight: bool,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let secs = |rng: &mut Rng, from: u64, to: u64| Duration::from_secs(rng.u64(from..=to));
        let shared = rng.bool();
        let rates = Rates::draw(rng);
        let trouble = secs(rng, 8, 40);
        let timeout = secs(rng, 2, 5);
        let first = Duration::from_millis(rng.u64(200..=1_000));
        let longest = first * rng.u32(1..=8);
        let retry = RetryRule { first, longest, give_up_after: longest.max(secs(rng, 3, 60)) };
        let some = |rng: &mut Rng, one_in: u32| rng.u32(..one_in) == 0;
        let in_trouble = |rng: &mut Rng| trouble.mul_f64(rng.f64());
        let room = Budget { messages: rng.u32(1..=6), per: secs(rng, 2, 12) };
        let jumps = if some(rng, 5) {
            (0..rng.usize(1..=2))
                .map(|_| (in_trouble(rng), rng.i64(-200..400) * 1_000_000 + rng.i64(0..1_000_000)))
                .collect()
        } else {
            Vec::new()
        };
        let outages = match some(rng, 4) {
            true => vec![(in_trouble(rng), secs(rng, 1, 20))],
            false => Vec::new(),
        };
        let mut plan = Self {
            seed,
            shared,
            workers: if shared { rng.usize(1..=3) } else { 1 },
            rules: LineRules {
                room,
                retry,
                max_age: if some(rng, 4) { secs(rng, 4, 30) } else { secs(rng, 600, 6_000) },
            },
            token_budget: Budget { messages: rng.u32(3..=20), per: secs(rng, 5, 20) },
            concurrency: rng.usize(1..=6),
            line: if some(rng, 3) { rng.usize(1..=6) } else { 100 },
            lease: timeout * 2 + secs(rng, 1, 8),
            timeout,
            batch: rng.usize(1..=12),
            yield_after: shared.then(|| secs(rng, 2, 10)),
            rates,
            trouble,
            events: rng.usize(8..=48),
            wishes: wishes::draw(rng),
            operators: some(rng, 3),
            replays: some(rng, 2),
            jumps,
            server_allows_less: some(rng, 6),
            outages,
            straight: rng.u8(..3) > 0,
        };
        if plan.straight && rng.bool() {
            // What is alone in its batch, for few who want it and may hear much, is told straight most often.
            plan.batch = plan.batch.min(2);
            plan.wishes.truncate(2);
            plan.wishes.iter_mut().for_each(|wish| wish.throttle = None);
            plan.rules.room.messages += 10;
            plan.token_budget.messages += 20;
        }
        plan
    }
}

impl Plan {
    /// Whether every call of the store is done, at once, and nobody is stopped meanwhile.
    pub fn store_is_undisturbed(&self) -> bool {
        let Rates { freeze, store_slow, store_fails, store_forgets_to_answer, .. } = self.rates;
        freeze + store_slow + store_fails + store_forgets_to_answer == 0 && self.outages.is_empty()
    }
}

impl Rates {
    fn draw(rng: &mut Rng) -> Self {
        // Most kinds are absent from a seed; the others are rare or frequent.
        let mut rate = |most: u32| match rng.u32(..6) {
            0 | 1 => rng.u32(..most / 8 + 2),
            2 => rng.u32(..=most),
            _ => 0,
        };
        Self {
            crash: rate(150),
            freeze: rate(100),
            stop: rate(6_000),
            store_fails: rate(800),
            store_forgets_to_answer: rate(800),
            store_slow: rate(1_500),
            store_corrupt: rate(150),
            limited: rate(3_000),
            unavailable: rate(4_000),
            answer_lost: rate(3_000),
            refused: rate(2_000),
            broken: rate(400),
            slow_room: rate(4_000),
            confirm_lost: rate(4_000),
            letter_refused: rate(4_000),
            session: rate(2_500),
            published_again: rate(3_000),
        }
    }
}

macro_rules! troubles {
    ($($name:literal => $off:expr),+ $(,)?) => {
        impl Plan {
            /// What can be left out of a seed, by name.
            pub const TROUBLES: &'static [&'static str] = &[$($name),+];

            /// Leaves one kind of trouble out. Returns whether there is such a kind.
            pub fn leave_out(&mut self, name: &str) -> bool {
                match name {
                    $($name => { let off: fn(&mut Plan) = $off; off(self); true })+
                    _ => false,
                }
            }
        }
    };
}

troubles! {
    "crashes" => |plan| plan.rates.crash = 0,
    "freezes" => |plan| plan.rates.freeze = 0,
    "stops" => |plan| plan.rates.stop = 0,
    "jumps" => |plan| plan.jumps.clear(),
    "outages" => |plan| plan.outages.clear(),
    "straight" => |plan| plan.straight = false,
    "operators" => |plan| plan.operators = false,
    "replays" => |plan| plan.replays = false,
    "workers" => |plan| plan.workers = 1,
    "store-fails" => |plan| plan.rates.store_fails = 0,
    "store-silence" => |plan| plan.rates.store_forgets_to_answer = 0,
    "store-slow" => |plan| plan.rates.store_slow = 0,
    "store-corrupt" => |plan| plan.rates.store_corrupt = 0,
    "limits" => |plan| plan.rates.limited = 0,
    "lower-limit" => |plan| plan.server_allows_less = false,
    "unavailable" => |plan| plan.rates.unavailable = 0,
    "lost-answers" => |plan| plan.rates.answer_lost = 0,
    "refusals" => |plan| plan.rates.refused = 0,
    "broken" => |plan| plan.rates.broken = 0,
    "slow-rooms" => |plan| plan.rates.slow_room = 0,
    "lost-confirms" => |plan| plan.rates.confirm_lost = 0,
    "letters-refused" => |plan| plan.rates.letter_refused = 0,
    "sessions" => |plan| plan.rates.session = 0,
    "published-again" => |plan| plan.rates.published_again = 0,
}
