//! The append-only log.

use abunfi::clock::Timestamp;
use abunfi::documents::canonical::Root;
use abunfi::documents::{LogEntry, LogFilter, LogLevel};
use abunfi::ids::TransactionId;
use abunfi::json_reader::{FieldError, Reader, text};
use abunfi::keys::Scope;
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answer::json;
use super::fields::{document, present, request_id, word};
use crate::error::Result;
use crate::extract::{Caller, Pagination, QueryString, RequestBody};
use crate::openapi::{params, schemas};
use crate::state::App;

/// Entries of one call.
const MAX_ENTRIES: usize = 1_000;
/// Characters of a target: a module's path, a component's name.
const MAX_TARGET_CHARS: usize = 200;
/// Bytes of a message: a line, perhaps with a stack trace.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
const LEVELS: &str = "trace, debug, info, warn, error";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(append_logs, list_logs))
}

/// Write log entries
///
/// One entry, or an array of up to 1,000. Durable when answered.
#[utoipa::path(post, path = "/api/v1/logs", tag = "logs",
    request_body = schemas::NewLogEntries,
    responses((status = 202, description = "Accepted", body = schemas::Accepted)))]
async fn append_logs(
    State(app): State<App>,
    caller: Caller,
    query: QueryString,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    query.expect_none()?;
    let now = app.platform().clock().now();
    let entries = read_entries(body.json().await?, now)?;
    app.platform().documents().append_logs(&entries).await?;
    json(StatusCode::ACCEPTED, &json!({"accepted": entries.len()}))
}

/// Read the log
#[utoipa::path(get, path = "/api/v1/logs", tag = "logs",
    params(params::LogFilters, params::PageParams),
    responses((status = 200, description = "Newest first", body = schemas::LogEntryList)))]
async fn list_logs(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    caller.require(Scope::Read)?;
    let mut query = query.read()?;
    let filter = LogFilter {
        level: query.parse("level", LEVELS, LogLevel::from_name)?,
        target: query.text("target", MAX_TARGET_CHARS)?,
        request_id: query.parse("request_id", "1 to 128 visible ASCII characters", |value| {
            request_id(value).ok()
        })?,
        from: query.time("from")?,
        to: query.time("to")?,
        contains: query.text("q", 200)?,
    };
    let filters = format!("logs\n{filter:?}");
    let pagination = Pagination::<(Timestamp, Uuid)>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .documents()
        .logs(&filter, &pagination.page())
        .await?;
    let list = pagination.list(rows, |last| (last.at, last.id), |row| row)?;
    json(StatusCode::OK, &list)
}

fn read_entries(body: Value, now: Timestamp) -> std::result::Result<Vec<LogEntry>, Faults> {
    let items = match body {
        Value::Array(items) => items,
        one => return Ok(vec![read_entry(one, "", now)?]),
    };
    let mut faults = Faults::new();
    if items.is_empty() {
        faults.add("", FaultCode::TooShort, "at least one entry");
    }
    if items.len() > MAX_ENTRIES {
        let detail = format!("at most {MAX_ENTRIES} entries");
        faults.add("", FaultCode::TooLong, detail);
    }
    faults.into_result()?;
    let mut faults = Faults::new();
    let mut entries = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match read_entry(item, &format!("/{index}"), now) {
            Ok(entry) => entries.push(entry),
            Err(more) => faults.extend(more),
        }
        if faults.is_full() {
            break;
        }
    }
    faults.into_result()?;
    Ok(entries)
}

fn read_entry(
    value: Value,
    pointer: &str,
    now: Timestamp,
) -> std::result::Result<LogEntry, Faults> {
    let mut reader = Reader::new(value, pointer);
    let level = reader.required("level", |text| word(text, LEVELS, LogLevel::from_name));
    let target = reader.required("target", |value| text(value, MAX_TARGET_CHARS));
    let message = reader.required("message", read_message);
    let fields = document(&mut reader, "fields", Root::Object);
    let at = reader.optional("at", |text| {
        Timestamp::parse(text)
            .ok_or_else(|| (FaultCode::BadFormat, "must be an RFC 3339 time".to_owned()))
    });
    let request_id = reader.optional("request_id", request_id);
    reader.finish()?;
    Ok(LogEntry {
        id: TransactionId::new(now).uuid(),
        at: at.unwrap_or(now),
        level: present(level)?,
        target: present(target)?,
        message: present(message)?,
        fields: fields.unwrap_or_else(|| json!({})),
        request_id,
    })
}

/// A message may have lines, but no NUL, which not every backend can hold.
fn read_message(text: &str) -> std::result::Result<String, FieldError> {
    if text.is_empty() {
        return Err((FaultCode::TooShort, "the text is empty".to_owned()));
    }
    if text.len() > MAX_MESSAGE_BYTES {
        let detail = format!("at most {MAX_MESSAGE_BYTES} bytes");
        return Err((FaultCode::TooLong, detail));
    }
    if text.contains('\0') {
        let detail = "must not hold NUL".to_owned();
        return Err((FaultCode::NotAllowed, detail));
    }
    Ok(text.to_owned())
}
