//! Group commit: what arrives together is decided and committed together.
//!
//! A commit costs one flush to disk however many postings it holds, so the batcher takes whatever waits
//! when it is free, commits it as one unit, and answers each caller with its own result. It never waits for
//! more to come: an idle system commits a single posting at once, and under load batches grow by themselves.
//!
//! Accounts are spread over a few shards by user, so that the batches in flight never wait for each other's
//! rows, and postings on one account keep their order. Within a shard users take turns, so that one busy
//! account cannot starve the others.
//!
//! Invariant: a caller is answered only after its batch committed or certainly did not; a caller that goes
//! away does not stop its posting.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use super::{Command, Error, Outcome};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

/// Postings that one batch holds at most: past a few hundred the flush is a small part of the work, and a
/// larger batch only keeps its rows locked for longer.
const MAX_BATCH: usize = 256;
/// Postings that wait in one shard at most; a few batches, so that a full queue is worth a second or so.
const MAX_WAITING: usize = 4_096;
/// Postings of one user that wait at most: a share of the queue, so that others always find room.
const MAX_WAITING_OF_USER: usize = 1_024;
/// A posting that waited this long is turned away undone, before its caller's patience ends.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Units of all shards that wait for an account that somebody else holds, beside the batches: each has a connection.
pub(super) const PATIENT_UNITS: usize = 2;
/// And this long it may wait for its turn to be one of them.
const PATIENT_WAIT: Duration = Duration::from_secs(2);
/// When turned away, come back then.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Why a command is turned away whose account is held, where nothing more may wait for it.
pub(super) const LOCKED: &str = "another unit of work has the account locked";

/// What a batch's commit gives: a result for each command, or that none was done (or none is known).
pub(super) type Committed = Result<Vec<Result<Outcome, Error>>, StoreError>;

/// What is done about an account that another unit has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The commands of its user [are left out](is_held), and the others done.
    LeftOut,
    WaitedFor,
}

/// Decides and commits commands as one unit.
pub(super) type Commit =
    dyn Fn(Arc<[Command]>, Held) -> BoxFuture<'static, Committed> + Send + Sync;

/// Cheap to clone; all clones share the queues.
#[derive(Clone)]
pub(super) struct Batcher {
    shards: Arc<[Arc<Shard>]>,
    spread: Spread,
}

/// Spreads users evenly over so many places; a user is always in the same one, as long as the process runs.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    places: usize,
    hasher: RandomState,
}

