//! `execute`: several domains' operations in one relational commit, or in none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use abunfi::documents::{DocumentKey, DocumentKind, Expected, HeadWrite};
use abunfi::error::{Error, StoreError, StoreKind};
use abunfi::ids::UserId;
use abunfi::ledger;
use abunfi::money::Amount;
use abunfi::outbox::Effect;
use abunfi::transaction::{Transaction, execute};
use abunfi::users::{self, IdentityKind};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::{Barrier, Notify};
use tokio::time::timeout;

use crate::support::make::{
    Shape as _, at, context, deposit, document, new_user, next_time, query, units, withdraw,
};
use crate::support::{Backend, POOL_SIZE, Relational, at_once, on_every_backend};

on_every_backend!(
    all_domains_commit_together,
    an_error_rolls_everything_back,
    a_panic_changes_nothing_and_arrives,
    a_future_that_is_dropped_changes_nothing_and_holds_nothing,
    nobody_sees_it_before_the_commit,
    a_refusal_is_an_answer_and_the_caller_decides,
    a_refused_operation_leaves_nothing_of_itself,
    keys_are_kept_with_the_commit_only,
    a_conflict_runs_the_body_again,
    a_conflict_that_does_not_end_is_given_up,
    nothing_but_a_conflict_is_repeated,
    transactions_in_opposite_order_both_finish,
    no_store_is_called_inside,
    the_raw_connection_works_inside,
    an_overlooked_error_is_never_half_a_commit,
    tags_are_given_on_commit_only,
    four_times_the_pool_at_once_all_finish,
    many_transactions_on_one_account_lose_no_update,
);

on_every_backend!(
    apart:
    all_domains_commit_together,
    an_error_rolls_everything_back,
);

/// Longer than anything here takes on a busy machine, shorter than the runner's own limit.
const PATIENCE: Duration = Duration::from_secs(40);

fn write(user_id: UserId) -> HeadWrite {
    HeadWrite {
        key: DocumentKey {
            user_id,
            kind: DocumentKind::Metadata,
        },
        expected: Expected::Anything,
        content: Some(document(&json!({"a": 1}))),
        import: None,
        at: next_time(),
    }
}

fn other(reason: &str) -> Error {
    let reason: Box<dyn std::error::Error + Send + Sync> = reason.into();
    Error::Other(reason)
}

/// Rows in every table that a transaction can write.
async fn rows(stores: &Relational) -> Vec<(&'static str, i64)> {
    let tables = [
        "users",
        "user_identities",
        "accounts",
        "transactions",
        "entries",
        "audit",
        "documents",
        "document_heads",
        "idempotency_keys",
        "outbox",
    ];
    let mut rows = Vec::new();
    for table in tables {
        rows.push((
            table,
            stores
                .raw
                .number(&format!("SELECT count(*) FROM {table}"))
                .await,
        ));
    }
    rows
}

/// Posts, and fails the body if it is refused.
async fn post(
    tx: &mut dyn Transaction,
    command: &ledger::Command,
) -> Result<ledger::Posted, Error> {
    let outcome = tx.update_user_balance(command).await?;
    Ok(outcome.answer.result.map_err(ledger::Error::from)?)
}

/// Something of every domain: a new user with money and a document, and money of one who was there.
fn everything(giver: UserId, tx: &mut dyn Transaction) -> BoxFuture<'_, Result<UserId, Error>> {
    async move {
        let new = new_user("new");
        let made = tx.create_user(&context(), &new).await?;
        assert_eq!(made.id, new.id);
        post(tx, &withdraw(giver, 4)).await?;
        post(tx, &deposit(new.id, 4)).await?;
        post(tx, &withdraw(new.id, 1).pending()).await?;
        let written = tx.write_document(&context(), &write(new.id)).await?;
        assert_eq!(written.head.version, 2);

        // It sees its own work.
        let seen = tx.user(new.id).await?.expect("the user just made");
        assert_eq!(
            (seen.balances[0].available, seen.balances[0].locked),
            (units(3), units(1))
        );
        assert!(seen.heads.contains(&written.head));
        let by_email = tx
            .user_by_identity(&query(IdentityKind::Email, "NEW@example.com"))
            .await?;
        assert_eq!(by_email, Some(new.id));
        Ok(new.id)
    }
    .boxed()
}

