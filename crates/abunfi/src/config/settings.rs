//! Every setting, once: its key in the file, its variable, what is allowed, what it means.
//!
//! This table is what reads the file, the environment and the flags, what `abunfi config` prints, what
//! errors quote, and what the tables in the README and in `docs/configuration.md` are checked against.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{Config, LogFormat, Secret, mask};
use crate::audit::checkpoint::Signer;
use crate::documents::LogLevel;
use crate::ledger::Asset;
use crate::rate_limit::{Policy, WhenAway};

/// One field of [`Config`].
#[derive(Debug)]
pub struct Setting {
    /// In the file, with its section: `postgres.max_connections`.
    pub key: &'static str,
    /// In the environment.
    pub variable: &'static str,
    /// Belongs in a first look: the README's table.
    pub is_main: bool,
    /// What it means, in a line.
    pub about: &'static str,
    kind: Kind,
}

/// Where a setting lives in the configuration.
type Field<T> = fn(&mut Config) -> &mut T;

/// How a text is read into the field, and shown again.
#[derive(Debug)]
enum Kind {
    Address(Field<IpAddr>),
    Path(Field<PathBuf>),
    U16(Field<u16>, RangeInclusive<u16>),
    U32(Field<u32>, RangeInclusive<u32>),
    U64(Field<u64>, RangeInclusive<u64>),
    Switch(Field<bool>),
    Text(Field<String>, Rule),
    OptionalText(Field<Option<String>>, Rule),
    /// Shown with its credentials masked.
    Url(Field<Option<Secret>>, Rule),
    /// Never shown.
    Secret(Field<Option<Secret>>, Rule),
    Level(Field<LogLevel>),
    OptionalLevel(Field<Option<LogLevel>>),
    Format(Field<LogFormat>),
    Origins(Field<Vec<String>>),
    Policies(Field<BTreeMap<String, Policy>>),
}

/// What a text must be.
#[derive(Debug)]
struct Rule {
    allowed: &'static str,
    holds: fn(&str) -> bool,
}

/// Longest time that a setting in milliseconds may say, an hour: more is a mistyped unit.
const MAX_MS: u64 = 3_600_000;
/// Longest life that a setting in seconds may say: a year.
const MAX_SECONDS: u32 = 366 * 24 * 3_600;
/// More connections than any of the servers takes by default a hundred times over.
const MAX_CONNECTIONS: u32 = 10_000;
/// Longest retention: a hundred years.
const MAX_DAYS: u32 = 36_500;
/// Longest time between two checkpoints: a week.
const MAX_MINUTES: u32 = 7 * 24 * 60;
/// Shorter keys could be guessed.
const MIN_ADMIN_KEY_CHARS: usize = 32;

const LEVELS: &str = "`trace`, `debug`, `info`, `warn` or `error`";

