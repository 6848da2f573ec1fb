//! The judge of whole users: what one short snapshot gave of them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::chain::{Chain, End};
use super::finding::{Findings, Hex, Maybe, Micros, Place, Time};
use super::rows::{
    AccountRow, AuditRow, EntryRow, HeadRow, LeafRow, PrivateRow, Sink, TransactionRow,
};
use super::transactions::{Sums, Transactions, kind_of};
pub(super) use crate::audit::USER_CHAIN;
use crate::audit::drafts::ERASE;
use crate::audit::{Hash, PrivateField};

/// Which chain.
pub(super) type ChainKey = (Uuid, String);

/// Every salt has this length. Without it, salt and value would have no boundary, and the end of one could
/// be shown as the beginning of the other.
const SALT_BYTES: usize = 32;
/// How far the clocks of two instances may be apart: an erasure says by its time what it came after.
const CLOCKS_APART_MICROS: i64 = 60 * 1_000_000;

/// A piece of private content: user, chain, `seq`, field.
pub(super) type PrivateKey = (Uuid, String, i64, String);

/// What was read, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub chains: u64,
    pub audit_rows: u64,
    pub accounts: u64,
    pub transactions: u64,
    pub entries: u64,
    /// Personal content that is there and is what its row commits to.
    pub private: u64,
    /// Personal content that was erased.
    pub erased: u64,
    /// Rows that no checkpoint covers yet.
    pub not_checkpointed: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.chains += other.chains;
        self.audit_rows += other.audit_rows;
        self.accounts += other.accounts;
        self.transactions += other.transactions;
        self.entries += other.entries;
        self.private += other.private;
        self.erased += other.erased;
        self.not_checkpointed += other.not_checkpointed;
    }
}

/// What the books of an asset come to: users, custody, yield, promotions, fees.
pub(super) type AssetSums = BTreeMap<String, [i128; 5]>;

/// What became of a part of the books.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) findings: Findings,
    pub(super) counts: Counts,
    pub(super) assets: AssetSums,
}

/// A sink that judges what it is given.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) findings: Findings,
    pub(super) counts: Counts,
    accounts: Vec<AccountRow>,
    ends: BTreeMap<ChainKey, End>,
    /// Where chains are known, when only what came later is judged.
    known: HashMap<ChainKey, i64>,
    is_whole: bool,
    /// Of the chain: the row that is known.
    start: i64,
    /// The commitment that what is stored comes to.
    private: BTreeMap<PrivateKey, Hash>,
    /// Private content that is not there, with the time of the row that commits to it.
    missing: Vec<(PrivateKey, i64)>,
    /// When each user's content was last erased.
    erasures: HashMap<Uuid, i64>,
    /// The rows that checkpoints name, by chain, oldest first.
    leaves: HashMap<ChainKey, Vec<(i64, i64, Hash)>>,
    transactions: Transactions,
    chain: Option<Chain>,
    /// Of the chain: the rows that checkpoints name and that are still to come, newest first.
    named: Vec<(i64, i64, Hash)>,
    buffer: Vec<u8>,
    most_rows: u64,
    rows: u64,
}

impl Page {
    /// `most_rows`: how many rows of one kind it takes before it says that it is full.
    pub(super) fn new(most_findings: usize, most_rows: u64) -> Self {
        Self {
            findings: Findings::keeping(most_findings),
            counts: Counts::default(),
            accounts: Vec::new(),
            ends: BTreeMap::new(),
            known: HashMap::new(),
            is_whole: true,
            start: 0,
            private: BTreeMap::new(),
            missing: Vec::new(),
            erasures: HashMap::new(),
            leaves: HashMap::new(),
            transactions: Transactions::default(),
            chain: None,
            named: Vec::new(),
            buffer: Vec::with_capacity(512),
            most_rows,
            rows: 0,
        }
    }

    /// For chains of which only the later rows come: what an account's rows add up to is not known then.
    pub(super) fn of_what_is_new(self) -> Self {
        Self {
            is_whole: false,
            ..self
        }
    }

    fn begin(&mut self, user: Uuid, name: &str) {
        self.end_chain();
        let key = (user, name.to_owned());
        let end = self.ends.remove(&key);
        self.start(user, name, end);
    }

