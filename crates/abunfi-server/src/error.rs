//! Problems: every refusal of the HTTP contract, its status and title in one table, and the one place
//! where errors of the library become answers.
//!
//! A handler returns a [`Problem`]; the outermost middleware renders it, since only there the request's
//! id is at hand, and logs its source once.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::Arc;

use abunfi::ledger::Refusal;
use abunfi::users::IdentityKind;
use abunfi::validation::{FaultCode, Faults};
use abunfi::{StoreError, documents, keys, ledger, rate_limit, sessions, temp, users};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// What a handler gives.
pub(crate) type Result<T = Response> = std::result::Result<T, Problem>;

macro_rules! codes {
    ($($variant:ident = $status:ident $code:literal $title:literal,)+) => {
        /// The stable names of all refusals, as clients are written against them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $title] $variant),+ }

        impl Code {
            /// All of them, in the order of their status.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The `code` member.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The status that it comes with.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// The `title` member: the same for all occurrences.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

codes! {
    MalformedJson = BAD_REQUEST "malformed_json" "The body is not JSON",
    TooDeep = BAD_REQUEST "too_deep" "The body is nested too deep",
    InvalidParameter = BAD_REQUEST "invalid_parameter" "A parameter or header is not valid",
    InvalidCursor = BAD_REQUEST "invalid_cursor" "The cursor is not valid",
    CursorMismatch = BAD_REQUEST "cursor_mismatch" "The cursor belongs to another list",
    IdempotencyKeyMissing = BAD_REQUEST "idempotency_key_missing" "An Idempotency-Key is needed",
    IdempotencyKeyInvalid = BAD_REQUEST "idempotency_key_invalid" "The Idempotency-Key is not valid",
    Unauthenticated = UNAUTHORIZED "unauthenticated" "Who asks is not known",
    InsufficientScope = FORBIDDEN "insufficient_scope" "The key or session may not do this",
    NotFound = NOT_FOUND "not_found" "There is no such thing",
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed" "The route has no such method",
    EmailTaken = CONFLICT "email_taken" "The e-mail belongs to another user",
    WalletAddressTaken = CONFLICT "wallet_address_taken" "The wallet address belongs to another user",
    PhoneTaken = CONFLICT "phone_taken" "The phone number belongs to another user",
    SocialTaken = CONFLICT "social_taken" "The social account belongs to another user",
    ClientReferenceTaken = CONFLICT "client_reference_taken" "The client reference is in use",
    TxHashTaken = CONFLICT "tx_hash_taken" "The transaction hash is in use",
    InvalidTransition = CONFLICT "invalid_transition" "The state does not allow this change",
    UserNotActive = CONFLICT "user_not_active" "The user is not active",
    BalanceNotZero = CONFLICT "balance_not_zero" "The user still has a balance or something pending",
    IdempotencyInProgress = CONFLICT "idempotency_in_progress" "The first request with this key still runs",
    VersionMismatch = PRECONDITION_FAILED "version_mismatch" "The version is another one",
    BodyTooLarge = PAYLOAD_TOO_LARGE "body_too_large" "The body is too large",
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body's type is not taken here",
    ValidationFailed = UNPROCESSABLE_ENTITY "validation_failed" "The request is not valid",
    InsufficientFunds = UNPROCESSABLE_ENTITY "insufficient_funds" "Not enough is available",
    InsufficientShares = UNPROCESSABLE_ENTITY "insufficient_shares" "Not enough shares are available",
    AmountOverflow = UNPROCESSABLE_ENTITY "amount_overflow" "The balance would become too large",
    UnknownAsset = UNPROCESSABLE_ENTITY "unknown_asset" "There is no such asset",
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency_key_reused" "The key was used for another request",
    BatchFailed = UNPROCESSABLE_ENTITY "batch_failed" "An item of the batch failed, and nothing was done",
    RateLimited = TOO_MANY_REQUESTS "rate_limited" "Too many requests",
    Internal = INTERNAL_SERVER_ERROR "internal" "The service made a mistake",
    StoreUnavailable = SERVICE_UNAVAILABLE "store_unavailable" "A store is away; nothing was done",
    OutcomeUnknown = SERVICE_UNAVAILABLE "outcome_unknown" "It may or may not be done",
    Overloaded = SERVICE_UNAVAILABLE "overloaded" "Too much is going on; nothing was done",
}

/// Where a code is explained: a URN, since a service on the user's own machine has no address that is
/// the same everywhere.
const TYPE_PREFIX: &str = "urn:abunfi:problem:";

/// On the answer to a request whose key was answered before.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Seconds after which a store that is away is worth another try: about as long as a circuit breaker
/// stays open.
const RETRY_STORE_SECONDS: u64 = 2;
/// Seconds after which a request that is still running, or whose outcome is unknown, is worth asking
/// for again.
const RETRY_SOON_SECONDS: u64 = 1;

/// A refusal, on its way to the client. Boxed, since a `Result` is as large as its error.
#[derive(Debug, Clone)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    /// Members of this code alone (`errors`, `available`, `from`, …).
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The id of the request that was refused first, when this is a replay.
    request_id: Option<String>,
    /// For the log, never for the client.
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Problem {
    #[must_use]
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            members: Map::new(),
            headers: Vec::new(),
            request_id: None,
            source: None,
        }))
    }

    /// The refusal of a thing that is not there, or that the caller must not learn of.
    #[must_use]
    pub(crate) fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing at this address")
    }

    #[must_use]
    pub(crate) fn invalid_parameter(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidParameter, detail)
    }

    #[must_use]
    pub(crate) fn unauthenticated(detail: &'static str) -> Self {
        Self::new(Code::Unauthenticated, detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    #[must_use]
    pub(crate) fn validation(faults: &Faults) -> Self {
        let count = faults.len();
        let detail = if count == 1 {
            "the body has a fault".to_owned()
        } else {
            format!("the body has {count} faults")
        };
        Self::new(Code::ValidationFailed, detail).with_member("errors", json!(faults))
    }

    /// A 412; the version that is there, when there is one.
    #[must_use]
    pub(crate) fn version_mismatch(current: Option<i64>) -> Self {
        let problem = Self::new(
            Code::VersionMismatch,
            "what is there is not what the precondition names",
        );
        match current {
            Some(current) => problem.with_member("current", json!(current)),
            None => problem,
        }
    }

    /// A bug of ours; only its id reaches the client.
    #[must_use]
    pub(crate) fn internal(source: impl StdError + Send + Sync + 'static) -> Self {
        Self::new(
            Code::Internal,
            "please report this with the id of the request",
        )
        .with_source(source)
    }

    #[must_use]
    pub(crate) fn with_member(mut self, name: &str, value: Value) -> Self {
        self.0.members.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    #[must_use]
    pub(crate) fn with_retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    #[must_use]
    pub(crate) fn with_request_id(mut self, request_id: &str) -> Self {
        self.0.request_id = Some(request_id.to_owned());
        self
    }

    #[must_use]
    fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Which refusal it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The problem as JSON. `request_id` counts unless this replays an earlier answer.
    #[must_use]
    pub(crate) fn to_value(&self, request_id: &str) -> Value {
        let Inner { code, .. } = *self.0;
        let mut problem = Map::new();
        problem.insert(
            "type".to_owned(),
            format!("{TYPE_PREFIX}{}", code.as_str()).into(),
        );
        problem.insert("title".to_owned(), code.title().into());
        problem.insert("status".to_owned(), code.status().as_u16().into());
        problem.insert("detail".to_owned(), self.0.detail.as_ref().into());
        problem.insert("code".to_owned(), code.as_str().into());
        let request_id = self.0.request_id.as_deref().unwrap_or(request_id);
        problem.insert("request_id".to_owned(), request_id.into());
        problem.extend(self.0.members.clone());
        Value::Object(problem)
    }

    /// The whole answer, and a line in the log about its source.
    #[must_use]
    pub(crate) fn render(&self, request_id: &str) -> Response {
        self.log(request_id);
        let body = self.to_value(request_id).to_string();
        let mut response = (self.0.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        for (name, value) in &self.0.headers {
            headers.append(name.clone(), value.clone());
        }
        response
    }

    fn log(&self, request_id: &str) {
        let code = self.0.code.as_str();
        match (self.0.code.status().as_u16(), &self.0.source) {
            (500, Some(source)) => {
                tracing::error!(code, request_id, error = %source, "a request met a bug");
            }
            (503, Some(source)) => {
                tracing::warn!(code, request_id, error = %source, "a request was not done");
            }
            _ => {}
        }
    }
}

/// The outermost middleware takes the problem out and [renders](Problem::render) it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let store = error.store();
        let problem = match &error {
            StoreError::Unavailable { .. } => Self::new(
                Code::StoreUnavailable,
                format!("{store} does not answer; nothing was done"),
            )
            .with_retry_after(RETRY_STORE_SECONDS),
            StoreError::OutcomeUnknown { .. } => Self::new(
                Code::OutcomeUnknown,
                format!("{store} was told and its answer was lost; ask again with the same key"),
            )
            .with_retry_after(RETRY_SOON_SECONDS),
            StoreError::Overloaded { retry_after, .. } => Self::new(
                Code::Overloaded,
                format!("{store} has too much to do; nothing was done"),
            )
            .with_retry_after(retry_after.as_secs().max(RETRY_SOON_SECONDS)),
            // It was repeated as often as makes sense: the row is hot.
            StoreError::Conflict { .. } => Self::new(
                Code::Overloaded,
                "too many change the same thing at once; nothing was done",
            )
            .with_retry_after(RETRY_SOON_SECONDS),
            StoreError::InsideTransaction { .. } | StoreError::Unexpected { .. } => {
                return Self::internal(error);
            }
        };
        problem.with_source(error)
    }
}

impl From<Faults> for Problem {
    fn from(faults: Faults) -> Self {
        Self::validation(&faults)
    }
}

impl From<users::Error> for Problem {
    fn from(error: users::Error) -> Self {
        match error {
            users::Error::NotFound => Self::not_found(),
            users::Error::Invalid(faults) => faults.into(),
            users::Error::IdentityTaken(kind) => Self::identity_taken(kind),
            users::Error::UnknownReferralCode => {
                let mut faults = Faults::new();
                faults.add(
                    "/referred_by",
                    FaultCode::NotAllowed,
                    "nobody has this referral code",
                );
                faults.into()
            }
            users::Error::VersionMismatch { current } => Self::version_mismatch(Some(current)),
            users::Error::InvalidTransition { from, to } => {
                Self::invalid_transition(from.as_str(), to.as_str())
            }
            users::Error::BalanceNotZero => Self::new(
                Code::BalanceNotZero,
                "only a user with zero balances and nothing pending can be closed",
            ),
            users::Error::Documents(error) => error.into(),
            users::Error::Store(error) => error.into(),
        }
    }
}

impl Problem {
    fn identity_taken(kind: IdentityKind) -> Self {
        let code = match kind {
            IdentityKind::Email => Code::EmailTaken,
            IdentityKind::WalletAddress => Code::WalletAddressTaken,
            IdentityKind::Phone => Code::PhoneTaken,
            IdentityKind::Social => Code::SocialTaken,
            // Codes are drawn by the platform until one is free.
            IdentityKind::ReferralCode => Code::Internal,
        };
        Self::new(code, "it is compared without regard to case or spelling")
    }

    fn invalid_transition(from: &str, to: &str) -> Self {
        Self::new(
            Code::InvalidTransition,
            format!("what is {from} cannot become {to}"),
        )
        .with_member("from", from.into())
        .with_member("to", to.into())
    }
}

impl From<ledger::Error> for Problem {
    fn from(error: ledger::Error) -> Self {
        match error {
            ledger::Error::Refused(refusal) => refusal.into(),
            ledger::Error::Invalid(faults) => faults.into(),
            ledger::Error::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "the first request with this key had another body",
            ),
            ledger::Error::IdempotencyInProgress => Self::new(
                Code::IdempotencyInProgress,
                "ask again with the same key for its answer",
            )
            .with_retry_after(RETRY_SOON_SECONDS),
            ledger::Error::BatchFailed {
                index,
                refusal,
                request_id,
                replayed,
            } => match refusal {
                Refusal::Expired => Self::batch_expired(index, &request_id),
                refusal => {
                    Self::batch_failed(index, &Self::from(refusal), &request_id).replayed(replayed)
                }
            },
            ledger::Error::VersionMismatch { current } => Self::version_mismatch(current),
            ledger::Error::AssetNotFound => Self::not_found(),
            ledger::Error::Store(error) => error.into(),
        }
    }
}

