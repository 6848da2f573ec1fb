//! The leaves of the checkpoints' tree, and what they held.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::columns::{Columns, limit};
use crate::audit::checkpoint::{Leaf, LeafChange};
use crate::audit::{Head, LeafAsOf, LeafState, UserRange};
use crate::ids::UserId;

/// What is read back as a [`LeafState`]: a leaf and its newest change up to checkpoint `$2`.
const LEAF_STATES: &str = "SELECT l.user_id, l.chain, l.leaf, c.checkpoint, c.seq, c.hash
    FROM chain_leaves AS l
    CROSS JOIN LATERAL (
        SELECT * FROM leaf_changes AS c WHERE c.leaf = l.leaf AND c.checkpoint <= $2
        ORDER BY c.checkpoint DESC LIMIT 1) AS c ";

/// Leaves after `$1` with their newest change up to checkpoint `$2`. Whether there is any at all is a look into
/// the index for those alone that have none until then: as EXISTS it might be a scan of all changes.
const LEAVES_AS_OF: &str = "
    SELECT l.user_id, l.chain, l.leaf, c.checkpoint, c.seq, c.hash,
           c.leaf IS NOT NULL OR coalesce(
               (SELECT true FROM leaf_changes AS any_of WHERE any_of.leaf = l.leaf
                ORDER BY any_of.checkpoint LIMIT 1), false) AS is_used
    FROM chain_leaves AS l
    LEFT JOIN LATERAL (
        SELECT * FROM leaf_changes AS c WHERE c.leaf = l.leaf AND c.checkpoint <= $2
        ORDER BY c.checkpoint DESC LIMIT 1) AS c ON true
    WHERE l.leaf > $1 ORDER BY l.leaf LIMIT $3";

/// As they are now.
pub(super) async fn now(
    connection: &mut PgConnection,
    after: i64,
    rows: u32,
) -> Result<Vec<LeafState>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{LEAF_STATES} WHERE l.leaf > $1 ORDER BY l.leaf LIMIT $3"
    ));
    sqlx::query(sql)
        .bind(after)
        .bind(i64::MAX)
        .bind(limit(rows))
        .fetch_all(connection)
        .await?
        .iter()
        .map(leaf_state)
        .collect()
}

pub(super) async fn as_of(
    connection: &mut PgConnection,
    number: i64,
    after: i64,
    rows: u32,
) -> Result<Vec<LeafAsOf>, sqlx::Error> {
    sqlx::query(LEAVES_AS_OF)
        .bind(after)
        .bind(number)
        .bind(limit(rows))
        .fetch_all(connection)
        .await?
        .iter()
        .map(leaf_as_of)
        .collect()
}

pub(super) async fn unused(
    connection: &mut PgConnection,
    after: i64,
    through: i64,
    rows: u32,
) -> Result<Vec<Leaf>, sqlx::Error> {
    sqlx::query(
        "SELECT l.user_id, l.chain, l.leaf FROM chain_leaves AS l
         WHERE l.leaf > $1 AND l.leaf <= $2
             AND NOT EXISTS (SELECT 1 FROM leaf_changes AS c
                 WHERE c.leaf = l.leaf AND c.leaf > $1 AND c.leaf <= $2)
         ORDER BY l.leaf LIMIT $3",
    )
    .bind(after)
    .bind(through)
    .bind(limit(rows))
    .fetch_all(connection)
    .await?
    .iter()
    .map(leaf)
    .collect()
}

/// All of the user, or the one of the chain that is named.
pub(super) async fn of_user(
    connection: &mut PgConnection,
    user_id: UserId,
    chain: Option<&str>,
    number: i64,
) -> Result<Vec<LeafState>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{LEAF_STATES} WHERE l.user_id = $1 AND ($3::text IS NULL OR l.chain = $3)
         ORDER BY l.leaf"
    ));
    sqlx::query(sql)
        .bind(user_id.0)
        .bind(number)
        .bind(chain)
        .fetch_all(connection)
        .await?
        .iter()
        .map(leaf_state)
        .collect()
}

pub(super) async fn of_users(
    connection: &mut PgConnection,
    users: UserRange,
    number: i64,
) -> Result<Vec<LeafState>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("{LEAF_STATES} WHERE l.user_id BETWEEN $1 AND $3"));
    sqlx::query(sql)
        .bind(users.first.0)
        .bind(number)
        .bind(users.last.0)
        .fetch_all(connection)
        .await?
        .iter()
        .map(leaf_state)
        .collect()
}

/// What checkpoints changed, after that pair.
pub(super) async fn changes(
    connection: &mut PgConnection,
    (checkpoint, leaf): (i64, i64),
    rows: u32,
) -> Result<Vec<LeafChange>, sqlx::Error> {
    sqlx::query(
        "SELECT * FROM leaf_changes WHERE (checkpoint, leaf) > ($1, $2)
         ORDER BY checkpoint, leaf LIMIT $3",
    )
    .bind(checkpoint)
    .bind(leaf)
    .bind(limit(rows))
    .fetch_all(connection)
    .await?
    .iter()
    .map(leaf_change)
    .collect()
}

fn head(row: &PgRow) -> Result<Head, sqlx::Error> {
    Ok(Head {
        seq: row.integer("seq")?,
        hash: row.hash("hash")?,
    })
}

fn leaf_change(row: &PgRow) -> Result<LeafChange, sqlx::Error> {
    Ok(LeafChange {
        checkpoint: row.integer("checkpoint")?,
        leaf: row.integer("leaf")?,
        head: head(row)?,
    })
}

fn leaf(row: &PgRow) -> Result<Leaf, sqlx::Error> {
    Ok(Leaf {
        leaf: row.integer("leaf")?,
        user_id: row.id("user_id")?,
        chain: row.text("chain")?,
    })
}

fn leaf_state(row: &PgRow) -> Result<LeafState, sqlx::Error> {
    Ok(LeafState {
        leaf: leaf(row)?,
        head: head(row)?,
        checkpoint: row.integer("checkpoint")?,
    })
}

fn leaf_as_of(row: &PgRow) -> Result<LeafAsOf, sqlx::Error> {
    let checkpoint: Option<i64> = row.try_get("checkpoint")?;
    Ok(LeafAsOf {
        leaf: leaf(row)?,
        held: checkpoint.map(|_| leaf_change(row)).transpose()?,
        is_used: row.try_get("is_used")?,
    })
}
