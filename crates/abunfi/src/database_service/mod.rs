//! The façade: one platform, one accessor per domain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::error::{Error, StoreError, StoreKind};
use crate::health::Probe;
use crate::ids::UserId;
use crate::ledger::Asset;
use crate::stores::memory::Memory;
use crate::stores::mongodb::MongoDb;
use crate::stores::redis::RedisStore;
use crate::users::{HybridUser, Served};
use crate::{
    Dashboard, audit, cache, dashboard, documents, health, keys, ledger, outbox, rate_limit,
    sessions, temp, transaction, users,
};

mod background;
mod ledger_figures;
mod relational;
mod signing_key;

use relational::{Relational, Server};

/// Three stores that behave as one database. Cheap to clone; all clones are one platform.
#[derive(Debug, Clone)]
pub struct DatabaseService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    backends: Backends,
    users: users::Service,
    ledger: ledger::Service,
    audit: audit::Service,
    documents: documents::Service,
    cache: cache::Cache,
    sessions: sessions::Service,
    keys: keys::Service,
    rate_limits: rate_limit::Service,
    temp: temp::Service,
    health: health::Service,
    clock: SharedClock,
    transactions: Arc<dyn transaction::Store>,
    verify: Arc<dyn audit::verify::Store>,
    checkpoints: Arc<dyn audit::CheckpointStore>,
    heads: Arc<dyn documents::HeadStore>,
    outbox: Arc<dyn outbox::Store>,
    document_relay: Option<Arc<documents::Relay>>,
    outbox_relay: Option<Arc<outbox::Relay>>,
    outbox_watch: Option<Arc<outbox::Watch>>,
    relational: Server,
    stop: CancellationToken,
    background: TaskTracker,
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

/// Puts a store around the platform's.
pub type WrapLedger = Box<dyn FnOnce(Arc<dyn ledger::Store>) -> Arc<dyn ledger::Store> + Send>;

/// A store of the ledger around the platform's own: see [`DatabaseService::open_with_ledger`].
pub struct LedgerAround {
    pub wrap: WrapLedger,
    /// How many batches may be in flight at once.
    pub shards: usize,
}

impl std::fmt::Debug for LedgerAround {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerAround")
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
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

/// What a platform is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    /// Nothing changes by opening it, nor by itself.
    Read,
}

/// The key-value side: either Redis, or this process.
struct KeyValue {
    l2: Option<Arc<dyn cache::Store>>,
    limits: Arc<dyn rate_limit::Store>,
    temp: Arc<dyn temp::Store>,
    probe: Arc<dyn Probe>,
    backend: &'static str,
}

