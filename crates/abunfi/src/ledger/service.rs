//! What callers use of the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batcher::Batcher;
use super::commit;
use super::expiry::SetAside;
use super::lanes::Lanes;
use super::request::{PostRequest, SendOut, SettleRequest};
use super::running::Running;
use super::turns::Turns;
use super::{
    Action, Asset, AssetInfo, AtomicBatch, Backlog, Balance, BatchClaim, BatchKey, Command, Error,
    Idempotency, Outcome, Page, Posted, Refusal, Settlement, Stats, Store, Transaction,
    TransactionFilter, TrialBalance,
};
use crate::audit::{self, AuditRow};
use crate::cache::Cache;
use crate::clock::{SharedClock, Timestamp};
use crate::context::Context;
use crate::documents::Expected;
use crate::documents::canonical::canonical_json;
use crate::documents::parse::parse_json;
use crate::error::{StoreError, StoreKind};
use crate::ids::{TransactionId, UserId, random_bytes};
use crate::money::Amount;
use crate::outbox;
use crate::transaction::guard;
use crate::validation::{FaultCode, Faults};

/// Items of one batch, so that its rows stay locked for a moment only.
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Statistics look back over this many days: six months.
const STATS_DAYS: u64 = 184;
/// Idempotency rows of each table that one transaction deletes: some tens of milliseconds.
const PURGE_BATCH: u32 = 2_000;
/// The shortest pause between two of them.
const PURGE_PAUSE: Duration = Duration::from_millis(1);

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
    pub request_id: Arc<str>,
    pub results: Vec<ItemResult>,
    pub replayed: bool,
}

/// The ledger, for callers.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) store: Arc<dyn Store>,
    history: Arc<dyn audit::Store>,
    cache: Cache,
    pub(super) clock: SharedClock,
    default_asset: Asset,
    batcher: Batcher,
    pub(super) lanes: Lanes,
    turns: Turns,
    pub(super) set_aside: SetAside,
    running: Running,
}

