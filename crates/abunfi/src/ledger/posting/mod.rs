//! The rules of the ledger, pure: from the locked rows and the commands to every row that changes.
//!
//! A store loads into [`Books`] what its commands refer to, under lock; [`Books::decide`] decides them in
//! order, each by itself; the store writes [`Books::effects`] in one transaction. Nothing here reads a
//! clock, a store or a random number, so the same rows and commands always give the same effects.
//!
//! Invariant: a command that is refused changes nothing in the books but its own idempotency row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    Action, Asset, BalanceAfter, Command, Details, Error, Idempotency, LedgerAccount, Outcome,
    Posted, Refusal, Settlement, Stage, StoredAnswer, Transaction, TransactionStatus,
    TransactionType,
};
use crate::audit::{self, AmountsAfter, Draft, Head, Private, PrivateField};
use crate::clock::Timestamp;
use crate::context::Principal;
use crate::error::{StoreError, StoreKind};
use crate::ids::{TransactionId, UserId};
use crate::money::Amount;
use crate::users::UserStatus;

/// Which account row.
pub type AccountKey = (UserId, Asset);

/// The locked account row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub available: Amount,
    pub locked: Amount,
    pub shares: Amount,
    pub locked_shares: Amount,
    pub totals: Totals,
    pub last_yield_at: Option<Timestamp>,
    /// Pending transactions of any type.
    pub pending: i32,
    /// The head of the account's audit chain; its `seq` is the account's version.
    pub head: Head,
    /// The time of the newest audit row.
    pub head_at: Timestamp,
    pub owner_status: UserStatus,
}

/// What came in and went out since the account was opened, in micro-units, by counterpart. These only
/// grow, so they are bounded by 64 bits (9.2 · 10¹² units in a life) and not by what a balance may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub deposited: i64,
    pub withdrawn: i64,
    pub yield_earned: i64,
    pub bonuses: i64,
    pub fees: i64,
}

impl Account {
    /// A new account of a user.
    #[must_use]
    pub fn empty(owner_status: UserStatus) -> Self {
        Self {
            available: Amount::ZERO,
            locked: Amount::ZERO,
            shares: Amount::ZERO,
            locked_shares: Amount::ZERO,
            totals: Totals::default(),
            last_yield_at: None,
            pending: 0,
            head: Head::EMPTY,
            head_at: Timestamp::EPOCH,
            owner_status,
        }
    }

    /// Money comes in: available grows, and the total of where it came from.
    fn credit(&mut self, tx: &Transaction, at: Timestamp) -> Result<(), Refusal> {
        let total = match tx.kind {
            TransactionType::Deposit => &mut self.totals.deposited,
            TransactionType::YieldHarvest => &mut self.totals.yield_earned,
            TransactionType::ReferralBonus => &mut self.totals.bonuses,
            TransactionType::Withdraw => return Err(Refusal::AmountOverflow),
        };
        *total = grow(*total, tx.amount)?;
        // Unlike the other totals, this one is shown as an amount.
        Amount::from_micros(self.totals.yield_earned).ok_or(Refusal::AmountOverflow)?;
        self.available = self
            .available
            .checked_add(tx.amount)
            .ok_or(Refusal::AmountOverflow)?;
        self.shares = self
            .shares
            .checked_add(tx.shares)
            .ok_or(Refusal::AmountOverflow)?;
        // The bound is on the sums, since that is what is shown and what a release brings back together.
        self.available
            .checked_add(self.locked)
            .ok_or(Refusal::AmountOverflow)?;
        self.shares
            .checked_add(self.locked_shares)
            .ok_or(Refusal::AmountOverflow)?;
        if tx.kind == TransactionType::YieldHarvest {
            self.last_yield_at = Some(at);
        }
        Ok(())
    }

    /// Takes amount and shares out of what is available.
    fn take(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.available =
            self.available
                .checked_sub(tx.amount)
                .ok_or(Refusal::InsufficientFunds {
                    available: self.available,
                })?;
        self.shares = self
            .shares
            .checked_sub(tx.shares)
            .ok_or(Refusal::InsufficientShares {
                available: self.shares,
            })?;
        Ok(())
    }

    /// Money goes out at once.
    fn withdraw(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.take(tx)?;
        self.totals.withdrawn = grow(self.totals.withdrawn, tx.amount)?;
        Ok(())
    }

    /// Available becomes locked.
    fn hold(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.take(tx)?;
        self.locked = self
            .locked
            .checked_add(tx.amount)
            .ok_or(Refusal::AmountOverflow)?;
        self.locked_shares = self
            .locked_shares
            .checked_add(tx.shares)
            .ok_or(Refusal::AmountOverflow)?;
        Ok(())
    }

