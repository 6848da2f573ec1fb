use std::sync::Mutex;

use futures::FutureExt;

use super::*;
use crate::ledger::batcher::tests::{command, outcome};

/// `items` commands of `users` in turn.
fn commands(items: usize, users: u128) -> Vec<Command> {
    (0..items)
        .zip((0..users).cycle())
        .map(|(item, user)| command(user, &item.to_string()))
        .collect()
}

type Parts = Arc<Mutex<Vec<Vec<usize>>>>;

fn item(command: &Command) -> usize {
    command.context.request_id.parse().unwrap()
}

/// Lanes over a store that does what `says` lets it; and the parts that it did.
fn lanes(
    count: usize,
    says: impl Fn(&[Command]) -> Result<(), StoreError> + Send + Sync + 'static,
) -> (Lanes, Parts) {
    let parts = Parts::default();
    let done = Arc::clone(&parts);
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, _| {
        let said = says(&commands).map(|()| {
            let items = commands.iter().map(item).collect();
            done.lock().unwrap().push(items);
            commands
                .iter()
                .map(|command| Ok(outcome(command)))
                .collect()
        });
        async move { said }.boxed()
    });
    (Lanes::new(count, commit), parts)
}

fn lane_of_user(lanes: &Lanes, user: usize) -> usize {
    let user = u128::try_from(user).unwrap();
    lanes.spread.of(UserId(uuid::Uuid::from_u128(user)))
}

fn away() -> StoreError {
    StoreError::unavailable(StoreKind::Relational, "away")
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        store: StoreKind::Relational,
        reason: "lost".to_owned(),
    }
}

/// What is done shows the request that it was: its number.
fn is_done(outcomes: &Outcomes, item: usize) -> bool {
    match &outcomes[item] {
        Ok(outcome) => {
            assert_eq!(*outcome.answer.request_id, item.to_string(), "in its place");
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn every_item_is_answered_in_its_place_and_a_users_keep_their_order() {
    let (lanes, parts) = lanes(4, |_| Ok(()));
    let outcomes = lanes.post(commands(1_000, 50)).await.unwrap();
    assert_eq!(outcomes.len(), 1_000);
    assert!((0..1_000).all(|item| is_done(&outcomes, item)));
    let parts = parts.lock().unwrap();
    assert!(parts.len() > 1, "50 users are in several lanes");
    for part in parts.iter() {
        assert!(part.is_sorted(), "in the order of the batch");
    }
    for user in 0..50 {
        let of_user = |part: &&Vec<usize>| part.iter().any(|item| item % 50 == user);
        assert_eq!(parts.iter().filter(of_user).count(), 1, "user {user}");
    }
}

#[tokio::test]
async fn a_lane_that_fails_leaves_the_others_alone() {
    let (lanes, _parts) = lanes(4, |commands| {
        let is_hit = commands.iter().any(|command| item(command) % 50 == 7);
        if is_hit { Err(away()) } else { Ok(()) }
    });
    let outcomes = lanes.post(commands(1_000, 50)).await.unwrap();
    assert_eq!(outcomes.len(), 1_000);
    let lane_of = |item: usize| lane_of_user(&lanes, item % 50);
    for item in 0..1_000 {
        let is_hit = lane_of(item) == lane_of(7);
        assert_eq!(is_done(&outcomes, item), !is_hit, "{item}");
    }
}

#[tokio::test]
async fn when_nothing_was_done_the_error_is_of_the_whole_and_the_unknown_one_counts() {
    let (lanes, _parts) = lanes(4, |commands| {
        let is_hit = commands.iter().any(|command| item(command) % 50 == 7);
        Err(if is_hit { unknown() } else { away() })
    });
    let error = lanes.post(commands(1_000, 50)).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }));
}

#[tokio::test]
async fn what_comes_after_an_unknown_part_is_certainly_not_done() {
    let (lanes, parts) = lanes(1, |commands| {
        let is_second = commands.iter().any(|command| item(command) == COMMIT_CHUNK);
        if is_second { Err(unknown()) } else { Ok(()) }
    });
    let all = 2 * COMMIT_CHUNK + 5;
    let outcomes = lanes.post(commands(all, 3)).await.unwrap();
    assert_eq!(parts.lock().unwrap().len(), 1, "the third is not tried");
    for (place, outcome) in outcomes.iter().enumerate() {
        let is_expected = match outcome {
            Ok(_) => place < COMMIT_CHUNK,
            Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {
                (COMMIT_CHUNK..2 * COMMIT_CHUNK).contains(&place)
            }
            Err(Error::Store(StoreError::Unavailable { .. })) => place >= 2 * COMMIT_CHUNK,
            Err(_) => false,
        };
        assert!(is_expected, "{place}: {outcome:?}");
    }
    assert_eq!(outcomes.len(), all);
}

