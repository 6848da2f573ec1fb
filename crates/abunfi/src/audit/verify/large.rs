//! The judge of one user whose history is too long for one snapshot, part by part.
//!
//! First the heads are read. Then each chain, a few thousand rows at a time, up to its head and no
//! further. Then the transactions, a range of ids at a time, each range in a snapshot of its own with all
//! audit rows and entries of its transactions: a status that is newer than the head so meets the audit
//! row that changed it. The sums go by what the trail says up to the head.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use uuid::Uuid;

use super::chain::{Chain, End, beyond_head};
use super::finding::Findings;
use super::page::{
    AssetSums, ChainKey, Counts, Judged, PrivateKey, USER_CHAIN, add_to_asset, commitment, end_of,
    erased_at, is_erased, judge_account, judge_leaf, judge_missing, judge_private, judge_salt,
    report_missing, report_uncommitted, report_without_account, second_head,
};
use super::rows::{
    AccountRow, AuditRow, EntryRow, HeadRow, LeafRow, PrivateRow, Sink, TransactionRow,
};
use super::store::Store;
use super::transactions::{Sums, Transactions, kind_of};
use crate::audit::Hash;
use crate::error::StoreError;
use crate::ledger::TransactionType;

/// How to judge.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) most_findings: usize,
    /// Rows of one part: what is held in memory of a history, however long it is.
    pub(super) part_rows: u32,
}

/// Takes the heads.
#[derive(Debug, Default)]
struct Heads {
    accounts: Vec<AccountRow>,
    ends: BTreeMap<String, End>,
    /// Chains of accounts that have another head.
    twice: Vec<String>,
    /// The newest row of each chain that a checkpoint names.
    named: BTreeMap<String, (i64, i64, Hash)>,
}

/// Takes a part of a chain.
#[derive(Debug)]
struct ChainPart<'j> {
    chain: &'j mut Chain,
    findings: &'j mut Findings,
    counts: &'j mut Counts,
    private: BTreeMap<PrivateKey, Hash>,
    missing: Vec<(PrivateKey, i64)>,
    leaves: Vec<(i64, i64, Hash)>,
    buffer: Vec<u8>,
    rows: u64,
}

/// Takes what is behind the end of a chain: normally nothing.
#[derive(Debug, Default)]
struct Beyond {
    first: Option<i64>,
    last: Option<i64>,
    private: BTreeMap<PrivateKey, Hash>,
    leaves: Vec<(i64, i64, Hash)>,
}

/// Looks for when the user's private content was last erased, and where the chain goes on.
#[derive(Debug, Default)]
struct Erasures {
    at: Option<i64>,
    last: Option<i64>,
}

/// Takes a range of transactions.
#[derive(Debug)]
struct TransactionsPart<'j> {
    transactions: Transactions,
    findings: &'j mut Findings,
    /// What was read first, and the amounts are of.
    ends: &'j BTreeMap<String, End>,
    /// The heads of this snapshot.
    now: BTreeMap<String, i64>,
    buffer: Vec<u8>,
}

/// Judges one user, part by part. `read` is told of the rows of each part.
///
/// # Errors
/// When the store fails: nothing is known of what was not read.
pub(super) async fn judge(
    store: &dyn Store,
    user: Uuid,
    how: How,
    read: &(dyn Fn(u64) + Send + Sync),
) -> Result<Judged, StoreError> {
    let mut findings = Findings::keeping(how.most_findings);
    let mut counts = Counts::default();
    let mut heads = Heads::default();
    store.heads(user, &mut heads).await?;
    for name in std::mem::take(&mut heads.twice) {
        second_head((user, name), &mut findings);
    }
    let mut unseen = heads.ends.clone();
    let mut name = String::new();
    while let Some(next) = store.next_chain(user, &name).await? {
        // Without a head it is new, or has rows that must not be: `beyond` tells them apart.
        let end = unseen.remove(&next);
        let covered = heads.named.remove(&next).map_or(0, |named| named.1);
        let key = (user, next.as_str());
        let reader = Reader {
            store,
            part_rows: how.part_rows,
            read,
        };
        reader
            .chain(key, end, covered, &mut findings, &mut counts)
            .await?;
        name = next;
    }
    for (name, end) in unseen {
        counts.chains += 1;
        let covered = heads.named.get(&name).map_or(0, |named| named.1);
        counts.not_checkpointed += u64::try_from(end.seq.saturating_sub(covered)).unwrap_or(0);
        Chain::new(user, &name, Some(end)).close(&mut findings);
    }
    for (name, newest) in &heads.named {
        let mut rest = Beyond::default();
        store
            .chain_part(user, name, i64::MIN, newest.1, &mut rest)
            .await?;
        for (number, seq, hash) in rest.leaves {
            report_missing(user, name, number, seq, &hash, &mut findings);
        }
    }
    let mut sums: BTreeMap<ChainKey, Sums> = BTreeMap::new();
    let mut from = Some(Uuid::nil());
    while let Some(start) = from {
        let mut part = TransactionsPart {
            transactions: Transactions::default(),
            findings: &mut findings,
            ends: &heads.ends,
            now: BTreeMap::new(),
            buffer: Vec::with_capacity(512),
        };
        let last = store
            .transactions_part(user, start, how.part_rows, &mut part)
            .await?;
        let transactions = part.transactions;
        counts.transactions += transactions.rows;
        counts.entries += transactions.entries;
        for (key, part) in transactions.close(&mut findings) {
            sums.entry(key).or_default().add(&part);
        }
        from = last.and_then(|last| last.as_u128().checked_add(1).map(Uuid::from_u128));
    }
    report_without_account(&sums, &heads.accounts, &mut findings);
    let mut assets = AssetSums::new();
    for account in &heads.accounts {
        counts.accounts += 1;
        judge_account(
            account,
            &sums
                .get(&(user, account.asset.clone()))
                .copied()
                .unwrap_or_default(),
            &mut findings,
        );
        add_to_asset(&mut assets, account);
    }
    Ok(Judged {
        findings,
        counts,
        assets,
    })
}