async fn all_domains_commit_together(stores: &Relational) {
    let giver = stores.user_with("giver", 10).await;
    let (made, _tags) = execute(stores.transactions.as_ref(), move |tx| {
        everything(giver, tx)
    })
    .await
    .unwrap();
    assert_eq!(stores.balance(giver).await, (units(6), Amount::ZERO));
    assert_eq!(stores.balance(made).await, (units(3), units(1)));
    let record = stores.users.find(made).await.unwrap().unwrap();
    let metadata = record
        .heads
        .iter()
        .find(|head| head.kind == DocumentKind::Metadata)
        .unwrap();
    assert_eq!(
        (metadata.version, metadata.hash),
        (2, document(&json!({"a": 1})).hash)
    );
    stores.check_books().await;
}

async fn an_error_rolls_everything_back(stores: &Relational) {
    let giver = stores.user_with("giver", 10).await;
    let before = rows(stores).await;
    let failed: Result<((), _), _> = execute(stores.transactions.as_ref(), move |tx| {
        async move {
            everything(giver, tx).await?;
            Err(other("the caller's own reason"))
        }
        .boxed()
    })
    .await;
    let Err(Error::Other(reason)) = failed else {
        panic!("the body's error: {failed:?}");
    };
    assert_eq!(reason.to_string(), "the caller's own reason");
    assert_eq!(rows(stores).await, before);
    assert_eq!(stores.balance(giver).await.0, units(10));
    stores.check_books().await;
}

async fn a_panic_changes_nothing_and_arrives(stores: &Relational) {
    let giver = stores.user_with("giver", 10).await;
    let before = rows(stores).await;
    for _ in 0..2 * POOL_SIZE {
        let stores = stores.clone();
        let running = tokio::spawn(async move {
            execute(stores.transactions.as_ref(), move |tx| {
                async move {
                    everything(giver, tx).await?;
                    if giver != UserId::new(at(0)) {
                        std::panic::panic_any("from the body");
                    }
                    Ok(())
                }
                .boxed()
            })
            .await
        });
        let panic = running.await.expect_err("the panic arrives").into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"from the body"));
    }
    assert_eq!(rows(stores).await, before);
    let posted = timeout(PATIENCE, stores.posted(deposit(giver, 1)));
    posted.await.expect("the connections are free");
    stores.check_books().await;
}

async fn a_future_that_is_dropped_changes_nothing_and_holds_nothing(stores: &Relational) {
    let giver = stores.user_with("giver", 10).await;
    let before = rows(stores).await;
    for _ in 0..3 {
        let count = usize::try_from(POOL_SIZE).unwrap();
        at_once(count, |index| {
            let stores = stores.clone();
            async move {
                let withdrawn = Arc::new(Notify::new());
                let tells = withdrawn.clone();
                let endless = execute(stores.transactions.as_ref(), move |tx| {
                    let tells = tells.clone();
                    async move {
                        post(tx, &withdraw(giver, 1)).await?;
                        tells.notify_one();
                        std::future::pending::<Result<(), Error>>().await
                    }
                    .boxed()
                });
                // Half of them have withdrawn; most of the others still wait for the account.
                let leaves = async {
                    if index % 2 == 0 {
                        let withdrawn = timeout(PATIENCE, withdrawn.notified());
                        withdrawn.await.expect("each has its turn");
                    } else {
                        tokio::time::sleep(Duration::from_millis(150)).await;
                    }
                };
                tokio::select! {
                    _ended = endless => panic!("it never ends"),
                    () = leaves => {}
                }
            }
        })
        .await;
    }
    let free = timeout(PATIENCE, async {
        at_once(16, |_index| {
            let stores = stores.clone();
            async move { stores.posted(deposit(giver, 1)).await }
        })
        .await
    });
    free.await.expect("no lock and no connection is held");
    assert_eq!(stores.balance(giver).await.0, units(26));
    assert_eq!(
        rows(stores).await[3],
        (before[3].0, before[3].1 + 16),
        "only those that were not dropped"
    );
    stores.check_books().await;
}

