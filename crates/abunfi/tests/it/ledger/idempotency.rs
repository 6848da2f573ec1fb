//! One key, one effect, one answer.

use std::sync::Arc;
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::{ManualClock, Timestamp};
use abunfi::context::Principal;
use abunfi::ids::UserId;
use abunfi::ledger::{
    BatchClaim, BatchKey, Command, Due, Error, Refusal, Service, Settlement, TransactionStatus,
};
use abunfi::money::{Amount, Decimal18};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::make::{
    Shape as _, at, deposit, idempotency, next_time, settle, submit, transaction_of, units, vnd,
    withdraw,
};
use crate::support::{Raw, Relational, at_once, on_every_backend};

on_every_backend!(
    a_replay_answers_the_same_and_does_nothing,
    sixteen_tasks_with_one_key_at_once_make_one_posting,
    one_key_with_another_request_is_refused,
    one_key_at_once_with_two_requests_serves_one_of_them,
    a_refusal_is_stored_and_replayed,
    an_unknown_user_is_never_stored,
    a_time_that_has_passed_is_never_stored,
    one_key_belongs_to_one_user_principal_and_scope,
    settling_and_submitting_replay_as_well,
    an_answer_that_is_put_together_again_has_the_same_bytes,
    keys_are_compared_byte_for_byte,
    old_keys_are_purged_a_few_at_a_time,
    one_purge_takes_a_whole_backlog_and_nothing_young,
    a_purge_ends_when_it_is_stopped_or_its_time_is_over,
    a_key_that_is_new_no_more_is_looked_up,
    a_key_that_is_not_new_is_found_by_what_stores_nothing,
    sixteen_tasks_with_one_new_key_at_once_make_one_posting,
);

async fn count(stores: &Relational, table: &str) -> i64 {
    stores
        .raw
        .number(&format!("SELECT count(*) FROM {table}"))
        .await
}

async fn a_replay_answers_the_same_and_does_nothing(stores: &Relational) {
    let user = stores.user("An").await.id;
    let first = stores.post(deposit(user, 10).key("k", 1)).await.unwrap();
    assert!(!first.replayed);
    stores.posted(deposit(user, 5)).await;

    // The retry has an id, a time and a request id of its own.
    let again = stores.post(deposit(user, 10).key("k", 1)).await.unwrap();
    assert!(again.replayed);
    assert_eq!(
        again.answer, first.answer,
        "balance, times and request id of the first time"
    );
    assert_eq!(
        serde_json::to_string(&again.answer).unwrap(),
        serde_json::to_string(&first.answer).unwrap()
    );
    assert_eq!(stores.balance(user).await, (units(15), Amount::ZERO));
    assert_eq!(count(stores, "transactions").await, 2);
    stores.check_books().await;
}

/// As a command of a batch that has just been claimed.
fn new(mut command: Command) -> Command {
    if let Some(key) = &mut command.idempotency {
        key.is_new = true;
    }
    command
}

/// Another instance, which found the claim there, was faster with this item.
async fn a_key_that_is_new_no_more_is_looked_up(stores: &Relational) {
    let user = stores.user("An").await.id;
    let first = stores
        .post(new(deposit(user, 10).key("k", 1)))
        .await
        .unwrap();
    assert!(!first.replayed);
    let again = [
        new(deposit(user, 1).key("other", 1)),
        new(deposit(user, 10).key("k", 1)),
    ];
    let again = stores.ledger.post(&again).await.unwrap();
    assert!(!again[0].as_ref().unwrap().replayed);
    let replay = again[1].as_ref().unwrap();
    assert!(replay.replayed);
    assert_eq!(replay.answer, first.answer);
    let reused = stores.post(new(deposit(user, 11).key("k", 2))).await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );
    assert_eq!(stores.balance(user).await, (units(11), Amount::ZERO));
    assert_eq!(count(stores, "transactions").await, 2);
    stores.check_books().await;
}

/// The hold was made in time, and this attempt comes after its end: a refusal that would store nothing.
async fn a_key_that_is_not_new_is_found_by_what_stores_nothing(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let hold = || withdraw(user, 1).pending().expires(at(50_000)).key("k", 1);
    let first = stores.post(new(hold().at(at(40_000)))).await.unwrap();
    assert!(first.answer.result.is_ok());
    let late = stores.post(new(hold().at(at(60_000)))).await.unwrap();
    assert!(late.replayed, "{late:?}");
    assert_eq!(late.answer, first.answer);
    let fresh = withdraw(user, 1).pending().expires(at(50_000)).key("l", 1);
    let refused = stores.post(new(fresh.at(at(60_000)))).await.unwrap();
    assert_eq!(refused.answer.result, Err(Refusal::Expired));
    stores.check_books().await;
}