impl Problem {
    /// The refusal of a whole batch because of one item; `request_id` is that of the first answer.
    pub(crate) fn batch_failed(index: usize, item: &Self, request_id: &str) -> Self {
        Self::new(
            Code::BatchFailed,
            format!("item {index} failed first; nothing of the batch was done"),
        )
        .with_member("index", json!(index))
        .with_member("error", item.to_value(request_id))
        .with_request_id(request_id)
    }

    /// Says that this was answered before.
    #[must_use]
    pub(crate) fn replayed(self, replayed: bool) -> Self {
        if replayed {
            self.with_header(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"))
        } else {
            self
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UserNotFound | Refusal::TransactionNotFound => Self::not_found(),
            Refusal::UserNotActive { status } => Self::new(
                Code::UserNotActive,
                format!("the user is {status}; new postings need an active user"),
            ),
            Refusal::UnknownAsset { .. } => {
                Self::new(Code::UnknownAsset, "no asset of this name was created")
            }
            Refusal::InsufficientFunds { available } => Self::new(
                Code::InsufficientFunds,
                "the amount is above what is available",
            )
            .with_member("available", json!(available)),
            Refusal::InsufficientShares { available } => Self::new(
                Code::InsufficientShares,
                "the shares are above what is available",
            )
            .with_member("available", json!(available)),
            Refusal::AmountOverflow => Self::new(
                Code::AmountOverflow,
                "amounts and balances stay below 1000000000000",
            ),
            Refusal::ClientReferenceTaken => Self::new(
                Code::ClientReferenceTaken,
                "another transaction of the user has it, for good",
            ),
            Refusal::TxHashTaken => Self::new(
                Code::TxHashTaken,
                "another transaction of the user and type has it, for good",
            ),
            Refusal::InvalidTransition { from, to } => {
                Self::invalid_transition(from.as_str(), to.as_str())
            }
            Refusal::Expired => Self::expired(""),
        }
    }
}

impl Problem {
    /// A hold that would have ended before it began, said as the fault of its field below `pointer`.
    pub(crate) fn expired(pointer: &str) -> Self {
        has_passed(pointer).into()
    }

