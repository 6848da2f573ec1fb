//! What callers use of documents: here how they are read; how they are written is in
//! [`writing`](super::writing), developers' data and logs in [`records`](super::records).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache as Memo;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::canonical::canonical_json;
use super::reading::{Content, Remembered, Resolved, fall_back, judge};
use super::*;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

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

const BOTH: [DocumentKind; 2] = [DocumentKind::Preferences, DocumentKind::Metadata];

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
    pub(super) stores: Stores,
    pub(super) cache: Cache,
    pub(super) clock: SharedClock,
    pub(super) relay: Arc<Relay>,
    /// How long an answer waits for the document store to take what is already committed.
    pub(super) apply_deadline: Duration,
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
        let mut judged = found.judge_both();
        if found.content.is_ok() && judged.iter().any(Option::is_none) {
            // A write or an apply came between the two reads, most likely.
            found = self.look_again(user_id, found).await;
            judged = found.judge_both();
        }
        let now = self.clock.now();
        let [preferences, metadata] = BOTH.map(|kind| DocumentKey { user_id, kind });
        let [judged_preferences, judged_metadata] = judged;
        let (preferences, metadata) = tokio::join!(
            self.settle(preferences, &found, judged_preferences),
            self.settle(metadata, &found, judged_metadata)
        );
        UserDocuments {
            preferences: preferences.into_view(DocumentKind::Preferences, now),
            metadata: metadata.into_view(DocumentKind::Metadata, now),
            store_away: found.content.is_err(),
        }
    }

    pub(super) async fn look_again(&self, user_id: UserId, before: Found) -> Found {
        let (heads, content) = tokio::join!(self.stores.heads.heads(user_id), self.fetch(user_id));
        Found {
            heads: heads.ok().flatten().unwrap_or(before.heads),
            content,
        }
    }

    pub(super) async fn settle(
        &self,
        key: DocumentKey,
        found: &Found,
        judged: Option<Resolved>,
    ) -> Resolved {
        if let Some(resolved) = judged {
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
pub(super) struct Found {
    pub(super) heads: Vec<Head>,
    pub(super) content: ContentRead,
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

    pub(super) fn judge(&self, kind: DocumentKind) -> Option<Resolved> {
        judge(self.head(kind), self.of(kind))
    }

    fn judge_both(&self) -> [Option<Resolved>; 2] {
        BOTH.map(|kind| self.judge(kind))
    }
}
