//! Processes die, the database stops, connections are cut, while many clients post: a few cycles of what
//! `cargo xtask crash` does at length.

use std::path::PathBuf;

use abunfi::faults::{Bug, POINT_VARIABLE, Point};
use abunfi::ledger::COMMIT_CHUNK;
use abunfi_crash::report::{Summary, head, row};
use abunfi_crash::{Backend, Options};
use abunfi_testkit::unique_name;
use serde_json::{Value, json};

use crate::stores::{on_postgres, rows_in_postgres, rows_in_sqlite};
use crate::support::{Answered, Place};

/// Runs the cycles; shows their figures, which a failure then comes with.
async fn survive(backend: Backend, cycles: u32) {
    let summary = run(&options(backend, cycles)).await;
    let violations: Vec<_> = summary.all_violations().collect();
    assert!(
        violations.is_empty(),
        "{violations:#?}, the history is kept in {:?}",
        summary.history
    );
}

/// Cycles within which a seeded bug must be found: a round of every nemesis, and half of another. Mostly the
/// first one finds it, and the run ends.
const SEEDED_CYCLES: u32 = 9;

/// Runs with the bug until the checks that tell of it find it.
async fn tell_of(bug: Bug) {
    let mut options = options(Backend::Postgres, SEEDED_CYCLES);
    options.bug = Some(bug);
    options.stop_early = true;
    let summary = run(&options).await;
    assert!(
        !summary.caught(bug).is_empty(),
        "the crash loop is blind to {}: {:#?}",
        bug.name(),
        summary.all_violations().collect::<Vec<_>>()
    );
    // Of a bug that was meant to be found.
    if let Some(history) = summary.history {
        std::fs::remove_dir_all(history).unwrap();
    }
}