impl Service {
    /// `shards`: how many batches may be in flight at once; 1 for a store with one writer. Starts them on
    /// the current runtime.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        history: Arc<dyn audit::Store>,
        cache: Cache,
        clock: SharedClock,
        default_asset: Asset,
        shards: usize,
    ) -> Self {
        let commit = commit::to(Arc::clone(&store), cache.clone());
        let batcher = Batcher::start(shards, &commit);
        Self {
            store,
            history,
            cache,
            clock,
            default_asset,
            batcher,
            lanes: Lanes::new(shards, commit),
            turns: Turns::default(),
            set_aside: SetAside::default(),
            running: Running::default(),
        }
    }

    /// The asset of postings that name none.
    #[must_use]
    pub fn default_asset(&self) -> &Asset {
        &self.default_asset
    }

    /// Posts one transaction; durable on return. A refusal is in the [`Outcome`].
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is done; [`Error::IdempotencyKeyReused`],
    /// [`Error::IdempotencyInProgress`]; [`Error::Store`], of which only
    /// [`OutcomeUnknown`](StoreError::OutcomeUnknown) may have been done.
    pub async fn post(
        &self,
        ctx: &Context,
        user_id: UserId,
        request: PostRequest,
        key: Option<RequestKey>,
    ) -> Result<Outcome, Error> {
        request.check("").map_err(Error::Invalid)?;
        let now = self.clock.now();
        let transaction = self.transaction_of(user_id, request, now);
        let action = Action::Post(Box::new(transaction));
        let key = key.map(|key| idempotency(ctx, "post", key));
        self.execute(self.command(&Arc::new(ctx.clone()), user_id, action, key))
            .await
    }

    /// The command of a posting, checked, for
    /// [`update_user_balance`](crate::transaction::Transaction::update_user_balance) inside a transaction.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn prepare(
        &self,
        ctx: &Context,
        user_id: UserId,
        request: PostRequest,
    ) -> Result<Command, Error> {
        request.check("").map_err(Error::Invalid)?;
        let now = self.clock.now();
        let transaction = self.transaction_of(user_id, request, now);
        let action = Action::Post(Box::new(transaction));
        Ok(self.command(&Arc::new(ctx.clone()), user_id, action, None))
    }

    /// Confirms, fails or cancels a pending transaction; durable on return. `only_unsubmitted`: refuse when
    /// it was submitted (for sessions).
    ///
    /// # Errors
    /// As [`post`](Self::post).
    #[expect(
        clippy::too_many_arguments,
        reason = "each says another thing; a struct would only rename them"
    )]
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
        let action = Action::Settle {
            transaction_id: id,
            to,
            details: Box::new(request),
            only_unsubmitted,
            salt: random_bytes(),
        };
        let key = key.map(|key| idempotency(ctx, format!("{}/{id}", to.verb()), key));
        self.execute(self.command(&Arc::new(ctx.clone()), user_id, action, key))
            .await
    }

    /// A pending withdrawal is on its way: from here on it neither expires nor is cancelled by a session.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub async fn submit(
        &self,
        ctx: &Context,
        user_id: UserId,
        id: TransactionId,
        request: SendOut,
        key: Option<RequestKey>,
    ) -> Result<Outcome, Error> {
        let action = Action::Submit {
            transaction_id: id,
            tx_hash: request.tx_hash,
        };
        let key = key.map(|key| idempotency(ctx, format!("submit/{id}"), key));
        self.execute(self.command(&Arc::new(ctx.clone()), user_id, action, key))
            .await
    }

    /// 1 to [`MAX_BATCH_ITEMS`] postings. Atomic: all, or the first that failed. Not atomic: each by itself,
    /// committed with its own part of the key, so that a retry after a crash finishes what is missing. A caller
    /// that goes away does not stop it; the end of the process does, between parts.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] at once when as many batches as are done at once are running, of callers that
    /// went away too, and when the turn of an atomic one does not come in time: nothing was done.
    /// [`Error::Invalid`] for the number of items, and for a faulty item of an atomic batch;
    /// [`Error::BatchFailed`]; else as [`post`](Self::post).
    pub async fn batch(
        &self,
        ctx: &Context,
        request: BatchRequest,
        key: RequestKey,
    ) -> Result<BatchAnswer, Error> {
        guard::outside(StoreKind::Relational)?;
        check_size(request.items.len()).map_err(Error::Invalid)?;
        let now = self.clock.now();
        let batch_key = BatchKey {
            principal: ctx.principal.clone(),
            key: key.key.clone(),
            fingerprint: key.fingerprint,
            at: now,
        };
        let running = self
            .running
            .enter(format!("batch\0{}\0{}", ctx.principal.as_str(), key.key))
            .await?;
        // Not before: who waits for an earlier one with the same key goes with its caller, and takes no place.
        let turn = self.turns.batch()?;
        let (service, ctx) = (self.clone(), Arc::new(ctx.clone()));
        uncancelled(async move {
            let _kept_to_the_end = (turn, running);
            if request.atomic {
                service.atomic_batch(&ctx, request, batch_key, now).await
            } else {
                service
                    .itemwise_batch(&ctx, request, batch_key, &key, now)
                    .await
            }
        })
        .await?
    }

    async fn atomic_batch(
        &self,
        ctx: &Arc<Context>,
        request: BatchRequest,
        key: BatchKey,
        now: Timestamp,
    ) -> Result<BatchAnswer, Error> {
        let mut commands = Vec::with_capacity(request.items.len());
        let mut faults = Faults::default();
        for (index, item) in request.items.into_iter().enumerate() {
            match item.and_then(|item| checked(item, index)) {
                Ok((user_id, request)) => {
                    let transaction = self.transaction_of(user_id, request, now);
                    let action = Action::Post(Box::new(transaction));
                    commands.push(self.command(ctx, user_id, action, None));
                }
                Err(more) => faults.extend(more),
            }
        }
        faults.into_result().map_err(Error::Invalid)?;
        let batch = AtomicBatch {
            key: Some(key),
            request_id: Arc::clone(&ctx.request_id),
            commands,
        };
        let turn = self.turns.atomic().await?;
        let outcome = commit::post_atomic(&*self.store, &self.cache, &batch).await;
        drop(turn);
        let outcome = outcome?;
        match outcome.result {
            Ok(posted) => Ok(BatchAnswer {
                request_id: outcome.request_id,
                results: posted
                    .into_iter()
                    .map(|posted| ItemResult::Posted(Box::new(posted)))
                    .collect(),
                replayed: outcome.replayed,
            }),
            Err((index, refusal)) => Err(Error::BatchFailed {
                index,
                refusal,
                request_id: outcome.request_id,
                replayed: outcome.replayed,
            }),
        }
    }

    async fn itemwise_batch(
        &self,
        ctx: &Arc<Context>,
        request: BatchRequest,
        batch_key: BatchKey,
        key: &RequestKey,
        now: Timestamp,
    ) -> Result<BatchAnswer, Error> {
        let claim = commit::claim(&*self.store, &batch_key, &ctx.request_id).await?;
        let (request_id, is_again) = match claim {
            BatchClaim::New => (Arc::clone(&ctx.request_id), false),
            BatchClaim::Again { request_id } => (request_id, true),
        };
        let shared_key: Arc<str> = key.key.as_str().into();
        let mut results: Vec<Option<ItemResult>> = Vec::with_capacity(request.items.len());
        let mut commands = Vec::with_capacity(request.items.len());
        let mut places = Vec::with_capacity(request.items.len());
        for (index, item) in request.items.into_iter().enumerate() {
            match item.and_then(|item| checked(item, index)) {
                Ok((user_id, request)) => {
                    let transaction = self.transaction_of(user_id, request, now);
                    let action = Action::Post(Box::new(transaction));
                    let key = Idempotency {
                        principal: ctx.principal.clone(),
                        scope: format!("batch/{index}").into(),
                        key: Arc::clone(&shared_key),
                        is_new: !is_again,
                        fingerprint: key.fingerprint,
                    };
                    commands.push(self.command(ctx, user_id, action, Some(key)));
                    places.push(index);
                    results.push(None);
                }
                Err(faults) => results.push(Some(ItemResult::Invalid(faults))),
            }
        }
        let outcomes = self.lanes.post(commands).await?;
        // What stores nothing (a faulty item, a time that has passed, a user who is not there) is found anew each time, and with the
        // same words: so a batch is replayed when it was claimed before and nothing was done now.
        let replayed = is_again && outcomes.iter().all(did_nothing);
        for (place, outcome) in places.into_iter().zip(outcomes) {
            if let Some(result) = results.get_mut(place) {
                *result = Some(item_result(outcome));
            }
        }
        Ok(BatchAnswer {
            request_id,
            results: results.into_iter().flatten().collect(),
            replayed,
        })
    }

    /// One command; a duplicate of one that runs waits for it.
    async fn execute(&self, command: Command) -> Result<Outcome, Error> {
        guard::outside(StoreKind::Relational)?;
        let _running = match &command.idempotency {
            Some(idempotency) => Some(
                self.running
                    .enter(running_name(command.user_id, idempotency))
                    .await?,
            ),
            None => None,
        };
        self.batcher.submit(command).await
    }

    /// How many postings wait to be committed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.batcher.waiting()
    }

    pub(super) fn command(
        &self,
        context: &Arc<Context>,
        user_id: UserId,
        action: Action,
        idempotency: Option<Idempotency>,
    ) -> Command {
        Command {
            user_id,
            context: Arc::clone(context),
            idempotency,
            at: match &action {
                Action::Post(transaction) => transaction.created_at,
                _ => self.clock.now(),
            },
            action,
        }
    }

    fn transaction_of(&self, user_id: UserId, request: PostRequest, now: Timestamp) -> Transaction {
        Transaction {
            id: TransactionId::new(now),
            user_id,
            kind: request.kind,
            status: request.status,
            asset: request.asset.unwrap_or(self.default_asset),
            amount: request.amount,
            shares: request.shares,
            expires_at: request.expires_at,
            submitted_at: None,
            client_reference: request.client_reference,
            tx_hash: request.tx_hash,
            block_number: request.block_number,
            gas_used: request.gas_used,
            gas_fee: request.gas_fee,
            confirmations: request.confirmations,
            exchange_rate: request.exchange_rate,
            amount_vnd: request.amount_vnd,
            metadata: canonical_order(request.metadata),
            error_message: None,
            created_at: now,
            confirmed_at: None,
        }
    }

    /// Always from the authority. `None`: there is no such user.
    pub async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError> {
        self.store.balances(user_id).await
    }

    /// As they were at `at`. Before there was the user, there is no balance; since then, one in the default asset;
    /// in another asset at the latest from its first change on. `None`: there is no such user.
    pub async fn balances_at(
        &self,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<Vec<Balance>>, StoreError> {
        self.store
            .balances_at(user_id, at, &self.default_asset)
            .await
    }

    pub async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError> {
        self.store.transaction(user_id, id).await
    }

    /// Newest first. `None`: there is no such user.
    pub async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<TransactionId>,
    ) -> Result<Option<Vec<Transaction>>, StoreError> {
        self.store.transactions(user_id, filter, page).await
    }

    /// Newest first.
    pub async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.store.transaction_history(user_id, id, page).await
    }

    /// Newest first; of one chain, when named. `None`: there is no such user.
    pub async fn history(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        page: &Page<audit::HistoryCursor>,
    ) -> Result<Option<Vec<AuditRow>>, StoreError> {
        self.history.history(user_id, chain, page).await
    }

    /// Over the last six months. `None`: there is no such user.
    pub async fn stats(&self, user_id: UserId) -> Result<Option<Stats>, StoreError> {
        let since = self
            .clock
            .now()
            .minus(Duration::from_secs(STATS_DAYS * 24 * 3_600));
        self.store.stats(user_id, since).await
    }

    pub async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError> {
        self.store.asset(asset).await
    }

    /// Creates the asset or sets its price (above zero), audited; the flag says whether it was made.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a price of zero, [`Error::VersionMismatch`], [`Error::Store`].
    pub async fn put_asset(
        &self,
        ctx: &Context,
        asset: &Asset,
        share_price: Amount,
        expected: Expected,
    ) -> Result<(AssetInfo, bool), Error> {
        if share_price.is_zero() {
            let mut faults = Faults::default();
            faults.add(
                "/share_price",
                FaultCode::OutOfRange,
                "the price must be above zero",
            );
            return Err(Error::Invalid(faults));
        }
        let now = self.clock.now();
        let putting = self.store.put_asset(ctx, asset, share_price, expected, now);
        let (stored, promises) = outbox::collecting(putting).await;
        // Every profile that shows this price: they carry the asset's tag.
        let tags = [asset_tag(asset)];
        match &stored {
            Ok(_) => self.cache.keep(&tags, promises).await,
            Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {
                self.cache.invalidate(&[], &tags).await;
            }
            Err(_) => {}
        }
        stored
    }

    pub async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError> {
        self.store.trial_balance().await
    }

    /// What the sweeps of holds and of answers older than `retention` have not come to yet, counted up to `up_to`.
    pub async fn backlog(&self, retention: Duration, up_to: u32) -> Result<Backlog, StoreError> {
        let now = self.clock.now();
        self.store.backlog(now, now.minus(retention), up_to).await
    }

    /// Deletes answers older than `retention` until none is left, `within` has passed (counted before each of
    /// many short transactions) or `stop` is cancelled; how many. What is left then is for the next call.
    ///
    /// Between two transactions it rests for as long as the last one took: where there is one writer at a time,
    /// postings get at least every second turn.
    ///
    /// # Errors
    /// When the store is away; what went before stays deleted.
    pub async fn purge_idempotency(
        &self,
        retention: Duration,
        within: Duration,
        stop: &CancellationToken,
    ) -> Result<u64, StoreError> {
        let before = self.clock.now().minus(retention);
        let started = Instant::now();
        let mut purged = 0_u64;
        loop {
            let begun = Instant::now();
            let gone = self.store.purge_idempotency(before, PURGE_BATCH).await?;
            purged = purged.saturating_add(gone);
            // Fewer than one table's share: neither table has more.
            if gone < u64::from(PURGE_BATCH) || started.elapsed() >= within {
                return Ok(purged);
            }
            let pause = tokio::time::sleep(begun.elapsed().max(PURGE_PAUSE));
            if stop.run_until_cancelled(pause).await.is_none() {
                return Ok(purged);
            }
        }
    }
}

