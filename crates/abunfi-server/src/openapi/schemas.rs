//! Shapes of bodies, for the description only: the library's types know nothing of OpenAPI. The contract
//! tests hold real answers against these.
#![allow(
    dead_code,
    reason = "these types describe; nothing is ever made of them"
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// A decimal string below 10¹² with at most 6 decimals.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = r"^\d{1,12}(\.\d{1,6})?$", examples("1500000", "0.5"))]
pub(crate) struct Amount(String);

/// A decimal string, perhaps negative.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = r"^-?\d+(\.\d{1,6})?$", examples("-1500000", "0"))]
pub(crate) struct SignedAmount(String);

/// A decimal string below 10¹² with at most 18 decimals.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = r"^\d{1,12}(\.\d{1,18})?$", examples("0.000000000021"))]
pub(crate) struct FineDecimal(String);

/// RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(format = DateTime, examples("2026-11-23T05:09:00.123456Z"))]
pub(crate) struct Time(String);

/// 1–12 of `A-Z0-9`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = "^[A-Z0-9]{1,12}$", examples("VND"))]
pub(crate) struct Asset(String);

/// Any JSON object.
#[derive(Debug, Serialize, ToSchema)]
#[schema(value_type = Object, examples(json!({"plan": "gold"})))]
pub(crate) struct FreeObject(BTreeMap<String, Value>);

/// Any JSON value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"enabled": true})))]
pub(crate) struct AnyJson(Value);

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocialProvider {
    Google,
    Apple,
    Facebook,
    Phone,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Social {
    provider: SocialProvider,
    #[schema(min_length = 1, max_length = 255, examples("123"))]
    id: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({
    "email": "an@example.com", "name": "An", "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "phone": "+84901234567", "social": {"provider": "google", "id": "123"},
    "preferences": {"language": "vi"}, "metadata": {"plan": "gold"}
})))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    #[schema(examples("an@example.com"))]
    email: String,
    #[schema(min_length = 1, max_length = 200, examples("An"))]
    name: String,
    /// An EVM address, its checksum verified when in mixed case.
    wallet_address: Option<String>,
    /// E.164.
    phone: Option<String>,
    social: Option<Social>,
    /// The referral code of another user.
    referred_by: Option<String>,
    preferences: Option<Preferences>,
    metadata: Option<FreeObject>,
}

/// Fields that are left out stay; `null` clears `wallet_address`, `phone` and `social`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"name": "An Nguyen", "phone": null})))]
#[serde(deny_unknown_fields)]
pub(crate) struct UserPatch {
    name: Option<String>,
    email: Option<String>,
    wallet_address: Option<String>,
    phone: Option<String>,
    social: Option<Social>,
    status: Option<UserStatus>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UserStatus {
    Active,
    Suspended,
    Closed,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KycStatus {
    Pending,
    Verified,
    Rejected,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"status": "verified", "data": {"level": 2}, "reason": "passport checked"})))]
