//! A user who exists only inside a transaction that is rolled back.

use std::sync::Arc;

use serde_json::json;

use super::runner::{Because, Found};
use crate::DatabaseService;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::{NewDocument, preferences};
use crate::error::Error;
use crate::ids::{TransactionId, UserId, random_bytes};
use crate::ledger::{
    self, Action, Command, Details, PostRequest, Posted, Refusal, Settlement, TransactionStatus,
    TransactionType,
};
use crate::money::Amount;
use crate::transaction;
use crate::users::{Email, FirstDocuments, Name, NewUser, ReferralCode};

/// What a transaction's body ends with when all went well: its reason to roll back.
#[derive(Debug, thiserror::Error)]
#[error("rolled back on purpose")]
struct Undone;

pub(super) fn undo<T>() -> Result<T, Error> {
    Err(Error::Other(Box::new(Undone)))
}

/// Fails the body, and with it the check, unless `holds`.
pub(super) fn ensure_inside(holds: bool, reason: impl Into<String>) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Other(reason.into().into()))
    }
}

/// Runs a body that ends with [`undo`]: whatever else it ends with is a failure.
pub(super) async fn rolled_back(
    platform: &DatabaseService,
    body: impl transaction::Body<()>,
) -> Found {
    match platform.execute_transaction(body).await {
        Err(Error::Other(reason)) if reason.is::<Undone>() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => Err(Because::Failed("the transaction committed".to_owned())),
    }
}

/// Sixteen random hex digits, for names that meet no other's.
pub(super) fn random_name() -> String {
    format!("selftest-{}", hex::encode(random_bytes::<8>()))
}

/// A user about to be made, and what may be done with its money.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) ctx: Context,
    pub(super) user: NewUser,
    pub(super) now: Timestamp,
    ledger: ledger::Service,
}

impl Sample {
    pub(super) fn new(platform: &DatabaseService) -> Result<Self, Because> {
        let now = platform.clock().now();
        let invalid = |_invalid| Because::Failed("the sample is not valid".to_owned());
        // `.invalid` belongs to nobody, by RFC 2606.
        let email = format!("{}@selftest.invalid", random_name());
        let documents = FirstDocuments {
            preferences: NewDocument::of(&preferences::defaults()),
            metadata: NewDocument::of(&json!({"selftest": true})),
        };
        Ok(Self {
            ctx: Context::system("selftest"),
            user: NewUser {
                id: UserId::new(now),
                email: Email::parse(&email).map_err(invalid)?,
                name: Name::parse("Self-test").map_err(invalid)?,
                wallet_address: None,
                phone: None,
                social: None,
                referral_codes: (0..8)
                    .map(|_| ReferralCode::from_random(random_bytes()))
                    .collect(),
                referred_by: None,
                default_asset: *platform.ledger().default_asset(),
                documents,
                at: now,
            },
            now,
            ledger: platform.ledger().clone(),
        })
    }

    pub(super) fn id(&self) -> UserId {
        self.user.id
    }

    /// A posting of `amount`, perhaps pending.
    pub(super) fn post(
        &self,
        kind: TransactionType,
        amount: Amount,
        status: TransactionStatus,
    ) -> Result<Command, Error> {
        let request = PostRequest {
            status,
            ..PostRequest::new(kind, amount)
        };
        Ok(self.ledger.prepare(&self.ctx, self.user.id, request)?)
    }

    pub(super) fn settle(&self, transaction_id: TransactionId, to: Settlement) -> Command {
        let action = Action::Settle {
            transaction_id,
            to,
            details: Box::new(Details::default()),
            only_unsubmitted: false,
            salt: random_bytes(),
        };
        Command {
            user_id: self.user.id,
            context: Arc::new(self.ctx.clone()),
            idempotency: None,
            at: self.now,
            action,
        }
    }
}

/// Decides `command` inside `tx`: the effect, or the refusal.
pub(super) async fn decide(
    tx: &mut dyn transaction::Transaction,
    command: &Command,
) -> Result<Result<Posted, Refusal>, Error> {
    Ok(tx.update_user_balance(command).await?.answer.result)
}

/// The same, for what must not be refused.
pub(super) async fn must_post(
    tx: &mut dyn transaction::Transaction,
    command: &Command,
) -> Result<Posted, Error> {
    decide(tx, command)
        .await?
        .map_err(|refusal| Error::Other(format!("was refused: {refusal}").into()))
}

/// So many whole units.
pub(super) fn units(count: i64) -> Amount {
    Amount::from_micros(count.saturating_mul(1_000_000)).unwrap_or(Amount::ZERO)
}
