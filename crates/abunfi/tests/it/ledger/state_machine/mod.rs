//! Random interleavings of everything that changes money, against a pure model, on every relational backend.
//! Each answer is compared, and after each step the balances, the states, and all that must hold of the rows.
//!
//! `PROPTEST_CASES` says how many histories are tried. A failure is shrunk, printed, and kept in
//! `state_machine.regressions`, which every run tries first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::{Clock as _, ManualClock, Timestamp};
use abunfi::ids::{TransactionId, UserId, random_bytes};
use abunfi::ledger::{
    Balance, BalanceAfter, BatchAnswer, BatchRequest, Error, ItemResult, Outcome, PostRequest,
    Posted, RequestKey, SendOut, Service, SettleRequest, Stage, TransactionStatus,
};
use abunfi::money::Amount;
use abunfi::users::{self, UserChange};
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use proptest_state_machine::{ReferenceStateMachine as _, StateMachineTest};
use tokio::runtime::Runtime;

use self::model::{
    ASSETS, Account, Model, Posting, Request, Said, StatusRefusal, Transition, USERS, Verdict,
};
use crate::support::make::{asset, at, context};
use crate::support::{Backend, Database, Relational, TOGETHER};

mod model;

/// Histories on SQLite, unless `PROPTEST_CASES` says otherwise: as many as take about 10 s on two cores.
const CASES_SQLITE: u32 = 60;
/// On PostgreSQL, where one takes nearly four times as long, a quarter of which makes its database: about 15 s.
const CASES_POSTGRES: u32 = 24;
/// Steps of the longest.
const STEPS: usize = 40;
const REGRESSIONS: &str = "tests/it/ledger/state_machine.regressions";

/// What was done, and not refused, in this process.
static DONE: AtomicUsize = AtomicUsize::new(0);

mod postgres {
    #[test]
    fn random_histories_do_what_the_model_says() {
        super::run::<super::OnPostgres>(super::CASES_POSTGRES);
    }
}

mod sqlite {
    #[test]
    fn random_histories_do_what_the_model_says() {
        super::run::<super::OnSqlite>(super::CASES_SQLITE);
    }
}

