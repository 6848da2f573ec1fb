//! The money: balances, transactions, entries.
//!
//! Read in this order: the types here, [`posting`] (the rules, pure), [`Store`] (what one atomic unit
//! is), `commit` (how one is committed), `batcher` (group commit), `lanes` (large batches), [`Service`] (what callers use).
//!
//! Invariant: a balance changes only together with a transaction, its entries and an audit row, in one
//! relational transaction, decided from the locked account row.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{TransactionId, UserId};
use crate::money::{Amount, Decimal18, SignedSum};

mod batcher;
mod commit;
mod error;
mod expiry;
mod lanes;
pub mod posting;
mod request;
mod running;
mod service;
mod store;
mod turns;

pub use error::{Error, Refusal, Stage};
pub use lanes::COMMIT_CHUNK;
pub use request::{
    MAX_METADATA_BYTES, MAX_REASON_CHARS, MAX_REFERENCE_CHARS, PostRequest, SendOut, SettleRequest,
};
pub use service::{
    BatchAnswer, BatchRequest, ItemResult, MAX_BATCH_ITEMS, RequestKey, Service, asset_tag,
};
pub use store::{
    Action, AtomicBatch, Backlog, BatchClaim, BatchKey, BatchOutcome, Command, Details, Due,
    Idempotency, Outcome, Page, Settlement, Store, StoredAnswer, TransactionFilter,
};
pub use turns::MAX_BATCHES;
pub(crate) use turns::connections;

/// What is saved: a currency or a vault's token. 1–12 of `A-Z0-9`, kept in place, since every row of a posting
/// has one. They are ordered as their texts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asset([u8; Asset::MAX_LENGTH]);

impl Asset {
    pub const MAX_LENGTH: usize = 12;

    /// `None` unless `code` is 1–12 of `A-Z0-9`.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let is_well_formed = !code.is_empty()
            && code
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        let mut padded = [0; Self::MAX_LENGTH];
        padded
            .get_mut(..code.len())
            .filter(|_| is_well_formed)?
            .copy_from_slice(code.as_bytes());
        Some(Self(padded))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().take_while(|byte| **byte != 0).count();
        // Only `parse` makes one, of ASCII.
        self.0
            .get(..length)
            .and_then(|code| std::str::from_utf8(code).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Asset").field(&self.as_str()).finish()
    }
}

impl std::fmt::Display for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Asset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Asset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::parse(&code).ok_or_else(|| serde::de::Error::custom("not an asset code"))
    }
}

/// An enum that is one word in JSON and in both relational stores.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The variant of that name, if there is one.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    TransactionType {
        Deposit = "deposit",
        Withdraw = "withdraw",
        YieldHarvest = "yield_harvest",
        ReferralBonus = "referral_bonus",
    }
}

words! {
    /// `pending → confirmed | failed | cancelled`, nothing else; the last three are final.
    TransactionStatus {
        Pending = "pending",
        Confirmed = "confirmed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

words! {
    /// Whose side of the books an entry is on.
    LedgerAccount {
        User = "user",
        /// What is held for users outside: deposits in, withdrawals out.
        Custody = "custody",
        /// Where harvested yield comes from.
        Yield = "yield",
        /// Where bonuses come from.
        Promotions = "promotions",
        /// Where fees go.
        Fees = "fees",
    }
}

/// A transaction as it is now. The order of the fields is that of the HTTP contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    pub id: TransactionId,
    pub user_id: UserId,
    #[serde(rename = "type")]
    pub kind: TransactionType,
    pub status: TransactionStatus,
    pub asset: Asset,
    pub amount: Amount,
    pub shares: Amount,
    pub expires_at: Option<Timestamp>,
    pub submitted_at: Option<Timestamp>,
    pub client_reference: Option<String>,
    pub tx_hash: Option<String>,
    pub block_number: Option<i64>,
    pub gas_used: Option<i64>,
    pub gas_fee: Option<Decimal18>,
    pub confirmations: i64,
    pub exchange_rate: Option<Decimal18>,
    pub amount_vnd: Option<Amount>,
    /// Any JSON object, kept as given by value.
    pub metadata: serde_json::Value,
    pub error_message: Option<String>,
    pub created_at: Timestamp,
    pub confirmed_at: Option<Timestamp>,
}

/// The account right after a posting or a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceAfter {
    pub asset: Asset,
    pub available: Amount,
    pub locked: Amount,
    pub total: Amount,
    pub shares: Amount,
    pub locked_shares: Amount,
    /// Counts the changes of the account; it is the `seq` of the newest row of its audit chain.
    pub version: i64,
}

/// The answer to a posting or a settlement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posted {
    #[serde(flatten)]
    pub transaction: Transaction,
    pub balance: BalanceAfter,
}

/// A user's balance in one asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub asset: Asset,
    pub available: Amount,
    pub locked: Amount,
    pub total: Amount,
    pub shares: Amount,
    pub locked_shares: Amount,
    pub share_price: Amount,
    pub total_yield_earned: Amount,
    pub last_yield_at: Option<Timestamp>,
    pub version: i64,
}

/// What can be saved, and the price of one vault share of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetInfo {
    pub asset: Asset,
    pub share_price: Amount,
    /// 1 when made, then one more with each change of the price.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The share price of an asset that nobody has priced yet: one million.
#[must_use]
pub fn first_share_price() -> Amount {
    Amount::from_micros(1_000_000_000_000).unwrap_or(Amount::ZERO)
}

/// Statistics over the last six months of a user's transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    pub by_type: Vec<TypeStats>,
    pub by_month: Vec<MonthStats>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStats {
    #[serde(rename = "type")]
    pub kind: TransactionType,
    pub status: TransactionStatus,
    pub count: i64,
    pub sum: SignedSum,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthStats {
    /// `YYYY-MM`, in UTC.
    pub month: String,
    #[serde(rename = "type")]
    pub kind: TransactionType,
    pub count: i64,
    pub sum: SignedSum,
}

/// One asset's books: what users hold, each system account's balance, and their sum, which is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBalance {
    pub asset: Asset,
    pub users: SignedSum,
    pub custody: SignedSum,
    #[serde(rename = "yield")]
    pub yield_: SignedSum,
    pub promotions: SignedSum,
    pub fees: SignedSum,
    pub net: SignedSum,
    /// How many accounts these are the sums over. Not a part of the HTTP contract's answer.
    #[serde(skip)]
    pub accounts: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_codes_of_one_to_twelve_and_in_the_order_of_their_texts() {
        let codes = ["0", "A", "AB", "ABC", "B", "USDT", "VND", "ZZZZZZZZZZZZ"];
        let assets = codes.map(|code| Asset::parse(code).unwrap());
        assert!(assets.is_sorted());
        for (asset, code) in assets.iter().zip(codes) {
            assert_eq!((asset.as_str(), asset.to_string().as_str()), (code, code));
            let json = serde_json::to_string(asset).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Asset>(&json).unwrap(), *asset);
        }
        for bad in ["", "vnd", "V D", "V\0", "VNĐ", "ZZZZZZZZZZZZZ"] {
            assert_eq!(Asset::parse(bad), None, "{bad:?}");
            assert!(
                serde_json::from_value::<Asset>(bad.into()).is_err(),
                "{bad:?}"
            );
        }
    }
}
