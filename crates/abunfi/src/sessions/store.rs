//! What sessions ask of the relational store. One method is one atomic unit.

use async_trait::async_trait;

use super::{Error, SessionRecord};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::{SessionId, UserId};
use crate::ledger::{Page, words};

words! {
    RevocationKind {
        Session = "session",
        /// All sessions of the user made before the revocation.
        User = "user",
        /// A service key.
        Key = "key",
    }
}

/// Something that was valid and must be refused from now on, whatever a cache says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub kind: RevocationKind,
    /// The id of the session, user or key.
    pub id: uuid::Uuid,
    pub at: Timestamp,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Locks the user row, refuses a user who is missing or not active, ends the oldest sessions beyond
    /// `bound` (with revocation rows), stores the new one. Durable on return.
    async fn create(&self, session: &SessionRecord, bound: u32) -> Result<(), Error>;

    /// By the token's hash; expired and revoked ones are not found, nor those of users who are not active.
    async fn find(
        &self,
        token_hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<SessionRecord>, StoreError>;

    /// The user's live sessions, newest first by `(created_at, id)`. `None`: there is no such user.
    async fn list(
        &self,
        user_id: UserId,
        page: &Page<(Timestamp, SessionId)>,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError>;

    /// One commit: ends the old session and stores the new one, with a revocation row. `NotValid` when
    /// the old one is not live.
    async fn rotate(
        &self,
        old: SessionId,
        new: &SessionRecord,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Ends one session with a revocation row; `false` when the user has no such live session.
    async fn revoke(
        &self,
        user_id: UserId,
        id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Ends all of a user's sessions with one revocation row; how many.
    async fn revoke_all(&self, user_id: UserId, now: Timestamp) -> Result<u64, StoreError>;

    /// Notes activity; does nothing to a session that is gone.
    async fn touch(
        &self,
        id: SessionId,
        user_id: UserId,
        last_seen_at: Timestamp,
        idle_expires_at: Timestamp,
    ) -> Result<(), StoreError>;

    /// All revocations at `since` or later, at most `limit`, newest first.
    async fn revocations(
        &self,
        since: Timestamp,
        limit: u32,
    ) -> Result<Vec<Revocation>, StoreError>;

    /// Deletes sessions that have expired and revocations older than `revoked_before`; how many.
    async fn purge(
        &self,
        now: Timestamp,
        revoked_before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// How many live sessions there are.
    async fn count(&self, now: Timestamp) -> Result<i64, StoreError>;
}
