#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rate_limit::WhenAway;

fn variables(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn environment(given: &[(&str, &str)]) -> Sources {
    Sources {
        environment: variables(given),
        ..Sources::default()
    }
}

fn file(text: &str) -> Sources {
    Sources {
        file: Some(FileText {
            path: "abunfi.toml".into(),
            text: text.to_owned(),
        }),
        ..Sources::default()
    }
}

fn problems(sources: &Sources) -> Vec<String> {
    let problems = Config::load(sources).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn without_any_source_the_defaults_hold() {
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(
        loaded
            .shown()
            .iter()
            .all(|row| row.source == Source::Default)
    );
}

#[test]
fn each_source_overrides_those_before_it() {
    let mut sources =
        file("port = 1\nhost = '0.0.0.1'\nlog_level = 'error'\ndefault_asset = 'USD'");
    sources.dot_env = variables(&[("PORT", "2"), ("HOST", "0.0.0.2"), ("LOG_LEVEL", "warn")]);
    sources.environment = variables(&[("PORT", "3"), ("HOST", "0.0.0.3")]);
    sources.flags = BTreeMap::from([("port", "4".to_owned())]);
    let loaded = Config::load(&sources).unwrap();
    assert_eq!(loaded.config.port, 4);
    assert_eq!(loaded.config.host, IpAddr::from([0, 0, 0, 3]));
    assert_eq!(loaded.config.log_level, LogLevel::Warn);
    assert_eq!(loaded.config.default_asset, "USD");
    for (key, source) in [
        ("port", Source::Flag),
        ("host", Source::Environment),
        ("log_level", Source::DotEnv),
        ("default_asset", Source::File),
        ("data_dir", Source::Default),
    ] {
        assert_eq!(loaded.source(key), source, "{key}");
    }
}

#[test]
fn every_field_has_exactly_one_setting_and_one_variable() {
    fn leaves(value: &serde_json::Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) if at != "rate_limits." => {
                for (name, value) in fields {
                    leaves(value, &format!("{at}{name}."), found);
                }
            }
            _ => {
                found.insert(at.trim_end_matches('.').to_owned());
            }
        }
    }
    let mut fields = BTreeSet::new();
    leaves(
        &serde_json::to_value(Config::default()).unwrap(),
        "",
        &mut fields,
    );
    let keys: BTreeSet<_> = SETTINGS
        .iter()
        .map(|setting| setting.key.to_owned())
        .collect();
    assert_eq!(keys, fields);
    assert_eq!(keys.len(), SETTINGS.len());
    let variables: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.variable).collect();
    assert_eq!(variables.len(), SETTINGS.len());
}

