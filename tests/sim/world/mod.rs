//! A world in which the real intake, dispatch, burial and catalogue run: simulated broker, store, rooms, dead-letter
//! queue and clock, all driven by one seed. Time is tokio's paused clock: it moves on when everybody waits. One seed
//! gives one history, to the microsecond.

mod backend;
mod broker;
pub mod flawed;
mod gateway;
mod judge;
mod ledger;
mod letters;
mod life;
mod operators;
mod plan;
mod rulebook;
mod store;
mod wishes;

use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hipchat_notifier::metrics::Metrics;
use hipchat_notifier::ports::{Clock, Gauges, InHand, Settlement, Storage};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::backend::StoreKind;
use self::backend::{Backend, at_once};
use self::broker::Queue;
pub use self::flawed::Mutation;
use self::gateway::Server;
use self::ledger::Ledger;
use self::letters::DeadLetters;
pub use self::plan::Plan;

/// When every history begins, in microseconds since the Unix epoch.
const BEGIN: i64 = 1_764_000_000_000_000;
/// After the trouble is over, something must end in every such time until all has. A room's server may ask for a wait
/// of a quarter of an hour; and where the clock is off, each of its answers may ask for the difference as well.
const PATIENCE: Duration = Duration::from_secs(45 * 60);
/// Faults that are kept of one history.
const FAULTS: usize = 8;

/// What is to be done beside running a seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep a line for each thing that happens.
    pub trace: bool,
    /// A promise that is broken on purpose.
    pub mutation: Option<Mutation>,
    pub store: StoreKind,
}

/// What came of a seed.
#[derive(Debug, Default)]
pub struct History {
    pub faults: Vec<String>,
    pub trace: Vec<String>,
    pub figures: Figures,
}

/// What happened, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub events: u64,
    pub notifications: u64,
    pub messages: u64,
    /// Of the messages, those that were told before anything was written.
    pub straight: u64,
    pub letters: u64,
    pub crashes: u64,
    pub freezes: u64,
    /// Messages that a room got once more, each with its cause.
    pub repeats: u64,
    /// Simulated milliseconds.
    pub lasted: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.notifications += other.notifications;
        self.messages += other.messages;
        self.straight += other.straight;
        self.letters += other.letters;
        self.crashes += other.crashes;
        self.freezes += other.freezes;
        self.repeats += other.repeats;
        self.lasted += other.lasted;
    }
}

thread_local! {
    /// What panicked on this thread, whoever caught it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics instead of telling them: the worker outlives those of its parts, and each is a fault.
fn watch_for_panics() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if tokio::runtime::Handle::try_current().is_ok() {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            } else {
                told(panic);
            }
        }));
    });
}

/// Runs one seed.
pub fn run(plan: Plan, options: Options) -> History {
    watch_for_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let (seed, world) = (plan.seed, World::new(plan, options));
        // A store's folder takes its name from the same generator.
        fastrand::seed(seed);
        world.clone().live().await;
        world.end().await
    })
}

/// Everything that is not the worker.
pub struct World {
    pub plan: Plan,
    pub options: Options,
    began: Instant,
    /// By how many microseconds the wall clock is off.
    skew: AtomicI64,
    metrics: Arc<Metrics>,
    backend: Backend,
    /// Something that was told straight is written.
    landings: Notify,
    inner: Mutex<Inner>,
}

/// What changes.
pub struct Inner {
    rng: Rng,
    /// The trouble is over.
    calm: bool,
    /// The history is over: whatever is still dropped has no effect.
    over: bool,
    away_until: Option<Instant>,
    published: usize,
    queue: Queue,
    server: Server,
    dead_letters: DeadLetters,
    ledger: Ledger,
    lives: Vec<Arc<life::Life>>,
    faults: Vec<String>,
    trace: Option<Vec<String>>,
    figures: Figures,
}

impl World {
    fn new(mut plan: Plan, options: Options) -> Arc<Self> {
        // SQLite's store is one process's alone, and tells straight as such.
        plan.straight &= !(plan.shared && options.store == StoreKind::Sqlite);
        let flaws = options.mutation.map(Mutation::flaws).unwrap_or_default();
        let inner = Inner {
            rng: Rng::with_seed(plan.seed ^ 0x5eed),
            calm: false,
            over: false,
            away_until: None,
            published: 0,
            queue: Queue::default(),
            server: Server::new(&plan),
            dead_letters: DeadLetters::default(),
            ledger: Ledger::new(&plan),
            lives: Vec::new(),
            faults: Vec::new(),
            trace: options.trace.then(Vec::new),
            figures: Figures::default(),
        };
        thread_local! {
            static METRICS: Arc<Metrics> = Arc::default();
        }
        Arc::new(Self {
            backend: Backend::new(options.store, flaws, plan.shared),
            plan,
            options,
            began: Instant::now(),
            skew: AtomicI64::new(0),
            metrics: METRICS.with(Arc::clone),
            landings: Notify::new(),
            inner: Mutex::new(inner),
        })
    }

