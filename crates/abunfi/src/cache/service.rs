//! The cache that callers use.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::coverage::Coverage;
use super::flights::{self, Flights, Lead, Outcome, Part};
use super::generations::Generations;
use super::load::{Load, Older, decode};
use super::local::{Entry, Local, Moment};
use super::revalidations::Revalidations;
use super::undelivered::Undelivered;
use super::{Store, Stored, agreement};
use crate::clock::{SharedClock, Timestamp};
use crate::error::StoreError;
use crate::outbox::Promises;

/// How long a caller waits for another caller's load in this process before it loads by itself.
pub(super) const FOLLOW_PATIENCE: Duration = Duration::from_secs(2);
/// How long a read waits for L2: beyond it the authority is the faster one.
const L2_PATIENCE: Duration = Duration::from_millis(100);
/// Kept promises that wait to be deleted at most; what is beyond them the relay finds and deletes.
const MAX_KEPT: usize = 50_000;

/// Bounds and times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Bytes of values that L1 holds at most.
    pub l1_max_bytes: u64,
    /// Longest life in L1 when other instances may write (an external relational store), so that each is
    /// at most this far behind whatever becomes of the notices. One second by the contract.
    pub l1_shared_ttl_ms: u64,
    /// How long past its life a value may be served when the authority is away.
    pub stale_for_seconds: u32,
    /// How long past its life a value is served at once while it is loaded again in the background.
    pub revalidate_for_seconds: u32,
    /// How long a load is waited for where there is a copy that is older than that.
    pub soft_timeout_ms: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            l1_max_bytes: 64 * 1024 * 1024,
            l1_shared_ttl_ms: 1_000,
            stale_for_seconds: 3_600,
            revalidate_for_seconds: 30,
            soft_timeout_ms: 200,
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    L1,
    L2,
    /// `fetch` was called now.
    Fetched,
    /// Past its time, and never invalidated; it is loaded again in the background.
    Revalidated,
    /// `fetch` failed, and an older copy answered.
    Stale,
}

/// A value with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached<T> {
    pub value: T,
    pub hit: Hit,
    pub age: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStats {
    pub l1_hits: u64,
    pub l2_hits: u64,
    pub misses: u64,
    pub stale: u64,
    pub revalidated: u64,
    pub invalidations: u64,
    pub l2_errors: u64,
    pub l1_entries: u64,
    pub l1_bytes: u64,
}

/// Cheap to clone; all clones are one cache.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) l2: Option<Arc<dyn Store>>,
    pub(super) clock: SharedClock,
    pub(super) config: CacheConfig,
    /// Whether other instances may write the same data.
    pub(super) shared: bool,
    pub(super) local: Local,
    pub(super) generations: Generations,
    pub(super) flights: Flights<Landed>,
    pub(super) undelivered: Undelivered,
    pub(super) coverage: Coverage,
    pub(super) revalidations: Revalidations,
    /// Outbox rows whose invalidation L2 has confirmed.
    kept: Mutex<Vec<Uuid>>,
    /// How often notices may have been missed: what was loaded before is no longer fresh.
    pub(super) epoch: AtomicU64,
    pub(super) counts: Counts,
}

/// What a load gives to those who waited for it.
pub(super) type Landed = (Arc<Entry>, Hit);

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) l1_hits: AtomicU64,
    pub(super) l2_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) revalidated: AtomicU64,
    pub(super) invalidations: AtomicU64,
    pub(super) l2_errors: AtomicU64,
}

impl Cache {
    /// `l2: None`: this process is all there is of the cache. `shared`: other processes may write the same
    /// data.
    ///
    /// # Panics
    /// With an L2, outside a Tokio runtime: a task keeps L1 and L2 in agreement for as long as the cache
    /// lives.
    #[must_use]
    pub fn new(
        l2: Option<Arc<dyn Store>>,
        clock: SharedClock,
        config: CacheConfig,
        shared: bool,
    ) -> Self {
        let inner = Arc::new(Inner {
            local: Local::new(config.l1_max_bytes),
            l2,
            clock,
            config,
            shared,
            generations: Generations::default(),
            flights: Flights::new(),
            undelivered: Undelivered::default(),
            coverage: Coverage::new(),
            revalidations: Revalidations::default(),
            kept: Mutex::default(),
            epoch: AtomicU64::new(0),
            counts: Counts::default(),
        });
        if let Some(l2) = &inner.l2 {
            tokio::spawn(agreement::listen(Arc::downgrade(&inner), l2.subscribe()));
            tokio::spawn(agreement::deliver(Arc::downgrade(&inner)));
        }
        Self { inner }
    }

