//! Brings what was committed to the document store, whatever happened in between.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{ContentStore, HeadStore};
use crate::clock::SharedClock;

/// What the relay did, for `stats` and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStats {
    pub applied: u64,
    pub failed: u64,
    pub foreign: u64,
}

/// The worker. Any number may run, in any number of processes.
#[derive(Debug)]
pub struct Relay {
    heads: Arc<dyn HeadStore>,
    content: Arc<dyn ContentStore>,
    clock: SharedClock,
}

impl Relay {
    #[must_use]
    pub fn new(
        heads: Arc<dyn HeadStore>,
        content: Arc<dyn ContentStore>,
        clock: SharedClock,
    ) -> Self {
        Self {
            heads,
            content,
            clock,
        }
    }

    /// Runs until `stop`: polls every 500 ms, and whenever it is woken.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        todo!()
    }

    /// One round over what is due; how many were applied. For tests and for shutdown.
    pub async fn run_once(&self) -> Result<u64, crate::error::StoreError> {
        todo!()
    }

    #[must_use]
    pub fn stats(&self) -> RelayStats {
        todo!()
    }
}
