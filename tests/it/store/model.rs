//! The store in memory that simulations run on owes the same as the real ones.

use std::sync::Arc;

use async_trait::async_trait;
use hipchat_notifier::ports::StoreError;

use super::lab::{AnyStore, Lab};
use crate::model::{Flaws, ModelStore};

/// One store in memory that keeps its promises; whoever opens it sees the same.
pub struct ModelLab(Arc<ModelStore>);

impl ModelLab {
    pub fn new() -> Self {
        Self(Arc::new(ModelStore::new(Flaws::default(), false)))
    }

    /// One that other workers use too.
    pub fn shared() -> Self {
        Self(Arc::new(ModelStore::new(Flaws::default(), true)))
    }
}

#[async_trait]
impl Lab for ModelLab {
    async fn worker(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        self.0.void_claims();
        Ok(self.0.clone())
    }

    async fn tool(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(self.0.clone())
    }
}