    fn start(&mut self, user: Uuid, name: &str, end: Option<End>) {
        self.named = self
            .leaves
            .remove(&(user, name.to_owned()))
            .unwrap_or_default();
        let covered = self.named.iter().map(|(_, seq, _)| *seq).max().unwrap_or(0);
        self.named.reverse();
        let last = end.as_ref().map_or(0, |end| end.seq);
        self.counts.not_checkpointed += u64::try_from(last.saturating_sub(covered)).unwrap_or(0);
        self.counts.chains += 1;
        let known = self.known.remove(&(user, name.to_owned()));
        self.start = known.unwrap_or(0);
        self.chain = Some(match self.start {
            0 => Chain::new(user, name, end),
            start => Chain::from(user, name, end, start),
        });
    }

    fn end_chain(&mut self) {
        let Some(chain) = self.chain.take() else {
            return;
        };
        let (user, name) = (chain.user(), chain.name().to_owned());
        chain.close(&mut self.findings);
        for (number, seq, hash) in std::mem::take(&mut self.named).into_iter().rev() {
            report_missing(user, &name, number, seq, &hash, &mut self.findings);
        }
    }

    /// There are no more rows.
    pub(super) fn close(mut self) -> Judged {
        self.end_chain();
        for ((user, name), end) in std::mem::take(&mut self.ends) {
            self.start(user, &name, Some(end));
            self.end_chain();
        }
        let mut orphans: Vec<_> = std::mem::take(&mut self.leaves).into_iter().collect();
        orphans.sort();
        for ((user, name), leaves) in orphans {
            for (number, seq, hash) in leaves {
                report_missing(user, &name, number, seq, &hash, &mut self.findings);
            }
        }
        let private = std::mem::take(&mut self.private);
        report_uncommitted(private, &mut self.findings);
        for (key, at) in std::mem::take(&mut self.missing) {
            // Of what is new only, an erasure may not be among the rows.
            let erased_at = match self.is_whole {
                true => self.erasures.get(&key.0).copied(),
                false => Some(i64::MAX),
            };
            judge_missing(key, at, erased_at, &mut self.counts, &mut self.findings);
        }
        self.counts.transactions = self.transactions.rows;
        self.counts.entries = self.transactions.entries;
        let sums = std::mem::take(&mut self.transactions).close(&mut self.findings);
        let mut assets = AssetSums::new();
        if self.is_whole {
            report_without_account(&sums, &self.accounts, &mut self.findings);
        }
        self.counts.accounts = u64::try_from(self.accounts.len()).unwrap_or(u64::MAX);
        for account in &self.accounts {
            if self.is_whole {
                let key = (account.user_id, account.asset.clone());
                let sums = sums.get(&key).copied().unwrap_or_default();
                judge_account(account, &sums, &mut self.findings);
            }
            add_to_asset(&mut assets, account);
        }
        Judged {
            findings: self.findings,
            counts: self.counts,
            assets,
        }
    }
}

impl Sink for Page {
    fn account(&mut self, row: AccountRow) {
        let end = end_of(&row);
        self.ends.insert((row.user_id, row.asset.clone()), end);
        self.accounts.push(row);
    }

    fn head(&mut self, row: HeadRow) {
        let end = End {
            seq: row.seq,
            hash: row.hash,
            at: row.at,
            amounts: None,
        };
        let key = (row.user_id, row.chain);
        match self.ends.entry(key) {
            Entry::Vacant(free) => {
                free.insert(end);
            }
            Entry::Occupied(taken) => second_head(taken.key().clone(), &mut self.findings),
        }
    }

    fn known(&mut self, user: Uuid, chain: &str, seq: i64) {
        self.known.insert((user, chain.to_owned()), seq);
    }

    fn leaf(&mut self, row: &LeafRow<'_>) {
        self.rows += 1;
        let hash = row.hash.try_into().unwrap_or_default();
        let leaves = self
            .leaves
            .entry((row.user_id, row.chain.to_owned()))
            .or_default();
        leaves.push((row.checkpoint, row.seq, hash));
    }

    fn private(&mut self, row: &PrivateRow<'_>) {
        self.rows += 1;
        judge_salt(row, &mut self.findings);
        self.private.insert(row.key(), commitment(row));
    }

    fn transaction(&mut self, row: &TransactionRow<'_>) {
        self.rows += 1;
        self.transactions.row(row);
    }

    fn earlier(&mut self, row: &AuditRow<'_>) {
        self.rows += 1;
        let genuine = row.computed_hash(&mut self.buffer) == *row.hash;
        self.transactions
            .audit(row, genuine, true, &mut self.findings);
    }