    /// Trouble, then calm until all has ended.
    async fn live(self: Arc<Self>) {
        self.establish();
        for worker in 0..self.plan.workers {
            tokio::spawn(life::supervise(self.clone(), worker));
        }
        tokio::spawn(broker::publish(self.clone()));
        tokio::spawn(broker::disturb(self.clone()));
        tokio::spawn(operators::work(self.clone()));
        for (at, by) in self.plan.jumps.clone() {
            let world = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(at).await;
                world.jump(by);
            });
        }
        for (at, long) in self.plan.outages.clone() {
            let world = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(at).await;
                let mut inner = world.lock();
                world.note(&mut inner, || format!("the store is away for {long:?}"));
                inner.away_until = Some(Instant::now() + long);
            });
        }
        tokio::time::sleep(self.plan.trouble).await;
        {
            let mut inner = self.lock();
            inner.calm = true;
            self.note(&mut inner, || "the trouble is over".to_owned());
        }
        let (mut deadline, mut least) = (Instant::now() + PATIENCE, usize::MAX);
        loop {
            let left = self.left();
            if left < least {
                (deadline, least) = (Instant::now() + PATIENCE, left);
            }
            if left == 0 || Instant::now() >= deadline || !self.lock().faults.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// How much has not ended yet.
    fn left(&self) -> usize {
        let Gauges { pending, letters, .. } = self.store_gauges();
        let inner = self.lock();
        let to_come = self.plan.events - inner.published + inner.queue.len();
        let open = usize::from(!inner.server.is_quiet());
        // An event that is not taken in yet may become several, and fewer of them is what counts.
        1_000 * to_come + usize::try_from(pending + letters).unwrap_or(usize::MAX) + open
    }

    fn store_gauges(&self) -> Gauges {
        at_once(self.store().gauges(Timestamp::MAX)).expect("gauges")
    }

    fn store(&self) -> Arc<dyn Storage> {
        self.backend.get()
    }

    /// The judgement.
    async fn end(&self) -> History {
        let mut inner = self.lock();
        inner.over = true;
        for panic in PANICS.take() {
            self.fault(&mut inner, format!("a panic: {panic}"));
        }
        if inner.faults.is_empty() {
            judge::judge(self, &mut inner);
        }
        let mut figures = inner.figures;
        figures.lasted = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        History {
            faults: std::mem::take(&mut inner.faults),
            trace: inner.trace.take().unwrap_or_default(),
            figures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the beginning, whatever the wall clock says.
    fn elapsed(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// The wall clock of the workers.
    fn now(&self) -> Timestamp {
        micros(BEGIN + self.elapsed() + self.skew.load(Ordering::Relaxed))
    }

    /// The wall clock of everybody else.
    fn true_now(&self) -> Timestamp {
        micros(BEGIN + self.elapsed())
    }

    fn jump(&self, by: i64) {
        self.skew.fetch_add(by, Ordering::Relaxed);
        let mut inner = self.lock();
        self.note(&mut inner, || format!("the clock jumps by {} s", by / 1_000_000));
        inner.ledger.clock_jumped();
    }

    /// Looks what of that which is told straight is written by now, and how.
    fn observe(&self, inner: &mut Inner) {
        self.observe_but(inner, None);
    }

    /// The same, after a settlement.
    fn observe_settlement(&self, inner: &mut Inner, settlement: &Settlement) {
        self.observe_but(inner, Some(settlement));
    }

    fn observe_but(&self, inner: &mut Inner, settlement: Option<&Settlement>) {
        for pair in inner.ledger.flying() {
            let entries = at_once(self.store().explain(&pair.0)).expect("the journal");
            if !entries.iter().any(|entry| entry.integration == pair.1) {
                continue;
            }
            self.note(inner, || format!("{pair:?} is written"));
            let faults = inner.ledger.landed(&pair, settlement, self.elapsed());
            faults.into_iter().for_each(|says| self.fault(inner, says));
            self.landings.notify_waiters();
        }
    }

    /// Waits until all of a batch is written.
    async fn landed(&self, batch: InHand) {
        while self.lock().ledger.is_flying(batch) {
            self.landings.notified().await;
        }
    }

    /// Writes a line into the trace.
    fn note(&self, inner: &mut Inner, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut inner.trace {
            #[expect(clippy::cast_precision_loss, reason = "shown to the millisecond")]
            let seconds = self.elapsed() as f64 / 1e6;
            trace.push(format!("{seconds:>9.3} {}", line()));
        }
    }

    /// A promise was broken.
    fn fault(&self, inner: &mut Inner, says: String) {
        self.note(inner, || format!("FAULT {says}"));
        if inner.faults.len() < FAULTS {
            inner.faults.push(says);
        }
    }
}

impl Inner {
    /// Whether trouble of this rate comes now.
    fn chance(&mut self, rate: u32) -> bool {
        !self.calm && rate > 0 && self.rng.u32(..10_000) < rate
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from..=to))
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }
}

fn micros(at: i64) -> Timestamp {
    Timestamp::from_microsecond(at).expect("a time within any calendar")
}