    /// The value of `key`, from L1, L2 or `fetch`. One flight per key in this process, and one across
    /// processes by lease; others wait briefly or fetch by themselves. `fetch` runs outside any lock, and
    /// what it gives is kept for `ttl` (give or take a tenth, so that what was cached together does not
    /// run out together) unless the key or one of `tags` was invalidated meanwhile. `tags` must be the
    /// same at every call for a key. With L2 away it works without. An error of `fetch` is not cached; it
    /// gives way to a stale copy when `stale_on` says so of the error.
    pub async fn get_or_fetch<T, E, F>(
        &self,
        key: &str,
        tags: &[String],
        ttl: Duration,
        stale_on: fn(&E) -> bool,
        fetch: F,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        if let Some(hit) = self.inner.look_in_l1(key) {
            return Ok(hit);
        }
        match self.inner.lead_or_follow(key, tags).await {
            Turn::Answer(answer) => Ok(answer),
            Turn::Load(lead) => self.load(key, tags, ttl, stale_on).run(lead, fetch).await,
        }
    }

    /// Like [`get_or_fetch`](Self::get_or_fetch), but a value that is past its time and was never
    /// invalidated is served at once ([`Hit::Revalidated`]) and loaded again by one load in the background;
    /// where it is long past its time, only if the authority takes longer than the soft time-out. How long
    /// is said in [`CacheConfig`].
    pub async fn get_or_revalidate<T, E, F>(
        &self,
        key: &str,
        tags: &[String],
        ttl: Duration,
        stale_on: fn(&E) -> bool,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        if let Some(hit) = self.inner.look_in_l1(key) {
            return Ok(hit);
        }
        let load = self.load(key, tags, ttl, stale_on);
        if let Some(older) = self.inner.older_in_l1(key) {
            return load.revalidate_local(older, fetch).await;
        }
        match self.inner.lead_or_follow(key, tags).await {
            Turn::Answer(answer) => Ok(answer),
            Turn::Load(Some(lead)) => load.run_revalidating(lead, fetch).await,
            Turn::Load(None) => load.run(None, fetch()).await,
        }
    }

    fn load<E>(
        &self,
        key: &str,
        tags: &[String],
        ttl: Duration,
        stale_on: fn(&E) -> bool,
    ) -> Load<E> {
        Load {
            inner: Arc::clone(&self.inner),
            key: key.to_owned(),
            tags: tags.to_vec(),
            ttl,
            stale_on,
        }
    }

