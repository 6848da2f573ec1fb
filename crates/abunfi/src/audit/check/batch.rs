//! The users of one batch: their chains, and what their balances are made of.

use std::collections::HashMap;

use super::books::Known;
use super::{Report, Walk};
use crate::audit::drafts::{ASSET_CHAINS, SYSTEM_CHAIN};
use crate::audit::format::{AccountLine, EntryLine, Line, Micros, RowLine, TransactionLine};
use crate::audit::{Entry, Head, USER_CHAIN};
use crate::ids::{TransactionId, UserId};

type Key = (UserId, String);

/// A chain of the batch: where it ends, how far its rows have been read.
struct Chain {
    end: Head,
    walk: Walk,
    account: Option<AccountLine>,
    /// That it has none, though it must, is said.
    is_without_account: bool,
    amounts: Option<Amounts>,
    totals: Totals,
}

/// Available, locked, shares, locked shares.
type Amounts = [i64; 4];

/// What confirmed transactions add up to, in micro-units, by what an account counts.
#[derive(Default, PartialEq, Eq)]
struct Totals {
    deposited: i128,
    withdrawn: i128,
    yield_earned: i128,
    bonuses: i128,
    /// Of the user's own legs.
    entries: i128,
}

/// A transaction as the trail has it, up to the chain's end.
struct Transaction {
    asset: String,
    kind: String,
    amount: i64,
    shares: i64,
    status: String,
    /// Its line has come.
    is_there: bool,
    /// The user's leg, the other leg, how many legs there are.
    legs: (i64, i64, u32),
}

#[derive(Default)]
pub(super) struct Batch {
    chains: HashMap<Key, Chain>,
    transactions: HashMap<(UserId, TransactionId), Transaction>,
    is_incremental: bool,
}

/// The types that a transaction can have.
const KINDS: [&str; 4] = ["deposit", "withdraw", "yield_harvest", "referral_bonus"];

/// Of these names are the chains whose heads are no accounts.
fn has_no_account(chain: &str) -> bool {
    chain == USER_CHAIN || chain == SYSTEM_CHAIN || chain.starts_with(ASSET_CHAINS)
}

fn is_of_money(row: &Entry) -> bool {
    // An amount alone may be a price.
    row.transaction_id.is_some() || row.shares.is_some() || row.after.is_some()
}

fn without_account(key: &Key, report: &mut Report) {
    report.found(|| {
        format!(
            "user {}, chain {}: it is an account's, and there is no account",
            key.0, key.1
        )
    });
}

impl Batch {
    /// The first and the last of its users.
    pub(super) fn users(&self) -> Option<(UserId, UserId)> {
        let users = || self.chains.keys().map(|(user, _)| *user);
        users().min().zip(users().max())
    }

    pub(super) fn take(
        &mut self,
        line: Line,
        known: &Known,
        is_incremental: bool,
        report: &mut Report,
    ) {
        self.is_incremental = is_incremental;
        match line {
            Line::Account(account) => {
                let end = Head {
                    seq: account.seq,
                    hash: account.hash.0,
                };
                let key = (account.user_id, account.chain.clone());
                self.begin(key, end, Some(account), known, report);
            }
            Line::Chain {
                user_id,
                chain,
                seq,
                hash,
            } => self.begin(
                (user_id, chain),
                Head { seq, hash: hash.0 },
                None,
                known,
                report,
            ),
            Line::Row(row) => self.row(*row, known, report),
            Line::Transaction(line) => self.transaction(&line, report),
            Line::Entry(line) => self.entry(&line, report),
            _ => {}
        }
    }

    fn begin(
        &mut self,
        key: Key,
        end: Head,
        account: Option<AccountLine>,
        known: &Known,
        report: &mut Report,
    ) {
        if self.chains.contains_key(&key) {
            report.found(|| format!("user {}, chain {}: its head is there twice", key.0, key.1));
            return;
        }
        let start = known.starts.get(&key).copied().unwrap_or(Head::EMPTY);
        let chain = Chain {
            end,
            walk: Walk::from(start),
            is_without_account: account.is_none() && !has_no_account(&key.1),
            account,
            amounts: (!self.is_incremental).then_some([0; 4]),
            totals: Totals::default(),
        };
        if chain.is_without_account {
            without_account(&key, report);
        }
        self.chains.insert(key, chain);
    }

