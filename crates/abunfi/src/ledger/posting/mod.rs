//! The rules of the ledger, pure: from the locked rows and the commands to every row that changes.
//!
//! A store loads into [`Books`] what its commands refer to, under lock; [`Books::decide`] decides them in
//! order, each by itself; the store writes [`Books::effects`] in one transaction. Nothing here reads a
//! clock, a store or a random number, so the same rows and commands always give the same effects.
//!
//! Invariant: a command that is refused changes nothing in the books but its own idempotency row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Action, Asset, Command, Details, Error, LedgerAccount, Outcome, Posted, Refusal, Settlement,
    Stage, StoredAnswer, Transaction, TransactionStatus, TransactionType,
};
use crate::audit::{self, Draft, Private, PrivateField};
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreKind};
use crate::ids::{TransactionId, UserId};
use crate::users::UserStatus;

mod account;
mod answers;
mod references;
#[cfg(test)]
mod tests;

pub use account::{Account, AccountKey, Totals};
pub use answers::{Answer, AnswerKey, Kept, rebuild};
pub use references::References;

/// One leg of a confirmed transaction. The two legs sum to zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    pub user_id: UserId,
    pub transaction_id: TransactionId,
    pub account: LedgerAccount,
    pub asset: Asset,
    /// Signed micro-units.
    pub amount: i64,
    pub at: Timestamp,
}

/// All that changes. Entries and audit rows are in the order in which they were decided, accounts and keys in key
/// order.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    pub accounts: BTreeSet<AccountKey>,
    pub inserted: BTreeSet<(UserId, TransactionId)>,
    pub updated: BTreeSet<(UserId, TransactionId)>,
    pub entries: Vec<LedgerEntry>,
    pub audit: Vec<audit::Entry>,
    /// Personal content, by the index of its row in `audit`.
    pub private: Vec<(usize, Private)>,
    pub answers: BTreeSet<AnswerKey>,
}

impl Effects {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.audit.is_empty() && self.answers.is_empty()
    }
}

/// The rows that some commands refer to, and what became of them.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Locked.
    pub accounts: BTreeMap<AccountKey, Account>,
    /// Users with an account that another unit has locked: nothing is decided about them.
    pub held: BTreeSet<UserId>,
    /// Accounts that are not there and could not be made: no such user, or no such asset.
    pub absent: BTreeMap<AccountKey, Refusal>,
    /// The transactions that commands settle or submit.
    pub transactions: BTreeMap<(UserId, TransactionId), Transaction>,
    pub answers: BTreeMap<AnswerKey, Answer>,
    /// Client references in use, of those that commands bring.
    pub client_references: BTreeSet<(UserId, String)>,
    /// Transaction hashes in use, of those that commands bring.
    pub tx_hashes: BTreeSet<(UserId, TransactionType, String)>,
    pub effects: Effects,
}

impl Books {
    /// Decides one command from the books as they are now, and enters what follows.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`]; [`StoreError::Conflict`] for a user whose account is
    /// [held](Self::held). A refusal is an answer, not an error.
    pub fn decide(&mut self, command: &Command) -> Result<Outcome, Error> {
        let key = command
            .idempotency
            .as_ref()
            .map(|idempotency| AnswerKey::of(command.user_id, idempotency));
        if let (Some(key), Some(idempotency)) = (&key, &command.idempotency)
            && let Some(known) = self.answers.get(key)
        {
            if known.fingerprint != idempotency.fingerprint {
                return Err(Error::IdempotencyKeyReused);
            }
            return Ok(Outcome {
                answer: known.answer.clone(),
                replayed: true,
            });
        }
        if self.held.contains(&command.user_id) {
            let store = StoreKind::Relational;
            return Err(StoreError::Conflict { store }.into());
        }
        let result = match &command.action {
            Action::Post(transaction) => self.post(command, transaction),
            Action::Settle {
                transaction_id,
                to,
                details,
                only_unsubmitted,
                salt,
            } => self.settle(
                command,
                *transaction_id,
                *to,
                details,
                *only_unsubmitted,
                salt,
            ),
            Action::Submit {
                transaction_id,
                tx_hash,
            } => self.submit(command, *transaction_id, tx_hash.as_deref()),
        };
        let answer = StoredAnswer {
            request_id: Arc::clone(&command.context.request_id),
            result,
        };
        if let (Some(key), Some(idempotency)) = (key, &command.idempotency)
            && answer.result.as_ref().err().is_none_or(Refusal::is_final)
        {
            let row = Answer {
                fingerprint: idempotency.fingerprint,
                answer: answer.clone(),
                at: command.at,
            };
            self.answers.insert(key.clone(), row);
            self.effects.answers.insert(key);
        }
        Ok(Outcome {
            answer,
            replayed: false,
        })
    }

