//! After a decision: every row that changed, in as few statements as there are sorts of changes.

use sqlx::PgConnection;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Result, key_arrays};
use crate::audit::Entry;
use crate::faults::{self, Bug};
use crate::ids::UserId;
use crate::ledger::Transaction;
use crate::ledger::posting::{Account, AccountKey, Answer, Books, Kept, LedgerEntry};
use crate::money::Amount;
use crate::stores::postgres::audit;
use crate::stores::postgres::columns::{at, column, sparse};

/// Writes all effects: accounts, transactions, entries, audit rows, answers. What every posting writes is one
/// statement, so that a batch costs one round trip; what only some write is beside it.
pub(super) async fn write(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    if effects.is_empty() {
        return Ok(());
    }
    update_transactions(conn, books).await?;
    let mut rows = Rows::of(books);
    let apart = rows.taken_apart();
    rows.write(conn).await?;
    if let Some((bug, apart)) = apart {
        faults::split_postgres(bug, conn).await?;
        apart.write(conn).await?;
    }
    audit::keep_private(conn, &effects.audit, &effects.private).await
}

/// Arrays that are shorter than others (here: empty, when no row has a value) are filled up with NULL by
/// `unnest`. The order in which the parts run is not defined, and does not matter: none reads what another
/// writes, and what holds between the tables is checked when all are done.
const POSTINGS: &str = "
WITH changed AS (
    UPDATE accounts a SET
        available = n.available, locked = n.locked, shares = n.shares, locked_shares = n.locked_shares,
        deposited = n.deposited, withdrawn = n.withdrawn, total_yield_earned = n.yield_earned,
        bonuses = n.bonuses, fees = n.fees, last_yield_at = n.last_yield_at, pending = n.pending,
        version = n.version, chain_hash = n.chain_hash, chain_at = n.chain_at
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[], $13::int[],
                $14::bigint[], $15::bytea[], $16::timestamptz[])
         AS n (user_id, asset, available, locked, shares, locked_shares, deposited, withdrawn, yield_earned,
               bonuses, fees, last_yield_at, pending, version, chain_hash, chain_at)
    WHERE a.user_id = n.user_id AND a.asset = n.asset
), posted AS (
    INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, shares, expires_at,
        submitted_at, client_reference, tx_hash, block_number, gas_used, gas_fee, confirmations,
        exchange_rate, amount_vnd, metadata, error_message, created_at, confirmed_at)
    SELECT * FROM unnest($17::uuid[], $18::uuid[], $19::text[], $20::text[], $21::text[], $22::bigint[],
        $23::bigint[], $24::timestamptz[], $25::timestamptz[], $26::text[], $27::text[], $28::bigint[],
        $29::bigint[], $30::text[], $31::bigint[], $32::text[], $33::bigint[], $34::text[], $35::text[],
        $36::timestamptz[], $37::timestamptz[])
), entered AS (
    INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
    SELECT * FROM unnest($38::uuid[], $39::uuid[], $40::text[], $41::text[], $42::bigint[], $43::timestamptz[])
), answered AS (
    INSERT INTO idempotency_keys (user_id, key_hash, transaction_id, seq, created_at, fingerprint, answer)
    SELECT * FROM unnest($44::uuid[], $45::uuid[], $46::uuid[], $47::bigint[], $48::timestamptz[],
        $49::bytea[], $50::text[])
)
INSERT INTO audit (
    user_id, chain, seq, transaction_id, action, previous_status, new_status, amount, shares,
    available_after, locked_after, shares_after, locked_shares_after,
    actor_kind, actor_id, actor_session_id, request_id, at,
    reason_commitment, data_commitment, previous_hash, hash, trace_id)
SELECT * FROM unnest(
    $51::uuid[], $52::text[], $53::bigint[], $54::uuid[], $55::text[], $56::text[], $57::text[],
    $58::bigint[], $59::bigint[], $60::bigint[], $61::bigint[], $62::bigint[], $63::bigint[],
    $64::text[], $65::text[], $66::uuid[], $67::text[], $68::timestamptz[],
    $69::bytea[], $70::bytea[], $71::bytea[], $72::bytea[], $73::text[])";

type Arguments<'q> = Query<'q, sqlx::Postgres, PgArguments>;

