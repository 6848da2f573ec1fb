//! Checkpoints, exports and proofs on the command line.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Place, Ran};

fn said(ran: &Ran, code: i32, what: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert!(
        ran.out.contains(what) || ran.err.contains(what),
        "{what}: {ran:?}"
    );
}

/// Two rows of the trail, in the chain `system`.
fn with_some_rows(place: &Place) {
    for owner in ["payments", "reports"] {
        assert_eq!(place.run(&["keys", "create", owner]).code, 0);
    }
}

/// Every command that the trail keeps, once in a name and once without.
fn rows_are_by_who_was_named(mut place: Place) {
    let admin = "k".repeat(40);
    place.set("ABUNFI_ADMIN_KEY", &admin);
    let users = [1, 2].map(|n| {
        let service = place.serve();
        let post = |path: &str, key: &str, body: Value| {
            let answered = service.post(path, &admin, key, &body).unwrap();
            assert!((200..300).contains(&answered.status), "{answered:?}");
            answered.json()["id"].as_str().unwrap().to_owned()
        };
        let email = format!("user{n}@example.com");
        let user = post(
            "/api/v1/users",
            "user",
            json!({"email": email, "name": "An"}),
        );
        let path = format!("/api/v1/users/{user}/transactions");
        let pending = json!({"type": "deposit", "amount": "1", "status": "pending"});
        let posted = post(&path, "post", pending);
        let reason = json!({"reason": "moved abroad"});
        post(&format!("{path}/{posted}/cancel"), "cancel", reason);
        assert_eq!(service.stop("TERM").0, 0);
        user
    });
    let named = place.run(&["audit", "erase", &users[0], "--actor", "anna"]);
    said(&named, 0, "Erased 1 values");
    said(
        &place.run(&["audit", "erase", &users[1]]),
        0,
        "Erased 1 values",
    );
    let create = ["keys", "create", "payments", "--actor", "anna", "--json"];
    let made = place.run(&create).json();
    let id = made["id"].as_str().unwrap();
    let revoke = ["keys", "revoke", id, "--actor", "binh"];
    said(&place.run(&revoke), 0, "is revoked");
    assert_eq!(place.run(&["keys", "create", "reports"]).code, 0);

    let mut found: Vec<(String, String, String)> = place
        .run(&["audit", "export"])
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|row| row["type"] == "row")
        .map(|row| {
            ["action", "actor_kind", "actor_id"].map(|name| row[name].as_str().unwrap().to_owned())
        })
        .map(|[action, kind, id]| (action, kind, id))
        .filter(|(action, ..)| action == "erase" || action.starts_with("key_"))
        .collect();
    found.sort_unstable();
    let by = |action: &str, id: &str| (action.to_owned(), "system".to_owned(), id.to_owned());
    assert_eq!(
        found,
        [
            by("erase", "cli"),
            by("erase", "cli:anna"),
            by("key_create", "cli"),
            by("key_create", "cli:anna"),
            by("key_revoke", "cli:binh"),
        ]
    );
    said(&place.run(&["verify"]), 0, "agree");
}

#[test]
fn a_key_is_alone_on_standard_output_and_needs_no_configuration() {
    let mut place = Place::new();
    place.set("PORT", "no port");
    let ran = place.run(&["audit", "keygen"]);
    assert_eq!((ran.code, ran.out.trim().len()), (0, 64), "{ran:?}");
    assert!(!ran.err.contains(ran.out.trim()), "{ran:?}");
    let key = place.run(&["audit", "keygen", "--json"]).json();
    assert_ne!(key["signing_key"].as_str().unwrap(), ran.out.trim());
    assert_eq!(key["public_key"].as_str().unwrap().len(), 64);
}

mod embedded {
    use super::*;

    #[test]
    fn a_checkpoint_an_export_and_an_anchor_are_checked_without_the_database() {
        let place = Place::new();
        for command in ["anchor", "export"] {
            said(&place.run(&["audit", command]), 1, "abunfi migrate");
        }
        assert!(!place.data().exists(), "who only reads makes nothing");
        with_some_rows(&place);
        said(
            &place.run(&["audit", "anchor"]),
            1,
            "abunfi audit checkpoint",
        );
        let made = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(
            (&made["made"], &made["checkpoint"]["number"]),
            (&true.into(), &1.into())
        );
        // With the row that opened the default asset.
        assert_eq!(made["checkpoint"]["covered_rows"], 3);
        let public_key = made["checkpoint"]["public_key"].as_str().unwrap();
        said(
            &place.run(&["audit", "checkpoint"]),
            0,
            "Nothing is new since checkpoint 1",
        );

        said(
            &place.run(&["audit", "export", "--out", "books.jsonl"]),
            0,
            "books.jsonl",
        );
        said(
            &place.run(&["audit", "anchor", "--out", "anchor.json"]),
            0,
            "anchor.json",
        );
        let piped = place.run(&["audit", "export"]);
        assert_eq!(
            piped.out,
            fs::read_to_string(place.path().join("books.jsonl")).unwrap()
        );

        // Elsewhere, and with a configuration that is not valid.
        let mut elsewhere = Place::new();
        elsewhere.set("PORT", "no port");
        for file in ["books.jsonl", "anchor.json"] {
            let path = place.path().join(file);
            let path = path.to_str().unwrap();
            let report = elsewhere
                .run(&["audit", "check", path, "--public-key", public_key, "--json"])
                .json();
            assert_eq!(
                (&report["clean"], &report["checkpoint"]),
                (&true.into(), &1.into())
            );
            said(
                &elsewhere.run(&["audit", "check", path]),
                0,
                "Everything agrees.",
            );
            let other = "00".repeat(32);
            let ran = elsewhere.run(&["audit", "check", path, "--public-key", &other]);
            said(&ran, 1, "not signed by a key that is trusted");
        }
        assert!(!elsewhere.data().exists(), "no platform was opened");

        let edited = piped.out.replacen("key_create", "key_revoke", 1);
        elsewhere.write("edited.jsonl", &edited);
        said(
            &elsewhere.run(&["audit", "check", "edited.jsonl"]),
            1,
            "row 1: the hash of its content is",
        );
        let report = elsewhere.run(&["audit", "check", "edited.jsonl", "--json"]);
        assert_eq!(report.code, 1);
        assert!(report.out.contains("\"clean\": false"), "{report:?}");
    }

