//! Only what is new: chains that are not where a checkpoint has them.

use futures::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Cells, Result, Sink, account, audit, entry, head, leaf, private, transaction};

/// The chains, each with the `seq` that the checkpoint has.
struct Changed {
    users: Vec<Uuid>,
    chains: Vec<String>,
    seqs: Vec<i64>,
}

/// A query over the chains that changed, `k`; each of its rows is handed to the sink.
macro_rules! hand_over {
    ($connection:ident, $changed:ident, $sink:ident, $sql:expr, |$row:ident| $hand:expr) => {{
        let mut rows = sqlx::query($sql)
            .bind(&$changed.users)
            .bind(&$changed.chains)
            .bind(&$changed.seqs)
            .fetch(&mut *$connection);
        while let Some($row) = rows.try_next().await? {
            $hand;
            if $sink.is_full() {
                return Ok(());
            }
        }
    }};
}

/// The chains as `k`, and their new rows' transactions as `t`.
macro_rules! of_changed {
    ($before:literal, $after:literal) => {
        concat!(
            "WITH k AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS k (user_id, chain, seq)),
             n AS (SELECT DISTINCT r.user_id, r.transaction_id, k.seq FROM k JOIN audit AS r
                   ON r.user_id = k.user_id AND r.chain = k.chain AND r.seq > k.seq
                   WHERE r.transaction_id IS NOT NULL) ",
            $before,
            " ",
            $after
        )
    };
}

/// Columns of an audit row.
macro_rules! audit_rows {
    ($after:literal) => {
        of_changed!(
            "SELECT r.user_id, r.chain, r.seq, r.transaction_id, r.action, r.previous_status, r.new_status,
                    r.amount, r.shares, r.available_after, r.locked_after, r.shares_after,
                    r.locked_shares_after, r.actor_kind, r.actor_id, r.actor_session_id, r.request_id, r.at,
                    r.reason_commitment, r.data_commitment, r.previous_hash, r.hash, NULL::text",
            $after
        )
    };
}

pub(super) async fn users(
    connection: &mut PgConnection,
    from: Uuid,
    through: Uuid,
    since: i64,
    sink: &mut dyn Sink,
) -> Result<()> {
    let k = changed(connection, from, through, since, sink).await?;
    if k.users.is_empty() {
        return Ok(());
    }
    hand_over!(connection, k, sink, of_changed!(
        "SELECT a.user_id, a.asset, a.available, a.locked, a.shares, a.locked_shares, a.deposited, a.withdrawn,
                a.total_yield_earned, a.bonuses, a.fees, a.last_yield_at, a.pending::bigint, a.version,
                a.chain_hash, a.chain_at",
        "FROM k JOIN accounts AS a ON a.user_id = k.user_id AND a.asset = k.chain"
    ), |row| sink.account(account(&row)?));
    hand_over!(
        connection,
        k,
        sink,
        of_changed!(
            "SELECT h.user_id, h.chain, h.seq, h.hash, h.at",
            "FROM k JOIN chain_heads AS h ON h.user_id = k.user_id AND h.chain = k.chain"
        ),
        |row| sink.head(head(&row)?)
    );
    hand_over!(
        connection,
        k,
        sink,
        of_changed!(
            "SELECT l.user_id, l.chain, c.checkpoint, c.seq, c.hash",
            "FROM k JOIN chain_leaves AS l ON l.user_id = k.user_id AND l.chain = k.chain
         JOIN leaf_changes AS c ON c.leaf = l.leaf AND c.seq >= k.seq
         ORDER BY l.user_id, l.chain, c.checkpoint"
        ),
        |row| sink.leaf(&leaf(&row)?)
    );
    hand_over!(
        connection,
        k,
        sink,
        of_changed!(
            "SELECT p.user_id, p.chain, p.seq, p.field, p.salt, p.value",
            "FROM k JOIN audit_private AS p ON p.user_id = k.user_id AND p.chain = k.chain AND p.seq >= k.seq"
        ),
        |row| sink.private(&private(&row)?)
    );
    hand_over!(connection, k, sink, of_changed!(
        "SELECT t.user_id, t.transaction_id, t.type, t.status, t.asset, t.amount, t.shares, t.submitted_at,
                t.created_at, t.confirmed_at",
        "FROM n JOIN transactions AS t
             ON t.user_id = n.user_id AND t.transaction_id = n.transaction_id"
    ), |row| {
        sink.transaction(&transaction(&row)?);
    });
    hand_over!(
        connection,
        k,
        sink,
        audit_rows!(
            "FROM n JOIN audit AS r
             ON r.user_id = n.user_id AND r.transaction_id = n.transaction_id AND r.seq <= n.seq
         ORDER BY r.user_id, r.transaction_id, r.seq"
        ),
        |row| sink.earlier(&audit(&row)?)
    );
    hand_over!(
        connection,
        k,
        sink,
        audit_rows!(
        "FROM k JOIN audit AS r ON r.user_id = k.user_id AND r.chain = k.chain AND r.seq >= k.seq
         ORDER BY r.user_id, r.chain, r.seq"
    ),
        |row| {
            sink.audit(&audit(&row)?);
        }
    );
    hand_over!(
        connection,
        k,
        sink,
        of_changed!(
            "SELECT e.user_id, e.transaction_id, e.account, e.asset, e.amount, e.at",
            "FROM n JOIN entries AS e ON e.user_id = n.user_id AND e.transaction_id = n.transaction_id"
        ),
        |row| sink.entry(&entry(&row)?)
    );
    Ok(())
}