/// All settings, in the order in which they are shown. A table, so each is one row.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    main("host", "HOST", "Where the service listens: an address of this machine.", Kind::Address(|c| &mut c.host)),
    main("port", "PORT", "The port it listens on; 0 takes one that is free.", Kind::U16(|c| &mut c.port, 0..=u16::MAX)),
    main("data_dir", "DATA_DIR", "Where it keeps its files: the embedded stores, `admin.key` and `audit.key`.", Kind::Path(|c| &mut c.data_dir)),
    main("database_url", "DATABASE_URL", "The relational store: users, money, the audit trail. Unset: a SQLite file in the data directory.", Kind::Url(|c| &mut c.database_url, DATABASE_RULE)),
    main("mongodb_uri", "MONGODB_URI", "The document store. Unset: documents live in the relational store.", Kind::Url(|c| &mut c.mongodb_uri, MONGODB_RULE)),
    main("redis_url", "REDIS_URL", "The key-value store: cache, rate limits, temporary data. Unset: in the process.", Kind::Url(|c| &mut c.redis_url, REDIS_RULE)),
    main("admin_key", "ABUNFI_ADMIN_KEY", "A service key with all scopes.", Kind::Secret(|c| &mut c.admin_key, ADMIN_KEY_RULE)),
    main("default_asset", "DEFAULT_ASSET", "The asset of postings that name none, and of a new user's first balance.", Kind::Text(|c| &mut c.default_asset, ASSET_RULE)),
    main("log_level", "LOG_LEVEL", "What is logged: this level and above.", Kind::Level(|c| &mut c.log_level)),
    main("log_format", "LOG_FORMAT", "`auto` is `pretty` on a terminal and `json` elsewhere.", Kind::Format(|c| &mut c.log_format)),
    more("store_logs_from", "STORE_LOGS_FROM", "The service's own events from this level up also go to the document store's logs. Unset: none.", Kind::OptionalLevel(|c| &mut c.store_logs_from)),
    main("postgres.max_connections", "DATABASE_MAX_CONNECTIONS", "PostgreSQL: connections for requests.", Kind::U32(|c| &mut c.postgres.max_connections, 1..=MAX_CONNECTIONS)),
    more("postgres.background_connections", "DATABASE_BACKGROUND_CONNECTIONS", "PostgreSQL: connections for background work, apart from those for requests.", Kind::U32(|c| &mut c.postgres.background_connections, 1..=MAX_CONNECTIONS)),
    more("postgres.acquire_timeout_ms", "DATABASE_ACQUIRE_TIMEOUT_MS", "PostgreSQL: how long a request waits for a connection.", Kind::U64(|c| &mut c.postgres.acquire_timeout_ms, 1..=MAX_MS)),
    more("postgres.deadline_ms", "DATABASE_DEADLINE_MS", "PostgreSQL: how long one unit of work may take before its commit is sent.", Kind::U64(|c| &mut c.postgres.deadline_ms, 1..=MAX_MS)),
    more("postgres.commit_deadline_ms", "DATABASE_COMMIT_DEADLINE_MS", "PostgreSQL: how long the answer to a commit is waited for.", Kind::U64(|c| &mut c.postgres.commit_deadline_ms, 1..=MAX_MS)),
    main("postgres.direct_url", "DATABASE_DIRECT_URL", "PostgreSQL past a connection pooler, for schema migrations. Unset: as `DATABASE_URL`.", Kind::Url(|c| &mut c.postgres.direct_url, POSTGRES_RULE)),
    more("sqlite.max_readers", "SQLITE_MAX_READERS", "SQLite: connections that read; the one that writes is apart.", Kind::U32(|c| &mut c.sqlite.max_readers, 1..=256)),
    more("sqlite.acquire_timeout_ms", "SQLITE_ACQUIRE_TIMEOUT_MS", "SQLite: how long a request waits for a connection.", Kind::U64(|c| &mut c.sqlite.acquire_timeout_ms, 1..=MAX_MS)),
    more("sqlite.deadline_ms", "SQLITE_DEADLINE_MS", "SQLite: how long one unit of work may take.", Kind::U64(|c| &mut c.sqlite.deadline_ms, 1..=MAX_MS)),
    more("mongodb.database", "MONGODB_DATABASE", "MongoDB: the database, when the URI names none.", Kind::Text(|c| &mut c.mongodb.database, MONGODB_NAME_RULE)),
    main("mongodb.max_connections", "MONGODB_MAX_CONNECTIONS", "MongoDB: connections.", Kind::U32(|c| &mut c.mongodb.max_connections, 1..=MAX_CONNECTIONS)),
    more("mongodb.deadline_ms", "MONGODB_DEADLINE_MS", "MongoDB: how long one call may take.", Kind::U64(|c| &mut c.mongodb.deadline_ms, 1..=MAX_MS)),
    more("mongodb.apply_deadline_ms", "MONGODB_APPLY_DEADLINE_MS", "MongoDB: how long an answer waits for what is already committed to be applied.", Kind::U64(|c| &mut c.mongodb.apply_deadline_ms, 1..=MAX_MS)),
    more("redis.key_prefix", "REDIS_KEY_PREFIX", "Redis: stands before every key, so that several platforms may share a server.", Kind::Text(|c| &mut c.redis.key_prefix, KEY_PREFIX_RULE)),
    more("redis.deadline_ms", "REDIS_DEADLINE_MS", "Redis: how long one call may take.", Kind::U64(|c| &mut c.redis.deadline_ms, 1..=MAX_MS)),
    more("redis.connect_timeout_ms", "REDIS_CONNECT_TIMEOUT_MS", "Redis: how long connecting may take.", Kind::U64(|c| &mut c.redis.connect_timeout_ms, 1..=MAX_MS)),
    more("redis.compress_above_bytes", "REDIS_COMPRESS_ABOVE_BYTES", "Redis: cached values with a longer JSON than this are compressed.", Kind::U64(|c| &mut c.redis.compress_above_bytes, 0..=1 << 40)),
    more("cache.l1_max_bytes", "CACHE_L1_MAX_BYTES", "Bytes of values that the cache in the process holds at most.", Kind::U64(|c| &mut c.cache.l1_max_bytes, 0..=1 << 40)),
    more("cache.l1_shared_ttl_ms", "CACHE_L1_SHARED_TTL_MS", "Longest life in the process's cache while other instances may write; the contract allows a second.", Kind::U64(|c| &mut c.cache.l1_shared_ttl_ms, 0..=1_000)),
    more("cache.stale_for_seconds", "CACHE_STALE_FOR_SECONDS", "How long past its life a copy may be served, marked, while its authority is away.", Kind::U32(|c| &mut c.cache.stale_for_seconds, 0..=MAX_SECONDS)),
    more("cache.revalidate_for_seconds", "CACHE_REVALIDATE_FOR_SECONDS", "How long past its life a copy that nothing has invalidated is served at once while it is read again.", Kind::U32(|c| &mut c.cache.revalidate_for_seconds, 0..=MAX_SECONDS)),
    more("cache.soft_timeout_ms", "CACHE_SOFT_TIMEOUT_MS", "How long a read waits for the stores where there is an older copy that nothing has invalidated.", Kind::U64(|c| &mut c.cache.soft_timeout_ms, 1..=MAX_MS)),
    more("profile_ttl_seconds", "PROFILE_TTL_SECONDS", "How long a profile is cached.", Kind::U32(|c| &mut c.profile_ttl_seconds, 1..=MAX_SECONDS)),
    more("dashboard_ttl_seconds", "DASHBOARD_TTL_SECONDS", "How long a dashboard is cached.", Kind::U32(|c| &mut c.dashboard_ttl_seconds, 1..=MAX_SECONDS)),
    main("sessions.idle_ttl_seconds", "SESSION_IDLE_TTL_SECONDS", "Ends a session without activity; not above the longest life.", Kind::U32(|c| &mut c.sessions.idle_ttl_seconds, 1..=MAX_SECONDS)),
    main("sessions.max_ttl_seconds", "SESSION_MAX_TTL_SECONDS", "Ends a session whatever happens.", Kind::U32(|c| &mut c.sessions.max_ttl_seconds, 1..=MAX_SECONDS)),
    more("sessions.max_per_user", "SESSION_MAX_PER_USER", "Live sessions of one user; beyond it the oldest end.", Kind::U32(|c| &mut c.sessions.max_per_user, 1..=1_000)),
    main("rate_limits", "RATE_LIMITS", "Policies beside `login` and `default`, or in their place. In the file: `[rate_limits.NAME]` with `limit`, `period_seconds`, `when_away`.", Kind::Policies(|c| &mut c.rate_limits)),
    main("own_rate_limit", "OWN_RATE_LIMIT", "The policy that the platform's own routes are under. Unset: unlimited.", Kind::OptionalText(|c| &mut c.own_rate_limit, POLICY_RULE)),
    more("instances", "INSTANCES", "How many instances share each limit while Redis is away.", Kind::U32(|c| &mut c.instances, 1..=10_000)),
    more("idempotency_retention_days", "IDEMPOTENCY_RETENTION_DAYS", "How long idempotency keys are kept; the contract promises seven days. All older ones are deleted every half minute.", Kind::U32(|c| &mut c.idempotency_retention_days, 7..=MAX_DAYS)),
    more("image_retention_days", "IMAGE_RETENTION_DAYS", "How long images of applied documents are kept, for a MongoDB restored from a backup: longer than its backups are apart.", Kind::U32(|c| &mut c.image_retention_days, 0..=MAX_DAYS)),
    more("log_retention_days", "LOG_RETENTION_DAYS", "How long lines of `/logs` are kept.", Kind::U32(|c| &mut c.log_retention_days, 1..=MAX_DAYS)),
    main("audit.signing_key", "AUDIT_SIGNING_KEY", "The key that signs checkpoints of the audit trail; `abunfi audit keygen` makes one. Unset: `AUDIT_SIGNING_KEY_FILE`; embedded, `audit.key` in the data directory; else they are not signed.", Kind::Secret(|c| &mut c.audit.signing_key, SIGNING_KEY_RULE)),
    more("audit.signing_key_file", "AUDIT_SIGNING_KEY_FILE", "A file that holds that key.", Kind::OptionalText(|c| &mut c.audit.signing_key_file, FILE_RULE)),
    more("audit.checkpoint_minutes", "AUDIT_CHECKPOINT_MINUTES", "How far checkpoints of the audit trail are apart at most, while there is something new; 0: none are made.", Kind::U32(|c| &mut c.audit.checkpoint_minutes, 0..=MAX_MINUTES)),
    more("audit.checkpoint_rows", "AUDIT_CHECKPOINT_ROWS", "A checkpoint is made sooner when so many rows of the trail wait.", Kind::U32(|c| &mut c.audit.checkpoint_rows, 1..=1_000_000)),
    more("http.max_concurrent_requests", "HTTP_MAX_CONCURRENT_REQUESTS", "Requests that run at once; beyond it 503 `overloaded`.", Kind::U32(|c| &mut c.http.max_concurrent_requests, 1..=1_000_000)),
    more("http.request_timeout_ms", "HTTP_REQUEST_TIMEOUT_MS", "How long a request may take; the contract says 30 seconds at most.", Kind::U64(|c| &mut c.http.request_timeout_ms, 1..=30_000)),
    more("http.shutdown_grace_ms", "HTTP_SHUTDOWN_GRACE_MS", "How long a shutdown waits for what runs.", Kind::U64(|c| &mut c.http.shutdown_grace_ms, 0..=MAX_MS)),
    main("http.cors_origins", "CORS_ORIGINS", "Origins whose pages may call the service from a browser. Unset: none.", Kind::Origins(|c| &mut c.http.cors_origins)),
    more("allow_unsafe_durability", "ALLOW_UNSAFE_DURABILITY", "Start although PostgreSQL may lose what it acknowledged (`fsync` or `synchronous_commit` off).", Kind::Switch(|c| &mut c.allow_unsafe_durability)),
    main("migrate_on_start", "MIGRATE_ON_START", "Apply schema migrations at start; else only `abunfi migrate` does.", Kind::Switch(|c| &mut c.migrate_on_start)),
];

