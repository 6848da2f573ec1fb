//! Limits on the platform's own routes: off unless the configuration names a policy.

use abunfi::rate_limit::Decision;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::error::{Code, Problem, Result};
use crate::state::App;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The `RateLimit` headers of an answer, left among the request's parts for the way back.
pub(crate) type LimitHeaders = [(HeaderName, HeaderValue); 2];

/// Charges one request to `key` under `policy`.
///
/// # Errors
/// 429 with `Retry-After`, `RateLimit` and `RateLimit-Policy`.
pub(crate) async fn charge(app: &App, policy: &str, key: &str, parts: &Parts) -> Result<()> {
    let limits = app.platform().rate_limits();
    let decision = limits.check(policy, &format!("http:{key}"), 1).await?;
    let period = limits
        .policy(policy)
        .map_or(0, |policy| policy.period_seconds);
    let headers = headers(policy, period, &decision)?;
    if decision.allowed {
        if let Some(slot) = parts.extensions.get::<super::request::LimitSlot>() {
            slot.set(headers);
        }
        return Ok(());
    }
    let problem = Problem::new(
        Code::RateLimited,
        format!(
            "{} requests in {period} seconds are allowed",
            decision.limit
        ),
    );
    let problem = headers.into_iter().fold(problem, |problem, (name, value)| {
        problem.with_header(name, value)
    });
    Err(problem.with_retry_after(decision.retry_after))
}

fn headers(policy: &str, period: u32, decision: &Decision) -> Result<LimitHeaders> {
    let Decision {
        limit,
        remaining,
        reset_after,
        ..
    } = decision;
    let value = |text: String| HeaderValue::from_str(&text).map_err(Problem::internal);
    Ok([
        (
            RATE_LIMIT,
            value(format!("\"{policy}\";r={remaining};t={reset_after}"))?,
        ),
        (
            RATE_LIMIT_POLICY,
            value(format!("\"{policy}\";q={limit};w={period}"))?,
        ),
    ])
}
