//! Transactions: posting, batches, settling, lists.

use abunfi::ids::{TransactionId, UserId};
use abunfi::json_reader::{Reader, wrong_type};
use abunfi::keys::Scope;
use abunfi::ledger::{
    self, Asset, BatchAnswer, BatchRequest, ItemResult, MAX_BATCH_ITEMS, Outcome, PostRequest,
    Posted, Refusal, SendOut, Settlement, TransactionFilter, TransactionStatus, TransactionType,
};
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{self, located};
use crate::error::{IDEMPOTENT_REPLAYED, Problem, Result};
use crate::extract::{
    BySession, Caller, IdempotencyKey, Pagination, PathParams, QueryString, RequestBody,
    insufficient,
};
use crate::openapi::{params, schemas};
use crate::state::App;

/// Characters of a filter on a text that the client chose.
const MAX_FILTER_CHARS: usize = 255;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(post_transaction, list_transactions))
        .routes(routes!(post_batch))
        .routes(routes!(get_transaction))
        .routes(routes!(submit_transaction))
        .routes(routes!(confirm_transaction))
        .routes(routes!(fail_transaction))
        .routes(routes!(cancel_transaction))
        .routes(routes!(list_transaction_history))
}

/// Post a transaction
///
/// A session may ask for a withdrawal only, with `status` `pending`.
#[utoipa::path(post, path = "/api/v1/users/{id}/transactions", tag = "transactions",
    params(params::UserPath, params::IdempotencyKeyHeader),
    request_body = schemas::Posting,
    responses(
        (status = 201, description = "Posted, and durable", body = schemas::PostedTransaction,
            headers(("Location" = String), ("Idempotent-Replayed" = bool))),
        (status = 409, description = "`user_not_active`, `client_reference_taken`, `tx_hash_taken`, `idempotency_in_progress`"),
        (status = 422, description = "`validation_failed`, `insufficient_funds`, `insufficient_shares`, `amount_overflow`, `unknown_asset`, `idempotency_key_reused`"),
    ))]
async fn post_transaction(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let user_id = caller.user(&path, Scope::Money, BySession::Allowed)?;
    query.expect_none()?;
    let body = body.json().await?;
    if caller.as_session().is_some() && !is_request_for_withdrawal(&body) {
        return Err(insufficient(
            "a session may ask for a withdrawal with the status pending only",
        ));
    }
    let address = format!("/api/v1/users/{user_id}/transactions");
    let key = key.for_request(&address, &body)?;
    let request = PostRequest::read(body, "")?;
    let outcome = app
        .platform()
        .ledger()
        .post(&caller.context(), user_id, request, Some(key))
        .await?;
    let created = match &outcome.answer.result {
        Ok(posted) => Some(format!("{address}/{}", posted.transaction.id)),
        Err(_) => None,
    };
    let response = show(StatusCode::CREATED, outcome)?;
    match created {
        Some(address) => located(response, &address),
        None => Ok(response),
    }
}

fn is_request_for_withdrawal(body: &Value) -> bool {
    let is = |field: &str, word: &str| body.get(field).and_then(Value::as_str) == Some(word);
    is("type", TransactionType::Withdraw.as_str())
        && is("status", TransactionStatus::Pending.as_str())
}

/// Post many transactions
///
/// `atomic`: all or none. Otherwise faulty items fail alone, and each item commits with its own part of the
/// key, so that a retry finishes what is missing: an item with `store_unavailable`, `overloaded` or `outcome_unknown`
/// was not done, or may not have been, while others were; send the whole batch again with the same key. One with
/// `internal` failed by itself, and its user's items after it were not tried.
#[utoipa::path(post, path = "/api/v1/transactions/batch", tag = "transactions",
    params(params::IdempotencyKeyHeader),
    request_body = schemas::Batch,
    responses(
        (status = 200, description = "The results, in the order of the items", body = schemas::BatchResults,
            headers(("Idempotent-Replayed" = bool))),
        (status = 409, description = "`idempotency_in_progress`"),
        (status = 422, description = "`validation_failed`, `batch_failed`, `idempotency_key_reused`"),
    ))]
