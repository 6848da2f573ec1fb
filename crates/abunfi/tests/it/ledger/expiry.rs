//! Holds that expire, with several instances that look for them at once.

use std::sync::Arc;
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::ManualClock;
use abunfi::config::PostgresConfig;
use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{Page, Service, TransactionStatus};
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;

use super::bounds::lock_accounts;
use sqlx::Connection as _;

use crate::support::make::{Shape as _, at, submit, units, vnd, withdraw};
use crate::support::{Raw, Relational, TOGETHER, at_once, on_every_backend};

on_every_backend!(
    several_instances_cancel_each_hold_once_and_never_a_submitted_one,
    a_hold_that_is_submitted_while_it_expires_is_one_or_the_other,
    a_hold_that_cannot_be_cancelled_leaves_the_others_alone,
    more_holds_that_cannot_be_cancelled_than_a_sweep_takes_do_not_stop_it,
);

mod locked {
    use super::holds_of_a_locked_account_leave_the_others_alone;
    use crate::support::on_one_backend;

    on_one_backend!(postgres, Postgres:
        holds_of_a_locked_account_leave_the_others_alone,
    );
}

/// When the holds expire: after the times that the test's commands carry.
const END: i64 = 100_000;

async fn several_instances_cancel_each_hold_once_and_never_a_submitted_one(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    let hold = async |end: i64| {
        let command = withdraw(user, 1).pending().expires(at(end));
        stores.posted(command).await.transaction.id
    };
    let (mut due, mut submitted) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        due.push(hold(END).await);
    }
    for _ in 0..5 {
        let id = hold(END).await;
        stores.posted(submit(user, id)).await;
        submitted.push(id);
    }
    let later = hold(END + 1).await;

    let clock = Arc::new(ManualClock::at(at(END).minus(Duration::from_micros(1))));
    let instance = || {
        let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
        let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
        Arc::new(Service::new(ledger, audit, cache, clock.clone(), vnd(), 2))
    };
    let instances = [instance(), instance()];
    let sweep = async || {
        let swept = at_once(6, |index| {
            let instance = instances[index % 2].clone();
            async move { instance.expire_holds().await.expect("a sweep") }
        });
        swept.await.into_iter().sum::<u64>()
    };
    assert_eq!(sweep().await, 0, "a microsecond too early");
    clock.advance(Duration::from_micros(1));
    assert_eq!(sweep().await, 20, "each once, whoever came first");
    assert_eq!(sweep().await, 0);

    let status = async |id| {
        let found = stores
            .ledger
            .transaction(user, id)
            .await
            .expect("an answer");
        found.expect("the transaction").status
    };
    for id in &due {
        assert_eq!(status(*id).await, TransactionStatus::Cancelled);
        let page = Page {
            after: None,
            limit: 10,
        };
        let history = stores.ledger.transaction_history(user, *id, &page).await;
        let history = history.expect("its history");
        assert_eq!(history.len(), 2, "posted, and cancelled once");
        let newest = &history[0];
        assert_eq!(newest.reason.as_deref(), Some("expired"));
        assert_eq!(&*newest.entry.actor.id, "expiry");
        assert_eq!(newest.entry.new_status.as_deref(), Some("cancelled"));
    }
    for id in submitted.iter().chain([&later]) {
        assert_eq!(status(*id).await, TransactionStatus::Pending);
    }
    assert_eq!(stores.balance(user).await, (units(94), units(6)));
    stores.check_books().await;
}

/// The sweep looks first and cancels then; what was submitted in between is on its way.
async fn a_hold_that_is_submitted_while_it_expires_is_one_or_the_other(stores: &Relational) {
    let user = stores.user_with("An", 1_000).await;
    let clock = Arc::new(ManualClock::at(at(END)));
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    let sweeper = Arc::new(Service::new(ledger, audit, cache, clock, vnd(), 2));
    for _ in 0..12 {
        let mut holds = Vec::new();
        for _ in 0..6 {
            let hold = stores
                .posted(withdraw(user, 1).pending().expires(at(END)))
                .await;
            holds.push(hold.transaction.id);
        }
        let ended = at_once(holds.len() + 1, |index| {
            let (ledger, sweeper, hold) = (
                stores.ledger.clone(),
                sweeper.clone(),
                holds.get(index).copied(),
            );
            async move {
                let Some(hold) = hold else {
                    sweeper.expire_holds().await.expect("a sweep");
                    return false;
                };
                let outcomes = ledger
                    .post(&[submit(user, hold)])
                    .await
                    .expect("a unit of work");
                let outcome = outcomes
                    .into_iter()
                    .next()
                    .expect("an outcome")
                    .expect("an answer");
                outcome.answer.result.is_ok()
            }
        });
        let ended = ended.await;
        sweeper.expire_holds().await.expect("a sweep");
        for (hold, submitted) in holds.iter().zip(ended) {
            let found = stores
                .ledger
                .transaction(user, *hold)
                .await
                .expect("an answer");
            let expected = if submitted {
                TransactionStatus::Pending
            } else {
                TransactionStatus::Cancelled
            };
            assert_eq!(found.expect("the hold").status, expected);
        }
    }
    stores.check_books().await;
}

