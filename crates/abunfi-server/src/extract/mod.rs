//! What handlers read of a request. All of it is read when a handler asks, never before: so that who
//! asks is settled before what is asked is looked at.

mod auth;
mod body;
mod idempotency;
mod pagination;
mod path;
mod precondition;
mod query;

pub(crate) use auth::{BySession, Caller, insufficient};
pub(crate) use body::RequestBody;
pub(crate) use idempotency::IdempotencyKey;
pub(crate) use pagination::Pagination;
pub(crate) use path::PathParams;
pub(crate) use precondition::{ETag, Preconditions};
pub(crate) use query::{QueryReader, QueryString};