    /// Decides all commands or none: the results, or the index of the first refusal with the books as they
    /// were.
    ///
    /// # Errors
    /// The index and refusal of the first command that broke a rule.
    pub fn decide_all(&mut self, commands: &[Command]) -> Result<Vec<Posted>, (usize, Refusal)> {
        let before = self.clone();
        let mut posted = Vec::with_capacity(commands.len());
        for (index, command) in commands.iter().enumerate() {
            let result = match &command.action {
                Action::Post(transaction) => self.post(command, transaction),
                Action::Settle {
                    transaction_id,
                    to,
                    details,
                    only_unsubmitted,
                    salt,
                } => self.settle(
                    command,
                    *transaction_id,
                    *to,
                    details,
                    *only_unsubmitted,
                    salt,
                ),
                Action::Submit {
                    transaction_id,
                    tx_hash,
                } => self.submit(command, *transaction_id, tx_hash.as_deref()),
            };
            match result {
                Ok(result) => posted.push(result),
                Err(refusal) => {
                    *self = before;
                    return Err((index, refusal));
                }
            }
        }
        Ok(posted)
    }

    fn account(&self, key: &AccountKey) -> Result<Account, Refusal> {
        self.accounts.get(key).cloned().ok_or_else(|| {
            self.absent
                .get(key)
                .cloned()
                .unwrap_or(Refusal::UserNotFound)
        })
    }

    fn post(&mut self, command: &Command, request: &Transaction) -> Result<Posted, Refusal> {
        let mut account = self.account(&(command.user_id, request.asset))?;
        if account.owner_status != UserStatus::Active {
            return Err(Refusal::UserNotActive {
                status: account.owner_status.to_string(),
            });
        }
        if request.expires_at.is_some_and(|end| end <= command.at) {
            return Err(Refusal::Expired);
        }
        self.check_unused(request)?;
        let at = command.at.max(account.head_at);
        let mut transaction = request.clone();
        // Not `at`, which another posting may have put off: lists are in the order of ids.
        transaction.created_at = transaction.id.made_at();
        let confirmed = transaction.status == TransactionStatus::Confirmed;
        match (transaction.kind, confirmed) {
            (TransactionType::Withdraw, true) => account.withdraw(&transaction)?,
            (TransactionType::Withdraw, false) => account.hold(&transaction)?,
            (_, true) => account.credit(&transaction, at)?,
            (_, false) => {}
        }
        if confirmed {
            transaction.confirmed_at = Some(at);
        } else {
            account.pending = account
                .pending
                .checked_add(1)
                .ok_or(Refusal::AmountOverflow)?;
        }
        self.effects
            .inserted
            .insert((command.user_id, transaction.id));
        let transaction_kind = transaction.kind;
        Ok(self.enter(
            command,
            account,
            transaction,
            Change {
                action: posting_action(transaction_kind),
                from: None,
                at,
                reason: None,
            },
        ))
    }

