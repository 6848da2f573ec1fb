//! One chain, row by row: hashes, numbers, times, and the amounts of an account after each change.
//!
//! A row that disagrees is reported, and the judge goes on from what is stored, so that one edited row
//! is one finding (or a few, of that row) and not one for each row after it.

use uuid::Uuid;

use super::finding::{Findings, Hex, Maybe, Micros, Place, Time};
use super::rows::AuditRow;
use crate::audit::GENESIS;
use crate::ledger::{TransactionStatus, TransactionType};

/// Names of the amounts after a change, in the order of [`AuditRow::after`].
const AMOUNTS: [&str; 4] = [
    "available_after",
    "locked_after",
    "shares_after",
    "locked_shares_after",
];

/// Where a chain is known to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) seq: i64,
    pub(super) hash: Vec<u8>,
    pub(super) at: i64,
    /// Of an account: what it has now.
    pub(super) amounts: Option<[i64; 4]>,
}

/// The judge of one chain.
#[derive(Debug)]
pub(super) struct Chain {
    user: Uuid,
    name: String,
    /// `None`: the chain has no head anywhere.
    end: Option<End>,
    /// The `seq` of the row before the next one.
    seq: i64,
    hash: Vec<u8>,
    at: i64,
    /// The amounts after the row before; `None` where they are not known (after a finding, or at a start
    /// in the middle) and taken from the next row.
    amounts: Option<[i128; 4]>,
    /// The last row was as it should be.
    sound: bool,
    /// Rows after the head were reported already.
    is_beyond: bool,
    /// That there is no account was.
    is_without_account: bool,
}

impl Chain {
    /// A chain from its first row on.
    pub(super) fn new(user: Uuid, name: &str, end: Option<End>) -> Self {
        Self {
            user,
            name: name.to_owned(),
            end,
            seq: 0,
            hash: GENESIS.to_vec(),
            at: i64::MIN,
            amounts: Some([0; 4]),
            sound: true,
            is_beyond: false,
            is_without_account: false,
        }
    }

    /// A chain from a row on that is known, which is the first that comes.
    pub(super) fn from(user: Uuid, name: &str, end: Option<End>, seq: i64) -> Self {
        Self {
            seq: seq.saturating_sub(1),
            // Its own hash covers the one before.
            hash: Vec::new(),
            amounts: None,
            ..Self::new(user, name, end)
        }
    }

    pub(super) fn is(&self, user: Uuid, name: &str) -> bool {
        self.user == user && self.name == name
    }

    /// Whether a row is one that the head covers.
    pub(super) fn covers(&self, seq: i64) -> bool {
        self.end.as_ref().is_some_and(|end| seq <= end.seq)
    }

