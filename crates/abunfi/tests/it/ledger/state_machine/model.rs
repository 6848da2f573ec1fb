//! The pure side: what the ledger must do, in arithmetic that cannot overflow and without a store.

use std::collections::{BTreeMap, BTreeSet};

use abunfi::ledger::{Refusal, Settlement, Stage, TransactionType};
use abunfi::money::Amount;
use abunfi::users::UserStatus;
use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::ReferenceStateMachine;

pub(super) const USERS: usize = 3;
pub(super) const ASSETS: [&str; 2] = ["VND", "USDT"];
/// `10^12 − 0.000001`, in millionths.
const MOST: i64 = 999_999_999_999_999_999;

/// A posting that somebody asks for.
#[derive(Debug, Clone)]
pub(super) struct Posting {
    pub(super) user: usize,
    pub(super) asset: usize,
    pub(super) kind: TransactionType,
    pub(super) pending: bool,
    pub(super) amount: i64,
    pub(super) shares: i64,
    /// Seconds from now; may lie in the past. Pending withdrawals only.
    pub(super) expires_in: Option<i64>,
    pub(super) reference: Option<u8>,
    pub(super) hash: Option<u8>,
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    Post(Posting),
    /// The transaction by its number; asked on its owner, or (wrongly) on the next user.
    Settle {
        transaction: usize,
        to: Settlement,
        only_unsubmitted: bool,
        by_owner: bool,
    },
    Submit {
        transaction: usize,
        by_owner: bool,
    },
    Batch {
        atomic: bool,
        items: Vec<Posting>,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Transition {
    /// With the next key, or without one. (Batches always have one.)
    Ask {
        request: Request,
        keyed: bool,
    },
    /// A request that had a key, once more, as it was.
    Again {
        key: usize,
    },
    /// The key of an earlier request with another body.
    Misuse {
        key: usize,
    },
    /// Inside `execute_transaction`.
    Inside {
        items: Vec<Posting>,
        commit: bool,
    },
    Status {
        user: usize,
        to: UserStatus,
    },
    Wait {
        seconds: i64,
    },
    Expire,
    /// Balances as they were so long ago.
    LookBack {
        user: usize,
        seconds: i64,
    },
}

/// What must have been said of one posting or settlement: the account after it, or the rules that it broke,
/// of which the ledger may name any.
pub(super) type Verdict = Result<Account, Vec<Refusal>>;

/// What must have been said of the last transition.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Nothing,
    Each(Vec<Verdict>),
    Whole(Result<Vec<Account>, (usize, Vec<Refusal>)>),
    /// As the first time.
    Replay,
    Reused,
    Expired(u64),
    /// Whether the status may become that.
    Status(Result<(), StatusRefusal>),
    /// By asset; `None`: no change by then.
    Back([Option<Account>; 2]),
}

impl Said {
    /// Whether a posting was refused for a time that had passed, which is looked at before all else that the
    /// account decides.
    fn has_expired(&self) -> bool {
        let expired = |broken: &Vec<Refusal>| broken.first() == Some(&Refusal::Expired);
        match self {
            Self::Each(verdicts) => verdicts
                .iter()
                .any(|verdict| verdict.as_ref().is_err_and(expired)),
            Self::Whole(Err((_, broken))) => expired(broken),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusRefusal {
    Final,
    NotEmpty,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) available: i128,
    pub(super) locked: i128,
    pub(super) shares: i128,
    pub(super) locked_shares: i128,
    pub(super) version: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) posting: Posting,
    pub(super) stage: Stage,
    expires_at: Option<i64>,
}

/// The books as they must be.
#[derive(Debug, Clone)]
pub(super) struct Model {
    /// Seconds since the run began.
    pub(super) now: i64,
    pub(super) status: [UserStatus; USERS],
    pub(super) accounts: BTreeMap<(usize, usize), Account>,
    /// The yield of each account's whole life, which is shown as an amount.
    earned: BTreeMap<(usize, usize), i128>,
    /// In the order in which they were posted.
    pub(super) transactions: Vec<Known>,
    references: BTreeSet<(usize, u8)>,
    hashes: BTreeSet<(usize, TransactionType, u8)>,
    /// The requests that had a key, whose number is the key.
    pub(super) keyed: Vec<Request>,
    /// Keys that are not settled by their request: of a time that had passed nothing is stored.
    unsettled: BTreeSet<usize>,
    /// Every account after every change of it, with the time.
    past: Vec<(i64, (usize, usize), Account)>,
    pub(super) said: Said,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self> {
        let mut model = Self {
            now: 0,
            status: [UserStatus::Active; USERS],
            accounts: BTreeMap::new(),
            earned: BTreeMap::new(),
            transactions: Vec::new(),
            references: BTreeSet::new(),
            hashes: BTreeSet::new(),
            keyed: Vec::new(),
            unsettled: BTreeSet::new(),
            past: Vec::new(),
            said: Said::Nothing,
        };
        // A user starts with an account in the default asset.
        for user in 0..USERS {
            model.accounts.insert((user, 0), Account::default());
        }
        Just(model).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Transition> {
        let ask = |request: BoxedStrategy<Request>| {
            (request, prop::bool::weighted(0.7))
                .prop_map(|(request, keyed)| Transition::Ask { request, keyed })
        };
        let items = || prop::collection::vec(posting(), 1..5);
        let batch = (any::<bool>(), items()).prop_map(|(atomic, items)| Transition::Ask {
            request: Request::Batch { atomic, items },
            keyed: true,
        });
        let status = (
            0..USERS,
            select(vec![
                UserStatus::Active,
                UserStatus::Active,
                UserStatus::Suspended,
                UserStatus::Closed,
            ]),
        );
        let mut choices = vec![
            (10, ask(posting().prop_map(Request::Post).boxed()).boxed()),
            (4, batch.boxed()),
            (
                2,
                (items(), any::<bool>())
                    .prop_map(|(items, commit)| Transition::Inside { items, commit })
                    .boxed(),
            ),
            (
                2,
                status
                    .prop_map(|(user, to)| Transition::Status { user, to })
                    .boxed(),
            ),
            (
                2,
                (1..20_i64)
                    .prop_map(|seconds| Transition::Wait { seconds })
                    .boxed(),
            ),
            (2, Just(Transition::Expire).boxed()),
            (
                2,
                (0..USERS, 0..30_i64)
                    .prop_map(|(user, seconds)| Transition::LookBack { user, seconds })
                    .boxed(),
            ),
        ];
        if !state.transactions.is_empty() {
            choices.push((10, ask(settling(state.transactions.len())).boxed()));
        }
        let settled: Vec<usize> = (0..state.keyed.len())
            .filter(|key| !state.unsettled.contains(key))
            .collect();
        if !settled.is_empty() {
            let key = select(settled);
            choices.push((
                3,
                key.clone()
                    .prop_map(|key| Transition::Again { key })
                    .boxed(),
            ));
            choices.push((1, key.prop_map(|key| Transition::Misuse { key }).boxed()));
        }
        prop::strategy::Union::new_weighted(choices).boxed()
    }

    fn preconditions(state: &Self, transition: &Transition) -> bool {
        match transition {
            Transition::Ask {
                request: Request::Settle { transaction, .. } | Request::Submit { transaction, .. },
                ..
            } => *transaction < state.transactions.len(),
            Transition::Again { key } | Transition::Misuse { key } => {
                *key < state.keyed.len() && !state.unsettled.contains(key)
            }
            _ => true,
        }
    }

    fn apply(mut state: Self, transition: &Transition) -> Self {
        state.said = match transition {
            Transition::Ask { request, keyed } => {
                if *keyed {
                    state.keyed.push(request.clone());
                }
                let said = state.ask(request);
                if *keyed && said.has_expired() {
                    state.unsettled.insert(state.keyed.len() - 1);
                }
                said
            }
            Transition::Again { .. } => Said::Replay,
            Transition::Misuse { .. } => Said::Reused,
            Transition::Inside { items, commit } => {
                let before = state.clone();
                let verdicts = items.iter().map(|item| state.post(item)).collect();
                if !commit {
                    state = before;
                }
                Said::Each(verdicts)
            }
            Transition::Status { user, to } => state.change_status(*user, *to),
            Transition::Wait { seconds } => {
                state.now += seconds;
                Said::Nothing
            }
            Transition::Expire => state.expire(),
            Transition::LookBack { user, seconds } => state.look_back(*user, *seconds),
        };
        state
    }
}

fn posting() -> BoxedStrategy<Posting> {
    let kind = select(vec![
        TransactionType::Deposit,
        TransactionType::Deposit,
        TransactionType::Deposit,
        TransactionType::Withdraw,
        TransactionType::Withdraw,
        TransactionType::Withdraw,
        TransactionType::YieldHarvest,
        TransactionType::ReferralBonus,
    ]);
    // Mostly small, so that funds suffice and fall short; sometimes at the edges.
    let amount = prop_oneof![
        12 => 1..30_000_000_i64,
        2 => (1..40_i64).prop_map(|units| units * 1_000_000),
        1 => select(vec![1, MOST, MOST - 1, 600_000_000_000_000_000, 400_000_000_000_000_000]),
    ];
    let shares =
        prop_oneof![4 => Just(0), 2 => select(vec![1_i64, 500_000, 1_000_000]), 1 => Just(MOST)];
    let flags = (
        prop::bool::weighted(0.5),
        prop::option::weighted(0.6, select(vec![-2_i64, 0, 0, 1, 2, 5, 12])),
    );
    let unique = (
        prop::option::weighted(0.1, 0..4_u8),
        prop::option::weighted(0.1, 0..4_u8),
    );
    (
        0..USERS,
        prop_oneof![3 => Just(0_usize), 1 => Just(1)],
        kind,
        amount,
        shares,
        flags,
        unique,
    )
        .prop_map(
            |(user, asset, kind, amount, shares, (pending, expires_in), (reference, hash))| {
                Posting {
                    user,
                    asset,
                    kind,
                    pending,
                    amount,
                    shares,
                    expires_in: expires_in.filter(|_| pending && kind == TransactionType::Withdraw),
                    reference,
                    hash,
                }
            },
        )
        .boxed()
}

fn settling(transactions: usize) -> BoxedStrategy<Request> {
    let transaction = 0..transactions;
    let to = select(vec![
        Settlement::Confirm,
        Settlement::Fail,
        Settlement::Cancel,
    ]);
    let by_owner = prop::bool::weighted(0.95);
    prop_oneof![
        3 => (transaction.clone(), to, prop::bool::weighted(0.2), by_owner).prop_map(
            |(transaction, to, only_unsubmitted, by_owner)| Request::Settle { transaction, to, only_unsubmitted, by_owner }),
        1 => (transaction, by_owner).prop_map(|(transaction, by_owner)| Request::Submit { transaction, by_owner }),
    ]
    .boxed()
}

impl Model {
    fn ask(&mut self, request: &Request) -> Said {
        match request {
            Request::Post(posting) => Said::Each(vec![self.post(posting)]),
            Request::Settle {
                transaction,
                to,
                only_unsubmitted,
                by_owner,
            } => Said::Each(vec![self.settle(
                *transaction,
                *to,
                *only_unsubmitted,
                *by_owner,
            )]),
            Request::Submit {
                transaction,
                by_owner,
            } => Said::Each(vec![self.submit(*transaction, *by_owner)]),
            Request::Batch {
                atomic: false,
                items,
            } => Said::Each(items.iter().map(|item| self.post(item)).collect()),
            Request::Batch {
                atomic: true,
                items,
            } => {
                let before = self.clone();
                let mut after = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    match self.post(item) {
                        Ok(account) => after.push(account),
                        Err(broken) => {
                            let keyed = std::mem::take(&mut self.keyed);
                            *self = Self { keyed, ..before };
                            return Said::Whole(Err((index, broken)));
                        }
                    }
                }
                Said::Whole(Ok(after))
            }
        }
    }

