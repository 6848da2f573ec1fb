//! Transactions against their audit rows and their entries, and what they add up to.
//!
//! The trail says what each transaction is: its amount, its shares, its state and the times of its
//! changes. The transaction's own row must say the same, and entries are there exactly if it is
//! confirmed. Sums go by the trail *up to the head of the account* that was read with the account's
//! amounts; rows and entries that are newer are judged against the newer audit rows.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::finding::{Findings, Maybe, Micros, Place, Time};
use super::rows::{AuditRow, EntryRow, TransactionRow};
use crate::ids::TransactionId;
use crate::ledger::{LedgerAccount, TransactionStatus, TransactionType};

/// What an account's transactions add up to, by the trail and the entries that bear it out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// What is confirmed, by its counterpart; `user` is what came in less what went out.
    pub(super) user: i128,
    pub(super) deposited: i128,
    pub(super) withdrawn: i128,
    pub(super) yield_earned: i128,
    pub(super) bonuses: i128,
    /// Pending withdrawals.
    pub(super) locked: i128,
    pub(super) locked_shares: i128,
    /// Shares of what is confirmed.
    pub(super) shares: i128,
    pub(super) pending: i64,
    pub(super) last_yield_at: Option<i64>,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.user += other.user;
        self.deposited += other.deposited;
        self.withdrawn += other.withdrawn;
        self.yield_earned += other.yield_earned;
        self.bonuses += other.bonuses;
        self.locked += other.locked;
        self.locked_shares += other.locked_shares;
        self.shares += other.shares;
        self.pending += other.pending;
        self.last_yield_at = self.last_yield_at.max(other.last_yield_at);
    }
}

/// What the trail says of a transaction.
#[derive(Debug, Clone)]
struct Trail {
    /// Of rows that say it in their action.
    kind: Option<TransactionType>,
    amount: i64,
    shares: i64,
    status: TransactionStatus,
    /// The status at the account's head; `None`: it was posted later.
    at_head: Option<TransactionStatus>,
    confirmed_before_head: Option<i64>,
    created_at: i64,
    submitted_at: Option<i64>,
    confirmed_at: Option<i64>,
    /// The index of its chain's name.
    chain: u32,
    /// Every row's content is what its hash says.
    genuine: bool,
}

/// The transaction's own row.
#[derive(Debug, Clone)]
struct Row {
    kind: Option<TransactionType>,
    /// `None`: a status that does not exist.
    status: Option<TransactionStatus>,
    asset: u32,
    amount: i64,
    shares: i64,
    submitted_at: Option<i64>,
    created_at: i64,
    confirmed_at: Option<i64>,
}

#[derive(Debug, Default)]
struct Known {
    row: Option<Row>,
    trail: Option<Trail>,
    legs: [Option<i64>; 5],
}

/// Names of chains and assets, as numbers.
#[derive(Debug, Default)]
struct Names {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn name(&self, number: u32) -> &str {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.names.get(index).map_or("", String::as_str)
    }
}

/// The judge of a set of transactions: all of some users', or a part of one user's.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    known: HashMap<(Uuid, Uuid), Known>,
    names: Names,
    /// Rows seen of each kind.
    pub(super) rows: u64,
    pub(super) entries: u64,
}

impl Transactions {
    pub(super) fn kind(&self, user: Uuid, transaction: Uuid) -> Option<TransactionType> {
        self.known.get(&(user, transaction))?.row.as_ref()?.kind
    }

    pub(super) fn row(&mut self, row: &TransactionRow<'_>) {
        self.rows = self.rows.saturating_add(1);
        let asset = self.names.number(row.asset);
        let known = self
            .known
            .entry((row.user_id, row.transaction_id))
            .or_default();
        known.row = Some(Row {
            kind: TransactionType::from_name(row.kind),
            status: TransactionStatus::from_name(row.status),
            asset,
            amount: row.amount,
            shares: row.shares,
            submitted_at: row.submitted_at,
            created_at: row.created_at,
            confirmed_at: row.confirmed_at,
        });
    }

