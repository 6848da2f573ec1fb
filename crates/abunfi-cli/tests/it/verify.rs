//! `abunfi verify` and `abunfi accounts`, on the embedded store.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use abunfi::DatabaseService;
use abunfi::audit::checkpoint::{Checkpoint, Covered};
use abunfi::audit::format::{ANCHOR, Anchor, CheckpointLine};
use abunfi::clock::{ManualClock, Timestamp};
use abunfi::config::Config;
use abunfi::context::Context;
use abunfi::ledger::{PostRequest, TransactionStatus, TransactionType};
use abunfi::money::Amount;
use abunfi::users::{CreateUser, Email, Name};
use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::support::Place;

/// The embedded platform as its first command leaves it: an asset, whose price is in the trail.
fn place() -> Place {
    let place = Place::new();
    assert_eq!(place.run(&["stats"]).code, 0);
    place
}

fn change(place: &Place, statements: &'static [&'static str]) {
    let url = format!("sqlite://{}", place.data().join("abunfi.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut file = SqliteConnectOptions::from_str(&url)
            .unwrap()
            .connect()
            .await
            .unwrap();
        for sql in statements {
            sqlx::query(*sql).execute(&mut file).await.unwrap();
        }
        sqlx::Connection::close(file).await.unwrap();
    });
}

