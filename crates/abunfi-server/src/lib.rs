//! The HTTP service of Abunfi: the routes of its contract over one [`DatabaseService`].
//!
//! A request flows one way: `middleware` (ids, admission, time limit, metrics) → `routes/{domain}` (who may,
//! what is asked) → the library's service of that domain → an answer, or a [`error::Problem`] that one table
//! gives its status. Handlers hold no rules: those are the library's.
//!
//! Invariant: who asks is settled before anything of what is asked is looked at.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use abunfi::DatabaseService;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

pub mod error;
mod extract;
pub mod log_store;
mod metrics;
mod middleware;
mod openapi;
mod profile_cache;
mod routes;
mod state;

use state::App;

/// Answers from this size on are compressed for clients that ask: below it the headers and the work cost
/// more than the bytes saved.
const COMPRESS_FROM_BYTES: u64 = 8 * 1024;

/// How often a stopping service looks whether its last request has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long connections have to end once nothing runs on them any more.
const CLOSE_CONNECTIONS: Duration = Duration::from_secs(2);

/// The whole service as a router: to be served, or called in process.
pub fn router(platform: DatabaseService) -> Router {
    build(App::new(platform))
}

fn build(app: App) -> Router {
    let cors = cors(&app.platform().config().http.cors_origins);
    let (routes, _openapi) = routes::all();
    let router = routes
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(COMPRESS_FROM_BYTES)))
        .layer(from_fn_with_state(app.clone(), middleware::surround));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.with_state(app)
}

/// The OpenAPI 3.1 description of all routes, generated from the code: the same text for the same code.
#[must_use]
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Serves `platform` on `listener` until `shutdown` is done and what runs then has ended, or the
/// configured grace has passed.
///
/// While it drains, `/readyz` says 503 and new requests are refused as `overloaded`; probes are answered to
/// the end.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    platform: DatabaseService,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = App::new(platform);
    let service = build(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
    // An answer is one small write: waiting to fill a packet would only delay it.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    let (drained, is_drained) = oneshot::channel();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        shutdown.await;
        drain(&app).await;
        // The receiver is gone only if serving failed.
        let _gone = drained.send(());
    });
    let server = std::pin::pin!(server.into_future());
    let deadline = async {
        match is_drained.await {
            Ok(()) => tokio::time::sleep(CLOSE_CONNECTIONS).await,
            // Serving failed, and that is what is reported.
            Err(_dropped) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = server => served,
        () = deadline => {
            tracing::warn!("connections that did not end were cut");
            Ok(())
        }
    }
}

/// Takes nothing new, and waits for what runs, within the grace.
async fn drain(app: &App) {
    app.start_draining();
    let grace = Duration::from_millis(app.platform().config().http.shutdown_grace_ms);
    tracing::info!(running = app.running(), "stopping");
    let all_ended = async {
        while app.running() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        tracing::warn!(
            running = app.running(),
            "the grace is over; what runs is cut"
        );
    }
}

/// CORS for the configured origins; `None` when it is off.
fn cors(origins: &[String]) -> Option<tower_http::cors::CorsLayer> {
    use http::{HeaderName, HeaderValue, Method, header};
    use tower_http::cors::{AllowOrigin, CorsLayer};

    if origins.is_empty() {
        return None;
    }
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    let exposed = [
        "etag",
        "location",
        "age",
        "retry-after",
        "x-request-id",
        "traceparent",
        "x-cache",
        "x-document-state",
        "idempotent-replayed",
        "ratelimit",
        "ratelimit-policy",
    ];
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_MATCH,
                header::IF_NONE_MATCH,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("x-request-id"),
                HeaderName::from_static("traceparent"),
            ])
            .expose_headers(exposed.map(HeaderName::from_static))
            .max_age(Duration::from_secs(3_600)),
    )
}
