//! Many postings in one unit: each by itself, or all or none.

use std::sync::Arc;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::SystemClock;
use abunfi::context::Principal;
use abunfi::ids::UserId;
use abunfi::ledger::{
    AtomicBatch, BatchClaim, BatchKey, BatchRequest, Command, Error, ItemResult, PostRequest,
    Refusal, RequestKey, Service, Settlement, TransactionType,
};
use abunfi::money::Amount;

use crate::support::make::{
    Shape as _, context, deposit, next_time, settle, submit, transaction_of, units, vnd, withdraw,
};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    a_slice_of_two_hundred_mixed_postings_gives_each_its_own_result,
    an_empty_slice_is_nothing,
    one_without_funds_fails_alone,
    one_key_twice_in_a_slice_is_done_once,
    a_slice_may_settle_what_it_posts,
    references_are_unique_within_a_slice,
    an_atomic_batch_is_all_or_nothing,
    an_atomic_batch_sees_its_own_effects,
    an_atomic_batch_is_replayed,
    a_refused_atomic_batch_is_replayed_as_well,
    one_batch_key_with_another_batch_is_refused,
    one_atomic_batch_from_many_at_once_is_done_once,
    batches_over_the_same_users_in_opposite_order_all_finish,
    a_batch_is_claimed_once,
    a_batch_whose_claim_was_purged_is_replayed_and_not_done_again,
);

async fn count(stores: &Relational, table: &str) -> i64 {
    stores
        .raw
        .number(&format!("SELECT count(*) FROM {table}"))
        .await
}

async fn a_slice_of_two_hundred_mixed_postings_gives_each_its_own_result(stores: &Relational) {
    stores.asset("USDT").await;
    let mut users = Vec::new();
    for index in 0..10 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    let nobody = UserId::new(next_time());
    // Twenty of each, in turn, so that neighbours differ.
    let commands: Vec<Command> = (0..200)
        .map(|index| {
            let user = users[index / 10 % 10];
            match index % 10 {
                0 => deposit(user, 10),
                1 => withdraw(user, 3),
                2 => withdraw(user, 1_000),
                3 => withdraw(user, 2).pending(),
                4 => deposit(user, 4).asset("USDT"),
                5 => deposit(nobody, 1),
                6 => deposit(user, 1).asset("NOSUCH"),
                7 => deposit(user, 1).key(&format!("key-{}", index / 100), 1),
                8 => deposit(user, 1).reference(&format!("reference-{}", index / 100)),
                _ => withdraw(user, 1).shares("1"),
            }
        })
        .collect();
    let results = stores.ledger.post(&commands).await.unwrap();
    assert_eq!(results.len(), 200);
    for (index, (command, result)) in commands.iter().zip(results).enumerate() {
        let outcome = result.unwrap();
        let second_round = index >= 100;
        assert_eq!(
            outcome.answer.request_id, command.context.request_id,
            "{index}"
        );
        assert!(!outcome.replayed, "{index}: each user has keys of its own");
        match (index % 10, outcome.answer.result) {
            (0 | 1 | 3 | 4 | 7 | 8, Ok(posted)) => {
                let asked = transaction_of(command);
                assert_eq!(
                    (posted.transaction.id, posted.transaction.user_id),
                    (asked.id, asked.user_id)
                );
            }
            (2, Err(Refusal::InsufficientFunds { available })) => {
                // 10 came in and 3 went out; the round before left 10 − 3 − 2 + 1 + 1 = 7.
                assert_eq!(
                    available,
                    if second_round { units(14) } else { units(7) },
                    "{index}"
                );
            }
            (5, Err(Refusal::UserNotFound))
            | (6, Err(Refusal::UnknownAsset { .. }))
            | (
                9,
                Err(Refusal::InsufficientShares {
                    available: Amount::ZERO,
                }),
            ) => {}
            (_, other) => panic!("{index}: {other:?}"),
        }
    }
    for user in users {
        assert_eq!(stores.balance(user).await, (units(14), units(4)));
    }
    assert_eq!(count(stores, "transactions").await, 120);
    stores.check_books().await;
}

async fn an_empty_slice_is_nothing(stores: &Relational) {
    assert!(stores.ledger.post(&[]).await.unwrap().is_empty());
}

async fn one_without_funds_fails_alone(stores: &Relational) {
    let user = stores.user("An").await.id;
    let commands = [
        withdraw(user, 1),
        deposit(user, 5),
        withdraw(user, 6),
        withdraw(user, 5),
        withdraw(user, 1),
        deposit(user, 2),
    ];
    let results = stores.ledger.post(&commands).await.unwrap();
    let done: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().unwrap().answer.result.is_ok())
        .collect();
    assert_eq!(
        done,
        [false, true, false, true, false, true],
        "decided in their order"
    );
    assert_eq!(stores.balance(user).await, (units(2), Amount::ZERO));
    stores.check_books().await;
}

