//! The trail: append-only in the database itself, chained by hashes, read newest first.

use std::sync::Arc;

use abunfi::audit::{AuditRow, HistoryCursor, PLATFORM, USER_CHAIN};
use abunfi::context::{Actor, ActorKind, Context, Principal};
use abunfi::ids::{KeyId, SessionId, UserId, random_bytes};
use abunfi::ledger::{Command, Page, Settlement};
use abunfi::users::{KycChange, KycStatus};

use crate::support::make::{Shape as _, at, context, deposit, next_time, settle, withdraw};
use crate::support::{Backend, Relational, on_every_backend};

on_every_backend!(
    the_trail_refuses_update_and_delete,
    entries_refuse_update_and_delete,
    the_database_itself_refuses_a_negative_balance,
    the_database_itself_refuses_books_that_do_not_balance,
    the_database_itself_refuses_a_balance_beyond_its_bound,
    the_database_itself_refuses_a_transaction_without_an_account,
    a_row_that_was_changed_behind_the_triggers_is_found,
    every_actor_is_kept_as_it_was,
    a_history_is_listed_newest_first,
    a_history_is_paged_without_repeating_or_omitting,
    a_history_of_one_chain_shows_that_chain_only,
    a_history_of_an_unknown_user_is_none,
    a_chain_is_read_from_any_row_on,
    the_trail_outlives_what_it_tells_of,
);

/// Something in every table that a test of refusals touches.
async fn some_history(stores: &Relational) -> UserId {
    let user = stores.user_with("An", 10).await;
    stores.posted(withdraw(user, 2).pending()).await;
    user
}

/// The database must refuse it as breaking a rule of its own; the rule's name, or what the database says.
async fn refused(stores: &Relational, sql: &str) -> String {
    let error = match stores.raw.execute(sql).await {
        Ok(rows) => panic!("{sql} changed {rows} rows"),
        Err(sqlx::Error::Database(error)) => error,
        Err(error) => panic!("{sql}: {error}"),
    };
    let code = error.code().unwrap_or_default();
    let breaks_a_rule = match stores.backend {
        Backend::Postgres => code.starts_with("23"),
        // The low byte of the extended code: SQLITE_CONSTRAINT.
        Backend::Sqlite => code.parse::<i32>().is_ok_and(|code| code % 256 == 19),
    };
    assert!(breaks_a_rule, "{sql}: {error}");
    error.constraint().unwrap_or(error.message()).to_owned()
}

async fn the_trail_refuses_update_and_delete(stores: &Relational) {
    some_history(stores).await;
    let dump = "SELECT count(*) FROM audit WHERE request_id LIKE 'request-%'";
    let before = stores.raw.number(dump).await;
    assert!(before >= 2);
    for sql in [
        "UPDATE audit SET request_id = 'forged'",
        "UPDATE audit SET amount = amount + 1 WHERE seq = 1",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 1",
    ] {
        refused(stores, sql).await;
    }
    if stores.backend == Backend::Postgres {
        refused(stores, "TRUNCATE audit").await;
    } else {
        // Which deletes what is in its way, without asking the triggers for deletion; a row that has the
        // same row id is in its way as well.
        for sql in [
            "INSERT OR REPLACE INTO audit SELECT * FROM audit",
            "INSERT OR REPLACE INTO audit (rowid, user_id, chain, seq, action, actor_kind, actor_id,
                 request_id, at, previous_hash, hash)
             SELECT rowid, user_id, chain, seq + 100, action, actor_kind, actor_id,
                 request_id, at, previous_hash, hash FROM audit",
        ] {
            refused(stores, sql).await;
        }
    }
    assert_eq!(stores.raw.number(dump).await, before);
    stores.check_books().await;
}

async fn entries_refuse_update_and_delete(stores: &Relational) {
    some_history(stores).await;
    let before = stores.raw.number("SELECT count(*) FROM entries").await;
    assert_eq!(before, 2);
    for sql in [
        "UPDATE entries SET amount = amount * 2",
        "DELETE FROM entries",
    ] {
        refused(stores, sql).await;
    }
    if stores.backend == Backend::Postgres {
        refused(stores, "TRUNCATE entries").await;
    } else {
        refused(
            stores,
            "INSERT OR REPLACE INTO entries SELECT * FROM entries",
        )
        .await;
    }
    assert_eq!(
        stores.raw.number("SELECT count(*) FROM entries").await,
        before
    );
    stores.check_books().await;
}

