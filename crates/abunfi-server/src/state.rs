//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abunfi::DatabaseService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;
use crate::profile_cache::ProfileCache;

/// The state of the service. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    platform: DatabaseService,
    metrics: Metrics,
    profiles: ProfileCache,
    /// One for each request that runs.
    permits: Arc<Semaphore>,
    capacity: usize,
    draining: AtomicBool,
    request_timeout: Duration,
}

impl App {
    pub(crate) fn new(platform: DatabaseService) -> Self {
        let http = &platform.config().http;
        let capacity = usize::try_from(http.max_concurrent_requests)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                metrics: Metrics::default(),
                profiles: ProfileCache::default(),
                permits: Arc::new(Semaphore::new(capacity)),
                capacity,
                draining: AtomicBool::new(false),
                request_timeout: Duration::from_millis(http.request_timeout_ms.max(1)),
                platform,
            }),
        }
    }

    pub(crate) fn platform(&self) -> &DatabaseService {
        &self.inner.platform
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn profiles(&self) -> &ProfileCache {
        &self.inner.profiles
    }

    /// A place for one more request; `None` when all are taken, or the service is about to stop.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        if self.is_draining() {
            return None;
        }
        Arc::clone(&self.inner.permits).try_acquire_owned().ok()
    }

    /// How many requests run.
    pub(crate) fn running(&self) -> usize {
        self.inner
            .capacity
            .saturating_sub(self.inner.permits.available_permits())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::SeqCst)
    }

    /// From here on nothing new is taken on.
    pub(crate) fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }
}
