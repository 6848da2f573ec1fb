//! Checkpoints over the trail.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::columns::{Columns, at, column, limit};
use super::error::{Abort, undecodable, unexpected};
use super::lane::scoped;
use super::{Postgres, leaves};
use crate::audit::checkpoint::{Checkpoint, Leaf, LeafChange, Seal, Signer};
use crate::audit::making::{self, Found, Look, Rows, State};
use crate::audit::merkle::Tile;
use crate::audit::{
    Attempt, CheckpointStore, Hash, Head, LeafAsOf, LeafState, StoredTile, UserRange,
};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::UserId;

#[async_trait]
impl CheckpointStore for Postgres {
    async fn ledger_id(&self) -> Result<Uuid, StoreError> {
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query_scalar("SELECT ledger_id FROM checkpoint_state")
                        .fetch_one(connection)
                        .await
                })
            })
            .await
    }

    async fn make_checkpoint(
        &self,
        signer: Option<&Signer>,
        now: Timestamp,
        max_chains: u32,
    ) -> Result<Attempt, StoreError> {
        self.trail
            .write(|connection| {
                scoped(async move {
                    making::make(&mut Work { connection }, signer, now, max_chains).await
                })
            })
            .await
    }

    async fn rows_waiting(&self, up_to: u32) -> Result<u64, StoreError> {
        self.trail
            .read(|connection| {
                scoped(async move {
                    let state = sqlx::query("SELECT * FROM checkpoint_state")
                        .fetch_one(&mut *connection)
                        .await?;
                    // Positions of rows that came with a restore say nothing; then any row may be new.
                    let waiting = if ids_began_anew(connection, &state).await? {
                        "SELECT count(*) FROM (SELECT 1 FROM audit WHERE $2::bigint IS NOT NULL LIMIT $1) AS any_row"
                    } else {
                        "SELECT count(*) FROM (
                             SELECT 1 FROM audit
                             WHERE written_by >= $2
                                 AND written_by < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                             LIMIT $1) AS waiting"
                    };
                    let rows: i64 = sqlx::query_scalar(waiting)
                        .bind(limit(up_to))
                        .bind(state.integer("since")?)
                        .fetch_one(connection)
                        .await?;
                    u64::try_from(rows).map_err(|error| undecodable("count", error))
                })
            })
            .await
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.trail
            .read(|connection| scoped(newest(connection)))
            .await
    }

    async fn checkpoints(&self, after: i64, rows: u32) -> Result<Vec<Checkpoint>, StoreError> {
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT c.*, s.ledger_id FROM checkpoints AS c CROSS JOIN checkpoint_state AS s
                         WHERE c.number > $1 ORDER BY c.number LIMIT $2",
                    )
                    .bind(after)
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(checkpoint)
                    .collect()
                })
            })
            .await
    }

    async fn leaf_changes(
        &self,
        after: (i64, i64),
        rows: u32,
    ) -> Result<Vec<LeafChange>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::changes(connection, after, rows)))
            .await
    }

    async fn leaves(&self, after: i64, rows: u32) -> Result<Vec<LeafState>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::now(connection, after, rows)))
            .await
    }

    async fn leaves_as_of(
        &self,
        number: i64,
        after: i64,
        rows: u32,
    ) -> Result<Vec<LeafAsOf>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::as_of(connection, number, after, rows)))
            .await
    }

    async fn unused_leaves(
        &self,
        after: i64,
        through: i64,
        rows: u32,
    ) -> Result<Vec<Leaf>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::unused(connection, after, through, rows)))
            .await
    }

    async fn leaves_of(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::of_user(connection, user_id, chain, number)))
            .await
    }

    async fn leaves_of_users(
        &self,
        users: UserRange,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        self.trail
            .read(|connection| scoped(leaves::of_users(connection, users, number)))
            .await
    }

    async fn tiles(&self, places: &[(u32, u64)]) -> Result<Vec<StoredTile>, StoreError> {
        let levels = &column(places, |(level, _)| {
            i32::try_from(*level).unwrap_or(i32::MAX)
        });
        let tiles = &column(places, |(_, tile)| i64::try_from(*tile).unwrap_or(i64::MAX));
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT t.level, t.tile, t.hashes
                         FROM unnest($1::integer[], $2::bigint[]) WITH ORDINALITY AS asked (level, tile, place)
                         JOIN merkle_tiles AS t ON t.level = asked.level AND t.tile = asked.tile
                         ORDER BY asked.place",
                    )
                    .bind(levels)
                    .bind(tiles)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(stored_tile)
                    .collect()
                })
            })
            .await
    }
}

/// One connection inside the unit of work.
struct Work<'c> {
    connection: &'c mut PgConnection,
}

