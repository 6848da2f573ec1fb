//! Heads of user-owned documents: what decides their versions, and, until it is applied, their content.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::columns::{Columns, at, limit};
use super::error::Abort;
use super::lane::scoped;
use super::{Postgres, content, outbox, user_exists};
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
use crate::users::NewUser;

#[async_trait]
impl HeadStore for Postgres {
    async fn heads(&self, user_id: UserId) -> Result<Option<Vec<Head>>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    let rows = sqlx::query(
                        "SELECT * FROM document_heads WHERE user_id = $1 ORDER BY kind DESC",
                    )
                    .bind(user_id.0)
                    .fetch_all(&mut *connection)
                    .await?;
                    if rows.is_empty() && !user_exists(connection, user_id).await? {
                        return Ok(None);
                    }
                    rows.iter().map(head).collect::<Result<_, _>>().map(Some)
                })
            })
            .await
    }

    async fn write(&self, _ctx: &Context, write: &HeadWrite) -> Result<HeadWritten, Error> {
        let options = self.options;
        self.requests
            .write(|connection| {
                scoped(async move {
                    let written = self::write(connection, write, options).await?;
                    if options.outbox {
                        let tags = vec![user_tag(write.key.user_id)];
                        outbox::enqueue(connection, tags, write.at).await?;
                    }
                    Ok(written)
                })
            })
            .await
    }

    async fn claim(
        &self,
        rows: u32,
        lease_for: Duration,
        only: Option<DocumentKey>,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        // For one document somebody waits.
        let lane = if only.is_some() {
            &self.requests
        } else {
            &self.background
        };
        let until = now.plus(lease_for);
        lane.write(|connection| {
            scoped(async move {
                match only {
                    Some(key) => claim_one(connection, key, until, now).await,
                    None => claim_due(connection, rows, until, now).await,
                }
            })
        })
        .await
    }

    async fn finish(&self, claimed: &Claimed, now: Timestamp) -> Result<bool, StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    let done = sqlx::query(
                        "UPDATE document_heads
                         SET applied_version = version, applied_at = $5, next_at = NULL, attempts = 0,
                             lease = NULL, leased_until = NULL
                         WHERE user_id = $1 AND kind = $2 AND lease = $3 AND version = $4",
                    )
                    .bind(claimed.key.user_id.0)
                    .bind(claimed.key.kind.as_str())
                    .bind(claimed.lease)
                    .bind(claimed.version)
                    .bind(at(now))
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected() > 0)
                })
            })
            .await
    }

    async fn release(
        &self,
        claimed: &Claimed,
        next_at: Timestamp,
        foreign: bool,
    ) -> Result<(), StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    sqlx::query(
                        "UPDATE document_heads
                         SET lease = NULL, leased_until = NULL, foreign_content = $5,
                             next_at = CASE WHEN $5 THEN NULL ELSE $4 END
                         WHERE user_id = $1 AND kind = $2 AND lease = $3",
                    )
                    .bind(claimed.key.user_id.0)
                    .bind(claimed.key.kind.as_str())
                    .bind(claimed.lease)
                    .bind(at(next_at))
                    .bind(foreign)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        self.background
            .read(|connection| {
                scoped(async move {
                    let row = sqlx::query(
                        "SELECT count(*) AS pending, min(updated_at) AS oldest,
                             (SELECT count(*) FROM document_heads WHERE foreign_content) AS set_aside
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
            })
            .await
    }

    async fn purge_images(&self, before: Timestamp, rows: u32) -> Result<u64, StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    let done = sqlx::query(
                        "WITH old AS MATERIALIZED (
                             SELECT user_id, kind FROM document_heads
                             WHERE image IS NOT NULL AND applied_at < $1 AND applied_version = version
                             ORDER BY applied_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                         UPDATE document_heads AS d SET image = NULL FROM old
                         WHERE d.user_id = old.user_id AND d.kind = old.kind",
                    )
                    .bind(at(before))
                    .bind(limit(rows))
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await
    }
}

