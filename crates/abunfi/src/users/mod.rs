//! Users: who they are, how they are found, whether they may act.
//!
//! Read in this order: the types here, [`identity`] (e-mail, wallet, phone, social, referral code),
//! [`Store`], [`Service`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::documents::{DocumentState, Head, NewDocument};
use crate::ids::UserId;
use crate::ledger::{Asset, Balance, words};

mod error;
pub mod identity;
pub mod rules;
mod served;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use identity::{Email, IdentityKind, Name, Phone, ReferralCode, SocialId, WalletAddress};
pub(crate) use served::{Caching, Composed, serve};
pub use served::{Served, Source};
pub use service::{CreateUser, KycRequest, Service, UserPatch};
pub use store::{IdentityQuery, KycChange, NewUser, ReferralRow, Store, UserChange};

words! {
    /// `closed` is final.
    UserStatus {
        Active = "active",
        Suspended = "suspended",
        Closed = "closed",
    }
}

words! {
    KycStatus {
        Pending = "pending",
        Verified = "verified",
        Rejected = "rejected",
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kyc {
    pub status: KycStatus,
    /// A JSON object.
    pub data: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referral {
    pub code: ReferralCode,
    /// The user who referred this one.
    pub referred_by: Option<UserId>,
    /// How many users this one referred.
    pub count: i64,
}

/// What the relational store knows of a user, in one consistent read: the user, its balances, and the
/// heads of its documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    pub id: UserId,
    pub email: Email,
    pub name: Name,
    pub wallet_address: Option<WalletAddress>,
    pub phone: Option<Phone>,
    pub social: Option<SocialId>,
    pub status: UserStatus,
    pub kyc: Kyc,
    pub referral: Referral,
    /// Ordered by asset.
    pub balances: Vec<Balance>,
    /// The heads that exist; a document without one has never been written through this platform.
    pub heads: Vec<Head>,
    /// Covers the fields that `PATCH` and KYC change.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The hybrid user: the record and the documents as one. The order of the fields is that of the HTTP
/// contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HybridUser {
    pub id: UserId,
    pub email: Email,
    pub name: Name,
    pub wallet_address: Option<WalletAddress>,
    pub phone: Option<Phone>,
    pub social: Option<SocialId>,
    pub status: UserStatus,
    pub kyc: Kyc,
    pub referral: Referral,
    pub balances: Vec<Balance>,
    pub preferences: Value,
    pub metadata: Value,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The stores that are away (`mongodb`, …); absent when all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// For the parts that are not current; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_state: Option<DocumentStates>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentStates {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<DocumentState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<DocumentState>,
}

/// The documents that a new user starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstDocuments {
    pub preferences: NewDocument,
    pub metadata: NewDocument,
}

/// The balance row that every user starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAccount {
    pub asset: Asset,
}
