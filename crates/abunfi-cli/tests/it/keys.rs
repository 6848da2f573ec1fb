//! Service keys, with no service running.

mod embedded {
    use crate::support::Place;

    #[test]
    fn keys_are_made_listed_and_revoked() {
        let place = Place::new();
        let made = place
            .run(&[
                "keys",
                "create",
                "payments",
                "--scopes",
                "read, money",
                "--json",
            ])
            .json();
        let (id, token) = (
            made["id"].as_str().unwrap(),
            made["token"].as_str().unwrap(),
        );
        assert!(token.starts_with("abk_"), "{token}");
        assert_eq!(made["scopes"], serde_json::json!(["read", "money"]));

        let listed = place.run(&["keys", "list", "--json"]).json();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(listed[0]["id"], id);
        assert_eq!(listed[0]["owner"], "payments");
        assert_eq!(listed[0]["revoked_at"], serde_json::Value::Null);
        assert!(
            !listed.to_string().contains(token),
            "a token is shown once only"
        );

        let revoked = place.run(&["keys", "revoke", id, "--json"]).json();
        assert!(revoked["revoked_at"].is_string(), "{revoked}");
        let listed = place.run(&["keys", "list"]);
        assert!(
            listed.out.contains(id) && !listed.out.contains('–'),
            "{}",
            listed.out
        );
    }

    #[test]
    fn a_token_is_alone_on_standard_output_so_that_it_can_be_piped() {
        let place = Place::new();
        let ran = place.run(&["keys", "create", "payments"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
        assert!(ran.out.starts_with("abk_"), "{ran:?}");
        assert!(
            ran.err
                .contains("of payments (read, write, money, operate)"),
            "{ran:?}"
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        let place = Place::new();
        let unknown = "01890000-0000-7000-8000-000000000000";
        for (arguments, code, said) in [
            (
                &["keys", "create", "a", "--scopes", "root"][..],
                2,
                "there are read, write, money, operate",
            ),
            (&["keys", "create", ""], 2, "owner"),
            (&["keys", "revoke", "42"], 2, "abunfi keys list"),
            (&["keys", "revoke", unknown], 1, "no such key"),
        ] {
            let ran = place.run(arguments);
            assert_eq!(
                (ran.code, ran.out.as_str()),
                (code, ""),
                "{arguments:?}: {ran:?}"
            );
            assert!(ran.err.contains(said), "{arguments:?}: {ran:?}");
        }
    }

    #[test]
    fn without_any_key_the_list_says_how_to_make_one() {
        let place = Place::new();
        let ran = place.run(&["keys", "list"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("abunfi keys create"), "{ran:?}");
        assert_eq!(place.run(&["keys", "list", "--json"]).out.trim(), "[]");
    }
}
