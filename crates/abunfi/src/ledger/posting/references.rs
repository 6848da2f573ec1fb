//! What a set of commands refers to.

use std::collections::BTreeSet;

use super::super::{Action, Command, Idempotency};
use super::{AccountKey, AnswerKey};
use crate::ids::{TransactionId, UserId};

/// What a set of commands refers to: what a store must load into [`Books`](super::Books) before deciding.
#[derive(Debug, Clone, Default)]
pub struct References {
    /// Of postings; settling learns its account from the transaction.
    pub accounts: BTreeSet<AccountKey>,
    pub transactions: BTreeSet<(UserId, TransactionId)>,
    pub answers: BTreeSet<AnswerKey>,
    pub client_references: BTreeSet<(UserId, String)>,
    /// Hashes, whatever the type: a settlement's type is known only once its transaction is loaded.
    pub tx_hashes: BTreeSet<(UserId, String)>,
}

impl References {
    #[must_use]
    pub fn of(commands: &[Command]) -> Self {
        Self::gather(commands, |_| true)
    }

    /// The same without the answers to [new](Idempotency::is_new) requests, for a store that notices when it
    /// writes an answer that is there already.
    #[must_use]
    pub fn trusting(commands: &[Command]) -> Self {
        Self::gather(commands, |idempotency| !idempotency.is_new)
    }

    fn gather(commands: &[Command], is_looked_for: impl Fn(&Idempotency) -> bool) -> Self {
        let mut refs = Self::default();
        for command in commands {
            let user = command.user_id;
            if let Some(idempotency) = command
                .idempotency
                .as_ref()
                .filter(|key| is_looked_for(key))
            {
                refs.answers.insert(AnswerKey::of(user, idempotency));
            }
            let tx_hash = match &command.action {
                Action::Post(transaction) => {
                    refs.accounts.insert((user, transaction.asset));
                    if let Some(reference) = &transaction.client_reference {
                        refs.client_references.insert((user, reference.clone()));
                    }
                    &transaction.tx_hash
                }
                Action::Settle {
                    transaction_id,
                    details,
                    ..
                } => {
                    refs.transactions.insert((user, *transaction_id));
                    &details.tx_hash
                }
                Action::Submit {
                    transaction_id,
                    tx_hash,
                } => {
                    refs.transactions.insert((user, *transaction_id));
                    tx_hash
                }
            };
            if let Some(hash) = tx_hash {
                refs.tx_hashes.insert((user, hash.clone()));
            }
        }
        refs
    }
}