async fn one_key_twice_in_a_slice_is_done_once(stores: &Relational) {
    let user = stores.user("An").await.id;
    let commands: Vec<_> = (0..6)
        .map(|index| deposit(user, 1).key(["a", "b"][index % 2], 1))
        .collect();
    let results = stores.ledger.post(&commands).await.unwrap();
    let outcomes: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let replayed: Vec<_> = outcomes.iter().map(|outcome| outcome.replayed).collect();
    assert_eq!(replayed, [false, false, true, true, true, true]);
    for index in 2..6 {
        assert_eq!(outcomes[index].answer, outcomes[index % 2].answer);
    }
    assert_eq!(stores.balance(user).await.0, units(2));
    stores.check_books().await;
}

async fn a_slice_may_settle_what_it_posts(stores: &Relational) {
    let user = stores.user("An").await.id;
    // In this order: an id says when its transaction is done, and that is never before the one before it.
    let deposit = deposit(user, 10);
    let hold = withdraw(user, 4).pending();
    let id = transaction_of(&hold).id;
    let commands = [
        deposit,
        hold,
        submit(user, id),
        settle(user, id, Settlement::Confirm),
        settle(user, id, Settlement::Fail),
    ];
    let results = stores.ledger.post(&commands).await.unwrap();
    let done: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().unwrap().answer.result.is_ok())
        .collect();
    assert_eq!(done, [true, true, true, true, false]);
    assert_eq!(stores.balance(user).await, (units(6), Amount::ZERO));
    let stands = stores.ledger.transaction(user, id).await.unwrap().unwrap();
    assert!(stands.submitted_at.is_some() && stands.confirmed_at.is_some());
    stores.check_books().await;
}

async fn references_are_unique_within_a_slice(stores: &Relational) {
    let user = stores.user("An").await.id;
    let commands = [
        deposit(user, 1).reference("r").tx_hash("0x1"),
        deposit(user, 1).reference("r"),
        deposit(user, 1).tx_hash("0x1"),
        withdraw(user, 9).reference("free"),
        deposit(user, 1).reference("free"),
    ];
    let results = stores.ledger.post(&commands).await.unwrap();
    let said: Vec<_> = results
        .into_iter()
        .map(|result| result.unwrap().answer.result.map(|_posted| ()))
        .collect();
    assert_eq!(
        said,
        [
            Ok(()),
            Err(Refusal::ClientReferenceTaken),
            Err(Refusal::TxHashTaken),
            Err(Refusal::InsufficientFunds {
                available: units(1)
            }),
            // What was refused has taken nothing.
            Ok(()),
        ]
    );
    stores.check_books().await;
}

fn atomic(key: Option<(&str, u8)>, commands: Vec<Command>) -> AtomicBatch {
    let at = next_time();
    AtomicBatch {
        key: key.map(|(key, body)| batch_key(key, body)),
        request_id: format!("batch-{}", at.micros()).into(),
        commands,
    }
}

fn batch_key(key: &str, body: u8) -> BatchKey {
    BatchKey {
        principal: Principal::key_owner("conformance"),
        key: key.to_owned(),
        fingerprint: [body; 32],
        at: next_time(),
    }
}

async fn an_atomic_batch_is_all_or_nothing(stores: &Relational) {
    let (an, binh) = (
        stores.user_with("An", 10).await,
        stores.user("Binh").await.id,
    );
    let before = count(stores, "audit").await;
    let batch = atomic(
        Some(("k", 1)),
        vec![
            withdraw(an, 4),
            deposit(binh, 4),
            withdraw(an, 7),
            withdraw(binh, 99),
        ],
    );
    let outcome = stores.ledger.post_atomic(&batch).await.unwrap();
    let refusal = Refusal::InsufficientFunds {
        available: units(6),
    };
    assert_eq!(
        outcome.result,
        Err((2, refusal)),
        "the first that failed, by its index"
    );
    assert!(!outcome.replayed);
    assert_eq!(stores.balance(an).await, (units(10), Amount::ZERO));
    assert_eq!(stores.balance(binh).await, (Amount::ZERO, Amount::ZERO));
    assert_eq!(count(stores, "audit").await, before);

    let batch = atomic(
        Some(("k2", 1)),
        vec![withdraw(an, 4), deposit(binh, 4), withdraw(an, 6)],
    );
    let posted = stores
        .ledger
        .post_atomic(&batch)
        .await
        .unwrap()
        .result
        .unwrap();
    assert_eq!(posted.len(), 3);
    for (posted, command) in posted.iter().zip(&batch.commands) {
        assert_eq!(posted.transaction.id, transaction_of(command).id);
    }
    assert_eq!(stores.balance(an).await, (Amount::ZERO, Amount::ZERO));
    assert_eq!(stores.balance(binh).await, (units(4), Amount::ZERO));
    stores.check_books().await;
}

