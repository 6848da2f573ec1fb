//! Postings one at a time: what they change, and what is refused.

use abunfi::clock::Timestamp;
use abunfi::ids::{TransactionId, UserId, random_bytes};
use abunfi::ledger::{LedgerAccount, Refusal, Settlement, TransactionStatus, TransactionType};
use abunfi::money::{Amount, Decimal18};
use abunfi::users::{UserChange, UserStatus};
use serde_json::json;

use crate::support::make::{
    Shape as _, amount, asset, at, context, deposit, next_time, posting, settle, submit,
    transaction_of, units, vnd, withdraw,
};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    a_posting_answers_with_the_transaction_and_the_account_after_it,
    a_posting_keeps_every_field_exactly,
    every_type_has_its_two_legs,
    a_pending_transaction_has_no_legs,
    a_withdrawal_takes_no_more_than_there_is,
    shares_are_taken_and_held_like_money,
    a_balance_stays_below_its_bound,
    shares_stay_below_their_bound,
    a_pending_deposit_is_checked_against_the_bound_when_it_is_confirmed,
    totals_outgrow_what_a_balance_may_be,
    what_was_earned_stays_below_the_bound_of_what_can_be_shown,
    an_unknown_user_asset_or_transaction_is_refused,
    a_first_posting_in_an_asset_opens_its_account,
    a_client_reference_is_used_once_for_good,
    a_tx_hash_is_used_once_for_each_type,
    settling_may_not_take_a_tx_hash_that_is_in_use,
    a_user_who_is_not_active_settles_what_is_pending_and_begins_nothing,
    a_chain_s_time_never_runs_backwards,
    a_yield_harvest_is_remembered_in_the_balance,
);

async fn a_posting_answers_with_the_transaction_and_the_account_after_it(stores: &Relational) {
    let user = stores.user("An").await.id;
    let command = posting(user, TransactionType::Deposit, amount("1500000")).shares("1.5");
    let asked = transaction_of(&command).clone();
    let posted = stores.posted(command).await;
    assert_eq!(posted.transaction, asked);
    let balance = &posted.balance;
    assert_eq!(balance.asset, vnd());
    assert_eq!(balance.available, amount("1500000"));
    assert_eq!(balance.total, amount("1500000"));
    assert_eq!(
        (balance.locked, balance.locked_shares),
        (Amount::ZERO, Amount::ZERO)
    );
    assert_eq!((balance.shares, balance.version), (amount("1.5"), 1));

    let found = stores.ledger.transaction(user, asked.id).await.unwrap();
    assert_eq!(found, Some(asked));
    let balances = stores.ledger.balances(user).await.unwrap().unwrap();
    assert_eq!(balances.len(), 1);
    assert_eq!(
        (balances[0].available, balances[0].version),
        (amount("1500000"), 1)
    );
    let record = stores.users.find(user).await.unwrap().unwrap();
    assert_eq!(record.balances, balances, "the user shows the same");
    assert_eq!(record.version, 1, "a posting is no change of the user");
    stores.check_books().await;
}

async fn a_posting_keeps_every_field_exactly(stores: &Relational) {
    let user = stores.user("An").await.id;
    let command = posting(user, TransactionType::Deposit, amount("0.000001"))
        .pending()
        .with(|transaction| {
            transaction.shares = amount("999999999999.999999");
            transaction.client_reference = Some("đơn-hàng 'one' \"two\" \\ %_".to_owned());
            transaction.tx_hash = Some("0xabc".to_owned());
            transaction.block_number = Some(i64::MAX);
            transaction.gas_used = Some(21_000);
            transaction.gas_fee =
                Some(Decimal18::parse("999999999999.000000000000000001").unwrap());
            transaction.confirmations = 12;
            transaction.exchange_rate = Some(Decimal18::parse("0.000000000000000001").unwrap());
            transaction.amount_vnd = Some(amount("24999.5"));
            transaction.metadata = json!({
                "text": "xin chào 🌾", "float": 1.0, "int": 1, "big": u64::MAX, "small": -0.1e-7,
                "nested": {"z": [null, true, {}], "a": ""},
            });
        });
    let asked = transaction_of(&command).clone();
    let posted = stores.posted(command).await;
    assert_eq!(posted.transaction, asked);
    let found = stores
        .ledger
        .transaction(user, asked.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, asked);
    assert_eq!(
        serde_json::to_string(&found).unwrap(),
        serde_json::to_string(&asked).unwrap(),
        "to the last digit"
    );

    let confirm = settle(user, asked.id, Settlement::Confirm).saying(|details| {
        details.block_number = Some(7);
        details.gas_fee = Some(Decimal18::parse("0.5").unwrap());
        details.confirmations = Some(30);
    });
    let settled_at = confirm.at;
    let settled = stores.posted(confirm).await.transaction;
    let mut expected = asked;
    expected.status = TransactionStatus::Confirmed;
    expected.confirmed_at = Some(settled_at);
    expected.block_number = Some(7);
    expected.gas_fee = Some(Decimal18::parse("0.5").unwrap());
    expected.confirmations = 30;
    assert_eq!(settled, expected, "what the settlement does not name stays");
    assert_eq!(
        stores.ledger.transaction(user, settled.id).await.unwrap(),
        Some(expected)
    );
}

