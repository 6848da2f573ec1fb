//! What callers use of documents. Developers' data and logs are in [`records`](super::records).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache as Memo;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::canonical::{Root, canonical_json, check_document};
use super::merge_patch::merge_patch;
use super::preferences::check_preferences;
use super::reading::{Content, Remembered, Resolved, fall_back, judge};
use super::relay::OwnApply;
use super::*;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::context::Context;
use crate::detached::detached;
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;
use crate::stores::user_tag;
use crate::transaction::guard;
use crate::validation::Faults;

/// How often a patch that nobody bound to a version starts again after it lost to another writer.
const PATCH_ROUNDS: usize = 16;
/// Rows that one sweep deletes of each kind: short transactions, however much has expired.
const SWEEP_ROWS: u32 = 1_000;
/// How long the last known copies are kept for an outage of the document store.
const REMEMBER_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How often a copy that is read again and again is given to the cache again, which may have lost it.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);
/// Documents of which this process knows that the cache has them.
const MEMO_ENTRIES: usize = 10_000;
/// Copies on their way to the cache at once. With more, some are left out until they are read again:
/// remembering must never slow what is read.
const REMEMBERING: usize = 16;

/// A user-owned document as it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentView {
    /// With the preferences' missing core fields filled in; never a mark of its state inside.
    pub value: Value,
    /// The version of what is shown: the head's, or an older copy's; 0 when nothing was ever written, or
    /// nothing could be read.
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

/// What [`Service::apply_now`] came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Accepted, and left to the relay.
    pub pending: Vec<DocumentKey>,
    /// The document store did not answer.
    pub store_away: bool,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub(super) stores: Stores,
    cache: Cache,
    pub(super) clock: SharedClock,
    relay: Arc<Relay>,
    /// How long an answer waits for the document store to take what is already committed.
    apply_deadline: Duration,
    /// How long log lines are kept.
    pub(super) log_retention: Duration,
    /// How long applied images are kept.
    image_retention: Duration,
    remembered: Arc<Memo<DocumentKey, (i64, Timestamp)>>,
    remembering: Arc<Semaphore>,
}

/// Both documents of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserDocuments {
    pub preferences: DocumentView,
    pub metadata: DocumentView,
    /// The document store did not answer.
    pub store_away: bool,
}

/// What the document store answered about one user.
pub(crate) type ContentRead = Result<Vec<StoredDocument>, StoreError>;

impl Service {
    #[must_use]
    pub fn new(
        stores: Stores,
        cache: Cache,
        clock: SharedClock,
        apply_deadline: Duration,
        log_retention: Duration,
        image_retention: Duration,
    ) -> Self {
        let relay = Relay::new(
            Arc::clone(&stores.heads),
            Arc::clone(&stores.content),
            Arc::clone(&clock),
        );
        Self {
            stores,
            cache,
            clock,
            relay: Arc::new(relay),
            apply_deadline,
            log_retention,
            image_retention,
            remembered: Arc::new(Memo::new(MEMO_ENTRIES)),
            remembering: Arc::new(Semaphore::new(REMEMBERING)),
        }
    }

    /// The worker that this service wakes. To be [run](Relay::run) unless the content is relational.
    #[must_use]
    pub fn relay(&self) -> &Arc<Relay> {
        &self.relay
    }

    /// Both documents of a user whose heads are known, read as the design says: what matches the head,
    /// else the head's image, else one more read, else a stale copy or the defaults, marked. Never an
    /// error because the document store is away.
    pub async fn read_for(&self, user_id: UserId, heads: &[Head]) -> UserDocuments {
        let content = self.fetch(user_id).await;
        self.resolve(user_id, heads, content).await
    }

    /// What the document store has of a user: to be asked beside the relational store, and then given to
    /// [`resolve`](Self::resolve).
    pub(crate) async fn fetch(&self, user_id: UserId) -> ContentRead {
        self.stores.content.read(user_id).await
    }