const fn main(
    key: &'static str,
    variable: &'static str,
    about: &'static str,
    kind: Kind,
) -> Setting {
    Setting {
        key,
        variable,
        is_main: true,
        about,
        kind,
    }
}

const fn more(
    key: &'static str,
    variable: &'static str,
    about: &'static str,
    kind: Kind,
) -> Setting {
    Setting {
        key,
        variable,
        is_main: false,
        about,
        kind,
    }
}

const DATABASE_RULE: Rule = Rule {
    allowed: "`postgresql://…` or `sqlite://PATH`",
    holds: |text| is_url(text, &["postgresql", "postgres"]) || is_url(text, &["sqlite"]),
};
const POSTGRES_RULE: Rule = Rule {
    allowed: "`postgresql://…`",
    holds: |text| is_url(text, &["postgresql", "postgres"]),
};
const MONGODB_RULE: Rule = Rule {
    allowed: "`mongodb://…` or `mongodb+srv://…`",
    holds: |text| is_url(text, &["mongodb", "mongodb+srv"]),
};
const REDIS_RULE: Rule = Rule {
    allowed: "`redis://…`, `rediss://…`, `redis+cluster://HOST,HOST` or `redis+sentinel://HOST,HOST/MASTER`",
    holds: |text| {
        is_url(
            text,
            &[
                "redis",
                "rediss",
                "redis+cluster",
                "rediss+cluster",
                "redis+sentinel",
                "rediss+sentinel",
            ],
        )
    },
};
const ADMIN_KEY_RULE: Rule = Rule {
    allowed: "at least 32 characters of visible ASCII",
    holds: |text| {
        text.len() >= MIN_ADMIN_KEY_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic())
    },
};
const SIGNING_KEY_RULE: Rule = Rule {
    allowed: "32 bytes, as 64 hexadecimal digits or as base64",
    holds: |text| Signer::parse(text).is_some(),
};
const FILE_RULE: Rule = Rule {
    allowed: "a path",
    holds: |text| !text.is_empty() && !text.contains('\0'),
};
const ASSET_RULE: Rule = Rule {
    allowed: "1 to 12 of `A-Z0-9`",
    holds: |text| Asset::parse(text).is_some(),
};
const MONGODB_NAME_RULE: Rule = Rule {
    allowed: "1 to 63 of `A-Za-z0-9_-`",
    holds: |text| is_name(text, 63, "_-"),
};
const KEY_PREFIX_RULE: Rule = Rule {
    allowed: "1 to 64 of `A-Za-z0-9._:-`",
    holds: |text| is_name(text, 64, "._:-"),
};
const POLICY_RULE: Rule = Rule {
    allowed: "the name of a policy of `rate_limits`",
    holds: is_policy_name,
};

