//! Random postings, one slice after the other, against a model that is too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{
    Action, Asset, BalanceAfter, Command, Error, Outcome, Refusal, Settlement, Stage, StoredAnswer,
    Transaction, TransactionStatus, TransactionType,
};
use abunfi::money::Amount;

use crate::support::make::{Shape as _, amount, deposit, posting, settle, submit, vnd};
use crate::support::random::Random;
use crate::support::{Relational, on_every_backend};

on_every_backend!(random_postings_do_what_the_model_says);

/// Slices of a run. With about six commands each, one run is some 350 decisions.
const SLICES: u64 = 60;

async fn random_postings_do_what_the_model_says(stores: &Relational) {
    stores.asset("USDT").await;
    let mut users = Vec::new();
    for index in 0..3 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    let mut random = Random::seeded();
    let mut model = Model::default();
    let mut done = 0;
    for _ in 0..SLICES {
        let commands: Vec<Command> = (0..=random.below(12))
            .map(|_| random_command(&mut random, &users, &model))
            .collect();
        let results = stores.ledger.post(&commands).await.expect("a unit of work");
        for (command, result) in commands.iter().zip(results) {
            done += usize::from(model.check(command, result));
        }
        model.check_balances(stores).await;
    }
    assert!(done > 60, "the run did a minimum of work: {done}");
    let there = stores.raw.number("SELECT count(*) FROM transactions").await;
    assert_eq!(there, i64::try_from(model.transactions.len()).unwrap());
    for (id, expected) in &model.transactions {
        let found = stores
            .ledger
            .transaction(expected.user, *id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            Stage::of(found.status, found.submitted_at.is_some()),
            expected.stage
        );
    }
    stores.check_books().await;
}

fn random_command(random: &mut Random, users: &[UserId], model: &Model) -> Command {
    let user = *random.pick(users);
    let command = if random.chance(35) && !model.transactions.is_empty() {
        let known: Vec<_> = model.transactions.iter().collect();
        let (id, of) = *random.pick(&known);
        // Mostly the owner.
        let user = if random.chance(95) { of.user } else { user };
        match random.below(5) {
            0 => settle(user, *id, Settlement::Confirm),
            1 => settle(user, *id, Settlement::Fail),
            2 => settle(user, *id, Settlement::Cancel),
            3 => settle(user, *id, Settlement::Cancel).unless_submitted(),
            _ => submit(user, *id),
        }
    } else {
        let kind = *random.pick(TransactionType::ALL);
        let mut command = posting(user, kind, random_amount(random))
            .asset(random.pick::<&str>(&["VND", "VND", "USDT"]));
        if random.chance(30) {
            command = command.shares(random.pick::<&str>(&["1", "0.5", "999999999999"]));
        }
        if random.chance(15) {
            command = command.reference(&format!("reference-{}", random.below(6)));
        }
        if random.chance(15) {
            command = command.tx_hash(&format!("0x{}", random.below(6)));
        }
        if random.chance(40) {
            command.pending()
        } else {
            command
        }
    };
    if random.chance(15) {
        let body = u8::try_from(random.below(2)).unwrap();
        return deposit(user, 1).key(&format!("key-{}", random.below(8)), body);
    }
    command
}

