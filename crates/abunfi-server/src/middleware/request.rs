//! The one layer around every request. One, since each layer costs a box and a virtual call, and since the
//! order of its steps is the contract: whatever happens inside, the answer has its id, its security headers,
//! a metric and a line in the log.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tracing::Instrument;

use super::drain;
use super::rate_limit::LimitHeaders;
use super::request_id::{RequestId, TRACEPARENT, TraceParent, X_REQUEST_ID};
use crate::error::{Code, Problem};
use crate::state::App;

/// Routes that answer whatever else goes on: who watches a full or stopping service must still see it.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

/// What a page of the service may load: nothing. `/docs` says its own.
const CONTENT_SECURITY_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Seconds after which a full service is worth another try.
const RETRY_OVERLOADED_SECONDS: u64 = 1;

/// How far a request with a body has come, to tell what a passed time limit means.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    reading: AtomicBool,
}

impl Progress {
    pub(crate) fn set_reading(&self, reading: bool) {
        self.reading.store(reading, Ordering::Relaxed);
    }
}

/// Where a rate limit leaves its headers for the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct LimitSlot(Arc<Mutex<Option<LimitHeaders>>>);

impl LimitSlot {
    pub(crate) fn set(&self, headers: LimitHeaders) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(headers);
    }

    fn take(&self) -> Option<LimitHeaders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Surrounds `next` with everything that all requests share.
pub(crate) async fn surround(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace = TraceParent::of(request.headers());
    let id = RequestId::of(request.headers(), trace.as_ref());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let limits = app
        .platform()
        .config()
        .own_rate_limit
        .is_some()
        .then(LimitSlot::default);
    request.extensions_mut().insert(id.clone());
    if let Some(trace) = &trace {
        request.extensions_mut().insert(trace.clone());
    }
    if let Some(limits) = &limits {
        request.extensions_mut().insert(limits.clone());
    }

    let span = tracing::info_span!("request", request_id = id.as_str());
    let answer = admit_and_run(&app, request, next, &method, route.as_ref());
    let mut response = answer.instrument(span).await;

    let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
        // A file that the documentation's page does not have.
        (response.status() == StatusCode::NOT_FOUND).then(Problem::not_found)
    });
    let code = match problem {
        Some(problem) => {
            let refused = response;
            response = problem.render(id.as_str());
            keep_headers(response.headers_mut(), refused.headers());
            Some(problem.code())
        }
        None => None,
    };
    let headers = response.headers_mut();
    add_common_headers(headers, &id, trace.as_ref());
    if let Some(limits) = limits.and_then(|slot| slot.take()) {
        for (name, value) in limits {
            headers.entry(name).or_insert(value);
        }
    }

    let took = started.elapsed();
    let status = response.status();
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    app.metrics().record(&method, route, status, took);
    tracing::info!(
        request_id = id.as_str(),
        method = method.as_str(),
        route,
        status = status.as_u16(),
        code = code.map(Code::as_str),
        duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        trace = trace.as_ref().map(tracing::field::display),
        "request"
    );
    response
}

/// Runs the request if there is room for it, within the time limit; a panic becomes a problem.
async fn admit_and_run(
    app: &App,
    mut request: Request,
    next: Next,
    method: &Method,
    route: Option<&MatchedPath>,
) -> Response {
    let is_probe = route.is_some_and(|route| PROBES.contains(&route.as_str()));
    let permit = app.admit();
    if permit.is_none() && !is_probe {
        return overloaded(app).into_response();
    }
    let mut unread = None;
    let mut progress = None;
    if !request.body().is_end_stream() {
        let noted = Arc::new(Progress::default());
        request.extensions_mut().insert(Arc::clone(&noted));
        progress = Some(noted);
        let (parts, body) = request.into_parts();
        let (body, leftover) = drain::watch(body);
        request = Request::from_parts(parts, body);
        unread = Some(leftover);
    }
    let running = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(app.request_timeout(), running).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => panicked(panic.as_ref()).into_response(),
        Err(_elapsed) => {
            let was_reading =
                progress.is_some_and(|progress| progress.reading.load(Ordering::Relaxed));
            too_late(method, was_reading).into_response()
        }
    };
    if let Some(unread) = unread {
        unread.drain().await;
    }
    drop(permit);
    response
}

fn overloaded(app: &App) -> Problem {
    let detail = if app.is_draining() {
        "the service is stopping; nothing was done"
    } else {
        "as many requests as the service takes are running; nothing was done"
    };
    Problem::new(Code::Overloaded, detail).with_retry_after(RETRY_OVERLOADED_SECONDS)
}

/// The time limit has passed. What only reads has done nothing, nor has what was still being read.
fn too_late(method: &Method, was_reading: bool) -> Problem {
    let problem = if was_reading {
        Problem::new(
            Code::StoreUnavailable,
            "the body did not arrive within the time limit; nothing was done",
        )
    } else if method.is_safe() {
        Problem::new(
            Code::StoreUnavailable,
            "the answer took longer than the time limit",
        )
    } else {
        Problem::new(
            Code::OutcomeUnknown,
            "the time limit passed while it was being done; ask again with the same key",
        )
    };
    problem.with_retry_after(RETRY_OVERLOADED_SECONDS)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Problem {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    Problem::internal(Panic(message))
}

#[derive(Debug, thiserror::Error)]
#[error("panic: {0}")]
struct Panic(String);

/// Headers that layers further in put on a refusal (`Allow`, `Vary`, …).
fn keep_headers(headers: &mut HeaderMap, inner: &HeaderMap) {
    for (name, value) in inner {
        let is_about_the_empty_body =
            *name == header::CONTENT_LENGTH || *name == header::CONTENT_TYPE;
        if !is_about_the_empty_body {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

fn add_common_headers(headers: &mut HeaderMap, id: &RequestId, trace: Option<&TraceParent>) {
    headers.insert(X_REQUEST_ID, id.header_value());
    if let Some(trace) = trace {
        headers.insert(TRACEPARENT, trace.header_value());
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, SAME_ORIGIN);
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(CONTENT_SECURITY_POLICY);
    // Answers are personal and change at any time; entity tags still work.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
