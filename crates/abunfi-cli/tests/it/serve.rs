//! Starting, the first key, stopping.

use std::net::TcpListener;

use crate::support::Place;

mod embedded {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Place;

    #[test]
    fn the_first_start_makes_a_key_that_is_in_a_file_alone() {
        let place = Place::new();
        let service = place.serve();
        let path = place.data().join("admin.key");
        let token = fs::read_to_string(&path).unwrap();
        let token = token.trim();
        assert!(token.starts_with("abk_"), "{token}");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(service.banner["key_file"], "./data/admin.key");
        let signing_key = place.data().join("audit.key");
        let mode = fs::metadata(&signing_key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let public_key = service.banner["audit_public_key"].as_str().unwrap();
        let signing_key = fs::read_to_string(&signing_key).unwrap();
        assert_eq!((public_key.len(), signing_key.trim().len()), (64, 64));
        assert_ne!(public_key, signing_key.trim());
        assert_eq!(
            service.banner["backends"],
            serde_json::json!({"relational": "sqlite", "documents": "sqlite", "key_value": "memory"})
        );
        // It has all scopes, and without it there is no way in.
        assert_eq!(service.get("/api/v1/stats", Some(token)).0, 200);
        assert_eq!(service.get("/api/v1/stats", None).0, 401);

        let banner = service.banner.to_string();
        let (code, log) = service.stop("TERM");
        assert_eq!(code, 0, "{log}");
        assert!(
            !log.contains(token) && !banner.contains(token),
            "the key is shown on terminals only"
        );

        // A second start makes none, and the first one's is still good.
        let service = place.serve();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), token);
        assert_eq!(service.get("/api/v1/stats", Some(token)).0, 200);
        let listed = place.run(&["keys", "list", "--json"]).json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    }

    #[test]
    fn a_start_that_was_killed_between_file_and_store_is_taken_up_again() {
        let place = Place::new();
        fs::create_dir(place.data()).unwrap();
        // What such a start leaves: the file, and no stored key.
        let token = "abk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        fs::write(place.data().join("admin.key"), format!("{token}\n")).unwrap();
        let service = place.serve();
        assert_eq!(service.get("/api/v1/stats", Some(token)).0, 200);
    }

    #[test]
    fn with_a_key_in_the_configuration_none_is_made() {
        let mut place = Place::new();
        let key = "0123456789abcdef0123456789abcdef";
        place.set("ABUNFI_ADMIN_KEY", key);
        let service = place.serve();
        assert!(!place.data().join("admin.key").exists());
        assert_eq!(service.get("/api/v1/stats", Some(key)).0, 200);
    }

    #[test]
    fn people_get_one_readable_block_without_any_credential() {
        let place = Place::new();
        let mut service = place.command(&["serve", "--port", "0"]);
        let mut child = service
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        for line in std::io::BufRead::lines(out) {
            let line = line.unwrap();
            let is_last = line.trim_start().starts_with("key ");
            lines.push(line);
            if is_last {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let block = lines.join("\n");
        for part in [
            "http://127.0.0.1:",
            "SQLite in ./data",
            "in this process",
            "./data/admin.key",
        ] {
            assert!(block.contains(part), "{block}");
        }
        assert!(!block.contains("abk_"), "{block}");
    }

    #[test]
    fn sigterm_and_sigint_end_it_in_order() {
        let place = Place::new();
        for signal in ["TERM", "INT"] {
            let service = place.serve();
            assert_eq!(service.get("/livez", None).0, 200);
            let (code, log) = service.stop(signal);
            assert_eq!(code, 0, "{signal}: {log}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_said_before_anything_is_begun() {
        let place = Place::new();
        let taken = super::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let ran = place.run(&["serve", "--port", &port]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains("another program listens there"), "{ran:?}");
        assert!(ran.err.contains("--port"), "{ran:?}");
        assert!(!place.data().exists(), "nothing was begun");
    }
}

mod servers {
    use crate::stores::on_servers;

    #[tokio::test]
    async fn without_a_key_a_platform_on_servers_does_not_start_and_says_how_to_make_one() {
        let place = on_servers().await;
        let ran = place.run(&["serve", "--port", "0"]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("abunfi keys create"), "{ran:?}");
        assert!(!place.data().join("admin.key").exists());

        let made = place.run(&["keys", "create", "admin", "--json"]).json();
        let service = place.serve();
        assert_eq!(
            service.banner["backends"],
            serde_json::json!({"relational": "postgresql", "documents": "mongodb", "key_value": "redis"})
        );
        assert_eq!(service.get("/api/v1/stats", made["token"].as_str()).0, 200);
        let (code, log) = service.stop("TERM");
        assert_eq!(code, 0, "{log}");
    }
}