    fn audit(&mut self, row: &AuditRow<'_>) {
        self.rows += 1;
        if !self
            .chain
            .as_ref()
            .is_some_and(|chain| chain.is(row.user_id, row.chain))
        {
            self.begin(row.user_id, row.chain);
        }
        let kind = match row.transaction_id {
            None => None,
            Some(id) => kind_of(row.action).or_else(|| self.transactions.kind(row.user_id, id)),
        };
        let Some(chain) = &mut self.chain else {
            return;
        };
        if !chain.covers(row.seq) {
            // Rows and head are of one snapshot, so it is none that was written meanwhile.
            chain.beyond(row, &mut self.findings);
            return;
        }
        self.counts.audit_rows += 1;
        let genuine = chain.row(row, kind, &mut self.buffer, &mut self.findings);
        if row.seq > self.start {
            self.transactions
                .audit(row, genuine, true, &mut self.findings);
        }
        if let Some(at) = erased_at(row) {
            self.erasures.insert(row.user_id, at);
        }
        judge_private(
            row,
            &mut self.private,
            &mut self.missing,
            &mut self.counts,
            &mut self.findings,
        );
        while let Some((number, seq, hash)) = self.named.last().filter(|named| named.1 <= row.seq) {
            if *seq < row.seq {
                report_missing(
                    row.user_id,
                    row.chain,
                    *number,
                    *seq,
                    hash,
                    &mut self.findings,
                );
            } else {
                judge_leaf(row, *number, hash, &mut self.findings);
            }
            self.named.pop();
        }
    }

    fn entry(&mut self, row: &EntryRow<'_>) {
        self.rows += 1;
        self.transactions.entry(row, &mut self.findings);
    }

    fn is_full(&self) -> bool {
        self.rows > self.most_rows
    }
}

/// Where an account's chain ends.
pub(super) fn end_of(row: &AccountRow) -> End {
    End {
        seq: row.version,
        hash: row.chain_hash.clone(),
        at: row.chain_at,
        amounts: Some([row.available, row.locked, row.shares, row.locked_shares]),
    }
}

/// An account is the head of its chain: beside it there is none, and it is the account's that counts.
pub(super) fn second_head((user_id, chain): ChainKey, findings: &mut Findings) {
    let place = || Place::ChainHead { user_id, chain };
    let expected = "no head: the chain ends where the account says";
    findings.add(place, "row", expected, "a head");
}

/// What transactions come to is somebody's: without an account it is in no balance.
pub(super) fn report_without_account(
    sums: &BTreeMap<ChainKey, Sums>,
    accounts: &[AccountRow],
    findings: &mut Findings,
) {
    let accounts: HashSet<(Uuid, &str)> = accounts
        .iter()
        .map(|account| (account.user_id, account.asset.as_str()))
        .collect();
    for ((user_id, asset), sums) in sums {
        // One that began after the heads were read comes to nothing yet.
        if accounts.contains(&(*user_id, asset.as_str())) || *sums == Sums::default() {
            continue;
        }
        let place = || Place::Account {
            user_id: *user_id,
            asset: asset.clone(),
        };
        findings.add(place, "balance", Micros(sums.user), "no account");
    }
}

/// `SHA-256(salt ‖ value)`.
pub(super) fn commitment(row: &PrivateRow<'_>) -> Hash {
    Sha256::new()
        .chain_update(row.salt)
        .chain_update(row.value.as_bytes())
        .finalize()
        .into()
}

/// A row that a checkpoint names must have the hash that it had then.
pub(super) fn judge_leaf(row: &AuditRow<'_>, number: i64, hash: &Hash, findings: &mut Findings) {
    let place = || Place::AuditRow {
        user_id: row.user_id,
        chain: row.chain.to_owned(),
        seq: row.seq,
    };
    if row.hash != hash {
        let expected = format!("{}, as checkpoint {number} has it", Hex(hash));
        findings.add(place, "hash", expected, Hex(row.hash));
    }
}

pub(super) fn report_missing(
    user_id: Uuid,
    chain: &str,
    number: i64,
    seq: i64,
    hash: &Hash,
    findings: &mut Findings,
) {
    let place = || Place::AuditRow {
        user_id,
        chain: chain.to_owned(),
        seq,
    };
    let expected = format!(
        "a row with the hash {}, as checkpoint {number} has it",
        Hex(hash)
    );
    findings.add(place, "row", expected, "no row");
}

/// `SHA-256(salt ‖ value)` says which value only if the salt's length is known.
pub(super) fn judge_salt(row: &PrivateRow<'_>, findings: &mut Findings) {
    if row.salt.len() == SALT_BYTES {
        return;
    }
    let place = || Place::Private {
        user_id: row.user_id,
        chain: row.chain.to_owned(),
        seq: row.seq,
        field: row.field.to_owned(),
    };
    let found = format!("{} bytes", row.salt.len());
    findings.add(place, "salt", format!("{SALT_BYTES} bytes"), found);
}

