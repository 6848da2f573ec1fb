//! Metrics in Prometheus' text form, with OpenTelemetry's names.
//!
//! Kept here rather than by a metrics crate, since all that is wanted are counters in fixed buckets: those
//! are a few atomics, bounded by the number of routes, and need no upkeep. Times are integers of
//! microseconds until they are written out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use abunfi::DatabaseService;
use abunfi::health::DatabaseStatus;
use http::{Method, StatusCode};
use serde_json::Value;

/// Upper bounds in microseconds, with their text in seconds: those that OpenTelemetry advises for
/// `http.server.request.duration`.
const BUCKETS: [(u64, &str); 14] = [
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (75_000, "0.075"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (750_000, "0.75"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (7_500_000, "7.5"),
    (10_000_000, "10"),
];

/// What becomes of a method that nobody knows: labels must be few.
const OTHER_METHOD: &str = "_OTHER";

/// How long the statistics of the stores are waited for. A scrape must not hang because a store does.
const STATISTICS_DEADLINE: Duration = Duration::from_secs(2);

/// Counts of the HTTP service.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    routes: RwLock<HashMap<String, Vec<Series>>>,
}

#[derive(Debug, Clone)]
struct Series {
    method: &'static str,
    status: StatusCode,
    durations: Arc<Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
}

impl Histogram {
    fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS
            .iter()
            .zip(&self.buckets)
            .find(|((bound, _), _)| micros <= *bound);
        if let Some((_, bucket)) = bucket {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, labels: &str) -> std::fmt::Result {
        const NAME: &str = "http_server_request_duration_seconds";
        let mut below = 0_u64;
        for ((_, bound), bucket) in BUCKETS.iter().zip(&self.buckets) {
            below = below.saturating_add(bucket.load(Ordering::Relaxed));
            writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
        }
        // Read after the buckets, so never below their sum.
        let count = self.count.load(Ordering::Relaxed);
        writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        let micros = self.sum_micros.load(Ordering::Relaxed);
        let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
        writeln!(out, "{NAME}_sum{{{labels}}} {seconds}.{rest:06}")?;
        writeln!(out, "{NAME}_count{{{labels}}} {count}")
    }
}

impl Metrics {
    /// Notes an answered request. `route` is the template of the route, never an address.
    pub(crate) fn record(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = name_of(method);
        let known = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.get(route).and_then(|series| {
                let known = series
                    .iter()
                    .find(|known| known.method == method && known.status == status)?;
                known.durations.record(took);
                Some(())
            })
        };
        if known.is_none() {
            self.record_first(method, route, status, took);
        }
    }

    fn record_first(&self, method: &'static str, route: &str, status: StatusCode, took: Duration) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let series = routes.entry(route.to_owned()).or_default();
        let known = series
            .iter()
            .find(|known| known.method == method && known.status == status);
        match known {
            Some(known) => known.durations.record(took),
            None => {
                let durations = Arc::new(Histogram::default());
                durations.record(took);
                series.push(Series {
                    method,
                    status,
                    durations,
                });
            }
        }
    }

    fn write_requests(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(
            "# HELP http_server_request_duration_seconds Duration of HTTP server requests.\n\
             # TYPE http_server_request_duration_seconds histogram\n",
        );
        let mut all: Vec<(String, Series)> = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes
                .iter()
                .flat_map(|(route, series)| {
                    series.iter().map(|series| (route.clone(), series.clone()))
                })
                .collect()
        };
        all.sort_by(|(a, x), (b, y)| (a, x.method, x.status).cmp(&(b, y.method, y.status)));
        for (route, series) in all {
            let labels = format!(
                "http_request_method=\"{}\",http_route=\"{route}\",http_response_status_code=\"{}\"",
                series.method,
                series.status.as_u16()
            );
            series.durations.write(out, &labels)?;
        }
        Ok(())
    }
}

const fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER_METHOD,
    }
}