async fn nobody_sees_it_before_the_commit(stores: &Relational) {
    let giver = stores.user_with("giver", 10).await;
    let outside = stores.clone();
    let ((), _tags) = execute(stores.transactions.as_ref(), move |tx| {
        let outside = outside.clone();
        async move {
            post(tx, &withdraw(giver, 4)).await?;
            // Another task is not inside the transaction.
            let seen = tokio::spawn(async move { outside.balance(giver).await }).await;
            assert_eq!(seen.unwrap().0, units(10));
            Ok(())
        }
        .boxed()
    })
    .await
    .unwrap();
    assert_eq!(stores.balance(giver).await.0, units(6));
}

async fn a_refusal_is_an_answer_and_the_caller_decides(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let (refusal, _tags) = execute(stores.transactions.as_ref(), move |tx| {
        async move {
            let outcome = tx.update_user_balance(&withdraw(user, 99)).await?;
            // Not enough: it takes what there is instead.
            let refusal = outcome.answer.result.expect_err("there are 10");
            post(tx, &withdraw(user, 10)).await?;
            Ok(refusal)
        }
        .boxed()
    })
    .await
    .unwrap();
    assert_eq!(
        refusal,
        ledger::Refusal::InsufficientFunds {
            available: units(10)
        }
    );
    assert_eq!(stores.balance(user).await.0, Amount::ZERO);
    stores.check_books().await;
}

async fn a_refused_operation_leaves_nothing_of_itself(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let ((), _tags) = execute(stores.transactions.as_ref(), move |tx| {
        async move {
            let mut taken = new_user("second");
            taken.email = users::Email::parse("AN@example.com").unwrap();
            let refused = tx.create_user(&context(), &taken).await;
            assert!(
                matches!(
                    refused,
                    Err(users::Error::IdentityTaken(IdentityKind::Email))
                ),
                "{refused:?}"
            );
            let mismatch = HeadWrite {
                expected: Expected::Version(99),
                ..write(user)
            };
            let refused = tx.write_document(&context(), &mismatch).await;
            assert!(refused.is_err(), "{refused:?}");
            // And the transaction goes on.
            post(tx, &deposit(user, 1)).await?;
            tx.create_user(&context(), &new_user("second")).await?;
            Ok(())
        }
        .boxed()
    })
    .await
    .unwrap();
    assert_eq!(stores.balance(user).await.0, units(11));
    assert_eq!(stores.all_users().await.len(), 2);
    assert_eq!(stores.raw.number("SELECT count(*) FROM accounts").await, 2);
    stores.check_books().await;
}

async fn keys_are_kept_with_the_commit_only(stores: &Relational) {
    let user = stores.user("An").await.id;
    let run = async |fail: bool| {
        execute(stores.transactions.as_ref(), move |tx| {
            async move {
                let outcome = tx
                    .update_user_balance(&deposit(user, 5).key("k", 1))
                    .await?;
                if fail {
                    Err(other("no"))
                } else {
                    Ok(outcome.replayed)
                }
            }
            .boxed()
        })
        .await
        .map(|(replayed, _tags)| replayed)
    };
    run(true).await.expect_err("rolled back, key and all");
    assert!(!run(false).await.unwrap());
    assert!(run(false).await.unwrap());
    assert_eq!(stores.balance(user).await.0, units(5));
    stores.check_books().await;
}

fn conflict() -> Error {
    Error::Store(StoreError::Conflict {
        store: StoreKind::Relational,
    })
}

async fn a_conflict_runs_the_body_again(stores: &Relational) {
    let user = stores.user("An").await.id;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();
    let (run, tags) = execute(stores.transactions.as_ref(), move |tx| {
        let counter = counter.clone();
        async move {
            let run = counter.fetch_add(1, Ordering::SeqCst);
            post(tx, &deposit(user, 5)).await?;
            tx.invalidate(format!("run:{run}"));
            if run < 2 { Err(conflict()) } else { Ok(run) }
        }
        .boxed()
    })
    .await
    .unwrap();
    assert_eq!((run, runs.load(Ordering::SeqCst)), (2, 3));
    assert_eq!(
        stores.balance(user).await.0,
        units(5),
        "only the last run counts"
    );
    assert!(
        tags.contains(&"run:2".to_owned()) && !tags.contains(&"run:0".to_owned()),
        "{tags:?}"
    );
    stores.check_books().await;
}

