//! Content of user-owned documents, when this database is the document store.
//!
//! `canonical` is what is hashed and served; `doc` is the same for queries. A deleted document leaves a
//! tombstone with its version, so that a late write of an older one cannot bring it back.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::Postgres;
use super::columns::{Columns, column, json};
use super::error::Abort;
use super::lane::scoped;
use crate::documents::canonical::content_hash;
use crate::documents::{
    Applied, ContentStore, DocumentKey, DocumentKind, StoredDocument, versions,
};
use crate::error::StoreError;
use crate::ids::UserId;

#[async_trait]
impl ContentStore for Postgres {
    async fn read(&self, user_id: UserId) -> Result<Vec<StoredDocument>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT kind, version, canonical FROM documents WHERE user_id = $1
                         ORDER BY kind DESC",
                    )
                    .bind(user_id.0)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(stored)
                    .collect()
                })
            })
            .await
    }

    async fn read_many(
        &self,
        user_ids: &[UserId],
    ) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
        let ids = &column(user_ids, |id| id.0);
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT user_id, kind, version, canonical FROM documents
                         WHERE user_id = ANY($1)",
                    )
                    .bind(ids)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(|row| Ok((UserId(row.id("user_id")?), stored(row)?)))
                    .collect()
                })
            })
            .await
    }

    async fn apply(
        &self,
        key: DocumentKey,
        version: i64,
        hash: [u8; 32],
        content: Option<&str>,
    ) -> Result<Applied, StoreError> {
        self.background
            .write(|connection| scoped(apply(connection, key, version, hash, content)))
            .await
    }
}

/// Stores a version (`None`: a tombstone) unless that one or a newer one is there; whether it did.
pub(super) async fn store(
    connection: &mut PgConnection,
    key: DocumentKey,
    version: i64,
    canonical: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO documents AS stored (user_id, kind, version, canonical, doc)
         VALUES ($1, $2, $3, $4, $4::jsonb)
         ON CONFLICT (user_id, kind) DO UPDATE
         SET version = excluded.version, canonical = excluded.canonical, doc = excluded.doc
         WHERE stored.version < excluded.version",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(version)
    .bind(canonical)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

async fn apply(
    connection: &mut PgConnection,
    key: DocumentKey,
    version: i64,
    hash: [u8; 32],
    content: Option<&str>,
) -> Result<Applied, Abort<StoreError>> {
    if store(connection, key, version, content).await? {
        return Ok(Applied::Done);
    }
    let row = sqlx::query(
        "SELECT kind, version, canonical FROM documents WHERE user_id = $1 AND kind = $2",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .fetch_one(connection)
    .await?;
    let there = stored(&row)?;
    if there.version > version || there.hash == hash {
        Ok(Applied::Done)
    } else {
        Ok(Applied::Foreign)
    }
}

fn stored(row: &PgRow) -> Result<StoredDocument, sqlx::Error> {
    let value = row
        .try_get::<Option<&str>, _>("canonical")?
        .map(|canonical| json("canonical", canonical))
        .transpose()?;
    Ok(StoredDocument {
        kind: row.parsed("kind", DocumentKind::from_name)?,
        version: row.integer("version")?,
        hash: value
            .as_ref()
            .map_or_else(versions::tombstone_hash, content_hash),
        deleted: value.is_none(),
        value: value.unwrap_or_default(),
    })
}
