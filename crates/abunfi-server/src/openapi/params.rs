//! Parameters and headers of requests, for the description only.
#![allow(
    dead_code,
    reason = "these types describe; nothing is ever made of them"
)]

use utoipa::IntoParams;
use uuid::Uuid;

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct UserPath {
    /// The user.
    id: Uuid,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TransactionPath {
    /// The user.
    id: Uuid,
    /// The transaction.
    tx: Uuid,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SessionPath {
    /// The user.
    id: Uuid,
    /// The session.
    sid: Uuid,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct AssetPath {
    /// 1–12 of `A-Z0-9`.
    #[param(pattern = "^[A-Z0-9]{1,12}$", example = "VND")]
    asset: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct NamespacePath {
    /// 1–200 of `A-Za-z0-9._:-`.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,200}$", example = "experiments")]
    namespace: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EntryPath {
    /// 1–200 of `A-Za-z0-9._:-`.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,200}$", example = "experiments")]
    namespace: String,
    /// 1–200 of `A-Za-z0-9._:-`.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,200}$", example = "onboarding.v2")]
    key: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TempPath {
    /// 1–200 of `A-Za-z0-9._:-`.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,200}$", example = "otp:84901234567")]
    key: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PolicyPath {
    /// A policy of the configuration.
    #[param(example = "login")]
    policy: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Rows of the page.
    #[param(minimum = 1, maximum = 200, default = 50, required = false)]
    limit: u32,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserLookup {
    /// Compared without case.
    email: Option<String>,
    /// Compared without case.
    wallet_address: Option<String>,
    /// E.164; a leading blank counts as `+`.
    phone: Option<String>,
    /// Compared without case.
    referral_code: Option<String>,
    /// `provider:id`.
    #[param(example = "google:123")]
    social: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CacheParam {
    /// `false` reads the stores.
    #[param(default = true, required = false)]
    cache: bool,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AtParam {
    /// The balances as they were at this time, changes at that very time included. Accounts that came with
    /// the user are there since it was created, with zeros; others at the latest since their first change. Before the
    /// user was created the list is empty.
    #[param(format = DateTime)]
    at: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChainParam {
    /// `user`, or an asset.
    #[param(example = "VND")]
    chain: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TransactionFilters {
    /// `deposit`, `withdraw`, `yield_harvest` or `referral_bonus`.
    r#type: Option<String>,
    /// `pending`, `confirmed`, `failed` or `cancelled`.
    status: Option<String>,
    asset: Option<String>,
    /// Created at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Created before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    client_reference: Option<String>,
    tx_hash: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PrefixParam {
    /// Keys that begin so.
    prefix: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TtlParam {
    /// Seconds until it goes.
    #[param(minimum = 1)]
    ttl: Option<u64>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogFilters {
    /// This level and above: `trace`, `debug`, `info`, `warn` or `error`.
    level: Option<String>,
    target: Option<String>,
    request_id: Option<String>,
    /// At this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// In the message, without regard to case.
    q: Option<String>,
}

/// One of the two.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CacheTarget {
    /// Everything with this tag.
    tag: Option<String>,
    /// This entry.
    key: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IdempotencyKeyHeader {
    /// 1–255 visible ASCII characters: the same key with the same body gives the same answer.
    #[param(rename = "Idempotency-Key", max_length = 255, min_length = 1)]
    idempotency_key: String,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct ReadConditions {
    /// A tag that the client has: 304 when it is still the one.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct WriteConditions {
    /// The tag that must be there, else 412.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// `*`: create only, else 412.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}
