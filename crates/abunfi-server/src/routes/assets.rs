//! Assets and their share price.

use abunfi::json_reader::Reader;
use abunfi::keys::Scope;
use abunfi::money::Amount;
use abunfi::validation::{FaultCode, Faults, Invalid};
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{located, versioned, written};
use super::fields::present;
use crate::error::{Problem, Result};
use crate::extract::{Caller, PathParams, Preconditions, QueryString, RequestBody};
use crate::openapi::{params, schemas};
use crate::state::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_asset, put_asset))
}

/// An asset
#[utoipa::path(get, path = "/api/v1/assets/{asset}", tag = "assets",
    params(params::AssetPath, params::ReadConditions),
    responses(
        (status = 200, description = "The asset", body = schemas::AssetInfo, headers(("ETag" = String))),
        (status = 304, description = "The client has it already"),
    ))]
async fn get_asset(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
) -> Result {
    caller.require_any(&[Scope::Read, Scope::Operate])?;
    let asset = path.asset()?;
    query.expect_none()?;
    let found = app.platform().ledger().asset(&asset).await?;
    let info = found.ok_or_else(Problem::not_found)?;
    versioned(&preconditions, info.version, &info)
}

/// Create an asset, or set its share price
///
/// Audited. The name is 1–12 of `A-Z0-9`; the price is above zero.
#[utoipa::path(put, path = "/api/v1/assets/{asset}", tag = "assets",
    params(params::AssetPath, params::WriteConditions),
    request_body = schemas::AssetPrice,
    responses(
        (status = 200, description = "The price is set", body = schemas::AssetInfo, headers(("ETag" = String))),
        (status = 201, description = "The asset is made", body = schemas::AssetInfo,
            headers(("Location" = String), ("ETag" = String))),
    ))]
async fn put_asset(
    State(app): State<App>,
    caller: Caller,
    path: PathParams,
    query: QueryString,
    preconditions: Preconditions,
    body: RequestBody,
) -> Result {
    caller.require(Scope::Operate)?;
    let asset = path.asset()?;
    query.expect_none()?;
    let expected = preconditions.expected()?;
    let share_price = read_price(body.json().await?)?;
    let (info, is_new) = app
        .platform()
        .ledger()
        .put_asset(&caller.context(), &asset, share_price, expected)
        .await?;
    if is_new {
        let address = format!("/api/v1/assets/{asset}");
        located(written(StatusCode::CREATED, info.version, &info)?, &address)
    } else {
        written(StatusCode::OK, info.version, &info)
    }
}

fn read_price(body: Value) -> std::result::Result<Amount, Faults> {
    let mut reader = Reader::new(body, "");
    let price = reader.required("share_price", |text| {
        let price = Amount::parse(text).map_err(Invalid::from)?;
        if price.is_zero() {
            return Err((FaultCode::OutOfRange, "must be above zero".to_owned()));
        }
        Ok(price)
    });
    reader.finish()?;
    present(price)
}