    #[test]
    fn a_file_is_held_against_an_anchor_without_the_database() {
        let place = Place::new();
        with_some_rows(&place);
        let make = |owner| {
            assert_eq!(place.run(&["keys", "create", owner]).code, 0);
            assert_eq!(place.run(&["audit", "checkpoint"]).code, 0);
        };
        let write = |command: &str, file: &str| {
            said(&place.run(&["audit", command, "--out", file]), 0, file);
            place.path().join(file).to_str().unwrap().to_owned()
        };
        make("one");
        let early = write("export", "early.jsonl");
        let first = write("anchor", "first.json");
        make("two");
        let second = write("anchor", "second.json");
        let books = write("export", "books.jsonl");

        // Elsewhere, and with a configuration that is not valid.
        let mut elsewhere = Place::new();
        elsewhere.set("PORT", "no port");
        let check = |file: &str, anchor: &str, json: &'static [&'static str]| {
            let arguments = ["audit", "check", file, "--anchor", anchor];
            elsewhere.run(&[&arguments[..], json].concat())
        };
        said(
            &check(&books, &first, &[]),
            0,
            "Anchored up to checkpoint 1; not anchored yet: 1 checkpoints.\nEverything agrees.",
        );
        let report = check(&books, &second, &["--json"]).json();
        assert_eq!(
            (&report["anchored"], &report["not_anchored"]),
            (&2.into(), &0.into())
        );
        let root = |file: &str| {
            let text = fs::read_to_string(file).unwrap();
            let anchor: serde_json::Value = serde_json::from_str(&text).unwrap();
            anchor["checkpoint"]["root"].as_str().unwrap().to_owned()
        };
        let named = format!(
            "checkpoint 2: it was published, with the root {}, and is not here",
            root(&second)
        );
        said(&check(&early, &second, &[]), 1, &named);

        // Another platform has a checkpoint of the same number, and nothing is wrong with it.
        let other = Place::new();
        with_some_rows(&other);
        assert_eq!(other.run(&["audit", "checkpoint"]).code, 0);
        let ran = other.run(&["audit", "export"]);
        elsewhere.write("other.jsonl", &ran.out);
        said(
            &elsewhere.run(&["audit", "check", "other.jsonl"]),
            0,
            "Everything agrees.",
        );
        said(
            &check("other.jsonl", &first, &[]),
            1,
            "checkpoint 1: its ledger is ",
        );
        let edited = fs::read_to_string(&first)
            .unwrap()
            .replacen(&root(&first), &root(&second), 1);
        elsewhere.write("edited.json", &edited);
        said(
            &check(&books, "edited.json", &[]),
            2,
            "edited.json is no anchor",
        );
        said(&check(&books, &books, &[]), 2, "books.jsonl is no anchor");
        said(&check(&books, "missing.json", &[]), 2, "missing.json");
    }

    #[test]
    fn rows_of_the_trail_are_by_who_was_named() {
        rows_are_by_who_was_named(Place::new());
    }

    #[test]
    fn a_name_that_cannot_be_is_refused_before_anything_is_opened() {
        let place = Place::new();
        let user = "01890000-0000-7000-8000-000000000000";
        let long = "a".repeat(101);
        for (name, what) in [
            ("", "--actor must not be empty"),
            ("An Nguyen", "--actor must be visible ASCII"),
            ("ánh", "--actor must be visible ASCII"),
            (&long, "--actor must have at most 100 characters"),
        ] {
            for command in [
                &["audit", "erase", user][..],
                &["keys", "create", "payments"],
                &["keys", "revoke", user],
            ] {
                let arguments = [command, &["--actor", name]].concat();
                said(&place.run(&arguments), 2, what);
            }
        }
        assert!(!place.data().exists());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let place = Place::new();
        with_some_rows(&place);
        assert_eq!(place.run(&["audit", "checkpoint"]).code, 0);
        place.write("notes.txt", "not a proof");
        let nobody = "01890000-0000-7000-8000-000000000000";
        for (arguments, code, what) in [
            (&["audit", "prove", "An"][..], 2, "no user's id"),
            (&["audit", "erase", "An"], 2, "no user's id"),
            (&["audit", "prove", nobody], 1, "there is no user"),
            (&["audit", "erase", nobody], 1, "there is no user"),
            (
                &["audit", "export", "--since", "7"],
                2,
                "there is no checkpoint 7",
            ),
            (&["audit", "check", "missing.json"], 2, "missing.json"),
            (
                &["audit", "check", "notes.txt"],
                2,
                "no export, proof or anchor",
            ),
            (
                &["audit", "check", "notes.txt", "--public-key", "12"],
                2,
                "64 hexadecimal digits",
            ),
        ] {
            said(&place.run(arguments), code, what);
        }
    }

    #[test]
    fn the_key_of_the_configuration_signs() {
        let mut place = Place::new();
        let key = place.run(&["audit", "keygen", "--json"]).json();
        place.write("audit.seed", key["signing_key"].as_str().unwrap());
        place.set("AUDIT_SIGNING_KEY_FILE", "audit.seed");
        with_some_rows(&place);
        let made = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(made["checkpoint"]["public_key"], key["public_key"]);
        let config = place.run(&["config"]);
        assert!(!config.out.contains(key["signing_key"].as_str().unwrap()));
        place.set("AUDIT_SIGNING_KEY", "short");
        said(&place.run(&["audit", "checkpoint"]), 2, "AUDIT_SIGNING_KEY");
    }
}