    fn post(&mut self, posting: &Posting) -> Verdict {
        let mut broken = Vec::new();
        let status = self.status[posting.user];
        if status != UserStatus::Active {
            broken.push(Refusal::UserNotActive {
                status: status.to_string(),
            });
        }
        let expires_at = posting.expires_in.map(|seconds| self.now + seconds);
        if expires_at.is_some_and(|at| at <= self.now) {
            broken.push(Refusal::Expired);
        }
        let reference = posting.reference.map(|reference| (posting.user, reference));
        if reference.is_some_and(|reference| self.references.contains(&reference)) {
            broken.push(Refusal::ClientReferenceTaken);
        }
        let hash = posting.hash.map(|hash| (posting.user, posting.kind, hash));
        if hash.is_some_and(|hash| self.hashes.contains(&hash)) {
            broken.push(Refusal::TxHashTaken);
        }
        let (amount, shares) = (i128::from(posting.amount), i128::from(posting.shares));
        let account = self.account(posting);
        let after = match (posting.kind, posting.pending) {
            (TransactionType::Withdraw, false) => account.moved(-amount, 0, -shares, 0),
            (TransactionType::Withdraw, true) => account.moved(-amount, amount, -shares, shares),
            (_, false) => account.moved(amount, 0, shares, 0),
            (_, true) => account.moved(0, 0, 0, 0),
        };
        broken.extend(account.refusals(&after));
        broken.extend(self.refuse_yield(posting, !posting.pending));
        if !broken.is_empty() {
            return Err(broken);
        }
        self.references.extend(reference);
        self.hashes.extend(hash);
        self.earn(posting, !posting.pending);
        let stage = if posting.pending {
            Stage::Pending
        } else {
            Stage::Confirmed
        };
        self.transactions.push(Known {
            posting: posting.clone(),
            stage,
            expires_at,
        });
        Ok(self.enter(posting, after))
    }