#[serde(deny_unknown_fields)]
pub(crate) struct KycRequest {
    status: KycStatus,
    /// Replaces what is there; left out, that stays.
    data: Option<FreeObject>,
    #[schema(max_length = 1000)]
    reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Kyc {
    status: KycStatus,
    data: FreeObject,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Referral {
    #[schema(examples("K7M2Q9XA"))]
    code: String,
    /// The user who referred this one.
    #[schema(required)]
    referred_by: Option<Uuid>,
    count: i64,
}

/// Other keys are free.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"language": "vi", "currency": "VND", "notifications": {"email": true, "push": true, "sms": false}})))]
pub(crate) struct Preferences {
    /// `vi` or `en`.
    language: Option<String>,
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: Option<String>,
    notifications: Option<BTreeMap<String, bool>>,
}

/// The hybrid user: what all three stores know, as one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct User {
    id: Uuid,
    email: String,
    name: String,
    #[schema(required)]
    wallet_address: Option<String>,
    #[schema(required)]
    phone: Option<String>,
    #[schema(required)]
    social: Option<Social>,
    status: UserStatus,
    kyc: Kyc,
    referral: Referral,
    balances: Vec<Balance>,
    preferences: Preferences,
    metadata: FreeObject,
    /// Covers the fields that `PATCH` and KYC change.
    version: i64,
    created_at: Time,
    updated_at: Time,
    /// The stores that are away; absent when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<Vec<String>>,
    /// For the parts that are not current; absent when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    document_state: Option<DocumentStates>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentStates {
    #[serde(skip_serializing_if = "Option::is_none")]
    preferences: Option<DocumentState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<DocumentState>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentState {
    state: Freshness,
    /// When what is shown was known to be right.
    #[schema(required)]
    as_of: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Freshness {
    Current,
    Pending,
    Stale,
    Default,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserList {
    data: Vec<User>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReferralRow {
    user_id: Uuid,
    created_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Referrals {
    code: String,
    count: i64,
    data: Vec<ReferralRow>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Balance {
    asset: Asset,
    available: Amount,
    locked: Amount,
    total: Amount,
    shares: Amount,
    locked_shares: Amount,
    share_price: Amount,
    total_yield_earned: Amount,
    #[schema(required)]
    last_yield_at: Option<Time>,
    version: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BalanceList {
    data: Vec<Balance>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TransactionType {
    Deposit,
    Withdraw,
    YieldHarvest,
    ReferralBonus,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TransactionStatus {
    Pending,
    Confirmed,
    Failed,
    Cancelled,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FirstStatus {
    Pending,
    Confirmed,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"type": "deposit", "amount": "1500000", "shares": "1.5", "client_reference": "order-1"})))]
#[serde(deny_unknown_fields)]
pub(crate) struct Posting {
    r#type: TransactionType,
    /// Above zero.
    amount: Amount,
    /// The default asset unless given.
    asset: Option<Asset>,
    /// `confirmed` unless given.
    status: Option<FirstStatus>,
    /// Vault shares bought or redeemed.
    shares: Option<Amount>,
    /// Pending withdrawals only: unless submitted, cancelled within about a second after it.
    expires_at: Option<Time>,
    /// Unique among the user's transactions, for good.
    client_reference: Option<String>,
    /// Unique among the user's transactions of the type, for good.
    tx_hash: Option<String>,
    #[schema(minimum = 0)]
    block_number: Option<i64>,
    #[schema(minimum = 0)]
    gas_used: Option<i64>,
    gas_fee: Option<FineDecimal>,
    #[schema(minimum = 0)]
    confirmations: Option<i64>,
    exchange_rate: Option<FineDecimal>,
    amount_vnd: Option<Amount>,
    metadata: Option<FreeObject>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchItem {
    user_id: Uuid,
    #[serde(flatten)]
    posting: Posting,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// All or none; else faulty items fail alone.
    atomic: bool,
    #[schema(min_items = 1, max_items = 1000)]
    transactions: Vec<BatchItem>,
}

/// One of the two.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<PostedTransaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResults {
    results: Vec<BatchResult>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"tx_hash": "0xabc"})))]
#[serde(deny_unknown_fields)]
pub(crate) struct Submission {
    tx_hash: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"reason": "paid out", "confirmations": 12})))]