async fn status(stores: &Relational, user: UserId, hold: TransactionId) -> TransactionStatus {
    let found = stores.ledger.transaction(user, hold).await;
    found.expect("an answer").expect("the hold").status
}

/// Makes the rows of holds with such a reference unreadable.
const BREAK: &str = "UPDATE transactions SET metadata = '{' WHERE client_reference LIKE 'broken%'";
const MEND: &str = "UPDATE transactions SET metadata = NULL WHERE client_reference LIKE 'broken%'";
/// After so long what could not be cancelled is tried again.
const TRIED_AGAIN: Duration = Duration::from_secs(10);

async fn a_hold_that_cannot_be_cancelled_leaves_the_others_alone(stores: &Relational) {
    let mut due = Vec::new();
    for name in ["An", "Binh", "Chi"] {
        let user = stores.user_with(name, 10).await;
        for _ in 0..3 {
            let hold = withdraw(user, 1).pending().expires(at(END));
            due.push((user, stores.posted(hold).await.transaction.id));
        }
    }
    let user = due[4].0;
    let broken = withdraw(user, 1)
        .pending()
        .expires(at(END - 1))
        .reference("broken");
    let broken = stores.posted(broken).await.transaction.id;
    assert_eq!(stores.raw.execute(BREAK).await.unwrap(), 1);

    let clock = Arc::new(ManualClock::at(at(END)));
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    let sweeper = Service::new(ledger, audit, cache, clock.clone(), vnd(), 2);
    assert_eq!(
        sweeper.expire_holds().await.unwrap(),
        9,
        "all but the broken one"
    );
    for (user, hold) in due {
        assert_eq!(
            status(stores, user, hold).await,
            TransactionStatus::Cancelled
        );
    }
    assert_eq!(sweeper.expire_holds().await.unwrap(), 0);

    stores.raw.execute(MEND).await.unwrap();
    assert_eq!(
        status(stores, user, broken).await,
        TransactionStatus::Pending
    );
    clock.advance(TRIED_AGAIN);
    assert_eq!(sweeper.expire_holds().await.unwrap(), 1);
    assert_eq!(
        status(stores, user, broken).await,
        TransactionStatus::Cancelled
    );
    stores.check_books().await;
}

async fn more_holds_that_cannot_be_cancelled_than_a_sweep_takes_do_not_stop_it(
    stores: &Relational,
) {
    let (user, other) = (
        stores.user_with("An", 1_000).await,
        stores.user_with("Binh", 1).await,
    );
    let broken: Vec<_> = (0..250)
        .map(|index| {
            let hold = withdraw(user, 1).pending().expires(at(END - 1));
            hold.reference(&format!("broken-{index}"))
        })
        .collect();
    stores.ledger.post(&broken).await.unwrap();
    assert_eq!(stores.raw.execute(BREAK).await.unwrap(), 250);
    let hold = withdraw(other, 1).pending().expires(at(END));
    let hold = stores.posted(hold).await.transaction.id;

    let clock = Arc::new(ManualClock::at(at(END)));
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    let sweeper = Service::new(ledger, audit, cache, clock.clone(), vnd(), 2);
    for _ in 0..2 {
        sweeper.expire_holds().await.expect("a sweep");
    }
    assert_eq!(
        status(stores, other, hold).await,
        TransactionStatus::Cancelled
    );
    stores.raw.execute(MEND).await.unwrap();
    clock.advance(TRIED_AGAIN);
    for _ in 0..2 {
        sweeper.expire_holds().await.expect("a sweep");
    }
    assert_eq!(stores.balance(user).await, (units(1_000), units(0)));
    stores.check_books().await;
}

async fn holds_of_a_locked_account_leave_the_others_alone(stores: &Relational) {
    let mut due = Vec::new();
    for name in ["An", "Binh", "Chi", "Dung"] {
        let user = stores.user_with(name, 10).await;
        for _ in 0..3 {
            let hold = withdraw(user, 1).pending().expires(at(END));
            due.push((user, stores.posted(hold).await.transaction.id));
        }
    }
    let locked = due[0].0;
    let Raw::Postgres(url) = &stores.raw else {
        panic!("of PostgreSQL");
    };
    // Which waits for locks for half a second.
    let config = PostgresConfig {
        deadline_ms: 1_000,
        ..PostgresConfig::default()
    };
    let options = RelationalOptions {
        migrate: false,
        ..TOGETHER
    };
    let store = Postgres::connect(url, &config, options).await.unwrap();
    let store = Arc::new(store);
    let clock = Arc::new(ManualClock::at(at(END)));
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    // One lane: all of them stand in one part.
    let sweeper = Service::new(store.clone(), store, cache, clock.clone(), vnd(), 1);

    let lock = lock_accounts(stores, locked).await;
    assert_eq!(
        sweeper.expire_holds().await.unwrap(),
        9,
        "all but the locked ones"
    );
    lock.close().await.unwrap();
    clock.advance(TRIED_AGAIN);
    assert_eq!(sweeper.expire_holds().await.unwrap(), 3);
    for (user, hold) in due {
        assert_eq!(
            status(stores, user, hold).await,
            TransactionStatus::Cancelled
        );
    }
    stores.check_books().await;
}
