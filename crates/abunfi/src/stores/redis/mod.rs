//! Redis: the cache's L2, rate limits, temporary data.
//!
//! Every method that changes something is one script or one command, with the server's clock. Nothing here
//! is an authority: an empty server, or another one, is a slower start and no more.

use std::sync::Arc;
use std::time::Duration;

use redis::Script;

use crate::config::RedisConfig;
use crate::database_service::OpenError;

mod cache;
mod keys;
mod link;
mod notices;
mod packing;
mod probe;
mod rate_limit;
mod target;
mod temp;

use keys::Keys;
use link::Link;
use notices::Notices;
use target::Target;

/// One server, a Sentinel's master or a Cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisStore {
    link: Arc<Link>,
    keys: Keys,
    scripts: Arc<Scripts>,
    compress_above_bytes: u64,
}

#[derive(Debug)]
struct Scripts {
    get_or_lease: Script,
    fill: Script,
    release: Script,
    invalidate: Script,
    version: Script,
    gcra: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            get_or_lease: Script::new(include_str!("get_or_lease.lua")),
            fill: Script::new(include_str!("fill.lua")),
            release: Script::new(include_str!("release.lua")),
            invalidate: Script::new(include_str!("invalidate.lua")),
            version: Script::new(include_str!("version.lua")),
            gcra: Script::new(include_str!("gcra.lua")),
        }
    }
}

impl RedisStore {
    /// Begins to connect, and waits for the first try: a server that is there serves on return. One that
    /// is not is no error: it is tried again in the background, and calls are refused until then. Ends
    /// when the last clone is dropped.
    ///
    /// # Errors
    /// [`OpenError::Configuration`] when the URL is none of the forms that `REDIS_URL` may have.
    pub async fn connect(url: &str, config: &RedisConfig) -> Result<Self, OpenError> {
        let target = Target::parse(url).map_err(|allowed| OpenError::Configuration {
            variable: "REDIS_URL",
            reason: allowed.to_owned(),
        })?;
        if target.uses_tls() {
            // Several providers may be compiled in; then one must be chosen. It may have been already.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let keys = Keys::new(&config.key_prefix);
        let link = Link::new(
            target,
            Duration::from_millis(config.deadline_ms),
            Duration::from_millis(config.connect_timeout_ms),
            Notices::new(keys.clone()),
        );
        tokio::spawn(link::supervise(Arc::downgrade(&link)));
        link.first_attempt().await;
        Ok(Self {
            link,
            keys,
            scripts: Arc::new(Scripts::new()),
            compress_above_bytes: config.compress_above_bytes,
        })
    }

    /// Whether calls are refused at once, since too many failed.
    #[must_use]
    pub fn circuit_is_open(&self) -> bool {
        self.link.is_open()
    }
}
