//! What surrounds every request.
//!
//! From the outside in: CORS (if configured), [`request`] (ids, admission, time limit, panics, problems,
//! security headers, metrics, the log line), compression, the handler.

mod drain;
pub(crate) mod rate_limit;
mod request;
mod request_id;

pub(crate) use request::{Progress, surround};
pub(crate) use request_id::{RequestId, TraceParent};
