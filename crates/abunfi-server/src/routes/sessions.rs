//! Sessions of users.

use std::net::IpAddr;
use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::ids::SessionId;
use abunfi::json_reader::{Reader, text};
use abunfi::keys::Scope;
use abunfi::sessions::{NewSession, SessionRecord};
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{json, located, no_content};
use super::fields::seconds;
use crate::error::{Problem, Result};
use crate::extract::{BySession, Caller, Pagination, PathParams, QueryString, RequestBody};
use crate::openapi::{params, schemas};
use crate::state::App;

/// Characters of a device's name.
const MAX_DEVICE_CHARS: usize = 200;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_session, list_sessions, revoke_sessions))
        .routes(routes!(revoke_session))
        .routes(routes!(show_own_session, end_own_session))
        .routes(routes!(rotate_own_session))
}

/// Make a session
///
/// The token is shown this once. A session that makes another gives it at most the life that it has left
/// itself.
#[utoipa::path(post, path = "/api/v1/users/{id}/sessions", tag = "sessions",
    params(params::UserPath),
    request_body = Option<schemas::NewSession>,
    responses(
        (status = 201, description = "The token and the session", body = schemas::TokenAndSession,
            headers(("Location" = String))),
        (status = 409, description = "`user_not_active`"),
    ))]
async fn create_session(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    body: RequestBody,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    let longest = app.platform().config().sessions.max_ttl_seconds;
    let longest = Duration::from_secs(u64::from(longest));
    let mut request = read_new_session(body.json_or_empty().await?, longest)?;
    if let Some(session) = caller.as_session() {
        // Else whoever got hold of a session could keep it alive for ever.
        let left = session.expires_at.since(app.platform().clock().now());
        // A second less, since the new session begins a little later than this was computed.
        let left = left.as_secs().saturating_sub(1).max(1);
        let left = Duration::from_secs(left);
        request.ttl = Some(request.ttl.map_or(left, |ttl| ttl.min(left)));
    }
    let sessions = app.platform().sessions();
    let (token, session) = sessions.create(id, request).await?;
    let address = format!("/api/v1/users/{id}/sessions/{}", session.id);
    let answer = json!({"token": token, "session": session});
    located(json(StatusCode::CREATED, &answer)?, &address)
}

/// A user's sessions
#[utoipa::path(get, path = "/api/v1/users/{id}/sessions", tag = "sessions",
    params(params::UserPath, params::PageParams),
    responses((status = 200, description = "Those that live, newest first", body = schemas::SessionList)))]
async fn list_sessions(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let filters = format!("sessions\n{id}");
    let pagination = Pagination::<(Timestamp, SessionId)>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .sessions()
        .list(id, &pagination.page())
        .await?;
    let rows = rows.ok_or_else(Problem::not_found)?;
    let asking = caller.as_session().map(|session| session.id);
    let list = pagination.list(
        rows,
        |last| (last.created_at, last.id),
        |session| session.show(asking),
    )?;
    json(StatusCode::OK, &list)
}

/// End all sessions of a user
#[utoipa::path(delete, path = "/api/v1/users/{id}/sessions", tag = "sessions",
    params(params::UserPath),
    responses((status = 204, description = "None is left")))]
async fn revoke_sessions(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    query.expect_none()?;
    app.platform().sessions().revoke_all(id).await?;
    Ok(no_content())
}

/// End a session
#[utoipa::path(delete, path = "/api/v1/users/{id}/sessions/{sid}", tag = "sessions",
    params(params::SessionPath),
    responses((status = 204, description = "It has ended, also if it had before")))]
async fn revoke_session(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Write, BySession::Allowed)?;
    let session = path.session_id()?;
    query.expect_none()?;
    app.platform().sessions().revoke(id, session).await?;
    Ok(no_content())
}

/// The session that asks
#[utoipa::path(get, path = "/api/v1/session", tag = "sessions",
    responses((status = 200, description = "The session", body = schemas::Session)))]
async fn show_own_session(caller: Caller, query: QueryString) -> Result {
    let session = caller.session()?;
    query.expect_none()?;
    json(StatusCode::OK, &shown_to_itself(session))
}

/// A new token for the session that asks
///
/// The old token ends in the same commit.
#[utoipa::path(post, path = "/api/v1/session/rotate", tag = "sessions",
    responses((status = 200, description = "The new token and its session", body = schemas::TokenAndSession)))]
async fn rotate_own_session(
    State(app): State<App>,
    caller: Caller,
    query: QueryString,
    body: RequestBody,
) -> Result {
    let session = caller.session()?;
    query.expect_none()?;
    Reader::new(body.json_or_empty().await?, "").finish()?;
    let (token, session) = app.platform().sessions().rotate(session).await?;
    json(StatusCode::OK, &json!({"token": token, "session": session}))
}

/// End the session that asks
#[utoipa::path(delete, path = "/api/v1/session", tag = "sessions",
    responses((status = 204, description = "It has ended")))]
async fn end_own_session(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    let session = caller.session()?;
    query.expect_none()?;
    app.platform()
        .sessions()
        .revoke(session.user_id, session.id)
        .await?;
    Ok(no_content())
}

fn shown_to_itself(session: &SessionRecord) -> abunfi::sessions::Session {
    session.clone().show(Some(session.id))
}

fn read_new_session(body: Value, longest: Duration) -> std::result::Result<NewSession, Faults> {
    let mut reader = Reader::new(body, "");
    let request = NewSession {
        device: reader.optional("device", |value| text(value, MAX_DEVICE_CHARS)),
        ip: reader.optional("ip", |text| match text.parse::<IpAddr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err((
                FaultCode::BadFormat,
                "must be an IPv4 or IPv6 address".to_owned(),
            )),
        }),
        ttl: reader.optional_value("ttl", |value| seconds(&value, longest)),
    };
    reader.finish()?;
    Ok(request)
}