    fn settle(
        &mut self,
        command: &Command,
        id: TransactionId,
        to: Settlement,
        details: &Details,
        only_unsubmitted: bool,
        salt: &[u8; 32],
    ) -> Result<Posted, Refusal> {
        let (mut account, mut transaction) = self.pending(command.user_id, id, stage_of(to))?;
        let submitted = transaction.submitted_at.is_some();
        if only_unsubmitted && submitted {
            return Err(Refusal::InvalidTransition {
                from: Stage::Submitted,
                to: stage_of(to),
            });
        }
        self.set_tx_hash(&mut transaction, details.tx_hash.as_deref())?;
        let at = command.at.max(account.head_at);
        match (transaction.kind, to) {
            (TransactionType::Withdraw, Settlement::Confirm) => account.pay_out(&transaction)?,
            (TransactionType::Withdraw, Settlement::Fail | Settlement::Cancel) => {
                account.release(&transaction)?
            }
            (_, Settlement::Confirm) => account.credit(&transaction, at)?,
            (_, Settlement::Fail | Settlement::Cancel) => {}
        }
        account.pending = account.pending.saturating_sub(1).max(0);
        transaction.status = to.status();
        transaction.confirmed_at = (to == Settlement::Confirm).then_some(at);
        add_details(&mut transaction, details);
        self.effects.updated.insert((command.user_id, id));
        let from = Some(TransactionStatus::Pending);
        let change = Change {
            action: to.verb(),
            from,
            at,
            reason: details.reason.as_deref().map(|reason| (reason, salt)),
        };
        Ok(self.enter(command, account, transaction, change))
    }

    fn submit(
        &mut self,
        command: &Command,
        id: TransactionId,
        tx_hash: Option<&str>,
    ) -> Result<Posted, Refusal> {
        let (account, mut transaction) = self.pending(command.user_id, id, Stage::Submitted)?;
        if transaction.kind != TransactionType::Withdraw || transaction.submitted_at.is_some() {
            let from = Stage::of(transaction.status, transaction.submitted_at.is_some());
            return Err(Refusal::InvalidTransition {
                from,
                to: Stage::Submitted,
            });
        }
        self.set_tx_hash(&mut transaction, tx_hash)?;
        let at = command.at.max(account.head_at);
        transaction.submitted_at = Some(at);
        self.effects.updated.insert((command.user_id, id));
        let from = Some(TransactionStatus::Pending);
        Ok(self.enter(
            command,
            account,
            transaction,
            Change {
                action: "submit",
                from,
                at,
                reason: None,
            },
        ))
    }

    /// The transaction, which must be pending, and its account. Settling works whatever the owner's status.
    fn pending(
        &self,
        user: UserId,
        id: TransactionId,
        to: Stage,
    ) -> Result<(Account, Transaction), Refusal> {
        let transaction = self
            .transactions
            .get(&(user, id))
            .ok_or(Refusal::TransactionNotFound)?;
        if transaction.status != TransactionStatus::Pending {
            return Err(Refusal::InvalidTransition {
                from: Stage::of(transaction.status, false),
                to,
            });
        }
        let account = self.account(&(user, transaction.asset))?;
        Ok((account, transaction.clone()))
    }

    fn check_unused(&self, transaction: &Transaction) -> Result<(), Refusal> {
        if let Some(reference) = &transaction.client_reference
            && self
                .client_references
                .contains(&(transaction.user_id, reference.clone()))
        {
            return Err(Refusal::ClientReferenceTaken);
        }
        match &transaction.tx_hash {
            Some(hash)
                if self.tx_hashes.contains(&(
                    transaction.user_id,
                    transaction.kind,
                    hash.clone(),
                )) =>
            {
                Err(Refusal::TxHashTaken)
            }
            _ => Ok(()),
        }
    }

    fn set_tx_hash(
        &self,
        transaction: &mut Transaction,
        tx_hash: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(hash) = tx_hash.filter(|hash| transaction.tx_hash.as_deref() != Some(hash)) else {
            return Ok(());
        };
        if self
            .tx_hashes
            .contains(&(transaction.user_id, transaction.kind, hash.to_owned()))
        {
            return Err(Refusal::TxHashTaken);
        }
        transaction.tx_hash = Some(hash.to_owned());
        Ok(())
    }