fn run<T>(cases: u32)
where
    T: StateMachineTest<Reference = Model>,
{
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        max_shrink_time: 90_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let histories = Model::sequential_strategy(1..STEPS);
    let ran = TestRunner::new(config.clone()).run(&histories, |(model, transitions, seen)| {
        T::test_sequential(config.clone(), model, transitions, seen);
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
    let done = DONE.load(Ordering::Relaxed);
    eprintln!("{done} postings and settlements were done");
    assert!(
        done >= usize::try_from(config.cases).unwrap(),
        "the histories did a minimum of work: {done}"
    );
}

struct OnPostgres;
struct OnSqlite;

impl StateMachineTest for OnPostgres {
    type SystemUnderTest = System;
    type Reference = Model;

    fn init_test(_: &Model) -> System {
        System::start(Backend::Postgres)
    }

    fn apply(system: System, model: &Model, transition: Transition) -> System {
        system.step(model, transition)
    }

    fn check_invariants(system: &System, model: &Model) {
        system.compare(model);
    }

    fn teardown(system: System, _: Model) {
        system.end();
    }
}

impl StateMachineTest for OnSqlite {
    type SystemUnderTest = System;
    type Reference = Model;

    fn init_test(_: &Model) -> System {
        System::start(Backend::Sqlite)
    }

    fn apply(system: System, model: &Model, transition: Transition) -> System {
        system.step(model, transition)
    }

    fn check_invariants(system: &System, model: &Model) {
        system.compare(model);
    }

    fn teardown(system: System, _: Model) {
        system.end();
    }
}

/// The ledger on a database of its own, with a clock that the test moves.
struct System {
    /// `None` once it has ended in order.
    database: Option<Database>,
    stores: Relational,
    service: Service,
    clock: Arc<ManualClock>,
    users: Vec<UserId>,
    /// By their number in the model.
    transactions: Vec<TransactionId>,
    /// When each key was first used.
    asked_at: BTreeMap<usize, i64>,
    /// What was answered to each key.
    told: BTreeMap<usize, String>,
    runtime: Arc<Runtime>,
}

impl System {
    fn start(backend: Backend) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let runtime = Arc::new(runtime);
        runtime.clone().block_on(async move {
            let database = Database::create(backend).await;
            let stores = database.open(TOGETHER).await;
            stores.asset(ASSETS[1]).await;
            let mut users = Vec::new();
            for index in 0..USERS {
                users.push(stores.user(&format!("user-{index}")).await.id);
            }
            let clock = Arc::new(ManualClock::at(at_second(0)));
            let cache = Cache::new(None, clock.clone(), CacheConfig::default(), false);
            let service = Service::new(
                stores.ledger.clone(),
                stores.audit.clone(),
                cache,
                clock.clone(),
                asset(ASSETS[0]),
                2,
            );
            Self {
                database: Some(database),
                stores,
                service,
                clock,
                users,
                transactions: Vec::new(),
                asked_at: BTreeMap::new(),
                told: BTreeMap::new(),
                runtime,
            }
        })
    }

    fn end(mut self) {
        let runtime = self.runtime.clone();
        runtime.block_on(self.stores.check_books());
        let database = self.database.take();
        drop(self);
        if let Some(database) = database {
            runtime.block_on(database.remove());
        }
    }

    fn step(mut self, model: &Model, transition: Transition) -> Self {
        let runtime = self.runtime.clone();
        runtime.block_on(self.apply(model, transition));
        self
    }

    async fn apply(&mut self, model: &Model, transition: Transition) {
        match transition {
            Transition::Ask { request, keyed } => {
                let key = keyed.then(|| model.keyed.len() - 1);
                self.ask(model, request, key, 0).await;
            }
            Transition::Again { key } => {
                self.ask(model, model.keyed[key].clone(), Some(key), 0)
                    .await;
            }
            Transition::Misuse { key } => {
                self.ask(model, model.keyed[key].clone(), Some(key), 1)
                    .await;
            }
            Transition::Inside { items, commit } => {
                let Said::Each(verdicts) = &model.said else {
                    panic!("{:?}", model.said)
                };
                self.inside(model, &items, commit, verdicts).await;
            }
            Transition::Status { user, to } => {
                let change = UserChange {
                    status: Some(to),
                    ..UserChange::default()
                };
                let now = self.clock.now();
                let user = self.users[user];
                let changed = self
                    .stores
                    .users
                    .update(&context(), user, &change, None, random_bytes(), now)
                    .await;
                let changed = match changed {
                    Ok(_) => Ok(()),
                    Err(users::Error::InvalidTransition { .. }) => Err(StatusRefusal::Final),
                    Err(users::Error::BalanceNotZero) => Err(StatusRefusal::NotEmpty),
                    Err(error) => panic!("{error:?}"),
                };
                assert!(
                    matches!(&model.said, Said::Status(said) if *said == changed),
                    "{changed:?}, {:?}",
                    model.said
                );
            }
            Transition::Wait { seconds } => self
                .clock
                .advance(Duration::from_secs(seconds.unsigned_abs())),
            Transition::Expire => {
                let expired = self.service.expire_holds().await.unwrap();
                assert!(
                    matches!(model.said, Said::Expired(said) if said == expired),
                    "{expired}, {:?}",
                    model.said
                );
            }
            Transition::LookBack { user, seconds } => self.look_back(model, user, seconds).await,
        }
    }

    /// Sends a request, and compares what is answered. `body` tells one body from another.
    async fn ask(&mut self, model: &Model, request: Request, key: Option<usize>, body: u8) {
        let said = &model.said;
        // A replay asks for what the first request asked for, also when that time has passed.
        let now = key.map_or(model.now, |key| {
            *self.asked_at.entry(key).or_insert(model.now)
        });
        let request_key = key.map(|key| RequestKey {
            key: format!("key-{key}"),
            fingerprint: [body; 32],
        });
        let (ctx, service) = (context(), self.service.clone());
        let outcome = match request {
            Request::Post(posting) => {
                let (user, request) = (self.users[posting.user], asked(&posting, now));
                service.post(&ctx, user, request, request_key).await
            }
            Request::Settle {
                transaction,
                to,
                only_unsubmitted,
                by_owner,
            } => {
                let (user, id) = self.addressed(model, transaction, by_owner);
                let details = SettleRequest::default();
                service
                    .settle(&ctx, user, id, to, details, only_unsubmitted, request_key)
                    .await
            }
            Request::Submit {
                transaction,
                by_owner,
            } => {
                let (user, id) = self.addressed(model, transaction, by_owner);
                service
                    .submit(&ctx, user, id, SendOut::default(), request_key)
                    .await
            }
            Request::Batch { atomic, items } => {
                let items = items
                    .iter()
                    .map(|item| Ok((self.users[item.user], asked(item, now))))
                    .collect();
                let request = BatchRequest { atomic, items };
                let answer = service
                    .batch(&ctx, request, request_key.expect("batches have keys"))
                    .await;
                return self.check_batch(key.expect("a key"), answer, said);
            }
        };
        match said {
            Said::Reused => assert!(
                matches!(outcome, Err(Error::IdempotencyKeyReused)),
                "{outcome:?}"
            ),
            Said::Replay => {
                let outcome = outcome.expect("a replay");
                assert!(outcome.replayed);
                assert_eq!(
                    format!("{:?}", outcome.answer),
                    self.told[&key.expect("a key")]
                );
            }
            Said::Each(verdicts) => {
                let outcome = outcome.expect("an answer");
                assert!(!outcome.replayed);
                if let Some(key) = key {
                    self.told.insert(key, format!("{:?}", outcome.answer));
                }
                self.check_outcome(outcome, &verdicts[0]);
            }
            said => panic!("{outcome:?}, expected {said:?}"),
        }
    }

    fn check_outcome(&mut self, outcome: Outcome, verdict: &Verdict) {
        match (outcome.answer.result, verdict) {
            (Ok(posted), Ok(account)) => self.check_posted(&posted, account),
            (Err(refusal), Err(broken)) => {
                assert!(
                    broken.contains(&refusal),
                    "{refusal:?} is none of {broken:?}"
                );
            }
            (said, expected) => panic!("{said:?}, expected {expected:?}"),
        }
    }

    fn check_posted(&mut self, posted: &Posted, account: &Account) {
        assert_eq!(shown(&posted.balance), *account);
        DONE.fetch_add(1, Ordering::Relaxed);
        if !self.transactions.contains(&posted.transaction.id) {
            self.transactions.push(posted.transaction.id);
        }
    }

    fn check_batch(&mut self, key: usize, answer: Result<BatchAnswer, Error>, said: &Said) {
        let told = match &answer {
            Ok(answer) => format!("{} {:?}", answer.request_id, answer.results),
            Err(Error::BatchFailed {
                index,
                refusal,
                request_id,
                ..
            }) => format!("{request_id} {index} {refusal:?}"),
            Err(error) => format!("{error:?}"),
        };
        let is_replay = match &answer {
            Ok(BatchAnswer { replayed, .. }) | Err(Error::BatchFailed { replayed, .. }) => {
                *replayed
            }
            Err(_) => false,
        };
        match said {
            Said::Reused => {
                return assert!(matches!(answer, Err(Error::IdempotencyKeyReused)), "{told}");
            }
            Said::Replay => {
                assert!(is_replay, "{told}");
                return assert_eq!(told, self.told[&key]);
            }
            _ => assert!(!is_replay, "{told}"),
        }
        self.told.insert(key, told);
        match (answer, said) {
            (Ok(answer), Said::Whole(Ok(accounts))) => {
                assert_eq!(answer.results.len(), accounts.len());
                for (result, account) in answer.results.iter().zip(accounts) {
                    let ItemResult::Posted(posted) = result else {
                        panic!("{result:?}")
                    };
                    self.check_posted(posted, account);
                }
            }
            (Err(Error::BatchFailed { index, refusal, .. }), Said::Whole(Err((first, broken)))) => {
                assert_eq!(index, *first);
                assert!(
                    broken.contains(&refusal),
                    "{refusal:?} is none of {broken:?}"
                );
            }
            (Ok(answer), Said::Each(verdicts)) => {
                assert_eq!(answer.results.len(), verdicts.len());
                for (result, verdict) in answer.results.iter().zip(verdicts) {
                    match (result, verdict) {
                        (ItemResult::Posted(posted), Ok(account)) => {
                            self.check_posted(posted, account)
                        }
                        (ItemResult::Refused(refusal), Err(broken)) if broken.contains(refusal) => {
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The postings inside one transaction, which is committed or rolled back.
    async fn inside(
        &mut self,
        model: &Model,
        items: &[Posting],
        commit: bool,
        verdicts: &[Verdict],
    ) {
        let mut transaction = self.stores.transactions.begin().await.unwrap();
        let known = self.transactions.len();
        for (item, verdict) in items.iter().zip(verdicts) {
            let command = self
                .service
                .prepare(&context(), self.users[item.user], asked(item, model.now))
                .unwrap();
            let outcome = transaction.update_user_balance(&command).await.unwrap();
            self.check_outcome(outcome, verdict);
        }
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
            self.transactions.truncate(known);
        }
    }

    async fn look_back(&self, model: &Model, user: usize, seconds: i64) {
        let Said::Back(expected) = &model.said else {
            panic!("{:?}", model.said)
        };
        let then = at_second(model.now - seconds);
        let now = self.service.balances(self.users[user]).await;
        let now = now.unwrap().unwrap();
        let balances = self
            .service
            .balances_at(self.users[user], then)
            .await
            .unwrap()
            .unwrap();
        for (name, expected) in ASSETS.iter().zip(expected) {
            let found = balances
                .iter()
                .find(|balance| balance.asset.as_str() == *name);
            let is_opened = || {
                // A refused posting may have opened it, of which nothing tells when.
                let mut known = now.iter();
                known.any(|balance| balance.asset.as_str() == *name && balance.version == 0)
            };
            let expected = match expected {
                None if is_opened() => Some(Account::default()),
                expected => expected.clone(),
            };
            assert_eq!(found.map(read), expected, "{name} {seconds} s ago");
        }
    }

    /// Everything that can be read is what the model says, and the rows agree among themselves.
    fn compare(&self, model: &Model) {
        self.runtime.block_on(async {
            for (index, user) in self.users.iter().enumerate() {
                let balances = self.service.balances(*user).await.unwrap().unwrap();
                for balance in balances {
                    let place = ASSETS
                        .iter()
                        .position(|name| *name == balance.asset.as_str())
                        .unwrap();
                    let expected = model
                        .accounts
                        .get(&(index, place))
                        .cloned()
                        .unwrap_or_default();
                    assert_eq!(
                        read(&balance),
                        expected,
                        "user {index} in {}",
                        balance.asset
                    );
                }
            }
            assert_eq!(self.transactions.len(), model.transactions.len());
            for (id, known) in self.transactions.iter().zip(&model.transactions) {
                let user = self.users[known.posting.user];
                let found = self.service.transaction(user, *id).await.unwrap().unwrap();
                assert_eq!(
                    Stage::of(found.status, found.submitted_at.is_some()),
                    known.stage
                );
            }
            self.stores.check_rows().await;
        });
    }

    /// Whom a request on a transaction names.
    fn addressed(
        &self,
        model: &Model,
        transaction: usize,
        by_owner: bool,
    ) -> (UserId, TransactionId) {
        let owner = model.transactions[transaction].posting.user;
        let named = if by_owner { owner } else { (owner + 1) % USERS };
        (self.users[named], self.transactions[transaction])
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // It failed. The shrunk history says all; the database would only take space.
        if let Some(database) = self.database.take() {
            let runtime = self.runtime.clone();
            runtime.block_on(database.remove());
        }
    }
}

/// A second of the model; its first comes after the times at which users and assets are made.
fn at_second(second: i64) -> Timestamp {
    at(10_000_000 + second)
}

fn asked(posting: &Posting, now: i64) -> PostRequest {
    let micros = |micros: i64| Amount::from_micros(micros).unwrap();
    PostRequest {
        asset: (posting.asset > 0).then(|| asset(ASSETS[posting.asset])),
        status: if posting.pending {
            TransactionStatus::Pending
        } else {
            TransactionStatus::Confirmed
        },
        shares: micros(posting.shares),
        expires_at: posting.expires_in.map(|seconds| at_second(now + seconds)),
        client_reference: posting
            .reference
            .map(|reference| format!("reference-{reference}")),
        tx_hash: posting.hash.map(|hash| format!("0x{hash}")),
        ..PostRequest::new(posting.kind, micros(posting.amount))
    }
}

fn shown(balance: &BalanceAfter) -> Account {
    Account {
        available: balance.available.micros().into(),
        locked: balance.locked.micros().into(),
        shares: balance.shares.micros().into(),
        locked_shares: balance.locked_shares.micros().into(),
        version: balance.version,
    }
}

fn read(balance: &Balance) -> Account {
    Account {
        available: balance.available.micros().into(),
        locked: balance.locked.micros().into(),
        shares: balance.shares.micros().into(),
        locked_shares: balance.locked_shares.micros().into(),
        version: balance.version,
    }
}
