//! The rules as properties: whatever the commands, the books stay right.

use proptest::prelude::*;

use super::*;
use crate::audit::Head;
use crate::context::{Actor, Context, Principal};
use crate::ids::UserId;
use crate::ledger::Idempotency;
use crate::money::{Amount, SignedSum};

fn amount(text: &str) -> Amount {
    Amount::parse(text).unwrap()
}

fn user() -> UserId {
    UserId(uuid::Uuid::from_u128(7))
}

fn vnd() -> Asset {
    Asset::parse("VND").unwrap()
}

fn id(n: u128) -> TransactionId {
    TransactionId(uuid::Uuid::from_u128(n))
}

fn books(owner: UserStatus) -> Books {
    let mut books = Books::default();
    books
        .accounts
        .insert((user(), vnd()), Account::empty(owner));
    books
}

fn transaction(
    n: u128,
    kind: TransactionType,
    status: TransactionStatus,
    amount: Amount,
) -> Transaction {
    Transaction {
        id: id(n),
        user_id: user(),
        kind,
        status,
        asset: vnd(),
        amount,
        shares: Amount::ZERO,
        expires_at: None,
        submitted_at: None,
        client_reference: None,
        tx_hash: None,
        block_number: None,
        gas_used: None,
        gas_fee: None,
        confirmations: 0,
        exchange_rate: None,
        amount_vnd: None,
        metadata: serde_json::json!({}),
        error_message: None,
        created_at: Timestamp::EPOCH,
        confirmed_at: None,
    }
}

fn command(n: i64, action: Action) -> Command {
    Command {
        user_id: user(),
        context: Arc::new(Context::new(
            Actor::system("test"),
            Principal::key_owner("test"),
            format!("r{n}"),
        )),
        idempotency: None,
        at: Timestamp::from_micros(n),
        action,
    }
}

fn post(n: i64, kind: TransactionType, status: TransactionStatus, amount: Amount) -> Command {
    let number = u128::try_from(n).unwrap();
    command(
        n,
        Action::Post(Box::new(transaction(number, kind, status, amount))),
    )
}

fn settle(n: i64, target: u128, to: Settlement) -> Command {
    command(
        n,
        Action::Settle {
            transaction_id: id(target),
            to,
            details: Box::default(),
            only_unsubmitted: false,
            salt: [1; 32],
        },
    )
}

fn keyed(mut command: Command, key: &str, fingerprint: u8) -> Command {
    command.idempotency = Some(Idempotency {
        principal: Principal::key_owner("test"),
        scope: "post".into(),
        key: key.into(),
        is_new: false,
        fingerprint: [fingerprint; 32],
    });
    command
}

fn decided(books: &mut Books, command: &Command) -> Result<Posted, Refusal> {
    books.decide(command).unwrap().answer.result
}

use Settlement::{Cancel, Confirm, Fail};
use TransactionStatus::{Confirmed, Pending};
use TransactionType::{Deposit, ReferralBonus, Withdraw, YieldHarvest};

#[test]
fn a_withdrawal_beyond_what_is_available_is_refused_and_changes_nothing() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(1, Deposit, Confirmed, amount("5"))).unwrap();
    let before = books.accounts.clone();
    let refused = decided(
        &mut books,
        &post(2, Withdraw, Confirmed, amount("5.000001")),
    );
    assert_eq!(
        refused,
        Err(Refusal::InsufficientFunds {
            available: amount("5")
        })
    );
    assert_eq!(books.accounts, before);
    assert_eq!(books.effects.audit.len(), 1);
}

#[test]
fn a_hold_moves_to_locked_and_comes_back_when_cancelled() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(1, Deposit, Confirmed, amount("5"))).unwrap();
    let held = decided(&mut books, &post(2, Withdraw, Pending, amount("2"))).unwrap();
    assert_eq!(
        (held.balance.available, held.balance.locked),
        (amount("3"), amount("2"))
    );
    let back = decided(&mut books, &settle(3, 2, Cancel)).unwrap();
    assert_eq!(
        (back.balance.available, back.balance.locked),
        (amount("5"), Amount::ZERO)
    );
    assert_eq!(back.balance.version, 3);
}

