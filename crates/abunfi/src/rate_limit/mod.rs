//! Rate limits: GCRA, decided in one atomic step by the key-value store's own clock.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

pub mod gcra;
mod service;
#[cfg(test)]
mod tests;

pub use service::{Error, Service};

/// A named limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many at once, and how many in each period. At least 1.
    pub limit: u32,
    /// Seconds; at least 1.
    pub period_seconds: u32,
    /// What happens while the key-value store is away.
    #[serde(default)]
    pub when_away: WhenAway,
}

impl Policy {
    /// The arithmetic of this policy.
    ///
    /// # Errors
    /// When limit or period is out of range; the configuration refuses such a policy at start.
    pub fn gcra(&self) -> Result<gcra::Policy, gcra::PolicyError> {
        gcra::Policy::new(
            self.limit,
            Duration::from_secs(u64::from(self.period_seconds)),
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAway {
    /// Count in this process, which gets its share of the limit.
    #[default]
    InProcess,
    /// Refuse with 503.
    Refuse,
}

/// The answer of a check. Durations are whole seconds, rounded up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub allowed: bool,
    pub limit: u32,
    pub remaining: u32,
    /// 0 when allowed.
    pub retry_after: u64,
    /// Until the whole limit is there again.
    pub reset_after: u64,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Charges `cost` to `key` if the limit allows it, atomically. A refusal charges nothing.
    async fn check(
        &self,
        key: &str,
        policy: gcra::Policy,
        cost: u32,
    ) -> Result<gcra::Decision, StoreError>;
}
