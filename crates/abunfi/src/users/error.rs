//! What is refused about users, and how.

use crate::documents;
use crate::error::StoreError;
use crate::users::{IdentityKind, UserStatus};
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no such user")]
    NotFound,
    #[error("the request is not valid")]
    Invalid(Faults),
    /// Another user has this e-mail, wallet address, phone or social identity.
    #[error("the {0:?} belongs to another user")]
    IdentityTaken(IdentityKind),
    /// `referred_by` names no user.
    #[error("nobody has this referral code")]
    UnknownReferralCode,
    /// `If-Match` did not hold; the version that is there.
    #[error("the version is {current}")]
    VersionMismatch { current: i64 },
    #[error("a user who is {from} cannot become {to}")]
    InvalidTransition { from: UserStatus, to: UserStatus },
    /// Closing needs zero balances and nothing pending.
    #[error("the user still has a balance or something pending")]
    BalanceNotZero,
    #[error(transparent)]
    Documents(#[from] documents::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}