#[test]
fn what_is_said_of_books_that_nobody_touched_is_what_was_checked() {
    let place = place();
    let ran = place.run(&["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let none = "the books agree; there is no checkpoint yet, so nothing is signed or anchored\n";
    assert!(ran.out.ends_with(none), "{ran:?}");
    assert!(ran.out.contains("not checkpointed yet: "), "{ran:?}");
    let report = place.run(&["verify", "--json", "--workers", "2"]).json();
    assert_eq!(report["clean"], true);
    assert_eq!(
        (&report["since"], &report["checkpoint"]),
        (&0.into(), &0.into())
    );
    assert_eq!(report["signed_by"], Value::Null);
    assert!(
        report["read"]["audit_rows"].as_u64().unwrap() >= 1,
        "{report}"
    );
    assert_eq!(report["findings"], serde_json::json!([]));
}

#[test]
fn what_is_proved_is_said_with_who_signed_it() {
    let place = place();
    let made = place.run(&["audit", "checkpoint", "--json"]).json();
    let made = &made["checkpoint"];
    let key = made["public_key"].as_str().unwrap();
    let ran = place.run(&["verify", "--public-key", key]);
    let proved = format!("\nthe books are proved up to checkpoint 1, signed by {key}\n");
    assert!(ran.out.ends_with(&proved), "{ran:?}");
    let ran = place.run(&["verify"]);
    assert!(
        ran.out.ends_with("or give it with --public-key\n"),
        "{ran:?}"
    );
    let since = ["verify", "--since", "1", "--public-key", key];
    let ran = place.run(&since);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.out.contains("proved"), "{ran:?}");
    assert!(
        ran.out
            .contains("\nwhat has changed since checkpoint 1 agrees; "),
        "{ran:?}"
    );
    let hash = made["hash"].as_str().unwrap();
    let believed = format!("\nsince: checkpoint 1 with the hash {hash}, which is believed: ");
    assert!(ran.out.contains(&believed), "{ran:?}");
    let report = place.run(&[&since[..], &["--json"]].concat()).json();
    let (ledger, file) = (&report["ledger_id"], "anchor.json");
    assert_eq!(place.run(&["audit", "anchor", "--out", file]).code, 0);
    let checked = place.run(&["audit", "check", file, "--json"]).json();
    assert_eq!(*ledger, checked["ledger_id"]);
    for (field, value) in [
        ("since", &1.into()),
        ("since_hash", &made["hash"]),
        ("checkpoint", &1.into()),
        ("checkpoint_hash", &made["hash"]),
        ("signed_by", &made["public_key"]),
        ("signed_from", &1.into()),
    ] {
        assert_eq!(report[field], *value, "{field}");
    }
}

/// Nobody outside the database vouches for a checkpoint after the published one, and `--since` would believe it.
#[test]
fn a_start_after_what_was_published_is_refused() {
    let place = place();
    assert_eq!(place.run(&["audit", "checkpoint"]).code, 0);
    assert_eq!(
        place.run(&["audit", "anchor", "--out", "anchor.json"]).code,
        0
    );
    assert_eq!(
        place
            .run(&["keys", "create", "payments", "--scopes", "read"])
            .code,
        0
    );
    assert_eq!(place.run(&["audit", "checkpoint"]).code, 0);
    let ran = place.run(&["verify", "--since", "2", "--anchor", "anchor.json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let says = "--since 2 is newer than what was published: the anchor is of checkpoint 1;";
    assert!(ran.err.contains(says), "{ran:?}");
    let ran = place.run(&["verify", "--since", "1", "--anchor", "anchor.json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn what_disagrees_is_named_and_is_exit_code_1() {
    let place = place();
    change(
        &place,
        &[
            "DROP TRIGGER audit_no_update",
            "UPDATE audit SET amount = 5 WHERE chain = 'asset:VND'",
        ],
    );
    let ran = place.run(&["verify"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let named =
        "audit row 1 of chain asset:VND of 00000000-0000-0000-0000-000000000000: hash should be ";
    assert!(ran.out.starts_with(named), "{ran:?}");
    assert!(ran.out.ends_with("\n1 disagreement\n"), "{ran:?}");
    let ran = place.run(&["verify", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&report["clean"], &report["disagreements"]),
        (&false.into(), &1.into())
    );
    let place = &report["findings"][0]["place"];
    assert_eq!(
        (&place["kind"], &place["seq"]),
        (&"audit_row".into(), &1.into())
    );
}

#[test]
fn what_cannot_be_asked_is_misuse() {
    let place = place();
    place.write("other.json", "{}");
    for arguments in [
        &["verify", "--since", "1"][..],
        &["verify", "--since", "x"],
        &["verify", "--public-key", "12"],
        &["verify", "--anchor", "absent.json"],
        &["verify", "--anchor", "other.json"],
        &["verify", "--workers", "0"],
        &["accounts", "--asset", "vnd"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (2, ""),
            "{arguments:?}: {ran:?}"
        );
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_anchor_that_the_database_does_not_have_is_a_disagreement() {
    let place = place();
    let covered = Covered {
        size: 1,
        root: [7; 32],
        rows: 1,
    };
    let at = Timestamp::from_micros(0);
    let ledger_id = "00000000-0000-4000-8000-00000000abcd".parse().unwrap();
    let mut checkpoint = Checkpoint::next(None, ledger_id, covered, at, None);
    checkpoint.number = 3;
    checkpoint.hash = checkpoint.computed_hash();
    let anchor = Anchor {
        format: ANCHOR.to_owned(),
        ledger_id,
        checkpoint: CheckpointLine::from(&checkpoint),
    };
    let hash = hex::encode(checkpoint.hash);
    place.write("anchor.json", &serde_json::to_string(&anchor).unwrap());
    let ran = place.run(&["verify", "--anchor", "anchor.json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let named =
        format!("checkpoint 3: row should be the published one, {hash}, is no checkpoint\n");
    assert!(ran.out.starts_with(&named), "{ran:?}");
}

/// A user whose hold is due since long ago, which any service would cancel at once.
async fn with_a_due_hold(config: Config) {
    let past = Timestamp::from_micros(1_600_000_000_000_000);
    let clock = Arc::new(ManualClock::at(past));
    let platform = Box::pin(DatabaseService::open_with_clock(config, clock))
        .await
        .unwrap();
    let ctx = Context::system("test");
    let user = CreateUser {
        email: Email::parse("an@example.com").unwrap(),
        name: Name::parse("An").unwrap(),
        wallet_address: None,
        phone: None,
        social: None,
        referred_by: None,
        preferences: None,
        metadata: None,
    };
    let user = platform.users().create(&ctx, user).await.unwrap().id;
    let amount = Amount::parse("5").unwrap();
    let deposit = PostRequest::new(TransactionType::Deposit, amount);
    let hold = PostRequest {
        status: TransactionStatus::Pending,
        expires_at: Some(Timestamp::from_micros(past.micros() + 1_000_000)),
        ..PostRequest::new(TransactionType::Withdraw, amount)
    };
    for request in [deposit, hold] {
        platform
            .ledger()
            .post(&ctx, user, request, None)
            .await
            .unwrap();
    }
    platform.close().await;
}

/// Every table with the number of its rows, and every hold.
async fn rows(file: &Path) -> Vec<String> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut file = options.connect().await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    )
    .fetch_all(&mut file)
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(count)
            .fetch_one(&mut file)
            .await
            .unwrap();
        found.push(format!("{table}: {count}"));
    }
    let holds: Vec<String> =
        sqlx::query_scalar("SELECT status FROM transactions WHERE type = 'withdraw'")
            .fetch_all(&mut file)
            .await
            .unwrap();
    found.extend(holds);
    found
}

#[test]
fn looking_changes_nothing() {
    let place = place();
    let config = Config {
        data_dir: place.data(),
        ..Config::default()
    };
    let file = place.data().join("abunfi.db");
    let key = place.data().join("audit.key");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let before = runtime.block_on(async {
        Box::pin(with_a_due_hold(config.clone())).await;
        rows(&file).await
    });
    assert_eq!(before.last().unwrap(), "pending");
    std::fs::remove_file(&key).unwrap();
    for command in [&["verify"][..], &["accounts"], &["audit", "export"]] {
        assert_eq!(place.run(command).code, 0, "{command:?}");
    }
    let after = runtime.block_on(async {
        let platform = Box::pin(DatabaseService::open_to_read(config))
            .await
            .unwrap();
        // Longer than any service leaves a hold that is due.
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        platform.close().await;
        rows(&file).await
    });
    assert_eq!(before, after);
    assert!(!key.exists(), "no key was made");
}

#[test]
fn where_nothing_is_nothing_is_made() {
    let place = Place::new();
    for command in [&["verify"][..], &["accounts"]] {
        let ran = place.run(command);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("abunfi migrate"), "{ran:?}");
    }
    assert!(!place.data().exists());
}

#[test]
fn accounts_come_to_zero() {
    let place = place();
    let ran = place.run(&["accounts"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<Vec<&str>> = ran
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [
            [
                "asset",
                "accounts",
                "users",
                "custody",
                "yield",
                "promotions",
                "fees",
                "net"
            ],
            ["VND", "0", "0", "0", "0", "0", "0", "0"],
        ]
    );
    let books = place.run(&["accounts", "--asset", "VND", "--json"]).json();
    assert_eq!(
        (&books[0]["accounts"], &books[0]["net"]),
        (&0.into(), &"0".into())
    );
    let ran = place.run(&["accounts", "--asset", "XYZ"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
}