#[async_trait]
impl Rows for Work<'_> {
    type Error = Abort<StoreError>;

    fn broken(reason: String) -> Self::Error {
        Abort::Refused(unexpected(reason))
    }

    async fn state(&mut self) -> Result<Option<State>, Self::Error> {
        let row = sqlx::query("SELECT * FROM checkpoint_state FOR UPDATE SKIP LOCKED")
            .fetch_optional(&mut *self.connection)
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let mut state = State {
            ledger_id: row.try_get("ledger_id")?,
            since: row.integer("since")?,
            until: row.try_get("until")?,
            after: row
                .optional_id("after_user")?
                .zip(row.optional_text("after_chain")?),
        };
        if ids_began_anew(self.connection, &row).await? {
            if state.since > 0 {
                tracing::warn!("transaction ids began anew: the checkpoint looks at every chain");
            }
            (state.since, state.until, state.after) = (0, None, None);
        }
        Ok(Some(state))
    }

    async fn save_state(&mut self, state: &State) -> Result<(), Self::Error> {
        let cluster = cluster(self.connection).await?;
        let (user, chain) = state.after.clone().unzip();
        sqlx::query(
            "UPDATE checkpoint_state
             SET cluster = $1, since = $2, until = $3, after_user = $4, after_chain = $5",
        )
        .bind(cluster)
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

    async fn look(&mut self, state: &State, rows: u32) -> Result<Look, Self::Error> {
        let sql = if state.since == 0 { LOOK_AT_ALL } else { LOOK };
        let (user, chain) = state
            .after
            .clone()
            .unwrap_or((UserId(Uuid::nil()), String::new()));
        let rows = sqlx::query(sql)
            .bind(state.since)
            .bind(user.0)
            .bind(chain)
            .bind(limit(rows))
            .fetch_all(&mut *self.connection)
            .await?;
        let mut look = Look {
            position: 0,
            found: Vec::new(),
        };
        for row in &rows {
            look.position = row.integer("position")?;
            look.found.extend(found(row)?);
        }
        Ok(look)
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
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(checkpoint.number)
        .bind(checkpoint.previous_hash.as_slice())
        .bind(checkpoint.size)
        .bind(checkpoint.root.as_slice())
        .bind(checkpoint.covered_rows)
        .bind(at(checkpoint.at))
        .bind(checkpoint.hash.as_slice())
        .bind(checkpoint.seal.map(|seal| seal.public_key.to_vec()))
        .bind(checkpoint.seal.map(|seal| seal.signature.to_vec()))
        .execute(&mut *self.connection)
        .await?;
        sqlx::query(
            "INSERT INTO chain_leaves (user_id, chain, leaf)
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[])",
        )
        .bind(column(leaves, |leaf| leaf.user_id.0))
        .bind(column(leaves, |leaf| leaf.chain.as_str()))
        .bind(column(leaves, |leaf| leaf.leaf))
        .execute(&mut *self.connection)
        .await?;
        sqlx::query(
            "INSERT INTO leaf_changes (leaf, checkpoint, seq, hash)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[])",
        )
        .bind(column(changes, |change| change.leaf))
        .bind(column(changes, |change| change.checkpoint))
        .bind(column(changes, |change| change.head.seq))
        .bind(column(changes, |change| change.head.hash.to_vec()))
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn tiles(&mut self, level: u32, tiles: &[u64]) -> Result<Vec<Tile>, Self::Error> {
        let rows = sqlx::query(
            "SELECT level, tile, hashes FROM merkle_tiles WHERE level = $1 AND tile = ANY($2)",
        )
        .bind(i32::try_from(level).unwrap_or(i32::MAX))
        .bind(column(tiles, |tile| {
            i64::try_from(*tile).unwrap_or(i64::MAX)
        }))
        .fetch_all(&mut *self.connection)
        .await?;
        let tiles = rows.iter().map(|row| {
            let ((_, tile), hashes) = stored_tile(row)?;
            Ok((tile, hashes))
        });
        Ok(tiles.collect::<Result<_, sqlx::Error>>()?)
    }

    async fn put_tiles(&mut self, level: u32, tiles: &[Tile]) -> Result<(), Self::Error> {
        sqlx::query(
            "INSERT INTO merkle_tiles (level, tile, hashes)
             SELECT $1, * FROM unnest($2::bigint[], $3::bytea[])
             ON CONFLICT (level, tile) DO UPDATE SET hashes = excluded.hashes",
        )
        .bind(i32::try_from(level).unwrap_or(i32::MAX))
        .bind(column(tiles, |(tile, _)| {
            i64::try_from(*tile).unwrap_or(i64::MAX)
        }))
        .bind(column(tiles, |(_, hashes)| hashes.concat()))
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

    async fn leaves(&mut self, after: i64, rows: u32) -> Result<Vec<LeafState>, Self::Error> {
        Ok(leaves::now(self.connection, after, rows).await?)
    }
}

/// Whether the positions of a row of `checkpoint_state` say nothing any more: they are transaction ids, which mean
/// nothing after a restore into another cluster, or into one that has not counted so far yet.
async fn ids_began_anew(connection: &mut PgConnection, state: &PgRow) -> Result<bool, sqlx::Error> {
    let position = state
        .try_get::<Option<i64>, _>("until")?
        .unwrap_or(state.integer("since")?);
    let is_other = cluster(connection).await? != state.try_get("cluster")?;
    let oldest_running: i64 =
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            .fetch_one(connection)
            .await?;
    Ok(is_other || oldest_running < position)
}

/// Which cluster this is, where the server tells.
async fn cluster(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    let may_ask: bool = sqlx::query_scalar(
        "SELECT coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), false)",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !may_ask {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT system_identifier FROM pg_control_system()")
        .fetch_one(connection)
        .await
}

/// Chains with rows at position `$1` or later, after chain `($2, $3)`, at most `$4`, each with its newest
/// row. One statement, so one snapshot: a row that it does not see is either of a transaction at its xmin
/// or later, or of one that will never commit. Rows of one chain commit in the order of `seq`, so if any is
/// new, so is the newest. Ids that this cluster has not given yet are a restored database's; those rows were
/// looked at when its ids were found to begin anew.
const LOOK: &str = "
    WITH snapshot AS MATERIALIZED (
        SELECT pg_snapshot_xmin(taken)::text::bigint AS xmin, pg_snapshot_xmax(taken)::text::bigint AS xmax
        FROM pg_current_snapshot() AS taken),
    grown AS MATERIALIZED (
        SELECT user_id, chain, max(seq) AS seq FROM audit
        WHERE written_by >= $1 AND written_by < (SELECT xmax FROM snapshot)
        GROUP BY user_id, chain),
    page AS MATERIALIZED (
        SELECT * FROM grown WHERE (user_id, chain) > ($2, $3) ORDER BY user_id, chain LIMIT $4)
    SELECT snapshot.xmin AS position, page.user_id, page.chain, newest.seq, newest.hash,
           l.leaf, held.seq AS leaf_seq
    FROM snapshot
    LEFT JOIN page ON true
    LEFT JOIN audit AS newest
        ON newest.user_id = page.user_id AND newest.chain = page.chain AND newest.seq = page.seq
    LEFT JOIN chain_leaves AS l ON l.user_id = page.user_id AND l.chain = page.chain
    LEFT JOIN LATERAL (
        SELECT c.seq FROM leaf_changes AS c WHERE c.leaf = l.leaf ORDER BY c.checkpoint DESC LIMIT 1) AS held
        ON true
    ORDER BY page.user_id, page.chain";

/// The same for every chain there is ($1 is not used), by the heads.
const LOOK_AT_ALL: &str = "
    WITH snapshot AS MATERIALIZED (
        SELECT greatest(pg_snapshot_xmin(taken)::text::bigint, $1) AS xmin FROM pg_current_snapshot() AS taken),
    page AS MATERIALIZED (
        SELECT * FROM (
            (SELECT user_id, asset AS chain FROM accounts
             WHERE version > 0 AND (user_id, asset) > ($2, $3) ORDER BY user_id, asset LIMIT $4)
            UNION ALL
            (SELECT user_id, chain FROM chain_heads
             WHERE seq > 0 AND (user_id, chain) > ($2, $3) ORDER BY user_id, chain LIMIT $4)) AS chains
        ORDER BY user_id, chain LIMIT $4)
    SELECT snapshot.xmin AS position, page.user_id, page.chain, newest.seq, newest.hash,
           l.leaf, held.seq AS leaf_seq
    FROM snapshot
    LEFT JOIN page ON true
    LEFT JOIN LATERAL (
        SELECT a.seq, a.hash FROM audit AS a WHERE a.user_id = page.user_id AND a.chain = page.chain
        ORDER BY a.seq DESC LIMIT 1) AS newest ON true
    LEFT JOIN chain_leaves AS l ON l.user_id = page.user_id AND l.chain = page.chain
    LEFT JOIN LATERAL (
        SELECT c.seq FROM leaf_changes AS c WHERE c.leaf = l.leaf ORDER BY c.checkpoint DESC LIMIT 1) AS held
        ON true
    ORDER BY page.user_id, page.chain";

async fn newest(connection: &mut PgConnection) -> Result<Option<Checkpoint>, sqlx::Error> {
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

fn found(row: &PgRow) -> Result<Option<Found>, sqlx::Error> {
    let Some(user_id) = row.optional_id("user_id")? else {
        return Ok(None);
    };
    let seq: Option<i64> = row.try_get("seq")?;
    let leaf: Option<i64> = row.try_get("leaf")?;
    Ok(Some(Found {
        user_id,
        chain: row.text("chain")?,
        head: seq
            .zip(row.optional_hash("hash")?)
            .map(|(seq, hash)| Head { seq, hash }),
        leaf: leaf.zip(row.try_get("leaf_seq")?),
    }))
}

fn checkpoint(row: &PgRow) -> Result<Checkpoint, sqlx::Error> {
    let signature: Option<Vec<u8>> = row.try_get("signature")?;
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

fn stored_tile(row: &PgRow) -> Result<StoredTile, sqlx::Error> {
    let level: i32 = row.try_get("level")?;
    let bytes: Vec<u8> = row.try_get("hashes")?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(undecodable("hashes", "not a number of hashes"));
    }
    let level = u32::try_from(level).map_err(|error| undecodable("level", error))?;
    let tile = u64::try_from(row.integer("tile")?).map_err(|error| undecodable("tile", error))?;
    let hashes: Vec<Hash> = hashes.to_vec();
    Ok(((level, tile), hashes))
}
