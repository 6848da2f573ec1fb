//! Sessions and revocations: the durable side.

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::columns::{Columns, at, limit};
use super::error::Abort;
use super::lane::scoped;
use super::{Postgres, user_exists};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::{SessionId, UserId};
use crate::ledger::Page;
use crate::sessions::{Error, Revocation, RevocationKind, SessionRecord, Store};
use crate::users::UserStatus;

#[async_trait]
impl Store for Postgres {
    async fn create(&self, session: &SessionRecord, bound: u32) -> Result<(), Error> {
        self.requests
            .write(|connection| scoped(create(connection, session, bound)))
            .await
    }

    async fn find(
        &self,
        token_hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<SessionRecord>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT s.* FROM sessions AS s JOIN users AS u ON u.user_id = s.user_id
                         WHERE s.token_hash = $1 AND s.idle_expires_at > $2 AND s.expires_at > $2
                             AND u.status = 'active'",
                    )
                    .bind(token_hash.as_slice())
                    .bind(at(now))
                    .fetch_optional(connection)
                    .await?
                    .map(|row| session(&row))
                    .transpose()
                })
            })
            .await
    }

    async fn list(
        &self,
        user_id: UserId,
        page: &Page<(Timestamp, SessionId)>,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        self.requests
            .read(|connection| scoped(list(connection, user_id, page, now)))
            .await
    }

    async fn rotate(
        &self,
        old: SessionId,
        new: &SessionRecord,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.requests
            .write(|connection| scoped(rotate(connection, old, new, now)))
            .await
    }

    async fn revoke(
        &self,
        user_id: UserId,
        id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.requests
            .write(|connection| {
                scoped(async move {
                    let ended = end(connection, user_id, id, now).await?;
                    if ended {
                        insert_revocations(connection, RevocationKind::Session, &[id.0], now)
                            .await?;
                    }
                    Ok(ended)
                })
            })
            .await
    }

    async fn revoke_all(&self, user_id: UserId, now: Timestamp) -> Result<u64, StoreError> {
        self.requests
            .write(|connection| {
                scoped(async move {
                    // A session that is being made right now either waits for this or is seen by it.
                    if lock_user(connection, user_id).await?.is_none() {
                        return Ok(0);
                    }
                    Ok(end_all(connection, user_id, now).await?)
                })
            })
            .await
    }

    async fn touch(
        &self,
        id: SessionId,
        user_id: UserId,
        last_seen_at: Timestamp,
        idle_expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.requests
            .write(|connection| {
                scoped(async move {
                    // Never backwards: notes of several instances come in any order.
                    sqlx::query(
                        "UPDATE sessions SET last_seen_at = greatest(last_seen_at, $3),
                             idle_expires_at = least(greatest(idle_expires_at, $4), expires_at)
                         WHERE user_id = $1 AND session_id = $2",
                    )
                    .bind(user_id.0)
                    .bind(id.0)
                    .bind(at(last_seen_at))
                    .bind(at(idle_expires_at))
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn revocations(
        &self,
        since: Timestamp,
        rows: u32,
    ) -> Result<Vec<Revocation>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT kind, id, at FROM revocations WHERE at >= $1
                         ORDER BY at DESC, kind DESC, id DESC LIMIT $2",
                    )
                    .bind(at(since))
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(revocation)
                    .collect()
                })
            })
            .await
    }

    async fn purge(
        &self,
        now: Timestamp,
        revoked_before: Timestamp,
        rows: u32,
    ) -> Result<u64, StoreError> {
        self.background
            .write(|connection| scoped(purge(connection, now, revoked_before, rows)))
            .await
    }

    async fn count(&self, now: Timestamp) -> Result<i64, StoreError> {
        self.background
            .read(|connection| {
                scoped(async move {
                    sqlx::query_scalar(
                        "SELECT count(*) FROM sessions AS s JOIN users AS u ON u.user_id = s.user_id
                         WHERE s.idle_expires_at > $1 AND s.expires_at > $1 AND u.status = 'active'",
                    )
                    .bind(at(now))
                    .fetch_one(connection)
                    .await
                })
            })
            .await
    }
}

async fn create(
    connection: &mut PgConnection,
    session: &SessionRecord,
    bound: u32,
) -> Result<(), Abort<Error>> {
    match lock_user(connection, session.user_id).await? {
        None => return Err(Error::UserNotFound.into()),
        Some(UserStatus::Active) => {}
        Some(_) => return Err(Error::UserNotActive.into()),
    }
    // Room for the new one.
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "DELETE FROM sessions WHERE user_id = $1 AND session_id IN (
             SELECT session_id FROM sessions
             WHERE user_id = $1 AND idle_expires_at > $2 AND expires_at > $2
             ORDER BY created_at DESC, session_id DESC OFFSET $3)
         RETURNING session_id",
    )
    .bind(session.user_id.0)
    .bind(at(session.created_at))
    .bind(limit(bound.saturating_sub(1)))
    .fetch_all(&mut *connection)
    .await?;
    insert_revocations(
        connection,
        RevocationKind::Session,
        &ended,
        session.created_at,
    )
    .await?;
    insert(connection, session).await?;
    Ok(())
}

async fn list(
    connection: &mut PgConnection,
    user_id: UserId,
    page: &Page<(Timestamp, SessionId)>,
    now: Timestamp,
) -> Result<Option<Vec<SessionRecord>>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.* FROM sessions AS s JOIN users AS u ON u.user_id = s.user_id
         WHERE s.user_id = $1 AND s.idle_expires_at > $2 AND s.expires_at > $2 AND u.status = 'active'
             AND ($3::timestamptz IS NULL OR (s.created_at, s.session_id) < ($3, $4))
         ORDER BY s.created_at DESC, s.session_id DESC LIMIT $5",
    )
    .bind(user_id.0)
    .bind(at(now))
    .bind(page.after.map(|(created_at, _)| at(created_at)))
    .bind(page.after.map(|(_, id)| id.0))
    .bind(limit(page.limit))
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() && !user_exists(connection, user_id).await? {
        return Ok(None);
    }
    rows.iter().map(session).collect::<Result<_, _>>().map(Some)
}

