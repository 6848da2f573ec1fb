//! What callers use of the ledger.

use crate::clock::{SharedClock, Timestamp};
use crate::context::Context;
use crate::documents::Expected;
use crate::error::StoreError;
use crate::ids::{TransactionId, UserId};
use crate::money::Amount;
use crate::validation::Faults;
use std::sync::Arc;

use super::*;
use crate::audit::AuditRow;
use crate::cache::Cache;

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
    pub metadata: serde_json::Value,
}

/// What settling may say.
pub type SettleRequest = super::store::Details;

/// What `submit` may say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendOut {
    pub tx_hash: Option<String>,
}

/// A request's idempotency key, with the fingerprint of the request that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    pub key: String,
    pub fingerprint: [u8; 32],
}

/// Many postings. An item that is faulty by itself stays in its place.
#[derive(Debug, Clone)]
pub struct BatchRequest {
    pub atomic: bool,
    pub items: Vec<Result<(UserId, PostRequest), Faults>>,
}

/// What became of one item of a batch that is not atomic.
#[derive(Debug, Clone)]
pub enum ItemResult {
    Posted(Box<Posted>),
    Refused(Refusal),
    Invalid(Faults),
    /// The item was not done (or, by [`StoreError::OutcomeUnknown`], perhaps): send the batch again.
    Failed(Error),
}

/// The answer to a batch.
#[derive(Debug, Clone)]
pub struct BatchAnswer {
    /// The request that was answered first.
    pub request_id: String,
    pub results: Vec<ItemResult>,
    pub replayed: bool,
}

/// The ledger, for callers.
#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    history: Arc<dyn crate::audit::Store>,
    cache: Cache,
    clock: SharedClock,
    default_asset: Asset,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        history: Arc<dyn crate::audit::Store>,
        cache: Cache,
        clock: SharedClock,
        default_asset: Asset,
    ) -> Self {
        Self {
            store,
            history,
            cache,
            clock,
            default_asset,
        }
    }

    #[must_use]
    pub fn default_asset(&self) -> &Asset {
        &self.default_asset
    }

    /// Posts one transaction. Durable on return. A refusal is in the [`Outcome`].
    pub async fn post(
        &self,
        ctx: &Context,
        user_id: UserId,
        request: PostRequest,
        key: Option<RequestKey>,
    ) -> Result<Outcome, Error> {
        todo!()
    }

    /// Confirms, fails or cancels a pending transaction. `only_unsubmitted`: refuse when it was
    /// submitted (for sessions).
    pub async fn settle(
        &self,
        ctx: &Context,
        user_id: UserId,
        id: TransactionId,
        to: Settlement,
        request: SettleRequest,
        only_unsubmitted: bool,
        key: Option<RequestKey>,
    ) -> Result<Outcome, Error> {
        todo!()
    }

    pub async fn submit(
        &self,
        ctx: &Context,
        user_id: UserId,
        id: TransactionId,
        request: SendOut,
        key: Option<RequestKey>,
    ) -> Result<Outcome, Error> {
        todo!()
    }

    /// 1 to 1,000 postings. Atomic: all, or [`Error::BatchFailed`] (or [`Error::Invalid`] with pointers
    /// below `/transactions/{index}`). Not atomic: each by itself, committed with its own part of the key.
    pub async fn batch(
        &self,
        ctx: &Context,
        request: BatchRequest,
        key: RequestKey,
    ) -> Result<BatchAnswer, Error> {
        todo!()
    }

    pub async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError> {
        self.store.balances(user_id).await
    }

    pub async fn balances_at(
        &self,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<Vec<Balance>>, StoreError> {
        self.store.balances_at(user_id, at).await
    }

    pub async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError> {
        self.store.transaction(user_id, id).await
    }

    pub async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<(Timestamp, TransactionId)>,
    ) -> Result<Option<Vec<Transaction>>, StoreError> {
        self.store.transactions(user_id, filter, page).await
    }

    pub async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.store.transaction_history(user_id, id, page).await
    }

    pub async fn history(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        page: &Page<crate::audit::HistoryCursor>,
    ) -> Result<Option<Vec<AuditRow>>, StoreError> {
        self.history.history(user_id, chain, page).await
    }

    /// Over the last six months.
    pub async fn stats(&self, user_id: UserId) -> Result<Option<Stats>, StoreError> {
        todo!()
    }

    pub async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError> {
        self.store.asset(asset).await
    }

    /// Creates the asset or sets its price (above zero); the flag says whether it was made.
    pub async fn put_asset(
        &self,
        ctx: &Context,
        asset: &Asset,
        share_price: Amount,
        expected: Expected,
    ) -> Result<(AssetInfo, bool), Error> {
        todo!()
    }

    pub async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError> {
        self.store.trial_balance().await
    }
}