    /// Enters a change that broke no rule: entries, audit row, account and transaction. Cannot fail, so
    /// that a command is entered as a whole or not at all.
    fn enter(
        &mut self,
        command: &Command,
        mut account: Account,
        transaction: Transaction,
        change: Change<'_>,
    ) -> Posted {
        if transaction.status == TransactionStatus::Confirmed {
            self.effects.entries.extend(legs(&transaction, change.at));
        }
        let draft = Draft {
            user_id: command.user_id,
            chain: transaction.asset.to_string(),
            transaction_id: Some(transaction.id),
            action: change.action,
            previous_status: change.from.map(|status| status.as_str().into()),
            new_status: Some(transaction.status.as_str().into()),
            amount: Some(transaction.amount),
            shares: Some(transaction.shares),
            after: Some(account.amounts()),
            actor: command.context.actor.clone(),
            request_id: Arc::clone(&command.context.request_id),
            trace_id: command.context.trace_id.clone(),
            at: change.at,
            private: change
                .reason
                .map(|(reason, salt)| Private {
                    field: PrivateField::Reason,
                    salt: *salt,
                    value: reason.to_owned(),
                })
                .into_iter()
                .collect(),
        };
        let (row, private) = draft.seal(account.head);
        account.head = row.head();
        account.head_at = change.at;
        let index = self.effects.audit.len();
        self.effects
            .private
            .extend(private.into_iter().map(|private| (index, private)));
        self.effects.audit.push(row);

        let posted = Posted {
            balance: account.balance(&transaction.asset),
            transaction: transaction.clone(),
        };
        if let Some(reference) = &transaction.client_reference {
            self.client_references
                .insert((command.user_id, reference.clone()));
        }
        if let Some(hash) = &transaction.tx_hash {
            self.tx_hashes
                .insert((command.user_id, transaction.kind, hash.clone()));
        }
        let key = (command.user_id, transaction.asset);
        self.effects.accounts.insert(key);
        self.accounts.insert(key, account);
        self.transactions
            .insert((command.user_id, transaction.id), transaction);
        posted
    }
}

/// What the audit row says of a change beside the transaction itself.
#[derive(Clone, Copy)]
struct Change<'a> {
    action: &'static str,
    from: Option<TransactionStatus>,
    at: Timestamp,
    /// The reason that was given, with the salt of the commitment to it.
    reason: Option<(&'a str, &'a [u8; 32])>,
}

/// What the first audit row of a transaction says was done. The type is in it, and so in the hash: it decides
/// from which system account the money came.
const fn posting_action(kind: TransactionType) -> &'static str {
    match kind {
        TransactionType::Deposit => "post_deposit",
        TransactionType::Withdraw => "post_withdraw",
        TransactionType::YieldHarvest => "post_yield_harvest",
        TransactionType::ReferralBonus => "post_referral_bonus",
    }
}

const fn stage_of(to: Settlement) -> Stage {
    Stage::of(to.status(), false)
}

fn add_details(transaction: &mut Transaction, details: &Details) {
    let Details {
        reason: _,
        tx_hash: _,
        block_number,
        gas_used,
        gas_fee,
        confirmations,
        error_message,
    } = details;
    transaction.block_number = block_number.or(transaction.block_number);
    transaction.gas_used = gas_used.or(transaction.gas_used);
    transaction.gas_fee = gas_fee.or(transaction.gas_fee);
    transaction.confirmations = confirmations.unwrap_or(transaction.confirmations);
    if let Some(message) = error_message {
        transaction.error_message = Some(message.clone());
    }
}

/// The user's leg and the system account's, which sum to zero.
fn legs(transaction: &Transaction, at: Timestamp) -> [LedgerEntry; 2] {
    let counterpart = match transaction.kind {
        TransactionType::Deposit | TransactionType::Withdraw => LedgerAccount::Custody,
        TransactionType::YieldHarvest => LedgerAccount::Yield,
        TransactionType::ReferralBonus => LedgerAccount::Promotions,
    };
    let amount = transaction.amount.micros();
    // An amount is below 10^18, so its negation exists.
    let user_amount = if transaction.kind == TransactionType::Withdraw {
        -amount
    } else {
        amount
    };
    [
        (LedgerAccount::User, user_amount),
        (counterpart, -user_amount),
    ]
    .map(|(account, amount)| LedgerEntry {
        user_id: transaction.user_id,
        transaction_id: transaction.id,
        account,
        asset: transaction.asset,
        amount,
        at,
    })
}