    /// [`fetch`](Self::fetch) for a page of users, in one round trip. In the order of the users.
    pub(crate) async fn fetch_many(&self, user_ids: &[UserId]) -> Vec<ContentRead> {
        let found = match self.stores.content.read_many(user_ids).await {
            Ok(found) => found,
            Err(error) => return user_ids.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut by_user = std::collections::HashMap::<UserId, Vec<StoredDocument>>::new();
        for (user_id, document) in found {
            by_user.entry(user_id).or_default().push(document);
        }
        user_ids
            .iter()
            .map(|id| Ok(by_user.remove(id).unwrap_or_default()))
            .collect()
    }

    /// As [`read_for`](Self::read_for), of what was fetched already.
    pub(crate) async fn resolve(
        &self,
        user_id: UserId,
        heads: &[Head],
        content: ContentRead,
    ) -> UserDocuments {
        let mut found = Found {
            heads: heads.to_vec(),
            content,
        };
        if found.content.is_ok()
            && DocumentKind::ALL
                .iter()
                .any(|kind| found.judge(*kind).is_none())
        {
            // A write or an apply came between the two reads, most likely.
            found = self.look_again(user_id, found).await;
        }
        let now = self.clock.now();
        let [preferences, metadata] = [DocumentKind::Preferences, DocumentKind::Metadata]
            .map(|kind| DocumentKey { user_id, kind });
        let (preferences, metadata) = tokio::join!(
            self.settle(preferences, &found),
            self.settle(metadata, &found)
        );
        UserDocuments {
            preferences: preferences.into_view(DocumentKind::Preferences, now),
            metadata: metadata.into_view(DocumentKind::Metadata, now),
            store_away: found.content.is_err(),
        }
    }

    async fn look_again(&self, user_id: UserId, before: Found) -> Found {
        let (heads, content) = tokio::join!(self.stores.heads.heads(user_id), self.fetch(user_id));
        Found {
            heads: heads.ok().flatten().unwrap_or(before.heads),
            content,
        }
    }

    async fn settle(&self, key: DocumentKey, found: &Found) -> Resolved {
        if let Some(resolved) = found.judge(key.kind) {
            self.remember(key, found);
            return resolved;
        }
        let remembered = self.recall(key).await;
        fall_back(found.head(key.kind), found.of(key.kind), remembered)
    }

    /// One document. `NotFound`: no such user. Metadata without any copy is
    /// [`StoreError::Unavailable`].
    pub async fn get(&self, key: DocumentKey) -> Result<DocumentView, Error> {
        let (heads, content) = tokio::join!(
            self.stores.heads.heads(key.user_id),
            self.fetch(key.user_id)
        );
        let view = match heads {
            Ok(None) => return Err(Error::NotFound),
            Ok(Some(heads)) => {
                let documents = self.resolve(key.user_id, &heads, content).await;
                match key.kind {
                    DocumentKind::Preferences => documents.preferences,
                    DocumentKind::Metadata => documents.metadata,
                }
            }
            Err(error) if error.is_away() => self.without_heads(key, content, error).await?,
            Err(error) => return Err(error.into()),
        };
        let is_nothing = view.state.state == Freshness::Default;
        if is_nothing && key.kind == DocumentKind::Metadata {
            let reason = "there is no copy of the document";
            return Err(StoreError::unavailable(StoreKind::Documents, reason).into());
        }
        Ok(view)
    }

    /// The relational store is away, so nothing can be called current: what the document store has, or
    /// the last known copy, as stale.
    async fn without_heads(
        &self,
        key: DocumentKey,
        content: ContentRead,
        error: StoreError,
    ) -> Result<DocumentView, Error> {
        if self.stores.relational {
            return Err(error.into());
        }
        let found = Found {
            heads: Vec::new(),
            content,
        };
        let remembered = self.recall(key).await;
        let resolved = fall_back(None, found.of(key.kind), remembered);
        if resolved.value.is_none() {
            return Err(error.into());
        }
        Ok(resolved.into_view(key.kind, self.clock.now()))
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
        guard::outside(StoreKind::Relational)?;
        if let Write::Put(value) = &write {
            check(key.kind, value, "").map_err(Error::Invalid)?;
        }
        let (this, ctx) = (self.clone(), ctx.clone());
        detached(async move { this.write_and_show(&ctx, key, write, expected).await }).await
    }

    async fn write_and_show(
        &self,
        ctx: &Context,
        key: DocumentKey,
        write: Write,
        expected: Expected,
    ) -> Result<DocumentView, Error> {
        let is_free_patch = matches!(write, Write::Patch(_)) && expected == Expected::Anything;
        for _round in 0..PATCH_ROUNDS {
            let prepared = self.prepare(key, &write, expected).await?;
            let written = self.stores.heads.write(ctx, &prepared.head_write).await;
            match written {
                Ok(written) => {
                    let report = self.after_commit(&[key]).await;
                    return Ok(shown(
                        key.kind,
                        written.head.version,
                        prepared.value,
                        report.pending.contains(&key),
                        self.clock.now(),
                    ));
                }
                Err(Error::VersionMismatch { .. }) if is_free_patch => {}
                Err(error) => {
                    if matches!(error, Error::Store(StoreError::OutcomeUnknown { .. })) {
                        self.after_commit(&[key]).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(contended(StoreKind::Relational))
    }

    /// Everything that the transaction needs from elsewhere: read before it, compared and set in it.
    async fn prepare(
        &self,
        key: DocumentKey,
        write: &Write,
        expected: Expected,
    ) -> Result<Prepared, Error> {
        let heads = self
            .stores
            .heads
            .heads(key.user_id)
            .await?
            .ok_or(Error::NotFound)?;
        let head = heads.iter().find(|head| head.kind == key.kind);
        let import = match head {
            None if !self.stores.relational => self.import(key).await?,
            _ => None,
        };
        let (value, expected) = match write {
            Write::Put(value) => (Some(value.clone()), expected),
            Write::Delete => (None, expected),
            Write::Patch(patch) => {
                let (base, version) = self
                    .patch_base(key, head, import.as_ref(), expected)
                    .await?;
                let value = merge_patch(base, patch);
                check(key.kind, &value, "").map_err(Error::Invalid)?;
                // What the caller demands holds for the base, or for nothing at all.
                let expected = match expected {
                    Expected::Anything => Expected::Version(version),
                    demanded => demanded,
                };
                (Some(value), expected)
            }
        };
        let head_write = HeadWrite {
            key,
            expected,
            content: value.as_ref().map(NewDocument::of),
            import: import
                .as_ref()
                .map(|document| NewDocument::of(&document.value)),
            at: self.clock.now(),
        };
        Ok(Prepared { head_write, value })
    }

    /// A document that the document store had before this platform wrote it.
    async fn import(&self, key: DocumentKey) -> Result<Option<StoredDocument>, StoreError> {
        let adopted = self
            .stores
            .content
            .adopt(key)
            .await
            .map_err(|error| match error {
                // Whether the mark was set or not: the write itself has not begun.
                StoreError::OutcomeUnknown { store, reason } => {
                    StoreError::Unavailable { store, reason }
                }
                other => other,
            })?;
        Ok(adopted.filter(|document| !document.deleted))
    }

    /// What a patch starts from, and its version: the current document, or nothing where there is none.
    async fn patch_base(
        &self,
        key: DocumentKey,
        head: Option<&Head>,
        import: Option<&StoredDocument>,
        expected: Expected,
    ) -> Result<(Value, i64), Error> {
        versions::check_head(expected, head)?;
        let nothing = Value::Object(Map::new());
        match (head, import) {
            (Some(head), _) if head.deleted => Ok((nothing, head.version)),
            (Some(head), _) => self.current(key, head).await,
            (None, Some(_)) if expected == Expected::Absent => {
                Err(Error::VersionMismatch { current: Some(0) })
            }
            (None, Some(import)) => Ok((import.value.clone(), 0)),
            (None, None) => Ok((nothing, 0)),
        }
    }

    /// The current content and its version, or unavailable: a patch onto anything else would bring old
    /// fields back.
    async fn current(&self, key: DocumentKey, head: &Head) -> Result<(Value, i64), Error> {
        let mut found = Found {
            heads: vec![head.clone()],
            content: self.fetch(key.user_id).await,
        };
        if found.content.is_ok() && found.judge(key.kind).is_none() {
            found = self.look_again(key.user_id, found).await;
        }
        let resolved = self.settle(key, &found).await;
        if !resolved.is_sure() {
            let reason = "the current document cannot be read";
            return Err(StoreError::unavailable(StoreKind::Documents, reason).into());
        }
        let value = resolved.value.unwrap_or_else(|| Value::Object(Map::new()));
        Ok((value, resolved.version))
    }

    /// What must follow a commit that changed documents of users: this instance shows it at once.
    async fn after_commit(&self, keys: &[DocumentKey]) -> ApplyReport {
        let mut tags: Vec<String> = keys.iter().map(|key| user_tag(key.user_id)).collect();
        tags.dedup();
        let (report, ()) = tokio::join!(self.apply_now(keys), self.cache.invalidate(&[], &tags));
        report
    }

    /// Applies what a commit of another domain (a new user) left in the heads, up to the deadline.
    pub async fn apply_now(&self, keys: &[DocumentKey]) -> ApplyReport {
        if self.stores.relational {
            return ApplyReport::default();
        }
        let applies = keys.iter().map(|key| {
            let (relay, key) = (Arc::clone(&self.relay), *key);
            // In a task of its own: the answer waits for it only so long, and it goes on.
            let task = tokio::spawn(async move { relay.apply_own(key).await });
            async move { (key, tokio::time::timeout(self.apply_deadline, task).await) }
        });
        let mut report = ApplyReport::default();
        for (key, outcome) in futures::future::join_all(applies).await {
            match outcome {
                Ok(Ok(OwnApply::Applied)) => {}
                Ok(Ok(OwnApply::Left { store_away })) => {
                    report.pending.push(key);
                    report.store_away |= store_away;
                }
                Ok(Err(_)) => report.pending.push(key),
                Err(_elapsed) => {
                    report.pending.push(key);
                    report.store_away = true;
                }
            }
        }
        report
    }

    /// The documents of a user who was made just now, without reading them back.
    pub(crate) fn just_made(
        &self,
        heads: &[Head],
        preferences: Value,
        metadata: Value,
        report: &ApplyReport,
    ) -> UserDocuments {
        let now = self.clock.now();
        let view = |kind, value| {
            let is_pending = report.pending.iter().any(|key| key.kind == kind);
            let head = heads.iter().find(|head| head.kind == kind);
            shown(
                kind,
                head.map_or(0, |head| head.version),
                Some(value),
                is_pending,
                now,
            )
        };
        UserDocuments {
            preferences: view(DocumentKind::Preferences, preferences),
            metadata: view(DocumentKind::Metadata, metadata),
            store_away: report.store_away,
        }
    }

    /// One bounded sweep over what has expired (dev data, logs, images); how many rows went. One store
    /// being away does not keep the others from being swept.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let swept = [
            self.stores.dev_data.purge(now, SWEEP_ROWS).await,
            self.stores.logs.purge(now, SWEEP_ROWS).await,
            self.stores
                .heads
                .purge_images(now.minus(self.image_retention), SWEEP_ROWS)
                .await,
        ];
        swept.into_iter().try_fold(0, |sum, gone| Ok(sum + gone?))
    }

    /// Gives what was just read as current to the cache, off the path of the answer.
    fn remember(&self, key: DocumentKey, found: &Found) {
        let (Some(head), Some(document)) = (found.head(key.kind), found.of(key.kind).document())
        else {
            return;
        };
        let is_current =
            !head.deleted && document.version == head.version && document.hash == head.hash;
        let now = self.clock.now();
        let is_known = self
            .remembered
            .get(&key)
            .is_some_and(|(version, at)| version == head.version && now.since(at) < REMEMBER_EVERY);
        if self.stores.relational || !is_current || is_known {
            return;
        }
        let Ok(permit) = Arc::clone(&self.remembering).try_acquire_owned() else {
            return;
        };
        let copy = Remembered {
            version: head.version,
            hash: head.hash,
            canonical: canonical_json(&document.value),
            as_of: now,
        };
        self.remembered.insert(key, (head.version, now));
        let cache = self.cache.clone();
        tokio::spawn(async move {
            give_to_cache(&cache, &cache_key(key), &copy).await;
            drop(permit);
        });
    }

    async fn recall(&self, key: DocumentKey) -> Option<Remembered> {
        if self.stores.relational {
            return None;
        }
        let known = self
            .cache
            .last_known::<Remembered>(&cache_key(key), &[])
            .await?;
        Some(Remembered::clone(&known.value))
    }
}

/// Without a tag: an invalidation of the user leaves it, since a copy is only ever current by the head.
fn cache_key(key: DocumentKey) -> String {
    format!("document:{}:{}", key.kind, key.user_id)
}

/// Replaces an older copy; of two that are given at once the newer may be lost, to the next reader's
/// disadvantage only.
async fn give_to_cache(cache: &Cache, key: &str, copy: &Remembered) {
    for _attempt in 0..2 {
        let fetch = async { Ok::<_, Infallible>(copy.clone()) };
        let Ok(kept) = cache
            .get_or_fetch(key, &[], REMEMBER_FOR, |_never| false, fetch)
            .await;
        if kept.value.version >= copy.version {
            return;
        }
        cache.invalidate(&[key.to_owned()], &[]).await;
    }
}

/// The two sides of a user's documents, as they were read.
struct Found {
    heads: Vec<Head>,
    content: ContentRead,
}

impl Found {
    fn head(&self, kind: DocumentKind) -> Option<&Head> {
        self.heads.iter().find(|head| head.kind == kind)
    }

    fn of(&self, kind: DocumentKind) -> Content<'_> {
        match &self.content {
            Ok(documents) => Content::Read(documents.iter().find(|document| document.kind == kind)),
            Err(_) => Content::Away,
        }
    }

    fn judge(&self, kind: DocumentKind) -> Option<Resolved> {
        judge(self.head(kind), self.of(kind))
    }
}

struct Prepared {
    head_write: HeadWrite,
    /// As it will be; `None`: deleted.
    value: Option<Value>,
}

/// A document after its commit.
fn shown(
    kind: DocumentKind,
    version: i64,
    value: Option<Value>,
    is_pending: bool,
    now: Timestamp,
) -> DocumentView {
    let state = if is_pending {
        Freshness::Pending
    } else {
        Freshness::Current
    };
    let resolved = Resolved {
        value,
        version,
        state,
        as_of: None,
    };
    resolved.into_view(kind, now)
}

/// Checks a document of that kind, which stands at the JSON pointer `at` of a body: all faults at once.
pub(crate) fn check(kind: DocumentKind, value: &Value, at: &str) -> Result<(), Faults> {
    let mut faults = check_document(value, at, Root::Object)
        .err()
        .unwrap_or_default();
    if kind == DocumentKind::Preferences && value.is_object() {
        faults.extend(check_preferences(value, at).err().unwrap_or_default());
    }
    faults.into_result()
}

/// Others kept winning: certainly not done.
pub(super) fn contended(store: StoreKind) -> Error {
    Error::Store(StoreError::Overloaded {
        store,
        reason: "others kept changing the document".to_owned(),
        retry_after: Duration::from_secs(1),
    })
}