impl DatabaseService {
    /// Connects to the stores that `config` names, migrates the relational schema (unless told not to), and
    /// starts the background work. An absent document or key-value server is no error: the platform starts
    /// degraded and recovers by itself.
    ///
    /// # Errors
    /// [`OpenError`]: what to mend.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_with_clock(config, Arc::new(SystemClock)).await
    }

    /// The same, with a clock of the caller's: for tests.
    ///
    /// # Errors
    /// [`OpenError`]: what to mend.
    pub async fn open_with_clock(config: Config, clock: SharedClock) -> Result<Self, OpenError> {
        Self::open_with(config, clock, Purpose::Serve, None).await
    }

    /// Opens what is there, to be read: it does not migrate, makes no file, no default asset and no key, and
    /// starts no background work, so that looking changes nothing. What is done through it is done all the same;
    /// it signs no checkpoints.
    ///
    /// # Errors
    /// [`OpenError`]: what to mend; [`OpenError::SchemaTooOld`] also when there is no database yet.
    pub async fn open_to_read(config: Config) -> Result<Self, OpenError> {
        let config = Config {
            migrate_on_start: false,
            ..config
        };
        Self::open_with(config, Arc::new(SystemClock), Purpose::Read, None).await
    }

    /// The same, where `ledger` puts its own store around the platform's: for measuring one way of writing
    /// the books against another below the same service.
    ///
    /// # Errors
    /// [`OpenError`]: what to mend.
    pub async fn open_with_ledger(config: Config, ledger: LedgerAround) -> Result<Self, OpenError> {
        let clock = Arc::new(SystemClock);
        Self::open_with(config, clock, Purpose::Serve, Some(ledger)).await
    }

    async fn open_with(
        config: Config,
        clock: SharedClock,
        purpose: Purpose,
        ledger: Option<LedgerAround>,
    ) -> Result<Self, OpenError> {
        let default_asset =
            Asset::parse(&config.default_asset).ok_or_else(|| OpenError::Configuration {
                variable: "DEFAULT_ASSET",
                reason: "1 to 12 of A-Z and 0-9".to_owned(),
            })?;
        let signer = match purpose {
            Purpose::Serve => signing_key::of(&config)?,
            Purpose::Read => None,
        };
        let mut relational = Relational::open(&config).await?;
        if let Some(around) = ledger {
            relational.ledger = (around.wrap)(relational.ledger);
            relational.shards = around.shards;
        }
        let memory = Memory::new(Arc::clone(&clock));
        let key_value = match &config.redis_url {
            Some(url) => {
                let redis = Arc::new(RedisStore::connect(url.expose(), &config.redis).await?);
                KeyValue {
                    l2: Some(redis.clone()),
                    limits: redis.clone(),
                    temp: redis.clone(),
                    probe: redis,
                    backend: "redis",
                }
            }
            None => {
                let memory = Arc::new(memory.clone());
                KeyValue {
                    l2: None,
                    limits: memory.clone(),
                    temp: memory.clone(),
                    probe: memory,
                    backend: "memory",
                }
            }
        };
        let shared = relational.shared || key_value.l2.is_some();
        let cache = cache::Cache::new(
            key_value.l2,
            Arc::clone(&clock),
            config.cache.clone(),
            shared,
        );
        let mongodb = match &config.mongodb_uri {
            Some(uri) => Some(Arc::new(
                MongoDb::connect(uri.expose(), &config.mongodb).await?,
            )),
            None => None,
        };
        let stores = document_stores(&relational, mongodb.as_ref());
        let documents = documents::Service::new(
            stores,
            cache.clone(),
            Arc::clone(&clock),
            Duration::from_millis(config.mongodb.apply_deadline_ms),
            days(config.log_retention_days),
            days(config.image_retention_days),
        );
        let document_relay = mongodb.is_some().then(|| Arc::clone(documents.relay()));
        let users = users::Service::new(
            Arc::clone(&relational.users),
            documents.clone(),
            cache.clone(),
            Arc::clone(&clock),
            default_asset,
            Duration::from_secs(u64::from(config.profile_ttl_seconds)),
        );
        let ledger = ledger::Service::new(
            Arc::clone(&relational.ledger),
            Arc::clone(&relational.audit),
            cache.clone(),
            Arc::clone(&clock),
            default_asset,
            relational.shards,
        );
        let audit = audit::Service::new(
            Arc::clone(&relational.audit),
            Arc::clone(&relational.checkpoints),
            Arc::clone(&relational.exports),
            Arc::clone(&clock),
            signer,
        );
        if purpose == Purpose::Serve {
            open_default_asset(&ledger, &default_asset).await?;
        }
        let documents_probe: Arc<dyn Probe> = match &mongodb {
            Some(mongodb) => mongodb.clone(),
            None => Arc::clone(&relational.documents_probe),
        };
        let backends = Backends {
            relational: relational.backend,
            documents: documents_probe.backend(),
            key_value: key_value.backend,
        };
        let revocations =
            sessions::Revocations::new(Arc::clone(&relational.sessions), Arc::clone(&clock));
        let outbox_relay = config.redis_url.as_ref().map(|_| {
            Arc::new(outbox::Relay::new(
                Arc::clone(&relational.outbox),
                cache.clone(),
                Arc::clone(&clock),
            ))
        });
        let outbox_watch = config
            .redis_url
            .as_ref()
            .map(|_| outbox::Watch::new(Arc::clone(&relational.outbox), cache.clone()))
            .map(Arc::new);
        let platform = Self {
            inner: Arc::new(Inner {
                backends,
                users,
                ledger,
                audit,
                documents,
                sessions: sessions::Service::new(
                    Arc::clone(&relational.sessions),
                    cache.clone(),
                    Arc::clone(&clock),
                    config.sessions.clone(),
                    revocations.clone(),
                ),
                keys: keys::Service::new(
                    Arc::clone(&relational.keys),
                    cache.clone(),
                    Arc::clone(&clock),
                    config
                        .admin_key
                        .as_ref()
                        .map(|key| Sha256::digest(key.expose()).into()),
                    revocations,
                ),
                rate_limits: rate_limit::Service::new(
                    key_value.limits,
                    Arc::new(memory),
                    config.rate_limits.clone(),
                    config.instances,
                ),
                temp: temp::Service::new(key_value.temp, Arc::clone(&clock)),
                health: health::Service::new(vec![
                    Arc::clone(&relational.probe),
                    documents_probe,
                    key_value.probe,
                ]),
                cache,
                clock,
                transactions: Arc::clone(&relational.transactions),
                verify: Arc::clone(&relational.verify),
                checkpoints: Arc::clone(&relational.checkpoints),
                heads: Arc::clone(&relational.heads),
                outbox: Arc::clone(&relational.outbox),
                document_relay,
                outbox_relay,
                outbox_watch,
                relational: relational.server,
                stop: CancellationToken::new(),
                background: TaskTracker::new(),
                config,
            }),
        };
        if purpose == Purpose::Serve {
            platform.inner.health.probe_now().await;
            platform.start_background();
        }
        Ok(platform)
    }

    /// Brings the relational schema up to date without starting anything; gives its version before and
    /// after. Any number of processes may do so at once.
    ///
    /// # Errors
    /// [`OpenError`]: what to mend.
    pub async fn migrate(config: &Config) -> Result<(i64, i64), OpenError> {
        Relational::migrate(config).await
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    #[must_use]
    pub fn backends(&self) -> Backends {
        self.inner.backends
    }

    #[must_use]
    pub fn users(&self) -> &users::Service {
        &self.inner.users
    }

    #[must_use]
    pub fn ledger(&self) -> &ledger::Service {
        &self.inner.ledger
    }

    /// The verifier of the books. Reads only, in connections of its own.
    #[must_use]
    pub fn verifier(&self) -> audit::verify::Verifier {
        let inner = &self.inner;
        audit::verify::Verifier::new(Arc::clone(&inner.verify), Arc::clone(&inner.checkpoints))
    }

    /// Checkpoints, exports, proofs and erasure.
    #[must_use]
    pub fn audit(&self) -> &audit::Service {
        &self.inner.audit
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

    /// The clock that everything here reads.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// The hybrid user as one read over the stores, or from the cache. `None`: there is no such user.
    ///
    /// # Errors
    /// When the relational store is away and no copy is left.
    pub async fn get_user_by_id(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<HybridUser>>, StoreError> {
        self.inner.users.get(id, use_cache).await
    }

    /// The dashboard, cached for as long as the configuration says. `None`: there is no such user.
    ///
    /// # Errors
    /// When the relational store is away and no copy is left.
    pub async fn dashboard(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<Dashboard>>, StoreError> {
        let inner = &self.inner;
        let parts = dashboard::Parts {
            users: &inner.users,
            ledger: &inner.ledger,
            cache: &inner.cache,
            clock: &inner.clock,
            ttl: Duration::from_secs(u64::from(inner.config.dashboard_ttl_seconds)),
        };
        parts.dashboard(id, use_cache).await
    }

    /// Cache-aside: the value of `key`, from the cache or from `fetch`, kept for `ttl`.
    ///
    /// # Errors
    /// What `fetch` says.
    pub async fn cache<T, E, F>(&self, key: &str, ttl: Duration, fetch: F) -> Result<Arc<T>, E>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
        E: Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        Ok(self
            .inner
            .cache
            .get_or_fetch(key, &[], ttl, |_error| false, fetch)
            .await?
            .value)
    }

    /// Runs `body` in one relational transaction: see [`transaction`]. What it changed is invalidated in the
    /// cache when (and only when) it committed, or may have.
    ///
    /// # Errors
    /// The body's, after rolling back; [`StoreError::OutcomeUnknown`] when the commit's answer was lost.
    pub async fn execute_transaction<T>(
        &self,
        body: impl transaction::Body<T>,
    ) -> Result<T, Error> {
        let mut unknown = Vec::new();
        let store = self.inner.transactions.as_ref();
        let executing = transaction::execute_noting(store, body, &mut unknown);
        let (executed, promises) = outbox::collecting(executing).await;
        match executed {
            Ok((value, tags)) => {
                self.inner.cache.keep(&tags, promises).await;
                Ok(value)
            }
            Err(error) => {
                // It may be committed yet: its promise stays for those who see it then.
                self.inner.cache.invalidate(&[], &unknown).await;
                Err(error)
            }
        }
    }

    /// Figures of every store and domain. A store that is away has its error in its place.
    pub async fn get_stats(&self) -> health::Statistics {
        let inner = &self.inner;
        let (postgres, mongodb, redis, sessions, ledger, heads, outbox) = tokio::join!(
            inner.health.statistics(StoreKind::Relational),
            inner.health.statistics(StoreKind::Documents),
            inner.health.statistics(StoreKind::KeyValue),
            inner.sessions.count(),
            self.ledger_figures(),
            inner.heads.backlog(),
            inner.outbox.backlog(),
        );
        health::Statistics {
            postgres,
            mongodb,
            redis,
            cache: json!(inner.cache.stats()),
            sessions: or_error(sessions.map(|active| json!({"active": active}))),
            rate_limits: inner.rate_limits.stats(),
            ledger,
            outbox: json!({
                "effects": or_error(outbox.map(|backlog| json!(backlog))),
                "documents": or_error(heads.map(|backlog| json!(backlog))),
                "relay": inner.document_relay.as_ref().map(|relay| relay.stats()),
            }),
        }
    }

    /// Stops the background work and closes the stores. Waits for what runs no longer than the
    /// configuration's grace; what a crash would leave, the next start finishes.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        inner.background.close();
        let grace = Duration::from_millis(inner.config.http.shutdown_grace_ms);
        if tokio::time::timeout(grace, inner.background.wait())
            .await
            .is_err()
        {
            tracing::warn!("background work did not end in time");
        }
        if tokio::time::timeout(grace, inner.relational.close())
            .await
            .is_err()
        {
            tracing::warn!("the relational store did not close in time");
        }
    }
}

fn document_stores(relational: &Relational, mongodb: Option<&Arc<MongoDb>>) -> documents::Stores {
    let heads = Arc::clone(&relational.heads);
    match mongodb {
        Some(mongodb) => documents::Stores {
            heads,
            content: mongodb.clone(),
            dev_data: mongodb.clone(),
            logs: mongodb.clone(),
            relational: false,
        },
        None => documents::Stores {
            heads,
            content: Arc::clone(&relational.content),
            dev_data: Arc::clone(&relational.dev_data),
            logs: Arc::clone(&relational.logs),
            relational: true,
        },
    }
}

/// Every user starts with a balance in the default asset, so it must exist.
async fn open_default_asset(ledger: &ledger::Service, asset: &Asset) -> Result<(), OpenError> {
    if ledger.asset(asset).await?.is_some() {
        return Ok(());
    }
    let ctx = crate::Context::system("start");
    let price = ledger::first_share_price();
    match ledger
        .put_asset(&ctx, asset, price, documents::Expected::Absent)
        .await
    {
        // Another instance that starts at the same time made it first.
        Ok(_) | Err(ledger::Error::VersionMismatch { .. }) => Ok(()),
        Err(ledger::Error::Store(error)) => Err(error.into()),
        Err(other) => Err(StoreError::unexpected(StoreKind::Relational, other).into()),
    }
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3_600)
}

fn or_error(figures: Result<Value, StoreError>) -> Value {
    figures.unwrap_or_else(|error| json!({"error": format!("{} is unavailable", error.store())}))
}
