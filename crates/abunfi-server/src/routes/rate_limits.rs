//! Rate limits for other back ends, on the same counters as the platform's own.

use abunfi::json_reader::{FieldError, Reader, text, wrong_type};
use abunfi::keys::Scope;
use abunfi::rate_limit::gcra::MAX_LIMIT;
use abunfi::validation::{FaultCode, Faults};
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::json;
use super::fields::present;
use crate::error::{Problem, Result};
use crate::extract::{Caller, PathParams, QueryString, RequestBody};
use crate::openapi::{params, schemas};
use crate::state::App;

/// Characters of what is counted.
const MAX_KEY_CHARS: usize = 200;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(check_rate_limit))
}

/// Charge a request to a key
///
/// A refusal charges nothing, and is an answer like any other: `allowed` is `false`.
#[utoipa::path(post, path = "/api/v1/rate-limits/{policy}/check", tag = "rate limits",
    params(params::PolicyPath),
    request_body = schemas::RateLimitCheck,
    responses((status = 200, description = "The decision", body = schemas::RateLimitDecision)))]
async fn check_rate_limit(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Write)?;
    let policy = path.get("policy")?;
    let limits = app.platform().rate_limits();
    if limits.policy(policy).is_none() {
        return Err(Problem::not_found());
    }
    query.expect_none()?;
    let (key, cost) = read_check(body.json().await?)?;
    let decision = limits.check(policy, &key, cost).await?;
    json(StatusCode::OK, &decision)
}

fn read_check(body: Value) -> std::result::Result<(String, u32), Faults> {
    let mut reader = Reader::new(body, "");
    let key = reader.required("key", |value| text(value, MAX_KEY_CHARS));
    let cost = reader.optional_value("cost", |value| read_cost(&value));
    reader.finish()?;
    Ok((present(key)?, cost.unwrap_or(1)))
}

fn read_cost(value: &Value) -> std::result::Result<u32, FieldError> {
    if !value.is_i64() && !value.is_u64() {
        return Err(wrong_type("an integer", value));
    }
    value
        .as_u64()
        .and_then(|cost| u32::try_from(cost).ok())
        .filter(|cost| (1..=MAX_LIMIT).contains(cost))
        .ok_or_else(|| (FaultCode::OutOfRange, format!("must be 1 to {MAX_LIMIT}")))
}
