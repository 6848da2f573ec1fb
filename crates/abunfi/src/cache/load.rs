//! One load of one key: from L2, else from the authority; into L1, into L2, and to those who wait.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::flights::{Lead, Outcome};
use super::generations::Note;
use super::lease::Lease;
use super::local::{Entry, Moment};
use super::service::{Inner, Landed};
use super::{Cached, Hit, Lookup, Stored};
use crate::clock::Timestamp;
use crate::documents::parse::parse_json;
use crate::ids::random_bytes;

/// How long a load may take and still fill L2; as long, others may wait for it in vain.
const LEASE_FOR: Duration = Duration::from_secs(5);
/// How long a caller waits for another instance's load before it loads by itself.
const BUSY_PATIENCE: Duration = Duration::from_millis(200);
/// The first pause between two looks at a key that another instance is loading; it doubles.
const FIRST_BUSY_PAUSE: Duration = Duration::from_millis(5);
/// How long an answer that is there already waits for L2 to take it.
const FILL_PATIENCE: Duration = Duration::from_millis(20);
/// Between two looks for what another caller's load brings.
const OTHER_PAUSE: Duration = Duration::from_millis(5);
/// Nesting of values in L2: documents are 32 deep, and what holds them adds a few.
const MAX_VALUE_DEPTH: usize = 64;

pub(super) struct Load<E> {
    pub(super) inner: Arc<Inner>,
    pub(super) key: String,
    pub(super) tags: Vec<String>,
    pub(super) ttl: Duration,
    pub(super) stale_on: fn(&E) -> bool,
}

/// What L2 had to say.
enum FromL2<T> {
    Fresh(Arc<T>, Stored),
    /// Load it, and fill L2 if there is a lease. The older copy stands in if that fails.
    Load {
        lease: Option<Lease>,
        stale: Option<Older<T>>,
    },
}

/// A copy past its time that was never invalidated.
pub(super) struct Older<T> {
    pub(super) value: Arc<T>,
    pub(super) stored: Stored,
}

/// How things stood when a load began.
pub(super) struct Began {
    note: Arc<Note>,
    epoch: u64,
    asked_at: Moment,
    /// Until when what L2 gives now may be served.
    l2_until: Moment,
}

/// What a load gave.
struct Loaded<T> {
    value: Arc<T>,
    entry: Arc<Entry>,
    stored: Stored,
}

impl<E: Send> Load<E> {
    /// `lead`: who waits for this load; `None`: it is this caller's alone.
    pub(super) async fn run<T, F>(
        self,
        lead: Option<Lead<Landed>>,
        fetch: F,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let began = self.begin(lead.as_ref());
        match self.look_in_l2(&began, false).await {
            FromL2::Fresh(value, stored) => Ok(self.found(lead, value, &began, &stored)),
            FromL2::Load { lease, stale } => self.ask(lead, began, lease, stale, fetch).await,
        }
    }

    /// Asks the authority; an older copy answers in its place if it is away.
    async fn ask<T, F>(
        &self,
        lead: Option<Lead<Landed>>,
        began: Began,
        lease: Option<Lease>,
        stale: Option<Older<T>>,
        fetch: F,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let note = Arc::clone(&began.note);
        match self.fetch(began, fetch).await {
            Ok(loaded) => Ok(self.landed(lead, loaded, lease).await),
            Err(error) => {
                if let Some(lead) = lead {
                    lead.land(Outcome::Failed);
                }
                self.stand_in(error, stale, &note).await
            }
        }
    }

    /// Taken before anything is read, so that whatever voids what is read voids this load.
    fn begin(&self, lead: Option<&Lead<Landed>>) -> Began {
        let note = match lead {
            Some(lead) => Arc::clone(lead.note()),
            None => Arc::new(self.inner.generations.note(&self.key, &self.tags)),
        };
        let asked_at = self.inner.now();
        let left = self.inner.l2_may_serve_for(&self.tags);
        Began {
            note,
            epoch: self.inner.epoch.load(Ordering::SeqCst),
            asked_at,
            l2_until: asked_at.plus(left.unwrap_or_default()),
        }
    }

