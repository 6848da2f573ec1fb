use futures::FutureExt;
use futures::future::join_all;

use super::*;
use crate::clock::Timestamp;
use crate::context::{Actor, Context, Principal};
use crate::ids::TransactionId;
use crate::ledger::{Action, Refusal, StoredAnswer};

pub(in crate::ledger) fn command(user: u128, request: &str) -> Command {
    Command {
        user_id: UserId(uuid::Uuid::from_u128(user)),
        context: Arc::new(Context::new(
            Actor::system("test"),
            Principal::key_owner("test"),
            request,
        )),
        idempotency: None,
        at: Timestamp::EPOCH,
        action: Action::Submit {
            transaction_id: TransactionId(uuid::Uuid::nil()),
            tx_hash: None,
        },
    }
}

pub(in crate::ledger) fn outcome(command: &Command) -> Outcome {
    let answer = StoredAnswer {
        request_id: Arc::clone(&command.context.request_id),
        result: Err(Refusal::TransactionNotFound),
    };
    Outcome {
        answer,
        replayed: false,
    }
}

type Noted = Arc<Mutex<Vec<Arc<[Command]>>>>;

/// Commits by noting the batches; each takes `pause`.
fn recorder(pause: Duration) -> (Arc<Commit>, Noted) {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&batches);
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, _| {
        let noted = Arc::clone(&noted);
        async move {
            tokio::time::sleep(pause).await;
            let outcomes = commands
                .iter()
                .map(|command| Ok(outcome(command)))
                .collect();
            noted.lock().unwrap().push(commands);
            Ok(outcomes)
        }
        .boxed()
    });
    (commit, batches)
}

#[tokio::test]
async fn what_waits_is_committed_together_and_each_gets_its_own_result() {
    let (commit, batches) = recorder(Duration::from_millis(20));
    let batcher = Batcher::start(1, &commit);
    let calls = (0..100_u128).map(|n| {
        let batcher = batcher.clone();
        async move {
            batcher
                .submit(command(n, &n.to_string()))
                .await
                .unwrap()
                .answer
                .request_id
        }
    });
    let answers = join_all(calls).await;
    let expected: Vec<Arc<str>> = (0..100).map(|n| n.to_string().into()).collect();
    assert_eq!(answers, expected);
    assert!(
        batches.lock().unwrap().len() <= 3,
        "100 postings took {} commits",
        batches.lock().unwrap().len()
    );
}

