//! What the domains demand of a document store: the content of user-owned documents, developers' data,
//! logs.
//!
//! Content is applied only where it lives apart from its heads, which is MongoDB; a relational store
//! writes both in one transaction, and is tested with the heads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::documents::canonical::{canonical_json, content_hash};
use abunfi::documents::{
    DevDataEntry, DevDataStore, DevDataWrite, Error, Expected, LogEntry, LogFilter, LogLevel,
    LogStore,
};
use abunfi::ledger::Page;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Relational, on_every_backend};

mod agreement;
mod content;
mod mongodb;

/// What holds developers' data and logs, over one fresh database.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pub(crate) dev_data: Arc<dyn DevDataStore>,
    pub(crate) logs: Arc<dyn LogStore>,
    /// It is MongoDB's stand-in, which takes `-0.0` for `0.0` and refuses arrays inside arrays. All
    /// others keep every value.
    pub(crate) is_stand_in: bool,
}

impl Records {
    fn of(stores: &Relational) -> Self {
        Self {
            dev_data: stores.dev_data.clone(),
            logs: stores.logs.clone(),
            is_stand_in: false,
        }
    }
}

/// Calls `$each!` with every test of this file that all backends must pass.
macro_rules! records_tests {
    ($each:ident) => {
        $each!(
            an_entry_counts_its_versions_from_when_it_was_made,
            a_write_that_demands_a_version_is_refused_at_another,
            a_deletion_says_whether_there_was_one,
            what_has_expired_is_not_there,
            every_json_value_comes_back_as_it_was,
            what_only_the_stand_in_loses_is_kept_by_all_others,
            a_namespace_is_listed_by_prefix_in_the_order_of_bytes,
            namespaces_with_like_names_do_not_mix,
            of_many_who_make_a_key_at_once_one_does,
            no_update_is_lost_between_writers_who_compare_and_set,
            the_sweep_takes_what_has_expired_in_bounded_steps,
            log_lines_come_newest_first_in_pages_without_gaps,
            log_lines_are_found_by_each_filter,
            a_message_is_searched_literally_and_without_regard_to_case,
            a_line_that_is_there_already_is_left_alone,
            expired_log_lines_are_hidden_and_swept_in_bounded_steps,
        );
    };
}
pub(crate) use records_tests;

/// The same on the relational backends.
mod relational {
    use super::*;

    macro_rules! on_relational {
        ($($name:ident),+ $(,)?) => {
            on_every_backend!($($name),+);
            $(async fn $name(stores: &Relational) {
                super::$name(&Records::of(stores)).await;
            })+
        };
    }
    records_tests!(on_relational);
}

/// 2100-01-01T00:00:00Z, and so many seconds: far from now, so that no server's own expiry interferes.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(4_102_444_800_000_000 + seconds * 1_000_000)
}

/// The version of an entry that [`write`] makes.
const FIRST: i64 = 4_102_444_800_000_000;

fn write(key: &str, value: Value) -> DevDataWrite {
    DevDataWrite {
        namespace: "app".to_owned(),
        key: key.to_owned(),
        value,
        expected: Expected::Anything,
        expires_at: None,
        now: at(0),
    }
}

async fn put(stores: &Records, write: &DevDataWrite) -> (DevDataEntry, bool) {
    stores.dev_data.put(write).await.expect("the entry is put")
}

async fn get(stores: &Records, key: &str, now: Timestamp) -> Option<DevDataEntry> {
    stores
        .dev_data
        .get("app", key, now)
        .await
        .expect("an answer")
}

async fn keys(stores: &Records, prefix: &str, page: Page<String>) -> Vec<String> {
    let listed = stores.dev_data.list("app", prefix, &page, at(0)).await;
    let listed = listed.expect("a list");
    listed.into_iter().map(|entry| entry.key).collect()
}

fn first(limit: u32) -> Page<String> {
    Page { after: None, limit }
}

