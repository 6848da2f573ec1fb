//! What is read of the ledger: balances then and now, lists, statistics, the trial balance, what expires.

use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::documents::Expected;
use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{
    Balance, Due, Page, Settlement, Transaction, TransactionFilter, TransactionStatus,
    TransactionType, TrialBalance,
};
use abunfi::money::{Amount, SignedSum};

use crate::support::make::{
    Shape as _, amount, asset, at, context, deposit, posting, settle, submit, units, withdraw,
};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    balances_are_shown_as_they_were,
    an_account_that_was_there_is_shown_before_its_first_change,
    balances_at_of_an_unknown_user_are_none,
    transactions_are_listed_newest_first,
    pages_neither_repeat_nor_omit_while_rows_are_inserted,
    transactions_are_chosen_by_each_filter,
    one_user_s_reads_show_nothing_of_another,
    statistics_count_and_sum_by_type_and_month,
    statistics_of_large_sums_do_not_overflow,
    the_trial_balance_is_zero_for_users_in_every_state,
    the_trial_balance_is_exact_over_many_large_balances,
    expired_holds_are_found_and_no_others,
    expired_holds_come_a_few_at_a_time,
);

async fn balances_are_shown_as_they_were(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user("An").await.id;
    let vnd = async |seconds| {
        let balances = stores
            .ledger
            .balances_at(user, at(seconds), &asset("VND"))
            .await
            .unwrap()
            .unwrap();
        balances
            .into_iter()
            .find(|balance| balance.asset.as_str() == "VND")
    };
    let later = |seconds: i64| at(10_000 + seconds);
    stores
        .posted(deposit(user, 10).shares("2").at(later(0)))
        .await;
    let hold = stores
        .posted(withdraw(user, 4).shares("1").pending().at(later(10)))
        .await
        .transaction
        .id;
    stores
        .posted(posting(user, TransactionType::YieldHarvest, amount("0.5")).at(later(20)))
        .await;
    // Two changes at one time: the later one counts.
    stores
        .posted(settle(user, hold, Settlement::Confirm).at(later(30)))
        .await;
    stores.posted(deposit(user, 1).at(later(30))).await;
    stores
        .posted(deposit(user, 7).asset("USDT").at(later(40)))
        .await;
    stores
        .posted(posting(user, TransactionType::YieldHarvest, amount("0.25")).at(later(50)))
        .await;

    let before = vnd(9_999).await.expect("the account came with the user");
    assert_eq!((before.total, before.version), (Amount::ZERO, 0));
    let told = |balance: Option<Balance>| {
        let balance = balance.expect("a balance in VND");
        assert_eq!(
            balance.available.checked_add(balance.locked),
            Some(balance.total)
        );
        (
            balance.available.to_string(),
            balance.locked.to_string(),
            balance.shares.to_string(),
            balance.locked_shares.to_string(),
            balance.total_yield_earned.to_string(),
            balance.last_yield_at,
            balance.version,
        )
    };
    let is = |available: &str,
              locked: &str,
              shares: &str,
              locked_shares: &str,
              earned: &str,
              last,
              version| {
        (
            available.to_owned(),
            locked.to_owned(),
            shares.to_owned(),
            locked_shares.to_owned(),
            earned.to_owned(),
            last,
            version,
        )
    };
    assert_eq!(
        told(vnd(10_000).await),
        is("10", "0", "2", "0", "0", None, 1),
        "that very time counts"
    );
    assert_eq!(
        told(vnd(10_009).await),
        is("10", "0", "2", "0", "0", None, 1)
    );
    assert_eq!(
        told(vnd(10_010).await),
        is("6", "4", "1", "1", "0", None, 2)
    );
    assert_eq!(
        told(vnd(10_029).await),
        is("6.5", "4", "1", "1", "0.5", Some(later(20)), 3)
    );
    assert_eq!(
        told(vnd(10_030).await),
        is("7.5", "0", "1", "0", "0.5", Some(later(20)), 5)
    );
    assert_eq!(
        told(vnd(10_050).await),
        is("7.75", "0", "1", "0", "0.75", Some(later(50)), 6)
    );

    let assets = async |seconds| {
        let balances = stores
            .ledger
            .balances_at(user, at(seconds), &asset("VND"))
            .await
            .unwrap()
            .unwrap();
        balances
            .into_iter()
            .map(|balance| balance.asset.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(assets(10_039).await, ["VND"]);
    assert_eq!(assets(10_040).await, ["USDT", "VND"]);
    let now = stores.ledger.balances(user).await.unwrap();
    assert_eq!(
        stores
            .ledger
            .balances_at(user, at(99_999), &asset("VND"))
            .await
            .unwrap(),
        now
    );
    stores.check_books().await;
}

/// The account in the default asset is made with the user; the others by their first posting.
async fn an_account_that_was_there_is_shown_before_its_first_change(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user("An").await;
    let (vnd, usdt) = (asset("VND"), asset("USDT"));
    let shown = async |then, default_asset| {
        let balances = stores.ledger.balances_at(user.id, then, default_asset);
        balances.await.unwrap().unwrap()
    };
    let now = async || stores.ledger.balances(user.id).await.unwrap().unwrap();
    let just_before = user.created_at.minus(Duration::from_micros(1));
    assert_eq!(shown(just_before, &vnd).await, vec![], "no user yet");
    // Nothing has changed to this day: it is the account that came with the user, whatever the default is now.
    let empty = now().await;
    assert_eq!((empty.len(), empty[0].asset, empty[0].version), (1, vnd, 0));
    for default_asset in [&vnd, &usdt] {
        assert_eq!(shown(user.created_at, default_asset).await, empty);
    }

    let later = |seconds: i64| at(10_000 + seconds);
    let dearer = stores
        .ledger
        .put_asset(
            &context(),
            &vnd,
            amount("1000001"),
            Expected::Anything,
            later(5),
        )
        .await;
    assert!(dearer.is_ok(), "{dearer:?}");
    stores.posted(deposit(user.id, 1).at(later(10))).await;
    stores
        .posted(deposit(user.id, 1).asset("USDT").at(later(20)))
        .await;
    assert_eq!(shown(just_before, &vnd).await, vec![]);
    assert_eq!(shown(user.created_at, &vnd).await, empty);
    assert_eq!(shown(later(4), &vnd).await, empty);
    let price_then = Balance {
        share_price: amount("1000001"),
        ..empty[0].clone()
    };
    assert_eq!(shown(later(9), &vnd).await, vec![price_then]);
    let names = |balances: Vec<Balance>| {
        let names = balances.iter().map(|balance| balance.asset.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(shown(later(19), &vnd).await), ["VND"]);
    assert_eq!(shown(later(20), &vnd).await, now().await);
    stores.check_books().await;
}

async fn balances_at_of_an_unknown_user_are_none(stores: &Relational) {
    let nobody = UserId::new(at(0));
    assert_eq!(
        stores
            .ledger
            .balances_at(nobody, at(0), &asset("VND"))
            .await
            .unwrap(),
        None
    );
}

/// Where it is in a list: ids sort by the microsecond that they were made in.
fn place(transaction: &Transaction) -> TransactionId {
    transaction.id
}

async fn list(
    stores: &Relational,
    user: UserId,
    filter: &TransactionFilter,
    after: Option<TransactionId>,
    limit: u32,
) -> Vec<Transaction> {
    let page = Page { after, limit };
    stores
        .ledger
        .transactions(user, filter, &page)
        .await
        .unwrap()
        .expect("the user")
}

async fn transactions_are_listed_newest_first(stores: &Relational) {
    let user = stores.user("An").await.id;
    let mut expected = Vec::new();
    for seconds in [100, 100, 100, 101, 102, 102] {
        let posted = stores
            .posted(deposit(user, 1).at(at(10_000 + seconds)))
            .await;
        expected.push(posted.transaction);
    }
    expected.sort_by_key(|transaction| (transaction.created_at, transaction.id));
    expected.reverse();
    let all = TransactionFilter::default();
    assert_eq!(list(stores, user, &all, None, 200).await, expected);
    assert_eq!(list(stores, user, &all, None, 2).await, expected[..2]);
    let after = Some(place(&expected[1]));
    assert_eq!(list(stores, user, &all, after, 3).await, expected[2..5]);
    let after = Some(place(&expected[5]));
    assert!(list(stores, user, &all, after, 3).await.is_empty());

    let nobody = UserId::new(at(0));
    let page = Page {
        after: None,
        limit: 10,
    };
    assert_eq!(
        stores
            .ledger
            .transactions(nobody, &all, &page)
            .await
            .unwrap(),
        None
    );
    let poor = stores.user("Binh").await.id;
    assert_eq!(
        stores.ledger.transactions(poor, &all, &page).await.unwrap(),
        Some(vec![])
    );
}

async fn pages_neither_repeat_nor_omit_while_rows_are_inserted(stores: &Relational) {
    let user = stores.user("An").await.id;
    let mut there = Vec::new();
    for index in 0..30 {
        // Groups of five share a microsecond, so that the id decides.
        let posted = stores
            .posted(deposit(user, 1).at(at(10_000 + index / 5)))
            .await;
        there.push(place(&posted.transaction));
    }
    there.sort();
    there.reverse();
    let all = TransactionFilter::default();
    let mut listed = Vec::new();
    loop {
        let rows = list(stores, user, &all, listed.last().copied(), 4).await;
        if rows.is_empty() {
            break;
        }
        listed.extend(rows.iter().map(place));
        stores.posted(deposit(user, 1).at(at(20_000))).await;
        // A status changes under way; the order does not.
        let pending = stores
            .posted(deposit(user, 1).pending().at(at(20_000)))
            .await;
        stores
            .posted(settle(user, pending.transaction.id, Settlement::Confirm).at(at(20_001)))
            .await;
    }
    assert_eq!(listed, there);
}

async fn transactions_are_chosen_by_each_filter(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user("An").await.id;
    let commands = [
        deposit(user, 50).at(at(10_001)).tx_hash("0xaa"),
        deposit(user, 50)
            .asset("USDT")
            .at(at(10_002))
            .reference("ref"),
        withdraw(user, 1).at(at(10_003)).tx_hash("0xaa"),
        withdraw(user, 1).pending().at(at(10_004)),
        posting(user, TransactionType::YieldHarvest, units(1))
            .asset("USDT")
            .at(at(10_005)),
    ];
    let mut ids = Vec::new();
    for command in commands {
        ids.push(stores.posted(command).await.transaction.id);
    }
    let chosen = async |filter: TransactionFilter| {
        let rows = list(stores, user, &filter, None, 200).await;
        let mut numbers: Vec<usize> = rows
            .iter()
            .map(|row| ids.iter().position(|id| *id == row.id).unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    let all = TransactionFilter::default;
    assert_eq!(chosen(all()).await, [0, 1, 2, 3, 4]);
    let kind = |kind| TransactionFilter {
        kind: Some(kind),
        ..all()
    };
    assert_eq!(chosen(kind(TransactionType::Deposit)).await, [0, 1]);
    assert_eq!(
        chosen(kind(TransactionType::ReferralBonus)).await,
        Vec::<usize>::new()
    );
    let status = |status| TransactionFilter {
        status: Some(status),
        ..all()
    };
    assert_eq!(chosen(status(TransactionStatus::Pending)).await, [3]);
    assert_eq!(
        chosen(status(TransactionStatus::Confirmed)).await,
        [0, 1, 2, 4]
    );
    let usdt = TransactionFilter {
        asset: Some(asset("USDT")),
        ..all()
    };
    assert_eq!(chosen(usdt.clone()).await, [1, 4]);
    let between = TransactionFilter {
        from: Some(at(10_002)),
        to: Some(at(10_004)),
        ..all()
    };
    assert_eq!(
        chosen(between).await,
        [1, 2],
        "from is inclusive, to is not"
    );
    let reference = TransactionFilter {
        client_reference: Some("ref".to_owned()),
        ..all()
    };
    assert_eq!(chosen(reference).await, [1]);
    let no_pattern = TransactionFilter {
        client_reference: Some("r%".to_owned()),
        ..all()
    };
    assert_eq!(chosen(no_pattern).await, Vec::<usize>::new());
    let hash = TransactionFilter {
        tx_hash: Some("0xaa".to_owned()),
        ..all()
    };
    assert_eq!(chosen(hash.clone()).await, [0, 2]);
    let both = TransactionFilter {
        kind: Some(TransactionType::Withdraw),
        ..hash
    };
    assert_eq!(chosen(both).await, [2]);
    let every = TransactionFilter {
        kind: Some(TransactionType::YieldHarvest),
        status: Some(TransactionStatus::Confirmed),
        from: Some(at(10_005)),
        to: Some(at(10_006)),
        ..usdt
    };
    assert_eq!(chosen(every).await, [4]);

    // Filters and pages together.
    let deposits = kind(TransactionType::Deposit);
    let first = list(stores, user, &deposits, None, 1).await;
    let second = list(stores, user, &deposits, Some(place(&first[0])), 1).await;
    assert_eq!((first[0].id, second[0].id), (ids[1], ids[0]));
    assert!(
        list(stores, user, &deposits, Some(place(&second[0])), 1)
            .await
            .is_empty()
    );
}

async fn one_user_s_reads_show_nothing_of_another(stores: &Relational) {
    let (an, binh) = (
        stores.user_with("An", 10).await,
        stores.user_with("Binh", 20).await,
    );
    let rows = list(stores, an, &TransactionFilter::default(), None, 200).await;
    assert!(rows.iter().all(|row| row.user_id == an));
    assert_eq!(rows.len(), 1);
    let others = list(stores, binh, &TransactionFilter::default(), None, 200).await[0].id;
    assert_eq!(stores.ledger.transaction(an, others).await.unwrap(), None);
    assert!(
        stores
            .ledger
            .transaction_history(an, others, &history_page())
            .await
            .unwrap()
            .is_empty()
    );
    let history = stores
        .audit
        .history(an, None, &history_cursor())
        .await
        .unwrap()
        .unwrap();
    assert!(history.iter().all(|row| row.entry.user_id == an));
}

const fn history_page() -> Page<i64> {
    Page {
        after: None,
        limit: 200,
    }
}

const fn history_cursor() -> Page<abunfi::audit::HistoryCursor> {
    Page {
        after: None,
        limit: 200,
    }
}

async fn statistics_count_and_sum_by_type_and_month(stores: &Relational) {
    let user = stores.user("An").await.id;
    let time = |text: &str| Timestamp::parse(text).unwrap();
    let since = time("2026-04-01T00:00:00Z");
    let pending_at = time("2026-06-15T12:00:00Z");
    for command in [
        // Before the beginning by a microsecond: not counted.
        deposit(user, 1_000).at(time("2026-03-31T23:59:59.999999Z")),
        deposit(user, 10).at(since),
        deposit(user, 20).at(time("2026-04-30T23:59:59.999999Z")),
        // Already May in UTC.
        deposit(user, 40).at(time("2026-05-01T00:00:00Z")),
        posting(user, TransactionType::Withdraw, amount("5.000001"))
            .at(time("2026-05-02T00:00:00Z")),
        posting(user, TransactionType::Withdraw, amount("0.000002"))
            .at(time("2026-05-02T00:00:00Z")),
        posting(user, TransactionType::YieldHarvest, amount("0.5"))
            .at(time("2026-06-01T00:00:00Z")),
        deposit(user, 7).pending().at(pending_at),
    ] {
        stores.posted(command).await;
    }
    let failed = stores
        .posted(withdraw(user, 3).pending().at(pending_at))
        .await
        .transaction
        .id;
    stores
        .posted(settle(user, failed, Settlement::Fail).at(pending_at))
        .await;
    // Confirmed in July, created in June: it counts where it was created.
    let late = stores
        .posted(deposit(user, 100).pending().at(pending_at))
        .await
        .transaction
        .id;
    stores
        .posted(settle(user, late, Settlement::Confirm).at(time("2026-07-01T00:00:00Z")))
        .await;

    let stats = stores.ledger.stats(user, since).await.unwrap().unwrap();
    let mut by_type: Vec<_> = stats
        .by_type
        .iter()
        .map(|row| {
            (
                row.kind.as_str(),
                row.status.as_str(),
                row.count,
                row.sum.to_string(),
            )
        })
        .collect();
    by_type.sort_unstable();
    let row = |kind, status, count, sum: &str| (kind, status, count, sum.to_owned());
    assert_eq!(
        by_type,
        [
            row("deposit", "confirmed", 4, "170"),
            row("deposit", "pending", 1, "7"),
            row("withdraw", "confirmed", 2, "5.000003"),
            row("withdraw", "failed", 1, "3"),
            row("yield_harvest", "confirmed", 1, "0.5"),
        ]
    );
    let months: Vec<_> = stats
        .by_month
        .iter()
        .map(|row| row.month.as_str())
        .collect();
    assert!(months.is_sorted(), "{months:?}");
    let mut by_month: Vec<_> = stats
        .by_month
        .iter()
        .map(|row| {
            (
                row.month.as_str(),
                row.kind.as_str(),
                row.count,
                row.sum.to_string(),
            )
        })
        .collect();
    by_month.sort_unstable();
    assert_eq!(
        by_month,
        [
            row("2026-04", "deposit", 2, "30"),
            row("2026-05", "deposit", 1, "40"),
            row("2026-05", "withdraw", 2, "5.000003"),
            row("2026-06", "deposit", 1, "100"),
            row("2026-06", "yield_harvest", 1, "0.5"),
        ]
    );
    assert_eq!(
        stores
            .ledger
            .stats(UserId::new(at(0)), since)
            .await
            .unwrap(),
        None
    );
    let poor = stores.user("Binh").await.id;
    let none = stores.ledger.stats(poor, since).await.unwrap().unwrap();
    assert!(none.by_type.is_empty() && none.by_month.is_empty());
}

/// Twelve times 10¹² units are more micro-units than 64 bits hold.
async fn statistics_of_large_sums_do_not_overflow(stores: &Relational) {
    let user = stores.user("An").await.id;
    for _ in 0..12 {
        let id = stores
            .posted(posting(user, TransactionType::Deposit, Amount::MAX).pending())
            .await;
        let id = id.transaction.id;
        stores.posted(settle(user, id, Settlement::Fail)).await;
    }
    let stats = stores
        .ledger
        .stats(user, at(-1_000_000))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stats.by_type.len(), 1);
    assert_eq!(
        stats.by_type[0].sum,
        SignedSum::from_micros(12 * 999_999_999_999_999_999)
    );

    for index in 0..12 {
        let rich = stores.user(&format!("rich-{index}")).await.id;
        stores
            .posted(posting(rich, TransactionType::Deposit, Amount::MAX))
            .await;
    }
    let sheets = stores.ledger.trial_balance().await.unwrap();
    assert_eq!(
        sheets[0].users,
        SignedSum::from_micros(12 * 999_999_999_999_999_999)
    );
    stores.check_books().await;
}

async fn the_trial_balance_is_zero_for_users_in_every_state(stores: &Relational) {
    stores.asset("USDT").await;
    let sum = |text: &str| SignedSum::parse(text).unwrap();
    for index in 0..3 {
        let user = stores.user_with(&format!("user-{index}"), 100).await;
        stores
            .posted(posting(user, TransactionType::YieldHarvest, amount("2.5")))
            .await;
        stores
            .posted(posting(user, TransactionType::ReferralBonus, units(4)))
            .await;
        stores.posted(withdraw(user, 10)).await;
        stores.posted(withdraw(user, 20).pending()).await;
        stores.posted(deposit(user, 1_000).pending()).await;
        let paid = stores
            .posted(withdraw(user, 1).pending())
            .await
            .transaction
            .id;
        stores.posted(submit(user, paid)).await;
        stores.posted(settle(user, paid, Settlement::Confirm)).await;
        let failed = stores
            .posted(withdraw(user, 1).pending())
            .await
            .transaction
            .id;
        stores.posted(settle(user, failed, Settlement::Fail)).await;
        stores.posted(deposit(user, 3).asset("USDT")).await;
    }
    stores.user("poor").await;
    let sheets = stores.ledger.trial_balance().await.unwrap();
    assert_eq!(
        sheets,
        [
            TrialBalance {
                asset: asset("USDT"),
                users: sum("9"),
                custody: sum("-9"),
                yield_: SignedSum::ZERO,
                promotions: SignedSum::ZERO,
                fees: SignedSum::ZERO,
                net: SignedSum::ZERO,
                accounts: 3,
            },
            TrialBalance {
                asset: asset("VND"),
                // Each: 100 + 2.5 + 4 − 10 − 1; what is held is still the user's.
                users: sum("286.5"),
                custody: sum("-267"),
                yield_: sum("-7.5"),
                promotions: sum("-12"),
                fees: SignedSum::ZERO,
                net: SignedSum::ZERO,
                accounts: 4,
            },
        ]
    );
    stores.check_books().await;
}

async fn expired_holds_are_found_and_no_others(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    let now = at(50_000);
    let second = Duration::from_secs(1);
    let hold = async |expires_at: Option<Timestamp>| {
        let mut command = withdraw(user, 1).pending();
        if let Some(expires_at) = expires_at {
            command = command.expires(expires_at);
        }
        stores.posted(command).await.transaction.id
    };
    let past = Some(now.minus(second));
    let expired = hold(past).await;
    hold(Some(now.plus(second))).await;
    hold(None).await;
    let submitted = hold(past).await;
    stores.posted(submit(user, submitted)).await;
    let cancelled = hold(past).await;
    stores
        .posted(settle(user, cancelled, Settlement::Cancel))
        .await;
    let confirmed = hold(past).await;
    stores
        .posted(settle(user, confirmed, Settlement::Confirm))
        .await;

    assert_eq!(
        stores.ledger.expired_holds(now, 100).await.unwrap(),
        [(user, expired)]
    );
    let overdue = async |now| {
        let backlog = stores.ledger.backlog(now, at(0), 100).await;
        backlog.unwrap().overdue_holds
    };
    let one = Due {
        count: 1,
        oldest: past,
    };
    assert_eq!(overdue(now).await, one);
    assert_eq!(overdue(at(0)).await, Due::default());
    assert!(
        stores
            .ledger
            .expired_holds(at(0), 100)
            .await
            .unwrap()
            .is_empty()
    );
    // As the expiry does it.
    stores
        .posted(settle(user, expired, Settlement::Cancel).unless_submitted())
        .await;
    assert!(
        stores
            .ledger
            .expired_holds(now, 100)
            .await
            .unwrap()
            .is_empty()
    );
    stores.check_books().await;
}

async fn expired_holds_come_a_few_at_a_time(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    for _ in 0..7 {
        stores
            .posted(withdraw(user, 1).pending().expires(at(40_000)))
            .await;
    }
    let now = at(50_000);
    for (up_to, count) in [(100, 7), (3, 3)] {
        let backlog = stores.ledger.backlog(now, at(0), up_to).await.unwrap();
        let oldest = Some(at(40_000));
        assert_eq!(backlog.overdue_holds, Due { count, oldest });
    }
    let mut rounds = Vec::new();
    loop {
        let expired = stores.ledger.expired_holds(now, 3).await.unwrap();
        if expired.is_empty() {
            break;
        }
        rounds.push(expired.len());
        for (user, id) in expired {
            stores
                .posted(settle(user, id, Settlement::Cancel).unless_submitted())
                .await;
        }
    }
    assert_eq!(rounds, [3, 3, 1]);
    assert_eq!(stores.balance(user).await, (units(100), Amount::ZERO));
    stores.check_books().await;
}

/// Sums far beyond 64 bits, with rests that carry.
async fn the_trial_balance_is_exact_over_many_large_balances(stores: &Relational) {
    const USERS: i64 = 40;
    let most = "999999999999.999999";
    for index in 0..USERS {
        let user = stores.user(&format!("rich-{index}")).await.id;
        for kind in [TransactionType::Deposit, TransactionType::YieldHarvest] {
            stores
                .posted(posting(user, kind, amount("499999999999.999999")))
                .await;
        }
        stores
            .posted(posting(
                user,
                TransactionType::ReferralBonus,
                amount("0.000001"),
            ))
            .await;
        let all = stores.balance(user).await.0;
        stores
            .posted(posting(user, TransactionType::Withdraw, all))
            .await;
        stores
            .posted(posting(user, TransactionType::Deposit, amount(most)))
            .await;
    }
    let sheets = stores.ledger.trial_balance().await.unwrap();
    let sheet = &sheets[0];
    let (max, half) = (
        i128::from(Amount::MAX.micros()),
        499_999_999_999_999_999_i128,
    );
    let sum = |each: i128| SignedSum::from_micros(each * i128::from(USERS));
    assert_eq!(sheet.accounts, USERS);
    assert_eq!(sheet.users, sum(max));
    assert_eq!(sheet.custody, sum(2 * half + 1 - half - max));
    assert_eq!(sheet.yield_, sum(-half));
    assert_eq!(sheet.promotions, sum(-1));
    assert_eq!(sheet.net, SignedSum::ZERO);
    assert!(
        sheet.users.micros() > i128::from(i64::MAX),
        "beyond 64 bits"
    );
}
