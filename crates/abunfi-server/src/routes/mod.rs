//! The routes, one file per domain. Each handler says who may, reads what is asked, and calls the library.

mod answer;
mod assets;
mod cache;
mod dashboard;
mod dev_data;
mod docs;
mod documents;
mod fields;
mod health;
mod ledger;
mod logs;
mod rate_limits;
mod sessions;
mod stats;
mod temp;
mod transactions;
mod users;

use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::error::{Code, Problem};
use crate::state::App;

/// All routes, with their description.
pub(crate) fn all() -> (axum::Router<App>, OpenApi) {
    let (router, openapi) = OpenApiRouter::new()
        .merge(health::routes())
        .merge(users::routes())
        .merge(ledger::routes())
        .merge(transactions::routes())
        .merge(assets::routes())
        .merge(documents::routes())
        .merge(dev_data::routes())
        .merge(logs::routes())
        .merge(dashboard::routes())
        .merge(sessions::routes())
        .merge(rate_limits::routes())
        .merge(temp::routes())
        .merge(cache::routes())
        .merge(stats::routes())
        .split_for_parts();
    (router.merge(docs::routes()), openapi)
}

pub(crate) async fn not_found() -> Problem {
    Problem::not_found()
}

/// `Allow` is added by the router.
pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "the methods of this route are in the header Allow",
    )
}
