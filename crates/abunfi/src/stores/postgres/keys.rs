//! Service keys.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::columns::{Columns, at};
use super::error::{Abort, undecodable};
use super::lane::scoped;
use super::{Postgres, audit, sessions};
use crate::audit::drafts;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::KeyId;
use crate::keys::{Scope, ServiceKey, Store};
use crate::sessions::RevocationKind;

#[async_trait]
impl Store for Postgres {
    async fn insert(&self, ctx: &Context, key: &ServiceKey) -> Result<(), StoreError> {
        self.requests
            .write(|connection| scoped(insert(connection, ctx, key)))
            .await
    }

    async fn find(&self, token_hash: &[u8; 32]) -> Result<Option<ServiceKey>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query("SELECT * FROM service_keys WHERE token_hash = $1")
                        .bind(token_hash.as_slice())
                        .fetch_optional(connection)
                        .await?
                        .map(|row| service_key(&row))
                        .transpose()
                })
            })
            .await
    }

    async fn list(&self) -> Result<Vec<ServiceKey>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query("SELECT * FROM service_keys ORDER BY created_at DESC, key_id DESC")
                        .fetch_all(connection)
                        .await?
                        .iter()
                        .map(service_key)
                        .collect()
                })
            })
            .await
    }

    async fn revoke(
        &self,
        ctx: &Context,
        id: KeyId,
        at: Timestamp,
    ) -> Result<Option<ServiceKey>, StoreError> {
        self.requests
            .write(|connection| scoped(revoke(connection, ctx, id, at)))
            .await
    }
}

async fn insert(
    connection: &mut PgConnection,
    ctx: &Context,
    key: &ServiceKey,
) -> Result<(), Abort<StoreError>> {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    sqlx::query(
        "INSERT INTO service_keys (key_id, owner, scopes, token_hash, created_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.id.0)
    .bind(&key.owner)
    .bind(scopes)
    .bind(key.token_hash.as_slice())
    .bind(at(key.created_at))
    .bind(key.revoked_at.map(at))
    .execute(&mut *connection)
    .await?;
    audit::append(connection, drafts::key_created(ctx, key.id, key.created_at)).await?;
    Ok(())
}

async fn revoke(
    connection: &mut PgConnection,
    ctx: &Context,
    id: KeyId,
    now: Timestamp,
) -> Result<Option<ServiceKey>, Abort<StoreError>> {
    let found = sqlx::query("SELECT * FROM service_keys WHERE key_id = $1 FOR UPDATE")
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(mut key) = found.as_ref().map(service_key).transpose()? else {
        return Ok(None);
    };
    if key.revoked_at.is_some() {
        return Ok(Some(key));
    }
    key.revoked_at = Some(now);
    sqlx::query("UPDATE service_keys SET revoked_at = $2 WHERE key_id = $1")
        .bind(id.0)
        .bind(at(now))
        .execute(&mut *connection)
        .await?;
    sessions::insert_revocations(connection, RevocationKind::Key, &[id.0], now).await?;
    audit::append(connection, drafts::key_revoked(ctx, id, now)).await?;
    Ok(Some(key))
}

fn service_key(row: &PgRow) -> Result<ServiceKey, sqlx::Error> {
    let scopes: Vec<String> = row.try_get("scopes")?;
    Ok(ServiceKey {
        id: row.id("key_id")?,
        owner: row.text("owner")?,
        scopes: scopes
            .iter()
            .map(|name| {
                Scope::from_name(name).ok_or_else(|| undecodable("scopes", "not a known value"))
            })
            .collect::<Result<_, _>>()?,
        token_hash: row.hash("token_hash")?,
        created_at: row.timestamp("created_at")?,
        revoked_at: row.optional_timestamp("revoked_at")?,
    })
}
