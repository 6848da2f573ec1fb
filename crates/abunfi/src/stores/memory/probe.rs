use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Memory, rate_limit, temp};
use crate::error::{StoreError, StoreKind};
use crate::health::Probe;

#[async_trait]
impl Probe for Memory {
    fn kind(&self) -> StoreKind {
        StoreKind::KeyValue
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let (values, bytes) = self.temp.size();
        let limits = self.limits.len();
        Ok(json!({
            "backend": "memory",
            "version": env!("CARGO_PKG_VERSION"),
            "memory_bytes": bytes,
            "max_memory_bytes": temp::MAX_BYTES,
            // The process itself.
            "clients": 1,
            // What is not there was never there: there is nothing that it could miss.
            "hit_rate": null,
            "keys": values + limits,
            "max_keys": temp::MAX_VALUES + rate_limit::MAX_KEYS,
        }))
    }
}
