//! `/openapi.json`, and `/docs`: a page that shows it, without the internet.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::answer::json_bytes;
use crate::openapi;
use crate::state::App;

/// The page and all it loads come from this service; its icons are `data:`, its styles partly inline.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| openapi::document().to_string().into_bytes().into());

pub(super) fn routes() -> Router<App> {
    let page: Router<App> = SwaggerUi::new("/docs")
        .config(Config::from("/openapi.json").validator_url("none"))
        .into();
    page.layer(SetResponseHeaderLayer::overriding(
        header::CONTENT_SECURITY_POLICY,
        DOCS_POLICY,
    ))
    .route("/openapi.json", get(show_openapi))
}

async fn show_openapi() -> Response {
    json_bytes(StatusCode::OK, DOCUMENT.clone())
}
