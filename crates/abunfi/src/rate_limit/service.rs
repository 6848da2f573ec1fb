//! What callers use of rate limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::error::StoreError;
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no such policy")]
    UnknownPolicy,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    /// Counts in this process while the store is away.
    fallback: Arc<dyn Store>,
    policies: Arc<BTreeMap<String, Policy>>,
    /// How many instances share a limit, for the fallback's part of it. At least 1.
    instances: u32,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        fallback: Arc<dyn Store>,
        policies: BTreeMap<String, Policy>,
        instances: u32,
    ) -> Self {
        Self {
            store,
            fallback,
            policies: Arc::new(policies),
            instances: instances.max(1),
        }
    }

    /// `login` (5 a minute) and `default` (100 a minute).
    #[must_use]
    pub fn first_policies() -> BTreeMap<String, Policy> {
        todo!()
    }

    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name)
    }

    /// Charges `cost` (1 unless the caller says otherwise) to `key` (1–200 characters) under a policy.
    pub async fn check(&self, policy: &str, key: &str, cost: u32) -> Result<Decision, Error> {
        todo!()
    }

    /// Checks and refusals since the start, for `stats`.
    #[must_use]
    pub fn stats(&self) -> serde_json::Value {
        todo!()
    }
}
