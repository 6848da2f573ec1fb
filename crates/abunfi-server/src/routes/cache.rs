//! The cache, for operators.

use abunfi::keys::Scope;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::no_content;
use crate::error::{Problem, Result};
use crate::extract::{Caller, QueryString};
use crate::openapi::params;
use crate::state::App;

/// Characters of a key or a tag.
const MAX_NAME_CHARS: usize = 500;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(invalidate_cache))
}

/// Forget what is cached under a tag or a key
///
/// Here at once, in other instances within a second.
#[utoipa::path(delete, path = "/api/v1/cache", tag = "cache",
    params(params::CacheTarget),
    responses((status = 204, description = "Forgotten")))]
async fn invalidate_cache(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    caller.require(Scope::Operate)?;
    let mut query = query.read()?;
    let tag = query.text("tag", MAX_NAME_CHARS)?;
    let key = query.text("key", MAX_NAME_CHARS)?;
    query.finish()?;
    let cache = app.platform().cache_service();
    match (tag, key) {
        (Some(tag), None) => cache.invalidate(&[], &[tag]).await,
        (None, Some(key)) => cache.invalidate(&[key], &[]).await,
        _ => {
            return Err(Problem::invalid_parameter(
                "either `tag` or `key` is needed",
            ));
        }
    }
    Ok(no_content())
}
