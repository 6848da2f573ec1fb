//! Sessions and revocations on SQLite.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::columns::{Columns, descending_from, left};
use super::error::Abort;
use super::{Sqlite, user_exists};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::{SessionId, UserId};
use crate::ledger::Page;
use crate::sessions::{Error, Revocation, RevocationKind, SessionRecord, Store};
use crate::users::UserStatus;

/// Notes, inside the caller's unit of work, that something is refused from now on.
pub(super) async fn revoke(
    connection: &mut SqliteConnection,
    kind: RevocationKind,
    id: Uuid,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO revocations (kind, id, at) VALUES (?1, ?2, ?3) ON CONFLICT (kind, id, at) DO NOTHING",
    )
    .bind(kind.as_str())
    .bind(id)
    .bind(at.micros())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends all of a user's sessions, inside the caller's unit of work; how many were live.
pub(super) async fn end_all(
    connection: &mut SqliteConnection,
    user_id: UserId,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    let ended = sqlx::query(
        "DELETE FROM sessions WHERE user_id = ?1 RETURNING idle_expires_at > ?2 AND expires_at > ?2 AS live",
    )
    .bind(user_id.0)
    .bind(now.micros())
    .fetch_all(&mut *connection)
    .await?;
    revoke(connection, RevocationKind::User, user_id.0, now).await?;
    let mut live = 0;
    for row in &ended {
        live += u64::from(row.flag("live")?);
    }
    Ok(live)
}

#[async_trait]
impl Store for Sqlite {
    async fn create(&self, session: &SessionRecord, bound: u32) -> Result<(), Error> {
        let now = session.created_at;
        self.relational
            .write(async |connection| {
                match status_of(connection, session.user_id).await? {
                    None => return Err(Abort::Refused(Error::UserNotFound)),
                    Some(UserStatus::Active) => {}
                    Some(_) => return Err(Abort::Refused(Error::UserNotActive)),
                }
                // The new one counts too.
                let kept = bound.saturating_sub(1);
                let surplus = sqlx::query(
                    "DELETE FROM sessions WHERE user_id = ?1 AND session_id IN (
                         SELECT session_id FROM sessions
                         WHERE user_id = ?1 AND idle_expires_at > ?2 AND expires_at > ?2
                         ORDER BY created_at DESC, session_id DESC LIMIT -1 OFFSET ?3)
                     RETURNING session_id",
                )
                .bind(session.user_id.0)
                .bind(now.micros())
                .bind(kept)
                .fetch_all(&mut *connection)
                .await?;
                for row in &surplus {
                    let id = row.id("session_id")?;
                    revoke(connection, RevocationKind::Session, id, now).await?;
                }
                insert(connection, session).await?;
                Ok(())
            })
            .await
    }

    async fn find(
        &self,
        token_hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<SessionRecord>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT session.* FROM sessions AS session JOIN users USING (user_id)
                     WHERE token_hash = ?1 AND idle_expires_at > ?2 AND expires_at > ?2
                         AND status = 'active'",
                )
                .bind(token_hash.as_slice())
                .bind(now.micros())
                .fetch_optional(connection)
                .await?
                .as_ref()
                .map(session)
                .transpose()
            })
            .await
    }

    async fn list(
        &self,
        user_id: UserId,
        page: &Page<(Timestamp, SessionId)>,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        let (created_at, id) = descending_from(page.after.map(|(at, id)| (at, id.0)));
        self.relational
            .snapshot(async |connection| {
                let rows = sqlx::query(
                    "SELECT * FROM sessions
                     WHERE user_id = ?1 AND idle_expires_at > ?2 AND expires_at > ?2
                         AND (created_at, session_id) < (?3, ?4)
                     ORDER BY created_at DESC, session_id DESC LIMIT ?5",
                )
                .bind(user_id.0)
                .bind(now.micros())
                .bind(created_at)
                .bind(id)
                .bind(page.limit)
                .fetch_all(&mut *connection)
                .await?;
                if rows.is_empty() && !user_exists(connection, user_id).await? {
                    return Ok(None);
                }
                rows.iter().map(session).collect::<Result<_, _>>().map(Some)
            })
            .await
    }

    async fn rotate(
        &self,
        old: SessionId,
        new: &SessionRecord,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.relational
            .write(async |connection| {
                let is_active =
                    status_of(connection, new.user_id).await? == Some(UserStatus::Active);
                if !is_active || !end(connection, new.user_id, old, now).await? {
                    return Err(Abort::Refused(Error::NotValid));
                }
                insert(connection, new).await?;
                Ok(())
            })
            .await
    }

    async fn revoke(
        &self,
        user_id: UserId,
        id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.relational
            .write(async |connection| Ok(end(connection, user_id, id, now).await?))
            .await
    }

    async fn revoke_all(&self, user_id: UserId, now: Timestamp) -> Result<u64, StoreError> {
        self.relational
            .write(async |connection| Ok(end_all(connection, user_id, now).await?))
            .await
    }

    async fn touch(
        &self,
        id: SessionId,
        user_id: UserId,
        last_seen_at: Timestamp,
        idle_expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.relational
            .write(async |connection| {
                // Touches may arrive out of order: none takes time back.
                sqlx::query(
                    "UPDATE sessions
                     SET last_seen_at = max(last_seen_at, ?3),
                         idle_expires_at = min(expires_at, max(idle_expires_at, ?4))
                     WHERE user_id = ?1 AND session_id = ?2",
                )
                .bind(user_id.0)
                .bind(id.0)
                .bind(last_seen_at.micros())
                .bind(idle_expires_at.micros())
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    async fn revocations(
        &self,
        since: Timestamp,
        limit: u32,
    ) -> Result<Vec<Revocation>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT kind, id, at FROM revocations WHERE at >= ?1 ORDER BY at DESC, kind, id LIMIT ?2",
                )
                .bind(since.micros())
                .bind(limit)
                .fetch_all(connection)
                .await?
                .iter()
                .map(revocation)
                .collect()
            })
            .await
    }

    async fn purge(
        &self,
        now: Timestamp,
        revoked_before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.relational
            .write(async |connection| {
                // A session never idles past its absolute end, so the idle one alone tells.
                let sessions = sqlx::query(
                    "DELETE FROM sessions WHERE (user_id, session_id) IN (
                         SELECT user_id, session_id FROM sessions
                         WHERE idle_expires_at <= ?1 ORDER BY idle_expires_at LIMIT ?2)",
                )
                .bind(now.micros())
                .bind(limit)
                .execute(&mut *connection)
                .await?;
                let revocations = sqlx::query(
                    "DELETE FROM revocations WHERE (kind, id, at) IN (
                         SELECT kind, id, at FROM revocations WHERE at < ?1 ORDER BY at LIMIT ?2)",
                )
                .bind(revoked_before.micros())
                .bind(left(limit, sessions.rows_affected()))
                .execute(connection)
                .await?;
                Ok(sessions
                    .rows_affected()
                    .saturating_add(revocations.rows_affected()))
            })
            .await
    }

    async fn count(&self, now: Timestamp) -> Result<i64, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query_scalar(
                    "SELECT count(*) FROM sessions WHERE idle_expires_at > ?1 AND expires_at > ?1",
                )
                .bind(now.micros())
                .fetch_one(connection)
                .await
            })
            .await
    }
}

