//! What the verifier reads: each call one short snapshot, its rows streamed and read by the position of
//! their columns, without a copy.

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::Sqlite;
use super::error::undecodable;
use crate::audit::verify::rows::{
    AccountRow, AuditRow, EntryRow, HeadRow, LeafRow, PrivateRow, Sink, TransactionRow,
};
use crate::audit::verify::{Extent, Size, Store};
use crate::error::StoreError;

mod since;

type Result<T, E = sqlx::Error> = std::result::Result<T, E>;

/// Runs a body on the connection of a snapshot of its own.
macro_rules! snapshot {
    ($self:ident, |$connection:ident| $body:expr) => {
        $self
            .relational
            .snapshot(async |$connection| $body.await)
            .await
    };
}

#[async_trait]
impl Store for Sqlite {
    async fn extent(&self) -> Result<Extent, StoreError> {
        snapshot!(self, |connection| async {
            let row = sqlx::query(
                "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM chain_heads),
                        (SELECT coalesce(sum(version), 0) FROM accounts)
                        + (SELECT coalesce(sum(seq), 0) FROM chain_heads)",
            )
            .fetch_one(connection)
            .await?;
            Ok(Extent {
                chains: row.count(0)?,
                rows: row.count(1)?,
            })
        })
    }

    async fn sizes(&self, from: Uuid, limit: u32) -> Result<(Vec<Size>, Option<Uuid>), StoreError> {
        snapshot!(self, |connection| sizes(connection, from, limit))
    }