/// What [`POSTINGS`] writes.
#[derive(Default)]
struct Rows<'a> {
    accounts: Vec<(&'a AccountKey, &'a Account)>,
    transactions: Vec<&'a Transaction>,
    entries: Vec<&'a LedgerEntry>,
    answers: Vec<(UserId, Uuid, &'a Answer)>,
    audit: Vec<&'a Entry>,
}

impl<'a> Rows<'a> {
    /// Each sort in the order of its primary key: then one row's way into the indexes is mostly that of the row
    /// before, and its pages are at hand.
    fn of(books: &'a Books) -> Self {
        let effects = &books.effects;
        let mut entries: Vec<&LedgerEntry> = effects.entries.iter().collect();
        entries.sort_by_key(|entry| (entry.user_id, entry.transaction_id, entry.account.as_str()));
        let mut answers: Vec<(UserId, Uuid, &Answer)> = effects
            .answers
            .iter()
            .filter_map(|key| Some((key.user_id, key.hash(), books.answers.get(key)?)))
            .collect();
        answers.sort_by_key(|(user, hash, _)| (*user, *hash));
        let mut audit: Vec<&Entry> = effects.audit.iter().collect();
        audit.sort_by(|a, b| (a.user_id, &a.chain, a.seq).cmp(&(b.user_id, &b.chain, b.seq)));
        Self {
            accounts: effects
                .accounts
                .iter()
                .filter_map(|key| books.accounts.get(key).map(|account| (key, account)))
                .collect(),
            transactions: effects
                .inserted
                .iter()
                .filter_map(|key| books.transactions.get(key))
                .collect(),
            entries,
            answers,
            audit,
        }
    }

    /// What a seeded bug writes in a transaction of its own, taken out of these; nothing, where there is none.
    fn taken_apart(&mut self) -> Option<(Bug, Self)> {
        let mut apart = Self::default();
        if faults::has(Bug::AuditOutside) {
            apart.audit = std::mem::take(&mut self.audit);
            Some((Bug::AuditOutside, apart))
        } else if faults::has(Bug::AnswerInItsOwnTransaction) {
            apart.answers = std::mem::take(&mut self.answers);
            Some((Bug::AnswerInItsOwnTransaction, apart))
        } else {
            None
        }
    }

    async fn write(&self, conn: &mut PgConnection) -> Result<()> {
        let query = bind_accounts(sqlx::query(POSTINGS), &self.accounts);
        let query = bind_transactions(query, &self.transactions);
        let query = bind_entries(query, &self.entries);
        let query = bind_answers(query, &self.answers)?;
        audit::bind(query, &self.audit).execute(conn).await?;
        Ok(())
    }
}

fn bind_accounts<'q>(query: Arguments<'q>, rows: &[(&AccountKey, &Account)]) -> Arguments<'q> {
    let (users, assets) = key_arrays(rows.iter().map(|(key, _)| *key));
    let amounts = |value: fn(&Account) -> i64| column(rows, |(_, account)| value(account));
    query
        .bind(users)
        .bind(assets)
        .bind(amounts(|account| account.available.micros()))
        .bind(amounts(|account| account.locked.micros()))
        .bind(amounts(|account| account.shares.micros()))
        .bind(amounts(|account| account.locked_shares.micros()))
        .bind(amounts(|account| account.totals.deposited))
        .bind(amounts(|account| account.totals.withdrawn))
        .bind(amounts(|account| account.totals.yield_earned))
        .bind(amounts(|account| account.totals.bonuses))
        .bind(amounts(|account| account.totals.fees))
        .bind(sparse(rows, |(_, account)| account.last_yield_at.map(at)))
        .bind(column(rows, |(_, account)| account.pending))
        .bind(amounts(|account| account.head.seq))
        .bind(column(rows, |(_, account)| account.head.hash.as_slice()))
        .bind(column(rows, |(_, account)| at(account.head_at)))
}

