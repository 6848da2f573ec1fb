//! What is refused about documents, and how.

use crate::error::StoreError;
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such user, namespace entry, …
    #[error("there is no such document")]
    NotFound,
    #[error("the document is not valid")]
    Invalid(Faults),
    /// `If-Match` or `If-None-Match` did not hold; the version that is there, if any.
    #[error("the version is {current:?}")]
    VersionMismatch { current: Option<i64> },
    #[error(transparent)]
    Store(#[from] StoreError),
}