/// A chain has changed if its head is not where the checkpoint has it; if a later checkpoint has it elsewhere, also
/// when it was cut back to where it was; if it has rows beyond its head, which nobody wrote who may; and if its head
/// is beside the accounts and it is none of the platform's chains: an account's, which has been taken away.
async fn changed(
    connection: &mut PgConnection,
    from: Uuid,
    through: Uuid,
    since: i64,
    sink: &mut dyn Sink,
) -> Result<Changed> {
    let mut changed = Changed {
        users: Vec::new(),
        chains: Vec::new(),
        seqs: Vec::new(),
    };
    let mut rows = sqlx::query(
        "SELECT DISTINCT h.user_id, h.chain, coalesce(c.seq, 0)
         FROM (SELECT user_id, asset AS chain, version AS seq, chain_hash AS hash, false AS is_odd FROM accounts
               WHERE user_id BETWEEN $1 AND $2
               UNION ALL
               SELECT user_id, chain, seq, hash,
                      NOT (chain IN ('user', 'system') OR substr(chain, 1, 6) = 'asset:')
               FROM chain_heads WHERE user_id BETWEEN $1 AND $2
               UNION ALL
               SELECT user_id, chain, 0, NULL::bytea, false FROM chain_leaves AS gone
               WHERE user_id BETWEEN $1 AND $2
                   AND NOT EXISTS (SELECT 1 FROM accounts
                       WHERE user_id = gone.user_id AND asset = gone.chain)
                   AND NOT EXISTS (SELECT 1 FROM chain_heads
                       WHERE user_id = gone.user_id AND chain = gone.chain)) AS h
         LEFT JOIN chain_leaves AS l ON l.user_id = h.user_id AND l.chain = h.chain
         LEFT JOIN leaf_changes AS c ON c.leaf = l.leaf AND c.checkpoint = (
             SELECT max(checkpoint) FROM leaf_changes WHERE leaf = l.leaf AND checkpoint <= $3)
         WHERE h.is_odd OR h.seq <> coalesce(c.seq, 0) OR h.hash <> c.hash
             OR EXISTS (SELECT 1 FROM leaf_changes AS later
                 WHERE later.leaf = l.leaf AND later.checkpoint > $3)
             OR EXISTS (SELECT 1 FROM audit AS beyond
                 WHERE beyond.user_id = h.user_id AND beyond.chain = h.chain AND beyond.seq > h.seq)",
    )
    .bind(from)
    .bind(through)
    .bind(since)
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (user, chain, seq) = (row.uuid(0)?, row.text(1)?, row.int(2)?);
        sink.known(user, chain, seq);
        changed.users.push(user);
        changed.chains.push(chain.to_owned());
        changed.seqs.push(seq);
    }
    Ok(changed)
}