async fn status_of(
    connection: &mut SqliteConnection,
    user_id: UserId,
) -> Result<Option<UserStatus>, sqlx::Error> {
    sqlx::query("SELECT status FROM users WHERE user_id = ?1")
        .bind(user_id.0)
        .fetch_optional(connection)
        .await?
        .map(|row| row.parsed("status", UserStatus::from_name))
        .transpose()
}

/// Ends one live session; `false` when there is none.
async fn end(
    connection: &mut SqliteConnection,
    user_id: UserId,
    id: SessionId,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query(
        "DELETE FROM sessions
         WHERE user_id = ?1 AND session_id = ?2 AND idle_expires_at > ?3 AND expires_at > ?3",
    )
    .bind(user_id.0)
    .bind(id.0)
    .bind(now.micros())
    .execute(&mut *connection)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    revoke(connection, RevocationKind::Session, id.0, now).await?;
    Ok(true)
}

async fn insert(
    connection: &mut SqliteConnection,
    session: &SessionRecord,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sessions (user_id, session_id, token_hash, device, ip, created_at, last_seen_at,
             idle_expires_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .bind(session.user_id.0)
    .bind(session.id.0)
    .bind(session.token_hash.as_slice())
    .bind(session.device.as_deref())
    .bind(session.ip.as_deref())
    .bind(session.created_at.micros())
    .bind(session.last_seen_at.micros())
    .bind(session.idle_expires_at.micros())
    .bind(session.expires_at.micros())
    .execute(connection)
    .await?;
    Ok(())
}

fn session(row: &SqliteRow) -> Result<SessionRecord, sqlx::Error> {
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

fn revocation(row: &SqliteRow) -> Result<Revocation, sqlx::Error> {
    Ok(Revocation {
        kind: row.parsed("kind", RevocationKind::from_name)?,
        id: row.id("id")?,
        at: row.timestamp("at")?,
    })
}
