//! Stores in memory, which can be away, late, or somebody else's: for tests of the services.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::context::Context;
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;
use crate::ledger::Page;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A head's row.
#[derive(Debug, Clone)]
struct Row {
    head: Head,
    lease: Option<Uuid>,
    next_at: Option<Timestamp>,
    attempts: i32,
    foreign: bool,
}

/// What runs once, before the next write: another writer who is faster.
type Interloper = Box<dyn FnOnce(&FakeHeads) + Send>;

/// Heads, decided by the same arithmetic as in the relational stores.
#[derive(Default)]
pub(crate) struct FakeHeads {
    users: Mutex<Vec<UserId>>,
    rows: Mutex<HashMap<DocumentKey, Row>>,
    interloper: Mutex<Option<Interloper>>,
    pub(crate) is_away: AtomicBool,
    pub(crate) writes: AtomicUsize,
}

impl std::fmt::Debug for FakeHeads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeHeads").finish_non_exhaustive()
    }
}

impl FakeHeads {
    pub(crate) fn add_user(&self, id: UserId) {
        lock(&self.users).push(id);
    }

    pub(crate) fn head(&self, key: DocumentKey) -> Option<Head> {
        lock(&self.rows).get(&key).map(|row| row.head.clone())
    }

    pub(crate) fn all(&self, user_id: UserId) -> Vec<Head> {
        lock(&self.rows)
            .iter()
            .filter(|(key, _)| key.user_id == user_id)
            .map(|(_, row)| row.head.clone())
            .collect()
    }

    /// Whether it was set aside.
    pub(crate) fn is_foreign(&self, key: DocumentKey) -> bool {
        lock(&self.rows).get(&key).is_some_and(|row| row.foreign)
    }

    /// As the sweep does to what was applied long ago.
    pub(crate) fn drop_image(&self, key: DocumentKey) {
        if let Some(row) = lock(&self.rows).get_mut(&key) {
            row.head.image = None;
        }
    }

    /// Another process writes.
    pub(crate) fn put(&self, key: DocumentKey, value: &Value) {
        let write = HeadWrite {
            key,
            expected: Expected::Anything,
            content: Some(NewDocument::of(value)),
            import: None,
            at: Timestamp::EPOCH,
        };
        self.commit(&write).ok();
    }

    pub(crate) fn before_next_write(&self, interloper: impl FnOnce(&Self) + Send + 'static) {
        *lock(&self.interloper) = Some(Box::new(interloper));
    }

    fn answer(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(StoreKind::Relational, "away"));
        }
        Ok(())
    }

    fn commit(&self, write: &HeadWrite) -> Result<HeadWritten, Error> {
        let mut rows = lock(&self.rows);
        if let Some(import) = &write.import {
            let head = Head {
                kind: write.key.kind,
                version: 0,
                hash: import.hash,
                deleted: false,
                applied_version: 0,
                image: None,
                updated_at: write.at,
            };
            rows.entry(write.key).or_insert(Row {
                head,
                lease: None,
                next_at: None,
                attempts: 0,
                foreign: false,
            });
        }
        let there = rows.get(&write.key);
        let head = there.map(|row| &row.head);
        let Some(written) = versions::write(head, write, 0, false)? else {
            let head = head.cloned().ok_or(Error::NotFound)?;
            return Ok(HeadWritten {
                head,
                created: false,
            });
        };
        let foreign = there.is_some_and(|row| row.foreign);
        let row = Row {
            head: written.head.clone(),
            lease: None,
            next_at: (!foreign).then_some(write.at),
            attempts: 0,
            foreign,
        };
        rows.insert(write.key, row);
        Ok(written)
    }
}

#[async_trait]
impl HeadStore for FakeHeads {
    async fn heads(&self, user_id: UserId) -> Result<Option<Vec<Head>>, StoreError> {
        self.answer()?;
        let is_there = lock(&self.users).contains(&user_id);
        Ok(is_there.then(|| self.all(user_id)))
    }

    async fn write(&self, _ctx: &Context, write: &HeadWrite) -> Result<HeadWritten, Error> {
        self.answer()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let interloper = lock(&self.interloper).take();
        if let Some(interloper) = interloper {
            interloper(self);
        }
        self.commit(write)
    }

    async fn claim(
        &self,
        limit: u32,
        _lease_for: Duration,
        only: Option<DocumentKey>,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.answer()?;
        let mut claimed = Vec::new();
        for (key, row) in lock(&self.rows).iter_mut() {
            let is_wanted = only.is_none_or(|only| only == *key);
            let is_due = row
                .next_at
                .is_some_and(|next_at| only.is_some() || next_at <= now);
            let is_full = claimed.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            if !is_wanted || !is_due || row.foreign || row.lease.is_some() || is_full {
                continue;
            }
            let lease = Uuid::new_v4();
            row.lease = Some(lease);
            row.attempts += 1;
            claimed.push(Claimed {
                key: *key,
                version: row.head.version,
                hash: row.head.hash,
                image: row.head.image.clone(),
                lease,
                attempts: row.attempts,
            });
        }
        Ok(claimed)
    }

