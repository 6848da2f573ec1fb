//! Checkpoints over the trail.

use async_trait::async_trait;
use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::columns::{Columns, hex, row_list};
use super::error::{Abort, undecodable};
use super::{Sqlite, leaves};
use crate::audit::checkpoint::{Checkpoint, Leaf, LeafChange, Seal, Signer};
use crate::audit::making::{self, Found, Look, Rows, State};
use crate::audit::merkle::Tile;
use crate::audit::{
    Attempt, CheckpointStore, Hash, Head, LeafAsOf, LeafState, StoredTile, UserRange,
};
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

#[async_trait]
impl CheckpointStore for Sqlite {
    async fn ledger_id(&self) -> Result<Uuid, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query_scalar("SELECT ledger_id FROM checkpoint_state")
                    .fetch_one(connection)
                    .await
            })
            .await
    }

    async fn make_checkpoint(
        &self,
        signer: Option<&Signer>,
        now: Timestamp,
        max_chains: u32,
    ) -> Result<Attempt, StoreError> {
        self.relational
            .write(async |connection| {
                making::make(&mut Work { connection }, signer, now, max_chains).await
            })
            .await
    }

    async fn rows_waiting(&self, up_to: u32) -> Result<u64, StoreError> {
        self.relational
            .read(async |connection| {
                // Where ids began anew, every row: as `state` sees it.
                let rows: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM (
                         SELECT 1 FROM audit WHERE rowid >= (
                             SELECT CASE WHEN coalesce((SELECT max(rowid) FROM audit), 0) < coalesce(until, since) - 1
                                 THEN 0 ELSE since END
                             FROM checkpoint_state) LIMIT ?1)",
                )
                .bind(up_to)
                .fetch_one(connection)
                .await?;
                u64::try_from(rows).map_err(|error| undecodable("count", error))
            })
            .await
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.relational
            .read(async |connection| newest(connection).await)
            .await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT c.*, s.ledger_id FROM checkpoints AS c CROSS JOIN checkpoint_state AS s
                     WHERE c.number > ?1 ORDER BY c.number LIMIT ?2",
                )
                .bind(after)
                .bind(limit)
                .fetch_all(connection)
                .await?
                .iter()
                .map(checkpoint)
                .collect()
            })
            .await
    }

    async fn leaf_changes(
        &self,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<LeafChange>, StoreError> {
        self.relational
            .read(async |connection| leaves::changes(connection, after, limit).await)
            .await
    }

    async fn leaves(&self, after: i64, limit: u32) -> Result<Vec<LeafState>, StoreError> {
        self.relational
            .read(async |connection| leaves::now(connection, after, limit).await)
            .await
    }

    async fn leaves_as_of(
        &self,
        number: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LeafAsOf>, StoreError> {
        self.relational
            .read(async |connection| leaves::as_of(connection, number, after, limit).await)
            .await
    }

    async fn unused_leaves(
        &self,
        after: i64,
        through: i64,
        limit: u32,
    ) -> Result<Vec<Leaf>, StoreError> {
        self.relational
            .read(async |connection| leaves::unused(connection, after, through, limit).await)
            .await
    }

    async fn leaves_of(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        self.relational
            .read(async |connection| leaves::of_user(connection, user_id, chain, number).await)
            .await
    }

    async fn leaves_of_users(
        &self,
        users: UserRange,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        self.relational
            .read(async |connection| leaves::of_users(connection, users, number).await)
            .await
    }

    async fn tiles(&self, places: &[(u32, u64)]) -> Result<Vec<StoredTile>, StoreError> {
        let asked = row_list(places, |(level, tile)| json!([level, tile]));
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT t.level, t.tile, t.hashes
                     FROM json_each(?1) AS asked
                     JOIN merkle_tiles AS t
                         ON t.level = asked.value ->> 0 AND t.tile = asked.value ->> 1
                     ORDER BY asked.key",
                )
                .bind(asked)
                .fetch_all(connection)
                .await?
                .iter()
                .map(stored_tile)
                .collect()
            })
            .await
    }
}

/// One connection inside the unit of work.
struct Work<'c> {
    connection: &'c mut SqliteConnection,
}