    /// The last known copy, fresh or not, without fetching: what answers while the authority is away.
    /// `tags` are those that it was cached with. What was invalidated is not known any more.
    pub async fn last_known<T>(&self, key: &str, tags: &[String]) -> Option<Cached<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let inner = &*self.inner;
        if let Some(hit) = inner.look_in_l1(key) {
            return Some(hit);
        }
        let copy = match inner.stale_in_l1(key) {
            Some(copy) => copy,
            None => {
                let note = inner.generations.note(key, tags);
                let l2 = inner.told_l2(key, tags)?;
                let stored = inner.patiently(l2.get(key, tags)).await??;
                let (value, stored) = decode(stored)?;
                let copy = inner.stale_copy(Arc::new(value), stored.stored_at);
                note.holds().then_some(copy)?
            }
        };
        inner.counts.stale.fetch_add(1, Ordering::Relaxed);
        Some(copy)
    }

    /// Forgets keys and tags, here at once, in L2 and in other instances within a second. Called after the
    /// commit. What L2 could not be told is told it before it is used again.
    pub async fn invalidate(&self, keys: &[String], tags: &[String]) {
        if let Err(error) = self.invalidate_confirmed(keys, tags).await {
            tracing::debug!(%error, "L2 is told of an invalidation later");
        }
    }

    /// Like [`invalidate`](Self::invalidate), for those who must know that L2 was told.
    ///
    /// # Errors
    /// L2 did not confirm. The names are forgotten here all the same, and L2 is not asked about them until
    /// it has been told.
    pub async fn invalidate_confirmed(
        &self,
        keys: &[String],
        tags: &[String],
    ) -> Result<(), StoreError> {
        if keys.is_empty() && tags.is_empty() {
            return Ok(());
        }
        let inner = &*self.inner;
        inner.counts.invalidations.fetch_add(1, Ordering::Relaxed);
        let Some(l2) = &inner.l2 else {
            inner.void(keys, tags);
            return Ok(());
        };
        // In this order. A reader notes the generations, then looks here, then asks L2: so it is voided
        // below if it looked before, and goes round L2 if it looks later.
        let noted = inner.undelivered.note(keys, tags);
        inner.void(keys, tags);
        match l2.invalidate(keys, tags).await {
            Ok(()) => {
                inner.undelivered.settle(noted);
                Ok(())
            }
            Err(error) => {
                inner.counts.l2_errors.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// [`invalidate`](Self::invalidate), after a commit that has promised it in the outbox: with L2's
    /// confirmation the promise is kept, and its rows are deleted soon.
    pub async fn keep(&self, tags: &[String], promises: Promises) {
        match self.invalidate_confirmed(&[], tags).await {
            Ok(()) => {
                let mut kept = self.inner.kept();
                let room = MAX_KEPT.saturating_sub(kept.len());
                kept.extend(promises.into_ids().into_iter().take(room));
            }
            Err(error) => tracing::debug!(%error, "L2 is told of an invalidation later"),
        }
    }

    /// The outbox rows that need not be there any more.
    pub(crate) fn take_kept(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.inner.kept())
    }

    /// From now on L2 is asked about what has tags only as far as [`covered`](Self::covered) says.
    pub(crate) fn begin_coverage(&self) {
        self.inner.coverage.begin();
    }

    /// Every commit before `moment` has told L2, or [`distrust`](Self::distrust) was called for it.
    pub(crate) fn covered(&self, moment: Instant) {
        self.inner.coverage.reaches(moment);
    }

    /// Another instance has committed this, and perhaps could not tell L2: L1 forgets it, and L2 is not
    /// asked about it until this instance has told it, which it does within a moment.
    pub(crate) fn distrust(&self, tags: &[String]) {
        drop(self.inner.undelivered.note(&[], tags));
        self.inner.void(&[], tags);
    }

    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let Inner { counts, local, .. } = &*self.inner;
        CacheStats {
            l1_hits: counts.l1_hits.load(Ordering::Relaxed),
            l2_hits: counts.l2_hits.load(Ordering::Relaxed),
            misses: counts.misses.load(Ordering::Relaxed),
            stale: counts.stale.load(Ordering::Relaxed),
            revalidated: counts.revalidated.load(Ordering::Relaxed),
            invalidations: counts.invalidations.load(Ordering::Relaxed),
            l2_errors: counts.l2_errors.load(Ordering::Relaxed),
            l1_entries: local.entries(),
            l1_bytes: local.bytes(),
        }
    }
}

/// What a caller who found nothing in L1 does.
enum Turn<T> {
    /// Another caller's load answered.
    Answer(Cached<Arc<T>>),
    /// Load it, for all who wait or for itself.
    Load(Option<Lead<Landed>>),
}

/// How waiting for another caller's load ended.
enum Followed<T> {
    Answer(Cached<Arc<T>>),
    /// It failed or takes too long. All who waited go on side by side: one after the other, each would
    /// wait for the failures of those before.
    Alone,
    /// The leader went away: someone else leads.
    Again,
}

