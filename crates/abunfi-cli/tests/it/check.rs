//! The self-test, on no server and on three, and on stores that are not fit.

use serde_json::Value;

use crate::support::Ran;

const PARTS: [&str; 7] = [
    "connections",
    "relational_operations",
    "document_operations",
    "caching",
    "hybrid_user_operations",
    "rate_limiting",
    "sessions",
];

/// All seven parts are there, none is empty, none fails, and each check that is skipped says why.
#[track_caller]
fn assert_green(ran: &Ran) {
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let parts = report["parts"].as_array().unwrap();
    let names: Vec<_> = parts
        .iter()
        .map(|part| part["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, PARTS);
    for part in parts {
        let checks = part["checks"].as_array().unwrap();
        assert!(checks.len() >= 3, "{part}");
        for check in checks {
            assert_ne!(check["verdict"], "failed", "{check:#}");
            if check["verdict"] == "skipped" {
                assert!(check["reason"].is_string(), "{check}");
            }
        }
        let has_passed = checks.iter().any(|check| check["verdict"] == "passed");
        assert!(has_passed, "{part}");
    }
    assert_eq!((ran.code, &report["passed"]), (0, &Value::Bool(true)));
}

mod embedded {
    use super::assert_green;
    use crate::stores::{allow_changes_of_the_trail, rows_in_sqlite};
    use crate::support::Place;

    #[tokio::test]
    async fn the_self_test_is_green_and_leaves_nothing_behind() {
        let place = Place::new();
        assert_eq!(place.run(&["migrate"]).code, 0);
        // Opening may leave rows of its own (the default asset): they are there before and after.
        assert_eq!(place.run(&["stats"]).code, 0);
        let before = rows_in_sqlite(&place).await;
        assert!(before.len() > 10, "{before:?}");
        assert_green(&place.run(&["check", "--json"]));
        assert_eq!(rows_in_sqlite(&place).await, before);
    }

    #[tokio::test]
    async fn a_trail_that_can_be_changed_fails_the_self_test_by_name() {
        let place = Place::new();
        assert_eq!(place.run(&["migrate"]).code, 0);
        allow_changes_of_the_trail(&place).await;
        let ran = place.run(&["check"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let failed = ran.out.lines().filter(|line| line.contains("FAILED"));
        let failed: Vec<_> = failed.collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(
            failed
                .iter()
                .all(|line| line.contains("the audit trail refuses")),
            "{failed:?}"
        );
    }

    #[test]
    fn people_see_each_check_with_its_time_and_a_sum() {
        let place = Place::new();
        let ran = place.run(&["check"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.out.contains("hybrid user operations\n  ok "),
            "{}",
            ran.out
        );
        assert!(ran.out.contains(" passed, 0 failed, "), "{}", ran.out);
    }
}

/// Nothing listens there: what is refused at once needs no server.
mod unreachable {
    use crate::support::Place;

    #[test]
    fn a_key_value_store_that_is_away_fails_the_self_test_by_name() {
        let mut place = Place::new();
        place.set("REDIS_URL", "redis://127.0.0.1:1/0");
        let ran = place.run(&["check"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let line = ran
            .out
            .lines()
            .find(|line| line.contains("key-value store answers"))
            .unwrap();
        assert!(line.contains("FAILED"), "{}", ran.out);
    }

    #[test]
    fn a_relational_store_that_is_away_is_an_error_and_no_hang() {
        let mut place = Place::new();
        place.set("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/abunfi");
        let ran = place.run(&["check"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(
            ran.err.contains("postgresql") && !ran.err.contains("hunter2"),
            "{ran:?}"
        );
    }
}

mod servers {
    use super::assert_green;
    use crate::stores::{on_servers, rows_in_postgres};

    #[tokio::test]
    async fn the_self_test_is_green_on_three_servers_and_leaves_no_row_behind() {
        let place = on_servers().await;
        assert_eq!(place.run(&["stats"]).code, 0);
        let url = place.variable("DATABASE_URL");
        let before = rows_in_postgres(&url).await;
        assert!(before.len() > 10, "{before:?}");
        assert_green(&place.run(&["check", "--json"]));
        assert_eq!(rows_in_postgres(&url).await, before);
    }
}