    pub(super) const fn user(&self) -> Uuid {
        self.user
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn place(&self, seq: i64) -> Place {
        Place::AuditRow {
            user_id: self.user,
            chain: self.name.clone(),
            seq,
        }
    }

    /// Reports a row after the one at which the chain ends, once.
    pub(super) fn beyond(&mut self, row: &AuditRow<'_>, findings: &mut Findings) {
        if !self.is_beyond {
            self.is_beyond = true;
            beyond_head(self.user, &self.name, row.seq, self.end.as_ref(), findings);
        }
    }

    /// Judges the next row, which the head covers. Gives whether its content is what its hash says.
    pub(super) fn row(
        &mut self,
        row: &AuditRow<'_>,
        kind: Option<TransactionType>,
        buffer: &mut Vec<u8>,
        findings: &mut Findings,
    ) -> bool {
        let before = findings.count();
        let place = || Place::AuditRow {
            user_id: row.user_id,
            chain: row.chain.to_owned(),
            seq: row.seq,
        };
        self.number(row, findings);
        if !self.hash.is_empty() {
            findings.compare(
                place,
                "previous_hash",
                Hex(&self.hash),
                Hex(row.previous_hash),
            );
        }
        let computed = row.computed_hash(buffer);
        let genuine = findings.compare(place, "hash", Hex(&computed), Hex(row.hash));
        if row.at < self.at {
            let expected = format!("not before {}", Time(self.at));
            findings.add(place, "at", expected, Time(row.at));
        }
        let is_account = self.end.as_ref().is_some_and(|end| end.amounts.is_some());
        if row.transaction_id.is_some() {
            self.amounts_after(row, kind, findings);
        } else if is_account {
            findings.add(place, "transaction_id", "a transaction", "nothing");
        }
        let sound = findings.count() == before;
        self.demand_an_account(row, findings);
        self.follow(row, sound);
        genuine
    }

    /// Only an account's chain has rows of transactions. With its head anywhere else, the account was taken away
    /// and the balance with it; what the rows say still agrees with itself. Once for a chain.
    fn demand_an_account(&mut self, row: &AuditRow<'_>, findings: &mut Findings) {
        let has_head_only = self.end.as_ref().is_some_and(|end| end.amounts.is_none());
        if has_head_only && !self.is_without_account && row.is_of_money() {
            self.is_without_account = true;
            let place = || Place::Account {
                user_id: self.user,
                asset: self.name.clone(),
            };
            let expected = "an account: the rows of its chain are of transactions";
            findings.add(place, "row", expected, "no account");
        }
    }

    /// What is wrong with where the row stands.
    fn number(&mut self, row: &AuditRow<'_>, findings: &mut Findings) {
        let next = self.seq.saturating_add(1);
        if row.seq > next {
            let expected = format!("a row with the hash {}", Hex(row.previous_hash));
            findings.add(|| self.place(next), "row", expected, "no row");
            // What is wrong with the link follows from that.
            self.hash = row.previous_hash.to_vec();
            self.amounts = None;
        } else if row.seq < next {
            let expected = format!("{next} or later");
            findings.add(|| self.place(row.seq), "seq", expected, row.seq);
        }
    }

    /// Whether the amounts follow from the row before and what this row did.
    fn amounts_after(
        &self,
        row: &AuditRow<'_>,
        kind: Option<TransactionType>,
        findings: &mut Findings,
    ) {
        let place = || self.place(row.seq);
        let (Some(amount), Some(shares)) = (row.amount, row.shares) else {
            findings.add(place, "amount", "an amount and shares", "nothing");
            return;
        };
        let (Some(kind), Some(before)) = (kind, self.amounts) else {
            return;
        };
        let Some(change) = change(row, kind, amount, shares) else {
            let from = Maybe(row.previous_status);
            let to = Maybe(row.new_status);
            findings.add(
                place,
                "new_status",
                "pending → confirmed, failed or cancelled, once",
                format!("{from} → {to}"),
            );
            return;
        };
        for (((what, before), change), after) in
            AMOUNTS.iter().zip(before).zip(change).zip(row.after)
        {
            let expected = before.saturating_add(change);
            let after = after.map(i128::from).map(Micros);
            findings.compare(place, what, Maybe(Some(Micros(expected))), Maybe(after));
        }
    }

    /// Goes on from this row, whatever was wrong with it.
    fn follow(&mut self, row: &AuditRow<'_>, sound: bool) {
        self.seq = self.seq.max(row.seq);
        self.hash.clear();
        self.hash.extend_from_slice(row.hash);
        self.at = row.at;
        if row.transaction_id.is_some() {
            let [available, locked, shares, locked_shares] =
                row.after.map(|after| after.map(i128::from));
            let after = match (available, locked, shares, locked_shares) {
                (Some(a), Some(b), Some(c), Some(d)) => Some([a, b, c, d]),
                _ => None,
            };
            // An edited row may hold edited amounts: what follows is compared from the next row on.
            self.amounts = if sound { after } else { None };
        }
        self.sound = sound;
    }

    /// There are no more rows: whether the chain ends where its head says, with what the account has.
    pub(super) fn close(self, findings: &mut Findings) {
        let Some(end) = &self.end else {
            return;
        };
        let is_account = end.amounts.is_some();
        let place = || {
            let (user_id, name) = (self.user, self.name.clone());
            if is_account {
                Place::Account {
                    user_id,
                    asset: name,
                }
            } else {
                Place::ChainHead {
                    user_id,
                    chain: name,
                }
            }
        };
        if self.seq < end.seq {
            let expected = format!(
                "rows up to {}, the last with the hash {}",
                end.seq,
                Hex(&end.hash)
            );
            let missing = self.seq.saturating_add(1);
            findings.add(|| self.place(missing), "row", expected, "no row");
            return;
        }
        if self.seq > end.seq || !self.sound {
            return;
        }
        let hash = if is_account { "chain_hash" } else { "hash" };
        findings.compare(place, hash, Hex(&self.hash), Hex(&end.hash));
        if self.seq > 0 {
            let at = if is_account { "chain_at" } else { "at" };
            findings.compare(place, at, Time(self.at), Time(end.at));
        }
        if let (Some(rows), Some(amounts)) = (self.amounts, end.amounts) {
            for ((what, row), account) in ["available", "locked", "shares", "locked_shares"]
                .iter()
                .zip(rows)
                .zip(amounts)
            {
                findings.compare(place, what, Micros(row), Micros(account.into()));
            }
        }
    }
}

/// There is a row after the one at which the chain ends.
pub(super) fn beyond_head(
    user_id: Uuid,
    chain: &str,
    seq: i64,
    end: Option<&End>,
    findings: &mut Findings,
) {
    let place = || Place::AuditRow {
        user_id,
        chain: chain.to_owned(),
        seq,
    };
    let expected = match end {
        None => "no row: no chain of that name has a head".to_owned(),
        Some(end) => format!("no row: the chain ends at {}", end.seq),
    };
    findings.add(place, "row", expected, "a row");
}

/// What a row does to available, locked, shares and locked shares; `None` for a change of state that
/// does not exist.
fn change(
    row: &AuditRow<'_>,
    kind: TransactionType,
    amount: i64,
    shares: i64,
) -> Option<[i128; 4]> {
    use TransactionStatus::{Cancelled, Confirmed, Failed, Pending};
    let (amount, shares) = (i128::from(amount), i128::from(shares));
    let from = match row.previous_status {
        None => None,
        Some(name) => Some(TransactionStatus::from_name(name)?),
    };
    let to = TransactionStatus::from_name(row.new_status?)?;
    let is_withdrawal = kind == TransactionType::Withdraw;
    Some(match (from, to) {
        (None, Confirmed) if is_withdrawal => [-amount, 0, -shares, 0],
        (None, Pending) if is_withdrawal => [-amount, amount, -shares, shares],
        (Some(Pending), Confirmed) if is_withdrawal => [0, -amount, 0, -shares],
        (Some(Pending), Failed | Cancelled) if is_withdrawal => [amount, -amount, shares, -shares],
        (None | Some(Pending), Confirmed) => [amount, 0, shares, 0],
        (None | Some(Pending), Pending) | (Some(Pending), Failed | Cancelled) => [0; 4],
        _ => return None,
    })
}
