//! The audit trail: appending to it inside somebody's unit of work, and reading it.

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;

use super::columns::{Columns, at, column, limit, sparse};
use super::lane::scoped;
use super::{Postgres, user_exists};
use crate::audit::{
    AmountsAfter, AuditRow, Draft, Entry, GENESIS, Hash, Head, HistoryCursor, Private, Store,
};
use crate::context::{Actor, ActorKind};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::Page;
use crate::money::Amount;

/// Appends a row to a chain whose head is in `chain_heads` (all but the accounts' chains), and keeps the
/// chain locked until the caller's unit of work ends. Its time is not before that of the row it follows.
pub(super) async fn append(
    connection: &mut PgConnection,
    mut draft: Draft,
) -> Result<Entry, sqlx::Error> {
    // Inserts the head or locks it, and gives the newest one either way: after waiting for another
    // transaction, ON CONFLICT DO UPDATE sees what that one committed.
    let head = sqlx::query(
        "INSERT INTO chain_heads AS head (user_id, chain, seq, hash, at) VALUES ($1, $2, 0, $3, $4)
         ON CONFLICT (user_id, chain) DO UPDATE SET seq = head.seq
         RETURNING seq, hash, at",
    )
    .bind(draft.user_id.0)
    .bind(&draft.chain)
    .bind(GENESIS.as_slice())
    .bind(at(draft.at))
    .fetch_one(&mut *connection)
    .await?;
    draft.at = draft.at.max(head.timestamp("at")?);
    let head = Head {
        seq: head.integer("seq")?,
        hash: head.hash("hash")?,
    };
    let (entry, private) = draft.seal(head);
    let private: Vec<_> = private.into_iter().map(|private| (0, private)).collect();
    insert(connection, std::slice::from_ref(&entry), &private).await?;
    sqlx::query(
        "UPDATE chain_heads SET seq = $3, hash = $4, at = $5 WHERE user_id = $1 AND chain = $2",
    )
    .bind(entry.user_id.0)
    .bind(&entry.chain)
    .bind(entry.seq)
    .bind(entry.hash.as_slice())
    .bind(at(entry.at))
    .execute(connection)
    .await?;
    Ok(entry)
}

/// Writes sealed rows, and the personal content that they commit to, each with the index of its row: at
/// most two statements, however many rows. The caller holds the locks of their chains and moves the heads.
async fn insert(
    connection: &mut PgConnection,
    entries: &[Entry],
    private: &[(usize, Private)],
) -> Result<(), sqlx::Error> {
    if !entries.is_empty() {
        let rows: Vec<&Entry> = entries.iter().collect();
        bind(sqlx::query(INSERT), &rows)
            .execute(&mut *connection)
            .await?;
    }
    keep_private(connection, entries, private).await
}

/// Writes the personal content that `entries` commit to, each with the index of its row, if there is any.
pub(super) async fn keep_private(
    connection: &mut PgConnection,
    entries: &[Entry],
    private: &[(usize, Private)],
) -> Result<(), sqlx::Error> {
    let private: Vec<(&Entry, &Private)> = private
        .iter()
        .filter_map(|(index, private)| entries.get(*index).map(|entry| (entry, private)))
        .collect();
    if private.is_empty() {
        return Ok(());
    }
    insert_private(connection, &private).await
}

const INSERT: &str = "INSERT INTO audit (
     user_id, chain, seq, transaction_id, action, previous_status, new_status, amount, shares,
     available_after, locked_after, shares_after, locked_shares_after,
     actor_kind, actor_id, actor_session_id, request_id, at,
     reason_commitment, data_commitment, previous_hash, hash, trace_id)
 SELECT * FROM unnest(
     $1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[],
     $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
     $14::text[], $15::text[], $16::uuid[], $17::text[], $18::timestamptz[],
     $19::bytea[], $20::bytea[], $21::bytea[], $22::bytea[], $23::text[])";

/// Binds the columns of `entries` as the next 23 parameters: arrays, in the order of [`INSERT`].
pub(super) fn bind<'q>(
    query: Query<'q, sqlx::Postgres, PgArguments>,
    entries: &[&Entry],
) -> Query<'q, sqlx::Postgres, PgArguments> {
    let after =
        |of: fn(&AmountsAfter) -> i64| sparse(entries, |entry| entry.after.as_ref().map(of));
    query
        .bind(column(entries, |entry| entry.user_id.0))
        .bind(column(entries, |entry| entry.chain.as_str()))
        .bind(column(entries, |entry| entry.seq))
        .bind(sparse(entries, |entry| entry.transaction_id.map(|id| id.0)))
        .bind(column(entries, |entry| entry.action.as_ref()))
        .bind(sparse(entries, |entry| entry.previous_status.as_deref()))
        .bind(sparse(entries, |entry| entry.new_status.as_deref()))
        .bind(sparse(entries, |entry| entry.amount.map(Amount::micros)))
        .bind(sparse(entries, |entry| entry.shares.map(Amount::micros)))
        .bind(after(|after| after.available.micros()))
        .bind(after(|after| after.locked.micros()))
        .bind(after(|after| after.shares.micros()))
        .bind(after(|after| after.locked_shares.micros()))
        .bind(column(entries, |entry| entry.actor.kind.as_str()))
        .bind(column(entries, |entry| entry.actor.id.as_ref()))
        .bind(sparse(entries, |entry| {
            entry.actor.session_id.map(|id| id.0)
        }))
        .bind(column(entries, |entry| entry.request_id.as_ref()))
        .bind(column(entries, |entry| at(entry.at)))
        .bind(sparse(entries, |entry| {
            entry.reason_commitment.as_ref().map(Hash::as_slice)
        }))
        .bind(sparse(entries, |entry| {
            entry.data_commitment.as_ref().map(Hash::as_slice)
        }))
        .bind(column(entries, |entry| entry.previous_hash.as_slice()))
        .bind(column(entries, |entry| entry.hash.as_slice()))
        .bind(sparse(entries, |entry| entry.trace_id.as_deref()))
}

