//! How PostgreSQL reads a user's transactions, by what it counts itself: as many rows as are shown, by the
//! primary key, of a user who has a great many.

use std::time::{Duration, Instant};

use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{Page, TransactionFilter, TransactionStatus, TransactionType};

use crate::support::make::{asset, at};
use crate::support::{Raw, Relational, on_one_backend};

on_one_backend!(postgres, Postgres:
    lists_read_the_rows_that_they_show_by_the_primary_key,
    lists_that_search_read_one_user_s_rows_only,
);

/// Of one user: most of what there is.
const ROWS: i64 = 4_000;
/// Of each of the others, who are so many that the planner, which knows how many rows a user has on average,
/// takes a user for a small part of the table.
const ROWS_OF_FEW: i64 = 50;
const OTHERS: usize = 40;
const LIMIT: u32 = 20;

/// A connection counts for itself, and says it a second after it last did, or when it was idle for ten.
const COUNTED: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// What was read of the transactions since the database was made.
#[derive(Debug, Clone, Copy)]
struct Reads {
    of_whole_table: i64,
    by_primary_key: i64,
    by_any_index: i64,
    /// Rows that came of indexes.
    rows: i64,
}

impl Reads {
    async fn of(raw: &Raw) -> Self {
        let one = async |what: &str, of: &str| {
            raw.number(&format!("SELECT coalesce({what}, 0)::bigint FROM {of}"))
                .await
        };
        let table = "pg_stat_user_tables WHERE relname = 'transactions'";
        let key = "pg_stat_user_indexes WHERE indexrelname = 'transactions_pkey'";
        Self {
            of_whole_table: one("seq_scan", table).await,
            by_primary_key: one("idx_scan", key).await,
            by_any_index: one("idx_scan", table).await,
            rows: one("idx_tup_fetch", table).await,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            of_whole_table: self.of_whole_table - earlier.of_whole_table,
            by_primary_key: self.by_primary_key - earlier.by_primary_key,
            by_any_index: self.by_any_index - earlier.by_any_index,
            rows: self.rows - earlier.rows,
        }
    }
}

/// A user of many transactions, and one of few among others. They are written past the store, over connections that
/// are closed, so that all that is counted later is what the lists read.
async fn users_of_many_and_few(stores: &Relational) -> [UserId; 2] {
    let many = stores.user("An").await.id;
    let mut users = vec![(many, ROWS)];
    for other in 0..OTHERS {
        users.push((stores.user(&format!("Binh{other}")).await.id, ROWS_OF_FEW));
    }
    for &(user, rows) in &users {
        let first = TransactionId::new(at(10_000));
        let written = stores
            .raw
            .execute(&format!(
                "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, client_reference,
                     tx_hash, created_at, confirmed_at)
                 SELECT '{user}', (left('{first}', 24) || lpad(to_hex(n), 12, '0'))::uuid, 'deposit', 'confirmed',
                     'VND', 1000000, 'reference-' || n, '0x' || lpad(to_hex(n), 64, '0'), now() + n * interval '1 second', now()
                 FROM generate_series(1, {rows}) AS n"
            ))
            .await
            .expect("transactions");
        assert_eq!(i64::try_from(written).ok(), Some(rows));
    }
    stores
        .raw
        .execute("ANALYZE transactions")
        .await
        .expect("statistics");
    [many, users[OTHERS / 2].0]
}

/// Lists; how many were shown, and where the next page begins.
async fn list(
    stores: &Relational,
    user: UserId,
    filter: &TransactionFilter,
    after: Option<TransactionId>,
) -> (usize, Option<TransactionId>) {
    let page = Page {
        after,
        limit: LIMIT,
    };
    let listed = stores.ledger.transactions(user, filter, &page).await;
    let rows = listed.expect("a list").expect("the user");
    (rows.len(), rows.last().map(|row| row.id))
}

/// What was read since `before`, once at least `scans` of any sort have been counted. What is asked meanwhile
/// reads other tables: a connection says what it has counted only when it does something.
async fn counted(stores: &Relational, user: UserId, before: Reads, scans: i64) -> Reads {
    let start = Instant::now();
    loop {
        let reads = Reads::of(&stores.raw).await.since(before);
        if reads.by_any_index + reads.of_whole_table >= scans {
            return reads;
        }
        assert!(start.elapsed() < COUNTED, "only {reads:?} was counted");
        tokio::time::sleep(POLL).await;
        stores.ledger.balances(user).await.expect("balances");
    }
}

async fn lists_read_the_rows_that_they_show_by_the_primary_key(stores: &Relational) {
    let [user, _] = users_of_many_and_few(stores).await;
    let all = TransactionFilter::default();
    let filters = [
        all.clone(),
        TransactionFilter {
            kind: Some(TransactionType::Deposit),
            ..all.clone()
        },
        TransactionFilter {
            status: Some(TransactionStatus::Confirmed),
            asset: Some(asset("VND")),
            ..all.clone()
        },
        TransactionFilter {
            from: Some(at(0)),
            to: Some(at(100_000)),
            ..all.clone()
        },
    ];
    let before = Reads::of(&stores.raw).await;
    let mut scans = 0;
    for filter in &filters {
        let mut after = None;
        for page in 0..3 {
            let (shown, last) = list(stores, user, filter, after).await;
            assert_eq!(shown, 20, "page {page} of {filter:?}");
            after = last;
            scans += 1;
        }
    }

    let reads = counted(stores, user, before, scans).await;

    assert_eq!(reads.of_whole_table, 0, "{reads:?}");
    assert_eq!(reads.by_primary_key, scans, "{reads:?}");
    assert_eq!(reads.rows, scans * i64::from(LIMIT), "{reads:?}");
}

/// By the index of what is searched for, else all rows of the user.
async fn lists_that_search_read_one_user_s_rows_only(stores: &Relational) {
    let [_, user] = users_of_many_and_few(stores).await;
    let all = TransactionFilter::default();
    let filters = [
        TransactionFilter {
            client_reference: Some("reference-7".to_owned()),
            ..all.clone()
        },
        TransactionFilter {
            tx_hash: Some(format!("0x{:064x}", 7)),
            ..all.clone()
        },
        TransactionFilter {
            kind: Some(TransactionType::Withdraw),
            ..all.clone()
        },
    ];
    let before = Reads::of(&stores.raw).await;
    let shown = [
        list(stores, user, &filters[0], None).await.0,
        list(stores, user, &filters[1], None).await.0,
        list(stores, user, &filters[2], None).await.0,
    ];
    assert_eq!(shown, [1, 1, 0]);

    let reads = counted(stores, user, before, 3).await;

    assert_eq!(reads.of_whole_table, 0, "{reads:?}");
    assert!(reads.rows <= 2 + ROWS_OF_FEW, "{reads:?}");
}