/// The cache tag of everything that shows an asset's price. One for all assets: the tags of a profile must
/// be known before it is read, and which assets its user holds is known only afterwards.
#[must_use]
pub fn asset_tag(_asset: &Asset) -> String {
    "assets".to_owned()
}

fn check_size(items: usize) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if items == 0 {
        faults.add("/transactions", FaultCode::TooShort, "at least 1 item");
    } else if items > MAX_BATCH_ITEMS {
        faults.add(
            "/transactions",
            FaultCode::TooLong,
            format!("at most {MAX_BATCH_ITEMS} items"),
        );
    }
    faults.into_result()
}

fn checked(
    (user_id, request): (UserId, PostRequest),
    index: usize,
) -> Result<(UserId, PostRequest), Faults> {
    request.check(&format!("/transactions/{index}"))?;
    Ok((user_id, request))
}

/// The same value with its keys in canonical order, so that an answer that is rebuilt from what is stored
/// has the same bytes.
fn canonical_order(metadata: serde_json::Value) -> serde_json::Value {
    if metadata.as_object().is_some_and(serde_json::Map::is_empty) {
        return metadata;
    }
    parse_json(canonical_json(&metadata).as_bytes(), usize::MAX)
        .ok()
        .and_then(|parsed| parsed.into_value().ok())
        .unwrap_or(metadata)
}

