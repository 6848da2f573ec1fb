//! The judge of one user whose history is too long for one snapshot, part by part.
//!
//! First the heads are read. Then each chain, a few thousand rows at a time, up to its head and no
//! further. Then the transactions, a range of ids at a time, each range in a snapshot of its own with all
//! audit rows and entries of its transactions: a status that is newer than the head so meets the audit
//! row that changed it. The sums go by what the trail says up to the head.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::chain::{Chain, End, beyond_head};
use super::finding::Findings;
use super::page::{
    AssetSums, Counts, Judged, add_to_asset, commitment, end_of, judge_account, judge_leaf,
    judge_private, report_missing, report_uncommitted,
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
    /// The newest row of each chain that a checkpoint names.
    named: BTreeMap<String, (i64, i64, Hash)>,
}

/// Takes a part of a chain.
#[derive(Debug)]
struct ChainPart<'j> {
    chain: &'j mut Chain,
    findings: &'j mut Findings,
    counts: &'j mut Counts,
    private: BTreeMap<(Uuid, String, i64, String), Hash>,
    leaves: Vec<(i64, i64, Hash)>,
    buffer: Vec<u8>,
    first: Option<i64>,
    rows: u64,
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
    let mut unseen = heads.ends.clone();
    let mut name = String::new();
    while let Some(next) = store.next_chain(user, &name).await? {
        // Without a head it is new, or has rows that must not be: `beyond` tells them apart.
        let end = unseen.remove(&next);
        let newest = heads.named.remove(&next);
        let key = (user, next.as_str());
        let reader = Reader {
            store,
            part_rows: how.part_rows,
            read,
        };
        reader
            .chain(key, end, newest.as_ref(), &mut findings, &mut counts)
            .await?;
        name = next;
    }
    for (name, end) in unseen {
        counts.chains += 1;
        let covered = heads.named.get(&name).map_or(0, |named| named.1);
        counts.not_checkpointed += u64::try_from(end.seq.saturating_sub(covered)).unwrap_or(0);
        Chain::new(user, &name, Some(end)).close(&mut findings);
    }
    for (name, (number, seq, hash)) in &heads.named {
        report_missing(user, name, *number, *seq, hash, &mut findings);
    }
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
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
        for ((_, asset), part) in transactions.close(&mut findings) {
            sums.entry(asset).or_default().add(&part);
        }
        from = last.and_then(|last| last.as_u128().checked_add(1).map(Uuid::from_u128));
    }
    let mut assets = AssetSums::new();
    for account in &heads.accounts {
        counts.accounts += 1;
        judge_account(
            account,
            &sums.get(&account.asset).copied().unwrap_or_default(),
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
        newest: Option<&(i64, i64, Hash)>,
        findings: &mut Findings,
        counts: &mut Counts,
    ) -> Result<(), StoreError> {
        counts.chains += 1;
        let last = end.as_ref().map_or(0, |end| end.seq);
        let covered = newest.map_or(0, |newest| newest.1);
        counts.not_checkpointed += u64::try_from(last.saturating_sub(covered)).unwrap_or(0);
        let mut chain = Chain::new(user, name, end);
        let mut after = 0;
        while after < last {
            let through = after.saturating_add(self.part_rows.into()).min(last);
            let mut part = ChainPart::new(&mut chain, findings, counts);
            self.store
                .chain_part(user, name, after, through, &mut part)
                .await?;
            let ChainPart {
                rows,
                private,
                leaves,
                ..
            } = part;
            report_uncommitted(private, findings);
            for (number, seq, hash) in leaves {
                report_missing(user, name, number, seq, &hash, findings);
            }
            (self.read)(rows);
            if rows == 0 {
                break;
            }
            after = through;
        }
        chain.close(findings);
        if let Some((number, seq, hash)) = newest.filter(|newest| newest.1 > last) {
            report_missing(user, name, *number, *seq, hash, findings);
        }
        self.beyond((user, name), last, findings).await
    }

    /// Rows after the head that was read: newer ones have moved the head as well.
    async fn beyond(
        &self,
        (user, name): (Uuid, &str),
        last: i64,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let mut chain = Chain::new(user, name, None);
        let (mut ignored, mut counts) = (Findings::keeping(0), Counts::default());
        let mut part = ChainPart::new(&mut chain, &mut ignored, &mut counts);
        let through = last.saturating_add(self.part_rows.into());
        self.store
            .chain_part(user, name, last, through, &mut part)
            .await?;
        let Some(first) = part.first else {
            return Ok(());
        };
        let newest = chain.seq();
        let mut heads = Heads::default();
        self.store.heads(user, &mut heads).await?;
        let end = heads.ends.remove(name);
        let head = end.as_ref().map_or(0, |end| end.seq);
        if newest > head {
            let seq = first.max(head.saturating_add(1));
            beyond_head(user, name, seq, end.as_ref(), findings);
        }
        Ok(())
    }
}

impl<'j> ChainPart<'j> {
    fn new(chain: &'j mut Chain, findings: &'j mut Findings, counts: &'j mut Counts) -> Self {
        Self {
            chain,
            findings,
            counts,
            private: BTreeMap::new(),
            leaves: Vec::new(),
            buffer: Vec::with_capacity(512),
            first: None,
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
        self.ends.insert(row.chain, end);
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
        let key = (
            row.user_id,
            row.chain.to_owned(),
            row.seq,
            row.field.to_owned(),
        );
        self.private.insert(key, commitment(row));
    }
    fn audit(&mut self, row: &AuditRow<'_>) {
        self.rows += 1;
        self.first.get_or_insert(row.seq);
        self.counts.audit_rows += 1;
        let kind = kind_of(row.action).or(row.kind.and_then(TransactionType::from_name));
        self.chain.row(row, kind, &mut self.buffer, self.findings);
        judge_private(row, &mut self.private, self.counts, self.findings);
        self.leaves.retain(|(number, seq, hash)| {
            if *seq == row.seq {
                judge_leaf(row, *number, hash, self.findings);
            }
            *seq != row.seq
        });
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
        if self.now.get(row.chain).is_none_or(|last| row.seq > *last) {
            // Reported where its chain is judged, as what is wrong with a hash is.
            return;
        }
        let last = self.ends.get(row.chain).map_or(0, |end| end.seq);
        let genuine = row.computed_hash(&mut self.buffer) == *row.hash;
        self.transactions
            .audit(row, genuine, row.seq <= last, self.findings);
    }
    fn entry(&mut self, row: &EntryRow<'_>) {
        self.transactions.entry(row, self.findings);
    }
}