async fn a_conflict_that_does_not_end_is_given_up(stores: &Relational) {
    let user = stores.user("An").await.id;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();
    let given_up: Result<((), _), _> = execute(stores.transactions.as_ref(), move |tx| {
        let counter = counter.clone();
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            post(tx, &deposit(user, 5)).await?;
            Err(conflict())
        }
        .boxed()
    })
    .await;
    assert!(
        matches!(given_up, Err(Error::Store(StoreError::Conflict { .. }))),
        "{given_up:?}"
    );
    let runs = runs.load(Ordering::SeqCst);
    assert!(
        (2..=100).contains(&runs),
        "a few times, and not for ever: {runs}"
    );
    assert_eq!(stores.balance(user).await.0, Amount::ZERO);
}

async fn nothing_but_a_conflict_is_repeated(stores: &Relational) {
    let unknown = || StoreError::OutcomeUnknown {
        store: StoreKind::Relational,
        reason: "its answer was lost".to_owned(),
    };
    let away = || StoreError::unavailable(StoreKind::Documents, "away");
    for error in [unknown(), away()] {
        let runs = Arc::new(AtomicU32::new(0));
        let (counter, given) = (runs.clone(), error.clone());
        let failed: Result<((), _), _> = execute(stores.transactions.as_ref(), move |_tx| {
            let (counter, given) = (counter.clone(), given.clone());
            async move {
                counter.fetch_add(1, Ordering::SeqCst);
                Err(Error::Store(given))
            }
            .boxed()
        })
        .await;
        assert_eq!(failed.unwrap_err().to_string(), error.to_string());
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}

async fn transactions_in_opposite_order_both_finish(stores: &Relational) {
    let users = [
        stores.user_with("An", 10).await,
        stores.user_with("Binh", 10).await,
    ];
    let meeting = Arc::new(Barrier::new(2));
    let runs = Arc::new(AtomicU32::new(0));
    // Where there is one writer, nobody can meet inside, and there is no conflict.
    let meets = stores.backend == Backend::Postgres;
    let results = timeout(
        PATIENCE,
        at_once(2, |index| {
            let (stores, meeting, runs) = (stores.clone(), meeting.clone(), runs.clone());
            let (first, second) = (users[index], users[1 - index]);
            async move {
                let mut is_first_run = true;
                execute(stores.transactions.as_ref(), move |tx| {
                    let (meeting, runs) = (meeting.clone(), runs.clone());
                    let meets = meets && std::mem::take(&mut is_first_run);
                    async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        post(tx, &withdraw(first, 1)).await?;
                        if meets {
                            // Each holds what the other wants next.
                            meeting.wait().await;
                        }
                        post(tx, &deposit(second, 1)).await?;
                        Ok(())
                    }
                    .boxed()
                })
                .await
            }
        }),
    )
    .await
    .expect("nobody waits for ever");
    for result in results {
        result.unwrap();
    }
    let expected = if meets { 3 } else { 2 };
    assert_eq!(
        runs.load(Ordering::SeqCst),
        expected,
        "one of the two ran again"
    );
    for user in users {
        assert_eq!(stores.balance(user).await.0, units(10));
    }
    stores.check_books().await;
}

