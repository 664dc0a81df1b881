//! The integrations as the worker knows them now: which want an event, and where their messages go.
//!
//! A copy of the store's, replaced as a whole when the store's revision grows, also by another process.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::domain::event::{Event, Subject};
use crate::domain::ids::{IntegrationId, TeamId};
use crate::domain::integration::{Integration, IntegrationState, Interest};
use crate::ports::{Changes, Registry, RoomTarget, StoreError, Stored};
use crate::worker::wake::{Bell, Stop};

/// Turns a stored integration into one that can be used. The error is a sentence without secrets.
pub type Open = dyn Fn(&Stored) -> Result<Opened, String> + Send + Sync;

/// A stored integration, read.
pub struct Opened {
    pub integration: Integration,
    /// The error says why the room can't be reached as things are configured now; the integration counts as
    /// suspended for as long.
    pub target: Result<RoomTarget, String>,
}

/// An integration that nothing can be told to as it stands.
pub struct Unusable {
    id: IntegrationId,
    why: String,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "integration {}: {}", self.id, self.why)
    }
}

/// How soon a change made by another process is noticed. The contract promises two seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// That the store can't be read is told when it begins, and then once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// All integrations at one revision.
#[derive(Default)]
pub struct Snapshot {
    /// `None` before the first look.
    revision: Option<u64>,
    by_id: HashMap<IntegrationId, Entry>,
    by_team: HashMap<Option<TeamId>, Interested>,
}

#[derive(Clone)]
struct Entry {
    integration: Arc<Integration>,
    target: Option<Arc<RoomTarget>>,
}

/// The integrations of one team, arranged so that an event meets few that it has to be matched with.
#[derive(Default)]
struct Interested {
    /// Monitor results of exactly these monitors.
    monitors: HashMap<Box<str>, Vec<Arc<Integration>>>,
    /// Monitor results by pattern, or of every monitor.
    runs: Vec<Arc<Integration>>,
    activities: Vec<Arc<Integration>>,
}

impl Snapshot {
    /// Builds one from what the store holds. What can't be opened is left out and told in the second part.
    pub fn build(
        revision: u64,
        stored: impl IntoIterator<Item = impl Borrow<Stored>>,
        open: &Open,
    ) -> (Self, Vec<Unusable>) {
        let mut building = Building::default();
        stored.into_iter().for_each(|stored| building.add(stored.borrow(), open));
        building.finish(revision)
    }

    fn add(&mut self, integration: Integration, target: Option<RoomTarget>) {
        let (integration, target) = (Arc::new(integration), target.map(Arc::new));
        let team = self.by_team.entry(integration.team.clone()).or_default();
        match &integration.interest {
            Interest::TeamActivity { .. } => team.activities.push(integration.clone()),
            Interest::MonitorResults { monitors, .. } => {
                let exact: Option<Vec<&str>> = monitors.iter().map(|glob| glob.literal()).collect();
                match exact {
                    Some(uids) if !uids.is_empty() => {
                        for uid in uids {
                            // Most have one, and a vector that grows by itself begins with room for four.
                            let of_monitor =
                                team.monitors.entry(uid.into()).or_insert_with(|| Vec::with_capacity(1));
                            of_monitor.push(integration.clone());
                        }
                    }
                    _ => team.runs.push(integration.clone()),
                }
            }
        }
        self.by_id.insert(integration.id.clone(), Entry { integration, target });
    }

    /// The integrations that want `event`, by id.
    pub fn wanting(&self, event: &Event) -> Vec<Arc<Integration>> {
        let mut wanting = Vec::new();
        let teams =
            [self.by_team.get(&None), event.team.as_ref().and_then(|t| self.by_team.get(&Some(t.clone())))];
        for team in teams.into_iter().flatten() {
            match &event.subject {
                Subject::Activity(_) => {
                    wanting.extend(team.activities.iter().filter(|i| i.wants(event)).cloned())
                }
                Subject::Run(run) => {
                    let exact = team.monitors.get(&*run.monitor_uid).into_iter().flatten();
                    wanting.extend(exact.chain(&team.runs).filter(|i| i.wants(event)).cloned());
                }
            }
        }
        wanting.sort_by(|a, b| a.id.cmp(&b.id));
        wanting.dedup_by(|a, b| a.id == b.id);
        wanting
    }

    /// One integration.
    pub fn integration(&self, id: &IntegrationId) -> Option<Arc<Integration>> {
        self.by_id.get(id).map(|entry| entry.integration.clone())
    }

