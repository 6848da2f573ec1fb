//! What an app's first screen shows, as one read.

use abunfi::keys::Scope;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{from_cache, tagged};
use crate::error::{Problem, Result};
use crate::extract::{BySession, Caller, ETag, PathParams, Preconditions, QueryString};
use crate::openapi::{params, schemas};
use crate::state::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_dashboard))
}

/// A user's dashboard
///
/// The user, its balances, the last ten transactions, statistics and preferences; cached for 300 seconds.
/// The tag covers the whole body.
#[utoipa::path(get, path = "/api/v1/users/{id}/dashboard", tag = "dashboard",
    params(params::UserPath, params::CacheParam, params::ReadConditions),
    responses(
        (status = 200, description = "The dashboard", body = schemas::Dashboard,
            headers(("ETag" = String), ("X-Cache" = String), ("Age" = i64))),
        (status = 304, description = "The client has it already"),
    ))]
async fn show_dashboard(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let use_cache = query.flag("cache")?.unwrap_or(true);
    query.finish()?;
    let served = app.platform().dashboard(id, use_cache).await?;
    let served = served.ok_or_else(Problem::not_found)?;
    let body = serde_json::to_vec(served.value.as_ref()).map_err(Problem::internal)?;
    let tag = ETag::of_body(served.value.user.version, &body);
    let response = tagged(&preconditions, &tag, body.into())?;
    Ok(from_cache(response, served.source, served.age))
}