async fn post_batch(
    State(app): State<App>,
    caller: Caller,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Money)?;
    query.expect_none()?;
    let (body, numbers) = body.batch().await?.into_parts();
    let key = key.for_request("/api/v1/transactions/batch", &body)?;
    let request = read_batch(body, numbers)?;
    let context = caller.context();
    match app.platform().ledger().batch(&context, request, key).await {
        Ok(answer) => show_batch(answer),
        // Of an atomic batch: of others, such items fail alone.
        Err(ledger::Error::Invalid(faults)) => Err(faulty_batch(faults, &context.request_id)),
        Err(error) => Err(error.into()),
    }
}

/// A user's transactions
#[utoipa::path(get, path = "/api/v1/users/{id}/transactions", tag = "transactions",
    params(params::UserPath, params::TransactionFilters, params::PageParams),
    responses((status = 200, description = "Newest first", body = schemas::TransactionList)))]
async fn list_transactions(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let user_id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let filter = TransactionFilter {
        kind: query.parse(
            "type",
            "deposit, withdraw, yield_harvest or referral_bonus",
            TransactionType::from_name,
        )?,
        status: query.parse(
            "status",
            "pending, confirmed, failed or cancelled",
            TransactionStatus::from_name,
        )?,
        asset: query.parse("asset", "1 to 12 of A-Z0-9", Asset::parse)?,
        from: query.time("from")?,
        to: query.time("to")?,
        client_reference: query.text("client_reference", MAX_FILTER_CHARS)?,
        tx_hash: query.text("tx_hash", MAX_FILTER_CHARS)?,
    };
    let filters = format!("transactions\n{user_id}\n{filter:?}");
    let pagination = Pagination::<TransactionId>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .ledger()
        .transactions(user_id, &filter, &pagination.page())
        .await?;
    let rows = rows.ok_or_else(Problem::not_found)?;
    let list = pagination.list(rows, |last| last.id, |row| row)?;
    answer::json(StatusCode::OK, &list)
}

/// One transaction
#[utoipa::path(get, path = "/api/v1/users/{id}/transactions/{tx}", tag = "transactions",
    params(params::TransactionPath),
    responses((status = 200, description = "As it is now", body = schemas::Transaction)))]
async fn get_transaction(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let user_id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let id = path.transaction_id()?;
    query.expect_none()?;
    let found = app.platform().ledger().transaction(user_id, id).await?;
    answer::json(StatusCode::OK, &found.ok_or_else(Problem::not_found)?)
}

/// A pending withdrawal is on its way
///
/// From here on it does not expire, and a session cannot cancel it.
#[utoipa::path(post, path = "/api/v1/users/{id}/transactions/{tx}/submit", tag = "transactions",
    params(params::TransactionPath, params::IdempotencyKeyHeader),
    request_body = Option<schemas::Submission>,
    responses(
        (status = 200, description = "Submitted", body = schemas::PostedTransaction,
            headers(("Idempotent-Replayed" = bool))),
        (status = 409, description = "`invalid_transition`, `tx_hash_taken`, `idempotency_in_progress`"),
    ))]
async fn submit_transaction(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let user_id = caller.user(&path, Scope::Money, BySession::Refused)?;
    let id = path.transaction_id()?;
    query.expect_none()?;
    let body = body.json_or_empty().await?;
    let address = format!("/api/v1/users/{user_id}/transactions/{id}/submit");
    let key = key.for_request(&address, &body)?;
    let request = SendOut::read(body, "")?;
    let outcome = app
        .platform()
        .ledger()
        .submit(&caller.context(), user_id, id, request, Some(key))
        .await?;
    show(StatusCode::OK, outcome)
}

/// Confirm a pending transaction
#[utoipa::path(post, path = "/api/v1/users/{id}/transactions/{tx}/confirm", tag = "transactions",
    params(params::TransactionPath, params::IdempotencyKeyHeader),
    request_body = Option<schemas::SettleRequest>,
    responses(
        (status = 200, description = "Confirmed", body = schemas::PostedTransaction,
            headers(("Idempotent-Replayed" = bool))),
        (status = 409, description = "`invalid_transition`, `tx_hash_taken`, `idempotency_in_progress`"),
    ))]
async fn confirm_transaction(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let user_id = caller.user(&path, Scope::Money, BySession::Refused)?;
    query.expect_none()?;
    settle(
        state,
        &caller,
        user_id,
        &path,
        Settlement::Confirm,
        key,
        body,
    )
    .await
}

