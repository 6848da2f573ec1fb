//! From flags to a configuration, and from there to an open platform.

use std::collections::BTreeMap;

use abunfi::DatabaseService;
use abunfi::config::{Config, Loaded, Problems, Source, Sources};
use abunfi::documents::LogLevel;

use crate::args::SettingFlags;
use crate::logging;

/// The configuration out of all its sources.
pub(crate) fn load(flags: &SettingFlags) -> Result<Loaded, Problems> {
    let given = [
        ("host", &flags.host),
        ("port", &flags.port),
        ("data_dir", &flags.data_dir),
        ("database_url", &flags.database_url),
        ("mongodb_uri", &flags.mongodb_uri),
        ("redis_url", &flags.redis_url),
        ("log_level", &flags.log_level),
        ("log_format", &flags.log_format),
    ];
    let flags_by_key: BTreeMap<_, _> = given
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)))
        .collect();
    Config::load(&Sources::from_process(flags.config.clone(), flags_by_key)?)
}

/// A platform for a command that does one thing and ends: quiet, unless a level was asked for.
pub(crate) async fn open_for_command(loaded: Loaded) -> anyhow::Result<DatabaseService> {
    Ok(Box::pin(DatabaseService::open(quiet(loaded))).await?)
}

/// The same for a command that only looks: opening changes nothing.
pub(crate) async fn open_to_read(loaded: Loaded) -> anyhow::Result<DatabaseService> {
    Ok(Box::pin(DatabaseService::open_to_read(quiet(loaded))).await?)
}

fn quiet(loaded: Loaded) -> Config {
    let level = match loaded.source("log_level") {
        Source::Default => LogLevel::Warn,
        _ => loaded.config.log_level,
    };
    logging::start(level, loaded.config.log_format);
    let mut config = loaded.config;
    // Only the service makes checkpoints by itself.
    config.audit.checkpoint_minutes = 0;
    config
}