    /// `at_once`: an older copy is good enough, whoever loads the newer one.
    async fn look_in_l2<T: DeserializeOwned>(&self, began: &Began, at_once: bool) -> FromL2<T> {
        let mut stale = None;
        let mut pause = FIRST_BUSY_PAUSE;
        let deadline = Instant::now() + BUSY_PATIENCE;
        // Looked at again after each pause: what was invalidated meanwhile may be undelivered, and then
        // the note no longer holds either.
        while let Some(l2) = self.inner.usable_l2(&self.key, &self.tags) {
            let lookup = l2.get_or_lease(&self.key, &self.tags, random_bytes(), LEASE_FOR);
            let Some(found) = self.inner.patiently(lookup).await else {
                break;
            };
            let lease = match found {
                Lookup::Fresh(stored) => match decode(stored) {
                    Some((value, stored)) if self.is_right(began) => {
                        return FromL2::Fresh(Arc::new(value), stored);
                    }
                    // Voided meanwhile, or of another version of this program, whose it stays.
                    _ => break,
                },
                Lookup::Stale { stored, lease } => {
                    stale = decode(stored).map(|(value, stored)| Older {
                        value: Arc::new(value),
                        stored,
                    });
                    lease
                }
                Lookup::Leased(token) => Some(token),
                Lookup::Busy => None,
            };
            if let Some(token) = lease {
                let lease = Some(Lease::new(l2, &self.key, token));
                return FromL2::Load { lease, stale };
            }
            let is_enough = at_once && stale.is_some();
            if is_enough || Instant::now() + pause > deadline {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        FromL2::Load { lease: None, stale }
    }

    /// Whether what L2 gave since `began` may be served: nothing voided it, and no commit that L2 was not
    /// told of can be missing.
    fn is_right(&self, began: &Began) -> bool {
        began.note.holds() && self.inner.now().is_before(began.l2_until)
    }

    /// Answers with what L2 has.
    fn found<T: Send + Sync + 'static>(
        &self,
        lead: Option<Lead<Landed>>,
        value: Arc<T>,
        began: &Began,
        stored: &Stored,
    ) -> Cached<Arc<T>> {
        let counts = &self.inner.counts;
        counts.l2_hits.fetch_add(1, Ordering::Relaxed);
        let entry = self.entry(Arc::<T>::clone(&value), began, stored, began.l2_until);
        self.keep(&entry);
        if let Some(lead) = lead {
            lead.land(Outcome::Loaded((Arc::clone(&entry), Hit::L2)));
        }
        self.answer(value, &entry, Hit::L2)
    }

    /// Asks the authority, and gives what it says to L1.
    async fn fetch<T, F>(&self, began: Began, fetch: F) -> Result<Loaded<T>, E>
    where
        T: Serialize + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let asked_at = self.inner.now();
        let value = Arc::new(fetch.await?);
        let counts = &self.inner.counts;
        counts.misses.fetch_add(1, Ordering::Relaxed);
        let stored = self.stored(&*value, asked_at.clock);
        let began = Began { asked_at, ..began };
        let never = asked_at.plus(Duration::MAX);
        let entry = self.entry(Arc::<T>::clone(&value), &began, &stored, never);
        self.keep(&entry);
        Ok(Loaded {
            value,
            entry,
            stored,
        })
    }

