//! Assets and their share prices.

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::Result;
use crate::audit::drafts;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::Expected;
use crate::ledger::{Asset, AssetInfo, Error};
use crate::money::Amount;
use crate::stores::postgres::audit;
use crate::stores::postgres::columns::{Columns, at};
use crate::stores::postgres::error::Abort;

pub(super) async fn find(conn: &mut PgConnection, asset: &Asset) -> Result<Option<AssetInfo>> {
    let row = sqlx::query("SELECT * FROM assets WHERE asset = $1")
        .bind(asset.as_str())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(info).transpose()
}

/// Creates or changes; a price that is there already changes nothing.
pub(super) async fn put(
    conn: &mut PgConnection,
    ctx: &Context,
    asset: &Asset,
    share_price: Amount,
    expected: Expected,
    now: Timestamp,
) -> Result<(AssetInfo, bool), Abort<Error>> {
    let created = match expected {
        Expected::Version(_) => None,
        Expected::Anything | Expected::Absent => sqlx::query(
            "INSERT INTO assets (asset, share_price, created_at, updated_at) VALUES ($1, $2, $3, $3)
             ON CONFLICT DO NOTHING RETURNING *",
        )
        .bind(asset.as_str())
        .bind(share_price.micros())
        .bind(at(now))
        .fetch_optional(&mut *conn)
        .await?,
    };
    if let Some(row) = created {
        audit::append(conn, drafts::share_price(ctx, asset, share_price, now)).await?;
        return Ok((info(&row)?, true));
    }
    let row = sqlx::query("SELECT * FROM assets WHERE asset = $1 FOR UPDATE")
        .bind(asset.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let current = row.as_ref().map(info).transpose()?;
    let version = current.as_ref().map(|info| info.version);
    let holds = match expected {
        Expected::Anything => true,
        Expected::Absent => false,
        Expected::Version(wanted) => version == Some(wanted),
    };
    let Some(current) = current.filter(|_| holds) else {
        return Err(Abort::Refused(Error::VersionMismatch { current: version }));
    };
    if current.share_price == share_price {
        return Ok((current, false));
    }
    let row = sqlx::query(
        "UPDATE assets SET share_price = $2, version = version + 1, updated_at = $3 WHERE asset = $1 RETURNING *",
    )
    .bind(asset.as_str())
    .bind(share_price.micros())
    .bind(at(now))
    .fetch_one(&mut *conn)
    .await?;
    audit::append(conn, drafts::share_price(ctx, asset, share_price, now)).await?;
    Ok((info(&row)?, false))
}

fn info(row: &PgRow) -> Result<AssetInfo> {
    Ok(AssetInfo {
        asset: row.parsed("asset", Asset::parse)?,
        share_price: row.amount("share_price")?,
        version: row.integer("version")?,
        created_at: row.timestamp("created_at")?,
        updated_at: row.timestamp("updated_at")?,
    })
}
