//! Carries out what commits promised and a crash (or an absent Redis) left undone.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Store;
use crate::cache::Cache;
use crate::clock::SharedClock;

#[derive(Debug)]
pub struct Relay {
    store: Arc<dyn Store>,
    cache: Cache,
    clock: SharedClock,
}

impl Relay {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Cache, clock: SharedClock) -> Self {
        Self {
            store,
            cache,
            clock,
        }
    }

    /// Runs until `stop`, polling every 500 ms.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        todo!()
    }

    /// One round over what is due; how many effects were carried out.
    pub async fn run_once(&self) -> Result<u64, crate::error::StoreError> {
        todo!()
    }
}
