//! What callers ask of the ledger, read from JSON and checked; all faults of a body come at once.

use serde_json::{Map, Value};

use super::{Asset, Details, TransactionStatus, TransactionType};
use crate::clock::Timestamp;
use crate::json_reader::{FieldError, Reader, text, wrong_type};
use crate::money::{Amount, Decimal18};
use crate::validation::{FaultCode, Faults, Invalid, pointer_to};

/// The longest client reference and transaction hash: long enough for a bank's or a chain's, short enough
/// to be indexed.
pub const MAX_REFERENCE_CHARS: usize = 200;
/// The longest reason and error message.
pub const MAX_REASON_CHARS: usize = 1_000;
/// The largest `metadata` of a transaction, as JSON: transactions are read in lists of up to 200.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// A posting as a caller asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct PostRequest {
    pub kind: TransactionType,
    /// Above zero.
    pub amount: Amount,
    /// `None`: the default asset.
    pub asset: Option<Asset>,
    /// `Pending` or `Confirmed`.
    pub status: TransactionStatus,
    pub shares: Amount,
    /// Pending withdrawals only, and in the future.
    pub expires_at: Option<Timestamp>,
    pub client_reference: Option<String>,
    pub tx_hash: Option<String>,
    pub block_number: Option<i64>,
    pub gas_used: Option<i64>,
    pub gas_fee: Option<Decimal18>,
    pub confirmations: i64,
    pub exchange_rate: Option<Decimal18>,
    pub amount_vnd: Option<Amount>,
    /// A JSON object.
    pub metadata: Value,
}

/// What settling may say.
pub type SettleRequest = Details;

/// What `submit` may say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendOut {
    pub tx_hash: Option<String>,
}

impl PostRequest {
    /// A confirmed posting of `amount`, with nothing else said.
    #[must_use]
    pub fn new(kind: TransactionType, amount: Amount) -> Self {
        Self {
            kind,
            amount,
            asset: None,
            status: TransactionStatus::Confirmed,
            shares: Amount::ZERO,
            expires_at: None,
            client_reference: None,
            tx_hash: None,
            block_number: None,
            gas_used: None,
            gas_fee: None,
            confirmations: 0,
            exchange_rate: None,
            amount_vnd: None,
            metadata: Value::Object(Map::new()),
        }
    }

    /// The same, pending.
    #[must_use]
    pub fn pending(kind: TransactionType, amount: Amount) -> Self {
        Self {
            status: TransactionStatus::Pending,
            ..Self::new(kind, amount)
        }
    }