#[tokio::test]
async fn after_an_item_whose_outcome_is_unknown_its_users_later_ones_are_not_tried() {
    let commit: Arc<Commit> = Arc::new(|commands: Arc<[Command]>, _| {
        let outcomes = commands.iter().map(|command| match item(command) {
            7 => Err(unknown().into()),
            _ => Ok(outcome(command)),
        });
        std::future::ready(Ok(outcomes.collect())).boxed()
    });
    let all = COMMIT_CHUNK + 40;
    let lanes = Lanes::new(1, commit);
    let outcomes = lanes.post(commands(all, 20)).await.unwrap();
    let undone: Vec<usize> = (0..all).filter(|item| !is_done(&outcomes, *item)).collect();
    let mut expected = vec![7];
    expected.extend((COMMIT_CHUNK..all).filter(|item| item % 20 == 7));
    assert_eq!(undone, expected);
    assert!(expected.len() > 1);
}

#[tokio::test]
async fn an_item_that_the_store_stumbles_over_fails_with_its_users_later_ones() {
    let (lanes, _parts) = lanes(2, |commands| {
        let is_hit = commands.iter().any(|command| item(command) == 77);
        let error = StoreError::unexpected(StoreKind::Relational, "numeric overflow");
        if is_hit { Err(error) } else { Ok(()) }
    });
    let outcomes = lanes.post(commands(1_000, 20)).await.unwrap();
    let undone: Vec<usize> = (0..1_000)
        .filter(|item| !is_done(&outcomes, *item))
        .collect();
    // Its user's later ones would be out of order.
    let expected: Vec<usize> = (77..1_000).step_by(20).collect();
    assert_eq!(undone, expected);
}

#[tokio::test]
async fn what_is_no_matter_of_single_items_is_not_tried_with_each() {
    let tries = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&tries);
    let (lanes, _parts) = lanes(1, move |_| {
        *counted.lock().unwrap() += 1;
        Err(StoreError::unexpected(StoreKind::Relational, "no rights"))
    });
    let outcomes = lanes.post(commands(600, 600)).await.unwrap();
    assert!(outcomes.iter().all(Result::is_err));
    assert!(*tries.lock().unwrap() < 60, "{tries:?}");
}

#[tokio::test]
async fn a_panic_is_of_its_part_alone() {
    let (lanes, _parts) = lanes(4, |commands| {
        assert!(!commands.iter().any(|command| item(command) == 7), "a bug");
        Ok(())
    });
    let outcomes = lanes.post(commands(1_000, 50)).await.unwrap();
    let hit = lane_of_user(&lanes, 7);
    for (place, outcome) in outcomes.iter().enumerate() {
        let lane = lane_of_user(&lanes, place % 50);
        match outcome {
            Ok(_) => assert_ne!(lane, hit),
            Err(Error::Store(StoreError::OutcomeUnknown { .. })) => assert_eq!(lane, hit),
            Err(error) => panic!("{place}: {error}"),
        }
    }
}

#[tokio::test]
async fn large_batches_take_turns() {
    let (lanes, _parts) = lanes(1, |_| Ok(()));
    let held = lanes.turns[0].acquire_many(2).await.unwrap();
    let posting = lanes.post(commands(3, 1));
    tokio::pin!(posting);
    assert!(
        futures::poll!(posting.as_mut()).is_pending(),
        "no turn is free"
    );
    drop(held);
    assert_eq!(posting.await.unwrap().len(), 3);
}

/// Of the store's units: which items, and whether held accounts were waited for.
type Units = Arc<Mutex<Vec<(Vec<usize>, Held)>>>;