    async fn users(
        &self,
        from: Uuid,
        through: Uuid,
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError> {
        snapshot!(self, |connection| users(connection, from, through, sink))
    }

    async fn users_since(
        &self,
        from: Uuid,
        through: Uuid,
        since: i64,
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError> {
        snapshot!(self, |connection| since::users(
            connection, from, through, since, sink
        ))
    }

    async fn next_user(&self, from: Uuid) -> Result<Option<Uuid>, StoreError> {
        snapshot!(self, |connection| {
            sqlx::query_scalar(
                "SELECT user_id FROM (
                     SELECT * FROM (SELECT user_id FROM accounts WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM chain_heads WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM audit WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM audit_private WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM transactions WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM entries WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT * FROM (SELECT user_id FROM chain_leaves WHERE user_id >= ?1 ORDER BY 1 LIMIT 1)
                 ) AS next ORDER BY user_id LIMIT 1",
            )
            .bind(from)
            .fetch_optional(connection)
        })
    }

    async fn heads(&self, user: Uuid, sink: &mut dyn Sink) -> Result<(), StoreError> {
        snapshot!(self, |connection| async {
            accounts(connection, user, user, sink).await?;
            chain_heads(connection, user, user, sink).await?;
            let mut rows = sqlx::query(
                "SELECT l.user_id, l.chain, c.checkpoint, c.seq, c.hash
                 FROM chain_leaves AS l JOIN leaf_changes AS c ON c.leaf = l.leaf AND c.checkpoint = (
                     SELECT max(checkpoint) FROM leaf_changes WHERE leaf = l.leaf)
                 WHERE l.user_id = ?1 ORDER BY l.chain",
            )
            .bind(user)
            .fetch(connection);
            while let Some(row) = rows.try_next().await? {
                sink.leaf(&leaf(&row)?);
            }
            Ok(())
        })
    }

    async fn next_chain(&self, user: Uuid, after: &str) -> Result<Option<String>, StoreError> {
        snapshot!(self, |connection| {
            sqlx::query_scalar(
                "SELECT chain FROM (
                     SELECT * FROM (SELECT chain FROM audit
                         WHERE user_id = ?1 AND chain > ?2 ORDER BY chain LIMIT 1) AS rows
                     UNION ALL
                     SELECT * FROM (SELECT chain FROM audit_private
                         WHERE user_id = ?1 AND chain > ?2 ORDER BY chain LIMIT 1) AS private
                 ) AS next ORDER BY chain LIMIT 1",
            )
            .bind(user)
            .bind(after)
            .fetch_optional(connection)
        })
    }

    async fn chain_part(
        &self,
        user: Uuid,
        chain: &str,
        after: i64,
        through: i64,
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError> {
        snapshot!(self, |connection| chain_part(
            connection,
            (user, chain),
            (after, through),
            sink
        ))
    }

    async fn transactions_part(
        &self,
        user: Uuid,
        from: Uuid,
        limit: u32,
        sink: &mut dyn Sink,
    ) -> Result<Option<Uuid>, StoreError> {
        snapshot!(self, |connection| transactions_part(
            connection, user, from, limit, sink
        ))
    }
}

async fn sizes(
    connection: &mut SqliteConnection,
    from: Uuid,
    limit: u32,
) -> Result<(Vec<Size>, Option<Uuid>)> {
    let last: Option<Uuid> = sqlx::query_scalar(
        "SELECT user_id FROM accounts WHERE user_id >= ?1 ORDER BY user_id LIMIT 1 OFFSET ?2",
    )
    .bind(from)
    .bind(i64::from(limit))
    .fetch_optional(&mut *connection)
    .await?;
    let rows = sqlx::query(
        "SELECT user_id, sum(rows) FROM (
             SELECT user_id, version AS rows FROM accounts WHERE user_id BETWEEN ?1 AND ?2
             UNION ALL
             SELECT user_id, seq FROM chain_heads WHERE user_id BETWEEN ?1 AND ?2) AS heads
         GROUP BY user_id ORDER BY user_id",
    )
    .bind(from)
    .bind(last.unwrap_or(Uuid::max()))
    .fetch_all(connection)
    .await?;
    let sizes = rows.iter().map(|row| Ok((row.uuid(0)?, row.count(1)?)));
    Ok((sizes.collect::<Result<_>>()?, last))
}

/// Everything of the users in that range.
async fn users(
    connection: &mut SqliteConnection,
    from: Uuid,
    through: Uuid,
    sink: &mut dyn Sink,
) -> Result<()> {
    accounts(connection, from, through, sink).await?;
    chain_heads(connection, from, through, sink).await?;
    {
        let mut rows = sqlx::query(
            "SELECT l.user_id, l.chain, c.checkpoint, c.seq, c.hash
             FROM chain_leaves AS l JOIN leaf_changes AS c ON c.leaf = l.leaf
             WHERE l.user_id BETWEEN ?1 AND ?2 ORDER BY l.user_id, l.chain, c.checkpoint",
        )
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.leaf(&leaf(&row)?);
        }
    }
    {
        let mut rows = sqlx::query(
            "SELECT user_id, chain, seq, field, salt, value FROM audit_private
             WHERE user_id BETWEEN ?1 AND ?2",
        )
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.private(&private(&row)?);
        }
    }
    {
        let mut rows = sqlx::query(
            "SELECT user_id, transaction_id, type, status, asset, amount, shares, submitted_at, created_at,
                    confirmed_at
             FROM transactions WHERE user_id BETWEEN ?1 AND ?2",
        )
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.transaction(&transaction(&row)?);
            if sink.is_full() {
                return Ok(());
            }
        }
    }
    {
        let mut rows = sqlx::query(
            "SELECT user_id, chain, seq, transaction_id, action, previous_status, new_status, amount, shares,
                    available_after, locked_after, shares_after, locked_shares_after, actor_kind, actor_id,
                    actor_session_id, request_id, at, reason_commitment, data_commitment, previous_hash, hash,
                    NULL
             FROM audit WHERE user_id BETWEEN ?1 AND ?2 ORDER BY user_id, chain, seq",
        )
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.audit(&audit(&row)?);
            if sink.is_full() {
                return Ok(());
            }
        }
    }
    let mut rows = sqlx::query(
        "SELECT user_id, transaction_id, account, asset, amount, at FROM entries
         WHERE user_id BETWEEN ?1 AND ?2",
    )
    .bind(from)
    .bind(through)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.entry(&entry(&row)?);
        if sink.is_full() {
            return Ok(());
        }
    }
    Ok(())
}

async fn accounts(
    connection: &mut SqliteConnection,
    from: Uuid,
    through: Uuid,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut rows = sqlx::query(
        "SELECT user_id, asset, available, locked, shares, locked_shares, deposited, withdrawn,
                total_yield_earned, bonuses, fees, last_yield_at, pending, version, chain_hash, chain_at
         FROM accounts WHERE user_id BETWEEN ?1 AND ?2 ORDER BY user_id, asset",
    )
    .bind(from)
    .bind(through)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.account(account(&row)?);
    }
    Ok(())
}

fn account(row: &SqliteRow) -> Result<AccountRow> {
    Ok(AccountRow {
        user_id: row.uuid(0)?,
        asset: row.text(1)?.to_owned(),
        available: row.int(2)?,
        locked: row.int(3)?,
        shares: row.int(4)?,
        locked_shares: row.int(5)?,
        deposited: row.int(6)?,
        withdrawn: row.int(7)?,
        yield_earned: row.int(8)?,
        bonuses: row.int(9)?,
        fees: row.int(10)?,
        last_yield_at: row.maybe_time(11)?,
        pending: row.int(12)?,
        version: row.int(13)?,
        chain_hash: row.bytes(14)?.to_vec(),
        chain_at: row.time(15)?,
    })
}