    /// Gives what was loaded to those who wait for it, and to L2.
    async fn landed<T: Send + Sync + 'static>(
        &self,
        lead: Option<Lead<Landed>>,
        loaded: Loaded<T>,
        lease: Option<Lease>,
    ) -> Cached<Arc<T>> {
        let Loaded {
            value,
            entry,
            stored,
        } = loaded;
        if let Some(lead) = lead {
            lead.land(Outcome::Loaded((Arc::clone(&entry), Hit::Fetched)));
        }
        let answer = self.answer(value, &entry, Hit::Fetched);
        self.fill(lease, stored).await;
        answer
    }

    fn answer<T>(&self, value: Arc<T>, entry: &Entry, hit: Hit) -> Cached<Arc<T>> {
        let age = self.inner.clock.now().since(entry.stored_at);
        Cached { value, hit, age }
    }

    /// As L1 holds it. `until`: what its source allows.
    fn entry<T: Send + Sync + 'static>(
        &self,
        value: Arc<T>,
        began: &Began,
        stored: &Stored,
        until: Moment,
    ) -> Arc<Entry> {
        let mut right_until = until;
        if self.inner.shared {
            // From when it was asked for: by the time it came it may have been overwritten.
            let most = Duration::from_millis(self.inner.config.l1_shared_ttl_ms);
            right_until = right_until.min(began.asked_at.plus(most));
        }
        let value: Arc<dyn Any + Send + Sync> = value;
        Arc::new(Entry {
            value,
            bytes: u64::try_from(stored.value.len()).unwrap_or(u64::MAX),
            note: Arc::clone(&began.note),
            epoch: began.epoch,
            stored_at: stored.stored_at,
            right_until,
            fresh_until: stored.fresh_until,
        })
    }

    fn keep(&self, entry: &Arc<Entry>) {
        // Voided only after this look, it is not found valid either: the entry carries the note.
        if entry.note.holds() && !self.ttl.is_zero() {
            self.inner.local.insert(&self.key, Arc::clone(entry));
        }
    }

    /// The value as L2 takes it; empty, and so not stored there, when it has no JSON.
    fn stored<T: Serialize>(&self, value: &T, asked_at: Timestamp) -> Stored {
        let value = serde_json::to_string(value).unwrap_or_else(|error| {
            tracing::warn!(key = self.key, %error, "a cached value has no JSON");
            String::new()
        });
        Stored {
            value,
            stored_at: asked_at,
            fresh_until: asked_at.plus(jittered(self.ttl)),
            tags: self.tags.clone(),
        }
    }

    async fn fill(&self, lease: Option<Lease>, stored: Stored) {
        let Some(lease) = lease else { return };
        if stored.value.is_empty() || self.ttl.is_zero() {
            return;
        }
        let keep = self.ttl.saturating_add(self.inner.stale_for());
        // A task of its own: whoever waits for the answer may go away, the fill is worth finishing.
        let filling = tokio::spawn(lease.fill(stored, keep));
        if let Ok(Ok(false)) = tokio::time::timeout(FILL_PATIENCE, filling).await {
            let counts = &self.inner.counts;
            counts.l2_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The newer of the copies in L1 and L2 in place of `error`, if that is one of an authority that is
    /// away.
    async fn stand_in<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        error: E,
        older: Option<Older<T>>,
        note: &Note,
    ) -> Result<Cached<Arc<T>>, E> {
        if !(self.stale_on)(&error) {
            return Err(error);
        }
        let older = match older {
            Some(older) => Some(older),
            // Not asked before, since it might be behind; marked, that is better than nothing.
            None if self.inner.l2_may_serve_for(&self.tags).is_none() => self.peek_in_l2().await,
            None => None,
        };
        let remote = older
            .filter(|_| note.holds())
            .map(|older| self.inner.stale_copy(older.value, older.stored.stored_at));
        let local = self.inner.stale_in_l1(&self.key);
        let newest = local
            .into_iter()
            .chain(remote)
            .min_by_key(|copy| copy.age)
            .ok_or(error)?;
        self.inner.counts.stale.fetch_add(1, Ordering::Relaxed);
        Ok(newest)
    }

    async fn peek_in_l2<T: DeserializeOwned>(&self) -> Option<Older<T>> {
        let l2 = self.inner.told_l2(&self.key, &self.tags)?;
        let stored = self
            .inner
            .patiently(l2.get(&self.key, &self.tags))
            .await??;
        let (value, stored) = decode(stored)?;
        Some(Older {
            value: Arc::new(value),
            stored,
        })
    }
}

/// A load in the background: what it gave to L1, and to its caller.
type Running<T, E> = JoinHandle<Result<(Arc<Entry>, Cached<Arc<T>>), E>>;