    async fn finish(&self, claimed: &Claimed, _now: Timestamp) -> Result<bool, StoreError> {
        self.answer()?;
        let mut rows = lock(&self.rows);
        let row = rows
            .get_mut(&claimed.key)
            .filter(|row| row.lease == Some(claimed.lease) && row.head.version == claimed.version);
        let Some(row) = row else {
            return Ok(false);
        };
        row.head.applied_version = claimed.version;
        row.lease = None;
        row.next_at = None;
        Ok(true)
    }

    async fn release(
        &self,
        claimed: &Claimed,
        next_at: Timestamp,
        foreign: bool,
    ) -> Result<(), StoreError> {
        self.answer()?;
        let mut rows = lock(&self.rows);
        let row = rows
            .get_mut(&claimed.key)
            .filter(|row| row.lease == Some(claimed.lease));
        if let Some(row) = row {
            row.lease = None;
            row.foreign = foreign;
            row.next_at = (!foreign).then_some(next_at);
        }
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        let rows = lock(&self.rows);
        let pending = rows.values().filter(|row| row.next_at.is_some()).count();
        Ok(Backlog {
            pending: i64::try_from(pending).unwrap_or(i64::MAX),
            ..Backlog::default()
        })
    }

    async fn purge_images(&self, _before: Timestamp, _limit: u32) -> Result<u64, StoreError> {
        self.answer()?;
        Ok(1)
    }
}

/// What lies in the document store.
#[derive(Debug, Clone)]
struct Lying {
    document: StoredDocument,
    /// Written by this platform, or adopted.
    is_ours: bool,
}

/// The content of documents.
#[derive(Debug, Default)]
pub(crate) struct FakeContent {
    documents: Mutex<HashMap<DocumentKey, Lying>>,
    /// What the next reads see, instead of what is there.
    behind: Mutex<Vec<Vec<StoredDocument>>>,
    pub(crate) is_away: AtomicBool,
    pub(crate) reads: AtomicUsize,
    pub(crate) bulk_reads: AtomicUsize,
    pub(crate) applies: AtomicUsize,
}

impl FakeContent {
    fn answer(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(StoreKind::Documents, "away"));
        }
        Ok(())
    }

    pub(crate) fn lay(&self, key: DocumentKey, version: i64, value: &Value) {
        let document = stored(key.kind, version, Some(value));
        let is_ours = version > 0;
        lock(&self.documents).insert(key, Lying { document, is_ours });
    }

    /// The next read sees the past.
    pub(crate) fn lag_once(&self, key: DocumentKey, version: i64, value: &Value) {
        lock(&self.behind).push(vec![stored(key.kind, version, Some(value))]);
    }

    pub(crate) fn document(&self, key: DocumentKey) -> Option<StoredDocument> {
        lock(&self.documents)
            .get(&key)
            .map(|lying| lying.document.clone())
    }

    fn of_user(&self, user_id: UserId) -> Vec<StoredDocument> {
        lock(&self.documents)
            .iter()
            .filter(|(key, _)| key.user_id == user_id)
            .map(|(_, lying)| lying.document.clone())
            .collect()
    }
}

fn stored(kind: DocumentKind, version: i64, value: Option<&Value>) -> StoredDocument {
    StoredDocument {
        kind,
        version,
        hash: value.map_or_else(versions::tombstone_hash, |value| {
            NewDocument::of(value).hash
        }),
        deleted: value.is_none(),
        value: value.cloned().unwrap_or_default(),
    }
}

#[async_trait]
impl ContentStore for FakeContent {
    async fn read(&self, user_id: UserId) -> Result<Vec<StoredDocument>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        let behind = lock(&self.behind).pop();
        Ok(behind.unwrap_or_else(|| self.of_user(user_id)))
    }

    async fn read_many(
        &self,
        user_ids: &[UserId],
    ) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
        self.bulk_reads.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        let all = user_ids.iter().flat_map(|id| {
            let documents = self.of_user(*id).into_iter();
            documents.map(move |document| (*id, document))
        });
        Ok(all.collect())
    }

    async fn adopt(&self, key: DocumentKey) -> Result<Option<StoredDocument>, StoreError> {
        self.answer()?;
        let mut documents = lock(&self.documents);
        Ok(documents.get_mut(&key).map(|lying| {
            lying.is_ours = true;
            lying.document.clone()
        }))
    }

    async fn apply(
        &self,
        key: DocumentKey,
        version: i64,
        hash: [u8; 32],
        content: Option<&str>,
    ) -> Result<Applied, StoreError> {
        self.applies.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        let mut documents = lock(&self.documents);
        if let Some(there) = documents.get(&key) {
            if !there.is_ours {
                return Ok(Applied::Foreign);
            }
            if there.document.version > version {
                return Ok(Applied::Newer(there.document.version));
            }
            if there.document.version == version && there.document.hash != hash {
                return Ok(Applied::Foreign);
            }
        }
        let value = content.and_then(|content| {
            let parsed = parse::parse_json(content.as_bytes(), parse::MAX_BODY_DEPTH).ok()?;
            parsed.into_value().ok()
        });
        let document = stored(key.kind, version, value.as_ref());
        let is_ours = true;
        documents.insert(key, Lying { document, is_ours });
        Ok(Applied::Done)
    }
}

