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

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use super::commit::{Commit, Held, LOCKED, is_held, is_of_one_item, overloaded};
use super::{Command, Error, Outcome};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

#[cfg(test)]
pub(super) mod tests;

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
