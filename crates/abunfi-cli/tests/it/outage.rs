//! Processes die, the database stops, connections are cut, while many clients post: a few cycles of what
//! `cargo xtask crash` does at length.

use std::path::PathBuf;

use abunfi_crash::report::{head, row};
use abunfi_crash::{Backend, Options};

/// Runs the cycles; shows their figures, which a failure then comes with.
async fn survive(backend: Backend, cycles: u32) {
    let seed = std::env::var("ABUNFI_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from_le_bytes(abunfi::ids::random_bytes()) >> 16);
    eprintln!("ABUNFI_TEST_SEED={seed}\n{}", head());
    let program = PathBuf::from(env!("CARGO_BIN_EXE_abunfi"));
    let mut options = Options::new(program, backend, cycles, seed);
    // The machine does other tests as well.
    options.minimum = 50;
    let summary = abunfi_crash::run(&options, |cycle| {
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
    .unwrap();
    let violations: Vec<_> = summary.all_violations().collect();
    assert!(
        violations.is_empty(),
        "{violations:#?}, the history is kept in {:?}",
        summary.history
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_postgresql_survive_every_nemesis() {
    survive(Backend::Postgres, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_on_sqlite_survive_kills() {
    survive(Backend::Sqlite, 4).await;
}
