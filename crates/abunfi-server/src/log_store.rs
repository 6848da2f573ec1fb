//! The service's own events, from a configured level up, into the document store's log.
//!
//! A layer puts events on a bounded queue and never waits: what finds no room is counted and dropped. A
//! worker writes them in batches. What the worker itself causes is not taken up again, else one line would
//! become endlessly many.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abunfi::DatabaseService;
use abunfi::clock::{Clock, SystemClock};
use abunfi::documents::{LogEntry, LogLevel};
use abunfi::ids::TransactionId;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Events that wait at most: some seconds of a busy service, some megabytes.
const QUEUE_LENGTH: usize = 4_096;
/// Events of one write.
const BATCH: usize = 200;
/// How long the worker lets events gather, so that a quiet service writes seldom.
const GATHER: Duration = Duration::from_millis(200);
/// How long the last write may take when the service stops.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// The longest message and text of a field that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// Whose events are taken: the platform's own.
const OWN: &str = "abunfi";
/// Whose are not: writing the log calls these, on tasks of their own as well.
const CAUSED_BY_WRITING: [&str; 3] = [
    "abunfi::stores",
    "abunfi::documents",
    "abunfi_server::log_store",
];

tokio::task_local! {
    /// Set while the worker writes.
    static WRITING: ();
}

/// Events that found no room, or whose write failed, since the start of the process.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many events were dropped since the start of the process.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The layer to install, and the worker to run once there is a platform.
///
/// The layer brings its own filter, so that it does not make other layers see more than they want.
pub fn log_store<S>(from: LogLevel) -> (impl tracing_subscriber::Layer<S>, Worker)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let from = level_of(from);
    // Spans carry the request's id, so they are wanted whatever the level of events.
    let finest = from.max(Level::INFO);
    let wanted = filter_fn(move |metadata| {
        let level = if metadata.is_span() { finest } else { from };
        *metadata.level() <= level && metadata.target().starts_with(OWN)
    });
    let layer = Layer { queue: sender };
    let layer = layer.with_filter(wanted.with_max_level_hint(finest));
    (layer, Worker { queue: receiver })
}

const fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Trace => Level::TRACE,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
    }
}

/// Puts events on the queue.
#[derive(Debug)]
struct Layer {
    queue: mpsc::Sender<LogEntry>,
}

/// The request that a span belongs to.
struct SpanRequestId(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(request_id), Some(span)) = (fields.request_id, context.span(id)) {
            span.extensions_mut().insert(SpanRequestId(request_id));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if is_caused_by_writing(metadata.target()) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let request_id = fields.request_id.or_else(|| {
            let mut scope = context.event_scope(event)?;
            scope.find_map(|span| {
                let extensions = span.extensions();
                extensions
                    .get::<SpanRequestId>()
                    .map(|SpanRequestId(id)| id.clone())
            })
        });
        let now = SystemClock.now();
        let entry = LogEntry {
            id: TransactionId::new(now).uuid(),
            at: now,
            level: own_level(*metadata.level()),
            target: metadata.target().to_owned(),
            message: if fields.message.is_empty() {
                metadata.name().to_owned()
            } else {
                fields.message
            },
            fields: Value::Object(fields.others),
            request_id,
        };
        if self.queue.try_send(entry).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn is_caused_by_writing(target: &str) -> bool {
    let is_caused = CAUSED_BY_WRITING
        .iter()
        .any(|caused| target.starts_with(caused));
    is_caused || WRITING.try_with(|()| ()).is_ok()
}

fn own_level(level: Level) -> LogLevel {
    match level {
        Level::TRACE => LogLevel::Trace,
        Level::DEBUG => LogLevel::Debug,
        Level::INFO => LogLevel::Info,
        Level::WARN => LogLevel::Warn,
        Level::ERROR => LogLevel::Error,
    }
}

/// The fields of an event or a span.
#[derive(Default)]
struct Fields {
    message: String,
    request_id: Option<String>,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("request_id", Value::String(id)) => self.request_id = Some(id),
            // A document's keys hold no dots.
            (name, value) => {
                self.others.insert(name.replace('.', "_"), value);
            }
        }
    }
}

/// `text`, cut at a character, and without NUL, which not every store can hold.
fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end)
        .unwrap_or_default()
        .replace('\0', "\u{FFFD}")
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, short(&format!("{value:?}")).into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, short(value).into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from);
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Writes what the layer collected.
#[derive(Debug)]
pub struct Worker {
    queue: mpsc::Receiver<LogEntry>,
}

impl Worker {
    /// Writes until `stop`, then what is left.
    pub async fn run(mut self, platform: DatabaseService, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                received = self.queue.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = stop.cancelled() => break,
            }
            write(&platform, &mut batch).await;
            tokio::time::sleep(GATHER).await;
        }
        self.queue.close();
        let rest = async {
            while self.queue.recv_many(&mut batch, BATCH).await > 0 {
                write(&platform, &mut batch).await;
            }
        };
        if tokio::time::timeout(LAST_WRITE, rest).await.is_err() {
            tracing::debug!("the last events were not written");
        }
    }
}

/// Writes a batch; one that fails is counted and gone, since keeping it would only fill the queue.
async fn write(platform: &DatabaseService, batch: &mut Vec<LogEntry>) {
    let written = WRITING
        .scope((), platform.documents().append_logs(batch))
        .await;
    if let Err(error) = written {
        let lost = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        DROPPED.fetch_add(lost, Ordering::Relaxed);
        tracing::debug!(%error, lost, "log events were not written");
    }
    batch.clear();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn collect(from: LogLevel, emit: impl FnOnce()) -> Vec<LogEntry> {
        let (layer, mut worker) = log_store(from);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, emit);
        std::iter::from_fn(|| worker.queue.try_recv().ok()).collect()
    }

    #[test]
    fn events_from_the_level_up_are_taken_with_their_request() {
        let entries = collect(LogLevel::Info, || {
            let span = tracing::info_span!("request", request_id = "r-1");
            let _entered = span.enter();
            tracing::info!(target: "abunfi::users", count = 3, "made");
            tracing::debug!(target: "abunfi::users", "too fine");
            tracing::error!(target: "sqlx", "not ours");
        });
        let [entry] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!(entry.message, "made");
        assert_eq!(entry.level, LogLevel::Info);
        assert_eq!(entry.request_id.as_deref(), Some("r-1"));
        assert_eq!(entry.fields, serde_json::json!({"count": 3}));
    }

    #[test]
    fn what_writing_causes_is_not_taken_up_again() {
        let entries = collect(LogLevel::Trace, || {
            tracing::warn!(target: "abunfi::stores::mongodb", "slow");
            WRITING.sync_scope((), || tracing::warn!(target: "abunfi::ledger", "inside"));
        });
        assert!(entries.is_empty(), "{entries:?}");
    }

    #[test]
    fn a_full_queue_never_blocks_and_is_counted() {
        let before = dropped();
        let entries = collect(LogLevel::Trace, || {
            for _ in 0..QUEUE_LENGTH + 10 {
                tracing::info!(target: "abunfi", "again");
            }
        });
        assert_eq!(entries.len(), QUEUE_LENGTH);
        assert!(dropped() >= before + 10);
    }
}