pub(crate) async fn an_entry_counts_its_versions_from_when_it_was_made(stores: &Records) {
    assert_eq!(get(stores, "a", at(0)).await, None);
    let (made, is_new) = put(stores, &write("a", json!({"n": 1}))).await;
    assert_eq!((made.version, is_new), (FIRST, true));
    assert_eq!(get(stores, "a", at(0)).await, Some(made));

    let later = DevDataWrite {
        now: at(5),
        ..write("a", json!([2]))
    };
    let (changed, is_new) = put(stores, &later).await;
    assert_eq!((changed.version, is_new), (FIRST + 1, false));
    assert_eq!(changed.updated_at, at(5));
    assert_eq!(get(stores, "a", at(5)).await, Some(changed));
}

pub(crate) async fn a_write_that_demands_a_version_is_refused_at_another(stores: &Records) {
    let demanding = |expected| DevDataWrite {
        expected,
        ..write("a", json!("new"))
    };
    let refused = async |expected, current: Option<i64>| {
        let refused = stores.dev_data.put(&demanding(expected)).await;
        let is_right =
            matches!(&refused, Err(Error::VersionMismatch { current: found }) if *found == current);
        assert!(is_right, "{expected:?}: {refused:?}");
    };
    refused(Expected::Version(FIRST), None).await;
    put(stores, &demanding(Expected::Absent)).await;
    refused(Expected::Absent, Some(FIRST)).await;
    refused(Expected::Version(FIRST + 1), Some(FIRST)).await;
    assert_eq!(
        put(stores, &demanding(Expected::Version(FIRST)))
            .await
            .0
            .version,
        FIRST + 1
    );
    refused(Expected::Version(FIRST), Some(FIRST + 1)).await;

    let delete = |expected| stores.dev_data.delete("app", "a", expected, at(0));
    assert!(matches!(
        delete(Expected::Version(FIRST)).await,
        Err(Error::VersionMismatch { current }) if current == Some(FIRST + 1)
    ));
    assert!(delete(Expected::Version(FIRST + 1)).await.expect("deleted"));
}

pub(crate) async fn a_deletion_says_whether_there_was_one(stores: &Records) {
    let delete = || {
        stores
            .dev_data
            .delete("app", "a", Expected::Anything, at(0))
    };
    assert!(!delete().await.expect("an answer"));
    put(stores, &write("a", json!(1))).await;
    assert!(delete().await.expect("an answer"));
    assert!(!delete().await.expect("an answer"));
    assert_eq!(get(stores, "a", at(0)).await, None);
    let later = DevDataWrite {
        now: at(1),
        ..write("a", json!(2))
    };
    let (again, is_new) = put(stores, &later).await;
    // No version, and so no tag, that the one before it had.
    assert_eq!((again.version, is_new), (at(1).micros(), true));
}

pub(crate) async fn what_has_expired_is_not_there(stores: &Records) {
    let expiring = DevDataWrite {
        expires_at: Some(at(10)),
        ..write("a", json!(1))
    };
    let (made, _) = put(stores, &expiring).await;
    assert_eq!(made.expires_at, Some(at(10)));
    let just_before = Timestamp::from_micros(at(10).micros() - 1);
    assert_eq!(get(stores, "a", just_before).await, Some(made.clone()));
    assert_eq!(get(stores, "a", at(10)).await, None);

    let listed = async |now| {
        let page = first(10);
        let listed = stores.dev_data.list("app", "", &page, now).await;
        listed.expect("a list")
    };
    assert_eq!(listed(just_before).await, [made]);
    assert_eq!(listed(at(10)).await, []);

    let delete = stores
        .dev_data
        .delete("app", "a", Expected::Anything, at(10));
    assert!(!delete.await.expect("an answer"));

    // Whether the sweep has come by or not, what is made after it is new.
    let anew = DevDataWrite {
        now: at(10),
        expected: Expected::Absent,
        ..write("a", json!(2))
    };
    let (anew, is_new) = put(stores, &anew).await;
    assert_eq!(
        (anew.version, anew.expires_at, is_new),
        (at(10).micros(), None, true)
    );
    assert_eq!(get(stores, "a", at(1_000)).await, Some(anew));
}