    /// Enters an audit row; those of one transaction come in the order of their chain. `is_in_head`: it is
    /// not newer than the head that the account's amounts belong to.
    pub(super) fn audit(
        &mut self,
        row: &AuditRow<'_>,
        genuine: bool,
        is_in_head: bool,
        findings: &mut Findings,
    ) {
        let (Some(id), Some(amount), Some(shares)) = (row.transaction_id, row.amount, row.shares)
        else {
            return;
        };
        let place = || Place::AuditRow {
            user_id: row.user_id,
            chain: row.chain.to_owned(),
            seq: row.seq,
        };
        let Some(to) = row.new_status.and_then(TransactionStatus::from_name) else {
            findings.add(
                place,
                "new_status",
                "the status of a transaction",
                Maybe(row.new_status),
            );
            return;
        };
        let chain = self.names.number(row.chain);
        let known = self.known.entry((row.user_id, id)).or_default();
        let expected = known.trail.as_ref().map(|trail| trail.status.as_str());
        if expected != row.previous_status {
            findings.add(
                place,
                "previous_status",
                Maybe(expected),
                Maybe(row.previous_status),
            );
        }
        // Only a first row says the type, and with it from where the money came.
        let posts = kind_of(row.action).is_some();
        if genuine && posts != row.previous_status.is_none() {
            let expected = match posts {
                true => "none that posts: there is a status before",
                false => "post_ and a type of transaction",
            };
            findings.add(place, "action", expected, row.action);
        }
        let trail = known.trail.get_or_insert_with(|| Trail {
            kind: kind_of(row.action),
            amount,
            shares,
            status: to,
            at_head: None,
            confirmed_before_head: None,
            // The id is hashed, and says when it was made.
            created_at: TransactionId(id).made_at().micros(),
            submitted_at: None,
            confirmed_at: None,
            chain,
            genuine: true,
        });
        trail.genuine &= genuine;
        findings.compare(
            place,
            "amount",
            Micros(trail.amount.into()),
            Micros(amount.into()),
        );
        findings.compare(
            place,
            "shares",
            Micros(trail.shares.into()),
            Micros(shares.into()),
        );
        trail.status = to;
        let confirmed = to == TransactionStatus::Confirmed;
        trail.confirmed_at = confirmed.then_some(row.at);
        if to == TransactionStatus::Pending && row.previous_status.is_some() {
            trail.submitted_at = Some(row.at);
        }
        if is_in_head {
            trail.at_head = Some(to);
            trail.confirmed_before_head = trail.confirmed_at;
        }
    }

    pub(super) fn entry(&mut self, row: &EntryRow<'_>, findings: &mut Findings) {
        self.entries = self.entries.saturating_add(1);
        let place = || Place::Entry {
            user_id: row.user_id,
            transaction_id: row.transaction_id,
            account: row.account.to_owned(),
        };
        let asset = self.names.number(row.asset);
        let Some(known) = self.known.get_mut(&(row.user_id, row.transaction_id)) else {
            let expected = "no entry: there is no such transaction";
            findings.add(place, "row", expected, Micros(row.amount.into()));
            return;
        };
        let Some(trail) = &known.trail else {
            // The transaction itself is reported as having no audit row.
            return;
        };
        findings.compare(
            place,
            "asset",
            self.names.name(trail.chain),
            self.names.name(asset),
        );
        if let Some(at) = trail.confirmed_at.filter(|_| trail.genuine) {
            findings.compare(place, "at", Time(at), Time(row.at));
        }
        let leg = LedgerAccount::from_name(row.account)
            .and_then(|account| known.legs.get_mut(side(account)));
        match leg {
            Some(leg) => *leg = Some(row.amount),
            None => findings.add(place, "account", "an account of the books", row.account),
        }
    }

    /// There are no more rows: judges each transaction, and gives the sums by user and asset.
    pub(super) fn close(self, findings: &mut Findings) -> BTreeMap<(Uuid, String), Sums> {
        let Self { known, names, .. } = self;
        let mut sums: HashMap<(Uuid, u32), Sums> = HashMap::new();
        let mut disagreeing = Vec::new();
        for (&(user, id), known) in &known {
            if let Some(trail) = &known.trail {
                let sums = sums.entry((user, trail.chain)).or_default();
                add(sums, trail, known.row.as_ref());
            }
            if !known.agrees() {
                disagreeing.push((user, id));
            }
        }
        // In their order, so that the first ones are kept.
        disagreeing.sort_unstable();
        for key in disagreeing {
            if let Some(known) = known.get(&key) {
                known.judge(key, &names, findings);
            }
        }
        sums.into_iter()
            .map(|((user, chain), sums)| ((user, names.name(chain).to_owned()), sums))
            .collect()
    }
}

impl Known {
    fn agrees(&self) -> bool {
        let (Some(row), Some(trail)) = (&self.row, &self.trail) else {
            return false;
        };
        row.kind.is_some()
            && row.kind == trail.kind.or(row.kind)
            && row.status == Some(trail.status)
            && row.asset == trail.chain
            && row.amount == trail.amount
            && row.shares == trail.shares
            && row.created_at == trail.created_at
            && row.submitted_at == trail.submitted_at
            && row.confirmed_at == trail.confirmed_at
            && self.legs == wanted(trail, trail.kind.or(row.kind))
    }