    fn row(&mut self, line: RowLine, known: &Known, report: &mut Report) {
        let key = (line.user_id, line.chain.clone());
        // A chain without a head began after the heads were read, and so did rows beyond a head.
        let Some(chain) = self.chains.get_mut(&key) else {
            return;
        };
        let seq = line.seq;
        if seq > chain.end.seq {
            return;
        }
        let place = || format!("user {}, chain {}", key.0, key.1);
        let Some(row) = line.into_entry() else {
            report.found(|| format!("{}: row {seq} makes no sense", place()));
            return;
        };
        report.rows += 1;
        if let Some(wrong) = chain.walk.step(&row) {
            report.found(|| format!("{}: {wrong}", place()));
        }
        let heads = known.heads.get(&key).map(Vec::as_slice).unwrap_or_default();
        if heads.last().is_none_or(|head| head.seq < seq) {
            report.rows_not_covered += 1;
        }
        if let Ok(at) = heads.binary_search_by_key(&seq, |head| head.seq)
            && let Some(head) = heads.get(at)
            && head.hash != row.hash
        {
            let hash = hex::encode(head.hash);
            report.found(|| {
                format!(
                    "{}: a checkpoint says that row {seq} has hash {hash}",
                    place()
                )
            });
        }
        match (&chain.account, row.transaction_id) {
            (Some(_), Some(id)) => self.money(&key, id, &row, report),
            (Some(_), None) => {
                report.found(|| format!("{}: row {seq} is of no transaction", place()));
            }
            // Only an account's chain has rows of transactions.
            (None, _) if is_of_money(&row) && !chain.is_without_account => {
                chain.is_without_account = true;
                without_account(&key, report);
            }
            (None, _) => {}
        }
    }

    /// What a row of an account's chain does to the transaction and to the amounts.
    fn money(&mut self, key: &Key, id: TransactionId, row: &Entry, report: &mut Report) {
        let place = || format!("user {}, chain {}, row {}", key.0, key.1, row.seq);
        let amount = row.amount.map_or(0, |amount| amount.micros());
        let shares = row.shares.map_or(0, |shares| shares.micros());
        let status = row.new_status.as_deref().unwrap_or_default();
        let posted = row.action.strip_prefix("post_");
        if let Some(kind) = posted {
            if !KINDS.contains(&kind) || row.previous_status.is_some() {
                report.found(|| format!("{}: it does not post a transaction", place()));
            }
            let transaction = Transaction {
                asset: key.1.clone(),
                kind: kind.to_owned(),
                amount,
                shares,
                status: status.to_owned(),
                is_there: false,
                legs: (0, 0, 0),
            };
            if self.transactions.insert((key.0, id), transaction).is_some() {
                report.found(|| format!("{}: transaction {id} was posted before", place()));
            }
        }
        let Some(transaction) = self.transactions.get_mut(&(key.0, id)) else {
            // An incremental export begins in the middle.
            if !self.is_incremental {
                report.found(|| format!("{}: transaction {id} was never posted", place()));
            }
            return;
        };
        let follows = posted.is_some()
            || (row.previous_status.as_deref() == Some(&transaction.status)
                && transaction.status == "pending"
                && (transaction.amount, transaction.shares) == (amount, shares));
        if !follows {
            report.found(|| format!("{}: it does not follow from the rows before", place()));
        }
        status.clone_into(&mut transaction.status);
        let kind = transaction.kind.clone();
        let Some(chain) = self.chains.get_mut(key) else {
            return;
        };
        let after = row.after.map(|after| {
            [
                after.available,
                after.locked,
                after.shares,
                after.locked_shares,
            ]
            .map(|amount| amount.micros())
        });
        if let Some(before) = chain.amounts {
            let expected = amounts_after(
                before,
                posted.is_some(),
                &kind,
                status,
                amount,
                shares,
                &row.action,
            );
            if after != Some(expected) {
                report.found(|| {
                    format!("{}: available, locked, shares, locked shares should be {expected:?} micro-units", place())
                });
            }
        }
        chain.amounts = after;
        if status == "confirmed" {
            let total = match kind.as_str() {
                "deposit" => &mut chain.totals.deposited,
                "withdraw" => &mut chain.totals.withdrawn,
                "yield_harvest" => &mut chain.totals.yield_earned,
                _ => &mut chain.totals.bonuses,
            };
            *total += i128::from(amount);
        }
    }

    fn transaction(&mut self, line: &TransactionLine, report: &mut Report) {
        // One that the trail does not have up to its end was posted later.
        let Some(transaction) = self
            .transactions
            .get_mut(&(line.user_id, line.transaction_id))
        else {
            return;
        };
        transaction.is_there = true;
        let says = (
            &line.kind,
            &line.asset,
            line.amount_micros,
            line.shares_micros,
        );
        let should = (
            &transaction.kind,
            &transaction.asset,
            Micros(transaction.amount),
            Micros(transaction.shares),
        );
        // What was pending at the chain's end may have ended since.
        let is_status = line.status == transaction.status || transaction.status == "pending";
        if says != should || !is_status {
            report.found(|| {
                format!(
                    "user {}, transaction {}: the trail has a {} {} of {} micro-units in {}",
                    line.user_id,
                    line.transaction_id,
                    transaction.status,
                    transaction.kind,
                    transaction.amount,
                    transaction.asset
                )
            });
        }
    }

    fn entry(&mut self, line: &EntryLine, report: &mut Report) {
        let key = (line.user_id, line.transaction_id);
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        let counterpart = match transaction.kind.as_str() {
            "deposit" | "withdraw" => "custody",
            "yield_harvest" => "yield",
            _ => "promotions",
        };
        let (user, other, legs) = &mut transaction.legs;
        *legs += 1;
        let amount = line.amount_micros.0;
        if line.account == "user" {
            *user = amount;
        } else if line.account == counterpart {
            *other = amount;
        }
        let is_named = line.account == "user" || line.account == counterpart;
        if line.asset != transaction.asset || !is_named {
            report.found(|| {
                format!(
                    "user {}, transaction {}: an entry on {} in {} is not of it",
                    line.user_id, line.transaction_id, line.account, line.asset
                )
            });
        }
    }