/// All metrics as text: requests, the health of the stores, and every number of their statistics.
pub(crate) async fn render(
    metrics: &Metrics,
    running: usize,
    dropped_logs: u64,
    platform: &DatabaseService,
) -> String {
    let statistics = tokio::time::timeout(STATISTICS_DEADLINE, platform.get_stats()).await;
    let mut out = String::new();
    // Writing to a String does not fail.
    let _infallible = metrics.write_requests(&mut out);
    gauge(
        &mut out,
        "http_server_active_requests",
        "HTTP requests that run.",
    );
    let _infallible = writeln!(out, "http_server_active_requests {running}");
    counter(
        &mut out,
        "abunfi_log_store_dropped_total",
        "Log events that the queue to the document store had no room for.",
    );
    let _infallible = writeln!(out, "abunfi_log_store_dropped_total {dropped_logs}");
    let _infallible = write_health(&mut out, platform);
    if let Ok(statistics) = statistics.map(serde_json::to_value)
        && let Ok(Value::Object(sections)) = statistics
    {
        let mut figures = Vec::new();
        for (section, value) in &sections {
            collect_figures(&format!("abunfi_{}", plain(section)), value, &mut figures);
        }
        figures.sort();
        for (name, figure) in figures {
            let _infallible = writeln!(out, "# TYPE {name} gauge\n{name} {figure}");
        }
    }
    out
}

fn gauge(out: &mut String, name: &str, help: &str) {
    let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n");
}

fn counter(out: &mut String, name: &str, help: &str) {
    let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n");
}

fn write_health(out: &mut String, platform: &DatabaseService) -> std::fmt::Result {
    let databases = platform.health().health().databases;
    let all = [
        ("postgresql", databases.postgresql),
        ("mongodb", databases.mongodb),
        ("redis", databases.redis),
    ];
    gauge(
        out,
        "abunfi_store_up",
        "1: connected, 0: disconnected; degraded counts as connected.",
    );
    for (store, health) in &all {
        let up = u8::from(health.status != DatabaseStatus::Disconnected);
        let backend = &health.backend;
        writeln!(
            out,
            "abunfi_store_up{{store=\"{store}\",backend=\"{backend}\"}} {up}"
        )?;
    }
    gauge(out, "abunfi_store_degraded", "1: slow, or partly failing.");
    for (store, health) in &all {
        let degraded = u8::from(health.status == DatabaseStatus::Degraded);
        writeln!(out, "abunfi_store_degraded{{store=\"{store}\"}} {degraded}")?;
    }
    gauge(
        out,
        "abunfi_store_latency_milliseconds",
        "Round trip of the last probe.",
    );
    for (store, health) in &all {
        if let Some(latency_ms) = health.latency_ms {
            writeln!(
                out,
                "abunfi_store_latency_milliseconds{{store=\"{store}\"}} {latency_ms}"
            )?;
        }
    }
    Ok(())
}

/// Every number (and truth value) inside `value`, named by its path.
fn collect_figures(name: &str, value: &Value, figures: &mut Vec<(String, String)>) {
    match value {
        Value::Number(number) => figures.push((name.to_owned(), number.to_string())),
        Value::Bool(flag) => figures.push((name.to_owned(), u8::from(*flag).to_string())),
        Value::Object(members) => {
            for (key, value) in members {
                collect_figures(&format!("{name}_{}", plain(key)), value, figures);
            }
        }
        Value::Null | Value::String(_) | Value::Array(_) => {}
    }
}

/// A part of a metric's name.
fn plain(key: &str) -> String {
    key.chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound_and_sums_exactly() {
        let metrics = Metrics::default();
        for millis in [1, 5, 6, 20_000] {
            let took = Duration::from_millis(millis);
            metrics.record(&Method::GET, "/users/{id}", StatusCode::OK, took);
        }
        let mut out = String::new();
        assert!(metrics.write_requests(&mut out).is_ok());
        let labels =
            r#"http_request_method="GET",http_route="/users/{id}",http_response_status_code="200""#;
        for line in [
            format!("_bucket{{{labels},le=\"0.005\"}} 2"),
            format!("_bucket{{{labels},le=\"0.01\"}} 3"),
            format!("_bucket{{{labels},le=\"10\"}} 3"),
            format!("_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("_sum{{{labels}}} 20.012000"),
            format!("_count{{{labels}}} 4"),
        ] {
            let line = format!("http_server_request_duration_seconds{line}\n");
            assert!(out.contains(&line), "{line}{out}");
        }
    }

    #[test]
    fn statistics_become_figures_by_their_path() {
        let mut figures = Vec::new();
        let value =
            json!({"pending": 3, "oldest": null, "breaker": {"is-open": true}, "version": "7"});
        collect_figures("abunfi_outbox", &value, &mut figures);
        figures.sort();
        let expected = [
            ("abunfi_outbox_breaker_is_open", "1"),
            ("abunfi_outbox_pending", "3"),
        ];
        assert_eq!(
            figures,
            expected.map(|(name, figure)| (name.to_owned(), figure.to_owned()))
        );
    }
}
