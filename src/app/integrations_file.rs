//! `integrations.file`: applied at start and whenever it, or a file it takes a room URL from, changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use super::Misconfigured;
use super::parts::{IntegrationsText, Parts, from_store};
use crate::domain::changes::named;
use crate::metrics::Metrics;
use crate::ports::ManagedBy;
use crate::worker::catalogue::Catalogue;
use crate::worker::wake::Stop;

/// How soon a change of the file is noticed. The contract promises two seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The file, and what it looked like when it was applied last.
pub struct IntegrationsFile {
    path: PathBuf,
    parts: Parts,
    metrics: Arc<Metrics>,
    /// The files that hold room URLs, as the file named them when it was read last.
    url_files: Vec<PathBuf>,
    seen: Vec<Option<Look>>,
}

/// What tells a changed file from an unchanged one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    length: u64,
}

impl IntegrationsFile {
    /// A file that was not applied yet.
    pub fn new(path: PathBuf, parts: Parts, metrics: Arc<Metrics>) -> Self {
        Self { path, parts, metrics, url_files: Vec::new(), seen: Vec::new() }
    }

    /// Applies the file at start.
    ///
    /// # Errors
    /// [`Misconfigured`] with every fault of the file.
    pub async fn apply_first(&mut self) -> anyhow::Result<()> {
        self.apply().await?;
        // The files that it takes room URLs from are known only now.
        self.seen = self.look();
        Ok(())
    }

    /// Applies the file whenever it changes, until stopped. A file with faults changes nothing.
    pub async fn watch(mut self, catalogue: Arc<Catalogue>, mut stop: Stop) {
        let mut before = self.seen.clone();
        while !stop.is_set() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.wait() => return,
            }
            // Looked at before it is read, so that a change made meanwhile is seen the next time.
            let look = self.look();
            // A file that is just being written may read as a shorter one, with integrations missing; so it is
            // applied only once it has looked the same twice.
            let settled = look == before;
            before.clone_from(&look);
            if look == self.seen || !settled {
                continue;
            }
            match self.apply().await {
                Ok(()) => catalogue.hint(),
                Err(error) => {
                    tracing::error!("the integrations stay as they are: {error:#}");
                    if !error.is::<Misconfigured>() {
                        // Not the file's fault: the same file may do the next time.
                        continue;
                    }
                    self.metrics.integrations_file_rejected();
                }
            }
            self.seen = look;
        }
    }

    async fn apply(&mut self) -> anyhow::Result<()> {
        let IntegrationsText { definitions, url_files } = self.read().await?;
        self.url_files = url_files;
        let definitions = definitions?;
        let now = self.parts.clock.now();
        let applied = self
            .parts
            .store
            .apply(definitions, ManagedBy::File, now)
            .await
            .map_err(from_store)
            .with_context(|| format!("can't apply {}", self.path.display()))?;
        tracing::info!(
            file = %self.path.display(),
            added = applied.changes.added.len(),
            changed = applied.changes.changed.len(),
            removed = applied.changes.removed.len(),
            unchanged = applied.unchanged,
            "integrations file applied: {}",
            applied.changes
        );
        if !applied.taken_over.is_empty() {
            tracing::warn!(
                "the file takes over what operators had made: {}; from now on the file alone changes them, a pause \
                 included, and they go when it lets them go",
                named(&applied.taken_over)
            );
        }
        self.metrics.integrations_file_applied(now.as_second());
        Ok(())
    }

    /// Reads the files on a thread that may wait: the worker's own threads have rooms to serve.
    async fn read(&self) -> anyhow::Result<IntegrationsText> {
        let (parts, path) = (self.parts.clone(), self.path.clone());
        tokio::task::spawn_blocking(move || parts.read_integrations(&path))
            .await
            .with_context(|| format!("can't read {}", self.path.display()))
    }

    fn look(&self) -> Vec<Option<Look>> {
        let look = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(Look { modified: metadata.modified().ok(), length: metadata.len() })
        };
        std::iter::once(&self.path).chain(&self.url_files).map(look).collect()
    }
}
