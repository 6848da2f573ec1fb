//! Temporary data: put, get, take once.

use std::time::Duration;

use abunfi::json_reader::Reader;
use abunfi::keys::Scope;
use abunfi::temp::MAX_TTL;
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{json, no_content};
use super::fields::{is_name, present, seconds};
use crate::error::{Problem, Result};
use crate::extract::{Caller, PathParams, QueryString, RequestBody};
use crate::openapi::{params, schemas};
use crate::state::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_value, put_value, delete_value))
        .routes(routes!(take_value))
}

/// Put a value for a time
#[utoipa::path(put, path = "/api/v1/temp/{key}", tag = "temporary data",
    params(params::TempPath),
    request_body = schemas::NewTempValue,
    responses((status = 200, description = "The value, and when it goes", body = schemas::TempValue)))]
async fn put_value(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    let key = path.get("key")?;
    query.expect_none()?;
    let (value, ttl) = read_value(body.json().await?)?;
    let stored = app.platform().temp().put(key, value, ttl).await?;
    json(StatusCode::OK, &stored)
}

/// Look at a value
#[utoipa::path(get, path = "/api/v1/temp/{key}", tag = "temporary data",
    params(params::TempPath),
    responses((status = 200, description = "The value, and when it goes", body = schemas::TempValue)))]
async fn get_value(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    caller.require(Scope::Read)?;
    query.expect_none()?;
    let found = app.platform().temp().get(key(&path)?).await?;
    json(StatusCode::OK, &found)
}

/// Take a value
///
/// Of many callers at once, one has it; from then on it is not found.
#[utoipa::path(post, path = "/api/v1/temp/{key}/take", tag = "temporary data",
    params(params::TempPath),
    responses((status = 200, description = "The value, this once", body = schemas::TempValue)))]
async fn take_value(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    query.expect_none()?;
    Reader::new(body.json_or_empty().await?, "").finish()?;
    let taken = app.platform().temp().take(key(&path)?).await?;
    json(StatusCode::OK, &taken)
}

/// Remove a value
#[utoipa::path(delete, path = "/api/v1/temp/{key}", tag = "temporary data",
    params(params::TempPath),
    responses((status = 204, description = "It is gone, also if it was before")))]
async fn delete_value(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    caller.require(Scope::Write)?;
    query.expect_none()?;
    app.platform().temp().delete(key(&path)?).await?;
    Ok(no_content())
}

/// A key that could be there.
fn key(path: &PathParams) -> Result<&str> {
    let key = path.get("key")?;
    if is_name(key) {
        Ok(key)
    } else {
        Err(Problem::not_found())
    }
}

fn read_value(body: Value) -> std::result::Result<(Value, Duration), Faults> {
    let mut reader = Reader::new(body, "");
    let value = reader.take("value");
    if value.is_none() {
        reader.fault("value", FaultCode::Required, "this field is required");
    }
    let ttl = match reader.take("ttl") {
        None | Some(Value::Null) => {
            reader.fault("ttl", FaultCode::Required, "this field is required");
            None
        }
        Some(ttl) => match seconds(&ttl, MAX_TTL) {
            Ok(ttl) => Some(ttl),
            Err((code, detail)) => {
                reader.fault("ttl", code, detail);
                None
            }
        },
    };
    reader.finish()?;
    Ok((present(value)?, present(ttl)?))
}
