//! What callers use of temporary data.

use std::sync::Arc;

use super::*;
use crate::clock::SharedClock;
use crate::error::StoreError;
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no such value")]
    NotFound,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    clock: SharedClock,
}

impl Service {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// `key`: 1–200 of `A-Za-z0-9._:-`; `ttl` from one second to [`MAX_TTL`].
    pub async fn put(&self, key: &str, value: Value, ttl: Duration) -> Result<TempValue, Error> {
        todo!()
    }

    pub async fn get(&self, key: &str) -> Result<TempValue, Error> {
        todo!()
    }

    pub async fn take(&self, key: &str) -> Result<TempValue, Error> {
        todo!()
    }

    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        todo!()
    }
}
