//! A batch that is not atomic: its items go in lanes side by side, part by part.
//!
//! Committed one part after the other, a batch waits for the disk most of the time. So its items are spread over
//! as many lanes as there may be commits in flight: while one lane's part is flushed, another's is made. A user's
//! items are all in one lane, so that they keep their order and no lane waits for another's rows.
//!
//! Invariant: a part is one unit with each item's own part of the key, so that whatever a crash or an error leaves
//! out, the retry of the batch does, and nothing twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::batcher::Spread;
use super::commit::{Commit, Held, LOCKED, is_held, is_of_one_item, overloaded};
use super::{Command, Error, Outcome};
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Point};
use crate::ids::UserId;

/// Items of one lane that are committed together: a crash loses at most this many of each lane, which the retry
/// then does. More than the batcher's, since here one caller waits for all of them, and each commit is a wait for
/// the disk. (2 cores, release build, five requests by `curl` with 600 items of one user: 25 to 83 ms on PostgreSQL,
/// 20 to 57 ms on SQLite, whose other writers wait for so long.)
pub const COMMIT_CHUNK: usize = 600;
/// Parts of one lane in flight, of all batches together: large batches leave connections to the others.
pub(super) const PARTS_IN_FLIGHT: usize = 2;
/// Batches at once that wait for accounts which somebody else has locked.
pub(super) const PATIENT_BATCHES: usize = 1;
/// A part that waited this long for its turn is turned away undone.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Users of one lane with an item that failed alone, or whose account is waited for, at most: more are no matter
/// of single items.
const MAX_ALONE: usize = 8;

type Outcomes = Vec<Result<Outcome, Error>>;

/// Cheap to clone; all clones share the turns.
#[derive(Clone)]
pub(super) struct Lanes {
    commit: Arc<Commit>,
    turns: Arc<[Semaphore]>,
    /// Turns of batches that wait for accounts which somebody else has locked.
    patient: Arc<Semaphore>,
    spread: Spread,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("lanes", &self.turns.len())
            .finish_non_exhaustive()
    }
}

/// The places of commands in the batch, and these.
type Numbered = (Vec<usize>, Vec<Command>);

/// Commands that are committed together, and the place of each in the batch.
struct Part {
    places: Vec<usize>,
    commands: Arc<[Command]>,
}

/// What became of a lane's items.
#[derive(Default)]
struct Posted {
    outcomes: Vec<(usize, Result<Outcome, Error>)>,
    /// Something was committed, or is of one item alone.
    got_anywhere: bool,
    /// Why it did not go on.
    stopped: Option<StoreError>,
}

impl Lanes {
    /// At least one lane.
    pub(super) fn new(lanes: usize, commit: Arc<Commit>) -> Self {
        Self {
            commit,
            turns: (0..lanes.max(1))
                .map(|_| Semaphore::new(PARTS_IN_FLIGHT))
                .collect(),
            patient: Arc::new(Semaphore::new(PATIENT_BATCHES)),
            spread: Spread::over(lanes),
        }
    }