async fn sixteen_tasks_with_one_new_key_at_once_make_one_posting(stores: &Relational) {
    let user = stores.user("An").await.id;
    let outcomes = at_once(16, |_index| {
        let stores = stores.clone();
        let command = new(deposit(user, 7).key("the-key", 1));
        async move { stores.post(command).await.unwrap() }
    })
    .await;
    let replayed = outcomes.iter().filter(|outcome| outcome.replayed).count();
    assert_eq!(replayed, 15);
    for outcome in &outcomes {
        assert_eq!(outcome.answer, outcomes[0].answer);
    }
    assert_eq!(stores.balance(user).await, (units(7), Amount::ZERO));
    stores.check_books().await;
}

async fn sixteen_tasks_with_one_key_at_once_make_one_posting(stores: &Relational) {
    // The account exists in the first round and is opened by the racers in the second.
    stores.asset("USDT").await;
    for code in ["VND", "USDT"] {
        let user = stores.user(code).await.id;
        let before = count(stores, "transactions").await;
        let outcomes = at_once(16, |_index| {
            let stores = stores.clone();
            let command = deposit(user, 7).asset(code).key("the-key", 1);
            async move { stores.post(command).await.unwrap() }
        })
        .await;
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.replayed).count(),
            15
        );
        assert!(outcomes[0].answer.result.is_ok());
        for outcome in &outcomes {
            assert_eq!(outcome.answer, outcomes[0].answer);
        }
        assert_eq!(count(stores, "transactions").await, before + 1);
    }
    assert_eq!(count(stores, "idempotency_keys").await, 2);
    stores.check_books().await;
}

async fn one_key_with_another_request_is_refused(stores: &Relational) {
    let user = stores.user("An").await.id;
    stores.posted(deposit(user, 10).key("k", 1)).await;
    let reused = stores.post(deposit(user, 11).key("k", 2)).await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );
    assert_eq!(stores.balance(user).await.0, units(10));
    let first = stores.post(deposit(user, 10).key("k", 1)).await.unwrap();
    assert!(first.replayed, "the first request still owns the key");

    // Within one slice as well, and the others in it are not hurt.
    let slice = [
        deposit(user, 1).key("s", 1),
        deposit(user, 2).key("s", 2),
        deposit(user, 3).key("k", 9),
        deposit(user, 4),
    ];
    let results = stores.ledger.post(&slice).await.unwrap();
    assert!(results[0].as_ref().unwrap().answer.result.is_ok());
    assert!(matches!(results[1], Err(Error::IdempotencyKeyReused)));
    assert!(matches!(results[2], Err(Error::IdempotencyKeyReused)));
    assert!(results[3].as_ref().unwrap().answer.result.is_ok());
    assert_eq!(stores.balance(user).await.0, units(15));
    stores.check_books().await;
}

async fn one_key_at_once_with_two_requests_serves_one_of_them(stores: &Relational) {
    for round in 0..5 {
        let user = stores.user(&format!("An-{round}")).await.id;
        let results = at_once(8, |index| {
            let body = u8::try_from(index % 2).unwrap();
            let stores = stores.clone();
            async move { stores.post(deposit(user, 1).key("k", body)).await }
        })
        .await;
        let reused = |result: &Result<_, Error>| matches!(result, Err(Error::IdempotencyKeyReused));
        let refused: Vec<_> = results.iter().map(reused).collect();
        let even = refused
            .iter()
            .step_by(2)
            .filter(|refused| **refused)
            .count();
        let odd = refused
            .iter()
            .skip(1)
            .step_by(2)
            .filter(|refused| **refused)
            .count();
        assert!(
            (even, odd) == (0, 4) || (even, odd) == (4, 0),
            "{refused:?}"
        );
        assert_eq!(stores.balance(user).await.0, units(1));
    }
    stores.check_books().await;
}