fn options(backend: Backend, cycles: u32) -> Options {
    let seed = std::env::var("ABUNFI_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from_le_bytes(abunfi::ids::random_bytes()) >> 16);
    eprintln!("ABUNFI_TEST_SEED={seed}\n{}", head());
    let program = PathBuf::from(env!("CARGO_BIN_EXE_abunfi"));
    let mut options = Options::new(program, backend, cycles, seed);
    // The machine does other tests as well.
    options.minimum = 50;
    options
}

async fn run(options: &Options) -> Summary {
    abunfi_crash::run(options, |cycle| {
        let (number, found) = (cycle.number.to_string(), cycle.violations.len());
        eprintln!(
            "{}",
            row(
                &number,
                &cycle.nemesis,
                cycle.services,
                &cycle.figures,
                cycle.millis,
                found
            )
        );
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_survive_every_nemesis() {
    survive(Backend::Postgres, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_sqlite_survive_kills() {
    survive(Backend::Sqlite, 4).await;
}

/// Each seeded bug has its test below, so that each has a time limit of its own.
const _: () = assert!(Bug::ALL.len() == 4);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_tell_of_an_acknowledgement_before_the_commit() {
    tell_of(Bug::AcknowledgeBeforeCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_tell_of_answers_in_their_own_transaction() {
    tell_of(Bug::AnswerInItsOwnTransaction).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_tell_of_a_skipped_lock() {
    tell_of(Bug::SkipLock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_tell_of_audit_rows_written_outside() {
    tell_of(Bug::AuditOutside).await;
}

/// Enough for several lanes.
const USERS: usize = 12;
const ADMIN: &str = "the-admin-key-of-the-outage-tests-0123456789";

/// A place whose service kills itself at `point` when it comes there for the `nth` time.
async fn armed(backend: Backend, point: Point, nth: u32) -> Place {
    let mut place = match backend {
        Backend::Postgres => on_postgres(&unique_name()).await,
        Backend::Sqlite => Place::new(),
    };
    place
        .set("ABUNFI_ADMIN_KEY", ADMIN)
        .set(POINT_VARIABLE, format!("{}:{nth}", point.name()));
    place
}

async fn transactions(backend: Backend, place: &Place) -> i64 {
    match backend {
        Backend::Postgres => {
            rows_in_postgres(&place.variable("DATABASE_URL")).await["transactions"]
        }
        Backend::Sqlite => rows_in_sqlite(place).await["abunfi.db:transactions"],
    }
}

/// Sends `request` to a service that kills itself at the point, then to one that does not: how many
/// transactions there were between the two, and what the second said.
async fn killed_between(
    backend: Backend,
    (point, nth): (Point, u32),
    request: impl Fn(&[String]) -> (String, Value),
) -> (i64, Answered) {
    let mut place = armed(backend, point, nth).await;
    let service = place.serve();
    let users: Vec<String> = (0..USERS)
        .map(|n| {
            let user = json!({"email": format!("an{n}@example.com"), "name": "An"});
            let made = service.post("/api/v1/users", ADMIN, &format!("user {n}"), &user);
            made.unwrap().json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let (path, body) = request(&users);
    let lost = service.post(&path, ADMIN, "the-key", &body);
    assert!(lost.is_none(), "{lost:?}");
    assert!(service.was_killed());
    let between = transactions(backend, &place).await;

    place.set(POINT_VARIABLE, "");
    let service = place.serve();
    let answered = service.post(&path, ADMIN, "the-key", &body).unwrap();
    let again = service.post(&path, ADMIN, "the-key", &body).unwrap();
    assert_eq!(
        (again.status, &again.body),
        (answered.status, &answered.body)
    );
    assert!(again.is_replayed());
    let expected = body["transactions"].as_array().map_or(1, Vec::len);
    assert_eq!(
        transactions(backend, &place).await,
        i64::try_from(expected).unwrap()
    );
    (between, answered)
}

fn deposit(users: &[String]) -> (String, Value) {
    let body = json!({"type": "deposit", "amount": "1"});
    (format!("/api/v1/users/{}/transactions", users[0]), body)
}

/// A thousand deposits of 1, 2, 3 … on `users` in turn.
fn batch(users: &[String]) -> (String, Value) {
    let items: Vec<Value> = (1..=1_000)
        .zip(users.iter().cycle())
        .map(|(amount, user)| json!({"user_id": user, "type": "deposit", "amount": amount.to_string()}))
        .collect();
    let body = json!({"atomic": false, "transactions": items});
    ("/api/v1/transactions/batch".to_owned(), body)
}

/// Each item is answered in its place.
fn assert_all_posted(answered: &Answered) -> Vec<Value> {
    assert_eq!(answered.status, 200);
    let results = answered.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 1_000);
    for (amount, result) in (1..).zip(&results) {
        assert_eq!(
            result["transaction"]["amount"],
            json!(amount.to_string()),
            "{result}"
        );
    }
    results
}

async fn a_batch_killed_half_way_is_finished_by_its_retry(backend: Backend) {
    // The second time there, one part is done: one user's items are all in one lane.
    let of_one = |users: &[String]| batch(&users[..1]);
    let (between, answered) = killed_between(backend, (Point::BetweenChunks, 2), of_one).await;
    assert_eq!(usize::try_from(between), Ok(COMMIT_CHUNK));
    assert!(!answered.is_replayed(), "it still had something to do");
    let results = assert_all_posted(&answered);
    // 1 + 2 + … + 1,000: each once.
    let last = &results[999]["transaction"]["balance"];
    assert_eq!(
        (&last["available"], &last["version"]),
        (&json!("500500"), &json!(1_000))
    );
}

async fn a_batch_killed_while_its_lanes_commit_is_finished_by_its_retry(backend: Backend) {
    // The first lane that has committed kills them all.
    let (between, answered) = killed_between(backend, (Point::AfterCommit, 1), batch).await;
    assert!(between > 0, "that lane's part is durable");
    let results = assert_all_posted(&answered);
    for (user, result) in results.iter().enumerate().skip(1_000 - USERS) {
        let version = &result["transaction"]["balance"]["version"];
        // Of 1,000 items in turn, the first users have one more.
        let of_user = 1_000 / USERS + usize::from(user % USERS < 1_000 % USERS);
        assert_eq!(version, &json!(of_user), "{result}");
    }
}

async fn a_posting_killed_before_its_commit_is_not_done_and_its_key_is_free(backend: Backend) {
    let (between, answered) = killed_between(backend, (Point::BeforeCommit, 1), deposit).await;
    assert_eq!((between, answered.status), (0, 201));
    assert!(!answered.is_replayed());
}

async fn a_posting_killed_after_its_commit_is_done_and_its_key_says_so(backend: Backend) {
    let (between, answered) = killed_between(backend, (Point::AfterCommit, 1), deposit).await;
    assert_eq!((between, answered.status), (1, 201));
    assert!(answered.is_replayed());
}

/// Makes of each function one test for every backend.
macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Backend::Postgres).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Backend::Sqlite).await; })+
        }
    };
}
on_every_backend!(
    a_batch_killed_half_way_is_finished_by_its_retry,
    a_batch_killed_while_its_lanes_commit_is_finished_by_its_retry,
    a_posting_killed_before_its_commit_is_not_done_and_its_key_is_free,
    a_posting_killed_after_its_commit_is_done_and_its_key_says_so,
);