/// Reads chains part by part.
struct Reader<'s> {
    store: &'s dyn Store,
    part_rows: u32,
    read: &'s (dyn Fn(u64) + Send + Sync),
}

impl Reader<'_> {
    async fn chain(
        &self,
        (user, name): (Uuid, &str),
        end: Option<End>,
        covered: i64,
        findings: &mut Findings,
        counts: &mut Counts,
    ) -> Result<(), StoreError> {
        let Some(end) = end else {
            // It began after the heads were read, or has rows that must not be.
            let has_rows = self.beyond((user, name), i64::MIN, findings).await?;
            counts.chains += u64::from(has_rows);
            return Ok(());
        };
        counts.chains += 1;
        let last = end.seq;
        counts.not_checkpointed += u64::try_from(last.saturating_sub(covered)).unwrap_or(0);
        let mut chain = Chain::new(user, name, Some(end));
        // Rows before the first are none of the platform's, and are read to be found.
        let mut after = i64::MIN;
        let mut erased_at = None;
        while after < last {
            let through = after.max(0).saturating_add(self.part_rows.into()).min(last);
            let mut part = ChainPart::new(&mut chain, findings, counts);
            self.store
                .chain_part(user, name, after, through, &mut part)
                .await?;
            let ChainPart {
                rows,
                private,
                leaves,
                missing,
                ..
            } = part;
            report_uncommitted(private, findings);
            for (number, seq, hash) in leaves {
                report_missing(user, name, number, seq, &hash, findings);
            }
            if missing.iter().any(|(_, at)| !is_erased(*at, erased_at)) {
                // Content and row `erase` change together, so it is there by now.
                erased_at = self.erased_at(user).await?;
            }
            for (key, at) in missing {
                judge_missing(key, at, erased_at, counts, findings);
            }
            (self.read)(rows);
            after = match rows {
                0 => self.before_next((user, name), through, last).await?,
                _ => through,
            };
        }
        chain.close(findings);
        self.beyond((user, name), last, findings).await.map(drop)
    }

    /// From where to read on behind a gap that is as long as a part.
    async fn before_next(
        &self,
        (user, name): (Uuid, &str),
        after: i64,
        last: i64,
    ) -> Result<i64, StoreError> {
        let mut rest = Beyond::default();
        self.store
            .chain_part(user, name, after, last, &mut rest)
            .await?;
        let next = [rest.first, rest.private.keys().map(|key| key.2).min()];
        let leaf = rest.leaves.iter().map(|leaf| leaf.1).min();
        let next = next.into_iter().flatten().chain(leaf).min();
        Ok(next.map_or(last, |next| next.saturating_sub(1)))
    }

    /// When the user's private content was last erased.
    async fn erased_at(&self, user: Uuid) -> Result<Option<i64>, StoreError> {
        let (mut after, mut at) = (0_i64, None);
        loop {
            let mut part = Erasures::default();
            let through = after.saturating_add(self.part_rows.into());
            self.store
                .chain_part(user, USER_CHAIN, after, through, &mut part)
                .await?;
            at = part.at.or(at);
            match part.last {
                Some(_) => after = through,
                None => return Ok(at),
            }
        }
    }

    /// Rows, private content and leaves after the head that was read: newer ones have moved the head as
    /// well. Gives whether there are rows.
    async fn beyond(
        &self,
        (user, name): (Uuid, &str),
        last: i64,
        findings: &mut Findings,
    ) -> Result<bool, StoreError> {
        let mut beyond = Beyond::default();
        self.store
            .chain_part(user, name, last, i64::MAX, &mut beyond)
            .await?;
        if beyond.first.is_none() && beyond.private.is_empty() && beyond.leaves.is_empty() {
            return Ok(false);
        }
        let mut heads = Heads::default();
        self.store.heads(user, &mut heads).await?;
        let end = heads.ends.remove(name);
        let head = end.as_ref().map_or(i64::MIN, |end| end.seq);
        if let (Some(first), Some(newest)) = (beyond.first, beyond.last)
            && newest > head
        {
            let seq = first.max(head.saturating_add(1));
            beyond_head(user, name, seq, end.as_ref(), findings);
        }
        beyond.private.retain(|key, _| key.2 > head);
        report_uncommitted(beyond.private, findings);
        for (number, seq, hash) in beyond.leaves.iter().filter(|leaf| leaf.1 > head) {
            report_missing(user, name, *number, *seq, hash, findings);
        }
        Ok(beyond.first.is_some())
    }
}