pub(crate) async fn every_json_value_comes_back_as_it_was(stores: &Records) {
    let deep = (1..30).fold(json!({"bottom": [null]}), |inner, _| json!({ "a": inner }));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(1.0),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(1e-300),
        json!(9_007_199_254_740_993_i64),
        json!("tiền tiết kiệm 😀 \u{1}\t\"\\ \u{7f}"),
        json!(""),
        json!([]),
        json!({}),
        json!([1, {"a": [2.0, "3", {"b": []}]}]),
        json!({"_id": 1, "_v": 2, "value": {"é": 3, "a b": 4, "10": 5, "9": 6}, "__proto__": null}),
        deep,
        json!({"text": "x".repeat(200_000)}),
    ];
    for (index, value) in values.into_iter().enumerate() {
        let key = index.to_string();
        put(stores, &write(&key, value.clone())).await;
        let read = get(stores, &key, at(0)).await.expect("it is there").value;
        let shown = canonical_json(&value);
        assert_eq!(content_hash(&read), content_hash(&value), "{:.80}", shown);
    }
}

pub(crate) async fn what_only_the_stand_in_loses_is_kept_by_all_others(stores: &Records) {
    put(stores, &write("zero", json!(-0.0))).await;
    let zero = get(stores, "zero", at(0)).await.expect("it is there").value;
    let nested = json!([[1, [2.0, "3"]], {"a": []}]);
    let kept = stores.dev_data.put(&write("nested", nested.clone())).await;
    if stores.is_stand_in {
        assert_eq!(canonical_json(&zero), "0.0");
        assert!(matches!(kept, Err(Error::Store(_))), "{kept:?}");
        return;
    }
    assert_eq!(canonical_json(&zero), "-0.0");
    kept.expect("the entry is put");
    let read = get(stores, "nested", at(0)).await.expect("it is there");
    assert_eq!(content_hash(&read.value), content_hash(&nested));
}

pub(crate) async fn a_namespace_is_listed_by_prefix_in_the_order_of_bytes(stores: &Records) {
    let mut expected: Vec<&str> = vec!["a", "a-1", "a.b", "a:1", "a_", "aZ", "az", "B", "b", "z"];
    for key in &expected {
        put(stores, &write(key, json!(key))).await;
    }
    expected.sort_unstable();
    assert_eq!(keys(stores, "", first(100)).await, expected);

    let with_a: Vec<_> = expected.iter().filter(|key| key.starts_with('a')).collect();
    assert_eq!(
        keys(stores, "a", first(100))
            .await
            .iter()
            .collect::<Vec<_>>(),
        with_a
    );
    assert_eq!(keys(stores, "a-", first(100)).await, ["a-1"]);
    assert_eq!(keys(stores, "c", first(100)).await, [""; 0]);

    let mut paged = Vec::new();
    let mut page = first(3);
    loop {
        let part = keys(stores, "", page.clone()).await;
        let Some(last) = part.last() else { break };
        assert!(part.len() <= 3);
        page.after = Some(last.clone());
        paged.extend(part);
    }
    assert_eq!(paged, expected);
}

pub(crate) async fn namespaces_with_like_names_do_not_mix(stores: &Records) {
    for namespace in ["app", "app.", "app-x", "ap", "app:a"] {
        let write = DevDataWrite {
            namespace: namespace.to_owned(),
            ..write("a", json!(namespace))
        };
        put(stores, &write).await;
    }
    let page = first(10);
    for namespace in ["app", "app.", "app-x", "ap", "app:a"] {
        let listed = stores.dev_data.list(namespace, "", &page, at(0)).await;
        let listed = listed.expect("a list");
        assert_eq!(listed.len(), 1, "{namespace}");
        assert_eq!(listed[0].value, json!(namespace));
        assert_eq!(listed[0].namespace, namespace);
    }
}

pub(crate) async fn of_many_who_make_a_key_at_once_one_does(stores: &Records) {
    let made = futures::future::join_all((0..24).map(|index| {
        let stores = stores.clone();
        tokio::spawn(async move {
            let write = DevDataWrite {
                expected: Expected::Absent,
                ..write("a", json!(index))
            };
            match stores.dev_data.put(&write).await {
                Ok((_, is_new)) => {
                    assert!(is_new);
                    1
                }
                Err(Error::VersionMismatch {
                    current: Some(FIRST),
                }) => 0,
                Err(other) => panic!("{other:?}"),
            }
        })
    }));
    let made: i32 = made
        .await
        .into_iter()
        .map(|made| made.expect("it ran"))
        .sum();
    assert_eq!(made, 1);
}

