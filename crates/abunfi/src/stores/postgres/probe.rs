//! How the server is: as the relational store, and as the document store when it is that too.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sqlx::Row;

use super::Postgres;
use super::columns::Columns;
use super::lane::scoped;
use crate::error::{StoreError, StoreKind};
use crate::health::Probe;

const BACKEND: &str = "postgresql";

impl Postgres {
    /// The probe of this server as the document store.
    #[must_use]
    pub fn documents_probe(&self) -> Arc<dyn Probe> {
        Arc::new(DocumentsProbe(self.clone()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move { sqlx::query("SELECT 1").execute(connection).await.map(drop) })
            })
            .await
    }
}

#[async_trait]
impl Probe for Postgres {
    fn kind(&self) -> StoreKind {
        StoreKind::Relational
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Self::ping(self).await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let (version, bytes) = self
            .background
            .read(|connection| {
                scoped(async move {
                    let row = sqlx::query(
                        "SELECT current_setting('server_version') AS version,
                             pg_database_size(current_database()) AS bytes",
                    )
                    .fetch_one(connection)
                    .await?;
                    Ok((row.text("version")?, row.integer("bytes")?))
                })
            })
            .await?;
        let pool = |figures: super::pool::PoolFigures| {
            json!({
                "size": figures.size,
                "idle": figures.idle,
                "waiting": figures.waiting,
                "max": figures.max,
            })
        };
        Ok(json!({
            "backend": BACKEND,
            "version": version,
            "pool": pool(self.requests.figures()),
            "background_pool": pool(self.background.figures()),
            "database_size_bytes": bytes,
            "circuit_open": self.breaker.is_open(),
        }))
    }
}

/// The same server, asked about documents.
#[derive(Debug)]
struct DocumentsProbe(Postgres);

#[async_trait]
impl Probe for DocumentsProbe {
    fn kind(&self) -> StoreKind {
        StoreKind::Documents
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        self.0
            .background
            .read(|connection| {
                scoped(async move {
                    // Rows as the server estimates them: counting would read the tables.
                    let rows = sqlx::query(
                        "SELECT current_setting('server_version') AS version, c.relname::text AS name,
                             greatest(c.reltuples, 0)::bigint AS estimated_count,
                             pg_total_relation_size(c.oid) AS bytes
                         FROM unnest(ARRAY['documents', 'dev_data', 'logs']::regclass[]) AS tables (oid)
                         JOIN pg_class AS c ON c.oid = tables.oid
                         ORDER BY c.relname",
                    )
                    .fetch_all(connection)
                    .await?;
                    let mut collections = Map::new();
                    let mut total: i64 = 0;
                    for row in &rows {
                        let bytes = row.integer("bytes")?;
                        total = total.saturating_add(bytes);
                        let figures = json!({
                            "estimated_count": row.integer("estimated_count")?,
                            "size_bytes": bytes,
                        });
                        collections.insert(row.text("name")?, figures);
                    }
                    let version: Option<String> =
                        rows.first().map(|row| row.try_get("version")).transpose()?;
                    Ok(json!({
                        "backend": BACKEND,
                        "version": version,
                        "connections": self.0.requests.figures().size,
                        "collections": collections,
                        "size_bytes": total,
                    }))
                })
            })
            .await
    }
}
