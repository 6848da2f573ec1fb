//! What can be saved, and what a share of it costs.

use abunfi::audit::PLATFORM;
use abunfi::documents::Expected;
use abunfi::ledger::{AssetInfo, Error};

use crate::support::make::{Shape as _, amount, asset, context, deposit, next_time};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    an_asset_is_made_once_and_priced_again,
    the_price_that_is_there_is_no_change,
    a_price_is_changed_only_for_the_version_that_is_there,
    of_two_prices_for_one_version_at_once_one_is_set,
    prices_are_audited_in_the_asset_s_chain,
    balances_show_the_price,
);

async fn put(
    stores: &Relational,
    code: &str,
    price: &str,
    expected: Expected,
) -> Result<(AssetInfo, bool), Error> {
    stores
        .ledger
        .put_asset(
            &context(),
            &asset(code),
            amount(price),
            expected,
            next_time(),
        )
        .await
}

async fn an_asset_is_made_once_and_priced_again(stores: &Relational) {
    assert_eq!(stores.ledger.asset(&asset("GOLD")).await.unwrap(), None);
    let (made, is_new) = put(stores, "GOLD", "1.5", Expected::Anything)
        .await
        .unwrap();
    assert!(is_new);
    assert_eq!((made.share_price, made.version), (amount("1.5"), 1));
    assert_eq!(made.created_at, made.updated_at);
    assert_eq!(
        stores.ledger.asset(&asset("GOLD")).await.unwrap().as_ref(),
        Some(&made)
    );

    let (priced, is_new) = put(stores, "GOLD", "2", Expected::Anything).await.unwrap();
    assert!(!is_new);
    assert_eq!((priced.share_price, priced.version), (amount("2"), 2));
    assert_eq!(priced.created_at, made.created_at);
    assert!(priced.updated_at > made.updated_at);
    assert_eq!(
        stores.ledger.asset(&asset("GOLD")).await.unwrap(),
        Some(priced)
    );
}

async fn the_price_that_is_there_is_no_change(stores: &Relational) {
    let (made, _) = put(stores, "GOLD", "1.5", Expected::Anything)
        .await
        .unwrap();
    for expected in [Expected::Anything, Expected::Version(1)] {
        let same = put(stores, "GOLD", "1.5", expected).await.unwrap();
        assert_eq!(same, (made.clone(), false));
    }
    assert_eq!(stores.check_chain(PLATFORM, "asset:GOLD").await.len(), 1);
}

async fn a_price_is_changed_only_for_the_version_that_is_there(stores: &Relational) {
    let mismatch = async |expected, current| {
        let refused = put(stores, "GOLD", "9", expected).await;
        assert!(
            matches!(&refused, Err(Error::VersionMismatch { current: found }) if *found == current),
            "{expected:?}: {refused:?}"
        );
    };
    mismatch(Expected::Version(1), None).await;
    assert!(put(stores, "GOLD", "1", Expected::Absent).await.unwrap().1);
    mismatch(Expected::Absent, Some(1)).await;
    mismatch(Expected::Version(2), Some(1)).await;
    assert_eq!(
        put(stores, "GOLD", "2", Expected::Version(1))
            .await
            .unwrap()
            .0
            .version,
        2
    );
    mismatch(Expected::Version(1), Some(2)).await;
    let stands = stores.ledger.asset(&asset("GOLD")).await.unwrap().unwrap();
    assert_eq!((stands.share_price, stands.version), (amount("2"), 2));
    assert_eq!(
        stores.check_chain(PLATFORM, "asset:GOLD").await.len(),
        2,
        "a refusal is no change"
    );
}

async fn of_two_prices_for_one_version_at_once_one_is_set(stores: &Relational) {
    for version in 0..5_i64 {
        let expected = if version == 0 {
            Expected::Absent
        } else {
            Expected::Version(version)
        };
        let results = at_once(6, |index| {
            let stores = stores.clone();
            async move {
                put(
                    &stores,
                    "GOLD",
                    &format!("{version}.{}", index + 1),
                    expected,
                )
                .await
            }
        })
        .await;
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        let mismatched = results
            .iter()
            .filter(|result| {
                matches!(result, Err(Error::VersionMismatch { current }) if *current == Some(version + 1))
            })
            .count();
        assert_eq!(mismatched, 5, "{results:?}");
    }
    let results = at_once(8, |index| {
        let (stores, price) = (stores.clone(), (index + 1).to_string());
        async move {
            put(&stores, "SILVER", &price, Expected::Anything)
                .await
                .unwrap()
        }
    })
    .await;
    assert_eq!(results.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert_eq!(
        stores
            .ledger
            .asset(&asset("SILVER"))
            .await
            .unwrap()
            .unwrap()
            .version,
        8
    );
    assert_eq!(stores.check_chain(PLATFORM, "asset:SILVER").await.len(), 8);
    assert_eq!(stores.check_chain(PLATFORM, "asset:GOLD").await.len(), 5);
}

async fn prices_are_audited_in_the_asset_s_chain(stores: &Relational) {
    put(stores, "GOLD", "1.5", Expected::Anything)
        .await
        .unwrap();
    put(stores, "GOLD", "2.5", Expected::Anything)
        .await
        .unwrap();
    put(stores, "SILVER", "7", Expected::Anything)
        .await
        .unwrap();
    let rows = stores.check_chain(PLATFORM, "asset:GOLD").await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.action == "share_price"));
    assert!(rows.iter().all(|row| row.actor == context().actor));
    assert!(
        rows.iter()
            .all(|row| row.request_id == context().request_id)
    );
    // Somewhere in each row stands the price that it set.
    for (row, price) in rows.iter().zip(["1.5", "2.5"]) {
        let said = row.amount == Some(amount(price)) || row.new_status.as_deref() == Some(price);
        assert!(said, "{row:?} says {price}");
    }
    assert_eq!(stores.check_chain(PLATFORM, "asset:SILVER").await.len(), 1);
}

async fn balances_show_the_price(stores: &Relational) {
    put(stores, "GOLD", "1.5", Expected::Anything)
        .await
        .unwrap();
    let user = stores.user_with("An", 1).await;
    stores.posted(deposit(user, 1).asset("GOLD")).await;
    put(stores, "GOLD", "3", Expected::Anything).await.unwrap();
    let balances = stores.ledger.balances(user).await.unwrap().unwrap();
    let shown: Vec<_> = balances
        .iter()
        .map(|balance| (balance.asset.as_str(), balance.share_price))
        .collect();
    assert_eq!(
        shown,
        [
            ("GOLD", amount("3")),
            ("VND", abunfi::ledger::first_share_price())
        ]
    );
    stores.check_books().await;
}
