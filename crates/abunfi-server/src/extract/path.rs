//! The parts of a path. What is malformed names nothing: 404.

use std::str::FromStr;

use abunfi::ids::{SessionId, TransactionId, UserId};
use abunfi::ledger::Asset;
use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::error::{Problem, Result};

/// The parameters of the route, percent-decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathParams(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for PathParams {
    type Rejection = std::convert::Infallible;

    /// What is not UTF-8 leaves no parameters, and so names nothing.
    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        Ok(Self(params.map_or_else(
            |_not_utf8| Vec::new(),
            |params| {
                params
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect()
            },
        )))
    }
}

impl PathParams {
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(Problem::not_found)
    }

    fn id<T: FromStr>(&self, name: &str) -> Result<T> {
        self.get(name)?.parse().or(Err(Problem::not_found()))
    }

    pub(crate) fn user_id(&self) -> Result<UserId> {
        self.id("id")
    }

    pub(crate) fn transaction_id(&self) -> Result<TransactionId> {
        self.id("tx")
    }

    pub(crate) fn session_id(&self) -> Result<SessionId> {
        self.id("sid")
    }

    pub(crate) fn asset(&self) -> Result<Asset> {
        Asset::parse(self.get("asset")?).ok_or_else(Problem::not_found)
    }
}
