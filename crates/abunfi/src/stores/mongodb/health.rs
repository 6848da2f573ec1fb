//! How the document database is.

use async_trait::async_trait;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::setup::figures;
use super::{MongoDb, failure};
use crate::error::{StoreError, StoreKind};
use crate::health::Probe;

#[async_trait]
impl Probe for MongoDb {
    fn kind(&self) -> StoreKind {
        StoreKind::Documents
    }

    fn backend(&self) -> &'static str {
        "mongodb"
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call(|database, _attempt| async move {
            database
                .run_command(doc! {"ping": 1})
                .await
                .map(drop)
                .map_err(|error| failure::of_read(&error))
        })
        .await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let figures = self
            .call(|database, _attempt| async move { figures(&database).await })
            .await?;
        let capabilities = self.capabilities();
        let free = u32::try_from(self.inner.permits.available_permits()).unwrap_or(u32::MAX);
        Ok(json!({
            "backend": self.backend(),
            "version": capabilities.map(|found| found.version.as_str()),
            "capabilities": {
                "stand_in": capabilities.map(|found| found.stand_in),
                "ttl_indexes": capabilities.map(|found| found.ttl_indexes),
            },
            "connections": figures.connections,
            "collections": figures.collections,
            "sizes": {
                "data_bytes": figures.data_bytes,
                "storage_bytes": figures.storage_bytes,
                "index_bytes": figures.index_bytes,
            },
            "max_connections": self.inner.max_connections,
            "calls_in_flight": self.inner.max_connections.saturating_sub(free),
            "breaker_open": self.inner.breaker.is_open(),
        }))
    }
}