async fn chain_heads(
    connection: &mut SqliteConnection,
    from: Uuid,
    through: Uuid,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut rows = sqlx::query(
        "SELECT user_id, chain, seq, hash, at FROM chain_heads
         WHERE user_id BETWEEN ?1 AND ?2 ORDER BY user_id, chain",
    )
    .bind(from)
    .bind(through)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.head(head(&row)?);
    }
    Ok(())
}

fn head(row: &SqliteRow) -> Result<HeadRow> {
    Ok(HeadRow {
        user_id: row.uuid(0)?,
        chain: row.text(1)?.to_owned(),
        seq: row.int(2)?,
        hash: row.bytes(3)?.to_vec(),
        at: row.time(4)?,
    })
}

async fn chain_part(
    connection: &mut SqliteConnection,
    (user, chain): (Uuid, &str),
    (after, through): (i64, i64),
    sink: &mut dyn Sink,
) -> Result<()> {
    {
        let mut rows = sqlx::query(
            "SELECT l.user_id, l.chain, c.checkpoint, c.seq, c.hash
             FROM chain_leaves AS l JOIN leaf_changes AS c ON c.leaf = l.leaf
             WHERE l.user_id = ?1 AND l.chain = ?2 AND c.seq > ?3 AND c.seq <= ?4 ORDER BY c.checkpoint",
        )
        .bind(user)
        .bind(chain)
        .bind(after)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.leaf(&leaf(&row)?);
        }
    }
    {
        let mut rows = sqlx::query(
            "SELECT user_id, chain, seq, field, salt, value FROM audit_private
             WHERE user_id = ?1 AND chain = ?2 AND seq > ?3 AND seq <= ?4",
        )
        .bind(user)
        .bind(chain)
        .bind(after)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.private(&private(&row)?);
        }
    }
    let mut rows = sqlx::query(
        "SELECT a.user_id, a.chain, a.seq, a.transaction_id, a.action, a.previous_status, a.new_status, a.amount,
                a.shares, a.available_after, a.locked_after, a.shares_after, a.locked_shares_after,
                a.actor_kind, a.actor_id, a.actor_session_id, a.request_id, a.at, a.reason_commitment,
                a.data_commitment, a.previous_hash, a.hash, t.type
         FROM audit AS a LEFT JOIN transactions AS t
             ON t.user_id = a.user_id AND t.transaction_id = a.transaction_id
         WHERE a.user_id = ?1 AND a.chain = ?2 AND a.seq > ?3 AND a.seq <= ?4 ORDER BY a.seq",
    )
    .bind(user)
    .bind(chain)
    .bind(after)
    .bind(through)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.audit(&audit(&row)?);
    }
    Ok(())
}

async fn transactions_part(
    connection: &mut SqliteConnection,
    user: Uuid,
    from: Uuid,
    limit: u32,
    sink: &mut dyn Sink,
) -> Result<Option<Uuid>> {
    accounts(connection, user, user, sink).await?;
    let last: Option<Uuid> = sqlx::query_scalar(
        "SELECT transaction_id FROM transactions WHERE user_id = ?1 AND transaction_id >= ?2
         ORDER BY transaction_id LIMIT 1 OFFSET ?3",
    )
    .bind(user)
    .bind(from)
    .bind(i64::from(limit.saturating_sub(1)))
    .fetch_optional(&mut *connection)
    .await?;
    let through = last.unwrap_or(Uuid::max());
    {
        let mut rows = sqlx::query(
            "SELECT user_id, transaction_id, type, status, asset, amount, shares, submitted_at, created_at,
                    confirmed_at
             FROM transactions WHERE user_id = ?1 AND transaction_id BETWEEN ?2 AND ?3",
        )
        .bind(user)
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.transaction(&transaction(&row)?);
        }
    }
    {
        let mut rows = sqlx::query(
            "SELECT user_id, chain, seq, transaction_id, action, previous_status, new_status, amount, shares,
                    available_after, locked_after, shares_after, locked_shares_after, actor_kind, actor_id,
                    actor_session_id, request_id, at, reason_commitment, data_commitment, previous_hash, hash,
                    NULL
             FROM audit WHERE user_id = ?1 AND transaction_id BETWEEN ?2 AND ?3
             ORDER BY transaction_id, seq",
        )
        .bind(user)
        .bind(from)
        .bind(through)
        .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            sink.audit(&audit(&row)?);
        }
    }
    let mut rows = sqlx::query(
        "SELECT user_id, transaction_id, account, asset, amount, at FROM entries
         WHERE user_id = ?1 AND transaction_id BETWEEN ?2 AND ?3",
    )
    .bind(user)
    .bind(from)
    .bind(through)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        sink.entry(&entry(&row)?);
    }
    Ok(last)
}