/// The account of [`some_history`] has 8 available and 2 locked. Each change keeps the books balanced, so
/// that nothing but the sign is wrong with it; the first shows that such a change is possible at all.
async fn the_database_itself_refuses_a_negative_balance(stores: &Relational) {
    some_history(stores).await;
    let changed = stores
        .raw
        .execute("UPDATE accounts SET available = 0, withdrawn = withdrawn + 8000000")
        .await
        .unwrap();
    assert_eq!(changed, 1);
    for sql in [
        "UPDATE accounts SET available = available - 1, withdrawn = withdrawn + 1",
        "UPDATE accounts SET available = available + 2000001, locked = locked - 2000001",
        "UPDATE accounts SET available = available + 8000001, withdrawn = withdrawn - 8000001",
        "UPDATE accounts SET shares = -1",
        "UPDATE accounts SET locked_shares = -1",
    ] {
        let constraint = refused(stores, sql).await;
        assert!(
            constraint.contains("accounts_not_negative_check"),
            "{sql}: {constraint}"
        );
    }
}

async fn the_database_itself_refuses_books_that_do_not_balance(stores: &Relational) {
    some_history(stores).await;
    for sql in [
        "UPDATE accounts SET available = available + 1",
        "UPDATE accounts SET locked = locked - 1",
        "UPDATE accounts SET deposited = deposited + 1",
        "UPDATE accounts SET bonuses = 5",
        "UPDATE accounts SET available = available + 5, withdrawn = withdrawn + 5",
    ] {
        let constraint = refused(stores, sql).await;
        assert!(
            constraint.contains("accounts_books_check"),
            "{sql}: {constraint}"
        );
    }
    // Between available and locked the books have no say.
    let moved = "UPDATE accounts SET available = available - 1, locked = locked + 1";
    assert_eq!(stores.raw.execute(moved).await.unwrap(), 1);
}

async fn the_database_itself_refuses_a_balance_beyond_its_bound(stores: &Relational) {
    some_history(stores).await;
    let bound = "999999999999999999";
    let up_to = |available: &str| {
        format!(
            "UPDATE accounts SET available = {available} - locked, deposited = {available} + withdrawn"
        )
    };
    assert_eq!(stores.raw.execute(&up_to(bound)).await.unwrap(), 1);
    let constraint = refused(stores, &up_to("1000000000000000000")).await;
    assert!(constraint.contains("accounts_bound_check"), "{constraint}");
    let constraint = refused(stores, "UPDATE accounts SET shares = 1000000000000000000").await;
    assert!(constraint.contains("accounts_bound_check"), "{constraint}");
}

async fn the_database_itself_refuses_a_transaction_without_an_account(stores: &Relational) {
    some_history(stores).await;
    refused(stores, "DELETE FROM accounts").await;
    refused(stores, "DELETE FROM users").await;
    refused(stores, "UPDATE transactions SET asset = 'NOSUCH'").await;
    refused(stores, "DELETE FROM transactions").await;
    let copy = "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at, confirmed_at)
         SELECT user_id, user_id, type, status, 'NOSUCH', amount, created_at, confirmed_at FROM transactions LIMIT 1";
    let constraint = refused(stores, copy).await;
    if stores.backend == Backend::Postgres {
        assert!(
            constraint.contains("transactions_account_fkey"),
            "{constraint}"
        );
    }
    let copy = "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
         SELECT user_id, user_id, account, asset, amount, at FROM entries LIMIT 1";
    let constraint = refused(stores, copy).await;
    if stores.backend == Backend::Postgres {
        assert!(
            constraint.contains("entries_transaction_fkey"),
            "{constraint}"
        );
    }
    if stores.backend == Backend::Postgres {
        for table in [
            "accounts",
            "transactions",
            "entries",
            "accounts, transactions",
        ] {
            refused(stores, &format!("TRUNCATE {table}")).await;
        }
    }
    refused(stores, "UPDATE transactions SET status = 'done'").await;
    refused(stores, "UPDATE transactions SET amount = 0").await;
    stores.check_books().await;
}

