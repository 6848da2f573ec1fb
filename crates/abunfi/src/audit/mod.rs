//! The append-only, hash-chained history of everything that matters.
//!
//! A chain belongs to a subject: `(user, asset)` for money, `(user, "user")` for KYC and status, and,
//! under [`PLATFORM`], `asset:…` for share prices and `system` for what operators do. `seq` counts from
//! 1 without gaps; each row's hash covers its content and the hash before it, so that no row can be
//! changed, taken out or put in without breaking the chain from there on.
//!
//! Personal content never enters a hash: only `SHA-256(salt ‖ value)` does. Salt and value live in a
//! table of their own that may be erased, and the chain still verifies.
//!
//! Invariant: rows are only ever appended, by the holder of the chain's row lock. The database itself
//! refuses UPDATE and DELETE.

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::context::Actor;
use crate::ids::{TransactionId, UserId};
use crate::money::Amount;

pub mod check;
pub mod checkpoint;
mod checkpoint_store;
pub mod drafts;
mod export;
mod export_store;
pub mod format;
pub(crate) mod making;
pub mod merkle;
mod service;
mod store;
#[cfg(test)]
mod tests;
pub mod verify;

pub use checkpoint_store::{Attempt, CheckpointStore, LeafAsOf, LeafState, StoredTile};
pub use export_store::{
    Balances, ChainPart, ExportHead, ExportStore, ExportedEntry, ExportedTransaction, UserRange,
};
pub use service::{Checkpointed, Error, Exported, Progress, Service, Standing};
pub use store::{HistoryCursor, Store};

/// The subject of chains that belong to no user.
pub const PLATFORM: UserId = UserId(Uuid::nil());

/// The chain of a user's KYC and status.
pub const USER_CHAIN: &str = "user";

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash before the first row of a chain.
pub const GENESIS: Hash = [0; 32];

/// The first bytes that go into every row's hash; a new format gets a new one.
pub(crate) const DOMAIN: &[u8] = b"abunfi.audit.v1\n";

/// Where a chain ends: the newest row's `seq` and hash; 0 and [`GENESIS`] when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: i64,
    pub hash: Hash,
}

impl Head {
    pub const EMPTY: Self = Self {
        seq: 0,
        hash: GENESIS,
    };
}

/// Amounts of the account right after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmountsAfter {
    pub available: Amount,
    pub locked: Amount,
    pub shares: Amount,
    pub locked_shares: Amount,
}

/// Personal content that a row commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Private {
    pub field: PrivateField,
    /// 256 random bits.
    pub salt: [u8; 32],
    pub value: String,
}

/// Which content a commitment stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrivateField {
    Reason,
    /// KYC data, as canonical JSON.
    Data,
}

impl PrivateField {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reason => "reason",
            Self::Data => "data",
        }
    }
}

impl Private {
    /// `SHA-256(salt ‖ value)`.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        Sha256::new()
            .chain_update(self.salt)
            .chain_update(self.value.as_bytes())
            .finalize()
            .into()
    }
}

/// A change that is about to be appended to a chain.
#[derive(Debug, Clone)]
pub struct Draft {
    pub user_id: UserId,
    pub chain: String,
    pub transaction_id: Option<TransactionId>,
    /// What was done: `post_deposit` (and so on, by the transaction's type), `confirm`, `fail`, `cancel`,
    /// `submit`, `kyc`, `status`, `erase`, `share_price`, …
    pub action: &'static str,
    pub previous_status: Option<Cow<'static, str>>,
    pub new_status: Option<Cow<'static, str>>,
    pub amount: Option<Amount>,
    pub shares: Option<Amount>,
    pub after: Option<AmountsAfter>,
    pub actor: Actor,
    pub request_id: Arc<str>,
    /// The trace that it was a part of. A mark to find it by: not part of the hash, nor of what is shown.
    pub trace_id: Option<String>,
    pub at: Timestamp,
    pub private: Vec<Private>,
}

/// A row of the trail, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub user_id: UserId,
    pub chain: String,
    pub seq: i64,
    pub transaction_id: Option<TransactionId>,
    /// This and the two statuses are words of this program, or what a stored row says.
    pub action: Cow<'static, str>,
    pub previous_status: Option<Cow<'static, str>>,
    pub new_status: Option<Cow<'static, str>>,
    pub amount: Option<Amount>,
    pub shares: Option<Amount>,
    pub after: Option<AmountsAfter>,
    pub actor: Actor,
    pub request_id: Arc<str>,
    /// As in [`Draft`]; not hashed.
    pub trace_id: Option<String>,
    pub at: Timestamp,
    pub reason_commitment: Option<Hash>,
    pub data_commitment: Option<Hash>,
    pub previous_hash: Hash,
    pub hash: Hash,
}