/// Mostly small; sometimes near the bound, so that overflow is met.
fn random_amount(random: &mut Random) -> Amount {
    match random.below(20) {
        0 => Amount::MAX,
        1 => amount("600000000000"),
        _ => Amount::from_micros(i64::try_from(random.below(30_000_000) + 1).unwrap()).unwrap(),
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    available: i128,
    locked: i128,
    shares: i128,
    locked_shares: i128,
    version: i64,
}

#[derive(Debug, Clone)]
struct Known {
    user: UserId,
    kind: TransactionType,
    asset: Asset,
    amount: i128,
    shares: i128,
    stage: Stage,
}

#[derive(Debug, Default)]
struct Model {
    accounts: BTreeMap<(UserId, Asset), Account>,
    /// The yield of each account's whole life, which is shown as an amount.
    earned: BTreeMap<(UserId, Asset), i128>,
    transactions: BTreeMap<TransactionId, Known>,
    references: BTreeSet<(UserId, String)>,
    hashes: BTreeSet<(UserId, TransactionType, String)>,
    answers: BTreeMap<(UserId, String), ([u8; 32], StoredAnswer)>,
}

impl Model {
    /// Whether the command was done, after checking that it is what had to become of it.
    fn check(&mut self, command: &Command, result: Result<Outcome, Error>) -> bool {
        if let Some(key) = &command.idempotency {
            let place = (command.user_id, key.key.clone());
            if let Some((fingerprint, answer)) = self.answers.get(&place) {
                if *fingerprint == key.fingerprint {
                    let outcome = result.expect("a replay");
                    assert!(outcome.replayed, "{command:?}");
                    assert_eq!(outcome.answer, *answer);
                } else {
                    assert!(
                        matches!(result, Err(Error::IdempotencyKeyReused)),
                        "{result:?}"
                    );
                }
                return false;
            }
            let answer = result.as_ref().expect("an answer").answer.clone();
            self.answers.insert(place, (key.fingerprint, answer));
        }
        let outcome = result.expect("an answer");
        assert!(!outcome.replayed);
        assert_eq!(outcome.answer.request_id, command.request_id);
        let rules = self.apply(command);
        match (outcome.answer.result, rules) {
            (Ok(posted), Ok(account)) => {
                assert_eq!(account, shown(&posted.balance), "{command:?}");
                true
            }
            // Which rule is named first is the ledger's choice; that it was broken is not.
            (Err(refusal), Err(broken)) => {
                assert!(
                    broken.contains(&refusal),
                    "{refusal:?} is none of {broken:?}: {command:?}"
                );
                false
            }
            (said, expected) => panic!("{said:?}, expected {expected:?}: {command:?}"),
        }
    }

    /// The account after the command, or all the rules that it breaks; then nothing has changed.
    fn apply(&mut self, command: &Command) -> Result<Account, Vec<Refusal>> {
        match &command.action {
            Action::Post(transaction) => self.post(command.user_id, transaction),
            Action::Settle {
                transaction_id,
                to,
                only_unsubmitted,
                ..
            } => self.settle(command.user_id, *transaction_id, *to, *only_unsubmitted),
            Action::Submit { transaction_id, .. } => self.submit(command.user_id, *transaction_id),
        }
    }

    fn post(&mut self, user: UserId, asked: &Transaction) -> Result<Account, Vec<Refusal>> {
        let mut broken = Vec::new();
        let reference = asked
            .client_reference
            .clone()
            .map(|reference| (user, reference));
        if reference
            .as_ref()
            .is_some_and(|reference| self.references.contains(reference))
        {
            broken.push(Refusal::ClientReferenceTaken);
        }
        let hash = asked.tx_hash.clone().map(|hash| (user, asked.kind, hash));
        if hash.as_ref().is_some_and(|hash| self.hashes.contains(hash)) {
            broken.push(Refusal::TxHashTaken);
        }
        let known = Known {
            user,
            kind: asked.kind,
            asset: asked.asset.clone(),
            amount: asked.amount.micros().into(),
            shares: asked.shares.micros().into(),
            stage: Stage::of(asked.status, false),
        };
        let account = self.account(&known);
        let confirmed = asked.status == TransactionStatus::Confirmed;
        let after = match (asked.kind, confirmed) {
            (TransactionType::Withdraw, true) => account.moved(-known.amount, 0, -known.shares, 0),
            (TransactionType::Withdraw, false) => {
                account.moved(-known.amount, known.amount, -known.shares, known.shares)
            }
            (_, true) => account.moved(known.amount, 0, known.shares, 0),
            (_, false) => account.moved(0, 0, 0, 0),
        };
        broken.extend(account.refusals(&after));
        broken.extend(self.refuse_yield(&known, confirmed));
        if !broken.is_empty() {
            return Err(broken);
        }
        self.references.extend(reference);
        self.hashes.extend(hash);
        self.earn(&known, confirmed);
        Ok(self.enter(asked.id, known, after))
    }

    fn settle(
        &mut self,
        user: UserId,
        id: TransactionId,
        to: Settlement,
        only_unsubmitted: bool,
    ) -> Result<Account, Vec<Refusal>> {
        let stage = Stage::of(to.status(), false);
        let mut known = self.open(user, id, stage)?;
        if only_unsubmitted && known.stage == Stage::Submitted {
            return Err(vec![Refusal::InvalidTransition {
                from: Stage::Submitted,
                to: stage,
            }]);
        }
        let account = self.account(&known);
        let after = match (known.kind, to) {
            (TransactionType::Withdraw, Settlement::Confirm) => {
                account.moved(0, -known.amount, 0, -known.shares)
            }
            (TransactionType::Withdraw, _) => {
                account.moved(known.amount, -known.amount, known.shares, -known.shares)
            }
            (_, Settlement::Confirm) => account.moved(known.amount, 0, known.shares, 0),
            (_, _) => account.moved(0, 0, 0, 0),
        };
        let mut broken = account.refusals(&after);
        let confirmed = to == Settlement::Confirm;
        broken.extend(self.refuse_yield(&known, confirmed));
        if !broken.is_empty() {
            return Err(broken);
        }
        self.earn(&known, confirmed);
        known.stage = stage;
        Ok(self.enter(id, known, after))
    }

    fn submit(&mut self, user: UserId, id: TransactionId) -> Result<Account, Vec<Refusal>> {
        let mut known = self.open(user, id, Stage::Submitted)?;
        if known.kind != TransactionType::Withdraw || known.stage == Stage::Submitted {
            let from = known.stage;
            return Err(vec![Refusal::InvalidTransition {
                from,
                to: Stage::Submitted,
            }]);
        }
        known.stage = Stage::Submitted;
        let after = self.account(&known).moved(0, 0, 0, 0);
        Ok(self.enter(id, known, after))
    }

    /// The user's transaction, if it is not finished.
    fn open(&self, user: UserId, id: TransactionId, to: Stage) -> Result<Known, Vec<Refusal>> {
        let known = self
            .transactions
            .get(&id)
            .filter(|known| known.user == user);
        let known = known.ok_or_else(|| vec![Refusal::TransactionNotFound])?;
        if matches!(known.stage, Stage::Pending | Stage::Submitted) {
            Ok(known.clone())
        } else {
            Err(vec![Refusal::InvalidTransition {
                from: known.stage,
                to,
            }])
        }
    }

    fn account(&self, known: &Known) -> Account {
        self.accounts
            .get(&(known.user, known.asset.clone()))
            .cloned()
            .unwrap_or_default()
    }

    fn earned_after(&self, known: &Known, confirmed: bool) -> i128 {
        let before = self.earned.get(&(known.user, known.asset.clone())).copied();
        let is_yield = confirmed && known.kind == TransactionType::YieldHarvest;
        before.unwrap_or_default() + if is_yield { known.amount } else { 0 }
    }

    fn refuse_yield(&self, known: &Known, confirmed: bool) -> Option<Refusal> {
        let most = i128::from(Amount::MAX.micros());
        (self.earned_after(known, confirmed) > most).then_some(Refusal::AmountOverflow)
    }

    fn earn(&mut self, known: &Known, confirmed: bool) {
        let earned = self.earned_after(known, confirmed);
        self.earned
            .insert((known.user, known.asset.clone()), earned);
    }

    fn enter(&mut self, id: TransactionId, known: Known, after: Account) -> Account {
        self.accounts
            .insert((known.user, known.asset.clone()), after.clone());
        self.transactions.insert(id, known);
        after
    }

    async fn check_balances(&self, stores: &Relational) {
        for ((user, asset), account) in &self.accounts {
            let balances = stores.ledger.balances(*user).await.unwrap().unwrap();
            let balance = balances
                .iter()
                .find(|balance| balance.asset == *asset)
                .expect("a balance");
            let found = Account {
                available: balance.available.micros().into(),
                locked: balance.locked.micros().into(),
                shares: balance.shares.micros().into(),
                locked_shares: balance.locked_shares.micros().into(),
                version: balance.version,
            };
            assert_eq!(found, *account, "{user} in {asset}");
            assert!(
                balances.iter().any(|balance| balance.asset == vnd()),
                "the first account stays"
            );
        }
    }
}

impl Account {
    /// The account after one more change.
    fn moved(&self, available: i128, locked: i128, shares: i128, locked_shares: i128) -> Self {
        Self {
            available: self.available + available,
            locked: self.locked + locked,
            shares: self.shares + shares,
            locked_shares: self.locked_shares + locked_shares,
            version: self.version + 1,
        }
    }

    /// Why this account must not become that one.
    fn refusals(&self, after: &Self) -> Vec<Refusal> {
        let now = |micros: i128| Amount::from_micros(i64::try_from(micros).unwrap()).unwrap();
        let mut broken = Vec::new();
        if after.available < 0 {
            broken.push(Refusal::InsufficientFunds {
                available: now(self.available),
            });
        }
        if after.shares < 0 {
            broken.push(Refusal::InsufficientShares {
                available: now(self.shares),
            });
        }
        let most = i128::from(Amount::MAX.micros());
        if after.available + after.locked > most || after.shares + after.locked_shares > most {
            broken.push(Refusal::AmountOverflow);
        }
        broken
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
