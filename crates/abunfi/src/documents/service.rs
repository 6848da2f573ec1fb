//! What callers use of documents.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::Page;

/// A user-owned document as it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentView {
    /// With the preferences' missing core fields filled in; never a mark of its state inside.
    pub value: Value,
    /// The head's version; 0 when nothing was ever written.
    pub version: i64,
    pub state: DocumentState,
}

/// A write of a user-owned document.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Put(Value),
    /// RFC 7396, onto the current document only: with a stale one it is refused as unavailable.
    Patch(Value),
    Delete,
}

/// The stores behind it.
#[derive(Debug, Clone)]
pub struct Stores {
    pub heads: Arc<dyn HeadStore>,
    pub content: Arc<dyn ContentStore>,
    pub dev_data: Arc<dyn DevDataStore>,
    pub logs: Arc<dyn LogStore>,
    /// Whether content lives in the relational store itself, so that a head's write is the whole write.
    pub relational: bool,
}

#[derive(Debug, Clone)]
pub struct Service {
    stores: Stores,
    cache: Cache,
    clock: SharedClock,
    /// How long an answer waits for the document store to take what is already committed.
    apply_deadline: Duration,
    /// How long log lines are kept.
    log_retention: Duration,
}

impl Service {
    #[must_use]
    pub fn new(
        stores: Stores,
        cache: Cache,
        clock: SharedClock,
        apply_deadline: Duration,
        log_retention: Duration,
    ) -> Self {
        Self {
            stores,
            cache,
            clock,
            apply_deadline,
            log_retention,
        }
    }

    /// Both documents of a user whose heads are known, read as the design says: what matches the head,
    /// else the head's image, else one more read, else a stale copy or the defaults, marked. Never an
    /// error because the document store is away.
    pub async fn read_for(&self, user_id: UserId, heads: &[Head]) -> UserDocuments {
        todo!()
    }

    /// One document. `NotFound`: no such user. Metadata without any copy is
    /// [`StoreError::Unavailable`].
    pub async fn get(&self, key: DocumentKey) -> Result<DocumentView, Error> {
        todo!()
    }

    /// Accepted (committed in the relational store) on return, and applied to the document store if that
    /// answers within the deadline.
    pub async fn write(
        &self,
        ctx: &Context,
        key: DocumentKey,
        write: Write,
        expected: Expected,
    ) -> Result<DocumentView, Error> {
        todo!()
    }

    /// Applies what a commit of another domain (a new user) left in the heads, up to the deadline.
    pub async fn apply_now(&self, keys: &[DocumentKey]) {
        todo!()
    }

    pub async fn dev_data(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        todo!()
    }

    /// Checks the limits and the names; the flag says whether it was made.
    pub async fn put_dev_data(
        &self,
        namespace: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<(DevDataEntry, bool), Error> {
        todo!()
    }

    /// RFC 7396 onto what is there; `NotFound` when there is nothing. `ttl: None` keeps the expiry.
    pub async fn patch_dev_data(
        &self,
        namespace: &str,
        key: &str,
        patch: Value,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<DevDataEntry, Error> {
        todo!()
    }

    pub async fn delete_dev_data(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
    ) -> Result<(), Error> {
        todo!()
    }

    pub async fn list_dev_data(
        &self,
        namespace: &str,
        prefix: &str,
        page: &Page<String>,
    ) -> Result<Vec<DevDataEntry>, StoreError> {
        todo!()
    }

    /// Durable on return.
    pub async fn append_logs(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        todo!()
    }

    pub async fn logs(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
    ) -> Result<Vec<LogEntry>, StoreError> {
        todo!()
    }

    /// One bounded sweep over what has expired (dev data, logs, images); how many rows went.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        todo!()
    }
}

/// Both documents of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserDocuments {
    pub preferences: DocumentView,
    pub metadata: DocumentView,
    /// The document store did not answer.
    pub store_away: bool,
}