    fn settle(
        &mut self,
        number: usize,
        to: Settlement,
        only_unsubmitted: bool,
        by_owner: bool,
    ) -> Verdict {
        let stage = Stage::of(to.status(), false);
        let known = self.open(number, by_owner, stage)?;
        if only_unsubmitted && known.stage == Stage::Submitted {
            return Err(vec![Refusal::InvalidTransition {
                from: Stage::Submitted,
                to: stage,
            }]);
        }
        let posting = &known.posting;
        let (amount, shares) = (i128::from(posting.amount), i128::from(posting.shares));
        let account = self.account(posting);
        let confirmed = to == Settlement::Confirm;
        let after = match (posting.kind, confirmed) {
            (TransactionType::Withdraw, true) => account.moved(0, -amount, 0, -shares),
            (TransactionType::Withdraw, false) => account.moved(amount, -amount, shares, -shares),
            (_, true) => account.moved(amount, 0, shares, 0),
            (_, false) => account.moved(0, 0, 0, 0),
        };
        let mut broken = account.refusals(&after);
        broken.extend(self.refuse_yield(posting, confirmed));
        if !broken.is_empty() {
            return Err(broken);
        }
        self.earn(posting, confirmed);
        self.transactions[number].stage = stage;
        Ok(self.enter(posting, after))
    }