    pub(super) fn finish(mut self, known: &mut Known, is_incremental: bool, report: &mut Report) {
        if !is_incremental {
            self.check_transactions(report);
        }
        let mut chains: Vec<_> = self.chains.into_iter().collect();
        chains.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, chain) in chains {
            report.chains += 1;
            let place = || format!("user {}, chain {}", key.0, key.1);
            if chain.walk.head != chain.end {
                report.found(|| {
                    format!(
                        "{}: its head is row {} with hash {}, its newest row is {} with hash {}",
                        place(),
                        chain.end.seq,
                        hex::encode(chain.end.hash),
                        chain.walk.head.seq,
                        hex::encode(chain.walk.head.hash)
                    )
                });
            }
            let heads = known.heads.remove(&key).unwrap_or_default();
            if let Some(last) = heads.last().filter(|last| last.seq > chain.walk.head.seq) {
                report.found(|| {
                    format!(
                        "{}: it ends at row {}, a checkpoint covers {}",
                        place(),
                        chain.walk.head.seq,
                        last.seq
                    )
                });
            }
            if let Some(account) = &chain.account {
                check_account(&chain, account, is_incremental, report);
            }
        }
    }

    fn check_transactions(&mut self, report: &mut Report) {
        let mut all: Vec<_> = std::mem::take(&mut self.transactions).into_iter().collect();
        all.sort_by_key(|(key, _)| *key);
        for ((user, id), transaction) in all {
            if !transaction.is_there {
                report.found(|| format!("user {user}, transaction {id}: it is in the trail only"));
            }
            let amount = if transaction.kind == "withdraw" {
                -transaction.amount
            } else {
                transaction.amount
            };
            let legs = transaction.legs;
            let is_right = match transaction.status.as_str() {
                "confirmed" => legs == (amount, -amount, 2),
                // It may have been confirmed since.
                "pending" => legs == (0, 0, 0) || legs == (amount, -amount, 2),
                _ => legs == (0, 0, 0),
            };
            if !is_right {
                report.found(|| {
                    format!(
                        "user {user}, transaction {id}: a {} {} should have other entries",
                        transaction.status, transaction.kind
                    )
                });
            }
            if let (true, Some(chain)) = (
                transaction.status == "confirmed",
                self.chains.get_mut(&(user, transaction.asset)),
            ) {
                chain.totals.entries += i128::from(legs.0);
            }
        }
    }
}

fn check_account(chain: &Chain, account: &AccountLine, is_incremental: bool, report: &mut Report) {
    let place = || format!("user {}, account {}", account.user_id, account.chain);
    let held = [
        account.available_micros,
        account.locked_micros,
        account.shares_micros,
        account.locked_shares_micros,
    ]
    .map(|Micros(micros)| micros);
    if let Some(amounts) = chain.amounts
        && amounts != held
    {
        report.found(|| {
            format!(
                "{}: available, locked, shares, locked shares should be {amounts:?} micro-units",
                place()
            )
        });
    }
    if account.fees_micros != Micros(0) {
        report.found(|| format!("{}: nothing was charged, so fees should be 0", place()));
    }
    if is_incremental {
        return;
    }
    let should = Totals {
        deposited: account.deposited_micros.0.into(),
        withdrawn: account.withdrawn_micros.0.into(),
        yield_earned: account.yield_earned_micros.0.into(),
        bonuses: account.bonuses_micros.0.into(),
        entries: i128::from(account.available_micros.0) + i128::from(account.locked_micros.0),
    };
    if chain.totals != should {
        report.found(|| {
            format!(
                "{}: its balance or totals are not the sums of its transactions",
                place()
            )
        });
    }
}

/// What an account holds after a row, by what it held before.
fn amounts_after(
    before: Amounts,
    is_new: bool,
    kind: &str,
    status: &str,
    amount: i64,
    shares: i64,
    action: &str,
) -> Amounts {
    let [available, locked, own, own_locked] = before;
    let add = i64::saturating_add;
    let take = i64::saturating_sub;
    match (kind == "withdraw", status) {
        (false, "confirmed") => [add(available, amount), locked, add(own, shares), own_locked],
        (true, "confirmed") if is_new => [
            take(available, amount),
            locked,
            take(own, shares),
            own_locked,
        ],
        (true, "confirmed") => [
            available,
            take(locked, amount),
            own,
            take(own_locked, shares),
        ],
        (true, "pending") if action != "submit" => [
            take(available, amount),
            add(locked, amount),
            take(own, shares),
            add(own_locked, shares),
        ],
        (true, "failed" | "cancelled") => [
            add(available, amount),
            take(locked, amount),
            add(own, shares),
            take(own_locked, shares),
        ],
        _ => before,
    }
}