async fn rotate(
    connection: &mut PgConnection,
    old: SessionId,
    new: &SessionRecord,
    now: Timestamp,
) -> Result<(), Abort<Error>> {
    let is_active = lock_user(connection, new.user_id).await? == Some(UserStatus::Active);
    if !is_active || !end(connection, new.user_id, old, now).await? {
        return Err(Error::NotValid.into());
    }
    insert_revocations(connection, RevocationKind::Session, &[old.0], now).await?;
    insert(connection, new).await?;
    Ok(())
}

/// Ends all of a user's sessions, with one revocation row for those that other instances may still serve;
/// gives how many were live.
pub(super) async fn end_all(
    connection: &mut PgConnection,
    user_id: UserId,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    let live: i64 = sqlx::query_scalar(
        "WITH ended AS (DELETE FROM sessions WHERE user_id = $1 RETURNING idle_expires_at, expires_at)
         SELECT count(*) FROM ended WHERE idle_expires_at > $2 AND expires_at > $2",
    )
    .bind(user_id.0)
    .bind(at(now))
    .fetch_one(&mut *connection)
    .await?;
    insert_revocations(connection, RevocationKind::User, &[user_id.0], now).await?;
    Ok(u64::try_from(live).unwrap_or(0))
}

/// Writes rows that make every instance refuse what a cache may still hold.
pub(super) async fn insert_revocations(
    connection: &mut PgConnection,
    kind: RevocationKind,
    ids: &[Uuid],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO revocations (kind, id, at) SELECT $1, id, $3 FROM unnest($2::uuid[]) AS ended (id)
         ON CONFLICT DO NOTHING",
    )
    .bind(kind.as_str())
    .bind(ids)
    .bind(at(now))
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends one live session; whether there was one.
async fn end(
    connection: &mut PgConnection,
    user_id: UserId,
    id: SessionId,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "DELETE FROM sessions
         WHERE user_id = $1 AND session_id = $2 AND idle_expires_at > $3 AND expires_at > $3",
    )
    .bind(user_id.0)
    .bind(id.0)
    .bind(at(now))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

async fn insert(connection: &mut PgConnection, session: &SessionRecord) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sessions (user_id, session_id, token_hash, device, ip, created_at, last_seen_at,
             idle_expires_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(session.user_id.0)
    .bind(session.id.0)
    .bind(session.token_hash.as_slice())
    .bind(&session.device)
    .bind(&session.ip)
    .bind(at(session.created_at))
    .bind(at(session.last_seen_at))
    .bind(at(session.idle_expires_at))
    .bind(at(session.expires_at))
    .execute(connection)
    .await?;
    Ok(())
}

/// Two bounded deletions; what is locked by somebody is left for the next time.
async fn purge(
    connection: &mut PgConnection,
    now: Timestamp,
    revoked_before: Timestamp,
    rows: u32,
) -> Result<u64, Abort<StoreError>> {
    let sessions = sqlx::query(
        "WITH gone AS MATERIALIZED (
             SELECT user_id, session_id FROM sessions WHERE idle_expires_at <= $1 OR expires_at <= $1
             LIMIT $2 FOR UPDATE SKIP LOCKED)
         DELETE FROM sessions AS s USING gone
         WHERE s.user_id = gone.user_id AND s.session_id = gone.session_id",
    )
    .bind(at(now))
    .bind(limit(rows))
    .execute(&mut *connection)
    .await?;
    let left = i64::from(rows).saturating_sub(i64::try_from(sessions.rows_affected()).unwrap_or(0));
    let revocations = sqlx::query(
        "WITH gone AS MATERIALIZED (
             SELECT kind, id, at FROM revocations WHERE at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
         DELETE FROM revocations AS r USING gone
         WHERE r.kind = gone.kind AND r.id = gone.id AND r.at = gone.at",
    )
    .bind(at(revoked_before))
    .bind(left)
    .execute(connection)
    .await?;
    Ok(sessions
        .rows_affected()
        .saturating_add(revocations.rows_affected()))
}

/// Locks the user's row against changes of its status and of its set of sessions; `None`: no such user.
async fn lock_user(
    connection: &mut PgConnection,
    id: UserId,
) -> Result<Option<UserStatus>, sqlx::Error> {
    sqlx::query("SELECT status FROM users WHERE user_id = $1 FOR NO KEY UPDATE")
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .map(|row| row.parsed("status", UserStatus::from_name))
        .transpose()
}

fn session(row: &PgRow) -> Result<SessionRecord, sqlx::Error> {
    Ok(SessionRecord {
        id: row.id("session_id")?,
        user_id: row.id("user_id")?,
        token_hash: row.hash("token_hash")?,
        device: row.optional_text("device")?,
        ip: row.optional_text("ip")?,
        created_at: row.timestamp("created_at")?,
        last_seen_at: row.timestamp("last_seen_at")?,
        idle_expires_at: row.timestamp("idle_expires_at")?,
        expires_at: row.timestamp("expires_at")?,
    })
}

fn revocation(row: &PgRow) -> Result<Revocation, sqlx::Error> {
    Ok(Revocation {
        kind: row.parsed("kind", RevocationKind::from_name)?,
        id: row.id("id")?,
        at: row.timestamp("at")?,
    })
}
