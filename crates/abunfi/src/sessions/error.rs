use crate::error::StoreError;
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The token is unknown, expired or revoked; which of these is not said.
    #[error("the session is not valid")]
    NotValid,
    #[error("there is no such user")]
    UserNotFound,
    #[error("the user is not active")]
    UserNotActive,
    #[error("there is no such session")]
    NotFound,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}