/// Developers' data and logs, of which the services' tests need little.
#[derive(Debug, Default)]
pub(crate) struct FakeRecords {
    entries: Mutex<HashMap<String, DevDataEntry>>,
    pub(crate) is_away: AtomicBool,
    /// Once: another writer changes the entry between a reader's look and its write.
    pub(crate) interlope: AtomicBool,
}

impl FakeRecords {
    fn answer(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(StoreKind::Documents, "away"));
        }
        Ok(())
    }
}

#[async_trait]
impl DevDataStore for FakeRecords {
    async fn get(
        &self,
        _namespace: &str,
        key: &str,
        _now: Timestamp,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        self.answer()?;
        Ok(lock(&self.entries).get(key).cloned())
    }

    async fn put(&self, write: &DevDataWrite) -> Result<(DevDataEntry, bool), Error> {
        self.answer()?;
        let mut entries = lock(&self.entries);
        if self.interlope.swap(false, Ordering::SeqCst)
            && let Some(there) = entries.get_mut(&write.key)
        {
            there.version += 1;
            there.value = merge_patch::merge_patch(
                there.value.clone(),
                &serde_json::json!({"interloper": true}),
            );
        }
        let current = entries.get(&write.key).map(|there| there.version);
        if !versions::holds(write.expected, current) {
            return Err(Error::VersionMismatch { current });
        }
        let entry = DevDataEntry {
            namespace: write.namespace.clone(),
            key: write.key.clone(),
            value: write.value.clone(),
            version: current.unwrap_or(0) + 1,
            expires_at: write.expires_at,
            updated_at: write.now,
        };
        entries.insert(write.key.clone(), entry.clone());
        Ok((entry, current.is_none()))
    }

    async fn delete(
        &self,
        _namespace: &str,
        key: &str,
        _expected: Expected,
        _now: Timestamp,
    ) -> Result<bool, Error> {
        self.answer()?;
        Ok(lock(&self.entries).remove(key).is_some())
    }

    async fn list(
        &self,
        _namespace: &str,
        _prefix: &str,
        _page: &Page<String>,
        _now: Timestamp,
    ) -> Result<Vec<DevDataEntry>, StoreError> {
        self.answer()?;
        Ok(lock(&self.entries).values().cloned().collect())
    }

    async fn purge(&self, _now: Timestamp, _limit: u32) -> Result<u64, StoreError> {
        self.answer()?;
        Ok(2)
    }
}

#[async_trait]
impl LogStore for FakeRecords {
    async fn append(&self, _entries: &[LogEntry], _expires: Timestamp) -> Result<(), StoreError> {
        self.answer()
    }

    async fn query(
        &self,
        _filter: &LogFilter,
        _page: &Page<(Timestamp, Uuid)>,
        _now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.answer()?;
        Ok(Vec::new())
    }

    async fn purge(&self, _now: Timestamp, _limit: u32) -> Result<u64, StoreError> {
        self.answer()?;
        Ok(4)
    }
}

/// A service over fakes, with one user.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) heads: Arc<FakeHeads>,
    pub(crate) content: Arc<FakeContent>,
    pub(crate) records: Arc<FakeRecords>,
    pub(crate) clock: Arc<crate::clock::ManualClock>,
    pub(crate) cache: crate::cache::Cache,
    pub(crate) service: Service,
    pub(crate) user_id: UserId,
}

impl Scene {
    /// Must run inside a Tokio runtime.
    pub(crate) fn new() -> Self {
        let start = Timestamp::from_micros(1_790_000_000_000_000);
        let clock = Arc::new(crate::clock::ManualClock::at(start));
        let heads = Arc::new(FakeHeads::default());
        let content = Arc::new(FakeContent::default());
        let records = Arc::new(FakeRecords::default());
        let config = crate::cache::CacheConfig::default();
        let cache = crate::cache::Cache::new(None, clock.clone(), config, false);
        let stores = Stores {
            heads: heads.clone(),
            content: content.clone(),
            dev_data: records.clone(),
            logs: records.clone(),
            relational: false,
        };
        let day = Duration::from_secs(24 * 3_600);
        let service = Service::new(
            stores,
            cache.clone(),
            clock.clone(),
            Duration::from_millis(500),
            30 * day,
            7 * day,
        );
        let user_id = UserId::new(start);
        heads.add_user(user_id);
        Self {
            heads,
            content,
            records,
            clock,
            cache,
            service,
            user_id,
        }
    }

    pub(crate) fn key(&self, kind: DocumentKind) -> DocumentKey {
        DocumentKey {
            user_id: self.user_id,
            kind,
        }
    }

    pub(crate) fn content_is_away(&self, is_away: bool) {
        self.content.is_away.store(is_away, Ordering::SeqCst);
    }

    pub(crate) fn heads_are_away(&self, is_away: bool) {
        self.heads.is_away.store(is_away, Ordering::SeqCst);
    }
}
