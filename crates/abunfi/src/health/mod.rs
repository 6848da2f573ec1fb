//! Whether the stores answer, and how they are. Probes run in the background, so asking never hangs.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{StoreError, StoreKind};
use crate::ledger::words;

mod service;
#[cfg(test)]
mod tests;

pub use service::{Service, Statistics};

words! {
    Overall { Ok = "OK", Degraded = "DEGRADED", Down = "DOWN" }
}

words! {
    DatabaseStatus { Connected = "connected", Degraded = "degraded", Disconnected = "disconnected" }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseHealth {
    pub status: DatabaseStatus,
    /// `postgresql`, `sqlite`, `mongodb`, `redis`, `memory`.
    pub backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// What is wrong, without address or credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Databases {
    pub postgresql: DatabaseHealth,
    pub mongodb: DatabaseHealth,
    pub redis: DatabaseHealth,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub status: Overall,
    pub databases: Databases,
}

/// A store that can be asked how it is. Every adapter implements it.
#[async_trait]
pub trait Probe: Send + Sync + std::fmt::Debug {
    /// Which store it serves as.
    fn kind(&self) -> StoreKind;
    fn backend(&self) -> &'static str;
    /// One cheap round trip, within the store's own deadline.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Figures for `stats`: the object of this store in the contract (`backend`, `version`, …).
    async fn statistics(&self) -> Result<Value, StoreError>;
}
