//! What the ledger is compared to: the same service, whose ledger store does one transaction for each request,
//! statement by statement, as a careful engineer writes it first. Same router, authentication, body reading,
//! rules, rows and pool size; only the way in which the rows are written differs.

use std::path::PathBuf;
use std::sync::Arc;

use abunfi::audit::AuditRow;
use abunfi::clock::Timestamp;
use abunfi::config::{Config, Secret};
use abunfi::documents::Expected;
use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{
    Action, Asset, AssetInfo, AtomicBatch, Backlog, Balance, BatchClaim, BatchKey, BatchOutcome,
    Command, Error, Outcome, Page, Stats, Store, Transaction, TransactionFilter, TrialBalance,
};
use abunfi::money::Amount;
use abunfi::{Context, DatabaseService, LedgerAround, StoreError, StoreKind};
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures::future::join_all;
use tokio::net::TcpListener;

mod postgres;
mod sqlite;

/// So many that two requests hardly ever wait for each other in the batcher: each is a batch of its own.
const SHARDS: usize = 4_096;

/// Serves like `abunfi serve`, set up by the same variables.
pub(crate) async fn serve() -> Result<()> {
    let mut config = Config {
        port: variable("PORT")?.parse()?,
        data_dir: PathBuf::from(variable("DATA_DIR")?),
        admin_key: Some(Secret::new(variable("ABUNFI_ADMIN_KEY")?)),
        ..Config::default()
    };
    config.database_url = variable("DATABASE_URL").ok().map(Secret::new);
    let listener = TcpListener::bind((config.host, config.port)).await?;
    let way = match &config.database_url {
        Some(url) => Way::Postgres(postgres::Pool::connect(
            url.expose(),
            config.postgres.max_connections,
        )?),
        None => Way::Sqlite(sqlite::Pool::open(&config.data_dir.join("abunfi.db"))),
    };
    let around = LedgerAround {
        wrap: Box::new(|inner| Arc::new(Plain { inner, way })),
        shards: SHARDS,
    };
    let platform = Box::pin(DatabaseService::open_with_ledger(config, around)).await?;
    abunfi_server::serve(platform, listener, std::future::pending()).await?;
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// Postings one by one; all else as the platform does it.
#[derive(Debug)]
struct Plain {
    inner: Arc<dyn Store>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Postgres(postgres::Pool),
    Sqlite(sqlite::Pool),
}

impl Plain {
    async fn one(&self, command: &Command) -> Result<Result<Outcome, Error>, StoreError> {
        let done = match (&command.action, &self.way) {
            (Action::Post(_), Way::Postgres(pool)) => pool.post(command).await,
            (Action::Post(_), Way::Sqlite(pool)) => pool.post(command).await,
            _ => None,
        };
        match done {
            Some(result) => {
                result.map_err(|error| StoreError::unexpected(StoreKind::Relational, error))
            }
            // Not a first posting to an account that is there: none of what is measured.
            None => {
                let outcomes = self.inner.post(std::slice::from_ref(command)).await?;
                outcomes.into_iter().next().ok_or_else(|| {
                    StoreError::unexpected(StoreKind::Relational, "a command without an outcome")
                })
            }
        }
    }
}

#[async_trait]
impl Store for Plain {
    async fn post(&self, commands: &[Command]) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        // Each in a transaction of its own, side by side as far as the pool goes.
        let outcomes = join_all(commands.iter().map(|command| self.one(command))).await;
        outcomes.into_iter().collect()
    }

    async fn post_atomic(&self, batch: &AtomicBatch) -> Result<BatchOutcome, Error> {
        self.inner.post_atomic(batch).await
    }

    async fn claim_batch(&self, key: &BatchKey, request_id: &str) -> Result<BatchClaim, Error> {
        self.inner.claim_batch(key, request_id).await
    }

    async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError> {
        self.inner.balances(user_id).await
    }

    async fn balances_at(
        &self,
        user_id: UserId,
        at: Timestamp,
        default_asset: &Asset,
    ) -> Result<Option<Vec<Balance>>, StoreError> {
        self.inner.balances_at(user_id, at, default_asset).await
    }

    async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError> {
        self.inner.transaction(user_id, id).await
    }

    async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<TransactionId>,
    ) -> Result<Option<Vec<Transaction>>, StoreError> {
        self.inner.transactions(user_id, filter, page).await
    }

    async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.inner.transaction_history(user_id, id, page).await
    }

    async fn stats(&self, user_id: UserId, since: Timestamp) -> Result<Option<Stats>, StoreError> {
        self.inner.stats(user_id, since).await
    }

    async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError> {
        self.inner.asset(asset).await
    }

    async fn put_asset(
        &self,
        ctx: &Context,
        asset: &Asset,
        share_price: Amount,
        expected: Expected,
        at: Timestamp,
    ) -> Result<(AssetInfo, bool), Error> {
        self.inner
            .put_asset(ctx, asset, share_price, expected, at)
            .await
    }

    async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError> {
        self.inner.trial_balance().await
    }

    async fn expired_holds(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(UserId, TransactionId)>, StoreError> {
        self.inner.expired_holds(now, limit).await
    }

    async fn backlog(
        &self,
        now: Timestamp,
        keys_before: Timestamp,
        up_to: u32,
    ) -> Result<Backlog, StoreError> {
        self.inner.backlog(now, keys_before, up_to).await
    }

    async fn purge_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.inner.purge_idempotency(before, limit).await
    }
}
