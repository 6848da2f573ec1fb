//! What the verifier reads: rows as they are stored, judged by nobody yet.
//!
//! Nothing here is checked on the way in: amounts are plain integers, statuses plain texts, hashes of any
//! length, so that a row that somebody edited by hand reaches the judge instead of stopping the reader.
//! They borrow from the driver's row; nothing is allocated for one.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::page::PrivateKey;

use crate::audit::{DOMAIN, Hash};

/// A row of `audit`.
#[derive(Debug, Clone, Copy)]
pub struct AuditRow<'r> {
    pub user_id: Uuid,
    pub chain: &'r str,
    pub seq: i64,
    pub transaction_id: Option<Uuid>,
    pub action: &'r str,
    pub previous_status: Option<&'r str>,
    pub new_status: Option<&'r str>,
    pub amount: Option<i64>,
    pub shares: Option<i64>,
    /// Available, locked, shares and locked shares after the change.
    pub after: [Option<i64>; 4],
    pub actor_kind: &'r str,
    pub actor_id: &'r str,
    pub actor_session_id: Option<Uuid>,
    pub request_id: &'r str,
    /// Microseconds since 1970.
    pub at: i64,
    pub reason_commitment: Option<&'r [u8]>,
    pub data_commitment: Option<&'r [u8]>,
    pub previous_hash: &'r [u8],
    pub hash: &'r [u8],
    /// The transaction's type, where the reader joined it.
    pub kind: Option<&'r str>,
}

impl AuditRow<'_> {
    /// Whether it says what a transaction did to an account.
    pub(super) fn is_of_money(&self) -> bool {
        // An amount alone may be a price.
        let has_after = self.after.iter().any(Option::is_some);
        self.transaction_id.is_some() || self.shares.is_some() || has_after
    }

    /// The hash that this row must have: the format of
    /// [`Entry::computed_hash`](crate::audit::Entry::computed_hash), put together in `buffer` so that a row
    /// costs one call of the hash function and no allocation.
    #[must_use]
    pub fn computed_hash(&self, buffer: &mut Vec<u8>) -> Hash {
        buffer.clear();
        buffer.extend_from_slice(DOMAIN);
        buffer.extend_from_slice(self.previous_hash);
        let mut field = |bytes: Option<&[u8]>| match bytes {
            None => buffer.push(0),
            Some(bytes) => {
                buffer.push(1);
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                buffer.extend_from_slice(&length.to_be_bytes());
                buffer.extend_from_slice(bytes);
            }
        };
        field(Some(self.user_id.as_bytes()));
        field(Some(self.chain.as_bytes()));
        field(Some(&self.seq.to_be_bytes()));
        field(
            self.transaction_id
                .as_ref()
                .map(|id| id.as_bytes().as_slice()),
        );
        field(Some(self.action.as_bytes()));
        field(self.previous_status.map(str::as_bytes));
        field(self.new_status.map(str::as_bytes));
        for value in [self.amount, self.shares].into_iter().chain(self.after) {
            field(
                value
                    .map(i64::to_be_bytes)
                    .as_ref()
                    .map(<[u8; 8]>::as_slice),
            );
        }
        field(Some(self.actor_kind.as_bytes()));
        field(Some(self.actor_id.as_bytes()));
        field(
            self.actor_session_id
                .as_ref()
                .map(|id| id.as_bytes().as_slice()),
        );
        field(Some(self.request_id.as_bytes()));
        field(Some(&self.at.to_be_bytes()));
        field(self.reason_commitment);
        field(self.data_commitment);
        Sha256::digest(&buffer).into()
    }
}

/// A row of `accounts`, which is the head of the account's chain as well.
#[derive(Debug, Clone)]
pub struct AccountRow {
    pub user_id: Uuid,
    pub asset: String,
    pub available: i64,
    pub locked: i64,
    pub shares: i64,
    pub locked_shares: i64,
    pub deposited: i64,
    pub withdrawn: i64,
    pub yield_earned: i64,
    pub bonuses: i64,
    pub fees: i64,
    pub last_yield_at: Option<i64>,
    pub pending: i64,
    pub version: i64,
    pub chain_hash: Vec<u8>,
    pub chain_at: i64,
}

/// A row of `chain_heads`.
#[derive(Debug, Clone)]
pub struct HeadRow {
    pub user_id: Uuid,
    pub chain: String,
    pub seq: i64,
    pub hash: Vec<u8>,
    pub at: i64,
}

/// What the judge needs of a row of `transactions`.
#[derive(Debug, Clone, Copy)]
pub struct TransactionRow<'r> {
    pub user_id: Uuid,
    pub transaction_id: Uuid,
    pub kind: &'r str,
    pub status: &'r str,
    pub asset: &'r str,
    pub amount: i64,
    pub shares: i64,
    pub submitted_at: Option<i64>,
    pub created_at: i64,
    pub confirmed_at: Option<i64>,
}

/// A row of `entries`.
#[derive(Debug, Clone, Copy)]
pub struct EntryRow<'r> {
    pub user_id: Uuid,
    pub transaction_id: Uuid,
    pub account: &'r str,
    pub asset: &'r str,
    pub amount: i64,
    pub at: i64,
}

/// A row of `audit_private`.
#[derive(Debug, Clone, Copy)]
pub struct PrivateRow<'r> {
    pub user_id: Uuid,
    pub chain: &'r str,
    pub seq: i64,
    pub field: &'r str,
    pub salt: &'r [u8],
    pub value: &'r str,
}

impl PrivateRow<'_> {
    /// The row and the field that it is the content of.
    pub(super) fn key(&self) -> PrivateKey {
        (
            self.user_id,
            self.chain.to_owned(),
            self.seq,
            self.field.to_owned(),
        )
    }
}

/// A row of the trail that a checkpoint names: where a chain ended then.
#[derive(Debug, Clone, Copy)]
pub struct LeafRow<'r> {
    pub user_id: Uuid,
    pub chain: &'r str,
    pub checkpoint: i64,
    pub seq: i64,
    pub hash: &'r [u8],
}

/// Whom a reader hands rows to. Each kind comes in the order of its table's primary key; within one
/// snapshot accounts come first, then heads, leaves, private content, transactions, audit rows and entries.
///
/// A sink that does not care for a kind of row ignores it.
pub trait Sink: Send {
    /// The account's row, which is the head of its chain as well.
    fn account(&mut self, _row: AccountRow) {}
    fn head(&mut self, _row: HeadRow) {}
    /// Of this chain only the rows from that one on come, which a checkpoint names; 0: all.
    fn known(&mut self, _user: Uuid, _chain: &str, _seq: i64) {}
    /// Those of one chain come in the order of their checkpoints.
    fn leaf(&mut self, _row: &LeafRow<'_>) {}
    fn private(&mut self, _row: &PrivateRow<'_>) {}
    fn transaction(&mut self, _row: &TransactionRow<'_>) {}
    /// A row up to the one that is known, of a transaction that a later row changed.
    fn earlier(&mut self, _row: &AuditRow<'_>) {}
    fn audit(&mut self, _row: &AuditRow<'_>) {}
    fn entry(&mut self, _row: &EntryRow<'_>) {}
    /// More than this sink wants to hold: the reader stops, and the caller reads in smaller parts.
    fn is_full(&self) -> bool {
        false
    }
}