async fn every_type_has_its_two_legs(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    for (kind, counterpart, sign) in [
        (TransactionType::Deposit, LedgerAccount::Custody, 1),
        (TransactionType::Withdraw, LedgerAccount::Custody, -1),
        (TransactionType::YieldHarvest, LedgerAccount::Yield, 1),
        (TransactionType::ReferralBonus, LedgerAccount::Promotions, 1),
    ] {
        let before = legs(stores).await;
        stores.posted(posting(user, kind, amount("2.5"))).await;
        let mut after = legs(stores).await;
        for leg in before {
            let index = after
                .iter()
                .position(|other| *other == leg)
                .expect("entries stay");
            after.remove(index);
        }
        after.sort();
        let mut expected = [
            format!("user {}", sign * 2_500_000),
            format!("{counterpart} {}", sign * -2_500_000),
        ];
        expected.sort();
        assert_eq!(after, expected, "{kind}");
    }
    stores.check_books().await;
}

/// All entries, as account and micro-units.
async fn legs(stores: &Relational) -> Vec<String> {
    stores
        .raw
        .texts("SELECT account || ' ' || CAST(amount AS text) FROM entries")
        .await
}

async fn a_pending_transaction_has_no_legs(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    let before = legs(stores).await.len();
    for kind in TransactionType::ALL {
        stores
            .posted(posting(user, *kind, units(1)).pending())
            .await;
    }
    assert_eq!(legs(stores).await.len(), before);
    assert_eq!(
        stores.balance(user).await,
        (units(99), units(1)),
        "only the withdrawal holds"
    );
    stores.check_books().await;
}

async fn a_withdrawal_takes_no_more_than_there_is(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let refused = stores
        .refused(posting(
            user,
            TransactionType::Withdraw,
            amount("10.000001"),
        ))
        .await;
    assert_eq!(
        refused,
        Refusal::InsufficientFunds {
            available: units(10)
        }
    );
    stores.posted(withdraw(user, 4).pending()).await;
    // What is held cannot be spent again, pending or at once.
    let refusal = Refusal::InsufficientFunds {
        available: units(6),
    };
    assert_eq!(stores.refused(withdraw(user, 7)).await, refusal);
    assert_eq!(stores.refused(withdraw(user, 7).pending()).await, refusal);
    stores.posted(withdraw(user, 6)).await;
    assert_eq!(stores.balance(user).await, (Amount::ZERO, units(4)));

    let versions = stores.ledger.balances(user).await.unwrap().unwrap();
    assert_eq!(versions[0].version, 3, "a refusal is no change");
    assert_eq!(
        stores.raw.number("SELECT count(*) FROM transactions").await,
        3
    );
    stores.check_books().await;
}

async fn shares_are_taken_and_held_like_money(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    stores.posted(deposit(user, 10).shares("2")).await;
    let refusal = stores.refused(withdraw(user, 1).shares("2.000001")).await;
    assert_eq!(
        refusal,
        Refusal::InsufficientShares {
            available: amount("2")
        }
    );

    let held = stores
        .posted(withdraw(user, 5).shares("1.5").pending())
        .await;
    assert_eq!(held.balance.shares, amount("0.5"));
    assert_eq!(held.balance.locked_shares, amount("1.5"));
    assert_eq!(
        (held.balance.available, held.balance.locked),
        (units(15), units(5))
    );
    let refusal = stores.refused(withdraw(user, 1).shares("1")).await;
    assert_eq!(
        refusal,
        Refusal::InsufficientShares {
            available: amount("0.5")
        }
    );

    let failed = stores
        .posted(settle(user, held.transaction.id, Settlement::Fail))
        .await;
    assert_eq!(
        (failed.balance.shares, failed.balance.locked_shares),
        (amount("2"), Amount::ZERO)
    );
    assert_eq!(
        (failed.balance.available, failed.balance.locked),
        (units(20), Amount::ZERO)
    );

    let held = stores.posted(withdraw(user, 5).shares("2").pending()).await;
    let paid = stores
        .posted(settle(user, held.transaction.id, Settlement::Confirm))
        .await;
    assert_eq!(
        (paid.balance.shares, paid.balance.locked_shares),
        (Amount::ZERO, Amount::ZERO)
    );
    assert_eq!(
        (paid.balance.available, paid.balance.locked),
        (units(15), Amount::ZERO)
    );
    stores.check_books().await;
}