impl<'j> ChainPart<'j> {
    fn new(chain: &'j mut Chain, findings: &'j mut Findings, counts: &'j mut Counts) -> Self {
        Self {
            chain,
            findings,
            counts,
            private: BTreeMap::new(),
            missing: Vec::new(),
            leaves: Vec::new(),
            buffer: Vec::with_capacity(512),
            rows: 0,
        }
    }
}

impl Sink for Heads {
    fn account(&mut self, row: AccountRow) {
        self.ends.insert(row.asset.clone(), end_of(&row));
        self.accounts.push(row);
    }
    fn head(&mut self, row: HeadRow) {
        let end = End {
            seq: row.seq,
            hash: row.hash,
            at: row.at,
            amounts: None,
        };
        match self.ends.entry(row.chain) {
            Entry::Vacant(free) => {
                free.insert(end);
            }
            Entry::Occupied(taken) => self.twice.push(taken.key().clone()),
        }
    }
    fn leaf(&mut self, row: &LeafRow<'_>) {
        let leaf = (
            row.checkpoint,
            row.seq,
            row.hash.try_into().unwrap_or_default(),
        );
        self.named.insert(row.chain.to_owned(), leaf);
    }
}

impl Sink for ChainPart<'_> {
    fn leaf(&mut self, row: &LeafRow<'_>) {
        let hash = row.hash.try_into().unwrap_or_default();
        self.leaves.push((row.checkpoint, row.seq, hash));
    }
    fn private(&mut self, row: &PrivateRow<'_>) {
        judge_salt(row, self.findings);
        self.private.insert(row.key(), commitment(row));
    }
    fn audit(&mut self, row: &AuditRow<'_>) {
        self.rows += 1;
        self.counts.audit_rows += 1;
        let kind = kind_of(row.action).or(row.kind.and_then(TransactionType::from_name));
        self.chain.row(row, kind, &mut self.buffer, self.findings);
        judge_private(
            row,
            &mut self.private,
            &mut self.missing,
            self.counts,
            self.findings,
        );
        self.leaves.retain(|(number, seq, hash)| {
            if *seq == row.seq {
                judge_leaf(row, *number, hash, self.findings);
            }
            *seq != row.seq
        });
    }
}

impl Sink for Beyond {
    fn leaf(&mut self, row: &LeafRow<'_>) {
        let hash = row.hash.try_into().unwrap_or_default();
        self.leaves.push((row.checkpoint, row.seq, hash));
    }
    fn private(&mut self, row: &PrivateRow<'_>) {
        self.private.insert(row.key(), commitment(row));
    }
    fn audit(&mut self, row: &AuditRow<'_>) {
        self.first.get_or_insert(row.seq);
        self.last = Some(row.seq);
    }
}

impl Sink for Erasures {
    fn audit(&mut self, row: &AuditRow<'_>) {
        self.at = erased_at(row).or(self.at);
        self.last = Some(row.seq);
    }
}

impl Sink for TransactionsPart<'_> {
    fn account(&mut self, row: AccountRow) {
        self.now.insert(row.asset, row.version);
    }
    fn transaction(&mut self, row: &TransactionRow<'_>) {
        self.transactions.row(row);
    }
    fn audit(&mut self, row: &AuditRow<'_>) {
        let end = self.ends.get(row.chain);
        let last = end.map_or(0, |end| end.seq);
        // That a chain has no account is reported there too, and its transactions are not to blame for it.
        let without = end.filter(|end| end.amounts.is_none()).map(|end| end.seq);
        let now = self.now.get(row.chain).copied().or(without);
        if !now.is_some_and(|now| (1..=now).contains(&row.seq)) {
            // Reported where its chain is judged, as what is wrong with a hash is.
            return;
        }
        let genuine = row.computed_hash(&mut self.buffer) == *row.hash;
        self.transactions
            .audit(row, genuine, row.seq <= last, self.findings);
    }
    fn entry(&mut self, row: &EntryRow<'_>) {
        self.transactions.entry(row, self.findings);
    }
}
