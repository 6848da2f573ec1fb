//! The rows that changes outside the ledger leave, so that every relational adapter writes the same.

use std::sync::Arc;

use super::{Draft, PLATFORM, Private, PrivateField, USER_CHAIN};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::canonical::canonical_json;
use crate::ids::{KeyId, UserId};
use crate::ledger::Asset;
use crate::money::Amount;
use crate::users::{KycChange, KycStatus, UserStatus};

/// The chain of what operators do.
pub const SYSTEM_CHAIN: &str = "system";

/// How the names of chains of share prices begin.
pub const ASSET_CHAINS: &str = "asset:";

/// The chain of an asset's share price.
#[must_use]
pub fn asset_chain(asset: &Asset) -> String {
    format!("{ASSET_CHAINS}{asset}")
}

/// A user became active, suspended or closed.
#[must_use]
pub fn status_change(
    ctx: &Context,
    user: UserId,
    from: UserStatus,
    to: UserStatus,
    at: Timestamp,
) -> Draft {
    Draft {
        previous_status: Some(from.to_string().into()),
        new_status: Some(to.to_string().into()),
        ..empty(ctx, user, USER_CHAIN.to_owned(), "status", at)
    }
}

/// A user's KYC was set. Reason and data are personal: the row only commits to them.
#[must_use]
pub fn kyc_change(
    ctx: &Context,
    user: UserId,
    from: KycStatus,
    change: &KycChange,
    at: Timestamp,
) -> Draft {
    let [reason_salt, data_salt] = change.salts;
    let reason = change.reason.as_ref().map(|reason| Private {
        field: PrivateField::Reason,
        salt: reason_salt,
        value: reason.clone(),
    });
    let data = change.data.as_ref().map(|data| Private {
        field: PrivateField::Data,
        salt: data_salt,
        value: canonical_json(data),
    });
    Draft {
        previous_status: Some(from.to_string().into()),
        new_status: Some(change.status.to_string().into()),
        private: reason.into_iter().chain(data).collect(),
        ..empty(ctx, user, USER_CHAIN.to_owned(), "kyc", at)
    }
}

/// The action of the row that says that private content was erased.
pub(super) const ERASE: &str = "erase";

/// What is personal in a user's trail was erased.
#[must_use]
pub fn erased(ctx: &Context, user: UserId, at: Timestamp) -> Draft {
    empty(ctx, user, USER_CHAIN.to_owned(), ERASE, at)
}

/// An asset was made or got another share price, which is the row's amount.
#[must_use]
pub fn share_price(ctx: &Context, asset: &Asset, to: Amount, at: Timestamp) -> Draft {
    Draft {
        amount: Some(to),
        ..empty(ctx, PLATFORM, asset_chain(asset), "share_price", at)
    }
}

/// A service key was made.
#[must_use]
pub fn key_created(ctx: &Context, key: KeyId, at: Timestamp) -> Draft {
    Draft {
        new_status: Some(format!("active:{key}").into()),
        ..empty(ctx, PLATFORM, SYSTEM_CHAIN.to_owned(), "key_create", at)
    }
}

/// A service key was revoked.
#[must_use]
pub fn key_revoked(ctx: &Context, key: KeyId, at: Timestamp) -> Draft {
    Draft {
        previous_status: Some(format!("active:{key}").into()),
        new_status: Some(format!("revoked:{key}").into()),
        ..empty(ctx, PLATFORM, SYSTEM_CHAIN.to_owned(), "key_revoke", at)
    }
}

fn empty(
    ctx: &Context,
    user_id: UserId,
    chain: String,
    action: &'static str,
    at: Timestamp,
) -> Draft {
    Draft {
        user_id,
        chain,
        transaction_id: None,
        action,
        previous_status: None,
        new_status: None,
        amount: None,
        shares: None,
        after: None,
        actor: ctx.actor.clone(),
        request_id: Arc::clone(&ctx.request_id),
        trace_id: ctx.trace_id.clone(),
        at,
        private: Vec::new(),
    }
}