/// The test of the test: the verifier sees what an administrator could do.
async fn a_row_that_was_changed_behind_the_triggers_is_found(stores: &Relational) {
    let user = some_history(stores).await;
    let rows = stores.check_chain(user, "VND").await;
    assert!(rows.iter().all(|row| row.hash == row.computed_hash()));
    if stores.backend == Backend::Postgres {
        stores
            .raw
            .execute("ALTER TABLE audit DISABLE TRIGGER USER")
            .await
            .unwrap();
    } else {
        let triggers =
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'";
        for trigger in stores.raw.texts(triggers).await {
            stores
                .raw
                .execute(&format!("DROP TRIGGER {trigger}"))
                .await
                .unwrap();
        }
    }
    stores
        .raw
        .execute("UPDATE audit SET amount = amount + 1 WHERE seq = 1")
        .await
        .unwrap();
    let read = stores.audit.chain(user, "VND", 0, 10).await.unwrap();
    assert_ne!(
        read[0].entry.hash,
        read[0].entry.computed_hash(),
        "the changed row"
    );
    assert_eq!(
        read[1].entry.hash,
        read[1].entry.computed_hash(),
        "the row after it"
    );
}

async fn every_actor_is_kept_as_it_was(stores: &Relational) {
    let user = stores.user("An").await.id;
    let actors = [
        Actor::service_key(KeyId::new(at(1))),
        Actor::session(user, SessionId::new(at(2))),
        Actor::system("expiry"),
        Actor {
            kind: ActorKind::ServiceKey,
            id: "admin".into(),
            session_id: None,
        },
    ];
    for actor in &actors {
        let command = Command {
            context: Arc::new(Context::new(
                actor.clone(),
                Principal::key_owner("admin"),
                "xin-chào-1",
            )),
            ..deposit(user, 1)
        };
        stores.posted(command).await;
    }
    let rows = stores.check_chain(user, "VND").await;
    let kept: Vec<_> = rows.iter().map(|row| row.actor.clone()).collect();
    assert_eq!(kept, actors);
    assert!(rows.iter().all(|row| *row.request_id == *"xin-chào-1"));
}

/// Chains `USDT`, `VND` and `user`, some of their rows at the same time.
async fn three_chains(stores: &Relational) -> UserId {
    stores.asset("USDT").await;
    let user = stores.user("An").await.id;
    for round in 0..3 {
        let time = at(10_000 + round);
        stores.posted(deposit(user, 5).at(time)).await;
        stores.posted(deposit(user, 5).asset("USDT").at(time)).await;
        let hold = stores
            .posted(withdraw(user, 1).pending().at(time))
            .await
            .transaction
            .id;
        let cancel = settle(user, hold, Settlement::Cancel)
            .at(time)
            .saying(|details| details.reason = Some(format!("reason {round}")));
        stores.posted(cancel).await;
        let kyc = KycChange {
            status: KycStatus::Rejected,
            data: None,
            reason: Some(format!("kyc {round}")),
            salts: [random_bytes(), random_bytes()],
        };
        stores
            .users
            .set_kyc(&context(), user, &kyc, None, time)
            .await
            .unwrap();
    }
    user
}

type Place = (abunfi::clock::Timestamp, String, i64);

fn place(row: &AuditRow) -> Place {
    (row.entry.at, row.entry.chain.clone(), row.entry.seq)
}

async fn history(
    stores: &Relational,
    user: UserId,
    chain: Option<&str>,
    after: Option<&Place>,
    limit: u32,
) -> Vec<AuditRow> {
    let after = after
        .cloned()
        .map(|(at, chain, seq)| HistoryCursor { at, chain, seq });
    let page = Page { after, limit };
    stores
        .audit
        .history(user, chain, &page)
        .await
        .unwrap()
        .expect("the user")
}

async fn a_history_is_listed_newest_first(stores: &Relational) {
    let user = three_chains(stores).await;
    let rows = history(stores, user, None, None, 200).await;
    assert_eq!(rows.len(), 15);
    let places: Vec<_> = rows.iter().map(place).collect();
    let mut sorted = places.clone();
    sorted.sort_by(|one, other| {
        // Chains by their bytes, as everywhere.
        (other.0, other.1.as_bytes(), other.2).cmp(&(one.0, one.1.as_bytes(), one.2))
    });
    assert_eq!(places, sorted, "by time, chain and seq, all descending");
    for row in &rows {
        assert_eq!(row.entry.hash, row.entry.computed_hash());
        let reason = match row.entry.action.as_ref() {
            "post_deposit" | "post_withdraw" => None,
            "cancel" => Some(format!(
                "reason {}",
                row.entry.at.since(at(10_000)).as_secs()
            )),
            "kyc" => Some(format!("kyc {}", row.entry.at.since(at(10_000)).as_secs())),
            other => panic!("{other}"),
        };
        assert_eq!(row.reason, reason);
    }
}