async fn an_atomic_batch_sees_its_own_effects(stores: &Relational) {
    let user = stores.user("An").await.id;
    let deposit = deposit(user, 5);
    let hold = withdraw(user, 5).pending();
    let id = transaction_of(&hold).id;
    let batch = atomic(
        None,
        vec![
            deposit,
            hold,
            settle(user, id, Settlement::Cancel),
            withdraw(user, 5),
        ],
    );
    let posted = stores
        .ledger
        .post_atomic(&batch)
        .await
        .unwrap()
        .result
        .unwrap();
    let versions: Vec<_> = posted.iter().map(|posted| posted.balance.version).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    assert_eq!(stores.balance(user).await, (Amount::ZERO, Amount::ZERO));
    stores.check_books().await;
}

async fn an_atomic_batch_is_replayed(stores: &Relational) {
    let user = stores.user("An").await.id;
    let first = atomic(Some(("k", 1)), vec![deposit(user, 5), withdraw(user, 2)]);
    let done = stores.ledger.post_atomic(&first).await.unwrap();
    assert!(!done.replayed);
    assert_eq!(done.request_id, first.request_id);

    // The retry brings ids and times of its own.
    let retry = atomic(Some(("k", 1)), vec![deposit(user, 5), withdraw(user, 2)]);
    let again = stores.ledger.post_atomic(&retry).await.unwrap();
    assert!(again.replayed);
    assert_eq!(
        (&again.request_id, &again.result),
        (&done.request_id, &done.result)
    );
    assert_eq!(stores.balance(user).await, (units(3), Amount::ZERO));
    assert_eq!(count(stores, "transactions").await, 2);
    stores.check_books().await;
}

async fn a_refused_atomic_batch_is_replayed_as_well(stores: &Relational) {
    let user = stores.user("An").await.id;
    let batch = || atomic(Some(("k", 1)), vec![deposit(user, 5), withdraw(user, 7)]);
    let refused = stores.ledger.post_atomic(&batch()).await.unwrap();
    assert_eq!(
        refused.result,
        Err((
            1,
            Refusal::InsufficientFunds {
                available: units(5)
            }
        ))
    );
    stores.posted(deposit(user, 100)).await;
    let again = stores.ledger.post_atomic(&batch()).await.unwrap();
    assert!(again.replayed);
    assert_eq!(
        (&again.request_id, &again.result),
        (&refused.request_id, &refused.result)
    );
    assert_eq!(stores.balance(user).await.0, units(100));
    stores.check_books().await;
}

async fn one_batch_key_with_another_batch_is_refused(stores: &Relational) {
    let user = stores.user("An").await.id;
    stores
        .ledger
        .post_atomic(&atomic(Some(("k", 1)), vec![deposit(user, 5)]))
        .await
        .unwrap();
    let other = atomic(Some(("k", 2)), vec![deposit(user, 6)]);
    let reused = stores.ledger.post_atomic(&other).await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );
    assert_eq!(stores.balance(user).await.0, units(5));
    // Another principal's key of the same name is another key.
    let mut elsewhere = atomic(Some(("k", 2)), vec![deposit(user, 6)]);
    elsewhere.key.as_mut().unwrap().principal = Principal::key_owner("another");
    assert!(
        !stores
            .ledger
            .post_atomic(&elsewhere)
            .await
            .unwrap()
            .replayed
    );
    assert_eq!(stores.balance(user).await.0, units(11));
    stores.check_books().await;
}

async fn one_atomic_batch_from_many_at_once_is_done_once(stores: &Relational) {
    let (an, binh) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let outcomes = at_once(16, |_index| {
        let stores = stores.clone();
        let batch = atomic(Some(("k", 1)), vec![deposit(an, 5), deposit(binh, 2)]);
        async move { stores.ledger.post_atomic(&batch).await.unwrap() }
    })
    .await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.replayed).count(),
        15
    );
    for outcome in &outcomes {
        assert_eq!(outcome.request_id, outcomes[0].request_id);
        assert_eq!(outcome.result, outcomes[0].result);
        assert!(outcome.result.is_ok());
    }
    assert_eq!(stores.balance(an).await.0, units(5));
    assert_eq!(stores.balance(binh).await.0, units(2));
    stores.check_books().await;
}