mod servers {
    use sqlx::{Connection as _, PgConnection};

    use super::*;
    use crate::stores::on_postgres;

    #[tokio::test]
    async fn rows_of_the_trail_are_by_who_was_named() {
        let name = abunfi_testkit::unique_name();
        let place = on_postgres(&name).await;
        let checked = tokio::task::spawn_blocking(|| rows_are_by_who_was_named(place));
        checked.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_key_the_start_says_that_checkpoints_are_not_signed() {
        let name = abunfi_testkit::unique_name();
        let mut place = on_postgres(&name).await;
        place.set("ABUNFI_ADMIN_KEY", "k".repeat(40));
        let service = place.serve();
        assert_eq!(service.banner["audit_public_key"], serde_json::Value::Null);
        let (code, log) = service.stop("TERM");
        assert_eq!(code, 0, "{log}");
        assert!(log.contains("abunfi audit keygen"), "{log}");
        assert!(!place.data().join("audit.key").exists());
        with_some_rows(&place);
        let made = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(made["checkpoint"]["public_key"], serde_json::Value::Null);
        let ran = place.run(&["audit", "checkpoint"]);
        said(&ran, 0, "Nothing is new since checkpoint 1");
        // A key that comes later signs; without it again, none is made.
        place.set("AUDIT_SIGNING_KEY", "7".repeat(64));
        with_some_rows(&place);
        let made = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(made["checkpoint"]["number"], 2);
        let key = made["checkpoint"]["public_key"].as_str().unwrap();
        place.set("AUDIT_SIGNING_KEY", "");
        with_some_rows(&place);
        let ran = place.run(&["audit", "checkpoint"]);
        said(&ran, 2, "set AUDIT_SIGNING_KEY");
        let newest = place.run(&["verify", "--public-key", key, "--json"]).json();
        assert_eq!(
            (&newest["clean"], &newest["checkpoint"]),
            (&true.into(), &2.into())
        );
        assert_eq!(newest["signed_from"], 2);
        assert_eq!(place.run(&["audit", "export", "--out", "books"]).code, 0);
        let checked = place.run(&["audit", "check", "books", "--public-key", key]);
        said(&checked, 0, "Signed from checkpoint 2 on.");
    }

    #[tokio::test]
    async fn that_another_instance_makes_a_checkpoint_is_said() {
        let name = abunfi_testkit::unique_name();
        let place = on_postgres(&name).await;
        assert_eq!(place.run(&["migrate"]).code, 0);
        with_some_rows(&place);
        let lock = || async {
            let mut other = PgConnection::connect(&place.variable("DATABASE_URL"))
                .await
                .unwrap();
            let lock = "BEGIN; SELECT * FROM checkpoint_state FOR UPDATE";
            sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
            other
        };
        let other = lock().await;
        said(
            &place.run(&["audit", "checkpoint"]),
            0,
            "Another instance is making the first checkpoint now.",
        );
        let busy = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(
            busy,
            serde_json::json!({"made": false, "busy": true, "checkpoint": null})
        );
        other.close().await.unwrap();
        let made = place.run(&["audit", "checkpoint", "--json"]).json();
        assert_eq!(
            (&made["made"], &made["busy"]),
            (&true.into(), &false.into())
        );
        let other = lock().await;
        said(
            &place.run(&["audit", "checkpoint"]),
            0,
            "Another instance is making a checkpoint now; the newest is still 1.",
        );
        other.close().await.unwrap();
        said(
            &place.run(&["audit", "checkpoint"]),
            0,
            "Nothing is new since checkpoint 1.",
        );
    }
}
