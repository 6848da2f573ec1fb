//! What documents ask of the relational store (heads) and of the document store (content).

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{DocumentKey, DocumentKind, Error, Expected, Head, LogEntry, LogLevel, NewDocument};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::Page;

/// One write of a user-owned document.
#[derive(Debug, Clone)]
pub struct HeadWrite {
    pub key: DocumentKey,
    pub expected: Expected,
    /// `None` deletes: the head becomes a tombstone.
    pub content: Option<NewDocument>,
    /// A document that the document store had before this platform wrote it: imported as version 0
    /// (insert, on conflict nothing) before the head is locked.
    pub import: Option<NewDocument>,
    pub at: Timestamp,
}

/// What [`HeadStore::write`] committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadWritten {
    pub head: Head,
    /// Whether there was no live document before.
    pub created: bool,
}

/// A head whose newest version the document store does not have yet, leased to this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub key: DocumentKey,
    pub version: i64,
    pub hash: [u8; 32],
    /// `None`: a tombstone.
    pub image: Option<String>,
    pub lease: Uuid,
    /// Counted on claim, so that a crash counts too.
    pub attempts: i32,
}

/// How far the document store is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    pub pending: i64,
    pub oldest: Option<Timestamp>,
    /// Set aside: what the document store holds is foreign.
    pub foreign: i64,
}

/// The relational side of user-owned documents.
///
/// With a document store of its own (MongoDB) a write keeps the image in the head until it is applied;
/// when the relational store itself is the document store, the same transaction writes the document,
/// and the head is applied at once.
#[async_trait]
pub trait HeadStore: Send + Sync + std::fmt::Debug {
    /// The heads that exist. `None`: there is no such user.
    async fn heads(&self, user_id: UserId) -> Result<Option<Vec<Head>>, StoreError>;

    /// One relational transaction: import, lock the head, check `expected`, version + 1, hash, image or
    /// tombstone, the outbox row. Deleting what is deleted changes nothing. A put of what is there
    /// already (same hash) still counts the version up.
    async fn write(&self, ctx: &Context, write: &HeadWrite) -> Result<HeadWritten, Error>;

    /// Leases up to `limit` heads that are due, oldest first: not applied, not set aside, `next_at`
    /// passed, no lease or an expired one. `only`: this one, whatever its `next_at`.
    async fn claim(
        &self,
        limit: u32,
        lease_for: Duration,
        only: Option<DocumentKey>,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError>;

    /// The document store holds `version` (or newer). Takes effect only while the lease **and** the
    /// version are still the row's; whether it did.
    async fn finish(&self, claimed: &Claimed, now: Timestamp) -> Result<bool, StoreError>;

    /// Gives the lease back; due again at `next_at`. `foreign`: set aside until an operator repairs it.
    async fn release(
        &self,
        claimed: &Claimed,
        next_at: Timestamp,
        foreign: bool,
    ) -> Result<(), StoreError>;

    async fn backlog(&self) -> Result<Backlog, StoreError>;

    /// Drops images that are applied and older than `before`, at most `limit`; how many went.
    async fn purge_images(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}

/// A document as the document store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDocument {
    pub kind: DocumentKind,
    /// 0 when the document was not written by this platform.
    pub version: i64,
    /// Computed from the content that was read, not taken from the store's word.
    pub hash: [u8; 32],
    pub deleted: bool,
    pub value: Value,
}

/// What became of [`ContentStore::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The store holds this version.
    Done,
    /// The store holds this newer version. That is as good, if the head is not below it: else what is
    /// there was written by a platform that this one's relational store does not know of.
    Newer(i64),
    /// What is there is not this platform's: left alone.
    Foreign,
}

/// Where the content of user-owned documents lives.
#[async_trait]
pub trait ContentStore: Send + Sync + std::fmt::Debug {
    /// Both documents of a user, those that exist, from the primary.
    async fn read(&self, user_id: UserId) -> Result<Vec<StoredDocument>, StoreError>;

    /// The documents of many users (a page of a list), in no order, in one go.
    async fn read_many(
        &self,
        user_ids: &[UserId],
    ) -> Result<Vec<(UserId, StoredDocument)>, StoreError>;

    /// The document of `key` as it is before its first head: what is imported as version 0. From here
    /// on [`apply`](Self::apply) may replace it, which it otherwise refuses of what this platform did
    /// not write. May be called again, and changes nothing that [`read`](Self::read) shows.
    async fn adopt(&self, key: DocumentKey) -> Result<Option<StoredDocument>, StoreError> {
        let documents = self.read(key.user_id).await?;
        Ok(documents
            .into_iter()
            .find(|document| document.kind == key.kind))
    }

    /// Writes `version` unless something newer is there; durable (majority and journal) on `Done`.
    /// `content: None` writes a tombstone.
    async fn apply(
        &self,
        key: DocumentKey,
        version: i64,
        hash: [u8; 32],
        content: Option<&str>,
    ) -> Result<Applied, StoreError>;
}

/// An entry of the developers' data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevDataEntry {
    pub namespace: String,
    pub key: String,
    pub value: Value,
    pub version: i64,
    pub expires_at: Option<Timestamp>,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct DevDataWrite {
    pub namespace: String,
    pub key: String,
    pub value: Value,
    pub expected: Expected,
    pub expires_at: Option<Timestamp>,
    pub now: Timestamp,
}

/// `dev_data`: any namespace and key, any JSON, an optional time to live. What has expired is never
/// read, and swept by [`purge`](Self::purge).
#[async_trait]
pub trait DevDataStore: Send + Sync + std::fmt::Debug {
    async fn get(
        &self,
        namespace: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<DevDataEntry>, StoreError>;

    /// Compare and set; durable on return. The flag says whether it was made. Versions of a key start
    /// at 1 and go up with each write.
    async fn put(&self, write: &DevDataWrite) -> Result<(DevDataEntry, bool), Error>;

    /// Whether there was one. `VersionMismatch` when `expected` does not hold.
    async fn delete(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Ordered by key (bytes); the cursor is the last key.
    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        page: &Page<String>,
        now: Timestamp,
    ) -> Result<Vec<DevDataEntry>, StoreError>;

    /// Deletes what has expired, at most `limit`; how many went.
    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}

/// Which log lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// This level and above.
    pub level: Option<LogLevel>,
    pub target: Option<String>,
    pub request_id: Option<String>,
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    /// In the message, without regard to case.
    pub contains: Option<String>,
}

/// The append-only log.
#[async_trait]
pub trait LogStore: Send + Sync + std::fmt::Debug {
    /// All of them, durable on return; ids are unique, an id that is there already is left alone.
    async fn append(&self, entries: &[LogEntry], expires_at: Timestamp) -> Result<(), StoreError>;

    /// Newest first, by `(at, id)` descending; the cursor is that pair of the last row.
    async fn query(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
        now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// Deletes what has expired, at most `limit`; how many went.
    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