impl Draft {
    /// The row that follows `head`, and the personal content to be stored beside it.
    #[must_use]
    pub fn seal(self, head: Head) -> (Entry, Vec<Private>) {
        let commitment = |field| {
            self.private
                .iter()
                .find(|private| private.field == field)
                .map(Private::commitment)
        };
        let mut entry = Entry {
            reason_commitment: commitment(PrivateField::Reason),
            data_commitment: commitment(PrivateField::Data),
            user_id: self.user_id,
            chain: self.chain,
            seq: head.seq.saturating_add(1),
            transaction_id: self.transaction_id,
            action: self.action.into(),
            previous_status: self.previous_status,
            new_status: self.new_status,
            amount: self.amount,
            shares: self.shares,
            after: self.after,
            actor: self.actor,
            request_id: self.request_id,
            trace_id: self.trace_id,
            at: self.at,
            previous_hash: head.hash,
            hash: GENESIS,
        };
        entry.hash = entry.computed_hash();
        (entry, self.private)
    }
}

impl Entry {
    #[must_use]
    pub const fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }

    /// The hash that this row must have: SHA-256 over the domain, the previous hash, and each field in
    /// the order below as `0x00` when absent, else `0x01`, its length as 4 bytes big-endian, and its
    /// bytes. Integers are 8 bytes big-endian (amounts in micro-units, times in microseconds since
    /// 1970), ids their 16 bytes, texts UTF-8.
    #[must_use]
    pub fn computed_hash(&self) -> Hash {
        let mut hasher = Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(self.previous_hash);
        let mut field = |bytes: Option<&[u8]>| match bytes {
            None => hasher.update([0]),
            Some(bytes) => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                hasher.update([1]);
                hasher.update(length.to_be_bytes());
                hasher.update(bytes);
            }
        };
        let integer = |value: i64| value.to_be_bytes();
        let amount = |value: Option<Amount>| value.map(|amount| amount.micros().to_be_bytes());
        field(Some(self.user_id.0.as_bytes()));
        field(Some(self.chain.as_bytes()));
        field(Some(&integer(self.seq)));
        field(
            self.transaction_id
                .as_ref()
                .map(|id| id.0.as_bytes().as_slice()),
        );
        field(Some(self.action.as_bytes()));
        field(self.previous_status.as_deref().map(str::as_bytes));
        field(self.new_status.as_deref().map(str::as_bytes));
        field(amount(self.amount).as_ref().map(<[u8; 8]>::as_slice));
        field(amount(self.shares).as_ref().map(<[u8; 8]>::as_slice));
        for after in [
            self.after.map(|after| after.available),
            self.after.map(|after| after.locked),
            self.after.map(|after| after.shares),
            self.after.map(|after| after.locked_shares),
        ] {
            field(amount(after).as_ref().map(<[u8; 8]>::as_slice));
        }
        field(Some(self.actor.kind.as_str().as_bytes()));
        field(Some(self.actor.id.as_bytes()));
        field(
            self.actor
                .session_id
                .as_ref()
                .map(|id| id.0.as_bytes().as_slice()),
        );
        field(Some(self.request_id.as_bytes()));
        field(Some(&integer(self.at.micros())));
        field(self.reason_commitment.as_ref().map(Hash::as_slice));
        field(self.data_commitment.as_ref().map(Hash::as_slice));
        hasher.finalize().into()
    }
}

/// A row of the trail as it is shown, with the reason unless that was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub entry: Entry,
    pub reason: Option<String>,
}

impl Serialize for AuditRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = &self.entry;
        let mut row = serializer.serialize_struct("AuditRow", 15)?;
        row.serialize_field("chain", &entry.chain)?;
        row.serialize_field("seq", &entry.seq)?;
        row.serialize_field("transaction_id", &entry.transaction_id)?;
        row.serialize_field("action", &entry.action)?;
        row.serialize_field("previous_status", &entry.previous_status)?;
        row.serialize_field("new_status", &entry.new_status)?;
        row.serialize_field("amount", &entry.amount)?;
        row.serialize_field("available_after", &entry.after.map(|after| after.available))?;
        row.serialize_field("locked_after", &entry.after.map(|after| after.locked))?;
        row.serialize_field("actor", &entry.actor)?;
        row.serialize_field("reason", &self.reason)?;
        row.serialize_field("request_id", &entry.request_id)?;
        row.serialize_field("at", &entry.at)?;
        row.serialize_field("hash", &hex::encode(entry.hash))?;
        row.serialize_field("previous_hash", &hex::encode(entry.previous_hash))?;
        row.end()
    }
}
