//! Heads of user-owned documents on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::columns::{Columns, small};
use super::error::Abort;
use super::{Sqlite, content, outbox, user_exists};
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::{
    Backlog, Claimed, DocumentKey, DocumentKind, Error, Head, HeadStore, HeadWrite, HeadWritten,
    NewDocument, versions,
};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::stores::RelationalOptions;

/// Writes a document inside the caller's unit of work: import, check, head, and the content if it lives
/// here.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    options: RelationalOptions,
    write: &HeadWrite,
) -> Result<HeadWritten, Abort<Error>> {
    if !user_exists(connection, write.key.user_id).await? {
        return Err(Abort::Refused(Error::NotFound));
    }
    if let Some(document) = &write.import {
        import(connection, options, write, document).await?;
    }
    let head = find(connection, write.key).await?;
    put(connection, options, write, head.as_ref()).await
}

/// The part of [`write`] that follows the known `head`.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    options: RelationalOptions,
    write: &HeadWrite,
    head: Option<&Head>,
) -> Result<HeadWritten, Abort<Error>> {
    let epoch = sqlx::query_scalar("SELECT epoch FROM document_epoch")
        .fetch_one(&mut *connection)
        .await?;
    let Some(written) = versions::write(head, write, epoch, options.holds_documents)? else {
        return Ok(HeadWritten {
            head: head
                .cloned()
                .unwrap_or_else(|| versions::never_written(write.key.kind, write.at)),
            created: false,
        });
    };
    upsert(connection, write.key, &written.head, write.at).await?;
    if options.holds_documents {
        let canonical = write
            .content
            .as_ref()
            .map(|content| content.canonical.as_str());
        content::put(connection, write.key, written.head.version, canonical).await?;
    }
    Ok(written)
}

#[async_trait]
impl HeadStore for Sqlite {
    async fn heads(&self, user_id: UserId) -> Result<Option<Vec<Head>>, StoreError> {
        self.relational
            .snapshot(async |connection| {
                let rows =
                    sqlx::query("SELECT * FROM document_heads WHERE user_id = ?1 ORDER BY kind")
                        .bind(user_id.0)
                        .fetch_all(&mut *connection)
                        .await?;
                if rows.is_empty() && !user_exists(connection, user_id).await? {
                    return Ok(None);
                }
                rows.iter()
                    .map(head_row)
                    .collect::<Result<_, _>>()
                    .map(Some)
            })
            .await
    }

    async fn write(&self, _ctx: &Context, change: &HeadWrite) -> Result<HeadWritten, Error> {
        self.relational
            .write(async |connection| {
                let written = write(connection, self.options, change).await?;
                if self.options.outbox {
                    let tags = vec![user_tag(change.key.user_id)];
                    outbox::enqueue(connection, tags, change.at).await?;
                }
                Ok(written)
            })
            .await
    }

    async fn claim(
        &self,
        limit: u32,
        lease_for: Duration,
        only: Option<DocumentKey>,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        let lease = Uuid::new_v4();
        self.relational
            .write(async |connection| {
                let due = sqlx::query(
                    "UPDATE document_heads
                     SET lease = ?1, leased_until = ?2, attempts = attempts + 1
                     WHERE (user_id, kind) IN (
                         SELECT user_id, kind FROM document_heads
                         WHERE next_at IS NOT NULL AND (leased_until IS NULL OR leased_until <= ?3)
                             AND CASE WHEN ?4 IS NULL THEN next_at <= ?3
                                      ELSE user_id = ?4 AND kind = ?5 END
                         ORDER BY next_at LIMIT ?6)
                     RETURNING user_id, kind, version, hash, image, attempts, next_at",
                )
                .bind(lease)
                .bind(now.plus(lease_for).micros())
                .bind(now.micros())
                .bind(only.map(|key| key.user_id.0))
                .bind(only.map(|key| key.kind.as_str()))
                .bind(limit)
                .fetch_all(connection)
                .await?;
                let mut due = due
                    .iter()
                    .map(|row| Ok((row.timestamp("next_at")?, claimed_row(row, lease)?)))
                    .collect::<Result<Vec<_>, sqlx::Error>>()?;
                due.sort_by_key(|(next_at, claimed)| (*next_at, claimed.key));
                Ok(due.into_iter().map(|(_next_at, claimed)| claimed).collect())
            })
            .await
    }

    async fn finish(&self, claimed: &Claimed, now: Timestamp) -> Result<bool, StoreError> {
        self.relational
            .write(async |connection| {
                let finished = sqlx::query(
                    "UPDATE document_heads
                     SET applied_version = version, applied_at = ?5, next_at = NULL, attempts = 0,
                         lease = NULL, leased_until = NULL
                     WHERE user_id = ?1 AND kind = ?2 AND lease = ?3 AND version = ?4",
                )
                .bind(claimed.key.user_id.0)
                .bind(claimed.key.kind.as_str())
                .bind(claimed.lease)
                .bind(claimed.version)
                .bind(now.micros())
                .execute(connection)
                .await?;
                Ok(finished.rows_affected() == 1)
            })
            .await
    }

