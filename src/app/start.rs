//! The start: what has to be there before anything is taken in. A shared store that is not there yet is waited for, in
//! one clear line and with `/readyz` saying so; anything else that is wrong ends the start.

use std::sync::{Arc, OnceLock};

use anyhow::Context;
use async_trait::async_trait;

use super::StopSignals;
use super::integrations_file::IntegrationsFile;
use super::parts::{Parts, StoreAway, from_store};
use crate::adapters::clock::SystemClock;
use crate::adapters::reconnect::Reconnect;
use crate::adapters::store::Role;
use crate::domain::changes::named;
use crate::metrics::Metrics;
use crate::ports::{Readiness, StoreError};
use crate::settings::{Settings, StoreUrl};
use crate::worker::catalogue::Catalogue;
use crate::worker::trouble::Trouble;

/// What was prepared.
pub struct Prepared {
    pub parts: Parts,
    pub catalogue: Arc<Catalogue>,
    pub file: Option<IntegrationsFile>,
}

/// Opens the store, applies the integrations file, reads the integrations. Tries once.
///
/// # Errors
/// [`Misconfigured`](super::Misconfigured) for what an operator has to change; see [`is_away`].
pub async fn prepare(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<Prepared> {
    let parts = Parts::open(settings, Role::Worker).await?;
    parts.store.look_again(parts.clock.now()).await.map_err(from_store)?;
    let catalogue = Arc::new(Catalogue::new(parts.store.clone(), parts.opener()));
    let path = settings.integrations.file.clone();
    let mut file = path.map(|path| IntegrationsFile::new(path, parts.clone(), metrics.clone()));
    match &mut file {
        Some(file) => file.apply_first().await?,
        None => release(&parts, settings).await?,
    }
    catalogue.load().await.context("can't read the integrations from the store")?;
    Ok(Prepared { parts, catalogue, file })
}

/// What a file managed that there is no more is operators' again, or nobody could change it. Another worker on the
/// same store may have the file.
async fn release(parts: &Parts, settings: &Settings) -> anyhow::Result<()> {
    let shared = matches!(settings.store.url, StoreUrl::Postgres(_));
    if shared && !parts.store.workers().await.map_err(from_store)?.is_empty() {
        return Ok(());
    }
    let released = parts.store.release().await.map_err(from_store)?;
    if !released.is_empty() {
        tracing::warn!(
            "there is no integrations.file any more; what it managed stays as it is, and is changed by \
             `integrations apply`, `pause` and `remove` from now on: {}",
            named(&released)
        );
    }
    Ok(())
}

/// Whether a start failed only because a shared store is out of reach now.
pub fn is_away(settings: &Settings, error: &anyhow::Error) -> bool {
    let unavailable = matches!(error.downcast_ref(), Some(StoreError::Unavailable(_)));
    matches!(settings.store.url, StoreUrl::Postgres(_)) && (unavailable || error.is::<StoreAway>())
}

/// Not ready until the start is over; then as ready as all parts.
pub struct Gate {
    opening: Trouble,
    parts: OnceLock<Vec<Arc<dyn Readiness>>>,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self { opening: Trouble::new("the store", Arc::new(SystemClock)), parts: OnceLock::new() }
    }

    /// The start is over.
    pub fn open(&self, parts: Vec<Arc<dyn Readiness>>) {
        self.opening.worked();
        // There is one start.
        let _ = self.parts.set(parts);
    }

    /// Prepares until the store is there. `None` if a signal ended the wait.
    ///
    /// # Errors
    /// As [`prepare`], but for a store that is away.
    pub async fn wait(
        &self,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        first: anyhow::Error,
        signals: &mut StopSignals,
    ) -> anyhow::Result<Option<Prepared>> {
        let mut reconnect = Reconnect::new();
        let mut error = first;
        loop {
            self.opening.failed("open it", &format!("{error:#}"));
            let again = async {
                tokio::time::sleep(reconnect.next_delay()).await;
                prepare(settings, metrics).await
            };
            let prepared = tokio::select! {
                prepared = again => prepared,
                signal = signals.next() => {
                    tracing::info!(signal, "stopping: the store was still waited for");
                    return Ok(None);
                }
            };
            match prepared {
                Ok(prepared) => return Ok(Some(prepared)),
                Err(away) if is_away(settings, &away) => error = away,
                Err(fault) => return Err(fault),
            }
        }
    }
}

#[async_trait]
impl Readiness for Gate {
    async fn ready(&self) -> Result<(), String> {
        let Some(parts) = self.parts.get() else {
            self.opening.ready().await?;
            return Err("the worker is starting".to_owned());
        };
        let mut faults = Vec::new();
        for part in parts {
            if let Err(why) = part.ready().await {
                faults.push(why);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}
