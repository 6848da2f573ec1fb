//! How the files are: as the relational store, and as the document store when they are that too.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnection;

use super::Sqlite;
use super::columns::Columns;
use super::lane::Lane;
use crate::error::{StoreError, StoreKind};
use crate::health::Probe;

const BACKEND: &str = "sqlite";

/// Rows as the range of their row ids says: counting would read the table, as asking for both ends at once
/// would.
macro_rules! row_count {
    ($table:literal) => {
        concat!(
            "SELECT coalesce((SELECT max(rowid) FROM ",
            $table,
            ") - (SELECT min(rowid) FROM ",
            $table,
            ") + 1, 0)"
        )
    };
}

impl Sqlite {
    /// The probe of these files as the document store.
    #[must_use]
    pub fn documents_probe(&self) -> Arc<dyn Probe> {
        Arc::new(DocumentsProbe(self.clone()))
    }
}

#[async_trait]
impl Probe for Sqlite {
    fn kind(&self) -> StoreKind {
        StoreKind::Relational
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn ping(&self) -> Result<(), StoreError> {
        ping(&self.relational).await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let (version, bytes) = self.relational.read(version_and_size).await?;
        let figures = self.relational.figures();
        Ok(json!({
            "backend": BACKEND,
            "version": version,
            "pool": {
                "size": figures.size,
                "idle": figures.idle,
                "waiting": figures.waiting,
                "max": figures.max,
            },
            "database_size_bytes": bytes,
            "circuit_open": self.relational.breaker().is_open(),
        }))
    }
}

/// The same files, asked about documents.
#[derive(Debug)]
struct DocumentsProbe(Sqlite);

#[async_trait]
impl Probe for DocumentsProbe {
    fn kind(&self) -> StoreKind {
        StoreKind::Documents
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn ping(&self) -> Result<(), StoreError> {
        ping(self.0.documents()?).await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let lane = self.0.documents()?;
        let (version, bytes) = lane.read(version_and_size).await?;
        let documents = self
            .0
            .relational
            .read(async |connection| {
                sqlx::query_scalar::<_, i64>(row_count!("documents"))
                    .fetch_one(connection)
                    .await
            })
            .await?;
        let (dev_data, logs) = lane
            .snapshot(async |connection| {
                let dev_data = sqlx::query_scalar::<_, i64>(row_count!("dev_data"))
                    .fetch_one(&mut *connection)
                    .await?;
                let logs = sqlx::query_scalar::<_, i64>(row_count!("logs"))
                    .fetch_one(connection)
                    .await?;
                Ok((dev_data, logs))
            })
            .await?;
        Ok(json!({
            "backend": BACKEND,
            "version": version,
            "connections": lane.figures().size,
            "collections": {
                "dev_data": { "estimated_count": dev_data },
                "documents": { "estimated_count": documents },
                "logs": { "estimated_count": logs },
            },
            "size_bytes": bytes,
        }))
    }
}

/// Reads from the file itself: a statement without a table would answer even if that were gone.
async fn ping(lane: &Lane) -> Result<(), StoreError> {
    lane.read(async |connection| {
        sqlx::query("SELECT count(*) FROM sqlite_schema")
            .execute(connection)
            .await
            .map(drop)
    })
    .await
}

async fn version_and_size(connection: &mut SqliteConnection) -> Result<(String, i64), sqlx::Error> {
    let row = sqlx::query(
        "SELECT sqlite_version() AS version, page_count * page_size AS bytes
         FROM pragma_page_count, pragma_page_size",
    )
    .fetch_one(connection)
    .await?;
    Ok((row.text("version")?, row.integer("bytes")?))
}
