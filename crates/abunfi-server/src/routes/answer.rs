//! How answers are put together.

use std::time::Duration;

use abunfi::users::Source;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::error::{Problem, Result};
use crate::extract::{ETag, Preconditions};

pub(crate) const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// `value` as JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result {
    let body = serde_json::to_vec(value).map_err(Problem::internal)?;
    Ok(json_bytes(status, body.into()))
}

/// What is JSON already.
pub(crate) fn json_bytes(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Room for these and for those of the outermost layer, so that the map grows once.
    headers.reserve(16);
    headers.insert(header::CONTENT_TYPE, APPLICATION_JSON);
    response
}

pub(crate) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// The answer to a GET of something with a tag: 304 when the client has it already.
pub(crate) fn tagged(preconditions: &Preconditions, tag: &ETag, body: Bytes) -> Result {
    let mut response = if preconditions.is_not_modified(tag)? {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json_bytes(StatusCode::OK, body)
    };
    add_tag(&mut response, tag)?;
    Ok(response)
}

/// Like [`tagged`], for a value with a version.
pub(crate) fn versioned(
    preconditions: &Preconditions,
    version: i64,
    value: &impl Serialize,
) -> Result {
    let body = serde_json::to_vec(value).map_err(Problem::internal)?;
    tagged(preconditions, &ETag::of_version(version), body.into())
}

/// The answer to a write of something with a version.
pub(crate) fn written(status: StatusCode, version: i64, value: &impl Serialize) -> Result {
    let mut response = json(status, value)?;
    add_tag(&mut response, &ETag::of_version(version))?;
    Ok(response)
}

pub(crate) fn add_tag(response: &mut Response, tag: &ETag) -> Result<()> {
    response
        .headers_mut()
        .insert(header::ETAG, tag.header_value()?);
    Ok(())
}

/// Where what was made can be found.
pub(crate) fn located(mut response: Response, address: &str) -> Result {
    let address = HeaderValue::from_str(address).map_err(Problem::internal)?;
    response.headers_mut().insert(header::LOCATION, address);
    Ok(response)
}

/// `X-Cache` and `Age`.
pub(crate) fn from_cache(mut response: Response, source: Source, age: Duration) -> Response {
    let source = match source {
        Source::Hit => "hit",
        Source::Miss => "miss",
        Source::Stale => "stale",
        Source::Bypass => "bypass",
    };
    let headers = response.headers_mut();
    headers.insert(X_CACHE, HeaderValue::from_static(source));
    headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
    response
}

/// `{"data": […]}`, a list without pages.
#[derive(Debug, Serialize)]
pub(crate) struct Data<T> {
    pub(crate) data: Vec<T>,
}
