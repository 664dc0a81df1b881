//! `migrate`: brings the store's schema up to date.

use super::output::say;
use crate::app::parts;
use crate::settings::Settings;

/// Migrates, whatever `store.migrate` says.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    parts::migrate(settings).await?;
    say(&format!("the store {} has the schema of this version", settings.store.url));
    Ok(())
}