async fn insert_private(
    connection: &mut PgConnection,
    rows: &[(&Entry, &Private)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO audit_private (user_id, chain, seq, field, salt, value)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::text[])",
    )
    .bind(column(rows, |(entry, _)| entry.user_id.0))
    .bind(column(rows, |(entry, _)| entry.chain.as_str()))
    .bind(column(rows, |(entry, _)| entry.seq))
    .bind(column(rows, |(_, private)| private.field.as_str()))
    .bind(column(rows, |(_, private)| private.salt.to_vec()))
    .bind(column(rows, |(_, private)| private.value.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}

/// What a query selects to be read by [`audit_row`], from `audit AS entry` with the reason, if that was
/// given and not erased.
macro_rules! select_audit_rows {
    ($rest:literal) => {
        concat!(
            "SELECT entry.*, reason.value AS reason
             FROM audit AS entry
             LEFT JOIN audit_private AS reason
                 ON reason.user_id = entry.user_id AND reason.chain = entry.chain
                 AND reason.seq = entry.seq AND reason.field = 'reason' ",
            $rest
        )
    };
}
pub(super) use select_audit_rows;

pub(super) fn audit_row(row: &PgRow) -> Result<AuditRow, sqlx::Error> {
    let after = match row.optional_amount("available_after")? {
        None => None,
        Some(available) => Some(AmountsAfter {
            available,
            locked: row.amount("locked_after")?,
            shares: row.amount("shares_after")?,
            locked_shares: row.amount("locked_shares_after")?,
        }),
    };
    let entry = Entry {
        user_id: row.id("user_id")?,
        chain: row.text("chain")?,
        seq: row.integer("seq")?,
        transaction_id: row.optional_id("transaction_id")?,
        action: row.text("action")?.into(),
        previous_status: row.optional_text("previous_status")?.map(Into::into),
        new_status: row.optional_text("new_status")?.map(Into::into),
        amount: row.optional_amount("amount")?,
        shares: row.optional_amount("shares")?,
        after,
        actor: Actor {
            kind: row.parsed("actor_kind", ActorKind::from_name)?,
            id: row.text("actor_id")?.into(),
            session_id: row.optional_id("actor_session_id")?,
        },
        request_id: row.text("request_id")?.into(),
        trace_id: row.optional_text("trace_id")?,
        at: row.timestamp("at")?,
        reason_commitment: row.optional_hash("reason_commitment")?,
        data_commitment: row.optional_hash("data_commitment")?,
        previous_hash: row.hash("previous_hash")?,
        hash: row.hash("hash")?,
    };
    Ok(AuditRow {
        entry,
        reason: row.optional_text("reason")?,
    })
}

#[async_trait]
impl Store for Postgres {
    async fn history(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        page: &Page<HistoryCursor>,
    ) -> Result<Option<Vec<AuditRow>>, StoreError> {
        let after = page.after.as_ref();
        self.requests
            .read(|connection| scoped(async move {
                let rows = sqlx::query(select_audit_rows!(
                    "WHERE entry.user_id = $1 AND entry.at > '-infinity'
                         AND ($2::text IS NULL OR entry.chain = $2)
                         AND ($3::timestamptz IS NULL OR (entry.at, entry.chain, entry.seq) < ($3, $4, $5))
                     ORDER BY entry.at DESC, entry.chain DESC, entry.seq DESC LIMIT $6"
                ))
                .bind(user_id.0)
                .bind(chain)
                .bind(after.map(|cursor| at(cursor.at)))
                .bind(after.map(|cursor| cursor.chain.as_str()))
                .bind(after.map(|cursor| cursor.seq))
                .bind(limit(page.limit))
                .fetch_all(&mut *connection)
                .await?;
                if rows.is_empty() && !user_exists(connection, user_id).await? {
                    return Ok(None);
                }
                rows.iter().map(audit_row).collect::<Result<_, _>>().map(Some)
            }))
            .await
    }

    async fn chain(
        &self,
        user_id: UserId,
        chain: &str,
        after_seq: i64,
        rows: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.requests
            .read(|connection| {
                scoped(async move {
                    sqlx::query(select_audit_rows!(
                        "WHERE entry.user_id = $1 AND entry.chain = $2 AND entry.seq > $3
                     ORDER BY entry.seq LIMIT $4"
                    ))
                    .bind(user_id.0)
                    .bind(chain)
                    .bind(after_seq)
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(audit_row)
                    .collect()
                })
            })
            .await
    }
}