async fn no_store_is_called_inside(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let inside = stores.clone();
    let ((), _tags) = execute(stores.transactions.as_ref(), move |tx| {
        let stores = inside.clone();
        async move {
            post(tx, &deposit(user, 1)).await?;
            let is_refused = |result: Result<(), StoreError>| {
                assert!(
                    matches!(result, Err(StoreError::InsideTransaction { .. })),
                    "{result:?}"
                );
            };
            is_refused(stores.users.find(user).await.map(drop));
            is_refused(stores.ledger.balances(user).await.map(drop));
            is_refused(stores.ledger.post(&[deposit(user, 1)]).await.map(drop));
            is_refused(stores.audit.chain(user, "VND", 0, 1).await.map(drop));
            is_refused(stores.heads.heads(user).await.map(drop));
            is_refused(stores.sessions.count(next_time()).await.map(drop));
            is_refused(stores.keys.list().await.map(drop));
            is_refused(stores.outbox.backlog().await.map(drop));
            is_refused(stores.transactions.begin().await.map(drop));
            // The mark follows the work, not the task that it began in.
            let nested = execute(stores.transactions.as_ref(), |_tx| async { Ok(()) }.boxed());
            assert!(matches!(
                nested.await,
                Err(Error::Store(StoreError::InsideTransaction {
                    store: StoreKind::Relational
                }))
            ));
            Ok(())
        }
        .boxed()
    })
    .await
    .unwrap();
    assert_eq!(
        stores.balance(user).await.0,
        units(11),
        "and the transaction itself is unharmed"
    );
    stores
        .users
        .find(user)
        .await
        .unwrap()
        .expect("outside again");
}

/// Runs a statement on the raw connection, whichever it is.
async fn raw(tx: &mut dyn Transaction, sql: &'static str) -> Result<u64, Error> {
    let done = if let Some(connection) = tx.postgres() {
        sqlx::query(sql)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
    } else {
        let connection = tx.sqlite().expect("one of the two");
        sqlx::query(sql)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
    };
    done.map_err(|error| Error::Store(tx.error(error)))
}

async fn the_raw_connection_works_inside(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let is_postgres = stores.backend == Backend::Postgres;
    let rename = async |fail: bool| {
        execute(stores.transactions.as_ref(), move |tx| {
            async move {
                assert_eq!(
                    (tx.postgres().is_some(), tx.sqlite().is_some()),
                    (is_postgres, !is_postgres)
                );
                post(tx, &deposit(user, 1)).await?;
                let changed = raw(tx, "UPDATE users SET name = 'raw'").await?;
                assert_eq!(
                    tx.user(user).await?.unwrap().name.as_str(),
                    "raw",
                    "it is the same transaction"
                );
                if fail { Err(other("no")) } else { Ok(changed) }
            }
            .boxed()
        })
        .await
    };
    rename(true).await.expect_err("rolled back");
    let record = stores.users.find(user).await.unwrap().unwrap();
    assert_eq!(
        (record.name.as_str(), record.balances[0].available),
        ("An", units(10))
    );
    assert_eq!(rename(false).await.unwrap().0, 1);
    let record = stores.users.find(user).await.unwrap().unwrap();
    assert_eq!(
        (record.name.as_str(), record.balances[0].available),
        ("raw", units(11))
    );

    let broken: Result<(u64, _), _> = execute(stores.transactions.as_ref(), move |tx| {
        async move {
            post(tx, &deposit(user, 1)).await?;
            raw(tx, "UPDATE accounts SET available = -1").await
        }
        .boxed()
    })
    .await;
    assert!(matches!(broken, Err(Error::Store(_))), "{broken:?}");
    assert_eq!(stores.balance(user).await.0, units(11));
    stores.check_books().await;
}

/// PostgreSQL answers a commit after a failed statement as if it were well, although it rolls back.
async fn an_overlooked_error_is_never_half_a_commit(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    for failing in [
        "SELECT FROM no_such_table",
        "UPDATE accounts SET available = -1",
    ] {
        let before = stores.balance(user).await.0;
        let result = execute(stores.transactions.as_ref(), move |tx| {
            async move {
                post(tx, &deposit(user, 1)).await?;
                raw(tx, failing).await.expect_err("it fails");
                Ok(())
            }
            .boxed()
        })
        .await;
        let after = stores.balance(user).await.0;
        let expected = if result.is_ok() {
            before.checked_add(units(1)).unwrap()
        } else {
            before
        };
        assert_eq!(after, expected, "{failing}: {result:?}");
        if stores.backend == Backend::Postgres {
            assert!(result.is_err());
        }
    }
    stores.check_books().await;
}