#[serde(deny_unknown_fields)]
pub(crate) struct SettleRequest {
    #[schema(max_length = 1000)]
    reason: Option<String>,
    tx_hash: Option<String>,
    #[schema(minimum = 0)]
    block_number: Option<i64>,
    #[schema(minimum = 0)]
    gas_used: Option<i64>,
    gas_fee: Option<FineDecimal>,
    #[schema(minimum = 0)]
    confirmations: Option<i64>,
    #[schema(max_length = 1000)]
    error_message: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transaction {
    id: Uuid,
    user_id: Uuid,
    r#type: TransactionType,
    status: TransactionStatus,
    asset: Asset,
    amount: Amount,
    shares: Amount,
    #[schema(required)]
    expires_at: Option<Time>,
    #[schema(required)]
    submitted_at: Option<Time>,
    #[schema(required)]
    client_reference: Option<String>,
    #[schema(required)]
    tx_hash: Option<String>,
    #[schema(required)]
    block_number: Option<i64>,
    #[schema(required)]
    gas_used: Option<i64>,
    #[schema(required)]
    gas_fee: Option<FineDecimal>,
    confirmations: i64,
    #[schema(required)]
    exchange_rate: Option<FineDecimal>,
    #[schema(required)]
    amount_vnd: Option<Amount>,
    metadata: FreeObject,
    #[schema(required)]
    error_message: Option<String>,
    created_at: Time,
    #[schema(required)]
    confirmed_at: Option<Time>,
}

/// The account right after the change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BalanceAfter {
    asset: Asset,
    available: Amount,
    locked: Amount,
    total: Amount,
    shares: Amount,
    locked_shares: Amount,
    version: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PostedTransaction {
    #[serde(flatten)]
    transaction: Transaction,
    balance: BalanceAfter,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TransactionList {
    data: Vec<Transaction>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActorKind {
    ServiceKey,
    Session,
    System,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Actor {
    kind: ActorKind,
    id: String,
    #[schema(required)]
    session_id: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditRow {
    /// The asset, or `user` for status and identity checks.
    chain: String,
    /// From 1, without gaps.
    seq: i64,
    #[schema(required)]
    transaction_id: Option<Uuid>,
    action: String,
    #[schema(required)]
    previous_status: Option<String>,
    #[schema(required)]
    new_status: Option<String>,
    #[schema(required)]
    amount: Option<Amount>,
    #[schema(required)]
    available_after: Option<Amount>,
    #[schema(required)]
    locked_after: Option<Amount>,
    actor: Actor,
    #[schema(required)]
    reason: Option<String>,
    request_id: String,
    at: Time,
    /// SHA-256 over the row and the hash before it.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    previous_hash: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditRowList {
    data: Vec<AuditRow>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TypeStats {
    r#type: TransactionType,
    status: TransactionStatus,
    count: i64,
    sum: SignedAmount,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MonthStats {
    #[schema(pattern = r"^\d{4}-\d{2}$", examples("2026-11"))]
    month: String,
    r#type: TransactionType,
    count: i64,
    sum: SignedAmount,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TransactionStats {
    by_type: Vec<TypeStats>,
    by_month: Vec<MonthStats>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AssetInfo {
    asset: Asset,
    share_price: Amount,
    version: i64,
    created_at: Time,
    updated_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"share_price": "1000000"})))]
#[serde(deny_unknown_fields)]
pub(crate) struct AssetPrice {
    /// Above zero.
    share_price: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrialBalance {
    asset: Asset,
    users: SignedAmount,
    custody: SignedAmount,
    r#yield: SignedAmount,
    promotions: SignedAmount,
    fees: SignedAmount,
    /// Always `"0"`.
    net: SignedAmount,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrialBalanceList {
    data: Vec<TrialBalance>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DevDataEntry {
    key: String,
    value: AnyJson,
    #[schema(required)]
    expires_at: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DevDataList {
    data: Vec<DevDataEntry>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"level": "info", "target": "app.checkout", "message": "paid", "fields": {"step": 3}})))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLogEntry {
    level: LogLevel,
    #[schema(min_length = 1, max_length = 200)]
    target: String,
    #[schema(min_length = 1)]
    message: String,
    fields: Option<FreeObject>,
    at: Option<Time>,
    #[schema(min_length = 1, max_length = 128)]
    request_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum NewLogEntries {
    One(NewLogEntry),
    Many(Vec<NewLogEntry>),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    accepted: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogEntry {
    id: Uuid,
    at: Time,
    level: LogLevel,
    target: String,
    message: String,
    fields: FreeObject,
    #[schema(required)]
    request_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogEntryList {
    data: Vec<LogEntry>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Dashboard {
    user: User,
    balances: Vec<Balance>,
    /// The last ten.
    transactions: Vec<Transaction>,
    stats: TransactionStats,
    preferences: Preferences,
    generated_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"device": "Pixel 9", "ip": "203.0.113.7", "ttl": 86400})))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSession {
    #[schema(min_length = 1, max_length = 200)]
    device: Option<String>,
    /// An IPv4 or IPv6 address.
    ip: Option<String>,
    /// Seconds.
    #[schema(minimum = 1)]
    ttl: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    id: Uuid,
    user_id: Uuid,
    #[schema(required)]
    device: Option<String>,
    #[schema(required)]
    ip: Option<String>,
    created_at: Time,
    last_seen_at: Time,
    idle_expires_at: Time,
    expires_at: Time,
    /// It is the session that asks.
    current: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenAndSession {
    /// Shown this once.
    #[schema(pattern = "^abs_[A-Za-z0-9_-]{43}$")]
    token: String,
    session: Session,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionList {
    data: Vec<Session>,
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"key": "ip:203.0.113.7", "cost": 1})))]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimitCheck {
    #[schema(min_length = 1, max_length = 200)]
    key: String,
    /// 1 unless given.
    #[schema(minimum = 1)]
    cost: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RateLimitDecision {
    allowed: bool,
    limit: u32,
    remaining: u32,
    /// Seconds; 0 when allowed.
    retry_after: u64,
    /// Seconds until the whole limit is there again.
    reset_after: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({"value": {"code": "314159"}, "ttl": 300})))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTempValue {
    value: AnyJson,
    /// Seconds, at most 30 days.
    #[schema(minimum = 1, maximum = 2_592_000)]
    ttl: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TempValue {
    value: AnyJson,
    expires_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Overall {
    Ok,
    Degraded,
    Down,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DatabaseStatus {
    Connected,
    Degraded,
    Disconnected,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatabaseHealth {
    status: DatabaseStatus,
    /// `postgresql`, `sqlite`, `mongodb`, `redis` or `memory`.
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Databases {
    postgresql: DatabaseHealth,
    mongodb: DatabaseHealth,
    redis: DatabaseHealth,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: Overall,
    databases: Databases,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProbeStatus {
    #[schema(examples("OK"))]
    status: String,
}

/// The newest checkpoint of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckpointFigures {
    /// 0: there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<i64>,
    /// When it was made; `null` without one.
    at: Option<Time>,
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<bool>,
    /// Rows of the trail that wait for the next one, counted up to 10,000; perhaps a few that are covered already.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_waiting: Option<u64>,
    /// In place of all the others while the relational store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Holds past their `expires_at` that are not cancelled yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HoldFigures {
    /// Counted up to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    overdue: Option<u64>,
    /// For how long the oldest has been overdue; 0: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_overdue_seconds: Option<u64>,
    /// In place of all the others while the relational store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Idempotency keys older than they are kept that are not purged yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyFigures {
    /// Counted up to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    past_retention: Option<u64>,
    /// For how long the oldest should have been gone; 0: none should.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_past_retention_seconds: Option<u64>,
    /// In place of all the others while the relational store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Whether the proof is made and the sweeps keep up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LedgerStatistics {
    /// Postings that wait to be committed by this instance.
    waiting: u64,
    checkpoint: CheckpointFigures,
    holds: HoldFigures,
    idempotency_keys: KeyFigures,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Statistics {
    postgres: FreeObject,
    mongodb: FreeObject,
    redis: FreeObject,
    cache: FreeObject,
    sessions: FreeObject,
    rate_limits: FreeObject,
    ledger: LedgerStatistics,
    outbox: FreeObject,
}