    /// The same for an atomic batch: as for its other faulty items.
    fn batch_expired(index: usize, request_id: &str) -> Self {
        let faults = has_passed(&format!("/transactions/{index}"));
        Self::batch_failed(index, &faults.clone().into(), request_id)
            .with_member("errors", json!(faults))
    }
}

fn has_passed(pointer: &str) -> Faults {
    let mut faults = Faults::default();
    let pointer = format!("{pointer}/expires_at");
    faults.add(pointer, FaultCode::OutOfRange, "the time has passed");
    faults
}

impl From<documents::Error> for Problem {
    fn from(error: documents::Error) -> Self {
        match error {
            documents::Error::NotFound => Self::not_found(),
            documents::Error::Invalid(faults) => faults.into(),
            documents::Error::VersionMismatch { current } => Self::version_mismatch(current),
            documents::Error::Store(error) => error.into(),
        }
    }
}

impl From<sessions::Error> for Problem {
    fn from(error: sessions::Error) -> Self {
        match error {
            sessions::Error::NotValid => Self::unauthenticated("the token is not valid"),
            sessions::Error::UserNotFound | sessions::Error::NotFound => Self::not_found(),
            sessions::Error::UserNotActive => {
                Self::new(Code::UserNotActive, "only an active user has sessions")
            }
            sessions::Error::Invalid(faults) => faults.into(),
            sessions::Error::Store(error) => error.into(),
        }
    }
}

impl From<keys::Error> for Problem {
    fn from(error: keys::Error) -> Self {
        match error {
            keys::Error::NotValid => Self::unauthenticated("the token is not valid"),
            keys::Error::NotFound => Self::not_found(),
            keys::Error::Invalid(faults) => faults.into(),
            keys::Error::Store(error) => error.into(),
        }
    }
}

impl From<rate_limit::Error> for Problem {
    fn from(error: rate_limit::Error) -> Self {
        match error {
            rate_limit::Error::UnknownPolicy => Self::not_found(),
            rate_limit::Error::Invalid(faults) => faults.into(),
            rate_limit::Error::Store(error) => error.into(),
        }
    }
}

impl From<temp::Error> for Problem {
    fn from(error: temp::Error) -> Self {
        match error {
            temp::Error::NotFound => Self::not_found(),
            temp::Error::Invalid(faults) => faults.into(),
            temp::Error::Store(error) => error.into(),
        }
    }
}
