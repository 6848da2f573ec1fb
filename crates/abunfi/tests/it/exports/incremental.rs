//! An export after a checkpoint reads the rows that came after it, and of what did not change a head and a leaf.

use std::sync::Arc;

use abunfi::audit::Service;
use abunfi::clock::ManualClock;
use abunfi::ids::UserId;
use abunfi::ledger::Command;
use serde_json::Value;

use super::{assert_clean, by_document, by_library, lines, service, signer};
use crate::support::counted::{Counted, Rows};
use crate::support::make::{at, deposit};
use crate::support::{Backend, Relational, on_every_backend};

on_every_backend!(
    of_many_users_the_few_that_changed_are_read,
    a_long_chain_is_read_in_parts_and_short_ones_together,
    a_head_that_says_any_number_of_rows_is_no_trap,
);

/// Lines of one read.
const LINES: usize = 4_096;

async fn together(stores: &Relational, commands: Vec<Command>) {
    for commands in commands.chunks(500) {
        for posted in stores.ledger.post(commands).await.unwrap() {
            posted.unwrap().answer.result.unwrap();
        }
    }
}

/// An export, and what was read for it.
async fn counted(stores: &Relational, since: i64) -> (String, Arc<Counted>) {
    let counted = Arc::new(Counted::of(stores));
    let audit = Service::new(
        stores.audit.clone(),
        counted.clone(),
        counted.clone(),
        Arc::new(ManualClock::at(at(100_000_000))),
        None,
    );
    let mut out = Vec::new();
    audit.export(since, &mut out, &()).await.unwrap();
    (String::from_utf8(out).unwrap(), counted)
}

/// Rows of a text: whose, and which.
fn rows(text: &str) -> Vec<(String, String, i64)> {
    let text_of = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines(text)
        .iter()
        .filter(|line| line["type"] == "row")
        .map(|line| {
            let seq = line["seq"].as_i64().unwrap();
            (text_of(line, "user_id"), text_of(line, "chain"), seq)
        })
        .collect()
}

async fn of_many_users_the_few_that_changed_are_read(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let mut users = Vec::new();
    for index in 0..300 {
        users.push(stores.user(&format!("u{index}")).await.id);
    }
    for _ in 0..3 {
        together(stores, users.iter().map(|user| deposit(*user, 1)).collect()).await;
        audit.checkpoint().await.unwrap().made().unwrap();
    }
    let leaves = stores.raw.number("SELECT count(*) FROM chain_leaves").await;
    // Without anything new, and with a little of few.
    let (text, none) = counted(stores, 3).await;
    assert_eq!(assert_clean(&text, Some(&signer())).rows, 0);
    let changed = [users[3], users[100], users[299]];
    for user in changed {
        stores.posted(deposit(user, 1)).await;
    }
    let chi = stores.user_with("Chi", 1).await;
    audit.checkpoint().await.unwrap().made().unwrap();
    stores.posted(deposit(changed[1], 1)).await;
    let (text, few) = counted(stores, 3).await;
    let report = assert_clean(&text, Some(&signer()));
    let expected: Vec<_> = [
        (changed[0], 4),
        (changed[1], 4),
        (changed[1], 5),
        (changed[2], 4),
    ]
    .into_iter()
    .map(|(user, seq)| (user.to_string(), "VND".to_owned(), seq))
    .collect();
    let mut exported = rows(&text);
    exported.retain(|(user, ..)| *user != chi.to_string());
    assert_eq!(exported, expected);
    let read = i64::try_from(report.rows).unwrap();
    assert_eq!(few.read(Rows::Trail), read, "no row but those that are new");
    assert_eq!(none.read(Rows::Trail), 0);
    // Once to say whose leaf it is, and once beside its head.
    assert_eq!(none.read(Rows::Leaves), 2 * leaves);
    // Two pages of users, with what is new of each in a read of its own.
    assert_eq!(
        few.read(Rows::Reads) - none.read(Rows::Reads),
        3,
        "a read for each page with anything new, and one of what has changed"
    );
    assert!(none.read(Rows::Reads) < 12, "{}", none.read(Rows::Reads));
    let (_, whole) = counted(stores, 0).await;
    assert!(whole.read(Rows::Trail) > 900);
}

async fn a_long_chain_is_read_in_parts_and_short_ones_together(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let an = stores.user_with("An", 1).await;
    let others: Vec<UserId> = [
        stores.user_with("Binh", 1).await,
        stores.user_with("Chi", 1).await,
    ]
    .into();
    audit.checkpoint().await.unwrap().made().unwrap();
    let many = |count| (0..count).map(|_| deposit(an, 1)).collect();
    // As many as a read has, one more, and more than twice as many.
    together(stores, many(LINES)).await;
    let (text, exact) = counted(stores, 1).await;
    assert_eq!(assert_clean(&text, Some(&signer())).rows, 4_096);
    assert_eq!(exact.read(Rows::Trail), 4_096);
    for user in &others {
        stores.posted(deposit(*user, 1)).await;
    }
    together(stores, many(1)).await;
    for count in [0, LINES] {
        together(stores, many(count)).await;
        let (text, counted) = counted(stores, 1).await;
        let report = assert_clean(&text, Some(&signer()));
        assert_eq!(usize::try_from(report.rows).unwrap(), LINES + count + 3);
        let all = rows(&text);
        assert!(all.is_sorted(), "by user, chain and number");
        // Of what comes behind the long chain, which the same read gives, some is read twice.
        let read = usize::try_from(counted.read(Rows::Trail)).unwrap();
        assert!(read <= all.len() + 2 * 3, "{read}");
    }
    audit.checkpoint().await.unwrap().made().unwrap();
    let (text, _) = counted(stores, 2).await;
    assert_eq!(assert_clean(&text, Some(&signer())).rows, 0);
}

async fn a_head_that_says_any_number_of_rows_is_no_trap(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let an = stores.user_with("An", 1).await;
    audit.checkpoint().await.unwrap().made().unwrap();
    stores.posted(deposit(an, 1)).await;
    let user = match stores.backend {
        Backend::Postgres => format!("'{an}'"),
        Backend::Sqlite => format!("x'{}'", an.0.simple()),
    };
    let sql = format!(
        "UPDATE accounts SET version = 9000000000000000000 WHERE user_id = {user} AND asset = 'VND'"
    );
    assert_eq!(stores.raw.execute(&sql).await.unwrap(), 1);
    let (text, _) = counted(stores, 1).await;
    assert_eq!(rows(&text).len(), 1);
    assert!(!by_library(&text, Some(&signer())).unwrap().clean);
    assert_eq!(by_document(&text, Some(&signer())).unwrap()["clean"], false);
}