    fn judge(&self, key: (Uuid, Uuid), names: &Names, findings: &mut Findings) {
        let (user_id, transaction_id) = key;
        let place = || Place::Transaction {
            user_id,
            transaction_id,
        };
        let Some(trail) = &self.trail else {
            findings.add(
                place,
                "row",
                "no transaction: no audit row tells of it",
                "a transaction",
            );
            return;
        };
        let Some(row) = &self.row else {
            let amount = Micros(trail.amount.into());
            let expected = format!("{} of {amount} {}", trail.status, names.name(trail.chain));
            findings.add(place, "row", expected, "no transaction");
            return;
        };
        let status = row.status.map_or("no status", TransactionStatus::as_str);
        findings.compare(place, "status", trail.status.as_str(), status);
        let found = row.kind.map_or("another word", TransactionType::as_str);
        match trail.kind {
            Some(kind) if trail.genuine => {
                findings.compare(place, "type", kind.as_str(), found);
            }
            None if row.kind.is_none() => {
                findings.add(place, "type", "a type of transaction", found);
            }
            _ => {}
        }
        findings.compare(
            place,
            "asset",
            names.name(trail.chain),
            names.name(row.asset),
        );
        // An edited audit row is reported as such; the transaction is not to blame for it.
        if trail.genuine {
            findings.compare(
                place,
                "amount",
                Micros(trail.amount.into()),
                Micros(row.amount.into()),
            );
            findings.compare(
                place,
                "shares",
                Micros(trail.shares.into()),
                Micros(row.shares.into()),
            );
            findings.compare(
                place,
                "created_at",
                Time(trail.created_at),
                Time(row.created_at),
            );
            let times = [
                ("submitted_at", trail.submitted_at, row.submitted_at),
                ("confirmed_at", trail.confirmed_at, row.confirmed_at),
            ];
            for (what, trail, row) in times {
                findings.compare(place, what, Maybe(trail.map(Time)), Maybe(row.map(Time)));
            }
        }
        let legs = wanted(trail, trail.kind.or(row.kind));
        for (index, (expected, found)) in legs.into_iter().zip(self.legs).enumerate() {
            let entry = || Place::Entry {
                user_id,
                transaction_id,
                account: LedgerAccount::ALL
                    .get(index)
                    .map_or_else(String::new, |account| account.as_str().to_owned()),
            };
            let blamed = trail.genuine || expected.is_some() != found.is_some();
            if blamed {
                let [expected, found] =
                    [expected, found].map(|leg| Maybe(leg.map(|leg| Micros(leg.into()))));
                findings.compare(entry, "amount", expected, found);
            }
        }
    }
}

/// The type that the first audit row of a transaction says in its action: `post_deposit`, …
pub(super) fn kind_of(action: &str) -> Option<TransactionType> {
    TransactionType::from_name(action.strip_prefix("post_")?)
}

/// The place of an account among the legs.
fn side(account: LedgerAccount) -> usize {
    LedgerAccount::ALL
        .iter()
        .position(|other| *other == account)
        .unwrap_or(usize::MAX)
}

/// The entries that a transaction must have.
fn wanted(trail: &Trail, kind: Option<TransactionType>) -> [Option<i64>; 5] {
    let mut legs = [None; 5];
    let (TransactionStatus::Confirmed, Some(kind)) = (trail.status, kind) else {
        return legs;
    };
    let (counterpart, sign) = match kind {
        TransactionType::Deposit => (LedgerAccount::Custody, 1),
        TransactionType::Withdraw => (LedgerAccount::Custody, -1),
        TransactionType::YieldHarvest => (LedgerAccount::Yield, 1),
        TransactionType::ReferralBonus => (LedgerAccount::Promotions, 1),
    };
    let amount = trail.amount.saturating_mul(sign);
    for (account, amount) in [
        (LedgerAccount::User, amount),
        (counterpart, amount.saturating_neg()),
    ] {
        if let Some(leg) = legs.get_mut(side(account)) {
            *leg = Some(amount);
        }
    }
    legs
}

/// Adds what the transaction was at the head. Entries that disagree are reported as such, so that what an
/// account should have is said by those that should be there.
fn add(sums: &mut Sums, trail: &Trail, row: Option<&Row>) {
    let kind = trail.kind.or(row.and_then(|row| row.kind));
    let is_withdrawal = kind == Some(TransactionType::Withdraw);
    // An edited audit row says nothing.
    let (amount, shares, confirmed_at) = match row {
        Some(row) if !trail.genuine => (row.amount, row.shares, row.confirmed_at),
        _ => (trail.amount, trail.shares, trail.confirmed_before_head),
    };
    let (amount, shares) = (i128::from(amount), i128::from(shares));
    match trail.at_head {
        Some(TransactionStatus::Pending) => {
            sums.pending += 1;
            if is_withdrawal {
                sums.locked += amount;
                sums.locked_shares += shares;
            }
        }
        Some(TransactionStatus::Confirmed) => {
            let (amount_in, shares_in, total) = match kind {
                Some(TransactionType::Deposit) => (amount, shares, &mut sums.deposited),
                Some(TransactionType::Withdraw) => (-amount, -shares, &mut sums.withdrawn),
                Some(TransactionType::YieldHarvest) => (amount, shares, &mut sums.yield_earned),
                Some(TransactionType::ReferralBonus) => (amount, shares, &mut sums.bonuses),
                None => return,
            };
            *total += amount;
            sums.user += amount_in;
            sums.shares += shares_in;
            if kind == Some(TransactionType::YieldHarvest) {
                sums.last_yield_at = sums.last_yield_at.max(confirmed_at);
            }
        }
        Some(TransactionStatus::Failed | TransactionStatus::Cancelled) | None => {}
    }
}
