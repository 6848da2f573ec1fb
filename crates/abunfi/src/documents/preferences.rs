//! Preferences: a free JSON object with a core whose types are checked and whose gaps are filled.

use serde_json::{Map, Value, json};

use crate::validation::{FaultCode, Faults, pointer_to};

const LANGUAGES: [&str; 2] = ["vi", "en"];

/// What holds for a user who has said nothing, and for every core key that is missing.
pub fn defaults() -> Value {
    json!({
        "language": "vi",
        "currency": "VND",
        "notifications": {"email": true, "push": true, "sms": false}
    })
}

/// Checks the core of `preferences`, which stand at the JSON pointer `at` of a body: `language` is
/// `vi` or `en`, `currency` three capitals, `notifications` an object of booleans (channels of any
/// name). All of them may be missing; other keys are free, within the limits of
/// [`check_document`](super::canonical::check_document), which is asked apart.
///
/// # Errors
/// All faults, in the order above. A value that is not even an object is one `wrong_type`.
pub fn check_preferences(preferences: &Value, at: &str) -> Result<(), Faults> {
    let mut faults = Faults::new();
    let Some(preferences) = preferences.as_object() else {
        faults.add(at, FaultCode::WrongType, "must be an object");
        return faults.into_result();
    };
    if let Some(language) = preferences.get("language") {
        check_text(language, pointer_to(at, "language"), &mut faults, |text| {
            let is_known = LANGUAGES.contains(&text);
            (!is_known).then_some((FaultCode::NotAllowed, "must be vi or en"))
        });
    }
    if let Some(currency) = preferences.get("currency") {
        check_text(currency, pointer_to(at, "currency"), &mut faults, |text| {
            let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
            (!is_code).then_some((FaultCode::BadFormat, "must be three capital letters"))
        });
    }
    if let Some(notifications) = preferences.get("notifications") {
        check_notifications(notifications, &pointer_to(at, "notifications"), &mut faults);
    }
    faults.into_result()
}

fn check_text(
    value: &Value,
    pointer: String,
    faults: &mut Faults,
    fault: impl Fn(&str) -> Option<(FaultCode, &'static str)>,
) {
    match value.as_str() {
        None => faults.add(pointer, FaultCode::WrongType, "must be a string"),
        Some(text) => {
            if let Some((code, detail)) = fault(text) {
                faults.add(pointer, code, detail);
            }
        }
    }
}

fn check_notifications(value: &Value, at: &str, faults: &mut Faults) {
    let Some(channels) = value.as_object() else {
        faults.add(at, FaultCode::WrongType, "must be an object");
        return;
    };
    for (channel, value) in channels {
        if !value.is_boolean() {
            faults.add(
                pointer_to(at, channel),
                FaultCode::WrongType,
                "must be true or false",
            );
        }
    }
}

/// The preferences in force: `stored` over the [`defaults`], with the core keys that are missing (or
/// `null`, which an imported document may hold) filled in. What is stored is otherwise shown as it
/// is; what is not an object at all counts as nothing.
pub fn effective(stored: &Value) -> Value {
    let mut shown = stored.as_object().cloned().unwrap_or_default();
    if let Value::Object(core) = defaults() {
        fill(&mut shown, core);
    }
    Value::Object(shown)
}

/// Adds the members of `core` that `shown` lacks, inside objects too.
fn fill(shown: &mut Map<String, Value>, core: Map<String, Value>) {
    for (key, default) in core {
        match (shown.get_mut(&key), default) {
            (None | Some(Value::Null), default) => {
                shown.insert(key, default);
            }
            (Some(Value::Object(inner)), Value::Object(core)) => fill(inner, core),
            (Some(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::documents::merge_patch::merge_patch;

    fn faults(preferences: Value) -> Vec<(String, &'static str)> {
        check_preferences(&preferences, "/preferences")
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|fault| (fault.pointer, fault.code.as_str()))
            .collect()
    }

    #[test]
    fn the_defaults_are_those_of_the_contract_and_pass_the_check() {
        assert_eq!(
            defaults(),
            json!({"language":"vi","currency":"VND","notifications":{"email":true,"push":true,"sms":false}})
        );
        assert!(faults(defaults()).is_empty());
        assert_eq!(effective(&json!({})), defaults());
    }

    #[test]
    fn the_core_is_checked_and_the_rest_is_free() {
        assert!(faults(json!({"theme": {"dark": 1}, "notifications": {"zalo": true}})).is_empty());
        assert!(faults(json!({"language": "en", "currency": "USD"})).is_empty());
        for (preferences, expected) in [
            (json!([]), vec![("", "wrong_type")]),
            (
                json!({"language": "fr"}),
                vec![("/language", "not_allowed")],
            ),
            (json!({"language": null}), vec![("/language", "wrong_type")]),
            (
                json!({"currency": "usd"}),
                vec![("/currency", "bad_format")],
            ),
            (
                json!({"currency": "USDT"}),
                vec![("/currency", "bad_format")],
            ),
            (
                json!({"currency": "ĐÔA"}),
                vec![("/currency", "bad_format")],
            ),
            (
                json!({"notifications": true}),
                vec![("/notifications", "wrong_type")],
            ),
            (
                json!({"notifications": {"email": 1, "sms": "no"}, "currency": 5}),
                vec![
                    ("/currency", "wrong_type"),
                    ("/notifications/email", "wrong_type"),
                    ("/notifications/sms", "wrong_type"),
                ],
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(at, code)| (format!("/preferences{at}"), code))
                .collect();
            assert_eq!(faults(preferences.clone()), expected, "{preferences}");
        }
    }

    #[test]
    fn what_is_stored_wins_and_gaps_are_filled_inside_too() {
        assert_eq!(
            effective(
                &json!({"language":"en","currency":null,"notifications":{"push":false,"x":true},"y":null})
            ),
            json!({"language":"en","currency":"VND","notifications":{"email":true,"push":false,"sms":false,"x":true},"y":null})
        );
        assert_eq!(effective(&json!("legacy")), defaults());
        assert_eq!(
            effective(&json!({"notifications": "all"})).get("notifications"),
            Some(&json!("all"))
        );
    }

    fn preferences() -> impl Strategy<Value = Value> {
        let core = (
            prop::option::of("vi|en"),
            prop::option::of("[A-Z]{3}"),
            prop::option::of(prop::collection::btree_map(
                "email|push|sms|x",
                any::<bool>(),
                0..4,
            )),
            prop::collection::btree_map("[a-c]", any::<i64>(), 0..3),
        );
        core.prop_map(|(language, currency, notifications, free)| {
            let mut all = json!(free);
            for (key, value) in [
                ("language", language.map(Value::from)),
                ("currency", currency.map(Value::from)),
                (
                    "notifications",
                    notifications.map(|channels| json!(channels)),
                ),
            ] {
                if let (Some(value), Some(all)) = (value, all.as_object_mut()) {
                    all.insert(key.to_owned(), value);
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn what_passes_the_check_is_shown_as_its_merge_over_the_defaults(stored in preferences()) {
            prop_assert!(faults(stored.clone()).is_empty());
            let shown = effective(&stored);
            prop_assert_eq!(&shown, &merge_patch(defaults(), &stored));
            prop_assert_eq!(effective(&shown), shown.clone());
            prop_assert!(faults(shown).is_empty());
        }
    }
}