    /// Reads a posting that stands at `pointer` of a body.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(value: Value, pointer: &str) -> Result<Self, Faults> {
        Self::read_from(Reader::new(value, pointer))
    }

    /// Reads a posting from an object of which some fields were taken already (a batch item's `user_id`).
    ///
    /// # Errors
    /// All faults at once, those that the reader has already too.
    pub fn read_from(mut fields: Reader) -> Result<Self, Faults> {
        let kind = fields.required("type", |name| one_of(TransactionType::from_name(name)));
        let amount = fields.required("amount", positive_amount);
        let asset = fields.optional("asset", asset_code);
        let status = fields.optional("status", |name| {
            one_of(TransactionStatus::from_name(name).filter(|status| {
                matches!(
                    status,
                    TransactionStatus::Pending | TransactionStatus::Confirmed
                )
            }))
        });
        let request = Self {
            kind: kind.unwrap_or(TransactionType::Deposit),
            amount: amount.unwrap_or(Amount::MAX),
            asset,
            status: status.unwrap_or(TransactionStatus::Confirmed),
            shares: fields
                .optional("shares", parse_amount)
                .unwrap_or(Amount::ZERO),
            expires_at: fields.optional("expires_at", timestamp),
            client_reference: fields.optional("client_reference", reference),
            tx_hash: fields.optional("tx_hash", reference),
            block_number: fields.optional_count("block_number"),
            gas_used: fields.optional_count("gas_used"),
            gas_fee: fields.optional("gas_fee", parse_decimal18),
            confirmations: fields.optional_count("confirmations").unwrap_or(0),
            exchange_rate: fields.optional("exchange_rate", parse_decimal18),
            amount_vnd: fields.optional("amount_vnd", parse_amount),
            metadata: fields
                .optional_value("metadata", object)
                .unwrap_or_else(|| Value::Object(Map::new())),
        };
        let known = kind.is_some();
        if known && let Err(invalid) = request.check_expiry_applies() {
            fields.fault("expires_at", invalid.code, invalid.detail);
        }
        fields.finish()?;
        Ok(request)
    }

    /// Checks what types cannot, for requests that were not read from JSON. Whether `expires_at` lies ahead is
    /// decided with the posting: a replay may come later.
    ///
    /// # Errors
    /// All faults at once, with pointers below `pointer`.
    pub fn check(&self, pointer: &str) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let mut note = |field: &str, result: Result<(), FieldError>| {
            if let Err((code, detail)) = result {
                faults.add(pointer_to(pointer, field), code, detail);
            }
        };
        if self.amount.is_zero() {
            note("amount", Err(not_positive()));
        }
        if !matches!(
            self.status,
            TransactionStatus::Pending | TransactionStatus::Confirmed
        ) {
            note(
                "status",
                Err((FaultCode::NotAllowed, "pending or confirmed".to_owned())),
            );
        }
        note(
            "expires_at",
            self.check_expiry_applies().map_err(FieldError::from),
        );
        for (field, value) in [
            ("client_reference", &self.client_reference),
            ("tx_hash", &self.tx_hash),
        ] {
            if let Some(value) = value {
                note(field, reference(value).map(drop));
            }
        }
        let counts = [
            ("block_number", self.block_number),
            ("gas_used", self.gas_used),
            ("confirmations", Some(self.confirmations)),
        ];
        for (field, count) in counts {
            if count.is_some_and(|count| count < 0) {
                note(field, Err((FaultCode::OutOfRange, "0 or more".to_owned())));
            }
        }
        if self
            .metadata
            .as_object()
            .is_none_or(|fields| !fields.is_empty())
        {
            note("metadata", object(self.metadata.clone()).map(drop));
        }
        faults.into_result()
    }

    fn check_expiry_applies(&self) -> Result<(), Invalid> {
        let held =
            self.kind == TransactionType::Withdraw && self.status == TransactionStatus::Pending;
        if self.expires_at.is_some() && !held {
            return Err(Invalid::new(
                FaultCode::NotAllowed,
                "only a pending withdrawal expires",
            ));
        }
        Ok(())
    }
}

impl Details {
    /// Reads what settling may say.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(value: Value, pointer: &str) -> Result<Self, Faults> {
        let mut fields = Reader::new(value, pointer);
        let request = Self {
            reason: fields.optional("reason", |value| text(value, MAX_REASON_CHARS)),
            tx_hash: fields.optional("tx_hash", reference),
            block_number: fields.optional_count("block_number"),
            gas_used: fields.optional_count("gas_used"),
            gas_fee: fields.optional("gas_fee", parse_decimal18),
            confirmations: fields.optional_count("confirmations"),
            error_message: fields.optional("error_message", |value| text(value, MAX_REASON_CHARS)),
        };
        fields.finish()?;
        Ok(request)
    }
}

impl SendOut {
    /// Reads what `submit` may say.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(value: Value, pointer: &str) -> Result<Self, Faults> {
        let mut fields = Reader::new(value, pointer);
        let request = Self {
            tx_hash: fields.optional("tx_hash", reference),
        };
        fields.finish()?;
        Ok(request)
    }
}