impl Inner {
    fn look_in_l1<T: Send + Sync + 'static>(&self, key: &str) -> Option<Cached<Arc<T>>> {
        let entry = self.fresh_in_l1(key)?;
        let value = entry.typed()?;
        self.counts.l1_hits.fetch_add(1, Ordering::Relaxed);
        Some(Cached {
            value,
            hit: Hit::L1,
            age: self.clock.now().since(entry.stored_at),
        })
    }

    pub(super) fn fresh_in_l1(&self, key: &str) -> Option<Arc<Entry>> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        self.local
            .get(key)
            .filter(|entry| entry.is_fresh(self.now(), epoch))
    }

    pub(super) fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    /// A copy that only its own time makes older.
    fn older_in_l1<T: Send + Sync + 'static>(&self, key: &str) -> Option<Older<T>> {
        let entry = self.local.get(key)?;
        let epoch = self.epoch.load(Ordering::SeqCst);
        if !entry.may_be_older(self.now(), epoch, self.stale_for()) {
            return None;
        }
        Some(Older {
            value: entry.typed()?,
            stored: Stored {
                value: String::new(),
                stored_at: entry.stored_at,
                fresh_until: entry.fresh_until,
                tags: Vec::new(),
            },
        })
    }

    async fn lead_or_follow<T: Send + Sync + 'static>(
        &self,
        key: &str,
        tags: &[String],
    ) -> Turn<T> {
        let asked_at = self.now();
        loop {
            match self.flights.join(key, || self.generations.note(key, tags)) {
                Part::Lead(lead) => return Turn::Load(Some(lead)),
                Part::Follow(flight) => match self.follow(flight, asked_at).await {
                    Followed::Answer(answer) => return Turn::Answer(answer),
                    Followed::Alone => return Turn::Load(None),
                    Followed::Again => {}
                },
            }
        }
    }

    pub(super) fn stale_in_l1<T: Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Option<Cached<Arc<T>>> {
        let entry = self.local.get(key)?;
        if !entry.may_be_stale(self.clock.now(), self.stale_for()) {
            return None;
        }
        Some(self.stale_copy(entry.typed()?, entry.stored_at))
    }

    pub(super) fn stale_copy<T>(&self, value: Arc<T>, stored_at: Timestamp) -> Cached<Arc<T>> {
        Cached {
            value,
            hit: Hit::Stale,
            age: self.clock.now().since(stored_at),
        }
    }

    async fn follow<T: Send + Sync + 'static>(
        &self,
        flight: watch::Receiver<Option<Outcome<Landed>>>,
        asked_at: Moment,
    ) -> Followed<T> {
        match tokio::time::timeout(FOLLOW_PATIENCE, flights::outcome(flight)).await {
            // A load that began too long before this caller asked may miss what it may demand.
            Ok(Some(Outcome::Loaded((entry, _)))) if !asked_at.is_before(entry.right_until) => {
                Followed::Alone
            }
            Ok(Some(Outcome::Loaded((entry, hit)))) => match entry.typed() {
                Some(value) => {
                    let age = self.clock.now().since(entry.stored_at);
                    Followed::Answer(Cached { value, hit, age })
                }
                None => Followed::Alone,
            },
            Ok(Some(Outcome::Failed)) | Err(_) => Followed::Alone,
            Ok(None) => Followed::Again,
        }
    }

    pub(super) fn void(&self, keys: &[String], tags: &[String]) {
        self.generations.void(keys, tags);
        for key in keys {
            self.local.remove(key);
        }
    }

    /// For how long what L2 gives now about `tags` may be served; `None`: not at all. What has no tag is
    /// nothing that a commit invalidates.
    pub(super) fn l2_may_serve_for(&self, tags: &[String]) -> Option<Duration> {
        if tags.is_empty() {
            return Some(Duration::MAX);
        }
        self.coverage.left(Instant::now())
    }

    /// L2, unless it may hold what was invalidated.
    pub(super) fn usable_l2(&self, key: &str, tags: &[String]) -> Option<&Arc<dyn Store>> {
        self.told_l2(key, tags)
            .filter(|_| self.l2_may_serve_for(tags).is_some())
    }

    /// L2, unless it is known to hold what was invalidated: good for a copy that is marked stale.
    pub(super) fn told_l2(&self, key: &str, tags: &[String]) -> Option<&Arc<dyn Store>> {
        self.l2
            .as_ref()
            .filter(|_| !self.undelivered.concerns(key, tags))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Uuid>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What L2 answers in time.
    pub(super) async fn patiently<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<T> {
        if let Ok(Ok(answer)) = tokio::time::timeout(L2_PATIENCE, call).await {
            return Some(answer);
        }
        self.counts.l2_errors.fetch_add(1, Ordering::Relaxed);
        None
    }

    pub(super) fn stale_for(&self) -> Duration {
        let config = &self.config;
        let seconds = config.stale_for_seconds.max(config.revalidate_for_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// Nothing that was loaded before now counts as fresh. It may still stand in, marked stale, for an
    /// authority that is away.
    pub(super) fn doubt_everything(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}
