use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::ledger::Idempotency;
use crate::ledger::batcher::tests::{command, outcome};

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        store: StoreKind::Relational,
        reason: "the answer was lost".to_owned(),
    }
}

fn is_unknown(result: &Result<Outcome, Error>) -> bool {
    matches!(result, Err(Error::Store(StoreError::OutcomeUnknown { .. })))
}

fn keyed(user: u128) -> Command {
    let mut command = command(user, &user.to_string());
    command.idempotency = Some(Idempotency {
        principal: command.context.principal.clone(),
        scope: "post".into(),
        key: "key".into(),
        is_new: false,
        fingerprint: [0; 32],
    });
    command
}

fn unkeyed(user: u128) -> Command {
    command(user, &user.to_string())
}

type Asked = Arc<Mutex<Vec<(Vec<UserId>, Held)>>>;
type Answers = Vec<fn(&[Command]) -> Committed>;

/// Answers so, one call after the other; and who was asked for.
fn answering(answers: Answers) -> (Arc<Commit>, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let answers = Mutex::new(VecDeque::from(answers));
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, held| {
        let users = commands.iter().map(|command| command.user_id).collect();
        noted.lock().unwrap().push((users, held));
        let answer = answers.lock().unwrap().pop_front().unwrap();
        async move { answer(&commands) }.boxed()
    });
    (asking_again(commit), asked)
}

fn lost(_: &[Command]) -> Committed {
    Err(unknown())
}

fn done(commands: &[Command]) -> Committed {
    Ok(commands
        .iter()
        .map(|command| Ok(outcome(command)))
        .collect())
}

fn users(commands: &[Command]) -> Vec<UserId> {
    commands.iter().map(|command| command.user_id).collect()
}

#[tokio::test]
async fn what_has_a_key_is_asked_for_once_more_and_each_gets_its_own_answer() {
    let (commit, asked) = answering(vec![lost, done]);
    let commands = [keyed(1), unkeyed(2), keyed(3), unkeyed(4)];
    let results = commit(commands.clone().into(), Held::WaitedFor)
        .await
        .unwrap();
    for (command, result) in commands.iter().zip(&results) {
        match result {
            Ok(found) => assert_eq!(found.answer.request_id, command.context.request_id),
            result => assert!(is_unknown(result), "{result:?}"),
        }
    }
    let known: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(known, [true, false, true, false]);
    let asked = asked.lock().unwrap().clone();
    let second = (users(&[keyed(1), keyed(3)]), Held::LeftOut);
    assert_eq!(asked, [(users(&commands), Held::WaitedFor), second]);
}

#[tokio::test]
async fn what_this_request_did_the_first_time_is_no_replay() {
    let (commit, _) = answering(vec![lost, |commands| {
        let stored = [&commands[0], &keyed(9)].map(|command| Outcome {
            replayed: true,
            ..outcome(command)
        });
        Ok(stored.map(Ok).into())
    }]);
    let results = commit([keyed(1), keyed(2)].into(), Held::LeftOut).await;
    let replayed = results
        .unwrap()
        .into_iter()
        .map(|result| result.unwrap().replayed);
    assert_eq!(replayed.collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn what_has_no_key_is_never_repeated() {
    let (commit, asked) = answering(vec![lost]);
    let result = commit([unkeyed(1), unkeyed(2)].into(), Held::LeftOut).await;
    assert!(matches!(result, Err(StoreError::OutcomeUnknown { .. })));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_certain_is_not_asked_for() {
    let away: fn(&[Command]) -> Committed =
        |_| Err(StoreError::unavailable(StoreKind::Relational, "away"));
    for answer in [done, away] {
        let (commit, asked) = answering(vec![answer]);
        drop(commit([keyed(1)].into(), Held::LeftOut).await);
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_second_answer_that_says_not_done_says_nothing_of_the_first_time() {
    let errors: Answers = vec![
        lost,
        |_| Err(StoreError::unavailable(StoreKind::Relational, "away")),
        |_| Err(overloaded("a full pool")),
        |_| {
            Err(StoreError::Conflict {
                store: StoreKind::Relational,
            })
        },
    ];
    for error in errors {
        let (commit, _) = answering(vec![lost, error]);
        let result = commit([keyed(1)].into(), Held::LeftOut).await;
        assert!(
            matches!(result, Err(StoreError::OutcomeUnknown { .. })),
            "{result:?}"
        );
    }
    // An account that is still locked, perhaps by the very unit that is asked for; and a refusal that is certain.
    let (commit, _) = answering(vec![lost, |_| {
        let store = StoreKind::Relational;
        Ok(vec![
            Err(StoreError::Conflict { store }.into()),
            Err(Error::IdempotencyKeyReused),
        ])
    }]);
    let results = commit([keyed(1), keyed(2)].into(), Held::LeftOut)
        .await
        .unwrap();
    assert!(is_unknown(&results[0]), "{results:?}");
    assert!(matches!(results[1], Err(Error::IdempotencyKeyReused)));
}