#[tokio::test]
async fn a_busy_user_does_not_starve_another() {
    let (commit, batches) = recorder(Duration::from_millis(5));
    let batcher = Batcher::start(1, &commit);
    let busy: Vec<_> = (0..900)
        .map(|_| {
            tokio::spawn({
                let batcher = batcher.clone();
                async move { batcher.submit(command(1, "busy")).await }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    batcher.submit(command(2, "calm")).await.unwrap();
    let before = batches.lock().unwrap().len();
    assert!(before <= 2, "the calm user waited for {before} batches");
    join_all(busy).await;
}

#[tokio::test]
async fn a_user_who_fills_the_queue_is_turned_away_at_once_and_others_are_not() {
    let (commit, _batches) = recorder(Duration::from_millis(50));
    let batcher = Batcher::start(1, &commit);
    let flood: Vec<_> = (0..MAX_WAITING_OF_USER + 300)
        .map(|_| {
            tokio::spawn({
                let batcher = batcher.clone();
                async move { batcher.submit(command(1, "flood")).await }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(batcher.submit(command(2, "other")).await.is_ok());
    let turned_away = join_all(flood)
        .await
        .into_iter()
        .filter(|result| matches!(result, Ok(Err(Error::Store(StoreError::Overloaded { .. })))))
        .count();
    assert!(turned_away > 0);
}

#[tokio::test]
async fn a_posting_that_the_store_stumbles_over_fails_alone() {
    let commit: Arc<Commit> = Arc::new(|commands: Arc<[Command]>, _| {
        async move {
            if commands
                .iter()
                .any(|command| *command.context.request_id == *"poison")
            {
                return Err(StoreError::unexpected(
                    StoreKind::Relational,
                    "numeric overflow",
                ));
            }
            Ok(commands
                .iter()
                .map(|command| Ok(outcome(command)))
                .collect())
        }
        .boxed()
    });
    let batcher = Batcher::start(1, &commit);
    let calls = (0..20_u128).map(|n| {
        let batcher = batcher.clone();
        async move {
            batcher
                .submit(command(n, if n == 7 { "poison" } else { "fine" }))
                .await
        }
    });
    let results = join_all(calls).await;
    let failed: Vec<usize> = results
        .iter()
        .enumerate()
        .filter(|(_, result)| result.is_err())
        .map(|(n, _)| n)
        .collect();
    assert_eq!(failed, [7]);
}

#[tokio::test]
async fn an_unknown_outcome_is_said_to_all_and_never_repeated() {
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let commit: Arc<Commit> = Arc::new(move |_commands, _| {
        *counted.lock().unwrap() += 1;
        async {
            let reason = "the answer was lost".to_owned();
            Err(StoreError::OutcomeUnknown {
                store: StoreKind::Relational,
                reason,
            })
        }
        .boxed()
    });
    let batcher = Batcher::start(1, &commit);
    let result = batcher.submit(command(1, "r")).await;
    assert!(matches!(
        result,
        Err(Error::Store(StoreError::OutcomeUnknown { .. }))
    ));
    assert_eq!(*calls.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_panic_in_one_commit_does_not_stop_the_shard() {
    let commit: Arc<Commit> = Arc::new(|commands: Arc<[Command]>, _| {
        async move {
            assert!(
                commands
                    .iter()
                    .all(|command| *command.context.request_id != *"panic"),
                "seeded"
            );
            Ok(commands
                .iter()
                .map(|command| Ok(outcome(command)))
                .collect())
        }
        .boxed()
    });
    let batcher = Batcher::start(1, &commit);
    assert!(batcher.submit(command(1, "panic")).await.is_err());
    assert!(batcher.submit(command(1, "fine")).await.is_ok());
}

/// Commits at once but for `held`, whose units wait until the gate opens; and the sizes of those units.
fn holding(held: UserId, gate: &Arc<Semaphore>) -> (Arc<Commit>, Arc<Mutex<Vec<usize>>>) {
    let (gate, units) = (Arc::clone(gate), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&units);
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, locks| {
        let (gate, noted) = (Arc::clone(&gate), Arc::clone(&noted));
        async move {
            if locks == Held::WaitedFor {
                assert!(commands.iter().all(|command| command.user_id == held));
                noted.lock().unwrap().push(commands.len());
                gate.acquire().await.unwrap().forget();
            }
            let outcomes = commands.iter().map(|command| {
                if locks == Held::LeftOut && command.user_id == held {
                    let store = StoreKind::Relational;
                    return Err(StoreError::Conflict { store }.into());
                }
                Ok(outcome(command))
            });
            Ok(outcomes.collect())
        }
        .boxed()
    });
    (commit, units)
}

#[tokio::test]
async fn who_waits_for_an_account_keeps_nobody_else_waiting() {
    let gate = Arc::new(Semaphore::new(0));
    let (commit, units) = holding(command(7, "").user_id, &gate);
    let batcher = Batcher::start(1, &commit);
    let submit = |user: u128| {
        let batcher = batcher.clone();
        async move { batcher.submit(command(user, "r")).await }
    };
    let held: Vec<_> = (0..5).map(|_| tokio::spawn(submit(7))).collect();
    // In the same batches and after them, and while the account is held.
    for _ in 0..3 {
        let others = join_all((0..20).filter(|user| *user != 7).map(submit)).await;
        assert!(others.iter().all(Result::is_ok));
    }
    assert!(held.iter().all(|call| !call.is_finished()));
    assert_eq!(units.lock().unwrap().len(), 1, "one unit of a user at once");
    gate.add_permits(5);
    for call in held {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(units.lock().unwrap().iter().sum::<usize>(), 5);
}

#[tokio::test(start_paused = true)]
async fn only_a_few_wait_for_accounts_and_the_others_are_turned_away_in_time() {
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, locks| {
        async move {
            if locks == Held::WaitedFor {
                std::future::pending::<()>().await;
            }
            let store = StoreKind::Relational;
            let held = commands
                .iter()
                .map(|_| Err(StoreError::Conflict { store }.into()));
            Ok(held.collect())
        }
        .boxed()
    });
    let batcher = Batcher::start(1, &commit);
    let calls: Vec<_> = (0..10)
        .map(|user| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(command(user, "r")).await })
        })
        .collect();
    tokio::time::sleep(PATIENT_WAIT + Duration::from_millis(1)).await;
    let ended = calls.iter().filter(|call| call.is_finished()).count();
    assert_eq!(ended, 10 - PATIENT_UNITS);
    for call in calls
        .into_iter()
        .filter(tokio::task::JoinHandle::is_finished)
    {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::Overloaded { .. })));
    }
}

#[tokio::test]
async fn a_posting_that_waits_in_vain_for_something_else_waits_beside_the_shard() {
    let commit: Arc<Commit> = Arc::new(|commands: Arc<[Command]>, locks| {
        async move {
            let is_hit = commands
                .iter()
                .any(|command| *command.context.request_id == *"held");
            if is_hit && locks == Held::LeftOut {
                let store = StoreKind::Relational;
                return Err(StoreError::Conflict { store });
            }
            Ok(commands
                .iter()
                .map(|command| Ok(outcome(command)))
                .collect())
        }
        .boxed()
    });
    let batcher = Batcher::start(1, &commit);
    let calls = (0..20_u128).map(|n| {
        let batcher = batcher.clone();
        async move {
            batcher
                .submit(command(n, if n == 7 { "held" } else { "fine" }))
                .await
        }
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
}

/// A posting that came at `since`, and where its answer comes.
fn job(user: u128, since: Instant) -> (Job, oneshot::Receiver<Result<Outcome, Error>>) {
    let (answer, answered) = oneshot::channel();
    let command = command(user, "r");
    let job = Job {
        command,
        answer,
        since,
    };
    (job, answered)
}

#[tokio::test]
async fn a_posting_that_waited_too_long_is_turned_away_undone() {
    let (commit, batches) = recorder(Duration::ZERO);
    let batcher = Batcher::start(1, &commit);
    let long_ago = Instant::now()
        .checked_sub(MAX_WAIT + Duration::from_millis(100))
        .unwrap();
    let (late, turned_away) = job(1, long_ago);
    let (in_time, done) = job(2, Instant::now());
    for job in [late, in_time] {
        batcher.shards[0].push(job).unwrap();
    }
    assert!(matches!(
        turned_away.await.unwrap(),
        Err(Error::Store(StoreError::Overloaded { .. }))
    ));
    assert!(done.await.unwrap().is_ok());
    let users: Vec<_> = batches
        .lock()
        .unwrap()
        .iter()
        .flat_map(|batch| batch.iter())
        .map(|command| command.user_id)
        .collect();
    assert_eq!(users, [UserId(uuid::Uuid::from_u128(2))]);
}

#[test]
fn a_full_queue_turns_everybody_away_at_once_until_some_of_it_is_taken() {
    let shard = Shard::default();
    let mut callers = Vec::new();
    let mut push = |user: usize| {
        let (job, answered) = job(u128::try_from(user).unwrap(), Instant::now());
        callers.push(answered);
        shard.push(job)
    };
    for user in 0..MAX_WAITING {
        push(user).unwrap();
    }
    // Who has nothing waiting, too.
    assert!(matches!(
        push(MAX_WAITING),
        Err(StoreError::Overloaded { .. })
    ));
    assert_eq!(shard.lock().take().len(), MAX_BATCH);
    push(MAX_WAITING).unwrap();
}