async fn batches_over_the_same_users_in_opposite_order_all_finish(stores: &Relational) {
    stores.asset("USDT").await;
    let mut users = Vec::new();
    for index in 0..6 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    let outcomes = at_once(16, |index| {
        let mut order = users.clone();
        if index % 2 == 0 {
            order.reverse();
        }
        let asset = ["VND", "USDT"][index / 2 % 2];
        let commands: Vec<_> = order
            .into_iter()
            .map(|user| deposit(user, 1).asset(asset))
            .collect();
        let stores = stores.clone();
        async move {
            if index < 8 {
                let batch = atomic(None, commands);
                stores
                    .ledger
                    .post_atomic(&batch)
                    .await
                    .unwrap()
                    .result
                    .is_ok()
            } else {
                let results = stores.ledger.post(&commands).await.unwrap();
                results
                    .iter()
                    .all(|result| result.as_ref().unwrap().answer.result.is_ok())
            }
        }
    })
    .await;
    assert!(outcomes.iter().all(|done| *done), "{outcomes:?}");
    for user in users {
        for balance in stores.ledger.balances(user).await.unwrap().unwrap() {
            assert_eq!(balance.available, units(8));
        }
    }
    stores.check_books().await;
}

async fn a_batch_is_claimed_once(stores: &Relational) {
    let claim = async |key: BatchKey, request: &str| stores.ledger.claim_batch(&key, request).await;
    assert_eq!(
        claim(batch_key("k", 1), "first").await.unwrap(),
        BatchClaim::New
    );
    let again = BatchClaim::Again {
        request_id: "first".into(),
    };
    assert_eq!(claim(batch_key("k", 1), "second").await.unwrap(), again);
    let reused = claim(batch_key("k", 2), "third").await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );
    assert_eq!(
        claim(batch_key("other", 2), "fourth").await.unwrap(),
        BatchClaim::New
    );

    let claims = at_once(8, |index| {
        let (stores, key) = (stores.clone(), batch_key("race", 1));
        async move {
            stores
                .ledger
                .claim_batch(&key, &format!("request-{index}"))
                .await
                .unwrap()
        }
    })
    .await;
    let new: Vec<_> = (0..8)
        .filter(|index| claims[*index] == BatchClaim::New)
        .collect();
    assert_eq!(new.len(), 1, "{claims:?}");
    let winner = BatchClaim::Again {
        request_id: format!("request-{}", new[0]).into(),
    };
    assert_eq!(claims.iter().filter(|claim| **claim == winner).count(), 7);
}

/// The claim goes a little before the answers of its items, since it is a little older.
async fn a_batch_whose_claim_was_purged_is_replayed_and_not_done_again(stores: &Relational) {
    let mut users = Vec::new();
    for name in ["An", "Binh", "Chi"] {
        users.push(stores.user_with(name, 1).await);
    }
    let clock = Arc::new(SystemClock);
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    let service = Service::new(ledger, audit, cache, clock, vnd(), 2);
    let (ctx, nobody) = (context(), UserId::new(next_time()));
    let run = async |key: &str| {
        let item = |index: usize| match index {
            // One that stores a refusal, and one that stores nothing.
            7 => (users[0], TransactionType::Withdraw, units(1_000)),
            8 => (nobody, TransactionType::Deposit, units(1)),
            _ => (users[index % 3], TransactionType::Deposit, units(1)),
        };
        let items = (0..30)
            .map(item)
            .map(|(user, kind, amount)| Ok((user, PostRequest::new(kind, amount))));
        let request = BatchRequest {
            atomic: false,
            items: items.collect(),
        };
        let key = RequestKey {
            key: key.to_owned(),
            fingerprint: [1; 32],
        };
        service.batch(&ctx, request, key).await.unwrap()
    };
    let posted = |answer: &abunfi::ledger::BatchAnswer| -> Vec<_> {
        let ids = answer.results.iter().map(|result| match result {
            ItemResult::Posted(posted) => Some(posted.transaction.id),
            _ => None,
        });
        ids.collect()
    };
    let first = run("k").await;
    assert_eq!(posted(&first).iter().flatten().count(), 28);
    let deleted = stores.raw.execute("DELETE FROM batch_keys").await.unwrap();
    assert_eq!(deleted, 1);

    let again = run("k").await;
    assert_eq!(posted(&again), posted(&first));
    assert_eq!(count(stores, "transactions").await, 3 + 28);
    stores.check_books().await;
    assert_ne!(posted(&run("another").await), posted(&first));
}
