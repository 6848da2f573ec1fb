//! Service keys on SQLite.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::columns::Columns;
use super::error::undecodable;
use super::{Sqlite, audit, sessions};
use crate::audit::drafts;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::KeyId;
use crate::keys::{ServiceKey, Store};
use crate::sessions::RevocationKind;

#[async_trait]
impl Store for Sqlite {
    async fn insert(&self, ctx: &Context, key: &ServiceKey) -> Result<(), StoreError> {
        let scopes = serde_json::to_string(&key.scopes)
            .map_err(|error| StoreError::unexpected(self.relational.store(), error))?;
        self.relational
            .write(async |connection| {
                sqlx::query(
                    "INSERT INTO service_keys (key_id, owner, scopes, token_hash, created_at, revoked_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )
                .bind(key.id.0)
                .bind(&key.owner)
                .bind(&scopes)
                .bind(key.token_hash.as_slice())
                .bind(key.created_at.micros())
                .bind(key.revoked_at.map(Timestamp::micros))
                .execute(&mut *connection)
                .await?;
                audit::append(connection, drafts::key_created(ctx, key.id, key.created_at)).await?;
                Ok(())
            })
            .await
    }

    async fn find(&self, token_hash: &[u8; 32]) -> Result<Option<ServiceKey>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query("SELECT * FROM service_keys WHERE token_hash = ?1")
                    .bind(token_hash.as_slice())
                    .fetch_optional(connection)
                    .await?
                    .as_ref()
                    .map(service_key)
                    .transpose()
            })
            .await
    }

    async fn list(&self) -> Result<Vec<ServiceKey>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query("SELECT * FROM service_keys ORDER BY created_at DESC, key_id DESC")
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(service_key)
                    .collect()
            })
            .await
    }

    async fn revoke(
        &self,
        ctx: &Context,
        id: KeyId,
        at: Timestamp,
    ) -> Result<Option<ServiceKey>, StoreError> {
        self.relational
            .write(async |connection| {
                let Some(mut key) = find_by_id(connection, id).await? else {
                    return Ok(None);
                };
                if key.revoked_at.is_some() {
                    return Ok(Some(key));
                }
                key.revoked_at = Some(at);
                sqlx::query("UPDATE service_keys SET revoked_at = ?2 WHERE key_id = ?1")
                    .bind(id.0)
                    .bind(at.micros())
                    .execute(&mut *connection)
                    .await?;
                sessions::revoke(connection, RevocationKind::Key, id.0, at).await?;
                audit::append(connection, drafts::key_revoked(ctx, id, at)).await?;
                Ok(Some(key))
            })
            .await
    }
}

async fn find_by_id(
    connection: &mut SqliteConnection,
    id: KeyId,
) -> Result<Option<ServiceKey>, sqlx::Error> {
    sqlx::query("SELECT * FROM service_keys WHERE key_id = ?1")
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(service_key)
        .transpose()
}

fn service_key(row: &SqliteRow) -> Result<ServiceKey, sqlx::Error> {
    Ok(ServiceKey {
        id: row.id("key_id")?,
        owner: row.text("owner")?,
        scopes: serde_json::from_str(row.try_get("scopes")?)
            .map_err(|error| undecodable("scopes", error))?,
        token_hash: row.hash("token_hash")?,
        created_at: row.timestamp("created_at")?,
        revoked_at: row.optional_timestamp("revoked_at")?,
    })
}
