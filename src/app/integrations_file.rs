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
use crate::worker::trouble::Trouble;
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
    /// With what is not the file's fault.
    trouble: Trouble,
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
        let trouble = no_trouble(&parts);
        Self { path, parts, metrics, url_files: Vec::new(), seen: Vec::new(), trouble }
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
            if self.step(&mut before).await {
                catalogue.hint();
            }
        }
    }

    /// Applies the file if it has changed, and looks as it did `before`. Returns whether it was applied.
    async fn step(&mut self, before: &mut Vec<Option<Look>>) -> bool {
        // Looked at before it is read, so that a change made meanwhile is seen the next time.
        let look = self.look();
        // A file that is just being written may read as a shorter one, with integrations missing; so it is
        // applied only once it has looked the same twice.
        let settled = look == *before;
        before.clone_from(&look);
        if look == self.seen || !settled {
            return false;
        }
        let applied = self.apply().await;
        match &applied {
            Ok(()) => self.trouble.worked(),
            Err(error) if error.is::<Misconfigured>() => {
                tracing::error!("the integrations stay as they are: {error:#}");
                // This file is not tried again, whatever kept it from being applied before.
                self.trouble = no_trouble(&self.parts);
                self.metrics.integrations_file_rejected();
            }
            Err(error) => {
                // Not the file's fault: the same file may do the next time.
                self.trouble.failed("apply it, so the integrations stay as they are", &format!("{error:#}"));
                return false;
            }
        }
        self.seen = look;
        applied.is_ok()
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

fn no_trouble(parts: &Parts) -> Trouble {
    Trouble::new("the integrations file", parts.clock.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::store::Role;
    use crate::settings::Settings;

    #[tokio::test]
    async fn a_store_that_is_away_is_one_trouble_which_ends_when_the_file_is_applied() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let url = ("NOTIFIER__STORE__URL".to_owned(), format!("sqlite:{}", at("db").display()));
        let settings = Settings::load_in(folder.path(), None, std::iter::once(url)).unwrap();
        let parts = Parts::open(&settings, Role::Worker).await.unwrap();
        std::fs::write(at("file.toml"), "integrations = []").unwrap();
        let mut file = IntegrationsFile::new(at("file.toml"), parts, Arc::default());
        file.apply_first().await.unwrap();

        std::fs::write(at("file.toml"), "integrations = [ ]").unwrap();
        std::fs::rename(at("db"), at("moved")).unwrap();
        let mut before = file.look();
        for _ in 0..2 {
            assert!(!file.step(&mut before).await);
            assert!(file.trouble.lasts());
        }
        std::fs::rename(at("moved"), at("db")).unwrap();
        assert!(file.step(&mut before).await, "the same file does now");
        assert!(!file.trouble.lasts() && !file.step(&mut before).await);

        std::fs::write(at("file.toml"), "integrations = []").unwrap();
        std::fs::rename(at("db"), at("moved")).unwrap();
        before = file.look();
        assert!(!file.step(&mut before).await && file.trouble.lasts());
        std::fs::write(at("file.toml"), "no integrations").unwrap();
        before = file.look();
        assert!(
            !file.step(&mut before).await && !file.trouble.lasts(),
            "a file with a fault is not tried again"
        );
    }
}
