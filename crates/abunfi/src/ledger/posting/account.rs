//! One account: what it holds, and how amounts move in it. Every step is checked before anything changes.

use super::super::{Asset, BalanceAfter, Refusal, Transaction, TransactionType};
use crate::audit::{AmountsAfter, Head};
use crate::clock::Timestamp;
use crate::ids::UserId;
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
    pub(super) fn credit(&mut self, tx: &Transaction, at: Timestamp) -> Result<(), Refusal> {
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
    pub(super) fn take(&mut self, tx: &Transaction) -> Result<(), Refusal> {
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
    pub(super) fn withdraw(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.take(tx)?;
        self.totals.withdrawn = grow(self.totals.withdrawn, tx.amount)?;
        Ok(())
    }

    /// Available becomes locked.
    pub(super) fn hold(&mut self, tx: &Transaction) -> Result<(), Refusal> {
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
    pub(super) fn unlock(&mut self, tx: &Transaction) -> Result<(), Refusal> {
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
    pub(super) fn pay_out(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.unlock(tx)?;
        self.totals.withdrawn = grow(self.totals.withdrawn, tx.amount)?;
        Ok(())
    }

    /// Locked becomes available again.
    pub(super) fn release(&mut self, tx: &Transaction) -> Result<(), Refusal> {
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

    pub(super) fn balance(&self, asset: &Asset) -> BalanceAfter {
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

    pub(super) const fn amounts(&self) -> AmountsAfter {
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