async fn tags_are_given_on_commit_only(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let drain = async || {
        let rows = stores
            .outbox
            .claim(100, Duration::ZERO, Duration::ZERO, at(5_000_000))
            .await
            .unwrap();
        stores.outbox.finish(&rows).await.unwrap();
        rows.into_iter()
            .map(|row| {
                let Effect::Invalidate { tags } = row.effect;
                tags.into_iter().collect::<BTreeSet<_>>()
            })
            .collect::<Vec<_>>()
    };
    let run = async |fail: bool| {
        execute(stores.transactions.as_ref(), move |tx| {
            async move {
                tx.invalidate("mine".to_owned());
                post(tx, &deposit(user, 1)).await?;
                tx.write_document(&context(), &write(user)).await?;
                tx.invalidate("mine".to_owned());
                if fail { Err(other("no")) } else { Ok(()) }
            }
            .boxed()
        })
        .await
    };
    drain().await;
    run(true).await.expect_err("rolled back");
    assert!(drain().await.is_empty());
    let ((), tags) = run(false).await.unwrap();
    let distinct: BTreeSet<_> = tags.iter().cloned().collect();
    assert_eq!(tags.len(), distinct.len(), "each once: {tags:?}");
    assert!(
        distinct.contains("mine") && distinct.contains(&format!("user:{user}")),
        "{tags:?}"
    );
    assert_eq!(drain().await, [distinct], "one row, with the same tags");

    // A transaction that changes nothing promises nothing.
    let ((), tags) = execute(stores.transactions.as_ref(), move |tx| {
        async move {
            tx.user(user).await?;
            Ok(())
        }
        .boxed()
    })
    .await
    .unwrap();
    assert!(tags.is_empty());
    assert!(drain().await.is_empty());
}

async fn four_times_the_pool_at_once_all_finish(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..4 {
        users.push(stores.user_with(&format!("user-{index}"), 100).await);
    }
    let count = usize::try_from(4 * POOL_SIZE).unwrap();
    let running = at_once(count, |index| {
        let (stores, user, to) = (stores.clone(), users[index % 4], users[(index + 1) % 4]);
        async move {
            match index % 4 {
                0 | 1 => {
                    let moved = execute(stores.transactions.as_ref(), move |tx| {
                        async move {
                            // In the order of the users, as everybody should.
                            let (out, into) = (withdraw(user, 1), deposit(to, 1));
                            let (first, second) = if user < to { (out, into) } else { (into, out) };
                            post(tx, &first).await?;
                            tokio::task::yield_now().await;
                            post(tx, &second).await?;
                            Ok(())
                        }
                        .boxed()
                    });
                    moved.await.map(drop).unwrap();
                }
                2 => {
                    stores.posted(deposit(user, 1)).await;
                    stores.posted(withdraw(user, 1)).await;
                }
                _ => {
                    stores.users.find(user).await.unwrap().expect("the user");
                    stores.ledger.trial_balance().await.unwrap();
                    stores.heads.write(&context(), &write(user)).await.unwrap();
                }
            }
        }
    });
    timeout(PATIENCE, running).await.expect("none hangs");
    let mut sum = 0;
    for user in users {
        sum += stores.balance(user).await.0.micros();
    }
    assert_eq!(sum, 400_000_000);
    stores.check_books().await;
}

async fn many_transactions_on_one_account_lose_no_update(stores: &Relational) {
    let user = stores.user_with("An", 20).await;
    let results = at_once(32, |_index| {
        let stores = stores.clone();
        async move {
            execute(stores.transactions.as_ref(), move |tx| {
                async move {
                    // Decides from what it reads, as the closure of an application does; the posting decides
                    // again, from the locked row.
                    let seen = tx.user(user).await?.expect("the user").balances[0].available;
                    let outcome = tx.update_user_balance(&withdraw(user, 1)).await?;
                    Ok((seen, outcome.answer.result.is_ok()))
                }
                .boxed()
            })
            .await
        }
    })
    .await;
    let done = results
        .iter()
        .filter(|result| matches!(result, Ok(((_, true), _))))
        .count();
    let refused = results
        .iter()
        .filter(|result| matches!(result, Ok(((_, false), _))))
        .count();
    assert_eq!((done, refused), (20, 12), "{results:?}");
    assert_eq!(stores.balance(user).await.0, Amount::ZERO);
    stores.check_books().await;
}