fn bind_transactions<'q>(query: Arguments<'q>, rows: &[&Transaction]) -> Arguments<'q> {
    query
        .bind(column(rows, |tx| tx.user_id.uuid()))
        .bind(column(rows, |tx| tx.id.uuid()))
        .bind(column(rows, |tx| tx.kind.as_str()))
        .bind(column(rows, |tx| tx.status.as_str()))
        .bind(column(rows, |tx| tx.asset.as_str()))
        .bind(column(rows, |tx| tx.amount.micros()))
        .bind(column(rows, |tx| tx.shares.micros()))
        .bind(sparse(rows, |tx| tx.expires_at.map(at)))
        .bind(sparse(rows, |tx| tx.submitted_at.map(at)))
        .bind(sparse(rows, |tx| tx.client_reference.as_deref()))
        .bind(sparse(rows, |tx| tx.tx_hash.as_deref()))
        .bind(sparse(rows, |tx| tx.block_number))
        .bind(sparse(rows, |tx| tx.gas_used))
        .bind(sparse(rows, |tx| tx.gas_fee.map(|fee| fee.to_string())))
        .bind(column(rows, |tx| tx.confirmations))
        .bind(sparse(rows, |tx| {
            tx.exchange_rate.map(|rate| rate.to_string())
        }))
        .bind(sparse(rows, |tx| tx.amount_vnd.map(Amount::micros)))
        .bind(sparse(rows, |tx| metadata_text(tx)))
        .bind(sparse(rows, |tx| tx.error_message.as_deref()))
        .bind(column(rows, |tx| at(tx.created_at)))
        .bind(sparse(rows, |tx| tx.confirmed_at.map(at)))
}

fn bind_entries<'q>(query: Arguments<'q>, rows: &[&LedgerEntry]) -> Arguments<'q> {
    query
        .bind(column(rows, |entry| entry.user_id.uuid()))
        .bind(column(rows, |entry| entry.transaction_id.uuid()))
        .bind(column(rows, |entry| entry.account.as_str()))
        .bind(column(rows, |entry| entry.asset.as_str()))
        .bind(column(rows, |entry| entry.amount))
        .bind(column(rows, |entry| at(entry.at)))
}

fn bind_answers<'q>(
    query: Arguments<'q>,
    rows: &[(UserId, Uuid, &Answer)],
) -> Result<Arguments<'q>> {
    let kept: Vec<Kept> = rows
        .iter()
        .map(|(_, _, row)| Kept::of(&row.answer).map_err(|error| sqlx::Error::Encode(error.into())))
        .collect::<Result<_>>()?;
    Ok(query
        .bind(column(rows, |(user, _, _)| user.uuid()))
        .bind(column(rows, |(_, hash, _)| *hash))
        .bind(sparse(&kept, |kept| kept.rows().map(|(id, _)| id.uuid())))
        .bind(sparse(&kept, |kept| kept.rows().map(|(_, seq)| seq)))
        .bind(column(rows, |(_, _, row)| at(row.at)))
        .bind(column(rows, |(_, _, row)| row.fingerprint.as_slice()))
        .bind(sparse(&kept, Kept::text)))
}

/// Settling and submitting change a few columns only; what identifies a transaction never changes.
async fn update_transactions(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    let rows: Vec<&Transaction> = effects
        .updated
        .iter()
        .filter(|key| !effects.inserted.contains(key))
        .filter_map(|key| books.transactions.get(key))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE transactions t SET
             status = n.status, submitted_at = n.submitted_at, tx_hash = n.tx_hash, block_number = n.block_number,
             gas_used = n.gas_used, gas_fee = n.gas_fee, confirmations = n.confirmations,
             error_message = n.error_message, confirmed_at = n.confirmed_at
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[], $7::bigint[],
                     $8::text[], $9::bigint[], $10::text[], $11::timestamptz[])
              AS n (user_id, transaction_id, status, submitted_at, tx_hash, block_number, gas_used, gas_fee,
                    confirmations, error_message, confirmed_at)
         WHERE t.user_id = n.user_id AND t.transaction_id = n.transaction_id",
    )
    .bind(rows.iter().map(|tx| tx.user_id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.status.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.submitted_at.map(OffsetDateTime::from)).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.tx_hash.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.block_number).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.gas_used).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.gas_fee.map(|fee| fee.to_string())).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.confirmations).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.error_message.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.confirmed_at.map(OffsetDateTime::from)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Canonical JSON, or nothing for the empty object that most transactions have.
fn metadata_text(transaction: &Transaction) -> Option<String> {
    let empty = transaction
        .metadata
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    (!empty).then(|| crate::documents::canonical::canonical_json(&transaction.metadata))
}
