//! The configuration: defaults ← TOML file ← environment ← flags.
//!
//! Read in this order: [`Config`], the table of [`SETTINGS`], [`Config::load`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cache::CacheConfig;
use crate::documents::LogLevel;
use crate::ledger::words;
use crate::rate_limit::Policy;
use crate::sessions::SessionPolicy;

mod load;
mod mask;
mod process;
mod settings;
#[cfg(test)]
mod tests;

pub use load::{FileText, Loaded, Problem, Problems, Shown, Source, Sources};
pub use process::{ENVIRONMENT_VARIABLE, FILE_VARIABLE};
pub use settings::{SETTINGS, Setting, markdown_table};

/// The effective configuration. Every field has a default; `DATABASE_URL` and the like are the environment's
/// names for the same fields (see the table in the README).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub data_dir: PathBuf,
    /// `postgresql://…` or `sqlite://…`; `None`: a SQLite file under `data_dir`.
    pub database_url: Option<Secret>,
    /// `mongodb://…` or `mongodb+srv://…`; `None`: documents live in the relational store.
    pub mongodb_uri: Option<Secret>,
    /// `redis://…`, `rediss://…`, `redis+cluster://host1,host2`, `redis+sentinel://host1,host2/master`;
    /// `None`: in process.
    pub redis_url: Option<Secret>,
    /// A key with all scopes, at least 32 characters.
    pub admin_key: Option<Secret>,
    pub default_asset: String,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// Service events from this level up also go to the document store's logs; `None`: off.
    pub store_logs_from: Option<LogLevel>,
    pub postgres: PostgresConfig,
    pub sqlite: SqliteConfig,
    pub mongodb: MongoConfig,
    pub redis: RedisConfig,
    pub cache: CacheConfig,
    /// Seconds that a profile is cached.
    pub profile_ttl_seconds: u32,
    /// Seconds that a dashboard is cached: 300 by the contract.
    pub dashboard_ttl_seconds: u32,
    pub sessions: SessionPolicy,
    /// By name; `login` and `default` are there unless redefined.
    pub rate_limits: BTreeMap<String, Policy>,
    /// The policy that the platform's own routes are under; `None`: unlimited.
    pub own_rate_limit: Option<String>,
    /// How many instances share the limits while Redis is away.
    pub instances: u32,
    pub idempotency_retention_days: u32,
    /// How long applied images are kept, for a MongoDB restored from a backup.
    pub image_retention_days: u32,
    pub log_retention_days: u32,
    pub audit: AuditConfig,
    pub http: HttpConfig,
    /// Start although the database may lose what it acknowledged (`fsync` or `synchronous_commit` off).
    pub allow_unsafe_durability: bool,
    /// Run schema migrations at start.
    pub migrate_on_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 3001,
            data_dir: PathBuf::from("./data"),
            database_url: None,
            mongodb_uri: None,
            redis_url: None,
            admin_key: None,
            default_asset: "VND".to_owned(),
            log_level: LogLevel::Info,
            log_format: LogFormat::Auto,
            store_logs_from: None,
            postgres: PostgresConfig::default(),
            sqlite: SqliteConfig::default(),
            mongodb: MongoConfig::default(),
            redis: RedisConfig::default(),
            cache: CacheConfig::default(),
            profile_ttl_seconds: 60,
            dashboard_ttl_seconds: 300,
            sessions: SessionPolicy::default(),
            rate_limits: crate::rate_limit::Service::first_policies(),
            own_rate_limit: None,
            instances: 1,
            idempotency_retention_days: 7,
            image_retention_days: 7,
            log_retention_days: 30,
            audit: AuditConfig::default(),
            http: HttpConfig::default(),
            allow_unsafe_durability: false,
            migrate_on_start: true,
        }
    }
}

impl Config {
    /// Whether a PostgreSQL server is the relational store, rather than a file of this machine.
    #[must_use]
    pub fn uses_postgres(&self) -> bool {
        self.database_url
            .as_ref()
            .is_some_and(|url| !url.expose().starts_with("sqlite:"))
    }
}

words! {
    LogFormat {
        /// `pretty` on a terminal, else `json`.
        Auto = "auto",
        Pretty = "pretty",
        Json = "json",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// For the requests of domains.
    pub max_connections: u32,
    /// Apart, for the relay and the sweeps, so that background work cannot starve requests.
    pub background_connections: u32,
    /// How long a request waits for a connection.
    pub acquire_timeout_ms: u64,
    /// How long one unit of work may take before its commit is sent.
    pub deadline_ms: u64,
    /// How long a commit's answer is waited for.
    pub commit_deadline_ms: u64,
    /// For migrations: past a pooler. `DATABASE_DIRECT_URL`.
    pub direct_url: Option<Secret>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            max_connections: 16,
            background_connections: 4,
            acquire_timeout_ms: 3_000,
            deadline_ms: 5_000,
            commit_deadline_ms: 10_000,
            direct_url: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// Readers; the writer is one.
    pub max_readers: u32,
    pub acquire_timeout_ms: u64,
    pub deadline_ms: u64,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self {
            max_readers: 4,
            acquire_timeout_ms: 5_000,
            deadline_ms: 10_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MongoConfig {
    /// When the URI names none.
    pub database: String,
    pub max_connections: u32,
    pub deadline_ms: u64,
    /// How long an answer waits for what is already committed to be applied.
    pub apply_deadline_ms: u64,
}

impl Default for MongoConfig {
    fn default() -> Self {
        Self {
            database: "abunfi".to_owned(),
            max_connections: 32,
            deadline_ms: 2_000,
            apply_deadline_ms: 500,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Before every key, so that several platforms may share a server.
    pub key_prefix: String,
    pub deadline_ms: u64,
    pub connect_timeout_ms: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            key_prefix: "abunfi:".to_owned(),
            deadline_ms: 250,
            connect_timeout_ms: 1_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The seed of the Ed25519 key that signs checkpoints: 32 bytes as hexadecimal digits or base64.
    pub signing_key: Option<Secret>,
    /// A file with it. Neither: embedded, `audit.key` in the data directory; else unsigned.
    pub signing_key_file: Option<String>,
    /// How far checkpoints are apart; 0: none are made.
    pub checkpoint_minutes: u32,
    /// One is made sooner when so many rows of the trail wait.
    pub checkpoint_rows: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            signing_key: None,
            signing_key_file: None,
            checkpoint_minutes: 10,
            checkpoint_rows: 10_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Requests that run at once; beyond it 503 `overloaded`.
    pub max_concurrent_requests: u32,
    pub request_timeout_ms: u64,
    /// How long a shutdown waits for what runs.
    pub shutdown_grace_ms: u64,
    /// `*` or origins; empty: CORS is off.
    pub cors_origins: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 1_024,
            request_timeout_ms: 30_000,
            shutdown_grace_ms: 20_000,
            cors_origins: Vec::new(),
        }
    }
}

/// A value that is never shown: in logs, errors and `abunfi config` it is masked.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// Masked, so that a configuration that is written out somewhere leaks nothing.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