/// The heads of a new user's documents, and the documents themselves if they live here.
pub(super) async fn insert_first(
    connection: &mut PgConnection,
    user: &NewUser,
    epoch: i64,
    options: RelationalOptions,
) -> Result<(), sqlx::Error> {
    let version = versions::next(0, epoch);
    for (kind, document) in [
        (DocumentKind::Preferences, &user.documents.preferences),
        (DocumentKind::Metadata, &user.documents.metadata),
    ] {
        let key = DocumentKey {
            user_id: user.id,
            kind,
        };
        let head = Head {
            kind,
            version,
            hash: document.hash,
            deleted: false,
            applied_version: if options.holds_documents { version } else { -1 },
            image: (!options.holds_documents).then(|| document.canonical.clone()),
            updated_at: user.at,
        };
        insert(connection, key, &head).await?;
        if options.holds_documents {
            content::store(connection, key, version, Some(&document.canonical)).await?;
        }
    }
    Ok(())
}

/// Writes a document inside an open transaction: see [`HeadStore::write`]. The outbox row is the caller's.
pub(super) async fn write(
    connection: &mut PgConnection,
    write: &HeadWrite,
    options: RelationalOptions,
) -> Result<HeadWritten, Abort<Error>> {
    let key = write.key;
    let row = sqlx::query(
        "SELECT epoch, EXISTS (SELECT FROM users WHERE user_id = $1) AS has_user FROM document_epoch",
    )
    .bind(key.user_id.0)
    .fetch_one(&mut *connection)
    .await?;
    if !row.try_get::<bool, _>("has_user")? {
        return Err(Error::NotFound.into());
    }
    // Before the lock: a backfill may import the same document at this moment, and whoever comes second
    // must find the head of the first.
    if let Some(document) = &write.import {
        import(connection, key, document, write.at, options).await?;
    }
    let current = lock(connection, key).await?;
    let epoch = row.integer("epoch")?;
    let Some(written) = versions::write(current.as_ref(), write, epoch, options.holds_documents)?
    else {
        return Ok(unchanged(key, current, write.at));
    };
    match current {
        Some(_) => update(connection, key, &written.head).await?,
        None => {
            if !insert(connection, key, &written.head).await? {
                return Err(Abort::Again("the document was just made"));
            }
        }
    }
    if options.holds_documents {
        let canonical = write
            .content
            .as_ref()
            .map(|content| content.canonical.as_str());
        content::store(connection, key, written.head.version, canonical).await?;
    }
    Ok(written)
}

/// What a deletion of what is not there answers.
fn unchanged(key: DocumentKey, current: Option<Head>, now: Timestamp) -> HeadWritten {
    HeadWritten {
        head: current.unwrap_or(Head {
            kind: key.kind,
            version: 0,
            hash: versions::tombstone_hash(),
            deleted: true,
            applied_version: -1,
            image: None,
            updated_at: now,
        }),
        created: false,
    }
}

async fn lock(
    connection: &mut PgConnection,
    key: DocumentKey,
) -> Result<Option<Head>, sqlx::Error> {
    sqlx::query("SELECT * FROM document_heads WHERE user_id = $1 AND kind = $2 FOR UPDATE")
        .bind(key.user_id.0)
        .bind(key.kind.as_str())
        .fetch_optional(connection)
        .await?
        .map(|row| head(&row))
        .transpose()
}

/// Version 0, which the document store holds already.
async fn import(
    connection: &mut PgConnection,
    key: DocumentKey,
    document: &NewDocument,
    now: Timestamp,
    options: RelationalOptions,
) -> Result<(), sqlx::Error> {
    let head = Head {
        kind: key.kind,
        version: 0,
        hash: document.hash,
        deleted: false,
        applied_version: 0,
        image: None,
        updated_at: now,
    };
    if insert(connection, key, &head).await? && options.holds_documents {
        content::store(connection, key, 0, Some(&document.canonical)).await?;
    }
    Ok(())
}

