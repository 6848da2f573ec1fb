//! Developers' data. What has expired is treated as if it were not there; the sweep takes it away later.

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::columns::{Columns, at, limit};
use super::error::Abort;
use super::lane::scoped;
use crate::clock::Timestamp;
use crate::documents::canonical::canonical_json;
use crate::documents::{DevDataEntry, DevDataStore, DevDataWrite, Error, Expected, versions};
use crate::error::StoreError;
use crate::ledger::Page;

#[async_trait]
impl DevDataStore for Postgres {
    async fn get(
        &self,
        namespace: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT * FROM dev_data WHERE namespace = $1 AND key = $2
                             AND (expires_at IS NULL OR expires_at > $3)",
                    )
                    .bind(namespace)
                    .bind(key)
                    .bind(at(now))
                    .fetch_optional(connection)
                    .await?
                    .map(|row| entry(&row))
                    .transpose()
                })
            })
            .await
    }

    async fn put(&self, write: &DevDataWrite) -> Result<(DevDataEntry, bool), Error> {
        self.requests
            .write(|connection| scoped(put(connection, write)))
            .await
    }

    async fn delete(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.requests
            .write(|connection| {
                scoped(async move {
                    let current = lock(connection, namespace, key).await?.live(now);
                    check(expected, current)?;
                    sqlx::query("DELETE FROM dev_data WHERE namespace = $1 AND key = $2")
                        .bind(namespace)
                        .bind(key)
                        .execute(connection)
                        .await?;
                    Ok(current.is_some())
                })
            })
            .await
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        page: &Page<String>,
        now: Timestamp,
    ) -> Result<Vec<DevDataEntry>, StoreError> {
        // Keys are compared by their bytes, so those with the prefix are a range, which ends before the
        // prefix and the largest character.
        let end = &format!("{prefix}\u{10ffff}");
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT * FROM dev_data
                         WHERE namespace = $1 AND key >= $2 AND key < $3 AND ($4::text IS NULL OR key > $4)
                             AND (expires_at IS NULL OR expires_at > $5)
                         ORDER BY key LIMIT $6",
                    )
                    .bind(namespace)
                    .bind(prefix)
                    .bind(end)
                    .bind(&page.after)
                    .bind(at(now))
                    .bind(limit(page.limit))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(entry)
                    .collect()
                })
            })
            .await
    }

    async fn purge(&self, now: Timestamp, rows: u32) -> Result<u64, StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    let done = sqlx::query(
                        "WITH gone AS MATERIALIZED (
                             SELECT namespace, key FROM dev_data WHERE expires_at <= $1
                             LIMIT $2 FOR UPDATE SKIP LOCKED)
                         DELETE FROM dev_data AS d USING gone
                         WHERE d.namespace = gone.namespace AND d.key = gone.key",
                    )
                    .bind(at(now))
                    .bind(limit(rows))
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await
    }
}

/// The row of a key, locked.
enum Found {
    Nothing,
    Row {
        version: i64,
        expires_at: Option<Timestamp>,
    },
}

impl Found {
    /// The version that readers see.
    fn live(&self, now: Timestamp) -> Option<i64> {
        match *self {
            Self::Row {
                version,
                expires_at,
            } if expires_at.is_none_or(|expires_at| expires_at > now) => Some(version),
            _ => None,
        }
    }
}

async fn lock(
    connection: &mut PgConnection,
    namespace: &str,
    key: &str,
) -> Result<Found, sqlx::Error> {
    let row = sqlx::query(
        "SELECT version, expires_at FROM dev_data WHERE namespace = $1 AND key = $2 FOR UPDATE",
    )
    .bind(namespace)
    .bind(key)
    .fetch_optional(connection)
    .await?;
    match row {
        None => Ok(Found::Nothing),
        Some(row) => Ok(Found::Row {
            version: row.integer("version")?,
            expires_at: row.optional_timestamp("expires_at")?,
        }),
    }
}

async fn put(
    connection: &mut PgConnection,
    write: &DevDataWrite,
) -> Result<(DevDataEntry, bool), Abort<Error>> {
    let found = lock(connection, &write.namespace, &write.key).await?;
    let current = found.live(write.now);
    check(write.expected, current)?;
    let stored = DevDataEntry {
        namespace: write.namespace.clone(),
        key: write.key.clone(),
        value: write.value.clone(),
        version: versions::next_entry(current, write.now),
        expires_at: write.expires_at,
        updated_at: write.now,
    };
    let sql = match found {
        Found::Nothing => {
            "INSERT INTO dev_data (namespace, key, canonical, doc, version, expires_at, updated_at)
             VALUES ($1, $2, $3, $3::jsonb, $4, $5, $6) ON CONFLICT DO NOTHING"
        }
        Found::Row { .. } => {
            "UPDATE dev_data SET canonical = $3, doc = $3::jsonb, version = $4, expires_at = $5,
                 updated_at = $6
             WHERE namespace = $1 AND key = $2"
        }
    };
    let done = sqlx::query(sql)
        .bind(&stored.namespace)
        .bind(&stored.key)
        .bind(canonical_json(&stored.value))
        .bind(stored.version)
        .bind(stored.expires_at.map(at))
        .bind(at(stored.updated_at))
        .execute(connection)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Abort::Again("the key was just made"));
    }
    Ok((stored, current.is_none()))
}

fn check(expected: Expected, current: Option<i64>) -> Result<(), Error> {
    if versions::holds(expected, current) {
        Ok(())
    } else {
        Err(Error::VersionMismatch { current })
    }
}

fn entry(row: &PgRow) -> Result<DevDataEntry, sqlx::Error> {
    Ok(DevDataEntry {
        namespace: row.text("namespace")?,
        key: row.text("key")?,
        value: row.json("canonical")?,
        version: row.integer("version")?,
        expires_at: row.optional_timestamp("expires_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}
