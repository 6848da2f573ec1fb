//! Balances, the audit trail, statistics, the books.

use abunfi::audit::{HistoryCursor, USER_CHAIN};
use abunfi::keys::Scope;
use abunfi::ledger::Asset;
use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Data, json};
use crate::error::{Problem, Result};
use crate::extract::{BySession, Caller, Pagination, PathParams, QueryString};
use crate::openapi::{params, schemas};
use crate::state::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_balances))
        .routes(routes!(list_history))
        .routes(routes!(show_stats))
        .routes(routes!(show_trial_balance))
}

/// A user's balances
///
/// Always from the authority, never from a cache. With `at`, as they were at that time.
#[utoipa::path(get, path = "/api/v1/users/{id}/balances", tag = "ledger",
    params(params::UserPath, params::AtParam),
    responses((status = 200, description = "Ordered by asset", body = schemas::BalanceList)))]
async fn list_balances(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let at = query.time("at")?;
    query.finish()?;
    let ledger = app.platform().ledger();
    let balances = match at {
        None => ledger.balances(id).await?,
        Some(at) => ledger.balances_at(id, at).await?,
    };
    let data = balances.ok_or_else(Problem::not_found)?;
    json(StatusCode::OK, &Data { data })
}

/// A user's audit trail
///
/// All chains by time, or one of them by its own count (`user` for status and identity checks, else the
/// asset). Newest first.
#[utoipa::path(get, path = "/api/v1/users/{id}/history", tag = "ledger",
    params(params::UserPath, params::ChainParam, params::PageParams),
    responses((status = 200, description = "A page of audit rows", body = schemas::AuditRowList)))]
async fn list_history(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    let mut query = query.read()?;
    let chain = query.parse("chain", "`user` or an asset", |value| {
        let is_chain = value == USER_CHAIN || Asset::parse(value).is_some();
        is_chain.then(|| value.to_owned())
    })?;
    let filters = format!("history\n{id}\n{}", chain.as_deref().unwrap_or_default());
    let pagination = Pagination::<HistoryCursor>::read(&mut query, filters)?;
    query.finish()?;
    let rows = app
        .platform()
        .ledger()
        .history(id, chain.as_deref(), &pagination.page())
        .await?;
    let rows = rows.ok_or_else(Problem::not_found)?;
    let list = pagination.list(
        rows,
        |last| HistoryCursor {
            at: last.entry.at,
            chain: last.entry.chain.clone(),
            seq: last.entry.seq,
        },
        |row| row,
    )?;
    json(StatusCode::OK, &list)
}

/// Statistics of a user's transactions
///
/// Over the last six months: by type and status, and by month.
#[utoipa::path(get, path = "/api/v1/users/{id}/transactions/stats", tag = "ledger",
    params(params::UserPath),
    responses((status = 200, description = "Counts and sums", body = schemas::TransactionStats)))]
async fn show_stats(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
) -> Result {
    let id = caller.user(&path, Scope::Read, BySession::Allowed)?;
    query.expect_none()?;
    let stats = app.platform().ledger().stats(id).await?;
    json(StatusCode::OK, &stats.ok_or_else(Problem::not_found)?)
}

/// The books
///
/// Per asset: what users hold, each system account, and their sum, which is always zero.
#[utoipa::path(get, path = "/api/v1/ledger/trial-balance", tag = "ledger",
    responses((status = 200, description = "One row per asset", body = schemas::TrialBalanceList)))]
async fn show_trial_balance(State(app): State<App>, caller: Caller, query: QueryString) -> Result {
    caller.require(Scope::Operate)?;
    query.expect_none()?;
    let data = app.platform().ledger().trial_balance().await?;
    json(StatusCode::OK, &Data { data })
}