    async fn release(
        &self,
        claimed: &Claimed,
        next_at: Timestamp,
        foreign: bool,
    ) -> Result<(), StoreError> {
        self.relational
            .write(async |connection| {
                sqlx::query(
                    "UPDATE document_heads
                     SET next_at = ?5, foreign_content = ?6, lease = NULL, leased_until = NULL
                     WHERE user_id = ?1 AND kind = ?2 AND lease = ?3 AND version = ?4",
                )
                .bind(claimed.key.user_id.0)
                .bind(claimed.key.kind.as_str())
                .bind(claimed.lease)
                .bind(claimed.version)
                .bind((!foreign).then_some(next_at.micros()))
                .bind(foreign)
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        self.relational
            .read(async |connection| {
                let row = sqlx::query(
                    "SELECT count(*) AS pending, min(updated_at) AS oldest,
                         (SELECT count(*) FROM document_heads WHERE foreign_content = 1) AS set_aside
                     FROM document_heads WHERE next_at IS NOT NULL",
                )
                .fetch_one(connection)
                .await?;
                Ok(Backlog {
                    pending: row.integer("pending")?,
                    oldest: row.optional_timestamp("oldest")?,
                    foreign: row.integer("set_aside")?,
                })
            })
            .await
    }

    async fn purge_images(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.relational
            .write(async |connection| {
                let purged = sqlx::query(
                    "UPDATE document_heads SET image = NULL
                     WHERE (user_id, kind) IN (
                         SELECT user_id, kind FROM document_heads
                         WHERE image IS NOT NULL AND applied_at < ?1 LIMIT ?2)",
                )
                .bind(before.micros())
                .bind(limit)
                .execute(connection)
                .await?;
                Ok(purged.rows_affected())
            })
            .await
    }
}

pub(super) async fn find(
    connection: &mut SqliteConnection,
    key: DocumentKey,
) -> Result<Option<Head>, sqlx::Error> {
    sqlx::query("SELECT * FROM document_heads WHERE user_id = ?1 AND kind = ?2")
        .bind(key.user_id.0)
        .bind(key.kind.as_str())
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(head_row)
        .transpose()
}

/// Version 0: what the document store had before this platform wrote it. A head that is there is newer.
async fn import(
    connection: &mut SqliteConnection,
    options: RelationalOptions,
    write: &HeadWrite,
    import: &NewDocument,
) -> Result<(), sqlx::Error> {
    let imported = sqlx::query(
        "INSERT INTO document_heads (user_id, kind, version, hash, applied_version, updated_at, applied_at)
         VALUES (?1, ?2, 0, ?3, 0, ?4, ?4) ON CONFLICT (user_id, kind) DO NOTHING",
    )
    .bind(write.key.user_id.0)
    .bind(write.key.kind.as_str())
    .bind(import.hash.as_slice())
    .bind(write.at.micros())
    .execute(&mut *connection)
    .await?;
    if options.holds_documents && imported.rows_affected() == 1 {
        content::put(connection, write.key, 0, Some(&import.canonical)).await?;
    }
    Ok(())
}

/// A new version ends whatever lease there is: who holds it applies an older one. What was set aside stays
/// so until an operator has looked at it.
async fn upsert(
    connection: &mut SqliteConnection,
    key: DocumentKey,
    head: &Head,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let is_applied = head.applied_version == head.version;
    sqlx::query(
        "INSERT INTO document_heads (user_id, kind, version, hash, deleted, applied_version, image,
             updated_at, applied_at, next_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (user_id, kind) DO UPDATE SET
             version = excluded.version, hash = excluded.hash, deleted = excluded.deleted,
             applied_version = excluded.applied_version, image = excluded.image,
             updated_at = excluded.updated_at, applied_at = excluded.applied_at,
             next_at = CASE WHEN foreign_content = 1 THEN NULL ELSE excluded.next_at END,
             lease = NULL, leased_until = NULL, attempts = 0",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(head.version)
    .bind(head.hash.as_slice())
    .bind(head.deleted)
    .bind(head.applied_version)
    .bind(head.image.as_deref())
    .bind(head.updated_at.micros())
    .bind(is_applied.then_some(at.micros()))
    .bind((!is_applied).then_some(at.micros()))
    .execute(connection)
    .await?;
    Ok(())
}

fn head_row(row: &SqliteRow) -> Result<Head, sqlx::Error> {
    Ok(Head {
        kind: row.parsed("kind", DocumentKind::from_name)?,
        version: row.integer("version")?,
        hash: row.hash("hash")?,
        deleted: row.flag("deleted")?,
        applied_version: row.integer("applied_version")?,
        image: row.optional_text("image")?,
        updated_at: row.timestamp("updated_at")?,
    })
}

fn claimed_row(row: &SqliteRow, lease: Uuid) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        key: DocumentKey {
            user_id: row.id("user_id")?,
            kind: row.parsed("kind", DocumentKind::from_name)?,
        },
        version: row.integer("version")?,
        hash: row.hash("hash")?,
        image: row.optional_text("image")?,
        lease,
        attempts: small("attempts", row.integer("attempts")?)?,
    })
}