#[async_trait]
impl Rows for Work<'_> {
    type Error = Abort<StoreError>;

    fn broken(reason: String) -> Self::Error {
        Abort::Refused(StoreError::unexpected(StoreKind::Relational, reason))
    }

    async fn state(&mut self) -> Result<Option<State>, Self::Error> {
        let row = sqlx::query(
            "SELECT s.*, coalesce((SELECT max(rowid) FROM audit), 0) AS newest FROM checkpoint_state AS s",
        )
        .fetch_one(&mut *self.connection)
        .await?;
        let mut state = State {
            ledger_id: row.try_get("ledger_id")?,
            since: row.integer("since")?,
            until: row.optional_integer("until")?,
            after: row
                .optional_id("after_user")?
                .zip(row.optional_text("after_chain")?),
        };
        // Rows have been taken away, or the file was put together anew.
        if row.integer("newest")? < state.until.unwrap_or(state.since).saturating_sub(1) {
            tracing::warn!("row ids began anew: the checkpoint looks at every chain");
            (state.since, state.until, state.after) = (0, None, None);
        }
        Ok(Some(state))
    }

    async fn save_state(&mut self, state: &State) -> Result<(), Self::Error> {
        let (user, chain) = state.after.clone().unzip();
        sqlx::query(
            "UPDATE checkpoint_state SET since = ?1, until = ?2, after_user = ?3, after_chain = ?4",
        )
        .bind(state.since)
        .bind(state.until)
        .bind(user.map(|user| user.0))
        .bind(chain)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn newest(&mut self) -> Result<Option<Checkpoint>, Self::Error> {
        Ok(newest(self.connection).await?)
    }

    async fn look(&mut self, state: &State, limit: u32) -> Result<Look, Self::Error> {
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(rowid), 0) FROM audit")
            .fetch_one(&mut *self.connection)
            .await?;
        let sql = if state.since == 0 { LOOK_AT_ALL } else { LOOK };
        let (user, chain) = state
            .after
            .clone()
            .unwrap_or((UserId(Uuid::nil()), String::new()));
        let rows = sqlx::query(sql)
            .bind(state.since)
            .bind(user.0)
            .bind(chain)
            .bind(limit)
            .fetch_all(&mut *self.connection)
            .await?;
        Ok(Look {
            position: newest.saturating_add(1),
            found: rows.iter().map(found).collect::<Result<_, _>>()?,
        })
    }

    async fn insert(
        &mut self,
        checkpoint: &Checkpoint,
        leaves: &[Leaf],
        changes: &[LeafChange],
    ) -> Result<(), Self::Error> {
        sqlx::query(
            "INSERT INTO checkpoints (number, previous_hash, size, root, covered_rows, at, hash,
                 public_key, signature)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(checkpoint.number)
        .bind(checkpoint.previous_hash.as_slice())
        .bind(checkpoint.size)
        .bind(checkpoint.root.as_slice())
        .bind(checkpoint.covered_rows)
        .bind(checkpoint.at.micros())
        .bind(checkpoint.hash.as_slice())
        .bind(checkpoint.seal.map(|seal| seal.public_key.to_vec()))
        .bind(checkpoint.seal.map(|seal| seal.signature.to_vec()))
        .execute(&mut *self.connection)
        .await?;
        let leaves = row_list(leaves, |leaf| {
            json!([hex(leaf.user_id.0), leaf.chain, leaf.leaf])
        });
        sqlx::query(
            "INSERT INTO chain_leaves (user_id, chain, leaf)
             SELECT unhex(value ->> 0), value ->> 1, value ->> 2 FROM json_each(?1)",
        )
        .bind(leaves)
        .execute(&mut *self.connection)
        .await?;
        let changes = row_list(changes, |change| {
            json!([
                change.leaf,
                change.checkpoint,
                change.head.seq,
                hex(change.head.hash)
            ])
        });
        sqlx::query(
            "INSERT INTO leaf_changes (leaf, checkpoint, seq, hash)
             SELECT value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3) FROM json_each(?1)",
        )
        .bind(changes)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn tiles(&mut self, level: u32, tiles: &[u64]) -> Result<Vec<Tile>, Self::Error> {
        let rows = sqlx::query(
            "SELECT level, tile, hashes FROM merkle_tiles
             WHERE level = ?1 AND tile IN (SELECT value FROM json_each(?2))",
        )
        .bind(level)
        .bind(json!(tiles).to_string())
        .fetch_all(&mut *self.connection)
        .await?;
        let tiles = rows.iter().map(|row| {
            let ((_, tile), hashes) = stored_tile(row)?;
            Ok((tile, hashes))
        });
        Ok(tiles.collect::<Result<_, sqlx::Error>>()?)
    }

    async fn put_tiles(&mut self, level: u32, tiles: &[Tile]) -> Result<(), Self::Error> {
        let tiles = row_list(tiles, |(tile, hashes)| json!([tile, hex(hashes.concat())]));
        // WHERE true: without it SQLite takes ON for a join's.
        sqlx::query(
            "INSERT INTO merkle_tiles (level, tile, hashes)
             SELECT ?1, value ->> 0, unhex(value ->> 1) FROM json_each(?2) WHERE true
             ON CONFLICT (level, tile) DO UPDATE SET hashes = excluded.hashes",
        )
        .bind(level)
        .bind(tiles)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn clear_tiles(&mut self) -> Result<(), Self::Error> {
        sqlx::query("DELETE FROM merkle_tiles")
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    async fn leaves(&mut self, after: i64, limit: u32) -> Result<Vec<LeafState>, Self::Error> {
        Ok(leaves::now(self.connection, after, limit).await?)
    }
}

/// Chains with rows at position `?1` or later, after chain `(?2, ?3)`, at most `?4`, each with its newest
/// row: beside `max`, SQLite takes a bare column from the row that has the maximum.
const LOOK: &str = "
    SELECT grown.*, l.leaf, (
        SELECT c.seq FROM leaf_changes AS c WHERE c.leaf = l.leaf ORDER BY c.checkpoint DESC LIMIT 1) AS leaf_seq
    FROM (
        SELECT user_id, chain, max(seq) AS seq, hash FROM audit NOT INDEXED WHERE rowid >= ?1
        GROUP BY user_id, chain) AS grown
    LEFT JOIN chain_leaves AS l ON l.user_id = grown.user_id AND l.chain = grown.chain
    WHERE (grown.user_id, grown.chain) > (?2, ?3)
    ORDER BY grown.user_id, grown.chain LIMIT ?4";

/// The same for every chain there is (`?1` is not used), by the heads.
const LOOK_AT_ALL: &str = "
    SELECT page.*, newest.seq, newest.hash, l.leaf, (
        SELECT c.seq FROM leaf_changes AS c WHERE c.leaf = l.leaf ORDER BY c.checkpoint DESC LIMIT 1) AS leaf_seq
    FROM (
        SELECT * FROM (
            SELECT user_id, asset AS chain FROM accounts
            WHERE version > 0 AND (user_id, asset) > (?2, ?3) ORDER BY user_id, asset LIMIT ?4)
        UNION ALL
        SELECT * FROM (
            SELECT user_id, chain FROM chain_heads
            WHERE seq > 0 AND (user_id, chain) > (?2, ?3) ORDER BY user_id, chain LIMIT ?4)
        ORDER BY user_id, chain LIMIT ?4 + 0 * ?1) AS page
    LEFT JOIN audit AS newest ON newest.user_id = page.user_id AND newest.chain = page.chain
        AND newest.seq = (
            SELECT max(a.seq) FROM audit AS a WHERE a.user_id = page.user_id AND a.chain = page.chain)
    LEFT JOIN chain_leaves AS l ON l.user_id = page.user_id AND l.chain = page.chain
    ORDER BY page.user_id, page.chain";

async fn newest(connection: &mut SqliteConnection) -> Result<Option<Checkpoint>, sqlx::Error> {
    sqlx::query(
        "SELECT c.*, s.ledger_id FROM checkpoints AS c CROSS JOIN checkpoint_state AS s
         ORDER BY c.number DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?
    .as_ref()
    .map(checkpoint)
    .transpose()
}

fn found(row: &SqliteRow) -> Result<Found, sqlx::Error> {
    let seq = row.optional_integer("seq")?;
    Ok(Found {
        user_id: row.id("user_id")?,
        chain: row.text("chain")?,
        head: seq
            .zip(row.optional_hash("hash")?)
            .map(|(seq, hash)| Head { seq, hash }),
        leaf: row
            .optional_integer("leaf")?
            .zip(row.optional_integer("leaf_seq")?),
    })
}

fn checkpoint(row: &SqliteRow) -> Result<Checkpoint, sqlx::Error> {
    let signature: Option<&[u8]> = row.try_get("signature")?;
    let signature = signature
        .map(|bytes| {
            <[u8; 64]>::try_from(bytes).map_err(|_length| undecodable("signature", "not 64 bytes"))
        })
        .transpose()?;
    Ok(Checkpoint {
        ledger_id: row.try_get("ledger_id")?,
        number: row.integer("number")?,
        previous_hash: row.hash("previous_hash")?,
        size: row.integer("size")?,
        root: row.hash("root")?,
        covered_rows: row.integer("covered_rows")?,
        at: row.timestamp("at")?,
        hash: row.hash("hash")?,
        seal: row
            .optional_hash("public_key")?
            .zip(signature)
            .map(|(public_key, signature)| Seal {
                public_key,
                signature,
            }),
    })
}

fn stored_tile(row: &SqliteRow) -> Result<StoredTile, sqlx::Error> {
    let bytes: &[u8] = row.try_get("hashes")?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(undecodable("hashes", "not a number of hashes"));
    }
    let level =
        u32::try_from(row.integer("level")?).map_err(|error| undecodable("level", error))?;
    let tile = u64::try_from(row.integer("tile")?).map_err(|error| undecodable("tile", error))?;
    let hashes: Vec<Hash> = hashes.to_vec();
    Ok(((level, tile), hashes))
}
