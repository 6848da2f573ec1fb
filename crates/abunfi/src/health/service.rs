//! Probes in the background, and statistics on request.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Health, Probe};
use crate::error::StoreKind;

/// What `stats` and `get_stats()` show. A store that is away has its error there, and the rest is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub postgres: Value,
    pub mongodb: Value,
    pub redis: Value,
    pub cache: Value,
    pub sessions: Value,
    pub rate_limits: Value,
    pub ledger: Value,
    pub outbox: Value,
}

#[derive(Debug, Clone)]
pub struct Service {
    probes: Arc<Vec<Arc<dyn Probe>>>,
}

impl Service {
    /// One probe for each store: relational, documents, key-value.
    #[must_use]
    pub fn new(probes: Vec<Arc<dyn Probe>>) -> Self {
        Self {
            probes: Arc::new(probes),
        }
    }

    /// Probes every store every two seconds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        todo!()
    }

    /// Probes all stores now, side by side, each within its deadline.
    pub async fn probe_now(&self) -> Health {
        todo!()
    }

    /// What the last probes found; never waits.
    #[must_use]
    pub fn health(&self) -> Health {
        todo!()
    }

    /// The statistics of one store, or `{"backend": …, "error": …}`.
    pub async fn statistics(&self, store: StoreKind) -> Value {
        todo!()
    }
}