/// A pending transaction failed
#[utoipa::path(post, path = "/api/v1/users/{id}/transactions/{tx}/fail", tag = "transactions",
    params(params::TransactionPath, params::IdempotencyKeyHeader),
    request_body = Option<schemas::SettleRequest>,
    responses(
        (status = 200, description = "Failed; what was held is given back", body = schemas::PostedTransaction,
            headers(("Idempotent-Replayed" = bool))),
        (status = 409, description = "`invalid_transition`, `tx_hash_taken`, `idempotency_in_progress`"),
    ))]
async fn fail_transaction(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let user_id = caller.user(&path, Scope::Money, BySession::Refused)?;
    query.expect_none()?;
    settle(state, &caller, user_id, &path, Settlement::Fail, key, body).await
}

/// Cancel a pending transaction
///
/// A session may cancel a withdrawal of its user until that is submitted.
#[utoipa::path(post, path = "/api/v1/users/{id}/transactions/{tx}/cancel", tag = "transactions",
    params(params::TransactionPath, params::IdempotencyKeyHeader),
    request_body = Option<schemas::SettleRequest>,
    responses(
        (status = 200, description = "Cancelled; what was held is given back", body = schemas::PostedTransaction,
            headers(("Idempotent-Replayed" = bool))),
        (status = 409, description = "`invalid_transition`, `tx_hash_taken`, `idempotency_in_progress`"),
    ))]
async fn cancel_transaction(
    state: State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let user_id = caller.user(&path, Scope::Money, BySession::Allowed)?;
    query.expect_none()?;
    if caller.as_session().is_some() {
        // The type of a transaction never changes, so it can be looked at before.
        let id = path.transaction_id()?;
        let found = state.platform().ledger().transaction(user_id, id).await?;
        if found.ok_or_else(Problem::not_found)?.kind != TransactionType::Withdraw {
            return Err(insufficient("a session may cancel withdrawals only"));
        }
    }
    settle(
        state,
        &caller,
        user_id,
        &path,
        Settlement::Cancel,
        key,
        body,
    )
    .await
}

async fn settle(
    State(app): State<App>,
    caller: &Caller,
    user_id: UserId,
    path: &PathParams,
    to: Settlement,
    key: IdempotencyKey,
    body: RequestBody,
) -> Result {
    let id = path.transaction_id()?;
    let body = body.json_or_empty().await?;
    let address = format!("/api/v1/users/{user_id}/transactions/{id}/{}", to.verb());
    let key = key.for_request(&address, &body)?;
    let request = abunfi::ledger::SettleRequest::read(body, "")?;
    let only_unsubmitted = caller.as_session().is_some();
    let outcome = app
        .platform()
        .ledger()
        .settle(
            &caller.context(),
            user_id,
            id,
            to,
            request,
            only_unsubmitted,
            Some(key),
        )
        .await?;
    show(StatusCode::OK, outcome)
}

/// The audit trail of a transaction
#[utoipa::path(get, path = "/api/v1/users/{id}/transactions/{tx}/history", tag = "transactions",
    params(params::TransactionPath, params::PageParams),
    responses((status = 200, description = "Newest first", body = schemas::AuditRowList)))]
async fn list_transaction_history(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let user_id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let id = path.transaction_id()?;
    let mut query = query.read()?;
    let filters = format!("transaction history\n{user_id}\n{id}");
    let pagination = Pagination::<i64>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .ledger()
        .transaction_history(user_id, id, &pagination.page())
        .await?;
    // A transaction has a row from the moment it exists.
    if rows.is_empty() && pagination.is_first() {
        return Err(Problem::not_found());
    }
    let list = pagination.list(rows, |last| last.entry.seq, |row| row)?;
    answer::json(StatusCode::OK, &list)
}

