//! One account whose row somebody keeps locked: the others do not notice.

use std::sync::Arc;
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::SystemClock;
use abunfi::error::StoreError;
use abunfi::ids::UserId;
use abunfi::ledger::{
    BatchAnswer, BatchRequest, Error, MAX_BATCHES, PostRequest, RequestKey, Service,
    TransactionType,
};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{sleep, timeout};

use crate::support::make::{context, units, vnd};
use crate::support::{Raw, Relational, on_one_backend};

on_one_backend!(postgres, Postgres:
    atomic_batches_on_a_locked_account_leave_connections_to_the_others,
    batches_whose_callers_hung_up_are_bounded,
);

/// "At once", on a busy machine: much less than what a connection or a lock is waited for in these tests.
const AT_ONCE: Duration = Duration::from_secs(3);

fn service(stores: &Relational) -> Arc<Service> {
    let clock = Arc::new(SystemClock);
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    Arc::new(Service::new(ledger, audit, cache, clock, vnd(), 2))
}

/// Locks the rows of the user's accounts until it is closed.
pub(super) async fn lock_accounts(stores: &Relational, user: UserId) -> PgConnection {
    let Raw::Postgres(url) = &stores.raw else {
        panic!("of PostgreSQL");
    };
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::raw_sql("BEGIN")
        .execute(&mut connection)
        .await
        .expect("BEGIN");
    let locked = sqlx::query("SELECT FROM accounts WHERE user_id = $1 FOR UPDATE")
        .bind(user.0)
        .fetch_all(&mut connection)
        .await
        .expect("the locks");
    assert!(!locked.is_empty());
    connection
}

fn deposit_of_one() -> PostRequest {
    PostRequest::new(TransactionType::Deposit, units(1))
}

async fn atomic_batch(service: &Service, user: UserId, key: usize) -> Result<BatchAnswer, Error> {
    let request = BatchRequest {
        atomic: true,
        items: vec![Ok((user, deposit_of_one()))],
    };
    let key = RequestKey {
        key: format!("batch-{key}"),
        fingerprint: [1; 32],
    };
    service.batch(&context(), request, key).await
}

async fn atomic_batches_on_a_locked_account_leave_connections_to_the_others(stores: &Relational) {
    let (busy, calm) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let service = service(stores);
    let lock = lock_accounts(stores, busy).await;
    let batches: Vec<_> = (0..32)
        .map(|key| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { atomic_batch(&service, busy, key).await })
        })
        .collect();
    sleep(Duration::from_millis(200)).await;
    let calm_work = async {
        for _ in 0..5 {
            let posted = service.post(&context(), calm, deposit_of_one(), None).await;
            assert!(posted.unwrap().answer.result.is_ok());
            service.balances(calm).await.unwrap().unwrap();
        }
    };
    timeout(AT_ONCE, calm_work)
        .await
        .expect("the calm user's postings and reads wait for the other's batches");
    lock.close().await.unwrap();
    for batch in batches {
        batch.await.unwrap().unwrap();
    }
    assert_eq!(stores.balance(busy).await.0, units(32));
    assert_eq!(stores.balance(calm).await.0, units(5));
    stores.check_books().await;
}

async fn batches_whose_callers_hung_up_are_bounded(stores: &Relational) {
    let user = stores.user("An").await.id;
    let service = service(stores);
    let lock = lock_accounts(stores, user).await;
    for key in 0..MAX_BATCHES {
        let mut call = Box::pin(atomic_batch(&service, user, key));
        assert!(futures::poll!(&mut call).is_pending(), "{key} runs");
    }
    let one_more = timeout(AT_ONCE, atomic_batch(&service, user, MAX_BATCHES)).await;
    let Ok(Err(Error::Store(StoreError::Overloaded { retry_after, .. }))) = one_more else {
        panic!("{one_more:?}");
    };
    assert_eq!(retry_after, Duration::from_secs(1));
    lock.close().await.unwrap();
    // Whose key is known, now or in a while: the batches went on to their ends.
    for key in 0..=MAX_BATCHES {
        while let Err(error) = atomic_batch(&service, user, key).await {
            let is_full = matches!(error, Error::Store(StoreError::Overloaded { .. }));
            assert!(is_full, "{error}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let expected = u64::try_from(MAX_BATCHES).unwrap() + 1;
    assert_eq!(stores.balance(user).await.0, units(expected));
    stores.check_books().await;
}
