//! The content of user-owned documents on SQLite, when this is the document store: in the relational file,
//! so that a head and its content are one commit.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::Sqlite;
use super::columns::{Columns, json};
use super::heads;
use crate::documents::canonical::content_hash;
use crate::documents::{
    Applied, ContentStore, DocumentKey, DocumentKind, StoredDocument, versions,
};
use crate::error::StoreError;
use crate::ids::UserId;

/// Writes a version, or with `None` a tombstone, inside the caller's unit of work.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    key: DocumentKey,
    version: i64,
    canonical: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO documents (user_id, kind, version, canonical) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (user_id, kind) DO UPDATE
             SET version = excluded.version, canonical = excluded.canonical",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(version)
    .bind(canonical)
    .execute(connection)
    .await?;
    Ok(())
}

#[async_trait]
impl ContentStore for Sqlite {
    async fn read(&self, user_id: UserId) -> Result<Vec<StoredDocument>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query("SELECT * FROM documents WHERE user_id = ?1 ORDER BY kind")
                    .bind(user_id.0)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(stored_document)
                    .collect()
            })
            .await
    }

    async fn read_many(
        &self,
        user_ids: &[UserId],
    ) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
        // Hexadecimal, since JSON has no bytes.
        let ids: Vec<String> = user_ids.iter().map(|id| hex::encode(id.0)).collect();
        let ids = serde_json::Value::from(ids).to_string();
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT * FROM documents
                     WHERE user_id IN (SELECT unhex(value) FROM json_each(?1))",
                )
                .bind(ids)
                .fetch_all(connection)
                .await?
                .iter()
                .map(|row| Ok((UserId(row.id("user_id")?), stored_document(row)?)))
                .collect()
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
        self.relational
            .write(async |connection| {
                let current =
                    sqlx::query("SELECT * FROM documents WHERE user_id = ?1 AND kind = ?2")
                        .bind(key.user_id.0)
                        .bind(key.kind.as_str())
                        .fetch_optional(&mut *connection)
                        .await?
                        .as_ref()
                        .map(stored_document)
                        .transpose()?;
                let Some(current) = current.filter(|current| current.version >= version) else {
                    put(connection, key, version, content).await?;
                    return Ok(Applied::Done);
                };
                let newest = heads::find(connection, key)
                    .await?
                    .map_or(version, |head| head.version);
                let is_ours = if current.version == version {
                    current.hash == hash
                } else {
                    current.version <= newest
                };
                Ok(if is_ours {
                    Applied::Done
                } else {
                    Applied::Foreign
                })
            })
            .await
    }
}

fn stored_document(row: &SqliteRow) -> Result<StoredDocument, sqlx::Error> {
    let canonical: Option<&str> = row.try_get("canonical")?;
    let value = canonical.map(|text| json("canonical", text)).transpose()?;
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