    /// Takes a hold out of what is locked. The hold was put there by the same transaction, so less than
    /// that being locked means damaged books: refused like any lack of funds, and found by the verifier.
    fn unlock(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.locked = self
            .locked
            .checked_sub(tx.amount)
            .ok_or(Refusal::InsufficientFunds {
                available: self.locked,
            })?;
        self.locked_shares =
            self.locked_shares
                .checked_sub(tx.shares)
                .ok_or(Refusal::InsufficientShares {
                    available: self.locked_shares,
                })?;
        Ok(())
    }

    /// A held withdrawal has gone out.
    fn pay_out(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.unlock(tx)?;
        self.totals.withdrawn = grow(self.totals.withdrawn, tx.amount)?;
        Ok(())
    }

    /// Locked becomes available again.
    fn release(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.unlock(tx)?;
        self.available = self
            .available
            .checked_add(tx.amount)
            .ok_or(Refusal::AmountOverflow)?;
        self.shares = self
            .shares
            .checked_add(tx.shares)
            .ok_or(Refusal::AmountOverflow)?;
        Ok(())
    }

    fn balance(&self, asset: &Asset) -> BalanceAfter {
        BalanceAfter {
            asset: *asset,
            available: self.available,
            locked: self.locked,
            total: self
                .available
                .checked_add(self.locked)
                .unwrap_or(Amount::MAX),
            shares: self.shares,
            locked_shares: self.locked_shares,
            version: self.head.seq,
        }
    }

    const fn amounts(&self) -> AmountsAfter {
        AmountsAfter {
            available: self.available,
            locked: self.locked,
            shares: self.shares,
            locked_shares: self.locked_shares,
        }
    }
}

fn grow(total: i64, by: Amount) -> Result<i64, Refusal> {
    total
        .checked_add(by.micros())
        .ok_or(Refusal::AmountOverflow)
}

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

/// Which idempotency row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerKey {
    pub user_id: UserId,
    pub principal: Principal,
    pub scope: Arc<str>,
    pub key: Arc<str>,
}

impl AnswerKey {
    #[must_use]
    pub fn of(user_id: UserId, idempotency: &Idempotency) -> Self {
        Self {
            user_id,
            principal: idempotency.principal.clone(),
            scope: idempotency.scope.clone(),
            key: idempotency.key.clone(),
        }
    }
}

impl AnswerKey {
    /// What stands for principal, scope and key in a store that keeps them short: the first half of SHA-256
    /// over the three, with a NUL (which none of them holds) between.
    #[must_use]
    pub fn hash(&self) -> uuid::Uuid {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.principal.as_str())
            .chain_update([0])
            .chain_update(self.scope.as_bytes())
            .chain_update([0])
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        uuid::Uuid::from_bytes(hash.first_chunk().copied().unwrap_or_default())
    }
}

/// How an answer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A finished transaction, and the audit row (by its `seq` in the account's chain) that finished it, say
    /// all of the answer, and neither ever changes: [`rebuild`] puts it together, byte for byte.
    Rows(TransactionId, i64),
    /// A refusal, or a transaction that may still change: JSON.
    Text(String),
}

impl Kept {
    /// # Errors
    /// Never in practice: an answer has no keys that are not texts.
    pub fn of(answer: &StoredAnswer) -> Result<Self, serde_json::Error> {
        match &answer.result {
            Ok(posted) if posted.transaction.status != TransactionStatus::Pending => {
                Ok(Self::Rows(posted.transaction.id, posted.balance.version))
            }
            _ => serde_json::to_string(answer).map(Self::Text),
        }
    }

    /// The rows that say it, if they do.
    #[must_use]
    pub const fn rows(&self) -> Option<(TransactionId, i64)> {
        match self {
            Self::Rows(id, seq) => Some((*id, *seq)),
            Self::Text(_) => None,
        }
    }

    /// The whole answer, if it has to be kept.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Rows(..) => None,
            Self::Text(text) => Some(text),
        }
    }
}

/// The answer that a finished transaction and the audit row that finished it stand for: see [`Kept::Rows`].
#[must_use]
pub fn rebuild(
    transaction: Transaction,
    request_id: Arc<str>,
    seq: i64,
    after: &AmountsAfter,
) -> StoredAnswer {
    let balance = BalanceAfter {
        asset: transaction.asset,
        available: after.available,
        locked: after.locked,
        total: after
            .available
            .checked_add(after.locked)
            .unwrap_or(Amount::MAX),
        shares: after.shares,
        locked_shares: after.locked_shares,
        version: seq,
    };
    StoredAnswer {
        request_id,
        result: Ok(Posted {
            transaction,
            balance,
        }),
    }
}

/// The idempotency row.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub fingerprint: [u8; 32],
    pub answer: StoredAnswer,
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

/// What a set of commands refers to: what a store must load into [`Books`] before deciding.
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

#[cfg(test)]
mod tests;