fn is_url(text: &str, schemes: &[&str]) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
}

fn is_name(text: &str, longest: usize, also: &str) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || also.contains(char))
}

pub(super) fn is_policy_name(text: &str) -> bool {
    is_name(text, 100, "._:-")
}

impl Setting {
    /// The setting of that key.
    #[must_use]
    pub fn by_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The flag of that setting, for those that have one.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace(['_', '.'], "-"))
    }

    /// What is allowed, as errors and tables say it.
    #[must_use]
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Address(_) => "an IP address".to_owned(),
            Kind::Path(_) => "a path".to_owned(),
            Kind::U16(_, range) => numbers(range),
            Kind::U32(_, range) => numbers(range),
            Kind::U64(_, range) => numbers(range),
            Kind::Switch(_) => "`true` or `false`".to_owned(),
            Kind::Text(_, rule)
            | Kind::OptionalText(_, rule)
            | Kind::Url(_, rule)
            | Kind::Secret(_, rule) => rule.allowed.to_owned(),
            Kind::Level(_) | Kind::OptionalLevel(_) => LEVELS.to_owned(),
            Kind::Format(_) => "`auto`, `pretty` or `json`".to_owned(),
            Kind::Origins(_) => "`*`, or origins such as `https://app.example.com`, separated by commas".to_owned(),
            Kind::Policies(_) => {
                "`NAME=LIMIT/SECONDS`, separated by commas, each with `:refuse` behind it to refuse while Redis is away (limit 1 to 1000000, at most 366 days)".to_owned()
            }
        }
    }

    /// Reads `text` into its field. `false`: it is not [`allowed`](Self::allowed), and nothing changed.
    #[must_use]
    pub(super) fn read(&self, config: &mut Config, text: &str) -> bool {
        match &self.kind {
            Kind::Address(field) => set(field(config), text.parse().ok()),
            Kind::Path(field) => set(
                field(config),
                (!text.contains('\0')).then(|| PathBuf::from(text)),
            ),
            Kind::U16(field, range) => set(field(config), number(text, range)),
            Kind::U32(field, range) => set(field(config), number(text, range)),
            Kind::U64(field, range) => set(field(config), number(text, range)),
            Kind::Switch(field) => set(field(config), text.parse().ok()),
            Kind::Text(field, rule) => {
                set(field(config), (rule.holds)(text).then(|| text.to_owned()))
            }
            Kind::OptionalText(field, rule) => set(
                field(config),
                (rule.holds)(text).then(|| Some(text.to_owned())),
            ),
            Kind::Url(field, rule) | Kind::Secret(field, rule) => set(
                field(config),
                (rule.holds)(text).then(|| Some(Secret::new(text))),
            ),
            Kind::Level(field) => set(field(config), LogLevel::from_name(text)),
            Kind::OptionalLevel(field) => set(field(config), LogLevel::from_name(text).map(Some)),
            Kind::Format(field) => set(field(config), LogFormat::from_name(text)),
            Kind::Origins(field) => set(field(config), origins(text)),
            Kind::Policies(field) => match policies(text) {
                Some(given) => {
                    field(config).extend(given);
                    true
                }
                None => false,
            },
        }
    }

    /// Its value as text, secrets masked; empty when it is unset.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        let config = &mut config.clone();
        match &self.kind {
            Kind::Address(field) => field(config).to_string(),
            Kind::Path(field) => field(config).display().to_string(),
            Kind::U16(field, _) => field(config).to_string(),
            Kind::U32(field, _) => field(config).to_string(),
            Kind::U64(field, _) => field(config).to_string(),
            Kind::Switch(field) => field(config).to_string(),
            Kind::Text(field, _) => field(config).clone(),
            Kind::OptionalText(field, _) => field(config).clone().unwrap_or_default(),
            Kind::Url(field, _) | Kind::Secret(field, _) => {
                let value = field(config).as_ref();
                value.map_or_else(String::new, |secret| self.mask(secret.expose()))
            }
            Kind::Level(field) => field(config).to_string(),
            Kind::OptionalLevel(field) => field(config).map_or_else(String::new, |l| l.to_string()),
            Kind::Format(field) => field(config).to_string(),
            Kind::Origins(field) => field(config).join(","),
            Kind::Policies(field) => {
                let shown: Vec<_> = field(config).iter().map(show_policy).collect();
                shown.join(",")
            }
        }
    }

    /// A value that was given for this setting, in the form in which it may be shown.
    pub(super) fn mask(&self, given: &str) -> String {
        match &self.kind {
            Kind::Url(..) => mask::url(given),
            Kind::Secret(..) => mask::secret(given),
            _ => given.to_owned(),
        }
    }

    pub(super) fn is_policies(&self) -> bool {
        matches!(self.kind, Kind::Policies(_))
    }
}