/// Whether the head is new; one that is there stays as it is.
async fn insert(
    connection: &mut PgConnection,
    key: DocumentKey,
    head: &Head,
) -> Result<bool, sqlx::Error> {
    let is_applied = head.applied_version == head.version;
    let done = sqlx::query(
        "INSERT INTO document_heads (user_id, kind, version, hash, deleted, applied_version, image,
             updated_at, applied_at, next_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
             CASE WHEN $9 THEN $8 END, CASE WHEN NOT $9 THEN $8 END)
         ON CONFLICT DO NOTHING",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(head.version)
    .bind(head.hash.as_slice())
    .bind(head.deleted)
    .bind(head.applied_version)
    .bind(&head.image)
    .bind(at(head.updated_at))
    .bind(is_applied)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A new version: due at once, whoever leased the one before. What was set aside as foreign stays so.
async fn update(
    connection: &mut PgConnection,
    key: DocumentKey,
    head: &Head,
) -> Result<(), sqlx::Error> {
    let is_applied = head.applied_version == head.version;
    sqlx::query(
        "UPDATE document_heads
         SET version = $3, hash = $4, deleted = $5, applied_version = $6, image = $7, updated_at = $8,
             applied_at = CASE WHEN $9 THEN $8 END,
             next_at = CASE WHEN NOT $9 AND NOT foreign_content THEN $8 END,
             lease = NULL, leased_until = NULL, attempts = 0
         WHERE user_id = $1 AND kind = $2",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(head.version)
    .bind(head.hash.as_slice())
    .bind(head.deleted)
    .bind(head.applied_version)
    .bind(&head.image)
    .bind(at(head.updated_at))
    .bind(is_applied)
    .execute(connection)
    .await?;
    Ok(())
}

async fn claim_one(
    connection: &mut PgConnection,
    key: DocumentKey,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, Abort<StoreError>> {
    let rows = sqlx::query(
        "UPDATE document_heads
         SET lease = $3, leased_until = $4, attempts = attempts + 1
         WHERE user_id = $1 AND kind = $2 AND next_at IS NOT NULL AND NOT foreign_content
             AND (leased_until IS NULL OR leased_until <= $5)
         RETURNING *",
    )
    .bind(key.user_id.0)
    .bind(key.kind.as_str())
    .bind(Uuid::new_v4())
    .bind(at(until))
    .bind(at(now))
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(claimed).collect::<Result<_, _>>()?)
}

async fn claim_due(
    connection: &mut PgConnection,
    rows: u32,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Claimed>, Abort<StoreError>> {
    // MATERIALIZED: the rows are chosen and locked once, so never more than LIMIT.
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
             SELECT user_id, kind, next_at AS due_at FROM document_heads
             WHERE next_at <= $1 AND NOT foreign_content
                 AND (leased_until IS NULL OR leased_until <= $1)
             ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED),
         claimed AS (
             UPDATE document_heads AS d
             SET lease = $3, leased_until = $4, attempts = attempts + 1
             FROM due WHERE d.user_id = due.user_id AND d.kind = due.kind
             RETURNING d.*, due.due_at)
         SELECT * FROM claimed ORDER BY due_at, user_id, kind",
    )
    .bind(at(now))
    .bind(limit(rows))
    .bind(Uuid::new_v4())
    .bind(at(until))
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(claimed).collect::<Result<_, _>>()?)
}

fn head(row: &PgRow) -> Result<Head, sqlx::Error> {
    Ok(Head {
        kind: row.parsed("kind", DocumentKind::from_name)?,
        version: row.integer("version")?,
        hash: row.hash("hash")?,
        deleted: row.try_get("deleted")?,
        applied_version: row.integer("applied_version")?,
        image: row.optional_text("image")?,
        updated_at: row.timestamp("updated_at")?,
    })
}

fn claimed(row: &PgRow) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        key: DocumentKey {
            user_id: row.id("user_id")?,
            kind: row.parsed("kind", DocumentKind::from_name)?,
        },
        version: row.integer("version")?,
        hash: row.hash("hash")?,
        image: row.optional_text("image")?,
        lease: row.id("lease")?,
        attempts: row.try_get("attempts")?,
    })
}
