//! Holds that expire, with several instances that look for them at once.

use std::sync::Arc;
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::ManualClock;
use abunfi::ledger::{Page, Service, TransactionStatus};

use crate::support::make::{Shape as _, at, submit, units, vnd, withdraw};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    several_instances_cancel_each_hold_once_and_never_a_submitted_one,
    a_hold_that_is_submitted_while_it_expires_is_one_or_the_other,
);

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
