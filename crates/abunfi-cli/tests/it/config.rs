//! Settings, from where they come to how they are shown.

use serde_json::Value;

use crate::support::Place;

fn setting(shown: &Value, variable: &str) -> (String, String) {
    let rows = shown.as_array().unwrap();
    let row = rows.iter().find(|row| row["variable"] == variable).unwrap();
    let text = |name: &str| row[name].as_str().unwrap_or("–").to_owned();
    (text("value"), text("source"))
}

#[test]
fn file_dot_env_environment_and_flags_override_each_other_in_this_order() {
    let mut place = Place::new();
    place.write(
        "a.toml",
        "port = 1001\nlog_level = 'error'\n[postgres]\nmax_connections = 3\n",
    );
    place.write(".env", "PORT=1002\nLOG_LEVEL=warn\nHOST=127.0.0.2\n");
    place.set("PORT", "1003").set("HOST", "127.0.0.3");
    let shown = place
        .run(&["config", "--json", "--config", "a.toml", "--port", "1004"])
        .json();
    for (variable, value, source) in [
        ("PORT", "1004", "flag"),
        ("HOST", "127.0.0.3", "environment"),
        ("LOG_LEVEL", "warn", "dot_env"),
        ("DATABASE_MAX_CONNECTIONS", "3", "file"),
        ("DEFAULT_ASSET", "VND", "default"),
        ("DATABASE_URL", "–", "default"),
    ] {
        assert_eq!(
            setting(&shown, variable),
            (value.to_owned(), source.to_owned()),
            "{variable}"
        );
    }
}

#[test]
fn in_production_no_dot_env_is_read_and_the_file_may_come_from_the_environment() {
    let mut place = Place::new();
    place.write("b.toml", "port = 1001");
    place.write(".env", "PORT=1002");
    place
        .set("ABUNFI_ENV", "production")
        .set("ABUNFI_CONFIG", "b.toml");
    let shown = place.run(&["config", "--json"]).json();
    assert_eq!(
        setting(&shown, "PORT"),
        ("1001".to_owned(), "file".to_owned())
    );
}

#[test]
fn secrets_are_masked_wherever_settings_are_shown() {
    let mut place = Place::new();
    place
        .set(
            "DATABASE_URL",
            "postgresql://abunfi_user:hunter2@db.internal/abunfi",
        )
        .set(
            "MONGODB_URI",
            "mongodb://abunfi_user:hunter2@db.internal/abunfi",
        )
        .set("REDIS_URL", "redis://:hunter2@cache.internal")
        .set(
            "ABUNFI_ADMIN_KEY",
            "hunter2-hunter2-hunter2-hunter2-hunter2",
        );
    for arguments in [&["config"][..], &["config", "--json"]] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.out.contains("hunter2"), "{}", ran.out);
        assert!(
            ran.out
                .contains("postgresql://abunfi_user:***@db.internal/abunfi"),
            "{}",
            ran.out
        );
    }
}

#[test]
fn all_that_is_wrong_is_named_at_once_and_stops_every_command() {
    let mut place = Place::new();
    place.write("c.toml", "[postgres]\nmax_conections = 5\n");
    place
        .set("PORT", "http")
        .set("DATABASE_URL", "postgres:/u:hunter2@db/x")
        .set("ABUNFI_ADMIN_KEY", "hunter2");
    for command in ["serve", "check", "config", "migrate", "stats"] {
        let ran = place.run(&[command, "--config", "c.toml"]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{command}");
        assert_eq!(
            ran.err,
            "abunfi: the configuration is not valid\n  \
             postgres.max_conections: there is no such setting; did you mean `postgres.max_connections`?\n  \
             PORT: \"http\" is not allowed: must be a number from 0 to 65535\n  \
             DATABASE_URL: \"*** (24 characters)\" is not allowed: must be `postgresql://…` or `sqlite://PATH`\n  \
             ABUNFI_ADMIN_KEY: \"*** (7 characters)\" is not allowed: must be at least 32 characters of visible ASCII\n",
            "{command}"
        );
    }
    assert!(!place.data().exists(), "nothing was begun");
}

#[test]
fn programs_get_the_problems_as_json() {
    let mut place = Place::new();
    place.set("PORT", "x");
    let ran = place.run(&["check", "--json"]);
    assert_eq!(ran.code, 2);
    let said: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(said["exit_code"], 2);
    assert_eq!(said["problems"][0]["name"], "PORT");
    assert_eq!(said["problems"][0]["given"], "x");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let place = Place::new();
    let ran = place.run(&["config", "--config", "nowhere.toml"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("--config: \"nowhere.toml\""),
        "{}",
        ran.err
    );
}

#[test]
fn a_dot_env_that_cannot_be_read_is_refused_without_showing_it() {
    let place = Place::new();
    place.write(".env", "ABUNFI_ADMIN_KEY='hunter2\nPORT=1\n");
    let ran = place.run(&["config"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains(".env: every line must be"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}
