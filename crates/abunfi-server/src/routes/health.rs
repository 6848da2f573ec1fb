//! Probes and metrics, at the root.

use abunfi::health::Overall;
use abunfi::keys::Scope;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::json;
use crate::error::Result;
use crate::extract::Caller;
use crate::openapi::schemas;
use crate::state::App;
use crate::{log_store, metrics};

const PROMETHEUS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show_health))
        .routes(routes!(show_liveness))
        .routes(routes!(show_readiness))
        .routes(routes!(show_metrics))
}

/// How the stores are
///
/// What the last probes found, some seconds ago at most: this never waits for a store.
#[utoipa::path(get, path = "/health", tag = "operations", security(()),
    responses(
        (status = 200, description = "`OK` or `DEGRADED`", body = schemas::Health),
        (status = 503, description = "`DOWN`: the relational store is away", body = schemas::Health),
    ))]
async fn show_health(State(app): State<App>) -> Result {
    let health = app.platform().health().health();
    let status = match health.status {
        Overall::Ok | Overall::Degraded => StatusCode::OK,
        Overall::Down => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &health)
}

/// Whether the process runs
#[utoipa::path(get, path = "/livez", tag = "operations", security(()),
    responses((status = 200, description = "It does", body = schemas::ProbeStatus)))]
async fn show_liveness() -> Result {
    json(StatusCode::OK, &json!({"status": "OK"}))
}

/// Whether the service takes requests
///
/// Also while stores are away, so that cached reads go on.
#[utoipa::path(get, path = "/readyz", tag = "operations", security(()),
    responses(
        (status = 200, description = "It does", body = schemas::ProbeStatus),
        (status = 503, description = "It is stopping", body = schemas::ProbeStatus),
    ))]
async fn show_readiness(State(app): State<App>) -> Result {
    if app.is_draining() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        json(status, &json!({"status": "DRAINING"}))
    } else {
        json(StatusCode::OK, &json!({"status": "OK"}))
    }
}

/// Metrics in Prometheus' text form
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
async fn show_metrics(State(app): State<App>, caller: Caller) -> Result<Response> {
    caller.require(Scope::Operate)?;
    let text = metrics::render(
        app.metrics(),
        app.running(),
        log_store::dropped(),
        app.platform(),
    )
    .await;
    Ok(([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response())
}