    /// What became of each command, in their order; what is `Ok` is durable. A lane stops at a part that fails:
    /// its items, and those after it in its lane, are errors, and the other lanes go on.
    ///
    /// # Errors
    /// When no lane got anywhere, why; when one of several outcomes is unknown, that.
    pub(super) async fn post(&self, commands: Vec<Command>) -> Result<Outcomes, StoreError> {
        let mut outcomes: Vec<_> = commands.iter().map(|_| None).collect();
        let mut lanes: BTreeMap<usize, Vec<Numbered>> = BTreeMap::new();
        for (place, command) in commands.into_iter().enumerate() {
            let parts = lanes.entry(self.spread.of(command.user_id)).or_default();
            match parts.last_mut() {
                Some((places, commands)) if places.len() < COMMIT_CHUNK => {
                    places.push(place);
                    commands.push(command);
                }
                _ => parts.push((vec![place], vec![command])),
            }
        }
        let lanes = lanes
            .into_iter()
            .map(|(lane, parts)| self.post_lane(lane, parts.into_iter().map(Part::new).collect()));
        let lanes = join_all(lanes).await;
        if lanes.iter().all(|lane| !lane.got_anywhere) {
            let errors = lanes.iter().filter_map(|lane| lane.stopped.as_ref());
            let is_unknown =
                |error: &&StoreError| matches!(error, StoreError::OutcomeUnknown { .. });
            if let Some(error) = errors.max_by_key(is_unknown) {
                return Err(error.clone());
            }
        }
        for (place, outcome) in lanes.into_iter().flat_map(|lane| lane.outcomes) {
            if let Some(slot) = outcomes.get_mut(place) {
                *slot = Some(outcome);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn post_lane(&self, lane: usize, mut todo: VecDeque<Part>) -> Posted {
        let mut posted = Posted::default();
        let mut alone = BTreeSet::new();
        let mut held: BTreeMap<UserId, Numbered> = BTreeMap::new();
        while let Some(part) = todo.pop_front() {
            // After an item that failed or is left out its user's later ones would be out of order.
            let (late, part) = part.without(|user| alone.contains(&user));
            posted.fail(late.into_iter().map(|(place, _)| place), &not_tried());
            let (late, part) = part.without(|user| held.contains_key(&user));
            hold(&mut held, late);
            if part.places.is_empty() {
                continue;
            }
            let commands = Arc::clone(&part.commands);
            match self.commit(lane, commands, Held::LeftOut).await {
                Ok(outcomes) => {
                    let (left_out, failed) = posted.enter(part, outcomes);
                    hold(&mut held, left_out);
                    alone.extend(failed);
                    posted.got_anywhere |= !posted.outcomes.is_empty();
                }
                // Halved until the item that the store stumbles over stands alone.
                Err(error) if is_of_one_item(&error) && part.places.len() > 1 => {
                    let [before, after] = part.halves();
                    todo.push_front(after);
                    todo.push_front(before);
                }
                Err(error) if is_of_one_item(&error) && alone.len() < MAX_ALONE => {
                    alone.extend(part.commands.iter().map(|command| command.user_id));
                    posted.fail(part.places, &error);
                    posted.got_anywhere = true;
                }
                Err(error) => {
                    posted.fail(part.places, &error);
                    for rest in todo.drain(..) {
                        posted.fail(rest.places, &not_tried());
                    }
                    posted.stopped = Some(error);
                }
            }
        }
        self.post_held(held, &mut posted).await;
        posted
    }

    /// Waits for accounts that somebody else has locked, a few of them, one after the other and not for ever. Not
    /// in the lane's turns, which others wait for.
    async fn post_held(&self, held: BTreeMap<UserId, Numbered>, posted: &mut Posted) {
        if held.is_empty() {
            return;
        }
        let begun = Instant::now();
        let turn = timeout(MAX_WAIT, self.patient.acquire()).await;
        let mut failed = None;
        for (index, (places, commands)) in held.into_values().enumerate() {
            let is_over = !matches!(turn, Ok(Ok(_))) || begun.elapsed() > MAX_WAIT;
            let is_one_too_many = is_over || index >= MAX_ALONE || posted.stopped.is_some();
            let mut stopped = is_one_too_many.then(|| overloaded(LOCKED));
            let parts = places
                .chunks(COMMIT_CHUNK)
                .zip(commands.chunks(COMMIT_CHUNK));
            for (places, commands) in parts {
                let places = places.iter().copied();
                if let Some(error) = &stopped {
                    posted.fail(places, error);
                    continue;
                }
                match self.run(commands.into(), Held::WaitedFor).await {
                    Ok(outcomes) => {
                        posted.outcomes.extend(places.zip(outcomes));
                        posted.got_anywhere = true;
                    }
                    Err(error) => {
                        posted.fail(places, &error);
                        stopped = Some(not_tried());
                        failed = Some(error);
                    }
                }
            }
            failed = failed.or(stopped);
        }
        posted.stopped = posted.stopped.take().or(failed);
    }

    async fn commit(
        &self,
        lane: usize,
        part: Arc<[Command]>,
        held: Held,
    ) -> Result<Outcomes, StoreError> {
        let Some(turns) = self.turns.get(lane) else {
            return Err(overloaded("no lane serves the account"));
        };
        let Ok(Ok(_turn)) = timeout(MAX_WAIT, turns.acquire()).await else {
            return Err(overloaded("too many batches wait"));
        };
        faults::reach(Point::BetweenChunks);
        self.run(part, held).await
    }

    async fn run(&self, part: Arc<[Command]>, held: Held) -> Result<Outcomes, StoreError> {
        // In a task of its own: lanes are decided on several cores, and a panic takes this part with it only.
        let commit = Arc::clone(&self.commit);
        tokio::spawn(async move { commit(part, held).await })
            .await
            .unwrap_or_else(|died| {
                Err(StoreError::OutcomeUnknown {
                    store: StoreKind::Relational,
                    reason: died.to_string(),
                })
            })
    }
}

impl Part {
    fn new((places, commands): Numbered) -> Self {
        Self {
            places,
            commands: commands.into(),
        }
    }

    fn halves(self) -> [Self; 2] {
        let mut before = self.places;
        let after = before.split_off(before.len() / 2);
        let (first, second) = self.commands.split_at(before.len());
        [(before, first), (after, second)].map(|(places, commands)| Self {
            places,
            commands: commands.into(),
        })
    }

    /// What is of users that `is_out`, and the part without it.
    fn without(self, is_out: impl Fn(UserId) -> bool) -> (Vec<(usize, Command)>, Self) {
        let is_out = |command: &Command| is_out(command.user_id);
        if !self.commands.iter().any(is_out) {
            return (Vec::new(), self);
        }
        let items = self.places.into_iter().zip(self.commands.iter().cloned());
        let (out, left): (Vec<_>, Vec<_>) = items.partition(|(_, command)| is_out(command));
        (out, Self::new(left.into_iter().unzip()))
    }
}

impl Posted {
    /// Notes what became of a part's items; gives those that are left out, and the users of those that failed.
    fn enter(&mut self, part: Part, outcomes: Outcomes) -> (Vec<(usize, Command)>, Vec<UserId>) {
        let (mut left_out, mut failed) = (Vec::new(), Vec::new());
        let items = part.places.into_iter().zip(part.commands.iter());
        for ((place, command), outcome) in items.zip(outcomes) {
            if is_held(&outcome) {
                left_out.push((place, command.clone()));
            } else {
                failed.extend(matches!(outcome, Err(Error::Store(_))).then_some(command.user_id));
                self.outcomes.push((place, outcome));
            }
        }
        (left_out, failed)
    }

    fn fail(&mut self, places: impl IntoIterator<Item = usize>, error: &StoreError) {
        let failed = places
            .into_iter()
            .map(|place| (place, Err(error.clone().into())));
        self.outcomes.extend(failed);
    }
}

fn hold(held: &mut BTreeMap<UserId, Numbered>, items: Vec<(usize, Command)>) {
    for (place, command) in items {
        let (places, commands) = held.entry(command.user_id).or_default();
        places.push(place);
        commands.push(command);
    }
}

/// Of items after one that failed: not done by this attempt.
fn not_tried() -> StoreError {
    StoreError::unavailable(
        StoreKind::Relational,
        "not tried, since an item before it failed",
    )
}

#[cfg(test)]
mod tests {
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
}