#[test]
fn what_is_shown_of_every_setting_can_be_read_back() {
    let config = Config {
        own_rate_limit: Some("default".to_owned()),
        store_logs_from: Some(LogLevel::Warn),
        http: HttpConfig {
            cors_origins: vec!["https://a.example".to_owned(), "http://b:8080".to_owned()],
            ..HttpConfig::default()
        },
        ..Config::default()
    };
    for setting in SETTINGS {
        let shown = setting.show(&config);
        if !shown.is_empty() {
            let mut read = config.clone();
            assert!(setting.read(&mut read, &shown), "{} = {shown}", setting.key);
            assert_eq!(read, config, "{}", setting.key);
        }
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_what_was_given_and_what_is_allowed() {
    let mut sources = file("prot = 1\n[postgres]\nmax_connections = 0");
    sources.environment = variables(&[
        ("PORT", "70000"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://root:hunter2@db/x"),
        ("ABUNFI_ADMIN_KEY", "hunter2"),
    ]);
    sources.flags = BTreeMap::from([("host", "localhost".to_owned())]);
    assert_eq!(
        problems(&sources),
        [
            "postgres.max_connections: \"0\" is not allowed: must be a number from 1 to 10000",
            "prot: there is no such setting; did you mean `port`?",
            "PORT: \"70000\" is not allowed: must be a number from 0 to 65535",
            "DATABASE_URL: \"mysql://root:***@db/x\" is not allowed: must be `postgresql://…` or `sqlite://PATH`",
            "ABUNFI_ADMIN_KEY: \"*** (7 characters)\" is not allowed: must be at least 32 characters of visible ASCII",
            "LOG_LEVEL: \"loud\" is not allowed: must be `trace`, `debug`, `info`, `warn` or `error`",
            "--host: \"localhost\" is not allowed: must be an IP address",
        ]
    );
}

#[test]
fn each_of_these_values_is_refused_by_its_variable() {
    for (name, value) in [
        ("PORT", "-1"),
        ("PORT", "+1"),
        ("PORT", " 1"),
        ("PORT", "1.0"),
        ("PORT", "65536"),
        ("PORT", "x"),
        ("DATABASE_URL", "postgresql://"),
        ("DATABASE_URL", "sqlite:data"),
        ("DATABASE_DIRECT_URL", "sqlite://x"),
        ("MONGODB_URI", "http://x"),
        ("REDIS_URL", "localhost:6379"),
        ("DEFAULT_ASSET", "vnd"),
        ("DEFAULT_ASSET", "ABCDEFGHIJKLM"),
        ("ABUNFI_ADMIN_KEY", "0123456789012345678901234567890"),
        ("DATABASE_MAX_CONNECTIONS", "0"),
        ("DATABASE_DEADLINE_MS", "0"),
        ("MIGRATE_ON_START", "yes"),
        ("CORS_ORIGINS", "*,https://a"),
        ("CORS_ORIGINS", "https://a/path"),
        ("CORS_ORIGINS", "a.example"),
        ("RATE_LIMITS", "a"),
        ("RATE_LIMITS", "a=0/1"),
        ("RATE_LIMITS", "a=1/0"),
        ("RATE_LIMITS", "a=1000001/1"),
        ("RATE_LIMITS", "a=1/31622401"),
        ("RATE_LIMITS", "a b=1/1"),
        ("RATE_LIMITS", "a=1/1:open"),
        ("OWN_RATE_LIMIT", "none"),
        ("REDIS_KEY_PREFIX", "a b"),
        ("IDEMPOTENCY_RETENTION_DAYS", "6"),
        ("HTTP_REQUEST_TIMEOUT_MS", "30001"),
        ("SESSION_IDLE_TTL_SECONDS", "31000000"),
    ] {
        let found = problems(&environment(&[(name, value)]));
        assert_eq!(found.len(), 1, "{name}={value}: {found:?}");
        assert!(found[0].starts_with(&format!("{name}: ")), "{}", found[0]);
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let loaded = Config::load(&environment(&[("ABUNFI_ADMIN_KEY", ""), ("PORT", "")])).unwrap();
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn policies_add_to_those_that_are_there_from_the_start() {
    let mut sources = file(
        "[rate_limits.login]\nlimit = 3\nperiod_seconds = 30\n[rate_limits.otp]\nlimit = 1\nperiod_seconds = 10\nwhen_away = 'refuse'",
    );
    sources.environment = variables(&[("RATE_LIMITS", "partner=1000/60:refuse, otp=2/10")]);
    let policies = Config::load(&sources).unwrap().config.rate_limits;
    let names: Vec<_> = policies.keys().map(String::as_str).collect();
    assert_eq!(names, ["default", "login", "otp", "partner"]);
    assert_eq!(
        (policies["login"].limit, policies["login"].period_seconds),
        (3, 30)
    );
    assert_eq!(
        (policies["otp"].limit, policies["otp"].when_away),
        (2, WhenAway::InProcess)
    );
    assert_eq!(policies["partner"].when_away, WhenAway::Refuse);
}

#[test]
fn a_policy_in_the_file_is_checked_field_by_field() {
    let found = problems(&file(
        "[rate_limits.a]\nlimt = 3\nperiod_seconds = 30\n[rate_limits.b]\nlimit = 0\nperiod_seconds = 1",
    ));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("rate_limits.a: ") && found[0].contains("limt"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("rate_limits.b: the limit must be"),
        "{found:?}"
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_by_its_line_and_without_its_text() {
    let found = problems(&file("port = 1\nadmin_key = hunter2 hunter2\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("abunfi.toml: line 2 is not TOML: "),
        "{found:?}"
    );
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn neither_what_is_shown_nor_what_is_written_out_holds_a_secret() {
    let loaded = Config::load(&environment(&[
        ("DATABASE_URL", "postgresql://u:hunter2@db/x"),
        ("MONGODB_URI", "mongodb://u:hunter2@db/x"),
        ("REDIS_URL", "redis://:hunter2@db"),
        ("ABUNFI_ADMIN_KEY", "hunter2hunter2hunter2hunter2hunter2"),
    ]))
    .unwrap();
    let texts = [
        format!("{loaded:?}"),
        format!("{:?}", loaded.shown()),
        serde_json::to_string(&loaded.config).unwrap(),
    ];
    assert!(
        texts.iter().all(|text| !text.contains("hunter2")),
        "{texts:?}"
    );
}