impl Spread {
    /// Over at least one.
    pub(super) fn over(places: usize) -> Self {
        Self {
            places: places.max(1),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn of(&self, user: UserId) -> usize {
        let places = u64::try_from(self.places).unwrap_or(1);
        usize::try_from(self.hasher.hash_one(user) % places).unwrap_or(0)
    }
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

impl Batcher {
    /// Starts `shards` workers (at least one) on the current runtime; they end when the last clone is
    /// dropped and the queues are empty.
    pub(super) fn start(shards: usize, commit: &Arc<Commit>) -> Self {
        let shards: Arc<[Arc<Shard>]> = (0..shards.max(1))
            .map(|_| Arc::new(Shard::default()))
            .collect();
        let patient = Arc::new(Semaphore::new(PATIENT_UNITS));
        for shard in shards.iter() {
            let worker = Worker {
                shard: Arc::downgrade(shard),
                commit: Arc::clone(commit),
                patient: Arc::clone(&patient),
            };
            tokio::spawn(work(worker, Arc::clone(&shard.wake)));
        }
        let spread = Spread::over(shards.len());
        Self { shards, spread }
    }

    /// Commits `command` with whatever else waits. Durable on return.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] at once when the queue is full; else what the commit said.
    pub(super) async fn submit(&self, command: Command) -> Result<Outcome, Error> {
        let Some(shard) = self.shards.get(self.spread.of(command.user_id)) else {
            return Err(overloaded("no shard serves the account").into());
        };
        let (answer, answered) = oneshot::channel();
        shard.push(Job {
            command,
            answer,
            since: Instant::now(),
        })?;
        answered.await.unwrap_or_else(|_dropped| {
            // The worker died with the job in hand: whether it committed is not known.
            Err(StoreError::OutcomeUnknown {
                store: StoreKind::Relational,
                reason: "the batcher stopped".to_owned(),
            }
            .into())
        })
    }

    /// How many postings wait now.
    pub(super) fn waiting(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().waiting).sum()
    }
}

/// Where the caller waits.
type Answer = oneshot::Sender<Result<Outcome, Error>>;

struct Job {
    command: Command,
    answer: Answer,
    since: Instant,
}

#[derive(Default)]
struct Shard {
    queue: Mutex<Queue>,
    wake: Arc<Notify>,
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// First come first served within a user; users take turns.
#[derive(Default)]
struct Queue {
    of_user: HashMap<UserId, VecDeque<Job>>,
    turns: VecDeque<UserId>,
    /// Users of whom something waits for their account, beside the shard: nothing more of them is taken.
    parked: HashSet<UserId>,
    waiting: usize,
}

impl Shard {
    fn push(&self, job: Job) -> Result<(), StoreError> {
        {
            let mut queue = self.lock();
            if queue.waiting >= MAX_WAITING {
                return Err(overloaded("too many postings wait"));
            }
            let user = job.command.user_id;
            let jobs = queue.of_user.entry(user).or_default();
            if jobs.len() >= MAX_WAITING_OF_USER {
                return Err(overloaded("too many postings of this user wait"));
            }
            let first = jobs.is_empty();
            jobs.push_back(job);
            queue.waiting += 1;
            if first {
                queue.turns.push_back(user);
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The next batch: one job of each user in turn, round after round.
    fn take(&mut self) -> Vec<Job> {
        let mut batch = Vec::with_capacity(self.waiting.min(MAX_BATCH));
        while batch.len() < MAX_BATCH {
            let Some(user) = self.turns.pop_front() else {
                break;
            };
            if self.parked.contains(&user) {
                continue;
            }
            let Some(jobs) = self.of_user.get_mut(&user) else {
                continue;
            };
            if let Some(job) = jobs.pop_front() {
                self.waiting = self.waiting.saturating_sub(1);
                batch.push(job);
            }
            if jobs.is_empty() {
                self.of_user.remove(&user);
            } else {
                self.turns.push_back(user);
            }
        }
        batch
    }

    fn unpark(&mut self, user: UserId) {
        self.parked.remove(&user);
        if self.of_user.contains_key(&user) && !self.turns.contains(&user) {
            self.turns.push_back(user);
        }
    }
}

async fn work(worker: Worker, wake: Arc<Notify>) {
    loop {
        let batch = match worker.shard.upgrade() {
            Some(shard) => shard.lock().take(),
            None => return,
        };
        if batch.is_empty() {
            wake.notified().await;
            continue;
        }
        let (late, batch): (Vec<Job>, Vec<Job>) = batch
            .into_iter()
            .partition(|job| job.since.elapsed() > MAX_WAIT);
        for job in late {
            answer(
                job.answer,
                Err(overloaded("the posting waited too long").into()),
            );
        }
        let batch = batch.into_iter().map(|job| (job.command, job.answer));
        worker
            .commit_and_answer(batch.collect(), Held::LeftOut)
            .await;
    }
}

/// What a shard's batches are committed with.
#[derive(Clone)]
struct Worker {
    shard: Weak<Shard>,
    commit: Arc<Commit>,
    /// Turns of those who wait for an account.
    patient: Arc<Semaphore>,
}

impl Worker {
    /// Commits a batch. One that the store refuses as a whole, and certainly did not do, is halved until the
    /// posting that it stumbles over stands alone; the others are done. Who is left out waits beside the shard.
    async fn commit_and_answer(&self, batch: Vec<(Command, Answer)>, held: Held) {
        let (commands, answers): (Vec<Command>, Vec<Answer>) = batch.into_iter().unzip();
        let mut todo = vec![(Arc::<[Command]>::from(commands), answers)];
        let mut left_out: BTreeMap<UserId, Vec<(Command, Answer)>> = BTreeMap::new();
        while let Some((mut commands, mut answers)) = todo.pop() {
            // In a half before this one: its order is kept.
            if commands
                .iter()
                .any(|command| left_out.contains_key(&command.user_id))
            {
                let jobs = commands.iter().cloned().zip(answers);
                let (out, left): (Vec<_>, Vec<_>) =
                    jobs.partition(|(command, _)| left_out.contains_key(&command.user_id));
                for job in out {
                    left_out.entry(job.0.user_id).or_default().push(job);
                }
                let (left, callers): (Vec<_>, Vec<_>) = left.into_iter().unzip();
                (commands, answers) = (left.into(), callers);
            }
            if answers.is_empty() {
                continue;
            }
            // In a task of its own, so that a panic in it takes this batch with it and not the shard.
            let committed = tokio::spawn((self.commit)(Arc::clone(&commands), held))
                .await
                .unwrap_or_else(|died| {
                    Err(StoreError::OutcomeUnknown {
                        store: StoreKind::Relational,
                        reason: died.to_string(),
                    })
                });
            match committed {
                Ok(results) => {
                    for ((command, caller), result) in commands.iter().zip(answers).zip(results) {
                        if held == Held::LeftOut && is_held(&result) {
                            let of_user = left_out.entry(command.user_id).or_default();
                            of_user.push((command.clone(), caller));
                        } else {
                            answer(caller, result);
                        }
                    }
                }
                Err(error) if is_of_one_item(&error) && answers.len() > 1 => {
                    let second = answers.split_off(answers.len() / 2);
                    let (before, after) = commands.split_at(answers.len());
                    todo.push((after.into(), second));
                    todo.push((before.into(), answers));
                }
                // Whatever it is that it waits for in vain, it may wait for longer beside the shard.
                Err(StoreError::Conflict { .. }) if held == Held::LeftOut => {
                    for job in commands.iter().cloned().zip(answers) {
                        left_out.entry(job.0.user_id).or_default().push(job);
                    }
                }
                Err(error) => {
                    for caller in answers {
                        answer(caller, Err(error.clone().into()));
                    }
                }
            }
        }
        for (user, batch) in left_out {
            self.wait_beside(user, batch);
        }
    }

    /// Commits what is of a user whose account somebody else has locked, without keeping the shard waiting. What
    /// else comes of the user stays in the queue meanwhile.
    fn wait_beside(&self, user: UserId, batch: Vec<(Command, Answer)>) {
        let parked = Parked::new(self.shard.clone(), user);
        let worker = self.clone();
        tokio::spawn(async move {
            let _parked = parked;
            match timeout(PATIENT_WAIT, worker.patient.acquire()).await {
                Ok(Ok(_turn)) => worker.commit_and_answer(batch, Held::WaitedFor).await,
                _ => {
                    for (_, caller) in batch {
                        answer(caller, Err(overloaded(LOCKED).into()));
                    }
                }
            }
        });
    }
}

/// A user of whom nothing is taken from the queue, until this is dropped.
struct Parked {
    shard: Weak<Shard>,
    user: UserId,
}

impl Parked {
    fn new(shard: Weak<Shard>, user: UserId) -> Self {
        if let Some(shard) = shard.upgrade() {
            shard.lock().parked.insert(user);
        }
        Self { shard, user }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.upgrade() {
            shard.lock().unpark(self.user);
            shard.wake.notify_one();
        }
    }
}

fn answer(caller: Answer, result: Result<Outcome, Error>) {
    // A caller that went away does not need to be told; what was done is done.
    drop(caller.send(result));
}

/// Whether one of several commands may be what the store stumbles over. Certainly none was done.
pub(super) const fn is_of_one_item(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unexpected { .. } | StoreError::Conflict { .. }
    )
}

/// Whether a command of a unit that was committed was [left out](Held::LeftOut).
pub(super) const fn is_held(result: &Result<Outcome, Error>) -> bool {
    matches!(result, Err(Error::Store(StoreError::Conflict { .. })))
}

pub(super) fn overloaded(reason: &str) -> StoreError {
    StoreError::Overloaded {
        store: StoreKind::Relational,
        reason: reason.to_owned(),
        retry_after: RETRY_AFTER,
    }
}

#[cfg(test)]
pub(super) mod tests {
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
}
