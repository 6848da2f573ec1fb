//! The developers' data: any JSON under a namespace and a key, perhaps for a time.
//!
//! The body is the value itself; its version is the tag, its end the header `X-Expires-At`.

use std::time::Duration;

use abunfi::documents::DevDataEntry;
use abunfi::keys::Scope;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{json, located, no_content, versioned, written};
use super::fields::{is_name, is_name_byte};
use crate::error::{Problem, Result};
use crate::extract::{
    Caller, Pagination, PathParams, Preconditions, QueryReader, QueryString, RequestBody,
};
use crate::openapi::{params, schemas};
use crate::state::App;

const X_EXPIRES_AT: HeaderName = HeaderName::from_static("x-expires-at");
/// The longest time to live: ten years. What is meant to stay has none.
const MAX_TTL_SECONDS: u64 = 10 * 365 * 24 * 3_600;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_entries))
        .routes(routes!(get_entry, put_entry, patch_entry, delete_entry))
}

/// A namespace's entries
#[utoipa::path(get, path = "/api/v1/dev-data/{namespace}", tag = "dev data",
    params(params::NamespacePath, params::PrefixParam, params::PageParams),
    responses((status = 200, description = "Ordered by key", body = schemas::DevDataList)))]
async fn list_entries(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    caller.require(Scope::Read)?;
    let namespace = path.get("namespace")?;
    if !is_name(namespace) {
        return Err(Problem::not_found());
    }
    let mut query = query.read()?;
    let prefix = query.parse("prefix", "at most 200 of A-Za-z0-9._:-", |value| {
        let is_prefix = value.len() <= 200 && value.bytes().all(is_name_byte);
        is_prefix.then(|| value.to_owned())
    })?;
    let prefix = prefix.unwrap_or_default();
    let filters = format!("dev data\n{namespace}\n{prefix}");
    let pagination = Pagination::<String>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .documents()
        .list_dev_data(namespace, &prefix, &pagination.page())
        .await?;
    let list = pagination.list(
        rows,
        |last| last.key.clone(),
        |entry| json!({"key": entry.key, "value": entry.value, "expires_at": entry.expires_at}),
    )?;
    json(StatusCode::OK, &list)
}

/// A value
#[utoipa::path(get, path = "/api/v1/dev-data/{namespace}/{key}", tag = "dev data",
    params(params::EntryPath, params::ReadConditions),
    responses(
        (status = 200, description = "The value itself", body = schemas::AnyJson,
            headers(("ETag" = String), ("X-Expires-At" = String))),
        (status = 304, description = "The client has it already"),
    ))]
async fn get_entry(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    caller.require(Scope::Read)?;
    query.expect_none()?;
    let (namespace, key) = address(&path)?;
    if !is_name(namespace) || !is_name(key) {
        return Err(Problem::not_found());
    }
    let found = app.platform().documents().dev_data(namespace, key).await?;
    let entry = found.ok_or_else(Problem::not_found)?;
    let response = versioned(&preconditions, entry.version, &entry.value)?;
    expiring(response, &entry)
}

/// Store a value
#[utoipa::path(put, path = "/api/v1/dev-data/{namespace}/{key}", tag = "dev data",
    params(params::EntryPath, params::TtlParam, params::WriteConditions),
    request_body = schemas::AnyJson,
    responses(
        (status = 200, description = "Replaced", body = schemas::AnyJson,
            headers(("ETag" = String), ("X-Expires-At" = String))),
        (status = 201, description = "Made", body = schemas::AnyJson,
            headers(("Location" = String), ("ETag" = String), ("X-Expires-At" = String))),
    ))]
async fn put_entry(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    let (namespace, key) = address(&path)?;
    let ttl = read_ttl(query.read()?)?;
    let expected = preconditions.expected()?;
    let value = body.json().await?;
    let (entry, is_new) = app
        .platform()
        .documents()
        .put_dev_data(namespace, key, value, ttl, expected)
        .await?;
    if !is_new {
        let response = written(StatusCode::OK, entry.version, &entry.value)?;
        return expiring(response, &entry);
    }
    let address = format!("/api/v1/dev-data/{namespace}/{key}");
    let response = written(StatusCode::CREATED, entry.version, &entry.value)?;
    expiring(located(response, &address)?, &entry)
}

/// Change a value
///
/// A merge patch (RFC 7396). Without `ttl` the time of its end stays.
#[utoipa::path(patch, path = "/api/v1/dev-data/{namespace}/{key}", tag = "dev data",
    params(params::EntryPath, params::TtlParam, params::WriteConditions),
    request_body(content((schemas::AnyJson = "application/merge-patch+json"), (schemas::AnyJson = "application/json"))),
    responses((status = 200, description = "Changed", body = schemas::AnyJson,
        headers(("ETag" = String), ("X-Expires-At" = String)))))]
async fn patch_entry(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    let (namespace, key) = address(&path)?;
    let ttl = read_ttl(query.read()?)?;
    let expected = preconditions.expected()?;
    let patch = body.merge_patch().await?;
    let entry = app
        .platform()
        .documents()
        .patch_dev_data(namespace, key, patch, ttl, expected)
        .await?;
    let response = written(StatusCode::OK, entry.version, &entry.value)?;
    expiring(response, &entry)
}

/// Remove a value
#[utoipa::path(delete, path = "/api/v1/dev-data/{namespace}/{key}", tag = "dev data",
    params(params::EntryPath, params::WriteConditions),
    responses((status = 204, description = "It is gone, also if it was before")))]
async fn delete_entry(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    caller.require(Scope::Write)?;
    query.expect_none()?;
    let (namespace, key) = address(&path)?;
    if !is_name(namespace) || !is_name(key) {
        return Err(Problem::not_found());
    }
    let expected = preconditions.expected()?;
    app.platform()
        .documents()
        .delete_dev_data(namespace, key, expected)
        .await?;
    Ok(no_content())
}

fn address(path: &PathParams) -> Result<(&str, &str)> {
    Ok((path.get("namespace")?, path.get("key")?))
}

fn read_ttl(mut query: QueryReader) -> Result<Option<Duration>> {
    let ttl = query.parse(
        "ttl",
        "a whole number of seconds, at most ten years",
        |value| {
            let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = value.parse().ok().filter(|_| is_plain)?;
            (1..=MAX_TTL_SECONDS)
                .contains(&seconds)
                .then(|| Duration::from_secs(seconds))
        },
    )?;
    query.finish()?;
    Ok(ttl)
}

fn expiring(mut response: Response, entry: &DevDataEntry) -> Result {
    if let Some(expires_at) = entry.expires_at {
        let value = HeaderValue::from_str(&expires_at.to_string()).map_err(Problem::internal)?;
        response.headers_mut().insert(X_EXPIRES_AT, value);
    }
    Ok(response)
}