pub(crate) async fn no_update_is_lost_between_writers_who_compare_and_set(stores: &Records) {
    const WRITERS: i64 = 6;
    const EACH: i64 = 5;
    put(stores, &write("a", json!(0))).await;
    let writers = (0..WRITERS).map(|_| {
        let stores = stores.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                loop {
                    let there = get(&stores, "a", at(0)).await.expect("it is there");
                    let next = DevDataWrite {
                        expected: Expected::Version(there.version),
                        ..write("a", json!(there.value.as_i64().expect("a number") + 1))
                    };
                    match stores.dev_data.put(&next).await {
                        Ok(_) => break,
                        Err(Error::VersionMismatch { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("it ran");
    }
    let entry = get(stores, "a", at(0)).await.expect("it is there");
    assert_eq!(entry.value, json!(WRITERS * EACH));
    assert_eq!(entry.version, FIRST + WRITERS * EACH);
}

pub(crate) async fn the_sweep_takes_what_has_expired_in_bounded_steps(stores: &Records) {
    for index in 0..5 {
        let expiring = DevDataWrite {
            expires_at: Some(at(10)),
            ..write(&format!("gone-{index}"), json!(index))
        };
        put(stores, &expiring).await;
    }
    put(stores, &write("stays", json!(1))).await;
    let later = DevDataWrite {
        expires_at: Some(at(11)),
        ..write("later", json!(1))
    };
    put(stores, &later).await;

    let purge = async |now, limit| {
        let swept = stores.dev_data.purge(now, limit).await;
        swept.expect("a sweep")
    };
    assert_eq!(
        purge(Timestamp::from_micros(at(10).micros() - 1), 100).await,
        0
    );
    assert_eq!(purge(at(10), 3).await, 3);
    assert_eq!(purge(at(10), 3).await, 2);
    assert_eq!(purge(at(10), 3).await, 0);
    assert_eq!(keys(stores, "", first(10)).await, ["later", "stays"]);
}

fn line(number: u128, seconds: i64, message: &str) -> LogEntry {
    LogEntry {
        id: Uuid::from_u128(number),
        at: at(seconds),
        level: LogLevel::Info,
        target: "app".to_owned(),
        message: message.to_owned(),
        fields: json!({}),
        request_id: None,
    }
}

async fn append(stores: &Records, lines: &[LogEntry]) {
    let appended = stores.logs.append(lines, at(1_000_000)).await;
    appended.expect("the lines are appended");
}

async fn found(stores: &Records, filter: &LogFilter) -> Vec<u128> {
    let page = Page {
        after: None,
        limit: 200,
    };
    let found = stores.logs.query(filter, &page, at(0)).await;
    let found = found.expect("an answer");
    found.into_iter().map(|line| line.id.as_u128()).collect()
}

pub(crate) async fn log_lines_come_newest_first_in_pages_without_gaps(stores: &Records) {
    // Several at the same time, and one a microsecond later than others.
    let mut lines: Vec<LogEntry> = (1..=20_u128)
        .map(|number| line(number, i64::try_from(number / 4).expect("small"), "m"))
        .collect();
    lines[7].at = Timestamp::from_micros(lines[7].at.micros() + 1);
    lines[3].fields = json!({"n": 1, "f": 1.0, "deep": {"a": [null]}});
    append(stores, &lines).await;
    append(stores, &[]).await;

    lines.sort_by_key(|line| std::cmp::Reverse((line.at, line.id)));
    let mut paged = Vec::new();
    let mut page = Page {
        after: None,
        limit: 3,
    };
    loop {
        let part = stores.logs.query(&LogFilter::default(), &page, at(0)).await;
        let part = part.expect("a page");
        let Some(last) = part.last() else { break };
        assert!(part.len() <= 3);
        page.after = Some((last.at, last.id));
        paged.extend(part);
    }
    assert_eq!(paged, lines);
}

pub(crate) async fn log_lines_are_found_by_each_filter(stores: &Records) {
    let mut lines: Vec<LogEntry> = (1..=5).map(|number| line(number, 0, "m")).collect();
    for (line, level) in lines.iter_mut().zip(LogLevel::ALL) {
        line.level = *level;
    }
    lines[0].target = "other".to_owned();
    lines[1].request_id = Some("r-1".to_owned());
    lines[2].at = at(5);
    lines[3].at = at(6);
    append(stores, &lines).await;

    let filter = LogFilter::default;
    let at_least = |level| LogFilter {
        level: Some(level),
        ..filter()
    };
    assert_eq!(found(stores, &at_least(LogLevel::Trace)).await.len(), 5);
    assert_eq!(found(stores, &at_least(LogLevel::Warn)).await, [4, 5]);
    assert_eq!(found(stores, &at_least(LogLevel::Error)).await, [5]);
    let target = LogFilter {
        target: Some("other".to_owned()),
        ..filter()
    };
    assert_eq!(found(stores, &target).await, [1]);
    let request = LogFilter {
        request_id: Some("r-1".to_owned()),
        ..filter()
    };
    assert_eq!(found(stores, &request).await, [2]);
    let span = LogFilter {
        from: Some(at(5)),
        to: Some(at(6)),
        ..filter()
    };
    assert_eq!(found(stores, &span).await, [3], "from is in, to is not");
    let all_of_them = LogFilter {
        level: Some(LogLevel::Info),
        target: Some("app".to_owned()),
        from: Some(at(5)),
        contains: Some("M".to_owned()),
        ..filter()
    };
    assert_eq!(found(stores, &all_of_them).await, [4, 3]);
}

pub(crate) async fn a_message_is_searched_literally_and_without_regard_to_case(stores: &Records) {
    let messages = [
        "Deposit of 1.5 VND (100%)",
        "deposit of 105 VND",
        "ĐÃ NẠP TIỀN",
        r"C:\temp_x [a-z]*",
        "two\nlines",
    ];
    for (number, message) in (1..).zip(messages) {
        append(stores, &[line(number, 0, message)]).await;
    }
    for (text, expected) in [
        ("DEPOSIT", vec![2, 1]),
        ("1.5", vec![1]),
        ("100%", vec![1]),
        ("(100", vec![1]),
        ("đã nạp", vec![3]),
        (r"\TEMP_X [", vec![4]),
        ("[a-z]*", vec![4]),
        ("temp%x", vec![]),
        (".*", vec![]),
        ("two\nLINES", vec![5]),
        ("nothing", vec![]),
    ] {
        let filter = LogFilter {
            contains: Some(text.to_owned()),
            ..LogFilter::default()
        };
        assert_eq!(found(stores, &filter).await, expected, "{text}");
    }
}

pub(crate) async fn a_line_that_is_there_already_is_left_alone(stores: &Records) {
    append(stores, &[line(1, 0, "first")]).await;
    append(
        stores,
        &[
            line(1, 9, "again"),
            line(2, 0, "second"),
            line(2, 0, "twice"),
        ],
    )
    .await;
    let page = Page {
        after: None,
        limit: 10,
    };
    let all = stores.logs.query(&LogFilter::default(), &page, at(0)).await;
    let messages: BTreeSet<_> = all
        .expect("an answer")
        .into_iter()
        .map(|line| line.message)
        .collect();
    assert_eq!(messages, ["first".to_owned(), "second".to_owned()].into());
}

pub(crate) async fn expired_log_lines_are_hidden_and_swept_in_bounded_steps(stores: &Records) {
    let lines: Vec<LogEntry> = (1..=5).map(|number| line(number, 0, "m")).collect();
    let appended = stores.logs.append(&lines, at(10)).await;
    appended.expect("the lines are appended");
    append(stores, &[line(6, 0, "stays")]).await;

    let page = Page {
        after: None,
        limit: 10,
    };
    let seen = async |now| {
        let seen = stores.logs.query(&LogFilter::default(), &page, now).await;
        seen.expect("an answer").len()
    };
    let just_before = Timestamp::from_micros(at(10).micros() - 1);
    assert_eq!((seen(just_before).await, seen(at(10)).await), (6, 1));
    let purge = async |now, limit| stores.logs.purge(now, limit).await.expect("a sweep");
    assert_eq!(purge(just_before, 3).await, 0);
    assert_eq!(purge(at(10), 3).await, 3);
    assert_eq!(purge(at(10).plus(Duration::from_secs(1)), 3).await, 2);
    assert_eq!(purge(at(10), 3).await, 0);
    assert_eq!(found(stores, &LogFilter::default()).await, [6]);
}