    fn submit(&mut self, number: usize, by_owner: bool) -> Verdict {
        let known = self.open(number, by_owner, Stage::Submitted)?;
        if known.posting.kind != TransactionType::Withdraw || known.stage == Stage::Submitted {
            return Err(vec![Refusal::InvalidTransition {
                from: known.stage,
                to: Stage::Submitted,
            }]);
        }
        self.transactions[number].stage = Stage::Submitted;
        let after = self.account(&known.posting).moved(0, 0, 0, 0);
        Ok(self.enter(&known.posting, after))
    }

    fn open(&self, number: usize, by_owner: bool, to: Stage) -> Result<Known, Vec<Refusal>> {
        if !by_owner {
            return Err(vec![Refusal::TransactionNotFound]);
        }
        let known = self.transactions[number].clone();
        match known.stage {
            Stage::Pending | Stage::Submitted => Ok(known),
            from => Err(vec![Refusal::InvalidTransition { from, to }]),
        }
    }

    fn expire(&mut self) -> Said {
        let due: Vec<usize> = self
            .transactions
            .iter()
            .enumerate()
            .filter(|(_, known)| {
                known.stage == Stage::Pending && known.expires_at.is_some_and(|at| at <= self.now)
            })
            .map(|(number, _)| number)
            .collect();
        for number in &due {
            let done = self.settle(*number, Settlement::Cancel, true, true);
            assert!(done.is_ok(), "releasing a hold breaks no rule: {done:?}");
        }
        Said::Expired(due.len().try_into().unwrap())
    }