fn read_batch(body: Value, numbers: Faults) -> std::result::Result<BatchRequest, Faults> {
    let mut reader = Reader::new(body, "");
    let atomic = reader.take("atomic");
    let atomic = match atomic {
        Some(Value::Bool(atomic)) => Some(atomic),
        Some(Value::Null) | None => {
            reader.fault("atomic", FaultCode::Required, "this field is required");
            None
        }
        Some(other) => {
            let (code, detail) = wrong_type("a boolean", &other);
            reader.fault("atomic", code, detail);
            None
        }
    };
    let mut item_faults: Vec<Faults> = Vec::new();
    let items = match reader.take("transactions") {
        Some(Value::Array(items)) => {
            let count = items.len();
            if count == 0 {
                reader.fault("transactions", FaultCode::TooShort, "at least one item");
            } else if count > MAX_BATCH_ITEMS {
                let detail = format!("at most {MAX_BATCH_ITEMS} items");
                reader.fault("transactions", FaultCode::TooLong, detail);
                return Err(reader.finish().err().unwrap_or_default());
            }
            item_faults.resize(count, Faults::new());
            items
        }
        Some(Value::Null) | None => {
            reader.fault(
                "transactions",
                FaultCode::Required,
                "this field is required",
            );
            Vec::new()
        }
        Some(other) => {
            let (code, detail) = wrong_type("an array", &other);
            reader.fault("transactions", code, detail);
            Vec::new()
        }
    };
    for fault in numbers {
        match item_of(&fault.pointer).and_then(|index| item_faults.get_mut(index)) {
            Some(faults) => faults.push(fault),
            None => reader.absorb(fault.into()),
        }
    }
    reader.finish()?;
    let items = items
        .into_iter()
        .zip(item_faults)
        .enumerate()
        .map(|(index, (item, faults))| read_item(index, item, faults))
        .collect();
    Ok(BatchRequest {
        atomic: super::fields::present(atomic)?,
        items,
    })
}

/// The refusal of an atomic batch with faulty items: the first of them as `error`, and the faults of all.
fn faulty_batch(faults: Faults, request_id: &str) -> Problem {
    let first = faults
        .iter()
        .filter_map(|fault| item_of(&fault.pointer))
        .min();
    let Some(first) = first else {
        return faults.into();
    };
    let mut own = Faults::new();
    for fault in &faults {
        if item_of(&fault.pointer) == Some(first) {
            own.push(fault.clone());
        }
    }
    Problem::batch_failed(first, &own.into(), request_id).with_member("errors", json!(faults))
}

/// The item of a batch that a pointer leads into.
fn item_of(pointer: &str) -> Option<usize> {
    let rest = pointer.strip_prefix("/transactions/")?;
    rest.split('/').next()?.parse().ok()
}

/// One item: `user_id` beside the fields of a posting. Its pointers begin at the whole body.
fn read_item(
    index: usize,
    item: Value,
    faults: Faults,
) -> std::result::Result<(UserId, PostRequest), Faults> {
    let mut reader = Reader::new(item, &format!("/transactions/{index}"));
    reader.absorb(faults);
    let user_id = reader.required("user_id", |text| {
        text.parse().or(Err((
            FaultCode::BadFormat,
            "must be the id of a user".to_owned(),
        )))
    });
    let request = PostRequest::read_from(reader)?;
    Ok((super::fields::present(user_id)?, request))
}

/// The answer to a posting or a settlement: the same bytes whenever it is given.
fn show(status: StatusCode, outcome: Outcome) -> Result {
    let Outcome { answer, replayed } = outcome;
    match answer.result {
        Ok(posted) => Ok(mark_replayed(answer::json(status, &posted)?, replayed)),
        Err(refusal) => Err(Problem::from(refusal)
            .with_request_id(&answer.request_id)
            .replayed(replayed)),
    }
}

fn mark_replayed(mut response: Response, replayed: bool) -> Response {
    if replayed {
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, yes);
    }
    response
}

fn show_batch(batch: BatchAnswer) -> Result {
    let request_id = &batch.request_id;
    let refused = |problem: Problem| ItemShown::Error(problem.to_value(request_id));
    let mut results = Vec::with_capacity(batch.results.len());
    for (index, result) in batch.results.into_iter().enumerate() {
        results.push(match result {
            ItemResult::Posted(posted) => ItemShown::Transaction(posted),
            ItemResult::Refused(Refusal::Expired) => {
                refused(Problem::expired(&format!("/transactions/{index}")))
            }
            ItemResult::Refused(refusal) => refused(refusal.into()),
            ItemResult::Invalid(faults) => refused(faults.into()),
            ItemResult::Failed(error) => refused(error.into()),
        });
    }
    let response = answer::json(StatusCode::OK, &BatchShown { results })?;
    Ok(mark_replayed(response, batch.replayed))
}

/// The answer to a batch as it is written: straight from what was posted, since a tree of a thousand
/// transactions in between would take longer than deciding them.
#[derive(Serialize)]
struct BatchShown {
    results: Vec<ItemShown>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ItemShown {
    Transaction(Box<Posted>),
    Error(Value),
}
