//! Assets and their share prices.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::Result;
use crate::audit::drafts;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::{Expected, versions};
use crate::ledger::{Asset, AssetInfo, Error};
use crate::money::Amount;
use crate::stores::sqlite::audit;
use crate::stores::sqlite::columns::Columns;
use crate::stores::sqlite::error::Abort;

pub(super) async fn find(conn: &mut SqliteConnection, asset: &Asset) -> Result<Option<AssetInfo>> {
    let row = sqlx::query("SELECT * FROM assets WHERE asset = ?1")
        .bind(asset.as_str())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(info).transpose()
}

/// Creates or changes; a price that is there already changes nothing.
pub(super) async fn put(
    conn: &mut SqliteConnection,
    ctx: &Context,
    asset: &Asset,
    share_price: Amount,
    expected: Expected,
    now: Timestamp,
) -> Result<(AssetInfo, bool), Abort<Error>> {
    let current = find(conn, asset).await?;
    let version = current.as_ref().map(|info| info.version);
    if !versions::holds(expected, version) {
        return Err(Abort::Refused(Error::VersionMismatch { current: version }));
    }
    if let Some(current) = &current
        && current.share_price == share_price
    {
        return Ok((current.clone(), false));
    }
    let row = sqlx::query(
        "INSERT INTO assets (asset, share_price, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (asset) DO UPDATE SET
             share_price = excluded.share_price, version = version + 1, updated_at = excluded.updated_at
         RETURNING *",
    )
    .bind(asset.as_str())
    .bind(share_price.micros())
    .bind(now.micros())
    .fetch_one(&mut *conn)
    .await?;
    audit::append(conn, drafts::share_price(ctx, asset, share_price, now)).await?;
    Ok((info(&row)?, current.is_none()))
}

fn info(row: &SqliteRow) -> Result<AssetInfo> {
    Ok(AssetInfo {
        asset: row.parsed("asset", Asset::parse)?,
        share_price: row.amount("share_price")?,
        version: row.integer("version")?,
        created_at: row.timestamp("created_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}
