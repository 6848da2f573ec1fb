//! What callers use of users: the hybrid user as one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::cache::Cache;
use crate::clock::{SharedClock, Timestamp};
use crate::context::Context;
use crate::documents;
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{Asset, Page};

/// A user as a caller asks for it.
#[derive(Debug, Clone)]
pub struct CreateUser {
    pub email: Email,
    pub name: Name,
    pub wallet_address: Option<WalletAddress>,
    pub phone: Option<Phone>,
    pub social: Option<SocialId>,
    pub referred_by: Option<ReferralCode>,
    /// `None`: the defaults.
    pub preferences: Option<Value>,
    /// `None`: `{}`.
    pub metadata: Option<Value>,
}

/// What a `PATCH` asks for.
pub type UserPatch = UserChange;

/// What a change of KYC asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct KycRequest {
    pub status: KycStatus,
    pub data: Option<Value>,
    pub reason: Option<String>,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Hit,
    Miss,
    /// From the cache although it had run out, since the authority is away.
    Stale,
    /// The caller wanted the stores.
    Bypass,
}

/// An answer that may have come from the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Served<T> {
    pub value: T,
    pub source: Source,
    /// How old the copy is; zero when it was read now.
    pub age: Duration,
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    documents: documents::Service,
    cache: Cache,
    clock: SharedClock,
    default_asset: Asset,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        documents: documents::Service,
        cache: Cache,
        clock: SharedClock,
        default_asset: Asset,
    ) -> Self {
        Self {
            store,
            documents,
            cache,
            clock,
            default_asset,
        }
    }

    /// One relational commit; the documents are applied to the document store before it returns, or by
    /// the relay soon after.
    pub async fn create(&self, ctx: &Context, request: CreateUser) -> Result<HybridUser, Error> {
        todo!()
    }

    /// The hybrid user. With `use_cache` a copy may serve that is current as of the last write this
    /// instance made, and at most a second behind the others'; with the relational store away, an older
    /// copy marked [`Source::Stale`].
    pub async fn get(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<HybridUser>>, StoreError> {
        todo!()
    }

    pub async fn find(&self, query: &IdentityQuery) -> Result<Option<HybridUser>, StoreError> {
        todo!()
    }

    /// Newest first.
    pub async fn list(
        &self,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Vec<HybridUser>, StoreError> {
        todo!()
    }

    pub async fn update(
        &self,
        ctx: &Context,
        id: UserId,
        patch: UserPatch,
        if_match: Option<i64>,
    ) -> Result<HybridUser, Error> {
        todo!()
    }

    pub async fn set_kyc(
        &self,
        ctx: &Context,
        id: UserId,
        request: KycRequest,
        if_match: Option<i64>,
    ) -> Result<HybridUser, Error> {
        todo!()
    }

    /// The user's own code, how many it referred, and a page of them, newest first.
    pub async fn referrals(
        &self,
        id: UserId,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<(Referral, Vec<ReferralRow>)>, StoreError> {
        todo!()
    }
}
