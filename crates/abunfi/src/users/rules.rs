//! What a change makes of a user, pure, so that every relational adapter decides alike.

use super::{Error, IdentityKind, KycChange, NewUser, UserChange, UserRecord, UserStatus};
use crate::clock::Timestamp;

/// What a change makes of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The user afterwards, with its new version.
    pub user: UserRecord,
    /// The identities that change: the kind, and the new comparison key or `None` when it goes.
    pub identities: Vec<(IdentityKind, Option<String>)>,
    /// The status before, when that changes.
    pub status_before: Option<UserStatus>,
}

/// Applies `change` to the locked `user`. `None`: it changes nothing, and the version stays.
///
/// Whether a user who is to be closed has nothing left is for the store to say, from the locked accounts.
///
/// # Errors
/// [`Error::VersionMismatch`], [`Error::InvalidTransition`].
pub fn change(
    user: &UserRecord,
    change: &UserChange,
    if_match: Option<i64>,
    at: Timestamp,
) -> Result<Option<Changed>, Error> {
    check_version(user, if_match)?;
    let to = change.status.unwrap_or(user.status);
    if user.status == UserStatus::Closed && to != UserStatus::Closed {
        return Err(Error::InvalidTransition {
            from: user.status,
            to,
        });
    }
    let mut after = user.clone();
    after.status = to;
    if let Some(name) = &change.name {
        after.name = name.clone();
    }
    if let Some(email) = &change.email {
        after.email = email.clone();
    }
    if let Some(address) = &change.wallet_address {
        after.wallet_address = *address;
    }
    if let Some(phone) = &change.phone {
        after.phone.clone_from(phone);
    }
    if let Some(social) = &change.social {
        after.social.clone_from(social);
    }
    if after == *user {
        return Ok(None);
    }
    count_up(&mut after, at);
    let identities = IdentityKind::ALL
        .into_iter()
        .map(|kind| (kind, identity(user, kind), identity(&after, kind)))
        .filter(|(_kind, before, after)| before != after)
        .map(|(kind, _before, after)| (kind, after))
        .collect();
    Ok(Some(Changed {
        status_before: (user.status != to).then_some(user.status),
        user: after,
        identities,
    }))
}

/// The locked `user` with its KYC set.
///
/// # Errors
/// [`Error::VersionMismatch`].
pub fn set_kyc(
    user: &UserRecord,
    change: &KycChange,
    if_match: Option<i64>,
    at: Timestamp,
) -> Result<UserRecord, Error> {
    check_version(user, if_match)?;
    let mut after = user.clone();
    after.kyc.status = change.status;
    if let Some(data) = &change.data {
        after.kyc.data = data.clone();
    }
    count_up(&mut after, at);
    Ok(after)
}

/// The identities that a new user brings, with their comparison keys; the referral code is chosen apart.
#[must_use]
pub fn identities_of(user: &NewUser) -> Vec<(IdentityKind, String)> {
    let wallet_address = user.wallet_address.as_ref().map(|address| address.key());
    let phone = user.phone.as_ref().map(|phone| phone.as_str().to_owned());
    let social = user.social.as_ref().map(|social| social.key());
    [
        (IdentityKind::Email, Some(user.email.key())),
        (IdentityKind::WalletAddress, wallet_address),
        (IdentityKind::Phone, phone),
        (IdentityKind::Social, social),
    ]
    .into_iter()
    .filter_map(|(kind, key)| key.map(|key| (kind, key)))
    .collect()
}

fn identity(user: &UserRecord, kind: IdentityKind) -> Option<String> {
    match kind {
        IdentityKind::Email => Some(user.email.key()),
        IdentityKind::WalletAddress => user.wallet_address.as_ref().map(|address| address.key()),
        IdentityKind::Phone => user.phone.as_ref().map(|phone| phone.as_str().to_owned()),
        IdentityKind::Social => user.social.as_ref().map(|social| social.key()),
        IdentityKind::ReferralCode => Some(user.referral.code.key()),
    }
}

fn check_version(user: &UserRecord, if_match: Option<i64>) -> Result<(), Error> {
    match if_match {
        Some(version) if version != user.version => Err(Error::VersionMismatch {
            current: user.version,
        }),
        _ => Ok(()),
    }
}

fn count_up(user: &mut UserRecord, at: Timestamp) {
    user.version = user.version.saturating_add(1);
    user.updated_at = user.updated_at.max(at);
}