/// When this row erased its user's private content; `None`: it did not.
pub(super) fn erased_at(row: &AuditRow<'_>) -> Option<i64> {
    (row.chain == USER_CHAIN && row.action == ERASE).then_some(row.at)
}

/// Whether an erasure came after a row of that time.
pub(super) fn is_erased(at: i64, erased_at: Option<i64>) -> bool {
    erased_at.is_some_and(|erased| erased.saturating_add(CLOCKS_APART_MICROS) >= at)
}

/// Content that is not there was erased, and the user's chain says so, or it was deleted.
pub(super) fn judge_missing(
    (user_id, chain, seq, field): PrivateKey,
    at: i64,
    erased_at: Option<i64>,
    counts: &mut Counts,
    findings: &mut Findings,
) {
    if is_erased(at, erased_at) {
        counts.erased += 1;
        return;
    }
    let place = || Place::Private {
        user_id,
        chain,
        seq,
        field,
    };
    let expected = "what the audit row commits to, or a later row `erase` of the user";
    findings.add(place, "row", expected, "no row");
}

/// The private content of a row against what the row commits to; what is not there goes to `missing`.
pub(super) fn judge_private(
    row: &AuditRow<'_>,
    private: &mut BTreeMap<PrivateKey, Hash>,
    missing: &mut Vec<(PrivateKey, i64)>,
    counts: &mut Counts,
    findings: &mut Findings,
) {
    for (field, committed) in [
        (PrivateField::Reason, row.reason_commitment),
        (PrivateField::Data, row.data_commitment),
    ] {
        let Some(committed) = committed else {
            continue;
        };
        let key = (
            row.user_id,
            row.chain.to_owned(),
            row.seq,
            field.as_str().to_owned(),
        );
        let Some(stored) = private.remove(&key) else {
            missing.push((key, row.at));
            continue;
        };
        counts.private += 1;
        let place = || {
            let (user_id, chain, seq, field) = key.clone();
            Place::Private {
                user_id,
                chain,
                seq,
                field,
            }
        };
        findings.compare(place, "commitment", Hex(committed), Hex(&stored));
    }
}

/// What is left of the private content belongs to no row.
pub(super) fn report_uncommitted(private: BTreeMap<PrivateKey, Hash>, findings: &mut Findings) {
    for ((user_id, chain, seq, field), _) in private {
        let place = || Place::Private {
            user_id,
            chain: chain.clone(),
            seq,
            field: field.clone(),
        };
        findings.add(place, "row", "no row: no audit row commits to it", "a row");
    }
}

/// The account's amounts and totals against what its transactions come to.
pub(super) fn judge_account(account: &AccountRow, sums: &Sums, findings: &mut Findings) {
    let place = || Place::Account {
        user_id: account.user_id,
        asset: account.asset.clone(),
    };
    for (what, expected, found) in [
        ("available", sums.user - sums.locked, account.available),
        ("locked", sums.locked, account.locked),
        ("shares", sums.shares - sums.locked_shares, account.shares),
        ("locked_shares", sums.locked_shares, account.locked_shares),
        ("deposited", sums.deposited, account.deposited),
        ("withdrawn", sums.withdrawn, account.withdrawn),
        (
            "total_yield_earned",
            sums.yield_earned,
            account.yield_earned,
        ),
        ("bonuses", sums.bonuses, account.bonuses),
        // Nothing is charged yet, so no transaction has a fee.
        ("fees", 0, account.fees),
    ] {
        findings.compare(place, what, Micros(expected), Micros(found.into()));
    }
    findings.compare(place, "pending", sums.pending, account.pending);
    let [expected, found] =
        [sums.last_yield_at, account.last_yield_at].map(|at| Maybe(at.map(Time)));
    findings.compare(place, "last_yield_at", expected, found);
}

pub(super) fn add_to_asset(assets: &mut AssetSums, account: &AccountRow) {
    let sums = assets.entry(account.asset.clone()).or_default();
    let [users, custody, yield_, promotions, fees] = sums;
    *users += i128::from(account.available) + i128::from(account.locked);
    *custody += i128::from(account.withdrawn) - i128::from(account.deposited);
    *yield_ -= i128::from(account.yield_earned);
    *promotions -= i128::from(account.bonuses);
    *fees += i128::from(account.fees);
}