fn audit(row: &SqliteRow) -> Result<AuditRow<'_>> {
    Ok(AuditRow {
        user_id: row.uuid(0)?,
        chain: row.text(1)?,
        seq: row.int(2)?,
        transaction_id: row.maybe_uuid(3)?,
        action: row.text(4)?,
        previous_status: row.maybe_text(5)?,
        new_status: row.maybe_text(6)?,
        amount: row.maybe_int(7)?,
        shares: row.maybe_int(8)?,
        after: [
            row.maybe_int(9)?,
            row.maybe_int(10)?,
            row.maybe_int(11)?,
            row.maybe_int(12)?,
        ],
        actor_kind: row.text(13)?,
        actor_id: row.text(14)?,
        actor_session_id: row.maybe_uuid(15)?,
        request_id: row.text(16)?,
        at: row.time(17)?,
        reason_commitment: row.maybe_bytes(18)?,
        data_commitment: row.maybe_bytes(19)?,
        previous_hash: row.bytes(20)?,
        hash: row.bytes(21)?,
        kind: row.maybe_text(22)?,
    })
}

fn transaction(row: &SqliteRow) -> Result<TransactionRow<'_>> {
    Ok(TransactionRow {
        user_id: row.uuid(0)?,
        transaction_id: row.uuid(1)?,
        kind: row.text(2)?,
        status: row.text(3)?,
        asset: row.text(4)?,
        amount: row.int(5)?,
        shares: row.int(6)?,
        submitted_at: row.maybe_time(7)?,
        created_at: row.time(8)?,
        confirmed_at: row.maybe_time(9)?,
    })
}

fn entry(row: &SqliteRow) -> Result<EntryRow<'_>> {
    Ok(EntryRow {
        user_id: row.uuid(0)?,
        transaction_id: row.uuid(1)?,
        account: row.text(2)?,
        asset: row.text(3)?,
        amount: row.int(4)?,
        at: row.time(5)?,
    })
}

fn private(row: &SqliteRow) -> Result<PrivateRow<'_>> {
    Ok(PrivateRow {
        user_id: row.uuid(0)?,
        chain: row.text(1)?,
        seq: row.int(2)?,
        field: row.text(3)?,
        salt: row.bytes(4)?,
        value: row.text(5)?,
    })
}

fn leaf(row: &SqliteRow) -> Result<LeafRow<'_>> {
    Ok(LeafRow {
        user_id: row.uuid(0)?,
        chain: row.text(1)?,
        checkpoint: row.int(2)?,
        seq: row.int(3)?,
        hash: row.bytes(4)?,
    })
}

/// Columns by their place, borrowed from the driver's row.
trait Cells {
    fn maybe_bytes(&self, place: usize) -> Result<Option<&[u8]>>;
    fn maybe_text(&self, place: usize) -> Result<Option<&str>>;
    fn maybe_int(&self, place: usize) -> Result<Option<i64>>;

    fn bytes(&self, place: usize) -> Result<&[u8]> {
        self.maybe_bytes(place)?.ok_or_else(|| misread(place))
    }

    fn text(&self, place: usize) -> Result<&str> {
        self.maybe_text(place)?.ok_or_else(|| misread(place))
    }

    fn int(&self, place: usize) -> Result<i64> {
        self.maybe_int(place)?.ok_or_else(|| misread(place))
    }

    fn count(&self, place: usize) -> Result<u64> {
        u64::try_from(self.int(place)?).map_err(|_negative| misread(place))
    }

    fn maybe_uuid(&self, place: usize) -> Result<Option<Uuid>> {
        let id = self.maybe_bytes(place)?.map(Uuid::from_slice);
        id.transpose().map_err(|_length| misread(place))
    }

    fn uuid(&self, place: usize) -> Result<Uuid> {
        self.maybe_uuid(place)?.ok_or_else(|| misread(place))
    }

    /// Microseconds since 1970.
    fn maybe_time(&self, place: usize) -> Result<Option<i64>> {
        self.maybe_int(place)
    }

    fn time(&self, place: usize) -> Result<i64> {
        self.int(place)
    }
}

impl Cells for SqliteRow {
    fn maybe_bytes(&self, place: usize) -> Result<Option<&[u8]>> {
        self.try_get_unchecked(place)
    }

    fn maybe_text(&self, place: usize) -> Result<Option<&str>> {
        self.try_get_unchecked(place)
    }

    fn maybe_int(&self, place: usize) -> Result<Option<i64>> {
        self.try_get_unchecked(place)
    }
}

fn misread(place: usize) -> sqlx::Error {
    undecodable(&format!("column {place}"), "not what was asked for")
}