fn did_nothing(outcome: &Result<Outcome, Error>) -> bool {
    outcome.as_ref().is_ok_and(|outcome| {
        let refusal = outcome.answer.result.as_ref().err();
        outcome.replayed || refusal.is_some_and(|refusal| !refusal.is_final())
    })
}

fn item_result(outcome: Result<Outcome, Error>) -> ItemResult {
    match outcome {
        Ok(outcome) => match outcome.answer.result {
            Ok(posted) => ItemResult::Posted(Box::new(posted)),
            Err(refusal) => ItemResult::Refused(refusal),
        },
        Err(error) => ItemResult::Failed(error),
    }
}

/// `key` in the part of the service that `scope` names.
fn idempotency(ctx: &Context, scope: impl Into<Arc<str>>, key: RequestKey) -> Idempotency {
    Idempotency {
        principal: ctx.principal.clone(),
        scope: scope.into(),
        key: key.key.into(),
        is_new: false,
        fingerprint: key.fingerprint,
    }
}

fn running_name(user_id: UserId, idempotency: &Idempotency) -> String {
    format!(
        "{user_id}\0{}\0{}\0{}",
        idempotency.principal.as_str(),
        idempotency.scope,
        idempotency.key
    )
}

/// Runs a write to its end whatever becomes of the caller: money is never left half-way.
async fn uncancelled<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(work)
        .await
        .map_err(|died| StoreError::OutcomeUnknown {
            store: StoreKind::Relational,
            reason: died.to_string(),
        })
}