async fn a_refusal_is_stored_and_replayed(stores: &Relational) {
    let user = stores.user_with("An", 3).await;
    let first = stores.post(withdraw(user, 5).key("k", 1)).await.unwrap();
    let refusal = Refusal::InsufficientFunds {
        available: units(3),
    };
    assert_eq!(first.answer.result, Err(refusal));
    assert!(!first.replayed);

    // Now there would be enough; the answer to this key is final all the same.
    stores.posted(deposit(user, 100)).await;
    let again = stores.post(withdraw(user, 5).key("k", 1)).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.answer, first.answer);
    let reused = stores.post(withdraw(user, 6).key("k", 2)).await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );

    for (key, command) in [
        ("unknown asset", deposit(user, 1).asset("NOSUCH")),
        (
            "unknown transaction",
            settle(
                user,
                abunfi::ids::TransactionId::new(at(0)),
                Settlement::Fail,
            ),
        ),
        ("taken", deposit(user, 1).reference("r")),
    ] {
        stores.post(deposit(user, 1).reference("r")).await.unwrap();
        let first = stores.post(command.clone().key(key, 1)).await.unwrap();
        assert!(first.answer.result.is_err());
        let again = stores.post(command.key(key, 1)).await.unwrap();
        assert!(again.replayed, "{key}");
        assert_eq!(again.answer, first.answer);
    }
    stores.check_books().await;
}

async fn an_unknown_user_is_never_stored(stores: &Relational) {
    let new = crate::support::make::new_user("late");
    for _ in 0..2 {
        let outcome = stores.post(deposit(new.id, 5).key("k", 1)).await.unwrap();
        assert_eq!(outcome.answer.result, Err(Refusal::UserNotFound));
        assert!(!outcome.replayed);
    }
    stores
        .users
        .create(&crate::support::make::context(), &new)
        .await
        .unwrap();
    stores.posted(deposit(new.id, 5).key("k", 1)).await;
}

async fn a_time_that_has_passed_is_never_stored(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let hold = |end: i64, body: u8| {
        let command = withdraw(user, 1).pending().expires(at(end));
        command.key("k", body)
    };
    for _ in 0..2 {
        let outcome = stores.post(hold(-1, 1)).await.unwrap();
        assert_eq!(outcome.answer.result, Err(Refusal::Expired));
        assert!(!outcome.replayed);
    }
    // The corrected body, with the same key; from then on the key is that body's.
    stores.posted(hold(100_000, 2)).await;
    assert!(stores.post(hold(100_000, 2)).await.unwrap().replayed);
    let reused = stores.post(hold(-1, 1)).await;
    assert!(
        matches!(reused, Err(Error::IdempotencyKeyReused)),
        "{reused:?}"
    );
    stores.check_books().await;
}

async fn one_key_belongs_to_one_user_principal_and_scope(stores: &Relational) {
    let (an, binh) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let with = |user: UserId, principal: Principal, scope: &str| {
        let mut command = deposit(user, 1);
        let mut key = idempotency("k", 1);
        key.principal = principal;
        key.scope = scope.into();
        command.idempotency = Some(key);
        command
    };
    let shop = || Principal::key_owner("shop");
    let commands: Vec<Command> = vec![
        with(an, shop(), "post"),
        with(binh, shop(), "post"),
        with(an, Principal::key_owner("other"), "post"),
        with(an, Principal::user(an), "post"),
        with(an, shop(), "batch/0"),
        with(an, shop(), "batch/1"),
    ];
    for command in &commands {
        stores.posted(command.clone()).await;
    }
    for command in commands {
        assert!(stores.post(command).await.unwrap().replayed);
    }
    assert_eq!(count(stores, "transactions").await, 6);
    stores.check_books().await;
}

async fn settling_and_submitting_replay_as_well(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let hold = withdraw(user, 4).pending();
    let id = transaction_of(&hold).id;
    stores.posted(hold).await;
    let submitted = stores
        .post(submit(user, id).key("submit", 1))
        .await
        .unwrap();
    let confirmed = stores
        .post(settle(user, id, Settlement::Confirm).key("confirm", 1))
        .await
        .unwrap();
    assert!(submitted.answer.result.is_ok() && confirmed.answer.result.is_ok());

    let again = stores
        .post(submit(user, id).key("submit", 1))
        .await
        .unwrap();
    assert!(again.replayed);
    assert_eq!(
        again.answer, submitted.answer,
        "as it was then, although it is confirmed now"
    );
    let again = stores
        .post(settle(user, id, Settlement::Confirm).key("confirm", 1))
        .await
        .unwrap();
    assert!(again.replayed);
    assert_eq!(again.answer, confirmed.answer);
    assert_eq!(stores.balance(user).await, (units(6), Amount::ZERO));
    stores.check_books().await;
}