#[test]
fn what_is_finished_stays_as_it_is() {
    for first in [Confirm, Fail, Cancel] {
        let mut books = books(UserStatus::Active);
        decided(&mut books, &post(1, Deposit, Pending, amount("5"))).unwrap();
        decided(&mut books, &settle(2, 1, first)).unwrap();
        for second in [Confirm, Fail, Cancel] {
            let refused = decided(&mut books, &settle(3, 1, second));
            assert!(
                matches!(refused, Err(Refusal::InvalidTransition { .. })),
                "{first:?} then {second:?}"
            );
        }
    }
}

#[test]
fn a_submitted_withdrawal_is_not_cancelled_by_a_session_but_by_a_service() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(1, Deposit, Confirmed, amount("5"))).unwrap();
    decided(&mut books, &post(2, Withdraw, Pending, amount("5"))).unwrap();
    decided(
        &mut books,
        &command(
            3,
            Action::Submit {
                transaction_id: id(2),
                tx_hash: None,
            },
        ),
    )
    .unwrap();
    let by_session = command(
        4,
        Action::Settle {
            transaction_id: id(2),
            to: Cancel,
            details: Box::default(),
            only_unsubmitted: true,
            salt: [1; 32],
        },
    );
    assert_eq!(
        decided(&mut books, &by_session),
        Err(Refusal::InvalidTransition {
            from: Stage::Submitted,
            to: Stage::Cancelled
        })
    );
    assert!(decided(&mut books, &settle(5, 2, Cancel)).is_ok());
}

#[test]
fn a_suspended_user_posts_nothing_new_but_settles_what_is_pending() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(1, Deposit, Pending, amount("5"))).unwrap();
    books
        .accounts
        .get_mut(&(user(), vnd()))
        .unwrap()
        .owner_status = UserStatus::Suspended;
    let refused = decided(&mut books, &post(2, Deposit, Confirmed, amount("1")));
    assert_eq!(
        refused,
        Err(Refusal::UserNotActive {
            status: "suspended".to_owned()
        })
    );
    assert!(decided(&mut books, &settle(3, 1, Confirm)).is_ok());
}

#[test]
fn a_balance_of_a_trillion_is_refused_never_wrapped() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(1, Deposit, Confirmed, Amount::MAX)).unwrap();
    let refused = decided(&mut books, &post(2, Deposit, Confirmed, amount("0.000001")));
    assert_eq!(refused, Err(Refusal::AmountOverflow));
    // Also when a part is on hold: it would be too much once released.
    decided(&mut books, &post(3, Withdraw, Pending, amount("10"))).unwrap();
    let refused = decided(&mut books, &post(4, Deposit, Confirmed, amount("0.000001")));
    assert_eq!(refused, Err(Refusal::AmountOverflow));
}

#[test]
fn a_key_is_answered_once_and_replayed_also_when_refused() {
    let mut books = books(UserStatus::Active);
    let withdraw = keyed(post(1, Withdraw, Confirmed, amount("1")), "k", 1);
    let first = books.decide(&withdraw).unwrap();
    decided(&mut books, &post(2, Deposit, Confirmed, amount("9"))).unwrap();
    let again = books.decide(&withdraw).unwrap();
    assert!(again.replayed && !first.replayed);
    assert_eq!(again.answer, first.answer);
    let other = keyed(post(3, Deposit, Confirmed, amount("1")), "k", 2);
    assert!(matches!(
        books.decide(&other),
        Err(Error::IdempotencyKeyReused)
    ));
}

#[test]
fn no_key_is_kept_for_a_user_who_does_not_exist() {
    let mut books = Books::default();
    let outcome = books
        .decide(&keyed(post(1, Deposit, Confirmed, amount("1")), "k", 1))
        .unwrap();
    assert_eq!(outcome.answer.result, Err(Refusal::UserNotFound));
    assert!(books.effects.is_empty());
}