async fn a_balance_stays_below_its_bound(stores: &Relational) {
    let user = stores.user("An").await.id;
    let most = posting(user, TransactionType::Deposit, Amount::MAX);
    let posted = stores.posted(most).await;
    assert_eq!(posted.balance.available, Amount::MAX);
    let bit = || posting(user, TransactionType::Deposit, amount("0.000001"));
    assert_eq!(stores.refused(bit()).await, Refusal::AmountOverflow);
    assert_eq!(
        stores
            .refused(posting(user, TransactionType::YieldHarvest, Amount::MAX))
            .await,
        Refusal::AmountOverflow
    );
    // Available and locked count together, since a release brings them back together.
    let hold = stores
        .posted(withdraw(user, 1).pending())
        .await
        .transaction
        .id;
    assert_eq!(stores.refused(bit()).await, Refusal::AmountOverflow);
    stores.posted(settle(user, hold, Settlement::Confirm)).await;
    stores.posted(deposit(user, 1)).await;
    assert_eq!(stores.balance(user).await, (Amount::MAX, Amount::ZERO));
    stores.check_books().await;
}

async fn shares_stay_below_their_bound(stores: &Relational) {
    let user = stores.user("An").await.id;
    stores
        .posted(deposit(user, 1).shares(&Amount::MAX.to_string()))
        .await;
    let refused = stores.refused(deposit(user, 1).shares("0.000001")).await;
    assert_eq!(refused, Refusal::AmountOverflow);
    let balance = &stores.ledger.balances(user).await.unwrap().unwrap()[0];
    assert_eq!((balance.available, balance.shares), (units(1), Amount::MAX));
    stores.check_books().await;
}

async fn a_pending_deposit_is_checked_against_the_bound_when_it_is_confirmed(stores: &Relational) {
    let user = stores.user("An").await.id;
    let large = || posting(user, TransactionType::Deposit, Amount::MAX).pending();
    let first = stores.posted(large()).await.transaction.id;
    let second = stores.posted(large()).await.transaction.id;
    stores
        .posted(settle(user, first, Settlement::Confirm))
        .await;
    let refused = stores
        .refused(settle(user, second, Settlement::Confirm))
        .await;
    assert_eq!(refused, Refusal::AmountOverflow);
    let still = stores
        .ledger
        .transaction(user, second)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(still.status, TransactionStatus::Pending);
    stores
        .posted(posting(user, TransactionType::Withdraw, Amount::MAX))
        .await;
    stores
        .posted(settle(user, second, Settlement::Confirm))
        .await;
    assert_eq!(stores.balance(user).await, (Amount::MAX, Amount::ZERO));
    stores.check_books().await;
}

async fn totals_outgrow_what_a_balance_may_be(stores: &Relational) {
    let user = stores.user("An").await.id;
    for _ in 0..4 {
        stores
            .posted(posting(user, TransactionType::Deposit, Amount::MAX))
            .await;
        stores
            .posted(posting(user, TransactionType::Withdraw, Amount::MAX))
            .await;
    }
    assert_eq!(stores.balance(user).await, (Amount::ZERO, Amount::ZERO));
    stores.check_books().await;
}

async fn what_was_earned_stays_below_the_bound_of_what_can_be_shown(stores: &Relational) {
    let user = stores.user("An").await.id;
    let harvest = |amount| posting(user, TransactionType::YieldHarvest, amount);
    stores.posted(harvest(Amount::MAX)).await;
    stores
        .posted(posting(user, TransactionType::Withdraw, Amount::MAX))
        .await;
    let bit = amount("0.000001");
    assert_eq!(stores.refused(harvest(bit)).await, Refusal::AmountOverflow);
    let pending = stores.posted(harvest(bit).pending()).await.transaction.id;
    let confirm = settle(user, pending, Settlement::Confirm);
    assert_eq!(stores.refused(confirm).await, Refusal::AmountOverflow);
    let balances = stores.ledger.balances(user).await.unwrap().unwrap();
    assert_eq!(
        (balances[0].total_yield_earned, balances[0].available),
        (Amount::MAX, Amount::ZERO)
    );
    stores.posted(deposit(user, 1)).await;
    stores.check_books().await;
}