    fn change_status(&mut self, user: usize, to: UserStatus) -> Said {
        let from = self.status[user];
        let is_empty = ASSETS.iter().enumerate().all(|(asset, _)| {
            let account = self
                .accounts
                .get(&(user, asset))
                .cloned()
                .unwrap_or_default();
            account
                == Account {
                    version: account.version,
                    ..Account::default()
                }
        });
        let is_pending = |known: &Known| {
            known.posting.user == user && matches!(known.stage, Stage::Pending | Stage::Submitted)
        };
        if from == UserStatus::Closed && to != from {
            return Said::Status(Err(StatusRefusal::Final));
        }
        if to == UserStatus::Closed
            && from != to
            && (!is_empty || self.transactions.iter().any(is_pending))
        {
            return Said::Status(Err(StatusRefusal::NotEmpty));
        }
        self.status[user] = to;
        Said::Status(Ok(()))
    }

    fn look_back(&self, user: usize, seconds: i64) -> Said {
        let then = self.now - seconds;
        Said::Back([0, 1].map(|asset| {
            let mut by_then = self
                .past
                .iter()
                .filter(|(at, of, _)| *at <= then && *of == (user, asset));
            let newest = by_then.next_back().map(|(_, _, account)| account.clone());
            // The account in the default asset came with the user, before all histories begin.
            newest.or_else(|| (asset == 0).then(Account::default))
        }))
    }

    fn account(&self, posting: &Posting) -> Account {
        self.accounts
            .get(&(posting.user, posting.asset))
            .cloned()
            .unwrap_or_default()
    }

    fn earned_after(&self, posting: &Posting, confirmed: bool) -> i128 {
        let before = self
            .earned
            .get(&(posting.user, posting.asset))
            .copied()
            .unwrap_or_default();
        let is_yield = confirmed && posting.kind == TransactionType::YieldHarvest;
        before
            + if is_yield {
                i128::from(posting.amount)
            } else {
                0
            }
    }

    fn refuse_yield(&self, posting: &Posting, confirmed: bool) -> Option<Refusal> {
        (self.earned_after(posting, confirmed) > i128::from(MOST))
            .then_some(Refusal::AmountOverflow)
    }

    fn earn(&mut self, posting: &Posting, confirmed: bool) {
        let earned = self.earned_after(posting, confirmed);
        self.earned.insert((posting.user, posting.asset), earned);
    }

    fn enter(&mut self, posting: &Posting, after: Account) -> Account {
        let key = (posting.user, posting.asset);
        self.accounts.insert(key, after.clone());
        self.past.push((self.now, key, after.clone()));
        after
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
        let most = i128::from(MOST);
        if after.available + after.locked > most || after.shares + after.locked_shares > most {
            broken.push(Refusal::AmountOverflow);
        }
        broken
    }
}