    /// All integrations, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Integration> {
        self.by_id.values().map(|entry| &*entry.integration)
    }

    /// Where one integration's messages are posted.
    pub fn target(&self, id: &IntegrationId) -> Option<Arc<RoomTarget>> {
        self.by_id.get(id)?.target.clone()
    }

    /// What is other than in `old`. An integration that is told the same way as before, with the same room and
    /// token, has not changed.
    fn changes_since(&self, old: &Self) -> Changes {
        let mut changes = Changes::default();
        for (id, entry) in &self.by_id {
            match old.by_id.get(id) {
                None => changes.added.push(id.clone()),
                Some(before) if before.integration != entry.integration => changes.changed.push(id.clone()),
                Some(_) => {}
            }
        }
        changes.removed = old.by_id.keys().filter(|id| !self.by_id.contains_key(*id)).cloned().collect();
        for ids in [&mut changes.added, &mut changes.changed, &mut changes.removed] {
            ids.sort();
        }
        changes
    }

    /// How many there are in each state, by the contract's words.
    pub fn by_state(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::from(IntegrationState::WORDS.map(|word| (word, 0)));
        for entry in self.by_id.values() {
            *counts.entry(entry.integration.state.as_str()).or_default() += 1;
        }
        counts
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// A snapshot in the making.
#[derive(Default)]
struct Building {
    snapshot: Snapshot,
    faults: Vec<Unusable>,
    teams: HashSet<TeamId>,
}

impl Building {
    /// One that can't be opened is only told of.
    fn add(&mut self, stored: &Stored, open: &Open) {
        let unusable = |why: &str| Unusable { id: stored.definition.id.clone(), why: why.to_owned() };
        match open(stored) {
            Ok(Opened { mut integration, target: Ok(mut target) }) => {
                // What is the same for many, or known by two names, is kept once.
                target.room = integration.room.clone();
                integration.team = integration.team.map(|team| kept_once(&mut self.teams, team));
                self.snapshot.add(integration, Some(target));
            }
            Ok(Opened { mut integration, target: Err(reason) }) => {
                self.faults.push(unusable(&reason));
                integration.state = IntegrationState::Suspended { reason };
                self.snapshot.add(integration, None);
            }
            Err(fault) => self.faults.push(unusable(&fault)),
        }
    }

    fn finish(self, revision: u64) -> (Snapshot, Vec<Unusable>) {
        (Snapshot { revision: Some(revision), ..self.snapshot }, self.faults)
    }
}

/// The one of `kept` that is equal; this one, from now on, if there is none.
fn kept_once(kept: &mut HashSet<TeamId>, team: TeamId) -> TeamId {
    if let Some(known) = kept.get(&team) {
        return known.clone();
    }
    kept.insert(team.clone());
    team
}

/// The current snapshot, shared by all parts of the worker.
pub struct Catalogue {
    registry: Arc<dyn Registry>,
    open: Arc<Open>,
    current: RwLock<Arc<Snapshot>>,
    /// One reads at a time, so that each change is told once.
    reading: tokio::sync::Mutex<()>,
    changed: Bell,
}

impl Catalogue {
    /// An empty catalogue; [`Catalogue::load`] fills it.
    pub fn new(registry: Arc<dyn Registry>, open: Box<Open>) -> Self {
        Self {
            registry,
            open: open.into(),
            current: RwLock::default(),
            reading: Default::default(),
            changed: Bell::default(),
        }
    }

    /// The integrations as they are now.
    pub fn now(&self) -> Arc<Snapshot> {
        // A poisoned lock still holds a whole snapshot: it is only ever replaced.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the store again if its revision has grown, and tells the log what has changed. Returns whether it
    /// had grown.
    pub async fn refresh(&self) -> Result<bool, StoreError> {
        let changes = self.load().await?;
        if let Some(changes) = &changes {
            tracing::info!(integrations = self.now().len(), "integrations changed: {changes}");
        }
        Ok(changes.is_some())
    }

    /// Reads the store if its revision has grown, and says what is other than it was known here.
    pub async fn load(&self) -> Result<Option<Changes>, StoreError> {
        let _reading = self.reading.lock().await;
        let revision = self.registry.revision().await?;
        let old = self.now();
        if old.revision == Some(revision) {
            return Ok(None);
        }
        let (snapshot, faults) = self.read().await?.finish(revision);
        for fault in faults {
            let integration_id = fault.id.as_str();
            tracing::error!(integration_id, "{fault}; nothing is told to it until this is mended");
        }
        let changes = snapshot.changes_since(&old);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(Some(changes))
    }

    /// Opened one by one as they are read: as they are stored, all together are larger than what is made of them.
    async fn read(&self) -> Result<Building, StoreError> {
        let building = Arc::new(Mutex::new(Building::default()));
        let (into, open) = (building.clone(), self.open.clone());
        let add = move |stored| into.lock().unwrap_or_else(PoisonError::into_inner).add(&stored, &*open);
        self.registry.integrations(Box::new(add)).await?;
        let mut building = building.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *building))
    }

    /// Asks the watching loop to look at once: something in this process has changed an integration.
    pub fn hint(&self) {
        self.changed.ring();
    }

    /// Keeps the snapshot fresh until stopped; rings `wake` after a change.
    pub async fn watch(&self, wake: &Bell, mut stop: Stop) {
        let mut told: Option<Instant> = None;
        while !stop.is_set() {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = self.changed.wait(LOOK_EVERY) => {}
            }
            match self.refresh().await {
                Ok(changed) => {
                    told = None;
                    if changed {
                        wake.ring();
                    }
                }
                Err(error) if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) => {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "can't read the integrations; going on with those known");
                }
                Err(_) => {}
            }
        }
    }
}
