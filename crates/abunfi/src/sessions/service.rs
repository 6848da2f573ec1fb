//! What callers use of sessions.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::error::StoreError;
use crate::ids::{SessionId, UserId};
use crate::ledger::Page;

/// Times and bounds of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// Ends a session without activity.
    pub idle_ttl_seconds: u32,
    /// Ends a session whatever happens; also the longest `ttl` that a caller may ask for.
    pub max_ttl_seconds: u32,
    /// Live sessions of one user; beyond it the oldest end.
    pub max_per_user: u32,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        Self {
            idle_ttl_seconds: 7 * 24 * 3600,
            max_ttl_seconds: 30 * 24 * 3600,
            max_per_user: 20,
        }
    }
}

/// A session as a caller asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSession {
    pub device: Option<String>,
    pub ip: Option<String>,
    /// Absolute life in seconds; `None`: the policy's.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    cache: Cache,
    clock: SharedClock,
    policy: SessionPolicy,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Cache,
        clock: SharedClock,
        policy: SessionPolicy,
    ) -> Self {
        Self {
            store,
            cache,
            clock,
            policy,
        }
    }

    /// The token (shown this once) and the session. Durable on return.
    pub async fn create(
        &self,
        user_id: UserId,
        request: NewSession,
    ) -> Result<(String, Session), Error> {
        todo!()
    }

    /// Who this token is, counted as activity. [`Error::NotValid`] for anything that is not live. With the
    /// relational store away, a serving copy of at most ten minutes answers.
    pub async fn authenticate(&self, token: &str) -> Result<SessionRecord, Error> {
        todo!()
    }

    pub async fn list(
        &self,
        user_id: UserId,
        page: &Page<(Timestamp, SessionId)>,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        todo!()
    }

    /// A new token for the same session's user and life; the old one ends in the same commit.
    pub async fn rotate(&self, session: &SessionRecord) -> Result<(String, Session), Error> {
        todo!()
    }

    /// Ends one session; fine when it is gone already. `UserNotFound` when there is no such user.
    pub async fn revoke(&self, user_id: UserId, id: SessionId) -> Result<(), Error> {
        todo!()
    }

    pub async fn revoke_all(&self, user_id: UserId) -> Result<(), Error> {
        todo!()
    }

    /// Reads the revocation rows since a while ago, so that serving copies of what was revoked are
    /// refused. Called every half second by a background task.
    pub async fn refresh_revocations(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// One bounded sweep over what has expired; how many rows went.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        todo!()
    }

    pub async fn count(&self) -> Result<i64, StoreError> {
        todo!()
    }
}
