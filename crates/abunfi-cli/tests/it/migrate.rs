//! The schema, brought up to date by one of many.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Place, Ran};

/// Four at once: one does it, the others find it done.
fn migrate_together(place: &Place) {
    let start = || {
        let mut command = place.command(&["migrate", "--json"]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // Migrations that are applied twice fail, since what they make is there already.
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    let answers: Vec<Value> = children
        .into_iter()
        .map(|child| Ran::of(child.wait_with_output().unwrap()).json())
        .collect();
    let newest = answers[0]["to"].as_i64().unwrap();
    assert!(newest >= 1);
    assert!(
        answers.iter().all(|answer| answer["to"] == newest),
        "{answers:?}"
    );
    // What each of them found when it began; it may have waited for another one since.
    let began_at = |version: i64| answers.iter().any(|answer| answer["from"] == version);
    assert!(began_at(0), "{answers:?}");

    let again = place.run(&["migrate", "--json"]).json();
    assert_eq!(again, json!({"from": newest, "to": newest}));
    let said = place.run(&["migrate"]);
    assert!(said.out.contains("already"), "{said:?}");
}

mod embedded {
    use crate::support::Place;

    #[test]
    fn four_at_once_migrate_a_new_file_once() {
        super::migrate_together(&Place::new());
    }

    #[test]
    fn a_start_that_may_not_migrate_says_what_to_run() {
        let mut place = Place::new();
        place.set("MIGRATE_ON_START", "false");
        let ran = place.run(&["serve", "--port", "0"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains("run `abunfi migrate`"), "{ran:?}");
    }
}

mod servers {
    use abunfi_testkit::unique_name;

    use crate::stores::on_postgres;

    #[tokio::test]
    async fn four_at_once_migrate_a_new_database_once() {
        super::migrate_together(&on_postgres(&unique_name()).await);
    }

    #[tokio::test]
    async fn two_services_that_start_together_both_start() {
        let mut place = on_postgres(&unique_name()).await;
        place.set("ABUNFI_ADMIN_KEY", "0123456789abcdef0123456789abcdef");
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| place.serve());
            (place.serve(), one.join().unwrap())
        });
        assert_eq!(one.get("/readyz", None).0, 200);
        assert_eq!(other.get("/readyz", None).0, 200);
    }
}