/// One lane over a store in which the accounts of `held` users are locked; those that are waited for get `end`.
fn holding(
    held: impl Fn(usize) -> bool + Send + Sync + 'static,
    users: usize,
    end: Result<(), StoreError>,
) -> (Lanes, Units) {
    let units = Units::default();
    let done = Arc::clone(&units);
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, locks| {
        let items: Vec<usize> = commands.iter().map(item).collect();
        let is_held = |command: &Command| held(item(command) % users);
        let outcomes = commands.iter().map(|command| match locks {
            Held::LeftOut if is_held(command) => {
                let store = StoreKind::Relational;
                Err(StoreError::Conflict { store }.into())
            }
            _ => Ok(outcome(command)),
        });
        let said = match (locks, &end) {
            (Held::WaitedFor, Err(error)) => Err(error.clone()),
            _ => Ok(outcomes.collect()),
        };
        done.lock().unwrap().push((items, locks));
        async move { said }.boxed()
    });
    (Lanes::new(1, commit), units)
}

#[tokio::test]
async fn a_held_account_is_waited_for_after_the_others_and_keeps_its_order() {
    let (lanes, units) = holding(|user| user == 3, 20, Ok(()));
    let outcomes = lanes.post(commands(1_000, 20)).await.unwrap();
    assert!((0..1_000).all(|item| is_done(&outcomes, item)));
    let units = units.lock().unwrap();
    let (last, waited) = units.last().unwrap();
    assert_eq!(*waited, Held::WaitedFor);
    // Those of its second part, too, which might have found it free.
    let expected: Vec<usize> = (3..1_000).step_by(20).collect();
    assert_eq!(*last, expected);
    assert_eq!(units.len(), 3);
}

#[tokio::test]
async fn a_held_account_that_stays_held_fails_alone() {
    let (lanes, _units) = holding(|user| user == 3, 20, Err(overloaded("a lock")));
    let outcomes = lanes.post(commands(1_000, 20)).await.unwrap();
    for (item, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Err(Error::Store(StoreError::Overloaded { .. })) => assert_eq!(item % 20, 3),
            Err(error) => panic!("{item}: {error}"),
            Ok(_) => assert_ne!(item % 20, 3),
        }
    }
}

#[tokio::test]
async fn only_a_few_held_accounts_are_waited_for() {
    let (lanes, units) = holding(|_| true, 100, Ok(()));
    let outcomes = lanes.post(commands(100, 100)).await.unwrap();
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(done, MAX_ALONE);
    assert_eq!(units.lock().unwrap().len(), 1 + MAX_ALONE);
    let is_turned_away =
        |error: &Error| matches!(error, Error::Store(StoreError::Overloaded { .. }));
    let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(errors.into_iter().all(is_turned_away));
}

#[tokio::test]
async fn a_part_that_waits_too_long_for_its_turn_is_turned_away_undone() {
    let (lanes, parts) = lanes(1, |_| Ok(()));
    let turns = u32::try_from(PARTS_IN_FLIGHT).unwrap();
    let _held = lanes.turns[0].acquire_many(turns).await.unwrap();
    let started = std::time::Instant::now();
    let posted = timeout(2 * MAX_WAIT, lanes.post(commands(3, 1))).await;
    assert!(matches!(posted, Ok(Err(StoreError::Overloaded { .. }))));
    assert!(started.elapsed() >= MAX_WAIT, "it might have come yet");
    assert!(parts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn after_a_held_part_whose_outcome_is_unknown_the_users_later_ones_are_not_tried() {
    let waited = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&waited);
    let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>, locks| {
        if locks == Held::WaitedFor {
            noted.lock().unwrap().push(item(&commands[0]));
        }
        let outcomes = commands.iter().map(|_| match locks {
            Held::LeftOut => {
                let store = StoreKind::Relational;
                Err(StoreError::Conflict { store }.into())
            }
            Held::WaitedFor => Err(unknown().into()),
        });
        std::future::ready(Ok(outcomes.collect())).boxed()
    });
    let lanes = Lanes::new(1, commit);
    let posted = lanes.post(commands(COMMIT_CHUNK + 40, 1));
    // Nothing is known to be done: so is the whole.
    let error = posted.await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }));
    assert_eq!(*waited.lock().unwrap(), [0], "the second part is not tried");
}

#[tokio::test]
async fn when_no_outcome_is_known_the_whole_is_unknown() {
    let commit: Arc<Commit> = Arc::new(|commands: Arc<[Command]>, _| {
        let outcomes = commands.iter().map(|_| Err(unknown().into()));
        std::future::ready(Ok(outcomes.collect())).boxed()
    });
    let error = Lanes::new(4, commit)
        .post(commands(100, 50))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }));
}
