//! What users ask of a relational store. One method is one atomic unit.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Email, Error, FirstDocuments, IdentityKind, KycStatus, Name, Phone, ReferralCode, SocialId,
    UserRecord, UserStatus, WalletAddress,
};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{Asset, Page};

/// A user about to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    pub id: UserId,
    pub email: Email,
    pub name: Name,
    pub wallet_address: Option<WalletAddress>,
    pub phone: Option<Phone>,
    pub social: Option<SocialId>,
    /// Tried in order until one is free.
    pub referral_codes: Vec<ReferralCode>,
    pub referred_by: Option<ReferralCode>,
    /// The asset of the zero balance that the user starts with.
    pub default_asset: Asset,
    pub documents: FirstDocuments,
    pub at: Timestamp,
}

/// What a `PATCH` changes. The outer `None` leaves a field; the inner one clears it.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    pub name: Option<Name>,
    pub email: Option<Email>,
    pub wallet_address: Option<Option<WalletAddress>>,
    pub phone: Option<Option<Phone>>,
    pub social: Option<Option<SocialId>>,
    pub status: Option<UserStatus>,
}

/// A change of a user's KYC.
#[derive(Debug, Clone)]
pub struct KycChange {
    pub status: KycStatus,
    /// `None` keeps what is there.
    pub data: Option<Value>,
    pub reason: Option<String>,
    /// Fresh randomness for the commitments to reason and data.
    pub salts: [[u8; 32]; 2],
}

/// An exact look-up, in the form in which identities are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityQuery {
    pub kind: IdentityKind,
    /// The comparison key (lower-cased e-mail, `google:123`, …).
    pub key: String,
}

/// A user whom another one referred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferralRow {
    pub user_id: UserId,
    pub created_at: Timestamp,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// One commit: the user, its identities, its zero balance, the heads (and images, or with a
    /// relational document store the documents) of preferences and metadata, the referral.
    /// [`Error::IdentityTaken`], [`Error::UnknownReferralCode`] leave nothing behind.
    async fn create(&self, ctx: &Context, user: &NewUser) -> Result<UserRecord, Error>;

    /// The record with balances and heads, in one query.
    async fn find(&self, id: UserId) -> Result<Option<UserRecord>, StoreError>;

    async fn find_by_identity(&self, query: &IdentityQuery) -> Result<Option<UserId>, StoreError>;

    /// Newest first, by `(created_at, id)` descending; the cursor is that pair of the last row.
    async fn list(&self, page: &Page<(Timestamp, UserId)>) -> Result<Vec<UserRecord>, StoreError>;

    /// Locks the user (and, for a change of status, then all its accounts in order of asset), checks
    /// `if_match`, applies the change with version + 1, and writes an audit row in chain `user` for a
    /// change of status. A change that changes nothing keeps the version. `closed` needs zero balances
    /// and nothing pending, and is final. A user who is no longer active gets a revocation row, so that
    /// its sessions end.
    async fn update(
        &self,
        ctx: &Context,
        id: UserId,
        change: &UserChange,
        if_match: Option<i64>,
        salt: [u8; 32],
        at: Timestamp,
    ) -> Result<UserRecord, Error>;

    /// Like [`update`](Self::update), for KYC, always with an audit row in chain `user`.
    async fn set_kyc(
        &self,
        ctx: &Context,
        id: UserId,
        change: &KycChange,
        if_match: Option<i64>,
        at: Timestamp,
    ) -> Result<UserRecord, Error>;

    /// Whom the user referred, newest first. `None`: there is no such user.
    async fn referrals(
        &self,
        id: UserId,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<Vec<ReferralRow>>, StoreError>;
}
