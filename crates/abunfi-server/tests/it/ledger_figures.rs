//! What statistics and metrics say of the proof and of what the sweeps have to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abunfi::clock::{ManualClock, Timestamp};
use abunfi::ledger::{PostRequest, RequestKey, TransactionStatus, TransactionType};
use abunfi::money::Amount;
use abunfi::users::{CreateUser, Email, Name};
use abunfi::{Config, Context, DatabaseService};
use serde_json::json;

use crate::support::{Backend, TestServer, create};

/// So long ago that by the system's clock everything is overdue.
const PAST_MICROS: i64 = 1_600_000_000_000_000;
/// Less than has gone by since then.
const YEARS_SECONDS: u64 = 100_000_000;

mod embedded {
    #[test]
    fn the_proof_s_age_and_what_is_overdue_are_told() {
        super::run(super::Backend::Embedded);
    }
}

mod servers {
    #[test]
    fn the_proof_s_age_and_what_is_overdue_are_told() {
        super::run(super::Backend::Servers);
    }
}

fn run(backend: Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stores, mut config) = create(backend).await;
        // None but those that the test makes.
        config.audit.checkpoint_minutes = 0;
        with_an_old_past(config.clone()).await;
        statistics_tell_it(backend, config.clone()).await;
        let server = TestServer::start(backend, config).await;
        metrics_tell_it(&server).await;
        server.stop().await;
        stores.remove().await;
    });
}

/// A checkpoint, a row after it, a hold that has expired since, and three keys.
async fn with_an_old_past(config: Config) {
    let past = Timestamp::from_micros(PAST_MICROS);
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
        expires_at: Some(past.plus(Duration::from_secs(1))),
        ..PostRequest::new(TransactionType::Withdraw, amount)
    };
    for (key, request) in [("1", deposit.clone()), ("2", hold), ("3", deposit)] {
        if key == "3" {
            let made = platform.audit().checkpoint().await.unwrap().made();
            assert_eq!(made.unwrap().number, 1);
        }
        let key = RequestKey {
            key: key.to_owned(),
            fingerprint: [0; 32],
        };
        let posted = platform.ledger().post(&ctx, user, request, Some(key)).await;
        assert!(posted.unwrap().answer.result.is_ok());
    }
    platform.close().await;
}

/// The figures, once all came in time: on a busy machine some may not.
pub(crate) async fn told(platform: &DatabaseService) -> serde_json::Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let ledger = platform.get_stats().await.ledger;
        let is_late = |section| ledger.pointer(section).is_some();
        if !["/checkpoint/error", "/holds/error"]
            .into_iter()
            .any(is_late)
        {
            return ledger;
        }
        assert!(Instant::now() < end, "{ledger}");
    }
}

/// Before any sweep: what is opened to be read does none.
async fn statistics_tell_it(backend: Backend, config: Config) {
    let retention = u64::from(config.idempotency_retention_days) * 24 * 3_600;
    let platform = Box::pin(DatabaseService::open_to_read(config))
        .await
        .unwrap();
    let ledger = told(&platform).await;
    platform.close().await;
    let seconds = |pointer: &str| {
        let seconds = ledger.pointer(pointer).and_then(serde_json::Value::as_u64);
        seconds.unwrap_or_else(|| panic!("{pointer}: {ledger}"))
    };
    let age = seconds("/checkpoint/age_seconds");
    assert!(age > YEARS_SECONDS, "{ledger}");
    // It expired a second after the checkpoint, and the figures are of one moment, give or take a slow query.
    let overdue = seconds("/holds/oldest_overdue_seconds");
    assert!((age - 3..age + 1).contains(&overdue), "{ledger}");
    let late = seconds("/idempotency_keys/oldest_past_retention_seconds");
    assert!((age - 3..age + 3).contains(&(late + retention)), "{ledger}");
    // Where ids of transactions say what is new, a few may count twice.
    let waiting = seconds("/checkpoint/rows_waiting");
    assert!((1..=5).contains(&waiting), "{ledger}");
    if backend == Backend::Embedded {
        assert_eq!(waiting, 1);
    }
    let expected = json!({
        "waiting": 0,
        "checkpoint": {
            "number": 1, "at": "2020-09-13T12:26:40Z", "age_seconds": age,
            // The embedded default makes itself a key.
            "signed": backend == Backend::Embedded, "rows_waiting": waiting,
        },
        "holds": {"overdue": 1, "oldest_overdue_seconds": overdue},
        "idempotency_keys": {"past_retention": 3, "oldest_past_retention_seconds": late},
    });
    assert_eq!(ledger, expected);
}

/// A sweep comes by soon.
async fn metrics_tell_it(server: &TestServer) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = server.get("/metrics").expect(200).await.text();
        assert!(Instant::now() < end, "{metrics}");
        let find = |name: &str| {
            let mut lines = metrics.lines();
            let value = lines.find_map(|line| line.strip_prefix(&format!("abunfi_ledger_{name} ")));
            value.map(|value| value.parse::<u64>().unwrap())
        };
        // On a busy machine they may not come in time.
        if find("checkpoint_number").is_none() || find("holds_overdue").is_none() {
            continue;
        }
        let figure = |name: &str| find(name).unwrap_or_else(|| panic!("{name}: {metrics}"));
        assert_eq!(figure("checkpoint_number"), 1);
        assert!(figure("checkpoint_age_seconds") > YEARS_SECONDS);
        assert!(figure("checkpoint_rows_waiting") >= 1);
        assert!(figure("idempotency_keys_past_retention") <= 3);
        let signed = u64::from(server.backend == Backend::Embedded);
        assert_eq!(figure("checkpoint_signed"), signed);
        if figure("holds_overdue") == 0 {
            return assert_eq!(figure("holds_oldest_overdue_seconds"), 0);
        }
        assert!(figure("holds_oldest_overdue_seconds") > YEARS_SECONDS);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
