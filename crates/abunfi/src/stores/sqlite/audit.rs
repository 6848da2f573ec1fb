//! The audit trail: appending to it inside somebody's unit of work, and reading it.

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::columns::{Columns, hex, row_list};
use super::rows;
use super::{Sqlite, user_exists};
use crate::audit::{AmountsAfter, AuditRow, Draft, Entry, Head, HistoryCursor, Private, Store};
use crate::context::{Actor, ActorKind};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::Page;
use crate::money::Amount;

/// Appends a row to a chain whose head is in `chain_heads` (all but the accounts' chains). Its time is not
/// before that of the row it follows.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    mut draft: Draft,
) -> Result<Entry, sqlx::Error> {
    let row =
        sqlx::query("SELECT seq, hash, at FROM chain_heads WHERE user_id = ?1 AND chain = ?2")
            .bind(draft.user_id.0)
            .bind(&draft.chain)
            .fetch_optional(&mut *connection)
            .await?;
    let mut head = Head::EMPTY;
    if let Some(row) = row {
        head = Head {
            seq: row.integer("seq")?,
            hash: row.hash("hash")?,
        };
        draft.at = draft.at.max(row.timestamp("at")?);
    }
    let (entry, private) = draft.seal(head);
    let private: Vec<_> = private.into_iter().map(|private| (0, private)).collect();
    insert(connection, std::slice::from_ref(&entry), &private).await?;
    sqlx::query(
        "INSERT INTO chain_heads (user_id, chain, seq, hash, at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user_id, chain) DO UPDATE
             SET seq = excluded.seq, hash = excluded.hash, at = excluded.at",
    )
    .bind(entry.user_id.0)
    .bind(&entry.chain)
    .bind(entry.seq)
    .bind(entry.hash.as_slice())
    .bind(entry.at.micros())
    .execute(connection)
    .await?;
    Ok(entry)
}

/// Writes sealed rows, and the personal content that they commit to, each with the index of its row: in few
/// statements, however many rows. The caller moves the chains' heads.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    entries: &[Entry],
    private: &[(usize, Private)],
) -> Result<(), sqlx::Error> {
    if !entries.is_empty() {
        insert_entries(connection, entries).await?;
    }
    let private: Vec<(&Entry, &Private)> = private
        .iter()
        .filter_map(|(index, private)| entries.get(*index).map(|entry| (entry, private)))
        .collect();
    if !private.is_empty() {
        insert_private(connection, &private).await?;
    }
    Ok(())
}

async fn insert_entries(
    connection: &mut SqliteConnection,
    entries: &[Entry],
) -> Result<(), sqlx::Error> {
    let rows = entries.iter().map(|entry| {
        [
            entry.user_id.0.into(),
            entry.chain.as_str().into(),
            entry.seq.into(),
            entry.transaction_id.map(|id| id.0).into(),
            entry.action.as_ref().into(),
            entry.previous_status.as_deref().into(),
            entry.new_status.as_deref().into(),
            entry.amount.map(Amount::micros).into(),
            entry.shares.map(Amount::micros).into(),
            entry.after.map(|after| after.available.micros()).into(),
            entry.after.map(|after| after.locked.micros()).into(),
            entry.after.map(|after| after.shares.micros()).into(),
            entry.after.map(|after| after.locked_shares.micros()).into(),
            entry.actor.kind.as_str().into(),
            entry.actor.id.as_ref().into(),
            entry.actor.session_id.map(|id| id.0).into(),
            entry.request_id.as_ref().into(),
            entry.at.micros().into(),
            entry.reason_commitment.into(),
            entry.data_commitment.into(),
            entry.previous_hash.into(),
            entry.hash.into(),
            entry.trace_id.as_ref().into(),
        ]
    });
    rows::insert(
        connection,
        "INSERT INTO audit (
             user_id, chain, seq, transaction_id, action, previous_status, new_status, amount, shares,
             available_after, locked_after, shares_after, locked_shares_after,
             actor_kind, actor_id, actor_session_id, request_id, at,
             reason_commitment, data_commitment, previous_hash, hash, trace_id)",
        "",
        rows.collect(),
    )
    .await
}

async fn insert_private(
    connection: &mut SqliteConnection,
    rows: &[(&Entry, &Private)],
) -> Result<(), sqlx::Error> {
    let rows = row_list(rows, |(entry, private)| {
        json!([
            hex(entry.user_id.0),
            entry.chain,
            entry.seq,
            private.field.as_str(),
            hex(private.salt),
            private.value,
        ])
    });
    sqlx::query(
        "INSERT INTO audit_private (user_id, chain, seq, field, salt, value)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4), value ->> 5
         FROM json_each(?1)",
    )
    .bind(rows)
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

pub(super) fn audit_row(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
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
impl Store for Sqlite {
    async fn history(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        page: &Page<HistoryCursor>,
    ) -> Result<Option<Vec<AuditRow>>, StoreError> {
        let after = page.after.as_ref();
        self.relational
            .snapshot(async |connection| {
                let rows = sqlx::query(select_audit_rows!(
                    "WHERE entry.user_id = ?1 AND (?2 IS NULL OR entry.chain = ?2)
                         AND (entry.at, entry.chain, entry.seq) < (?3, ?4, ?5)
                     ORDER BY entry.at DESC, entry.chain DESC, entry.seq DESC LIMIT ?6"
                ))
                .bind(user_id.0)
                .bind(chain)
                .bind(after.map_or(i64::MAX, |cursor| cursor.at.micros()))
                .bind(after.map_or("", |cursor| cursor.chain.as_str()))
                .bind(after.map_or(0, |cursor| cursor.seq))
                .bind(page.limit)
                .fetch_all(&mut *connection)
                .await?;
                if rows.is_empty() && !user_exists(connection, user_id).await? {
                    return Ok(None);
                }
                rows.iter()
                    .map(audit_row)
                    .collect::<Result<_, _>>()
                    .map(Some)
            })
            .await
    }

    async fn chain(
        &self,
        user_id: UserId,
        chain: &str,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query(select_audit_rows!(
                    "WHERE entry.user_id = ?1 AND entry.chain = ?2 AND entry.seq > ?3
                     ORDER BY entry.seq LIMIT ?4"
                ))
                .bind(user_id.0)
                .bind(chain)
                .bind(after_seq)
                .bind(limit)
                .fetch_all(connection)
                .await?
                .iter()
                .map(audit_row)
                .collect()
            })
            .await
    }
}
