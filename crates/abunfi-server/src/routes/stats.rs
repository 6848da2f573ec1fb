//! Figures of the stores and of the platform.

use abunfi::keys::Scope;
use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::json;
use crate::error::Result;
use crate::extract::{Caller, QueryString};
use crate::openapi::schemas;
use crate::state::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_statistics))
}

/// Statistics
///
/// A store that is away has its error there, and the rest is answered.
#[utoipa::path(get, path = "/api/v1/stats", tag = "operations",
    responses((status = 200, description = "The figures", body = schemas::Statistics)))]
async fn show_statistics(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    caller.require(Scope::Operate)?;
    query.expect_none()?;
    json(StatusCode::OK, &app.platform().get_stats().await)
}
