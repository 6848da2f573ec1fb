//! Developers' data on SQLite, in the file of their own.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::Sqlite;
use super::columns::Columns;
use super::error::Abort;
use crate::clock::Timestamp;
use crate::documents::canonical::canonical_json;
use crate::documents::{DevDataEntry, DevDataStore, DevDataWrite, Error, Expected, versions};
use crate::error::StoreError;
use crate::ledger::Page;

#[async_trait]
impl DevDataStore for Sqlite {
    async fn get(
        &self,
        namespace: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        self.documents()?
            .read(async |connection| find(connection, namespace, key, now).await)
            .await
    }

    async fn put(&self, write: &DevDataWrite) -> Result<(DevDataEntry, bool), Error> {
        self.documents()?
            .write(async |connection| {
                let current = find(connection, &write.namespace, &write.key, write.now).await?;
                let version = current.as_ref().map(|entry| entry.version);
                check(write.expected, version)?;
                let entry = DevDataEntry {
                    namespace: write.namespace.clone(),
                    key: write.key.clone(),
                    value: write.value.clone(),
                    version: versions::next_entry(version, write.now),
                    expires_at: write.expires_at,
                    updated_at: write.now,
                };
                upsert(connection, &entry).await?;
                Ok((entry, current.is_none()))
            })
            .await
    }

    async fn delete(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.documents()?
            .write(async |connection| {
                let current = find(connection, namespace, key, now).await?;
                check(expected, current.as_ref().map(|entry| entry.version))?;
                sqlx::query("DELETE FROM dev_data WHERE namespace = ?1 AND key = ?2")
                    .bind(namespace)
                    .bind(key)
                    .execute(connection)
                    .await?;
                Ok(current.is_some())
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
        // No key holds the last of all characters, so what begins with the prefix lies before this.
        let end = format!("{prefix}{}", char::MAX);
        self.documents()?
            .read(async |connection| {
                sqlx::query(
                    "SELECT * FROM dev_data
                     WHERE namespace = ?1 AND key >= ?2 AND key < ?3 AND key > ?4
                         AND (expires_at IS NULL OR expires_at > ?5)
                     ORDER BY key LIMIT ?6",
                )
                .bind(namespace)
                .bind(prefix)
                .bind(end)
                .bind(page.after.as_deref().unwrap_or(""))
                .bind(now.micros())
                .bind(page.limit)
                .fetch_all(connection)
                .await?
                .iter()
                .map(entry)
                .collect()
            })
            .await
    }

    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.documents()?
            .write(async |connection| {
                let purged = sqlx::query(
                    "DELETE FROM dev_data WHERE rowid IN (
                         SELECT rowid FROM dev_data WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
                )
                .bind(now.micros())
                .bind(limit)
                .execute(connection)
                .await?;
                Ok(purged.rows_affected())
            })
            .await
    }
}

fn check(expected: Expected, current: Option<i64>) -> Result<(), Abort<Error>> {
    if versions::holds(expected, current) {
        Ok(())
    } else {
        Err(Abort::Refused(Error::VersionMismatch { current }))
    }
}

/// What has expired is not there, whether swept or not: a key that comes back is a new entry.
async fn find(
    connection: &mut SqliteConnection,
    namespace: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<DevDataEntry>, sqlx::Error> {
    sqlx::query(
        "SELECT * FROM dev_data
         WHERE namespace = ?1 AND key = ?2 AND (expires_at IS NULL OR expires_at > ?3)",
    )
    .bind(namespace)
    .bind(key)
    .bind(now.micros())
    .fetch_optional(connection)
    .await?
    .as_ref()
    .map(entry)
    .transpose()
}

async fn upsert(
    connection: &mut SqliteConnection,
    entry: &DevDataEntry,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO dev_data (namespace, key, canonical, version, expires_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (namespace, key) DO UPDATE SET
             canonical = excluded.canonical, version = excluded.version,
             expires_at = excluded.expires_at, updated_at = excluded.updated_at",
    )
    .bind(&entry.namespace)
    .bind(&entry.key)
    .bind(canonical_json(&entry.value))
    .bind(entry.version)
    .bind(entry.expires_at.map(Timestamp::micros))
    .bind(entry.updated_at.micros())
    .execute(connection)
    .await?;
    Ok(())
}

fn entry(row: &SqliteRow) -> Result<DevDataEntry, sqlx::Error> {
    Ok(DevDataEntry {
        namespace: row.text("namespace")?,
        key: row.text("key")?,
        value: row.json("canonical")?,
        version: row.integer("version")?,
        expires_at: row.optional_timestamp("expires_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}