async fn an_answer_that_is_put_together_again_has_the_same_bytes(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let full = |pending: bool, n: u64| {
        withdraw(user, 1).with(|transaction| {
            if pending {
                transaction.status = TransactionStatus::Pending;
                transaction.confirmed_at = None;
            }
            transaction.client_reference = Some(format!("reference \"{n}\" ñ"));
            transaction.tx_hash = Some(format!("0x{n}"));
            transaction.block_number = Some(0);
            transaction.gas_used = Some(i64::MAX);
            transaction.gas_fee = Decimal18::parse("0.000000000000000001").ok();
            transaction.confirmations = 3;
            transaction.exchange_rate = Decimal18::parse("25000").ok();
            transaction.amount_vnd = Some(units(25_000));
            transaction.metadata = json!({"a": [1.5, 1e300, -0.0, null], "b": {"": "\u{7f}"}});
        })
    };
    let at_once = full(false, 1).key("at once", 1);
    let hold = full(true, 2).key("hold", 1);
    let id = transaction_of(&hold).id;
    let confirm = settle(user, id, Settlement::Confirm)
        .saying(|details| details.reason = Some("paid".to_owned()))
        .key("confirm", 1);
    let refused = withdraw(user, 1_000).key("refused", 1);
    let mut first = Vec::new();
    for command in [at_once, hold, confirm, refused] {
        first.push((command.clone(), stores.post(command).await.unwrap()));
    }
    stores.posted(deposit(user, 5)).await;
    // What is finished is not kept a second time; what may change, and what was refused, is.
    let kept = "SELECT count(*) FROM idempotency_keys WHERE answer IS NOT NULL";
    assert_eq!(stores.raw.number(kept).await, 2);
    for (command, outcome) in first {
        let again = stores.post(command).await.unwrap();
        assert!(again.replayed);
        assert_eq!(
            serde_json::to_string(&again.answer).unwrap(),
            serde_json::to_string(&outcome.answer).unwrap()
        );
    }
    stores.check_books().await;
}

async fn keys_are_compared_byte_for_byte(stores: &Relational) {
    let user = stores.user("An").await.id;
    for key in ["key", "KEY", "key ", "k%y", "k_y", "'", "\\"] {
        stores.posted(deposit(user, 1).key(key, 1)).await;
    }
    assert_eq!(stores.balance(user).await.0, units(7));
    stores.check_books().await;
}

async fn old_keys_are_purged_a_few_at_a_time(stores: &Relational) {
    let user = stores.user("An").await.id;
    let old = next_time();
    for index in 0..5 {
        stores
            .posted(deposit(user, 1).at(old).key(&format!("old-{index}"), 1))
            .await;
    }
    let batch = |key: &str, at| BatchKey {
        principal: Principal::key_owner("conformance"),
        key: key.to_owned(),
        fingerprint: [1; 32],
        at,
    };
    stores
        .ledger
        .claim_batch(&batch("old", old), "request")
        .await
        .unwrap();
    let limit_of_age = old.plus(Duration::from_secs(1_000));
    let new = old.plus(Duration::from_secs(1_001));
    stores.posted(deposit(user, 1).at(new).key("new", 1)).await;
    stores
        .ledger
        .claim_batch(&batch("new", new), "request")
        .await
        .unwrap();

    let due = async |up_to| {
        let backlog = stores.ledger.backlog(old, limit_of_age, up_to).await;
        backlog.unwrap().old_keys
    };
    let all = Due {
        count: 6,
        oldest: Some(old),
    };
    assert_eq!(due(100).await, all, "of postings and of batches");
    assert_eq!(due(2).await, Due { count: 2, ..all }, "up to the bound");
    assert_eq!(
        stores
            .ledger
            .purge_idempotency(limit_of_age, 2)
            .await
            .unwrap(),
        3,
        "two of postings, and the batch's beside them"
    );
    let left = (
        count(stores, "idempotency_keys").await,
        count(stores, "batch_keys").await,
    );
    assert_eq!(left, (4, 1), "each table has a limit of its own");
    let mut purged = 3;
    loop {
        let more = stores
            .ledger
            .purge_idempotency(limit_of_age, 2)
            .await
            .unwrap();
        assert!(more <= 2);
        if more == 0 {
            break;
        }
        purged += more;
    }
    assert_eq!(purged, 6, "five keys of postings and one of a batch");
    assert_eq!(due(100).await, Due::default());

    assert!(
        stores
            .post(deposit(user, 1).at(new).key("new", 1))
            .await
            .unwrap()
            .replayed
    );
    let claimed = stores
        .ledger
        .claim_batch(&batch("new", new), "other")
        .await
        .unwrap();
    assert_eq!(
        claimed,
        BatchClaim::Again {
            request_id: "request".into()
        }
    );
    let claimed = stores
        .ledger
        .claim_batch(&batch("old", new), "other")
        .await
        .unwrap();
    assert_eq!(claimed, BatchClaim::New);
    stores
        .posted(deposit(user, 1).at(new).key("old-0", 2))
        .await;
    stores.check_books().await;
}

