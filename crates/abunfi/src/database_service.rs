//! The façade: one platform, one accessor per domain.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::error::{Error, StoreError};
use crate::ids::UserId;
use crate::users::{HybridUser, Served};
use crate::{
    Dashboard, cache, documents, health, keys, ledger, outbox, rate_limit, sessions, temp,
    transaction, users,
};

/// Three stores that behave as one database. Cheap to clone; all clones are one platform.
#[derive(Debug, Clone)]
pub struct DatabaseService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    users: users::Service,
    ledger: ledger::Service,
    documents: documents::Service,
    cache: cache::Cache,
    sessions: sessions::Service,
    keys: keys::Service,
    rate_limits: rate_limit::Service,
    temp: temp::Service,
    health: health::Service,
    transactions: Arc<dyn transaction::Store>,
    stop: CancellationToken,
    background: tokio_util::task::TaskTracker,
}

/// What serves each store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backends {
    /// `postgresql` or `sqlite`.
    pub relational: &'static str,
    /// `mongodb`, `postgresql` or `sqlite`.
    pub documents: &'static str,
    /// `redis` or `memory`.
    pub key_value: &'static str,
}

/// Why a platform could not be opened. Names what to mend; never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{variable}: {reason}")]
    Configuration {
        variable: &'static str,
        reason: String,
    },
    /// The schema is newer than this program knows: start a newer program instead.
    #[error("the schema is at version {found}, this program knows up to {known}")]
    SchemaTooNew { found: i64, known: i64 },
    #[error("the schema is at version {found}, this program needs {needed}: run `abunfi migrate`")]
    SchemaTooOld { found: i64, needed: i64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DatabaseService {
    /// Connects to the stores that `config` names, migrates the relational schema (unless told not to), and
    /// starts the background work. An absent document or key-value server is no error: the platform starts
    /// degraded and recovers by itself.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        todo!()
    }

    /// The same, with a clock of the caller's: for tests.
    pub async fn open_with_clock(config: Config, clock: SharedClock) -> Result<Self, OpenError> {
        todo!()
    }

    /// Brings the relational schema up to date without opening the platform; gives its version before and
    /// after. Safe beside running instances.
    pub async fn migrate(config: &Config) -> Result<(i64, i64), OpenError> {
        todo!()
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    #[must_use]
    pub fn backends(&self) -> Backends {
        todo!()
    }

    #[must_use]
    pub fn users(&self) -> &users::Service {
        &self.inner.users
    }

    #[must_use]
    pub fn ledger(&self) -> &ledger::Service {
        &self.inner.ledger
    }

    #[must_use]
    pub fn documents(&self) -> &documents::Service {
        &self.inner.documents
    }

    #[must_use]
    pub fn cache_service(&self) -> &cache::Cache {
        &self.inner.cache
    }

    #[must_use]
    pub fn sessions(&self) -> &sessions::Service {
        &self.inner.sessions
    }

    #[must_use]
    pub fn keys(&self) -> &keys::Service {
        &self.inner.keys
    }

    #[must_use]
    pub fn rate_limits(&self) -> &rate_limit::Service {
        &self.inner.rate_limits
    }

    #[must_use]
    pub fn temp(&self) -> &temp::Service {
        &self.inner.temp
    }

    #[must_use]
    pub fn health(&self) -> &health::Service {
        &self.inner.health
    }

    /// The hybrid user as one read over the stores, or from the cache.
    pub async fn get_user_by_id(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<HybridUser>>, StoreError> {
        self.inner.users.get(id, use_cache).await
    }

    /// The dashboard, cached for as long as the configuration says. `None`: there is no such user.
    pub async fn dashboard(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<Dashboard>>, StoreError> {
        todo!()
    }

    /// Cache-aside: the value of `key`, from the cache or from `fetch`, kept for `ttl`.
    pub async fn cache<T, E, F>(
        &self,
        key: &str,
        ttl: std::time::Duration,
        fetch: F,
    ) -> Result<T, E>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
        E: Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let cached = self
            .inner
            .cache
            .get_or_fetch(key, &[], ttl, |_error| false, fetch)
            .await?;
        Ok(Arc::unwrap_or_clone(cached.value))
    }

    /// Runs `body` in one relational transaction: see [`transaction`].
    pub async fn execute_transaction<T>(
        &self,
        body: impl transaction::Body<T>,
    ) -> Result<T, Error> {
        let (value, tags) = transaction::execute(self.inner.transactions.as_ref(), body).await?;
        self.inner.cache.invalidate(&[], &tags).await;
        Ok(value)
    }

    pub async fn get_stats(&self) -> health::Statistics {
        todo!()
    }

    /// Stops the background work after a last round, and closes the stores. Bounded by the configuration's
    /// grace.
    pub async fn close(&self) {
        todo!()
    }
}
