//! What must be refused although a serving copy says otherwise: the relational revocation rows of the last
//! quarter of an hour, in memory.
//!
//! Invariant: a serving copy answers only while it is younger than [`GRACE`], and a revocation is
//! remembered for longer than that. So whatever was revoked is either remembered here, or has no copy any
//! more that could answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use uuid::Uuid;

use super::{RevocationKind, SessionRecord, Store};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{StoreError, StoreKind};
use crate::ids::KeyId;

/// How long serving copies, and what is known of revocations, may answer while the relational store is
/// away.
pub const GRACE: Duration = Duration::from_secs(10 * 60);
/// How far back revocations are read: past the grace, clocks that disagree and commits that take long.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// Beyond this age a request has them read first: a revocation is refused everywhere within a second.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long a request waits for that. A store that is slower counts as away here.
const PATIENCE: Duration = Duration::from_millis(300);
/// After a read that failed, requests do not try again this soon: the background task does.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Revocations held. With more in a quarter of an hour, the store itself is asked at every request.
const MAX_ROWS: u32 = 50_000;

/// One for the sessions and the service keys of a platform. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Revocations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: SharedClock,
    known: RwLock<Known>,
    /// Held while they are read, so that one request does it for all.
    reading: tokio::sync::Mutex<()>,
    failed_at: Mutex<Option<Timestamp>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest of each.
    rows: HashMap<(RevocationKind, Uuid), Timestamp>,
    /// As of when; `None`: never read.
    as_of: Option<Timestamp>,
    /// There are more than were read.
    incomplete: bool,
}

/// Whether serving copies may answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Fresh copies, and older ones within the grace if the store is away.
    Copies,
    /// None: ask the store.
    StoreOnly,
}

impl Revocations {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                known: RwLock::default(),
                reading: tokio::sync::Mutex::new(()),
                failed_at: Mutex::new(None),
            }),
        }
    }

    /// Reads them from the store.
    ///
    /// # Errors
    /// The store's; what was known stays.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let _one_at_a_time = inner.reading.lock().await;
        self.read().await
    }

    async fn read(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let since = now.minus(REMEMBERED);
        let rows = match inner.store.revocations(since, MAX_ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                *self.failed_at() = Some(now);
                return Err(error);
            }
        };
        let mut known = self.write();
        known.incomplete = rows.len() >= usize::try_from(MAX_ROWS).unwrap_or(usize::MAX);
        // Those noted here while this read ran may not be in it yet.
        known.rows.retain(|_, at| *at >= since);
        for row in rows {
            let newest = known.rows.entry((row.kind, row.id)).or_insert(row.at);
            *newest = row.at.max(*newest);
        }
        known.as_of = Some(now);
        *self.failed_at() = None;
        Ok(())
    }

    /// Sees to it that what is known is at most a second old, or that the store is away.
    ///
    /// # Errors
    /// The store is away, and has been for longer than the grace.
    pub async fn check(&self) -> Result<Trust, StoreError> {
        if let Some(trust) = self.fresh() {
            return Ok(trust);
        }
        let inner = &*self.inner;
        let failed_recently = self
            .failed_at()
            .is_some_and(|at| inner.clock.now().since(at) < RETRY_AFTER);
        if !failed_recently {
            let read = async {
                let _one_at_a_time = inner.reading.lock().await;
                // Someone else may have read while this one waited.
                match self.fresh() {
                    Some(_) => Ok(()),
                    None => self.read().await,
                }
            };
            match tokio::time::timeout(PATIENCE, read).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "revocations cannot be read"),
                Err(_elapsed) => *self.failed_at() = Some(inner.clock.now()),
            }
        }
        let known = self.known();
        let age = known.as_of.map(|as_of| inner.clock.now().since(as_of));
        match age {
            Some(age) if age < GRACE && !known.incomplete => Ok(Trust::Copies),
            // Never read, or too many to hold: the store decides, if it is there.
            None => Ok(Trust::StoreOnly),
            Some(age) if age < GRACE => Ok(Trust::StoreOnly),
            Some(_) => Err(StoreError::unavailable(
                StoreKind::Relational,
                "revocations could not be read for longer than the grace",
            )),
        }
    }

    fn fresh(&self) -> Option<Trust> {
        let known = self.known();
        let age = self.inner.clock.now().since(known.as_of?);
        (age < FRESH_FOR).then_some(if known.incomplete {
            Trust::StoreOnly
        } else {
            Trust::Copies
        })
    }

    /// Notes what this instance revoked itself: refused here at once.
    pub fn note(&self, kind: RevocationKind, id: Uuid) {
        let now = self.inner.clock.now();
        let mut known = self.write();
        let newest = known.rows.entry((kind, id)).or_insert(now);
        *newest = now.max(*newest);
    }

    #[must_use]
    pub fn refuse_session(&self, session: &SessionRecord) -> bool {
        let known = self.known();
        if known.rows.is_empty() {
            return false;
        }
        let user = (RevocationKind::User, session.user_id.uuid());
        known
            .rows
            .contains_key(&(RevocationKind::Session, session.id.uuid()))
            || known
                .rows
                .get(&user)
                .is_some_and(|at| session.created_at <= *at)
    }

    #[must_use]
    pub fn refuse_key(&self, id: KeyId) -> bool {
        self.known()
            .rows
            .contains_key(&(RevocationKind::Key, id.uuid()))
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.inner
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.inner
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_at(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.inner
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