async fn an_unknown_user_asset_or_transaction_is_refused(stores: &Relational) {
    let nobody = UserId::new(at(0));
    assert_eq!(
        stores.refused(deposit(nobody, 1)).await,
        Refusal::UserNotFound
    );
    assert_eq!(stores.ledger.balances(nobody).await.unwrap(), None);

    let user = stores.user_with("An", 10).await;
    assert_eq!(
        stores.refused(deposit(user, 1).asset("NOSUCH")).await,
        Refusal::UnknownAsset {
            asset: asset("NOSUCH")
        }
    );
    assert_eq!(stores.ledger.asset(&asset("NOSUCH")).await.unwrap(), None);

    let missing = TransactionId::new(at(0));
    let other = stores.user_with("Binh", 10).await;
    let hold = stores
        .posted(withdraw(other, 1).pending())
        .await
        .transaction
        .id;
    for id in [missing, hold] {
        // Another user's transaction is as unknown as one that never was.
        for command in [
            settle(user, id, Settlement::Confirm),
            settle(user, id, Settlement::Cancel),
            submit(user, id),
        ] {
            assert_eq!(stores.refused(command).await, Refusal::TransactionNotFound);
        }
        assert_eq!(stores.ledger.transaction(user, id).await.unwrap(), None);
    }
    stores.check_books().await;
}

async fn a_first_posting_in_an_asset_opens_its_account(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user_with("An", 10).await;
    let refused = stores.refused(withdraw(user, 1).asset("USDT")).await;
    assert_eq!(
        refused,
        Refusal::InsufficientFunds {
            available: Amount::ZERO
        }
    );
    let posted = stores.posted(deposit(user, 3).asset("USDT")).await;
    assert_eq!(
        (posted.balance.asset, posted.balance.version),
        (asset("USDT"), 1)
    );
    let balances = stores.ledger.balances(user).await.unwrap().unwrap();
    let held: Vec<_> = balances
        .iter()
        .map(|balance| (balance.asset.as_str(), balance.total))
        .collect();
    assert_eq!(
        held,
        [("USDT", units(3)), ("VND", units(10))],
        "ordered by asset"
    );
    stores.check_books().await;
}

async fn a_client_reference_is_used_once_for_good(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user_with("An", 10).await;
    let first = stores
        .posted(withdraw(user, 1).reference("r1").pending())
        .await
        .transaction
        .id;
    let again = || {
        [
            deposit(user, 1).reference("r1"),
            withdraw(user, 1).reference("r1"),
            deposit(user, 1).reference("r1").asset("USDT"),
        ]
    };
    for command in again() {
        assert_eq!(stores.refused(command).await, Refusal::ClientReferenceTaken);
    }
    stores.posted(settle(user, first, Settlement::Cancel)).await;
    for command in again() {
        assert_eq!(
            stores.refused(command).await,
            Refusal::ClientReferenceTaken,
            "for good"
        );
    }
    stores.posted(deposit(user, 1).reference("R1")).await;
    let other = stores.user("Binh").await.id;
    stores.posted(deposit(other, 1).reference("r1")).await;
    stores.check_books().await;
}

async fn a_tx_hash_is_used_once_for_each_type(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user("An").await.id;
    stores.posted(deposit(user, 5).tx_hash("0x1")).await;
    for command in [
        deposit(user, 1).tx_hash("0x1"),
        deposit(user, 1).tx_hash("0x1").asset("USDT"),
    ] {
        assert_eq!(stores.refused(command).await, Refusal::TxHashTaken);
    }
    stores.posted(withdraw(user, 1).tx_hash("0x1")).await;
    assert_eq!(
        stores.refused(withdraw(user, 1).tx_hash("0x1")).await,
        Refusal::TxHashTaken
    );
    stores.posted(deposit(user, 1).tx_hash("0x2")).await;
    let other = stores.user("Binh").await.id;
    stores.posted(deposit(other, 1).tx_hash("0x1")).await;
    stores.check_books().await;
}