/// Keys of postings and of batches, `count` of each, made at `at`: written straight into the tables.
async fn many_keys(stores: &Relational, name: &str, count: u32, at: Timestamp) {
    let is_postgres = matches!(stores.raw, Raw::Postgres(_));
    let numbers = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    );
    let (key_columns, key, blob, at) = if is_postgres {
        (
            "key_hash",
            format!("md5('{name}' || i)::uuid"),
            "'\\x01'::bytea",
            format!(
                "timestamptz 'epoch' + {} * interval '1 microsecond'",
                at.micros()
            ),
        )
    } else {
        let key = format!("'someone', 'scope', '{name}' || i");
        (
            "principal, scope, key",
            key,
            "x'01'",
            at.micros().to_string(),
        )
    };
    let user = if is_postgres {
        "'00000000-0000-7000-8000-000000000001'::uuid"
    } else {
        "x'00000000000070008000000000000001'"
    };
    for statement in [
        format!(
            "INSERT INTO idempotency_keys (user_id, {key_columns}, created_at, fingerprint, answer)
             {numbers} SELECT {user}, {key}, {at}, {blob}, '{{}}' FROM n"
        ),
        format!(
            "INSERT INTO batch_keys (principal, key, fingerprint, request_id, created_at)
             {numbers} SELECT 'someone', '{name}' || i, {blob}, 'r', {at} FROM n"
        ),
    ] {
        let written = stores.raw.execute(&statement).await.unwrap();
        assert_eq!(written, u64::from(count));
    }
}

fn purging(stores: &Relational, now: Timestamp) -> Service {
    let clock = Arc::new(ManualClock::at(now));
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let (ledger, audit) = (stores.ledger.clone(), stores.audit.clone());
    Service::new(ledger, audit, cache, clock, vnd(), 2)
}

const DAY: Duration = Duration::from_secs(24 * 3_600);
const LONG: Duration = Duration::from_secs(60);

async fn one_purge_takes_a_whole_backlog_and_nothing_young(stores: &Relational) {
    let now = next_time().plus(10 * DAY);
    let due = now.minus(DAY).minus(Duration::from_micros(1));
    // More than two transactions' share of each table.
    many_keys(stores, "old", 4_500, due).await;
    many_keys(stores, "young", 3, now.minus(DAY)).await;
    let service = purging(stores, now);
    let stop = CancellationToken::new();
    let purged = service.purge_idempotency(DAY, LONG, &stop).await.unwrap();
    assert_eq!(purged, 9_000);
    assert_eq!(count(stores, "idempotency_keys").await, 3);
    assert_eq!(count(stores, "batch_keys").await, 3);
    let again = service.purge_idempotency(DAY, LONG, &stop).await.unwrap();
    assert_eq!(again, 0, "nothing young is touched");
}

async fn a_purge_ends_when_it_is_stopped_or_its_time_is_over(stores: &Relational) {
    let now = next_time().plus(10 * DAY);
    many_keys(stores, "old", 6_500, now.minus(2 * DAY)).await;
    let service = purging(stores, now);
    let stop = CancellationToken::new();
    let purged = service.purge_idempotency(DAY, Duration::ZERO, &stop);
    assert_eq!(
        purged.await.unwrap(),
        4_000,
        "one transaction: 2,000 of each"
    );
    stop.cancel();
    let purged = service.purge_idempotency(DAY, LONG, &stop).await.unwrap();
    assert_eq!(purged, 4_000, "it does not go on after that one");
    let stop = CancellationToken::new();
    let purged = service.purge_idempotency(DAY, LONG, &stop);
    assert_eq!(purged.await.unwrap(), 5_000);
}