#[test]
fn of_an_atomic_batch_nothing_is_left_when_one_item_is_refused() {
    let mut books = books(UserStatus::Active);
    let commands = [
        post(1, Deposit, Confirmed, amount("1")),
        post(2, Withdraw, Confirmed, amount("2")),
        post(3, Deposit, Confirmed, amount("1")),
    ];
    let failed = books.decide_all(&commands);
    assert_eq!(
        failed,
        Err((
            1,
            Refusal::InsufficientFunds {
                available: amount("1")
            }
        ))
    );
    assert!(books.effects.is_empty());
    assert_eq!(
        books.accounts.get(&(user(), vnd())),
        Some(&Account::empty(UserStatus::Active))
    );
}

#[test]
fn time_never_runs_backwards_within_a_chain() {
    let mut books = books(UserStatus::Active);
    decided(&mut books, &post(9, Deposit, Confirmed, amount("1"))).unwrap();
    let late = decided(&mut books, &post(3, Deposit, Confirmed, amount("1"))).unwrap();
    assert_eq!(
        late.transaction.confirmed_at,
        Some(Timestamp::from_micros(9))
    );
    let id = late.transaction.id;
    assert_eq!(late.transaction.created_at, id.made_at(), "lists are by id");
}

/// Any command over a few transactions.
fn any_command() -> impl Strategy<Value = (u8, u8, i64)> {
    (0_u8..9, 0_u8..12, 1_i64..2_000_000)
}

proptest! {
    #[test]
    fn whatever_is_asked_the_books_balance_and_the_chain_holds(steps in prop::collection::vec(any_command(), 1..60)) {
        let mut books = books(UserStatus::Active);
        for (n, (what, target, micros)) in (1_i64..).zip(steps) {
            let amount = Amount::from_micros(micros).unwrap();
            let target = u128::from(target);
            let command = match what {
                0 => post(n, Deposit, Confirmed, amount),
                1 => post(n, Deposit, Pending, amount),
                2 => post(n, Withdraw, Confirmed, amount),
                3 => post(n, Withdraw, Pending, amount),
                4 => post(n, YieldHarvest, Confirmed, amount),
                5 => post(n, ReferralBonus, Pending, amount),
                6 => settle(n, target, Confirm),
                7 => settle(n, target, Cancel),
                _ => command(n, Action::Submit { transaction_id: id(target), tx_hash: None }),
            };
            let _refused_or_not = decided(&mut books, &command);
        }
        let account = books.accounts.get(&(user(), vnd())).unwrap();
        let totals = account.totals;
        let has = account.available.checked_add(account.locked).unwrap().micros();
        prop_assert_eq!(
            has,
            totals.deposited + totals.yield_earned + totals.bonuses - totals.withdrawn - totals.fees
        );
        let by_entries: i64 = books
            .effects
            .entries
            .iter()
            .filter(|entry| entry.account == LedgerAccount::User)
            .map(|entry| entry.amount)
            .sum();
        prop_assert_eq!(has, by_entries);
        let net: i128 = books.effects.entries.iter().map(|entry| i128::from(entry.amount)).sum();
        prop_assert_eq!(SignedSum::from_micros(net), SignedSum::ZERO);
        let held: i64 = books
            .transactions
            .values()
            .filter(|tx| tx.kind == Withdraw && tx.status == Pending)
            .map(|tx| tx.amount.micros())
            .sum();
        prop_assert_eq!(account.locked.micros(), held);
        let pending = books.transactions.values().filter(|tx| tx.status == Pending).count();
        prop_assert_eq!(usize::try_from(account.pending).unwrap(), pending);
        let mut head = Head::EMPTY;
        for row in &books.effects.audit {
            prop_assert_eq!(row.previous_hash, head.hash);
            prop_assert_eq!(row.seq, head.seq + 1);
            prop_assert_eq!(row.hash, row.computed_hash());
            head = row.head();
        }
        prop_assert_eq!(head, account.head);
    }
}
