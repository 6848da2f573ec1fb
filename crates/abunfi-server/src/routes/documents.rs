//! Preferences and metadata of users.

use abunfi::documents::{DocumentKey, DocumentKind, DocumentView, Expected, Freshness, Write};
use abunfi::ids::UserId;
use abunfi::keys::Scope;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{add_tag, json, no_content, versioned};
use crate::error::{Problem, Result};
use crate::extract::{
    BySession, Caller, ETag, PathParams, Preconditions, QueryString, RequestBody,
};
use crate::openapi::{params, schemas};
use crate::state::App;

/// How much what is shown can be trusted; absent when it is current.
const X_DOCUMENT_STATE: HeaderName = HeaderName::from_static("x-document-state");
/// When what is shown was known to be right; absent when it is current.
const X_DOCUMENT_AS_OF: HeaderName = HeaderName::from_static("x-document-as-of");

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(
            get_preferences,
            put_preferences,
            patch_preferences,
            delete_preferences
        ))
        .routes(routes!(
            get_metadata,
            put_metadata,
            patch_metadata,
            delete_metadata
        ))
}

/// A user's preferences
///
/// With the defaults where nothing was said.
#[utoipa::path(get, path = "/api/v1/users/{id}/preferences", tag = "documents",
    params(params::UserPath, params::ReadConditions),
    responses(
        (status = 200, description = "The document", body = schemas::Preferences,
            headers(("ETag" = String), ("X-Document-State" = String))),
        (status = 304, description = "The client has it already"),
    ))]
async fn get_preferences(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    query.expect_none()?;
    get(state, id, DocumentKind::Preferences, &preconditions).await
}

/// Replace a user's preferences
#[utoipa::path(put, path = "/api/v1/users/{id}/preferences", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    request_body = schemas::Preferences,
    responses((status = 200, description = "The document", body = schemas::Preferences,
        headers(("ETag" = String), ("X-Document-State" = String)))))]
async fn put_preferences(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    let value = Write::Put(body.json().await?);
    write(
        state,
        &caller,
        id,
        DocumentKind::Preferences,
        value,
        expected,
    )
    .await
}

/// Change a user's preferences
///
/// A merge patch (RFC 7396).
#[utoipa::path(patch, path = "/api/v1/users/{id}/preferences", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    request_body(content((schemas::FreeObject = "application/merge-patch+json"), (schemas::FreeObject = "application/json"))),
    responses((status = 200, description = "The document", body = schemas::Preferences,
        headers(("ETag" = String), ("X-Document-State" = String)))))]
async fn patch_preferences(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    let patch = Write::Patch(body.merge_patch().await?);
    write(
        state,
        &caller,
        id,
        DocumentKind::Preferences,
        patch,
        expected,
    )
    .await
}

/// Back to the default preferences
#[utoipa::path(delete, path = "/api/v1/users/{id}/preferences", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    responses((status = 204, description = "They are the defaults, also if they were before")))]
async fn delete_preferences(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    delete(state, &caller, id, DocumentKind::Preferences, expected).await
}

/// A user's metadata
#[utoipa::path(get, path = "/api/v1/users/{id}/metadata", tag = "documents",
    params(params::UserPath, params::ReadConditions),
    responses(
        (status = 200, description = "The document", body = schemas::FreeObject,
            headers(("ETag" = String), ("X-Document-State" = String))),
        (status = 304, description = "The client has it already"),
    ))]
async fn get_metadata(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    query.expect_none()?;
    get(state, id, DocumentKind::Metadata, &preconditions).await
}

/// Replace a user's metadata
#[utoipa::path(put, path = "/api/v1/users/{id}/metadata", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    request_body = schemas::FreeObject,
    responses((status = 200, description = "The document", body = schemas::FreeObject,
        headers(("ETag" = String), ("X-Document-State" = String)))))]
async fn put_metadata(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    let value = Write::Put(body.json().await?);
    write(state, &caller, id, DocumentKind::Metadata, value, expected).await
}

/// Change a user's metadata
///
/// A merge patch (RFC 7396).
#[utoipa::path(patch, path = "/api/v1/users/{id}/metadata", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    request_body(content((schemas::FreeObject = "application/merge-patch+json"), (schemas::FreeObject = "application/json"))),
    responses((status = 200, description = "The document", body = schemas::FreeObject,
        headers(("ETag" = String), ("X-Document-State" = String)))))]
async fn patch_metadata(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    let patch = Write::Patch(body.merge_patch().await?);
    write(state, &caller, id, DocumentKind::Metadata, patch, expected).await
}

/// Remove a user's metadata
#[utoipa::path(delete, path = "/api/v1/users/{id}/metadata", tag = "documents",
    params(params::UserPath, params::WriteConditions),
    responses((status = 204, description = "It is `{}`, also if it was before")))]
async fn delete_metadata(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    delete(state, &caller, id, DocumentKind::Metadata, expected).await
}

async fn get(
    State(app): State<App>,
    user_id: UserId,
    kind: DocumentKind,
    preconditions: &Preconditions,
) -> Result {
    let key = DocumentKey { user_id, kind };
    let view = app.platform().documents().get(key).await?;
    match view.state.state {
        Freshness::Current | Freshness::Pending => {
            let response = versioned(preconditions, view.version, &view.value)?;
            mark(response, &view)
        }
        // The version is the head's, and this is not what the head stands for: no tag, and no 304.
        Freshness::Stale | Freshness::Default => mark(json(StatusCode::OK, &view.value)?, &view),
    }
}

async fn write(
    State(app): State<App>,
    caller: &Caller,
    user_id: UserId,
    kind: DocumentKind,
    write: Write,
    expected: Expected,
) -> Result {
    let key = DocumentKey { user_id, kind };
    let view = app
        .platform()
        .documents()
        .write(&caller.context(), key, write, expected)
        .await?;
    let mut response = json(StatusCode::OK, &view.value)?;
    add_tag(&mut response, &ETag::of_version(view.version))?;
    mark(response, &view)
}

async fn delete(
    State(app): State<App>,
    caller: &Caller,
    user_id: UserId,
    kind: DocumentKind,
    expected: Expected,
) -> Result {
    let key = DocumentKey { user_id, kind };
    let view = app
        .platform()
        .documents()
        .write(&caller.context(), key, Write::Delete, expected)
        .await?;
    let mut response = no_content();
    add_tag(&mut response, &ETag::of_version(view.version))?;
    mark(response, &view)
}

/// Says in headers what the hybrid user says in `document_state`. Never inside the document.
fn mark(mut response: Response, view: &DocumentView) -> Result {
    if view.state.state != Freshness::Current {
        let headers = response.headers_mut();
        let state = HeaderValue::from_static(view.state.state.as_str());
        headers.insert(X_DOCUMENT_STATE, state);
        if let Some(as_of) = view.state.as_of {
            let as_of = HeaderValue::from_str(&as_of.to_string()).map_err(Problem::internal)?;
            headers.insert(X_DOCUMENT_AS_OF, as_of);
        }
    }
    Ok(response)
}