fn set<T>(field: &mut T, value: Option<T>) -> bool {
    let is_allowed = value.is_some();
    if let Some(value) = value {
        *field = value;
    }
    is_allowed
}

fn numbers<T: std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

/// Digits only: no sign, no blank, no separator.
fn number<T: std::str::FromStr + PartialOrd>(text: &str, range: &RangeInclusive<T>) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|_| digits)?;
    range.contains(&value).then_some(value)
}

fn origins(text: &str) -> Option<Vec<String>> {
    let origins: Vec<_> = text.split(',').map(|part| part.trim().to_owned()).collect();
    let is_origin = |origin: &str| {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty()
                && !host.contains(|char: char| "/?#@*".contains(char) || char.is_whitespace())
        })
    };
    let are_allowed = origins == ["*"] || origins.iter().all(|origin| is_origin(origin));
    are_allowed.then_some(origins)
}

fn policies(text: &str) -> Option<BTreeMap<String, Policy>> {
    text.split(',').map(|part| policy(part.trim())).collect()
}

/// `NAME=LIMIT/SECONDS` with an optional `:refuse` or `:in_process`.
fn policy(text: &str) -> Option<(String, Policy)> {
    let (name, rest) = text.split_once('=')?;
    let (limit, rest) = rest.split_once('/')?;
    let (seconds, when_away) = match rest.split_once(':') {
        None => (rest, WhenAway::InProcess),
        Some((seconds, "refuse")) => (seconds, WhenAway::Refuse),
        Some((seconds, "in_process")) => (seconds, WhenAway::InProcess),
        Some(_) => return None,
    };
    let policy = Policy {
        limit: number(limit, &(0..=u32::MAX))?,
        period_seconds: number(seconds, &(0..=u32::MAX))?,
        when_away,
    };
    (is_policy_name(name) && policy.gcra().is_ok()).then(|| (name.to_owned(), policy))
}

fn show_policy((name, policy): (&String, &Policy)) -> String {
    let suffix = match policy.when_away {
        WhenAway::InProcess => "",
        WhenAway::Refuse => ":refuse",
    };
    format!("{name}={}/{}{suffix}", policy.limit, policy.period_seconds)
}

/// The settings as a Markdown table: those for a first look, or all of them.
#[must_use]
pub fn markdown_table(only_main: bool) -> String {
    let defaults = Config::default();
    let mut table =
        "| Variable | In the file | Default | Allowed | Meaning |\n|---|---|---|---|---|\n"
            .to_owned();
    for setting in SETTINGS.iter().filter(|s| s.is_main || !only_main) {
        let default = match setting.show(&defaults) {
            unset if unset.is_empty() => "–".to_owned(),
            value => format!("`{value}`"),
        };
        table += &format!(
            "| `{}` | `{}` | {default} | {} | {} |\n",
            setting.variable,
            setting.key,
            setting.allowed(),
            setting.about
        );
    }
    table
}