impl<E: Send + 'static> Load<E> {
    /// Like [`run`](Self::run), but what is only past its time is served at once while it is loaded again
    /// in the background; what is long past it, if the authority takes long.
    pub(super) async fn run_revalidating<T, F>(
        self,
        lead: Lead<Landed>,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let began = self.begin(Some(&lead));
        match self.look_in_l2(&began, true).await {
            FromL2::Fresh(value, stored) => Ok(self.found(Some(lead), value, &began, &stored)),
            FromL2::Load {
                lease,
                stale: Some(older),
            } if self.is_right(&began) => {
                self.revalidate(Some(lead), began, lease, older, fetch)
                    .await
            }
            FromL2::Load { lease, stale } => {
                self.ask(Some(lead), began, lease, stale, fetch()).await
            }
        }
    }

    /// The same for an older copy in L1, where no other process writes.
    pub(super) async fn revalidate_local<T, F>(
        self,
        older: Older<T>,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let began = self.begin(None);
        self.revalidate(None, began, None, older, fetch).await
    }

    async fn revalidate<T, F>(
        self,
        lead: Option<Lead<Landed>>,
        began: Began,
        lease: Option<Lease>,
        older: Older<T>,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let revalidate_for = u64::from(self.inner.config.revalidate_for_seconds);
        let at_once_until = older.stored.fresh_until;
        let at_once_until = at_once_until.plus(Duration::from_secs(revalidate_for));
        let is_near = self.inner.clock.now() < at_once_until;
        let value = Arc::clone(&older.value);
        let entry = self.entry(value, &began, &older.stored, began.l2_until);
        // Where L2 gave no lease, another instance loads it; where there is no guard, this one does.
        let is_loaded_elsewhere = lead.is_some() && lease.is_none() && is_near;
        let guard = match is_loaded_elsewhere {
            true => None,
            false => self.inner.revalidations.begin(&self.key),
        };
        let Some(guard) = guard else {
            return match is_near {
                true => Ok(self.meanwhile(lead, entry, &older)),
                false => {
                    self.wait_for_another(lead, began, entry, older, fetch)
                        .await
                }
            };
        };
        let this = Arc::new(self);
        let note = Arc::clone(&began.note);
        let task = tokio::spawn({
            let (this, fetch) = (Arc::clone(&this), fetch());
            async move {
                let _guard = guard;
                let loaded = this.fetch(began, fetch).await?;
                let entry = Arc::clone(&loaded.entry);
                Ok::<_, E>((entry, this.landed(None, loaded, lease).await))
            }
        });
        if is_near {
            return Ok(this.meanwhile(lead, entry, &older));
        }
        this.wait_briefly(lead, entry, older, &note, task).await
    }

    /// What another caller's load in this process brings if it comes within the soft time-out, else the older
    /// copy.
    async fn wait_for_another<T, F>(
        &self,
        lead: Option<Lead<Landed>>,
        began: Began,
        entry: Arc<Entry>,
        older: Older<T>,
        fetch: impl FnOnce() -> F + Send,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let deadline = Instant::now() + Duration::from_millis(self.inner.config.soft_timeout_ms);
        while Instant::now() < deadline {
            tokio::time::sleep(OTHER_PAUSE).await;
            let Some(newer) = self.inner.fresh_in_l1(&self.key) else {
                continue;
            };
            let Some(value) = newer.typed() else {
                continue;
            };
            let answer = self.answer(value, &newer, Hit::L1);
            if let Some(lead) = lead {
                lead.land(Outcome::Loaded((newer, Hit::L1)));
            }
            return Ok(answer);
        }
        if self.may_show(&entry, &began.note) {
            return Ok(self.meanwhile(lead, entry, &older));
        }
        self.ask(lead, began, None, Some(older), fetch()).await
    }

    /// Whether the older copy still is what a reader may be shown.
    fn may_show(&self, entry: &Entry, note: &Note) -> bool {
        note.holds() && self.inner.now().is_before(entry.right_until)
    }

    /// The load's answer if it comes within the soft time-out, else the older copy.
    async fn wait_briefly<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        lead: Option<Lead<Landed>>,
        entry: Arc<Entry>,
        older: Older<T>,
        note: &Note,
        mut task: Running<T, E>,
    ) -> Result<Cached<Arc<T>>, E> {
        let soft_timeout = Duration::from_millis(self.inner.config.soft_timeout_ms);
        let ended = match tokio::time::timeout(soft_timeout, &mut task).await {
            Ok(ended) => ended,
            // Unless it was invalidated meanwhile, or for too long nothing was heard that might be.
            Err(_elapsed) if self.may_show(&entry, note) => {
                return Ok(self.meanwhile(lead, entry, &older));
            }
            Err(_elapsed) => task.await,
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(died) => match died.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only the end of the runtime cancels it, and then nobody waits any more.
                Err(_cancelled) => std::future::pending().await,
            },
        };
        match ended {
            Ok((loaded, answer)) => {
                if let Some(lead) = lead {
                    lead.land(Outcome::Loaded((loaded, Hit::Fetched)));
                }
                Ok(answer)
            }
            Err(error) => {
                if let Some(lead) = lead {
                    lead.land(Outcome::Failed);
                }
                self.stand_in(error, Some(older), note).await
            }
        }
    }

    /// Answers with the older copy, those who wait too.
    fn meanwhile<T>(
        &self,
        lead: Option<Lead<Landed>>,
        entry: Arc<Entry>,
        older: &Older<T>,
    ) -> Cached<Arc<T>> {
        let counts = &self.inner.counts;
        counts.revalidated.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer(Arc::clone(&older.value), &entry, Hit::Revalidated);
        if let Some(lead) = lead {
            lead.land(Outcome::Loaded((entry, Hit::Revalidated)));
        }
        answer
    }
}

/// Read by the platform's own reader: `serde_json` alone may change a number.
pub(super) fn decode<T: DeserializeOwned>(stored: Stored) -> Option<(T, Stored)> {
    let value = parse_json(stored.value.as_bytes(), MAX_VALUE_DEPTH)
        .ok()?
        .into_value()
        .ok()?;
    Some((serde_json::from_value(value).ok()?, stored))
}

/// `ttl` give or take a tenth, so that what was cached together does not run out together.
fn jittered(ttl: Duration) -> Duration {
    let permille = 900 + u32::from(u16::from_le_bytes(random_bytes())) % 201;
    ttl.saturating_mul(permille) / 1_000
}
