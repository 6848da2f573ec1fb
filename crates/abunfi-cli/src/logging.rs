//! Logs, on standard error: standard output is for answers.

use std::io::IsTerminal;

use abunfi::config::LogFormat;
use abunfi::documents::LogLevel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Identity, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Starts logging from `level` up. Called once.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    start_with(level, format, None::<Identity>);
}

/// The same, with a layer of the caller's beside it, which chooses for itself what it takes.
pub(crate) fn start_with<L>(level: LogLevel, format: LogFormat, also: Option<L>)
where
    L: Layer<Registry> + Send + Sync,
{
    let is_terminal = std::io::stderr().is_terminal();
    let is_json = match format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !is_terminal,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if is_json {
        Box::new(lines.json().flatten_event(true).with_current_span(false))
    } else {
        Box::new(lines.with_ansi(is_terminal).with_target(false))
    };
    let also = also.map(|layer| layer.boxed());
    let lines = lines.with_filter(filter(level)).boxed();
    tracing_subscriber::registry()
        .with(vec![Some(lines), also])
        .init();
}

/// Ours from `level` up. Drivers only when something is wrong: below that they quote statements and
/// documents, and with them personal data.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("abunfi", level)
}