async fn settling_may_not_take_a_tx_hash_that_is_in_use(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    stores.posted(withdraw(user, 1).tx_hash("0x1")).await;
    stores.posted(deposit(user, 1).tx_hash("0x2")).await;
    let hold = stores
        .posted(withdraw(user, 2).pending())
        .await
        .transaction
        .id;
    let confirm = |hash: &str| {
        let hash = hash.to_owned();
        settle(user, hold, Settlement::Confirm).saying(|details| details.tx_hash = Some(hash))
    };
    assert_eq!(stores.refused(confirm("0x1")).await, Refusal::TxHashTaken);
    // The deposit's hash is another type's.
    let confirmed = stores.posted(confirm("0x2")).await.transaction;
    assert_eq!(confirmed.tx_hash.as_deref(), Some("0x2"));
    assert_eq!(
        stores.refused(withdraw(user, 1).tx_hash("0x2")).await,
        Refusal::TxHashTaken
    );

    // One that was sent with a hash may be confirmed with the same.
    let hold = stores
        .posted(withdraw(user, 2).tx_hash("0x3").pending())
        .await
        .transaction
        .id;
    let same = settle(user, hold, Settlement::Confirm)
        .saying(|details| details.tx_hash = Some("0x3".to_owned()));
    stores.posted(same).await;
    stores.check_books().await;
}

async fn a_user_who_is_not_active_settles_what_is_pending_and_begins_nothing(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let holds = [
        stores
            .posted(withdraw(user, 1).pending())
            .await
            .transaction
            .id,
        stores
            .posted(withdraw(user, 2).pending())
            .await
            .transaction
            .id,
        stores
            .posted(withdraw(user, 3).pending())
            .await
            .transaction
            .id,
    ];
    let expected = stores
        .posted(deposit(user, 5).pending())
        .await
        .transaction
        .id;
    set_status(stores, user, UserStatus::Suspended).await;

    let suspended = Refusal::UserNotActive {
        status: "suspended".to_owned(),
    };
    for kind in TransactionType::ALL {
        assert_eq!(
            stores.refused(posting(user, *kind, units(1))).await,
            suspended
        );
        assert_eq!(
            stores
                .refused(posting(user, *kind, units(1)).pending())
                .await,
            suspended
        );
    }
    stores.asset("USDT").await;
    let new_account = deposit(user, 1).asset("USDT");
    assert_eq!(
        stores.refused(new_account).await,
        suspended,
        "nor in a new account"
    );

    stores.posted(submit(user, holds[0])).await;
    stores
        .posted(settle(user, holds[0], Settlement::Confirm))
        .await;
    stores
        .posted(settle(user, holds[1], Settlement::Fail))
        .await;
    stores
        .posted(settle(user, holds[2], Settlement::Cancel))
        .await;
    stores
        .posted(settle(user, expected, Settlement::Confirm))
        .await;
    assert_eq!(stores.balance(user).await, (units(14), Amount::ZERO));

    set_status(stores, user, UserStatus::Active).await;
    stores.posted(withdraw(user, 14)).await;
    set_status(stores, user, UserStatus::Closed).await;
    let closed = Refusal::UserNotActive {
        status: "closed".to_owned(),
    };
    assert_eq!(stores.refused(deposit(user, 1)).await, closed);
    stores.check_books().await;
}

async fn set_status(stores: &Relational, user: UserId, status: UserStatus) {
    let change = UserChange {
        status: Some(status),
        ..UserChange::default()
    };
    stores
        .users
        .update(&context(), user, &change, None, random_bytes(), next_time())
        .await
        .unwrap();
}

async fn a_chain_s_time_never_runs_backwards(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let times = [at(50_000), at(40_000), at(50_000), at(49_999), at(60_000)];
    let mut said: Vec<Timestamp> = Vec::new();
    for time in times {
        said.push(
            stores
                .posted(deposit(user, 1).at(time))
                .await
                .transaction
                .confirmed_at
                .unwrap(),
        );
    }
    assert_eq!(
        said,
        [at(50_000), at(50_000), at(50_000), at(50_000), at(60_000)]
    );
    stores.check_books().await;
}

async fn a_yield_harvest_is_remembered_in_the_balance(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let balance = async || stores.ledger.balances(user).await.unwrap().unwrap()[0].clone();
    assert_eq!(
        (
            balance().await.total_yield_earned,
            balance().await.last_yield_at
        ),
        (Amount::ZERO, None)
    );
    let harvest = |text| posting(user, TransactionType::YieldHarvest, amount(text));
    stores.posted(harvest("0.25")).await;
    let second = harvest("0.5");
    let harvested_at = second.at;
    stores.posted(second).await;
    stores.posted(harvest("7").pending()).await;
    stores.posted(withdraw(user, 10)).await;
    let after = balance().await;
    assert_eq!(
        after.total_yield_earned,
        amount("0.75"),
        "pending yield is none yet"
    );
    assert_eq!(after.last_yield_at, Some(harvested_at));
    assert_eq!(after.available, amount("0.75"));
    stores.check_books().await;
}
