//! One load of one key: from L2, else from the authority; into L1, into L2, and to those who wait.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::flights::{Lead, Outcome};
use super::generations::Note;
use super::local::Entry;
use super::service::{Inner, Landed};
use super::{Cached, Hit, LeaseToken, Lookup, Store, Stored};
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
/// Nesting of values in L2: documents are 32 deep, and what holds them adds a few.
const MAX_VALUE_DEPTH: usize = 64;

pub(super) struct Load<'a, E> {
    pub(super) inner: &'a Inner,
    pub(super) key: &'a str,
    pub(super) tags: &'a [String],
    pub(super) ttl: Duration,
    pub(super) stale_on: fn(&E) -> bool,
}

/// What L2 had to say.
enum FromL2<T> {
    Fresh(T, Stored),
    /// Load it, and fill L2 if there is a lease. The older copy stands in if that fails.
    Load {
        lease: Option<Lease>,
        stale: Option<(T, Stored)>,
    },
}

impl<E: Send> Load<'_, E> {
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
        let (lease, stale) = match self.look_in_l2(&began).await {
            FromL2::Fresh(value, stored) => {
                let counts = &self.inner.counts;
                counts.l2_hits.fetch_add(1, Ordering::Relaxed);
                return Ok(self.land(lead, Arc::new(value), &began, &stored, Hit::L2));
            }
            FromL2::Load { lease, stale } => (lease, stale),
        };
        let asked_at = self.inner.clock.now();
        let began = Began { asked_at, ..began };
        match fetch.await {
            Ok(value) => {
                let counts = &self.inner.counts;
                counts.misses.fetch_add(1, Ordering::Relaxed);
                let value = Arc::new(value);
                let stored = self.stored(&*value, asked_at);
                let answer = self.land(lead, value, &began, &stored, Hit::Fetched);
                self.fill(lease, stored).await;
                Ok(answer)
            }
            Err(error) => {
                if let Some(lead) = lead {
                    lead.land(Outcome::Failed);
                }
                if !(self.stale_on)(&error) {
                    return Err(error);
                }
                self.stale(stale.filter(|_| began.note.holds()))
                    .ok_or(error)
            }
        }
    }

    /// Taken before anything is read, so that whatever voids what is read voids this load.
    fn begin(&self, lead: Option<&Lead<Landed>>) -> Began {
        let note = match lead {
            Some(lead) => Arc::clone(lead.note()),
            None => Arc::new(self.inner.generations.note(self.key, self.tags)),
        };
        Began {
            note,
            epoch: self.inner.epoch.load(Ordering::SeqCst),
            asked_at: self.inner.clock.now(),
        }
    }

    async fn look_in_l2<T: DeserializeOwned>(&self, began: &Began) -> FromL2<T> {
        let mut stale = None;
        let mut pause = FIRST_BUSY_PAUSE;
        let deadline = Instant::now() + BUSY_PATIENCE;
        // Looked at again after each pause: what was invalidated meanwhile may be undelivered, and then
        // the note no longer holds either.
        while let Some(l2) = self.inner.usable_l2(self.key, self.tags) {
            let lookup = l2.get_or_lease(self.key, self.tags, random_bytes(), LEASE_FOR);
            let Some(found) = self.inner.patiently(lookup).await else {
                break;
            };
            let lease = match found {
                Lookup::Fresh(stored) => match decode(stored) {
                    Some((value, stored)) if began.note.holds() => {
                        return FromL2::Fresh(value, stored);
                    }
                    // Voided meanwhile, or of another version of this program, whose it stays.
                    _ => break,
                },
                Lookup::Stale { stored, lease } => {
                    stale = decode(stored);
                    lease
                }
                Lookup::Leased(token) => Some(token),
                Lookup::Busy => None,
            };
            if let Some(token) = lease {
                let lease = Some(Lease::new(l2, self.key, token));
                return FromL2::Load { lease, stale };
            }
            if Instant::now() + pause > deadline {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        FromL2::Load { lease: None, stale }
    }

    /// Gives the value to L1, and to those who wait for it.
    fn land<T: Send + Sync + 'static>(
        &self,
        lead: Option<Lead<Landed>>,
        value: Arc<T>,
        began: &Began,
        stored: &Stored,
        hit: Hit,
    ) -> Cached<Arc<T>> {
        let mut local_until = stored.fresh_until;
        if self.inner.shared {
            // From when it was asked for: by the time it came it may have been overwritten.
            let most = Duration::from_millis(self.inner.config.l1_shared_ttl_ms);
            local_until = local_until.min(began.asked_at.plus(most));
        }
        let erased: Arc<dyn Any + Send + Sync> = Arc::<T>::clone(&value);
        let entry = Arc::new(Entry {
            value: erased,
            bytes: u64::try_from(stored.value.len()).unwrap_or(u64::MAX),
            note: Arc::clone(&began.note),
            epoch: began.epoch,
            stored_at: stored.stored_at,
            local_until,
            fresh_until: stored.fresh_until,
        });
        // Voided only after this look, it is not found valid either: the entry carries the note.
        if entry.note.holds() && !self.ttl.is_zero() {
            self.inner.local.insert(self.key, Arc::clone(&entry));
        }
        let age = self.inner.clock.now().since(entry.stored_at);
        if let Some(lead) = lead {
            lead.land(Outcome::Loaded((entry, hit)));
        }
        Cached { value, hit, age }
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
            tags: self.tags.to_vec(),
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

    /// The newer of the copies in L1 and L2.
    fn stale<T: Send + Sync + 'static>(
        &self,
        look_in_l2: Option<(T, Stored)>,
    ) -> Option<Cached<Arc<T>>> {
        let local = self.inner.stale_in_l1(self.key);
        let remote = look_in_l2
            .map(|(value, stored)| self.inner.stale_copy(Arc::new(value), stored.stored_at));
        let newest = local
            .into_iter()
            .chain(remote)
            .min_by_key(|copy| copy.age)?;
        self.inner.counts.stale.fetch_add(1, Ordering::Relaxed);
        Some(newest)
    }
}

/// How things stood when a load began.
struct Began {
    note: Arc<Note>,
    epoch: u64,
    asked_at: Timestamp,
}

/// The right to fill a key in L2. Given back when it is dropped unused: by a failing load, or by a caller
/// who went away.
struct Lease {
    /// `None` once it is used.
    l2: Option<Arc<dyn Store>>,
    key: String,
    token: LeaseToken,
}

impl Lease {
    fn new(l2: &Arc<dyn Store>, key: &str, token: LeaseToken) -> Self {
        Self {
            l2: Some(Arc::clone(l2)),
            key: key.to_owned(),
            token,
        }
    }

    /// Whether L2 answered; it may have refused what was invalidated meanwhile.
    async fn fill(mut self, stored: Stored, keep: Duration) -> bool {
        let Some(l2) = self.l2.take() else {
            return false;
        };
        let filled = l2.fill(&self.key, self.token, &stored, keep).await;
        filled.is_ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(l2), Ok(runtime)) = (self.l2.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (key, token) = (std::mem::take(&mut self.key), self.token);
        runtime.spawn(async move {
            if let Err(error) = l2.release(&key, token).await {
                tracing::debug!(%error, "a lease runs out instead of being given back");
            }
        });
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