fn one_of<T>(known: Option<T>) -> Result<T, FieldError> {
    known.ok_or_else(|| {
        (
            FaultCode::NotAllowed,
            "not one of the values that are allowed".to_owned(),
        )
    })
}

fn not_positive() -> FieldError {
    (
        FaultCode::OutOfRange,
        "the amount must be above zero".to_owned(),
    )
}

fn parse_amount(value: &str) -> Result<Amount, FieldError> {
    Amount::parse(value).map_err(|error| FieldError::from(Invalid::from(error)))
}

fn positive_amount(value: &str) -> Result<Amount, FieldError> {
    parse_amount(value).and_then(|amount| {
        if amount.is_zero() {
            Err(not_positive())
        } else {
            Ok(amount)
        }
    })
}

fn parse_decimal18(value: &str) -> Result<Decimal18, FieldError> {
    Decimal18::parse(value).map_err(|error| FieldError::from(Invalid::from(error)))
}

fn asset_code(value: &str) -> Result<Asset, FieldError> {
    Asset::parse(value).ok_or_else(|| (FaultCode::BadFormat, "1 to 12 of A-Z and 0-9".to_owned()))
}

fn timestamp(value: &str) -> Result<Timestamp, FieldError> {
    Timestamp::parse(value).ok_or_else(|| {
        (
            FaultCode::BadFormat,
            "an RFC 3339 time is expected".to_owned(),
        )
    })
}

fn reference(value: &str) -> Result<String, FieldError> {
    text(value, MAX_REFERENCE_CHARS)
}

fn object(value: Value) -> Result<Value, FieldError> {
    if !value.is_object() {
        return Err(wrong_type("an object", &value));
    }
    if let Err(faults) = crate::documents::canonical::check_document(
        &value,
        "",
        crate::documents::canonical::Root::Object,
    ) && let Some(fault) = faults.iter().next()
    {
        return Err((fault.code, format!("{}: {}", fault.pointer, fault.detail)));
    }
    if crate::documents::canonical::canonical_json(&value).len() > MAX_METADATA_BYTES {
        return Err((
            FaultCode::TooLong,
            format!("at most {MAX_METADATA_BYTES} bytes"),
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults_of(value: Value) -> Vec<(String, &'static str)> {
        let faults = PostRequest::read(value, "").unwrap_err();
        faults
            .into_iter()
            .map(|fault| (fault.pointer, fault.code.as_str()))
            .collect()
    }

    #[test]
    fn all_faults_of_a_posting_come_at_once() {
        let mut faults = faults_of(json!({
            "type": "gift", "amount": "1.0000001", "asset": "vnd", "status": "failed", "block_number": -1,
            "gas_fee": 1, "typo": 1, "metadata": []
        }));
        faults.sort();
        let expected = [
            ("/amount", "too_many_decimals"),
            ("/asset", "bad_format"),
            ("/block_number", "out_of_range"),
            ("/gas_fee", "wrong_type"),
            ("/metadata", "wrong_type"),
            ("/status", "not_allowed"),
            ("/type", "not_allowed"),
            ("/typo", "unknown_field"),
        ];
        assert_eq!(
            faults,
            expected.map(|(pointer, code)| (pointer.to_owned(), code))
        );
    }

    #[test]
    fn a_zero_amount_is_out_of_range() {
        assert_eq!(
            faults_of(json!({"type": "deposit", "amount": "0"})),
            [("/amount".to_owned(), "out_of_range")]
        );
    }

    #[test]
    fn only_a_pending_withdrawal_may_expire() {
        let body = json!({"type": "deposit", "amount": "1", "status": "pending", "expires_at": "2030-01-01T00:00:00Z"});
        assert_eq!(faults_of(body), [("/expires_at".to_owned(), "not_allowed")]);
        let body = json!({"type": "withdraw", "amount": "1", "status": "pending", "expires_at": "2030-01-01T00:00:00Z"});
        assert!(PostRequest::read(body, "").is_ok());
    }
}