async fn a_history_is_paged_without_repeating_or_omitting(stores: &Relational) {
    let user = three_chains(stores).await;
    let all: Vec<_> = history(stores, user, None, None, 200)
        .await
        .iter()
        .map(place)
        .collect();
    for limit in [1, 2, 4] {
        let mut listed: Vec<Place> = Vec::new();
        loop {
            let rows = history(stores, user, None, listed.last(), limit).await;
            assert!(rows.len() <= usize::try_from(limit).unwrap());
            if rows.is_empty() {
                break;
            }
            listed.extend(rows.iter().map(place));
            // Newer rows belong to no later page.
            stores.posted(deposit(user, 1).at(at(20_000))).await;
        }
        assert_eq!(
            listed[listed.len() - all.len()..],
            all[..],
            "pages of {limit}"
        );
        // What was newer when the next round began is in front, once.
        let distinct: std::collections::BTreeSet<_> = listed.iter().collect();
        assert_eq!(distinct.len(), listed.len());
    }
}

async fn a_history_of_one_chain_shows_that_chain_only(stores: &Relational) {
    let user = three_chains(stores).await;
    for (chain, rows) in [("VND", 9), ("USDT", 3), (USER_CHAIN, 3), ("NOSUCH", 0)] {
        let shown = history(stores, user, Some(chain), None, 200).await;
        assert_eq!(shown.len(), rows, "{chain}");
        assert!(shown.iter().all(|row| row.entry.chain == chain));
        let seqs: Vec<_> = shown.iter().rev().map(|row| row.entry.seq).collect();
        assert_eq!(seqs, (1..=i64::try_from(rows).unwrap()).collect::<Vec<_>>());
    }
    let first = history(stores, user, Some("VND"), None, 4).await;
    let rest = history(stores, user, Some("VND"), Some(&place(&first[3])), 200).await;
    assert_eq!((first.len(), rest.len()), (4, 5));
    assert_eq!(rest[0].entry.seq, 5);
}

async fn a_history_of_an_unknown_user_is_none(stores: &Relational) {
    let page = Page {
        after: None,
        limit: 10,
    };
    let nobody = UserId::new(at(0));
    assert_eq!(
        stores.audit.history(nobody, None, &page).await.unwrap(),
        None
    );
    assert_eq!(
        stores
            .audit
            .history(nobody, Some("VND"), &page)
            .await
            .unwrap(),
        None
    );
    let user = stores.user("An").await.id;
    assert_eq!(
        stores.audit.history(user, None, &page).await.unwrap(),
        Some(vec![])
    );
}

async fn a_chain_is_read_from_any_row_on(stores: &Relational) {
    let user = three_chains(stores).await;
    let seqs = async |after, limit| {
        let rows = stores.audit.chain(user, "VND", after, limit).await.unwrap();
        rows.iter().map(|row| row.entry.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(0, 200).await, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(seqs(0, 2).await, [1, 2]);
    assert_eq!(seqs(2, 3).await, [3, 4, 5]);
    assert_eq!(seqs(8, 3).await, [9]);
    assert!(seqs(9, 3).await.is_empty());
    assert!(
        stores
            .audit
            .chain(PLATFORM, "VND", 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let prices = stores
        .audit
        .chain(PLATFORM, "asset:USDT", 0, 10)
        .await
        .unwrap();
    assert_eq!(prices.len(), 1);
    let reasons = stores.audit.chain(user, "VND", 0, 3).await.unwrap();
    assert_eq!(reasons[2].reason.as_deref(), Some("reason 0"));
}

/// Nothing that happens to a user may touch the trail: no foreign key leads from it.
async fn the_trail_outlives_what_it_tells_of(stores: &Relational) {
    let user = stores.user("An").await.id;
    let kyc = KycChange {
        status: KycStatus::Verified,
        data: None,
        reason: None,
        salts: [random_bytes(), random_bytes()],
    };
    stores
        .users
        .set_kyc(&context(), user, &kyc, None, next_time())
        .await
        .unwrap();
    for table in [
        "documents",
        "document_heads",
        "accounts",
        "user_identities",
        "users",
    ] {
        stores
            .raw
            .execute(&format!("DELETE FROM {table}"))
            .await
            .unwrap();
    }
    assert_eq!(stores.check_chain(user, USER_CHAIN).await.len(), 1);
}
