//! JSON Merge Patch, RFC 7396.

use serde_json::{Map, Value};

/// `target` changed by `patch`, by the algorithm of RFC 7396 §2: an object is merged member by
/// member, `null` removes a member, anything else replaces what was there.
///
/// It recurses as deep as `patch` is nested, so `patch` must have passed the depth limit of bodies.
/// The result may break limits that both inputs kept (size); check it before storing it.
pub fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut merged = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (key, change) in changes {
        if change.is_null() {
            merged.remove(key);
        } else {
            let old = merged.remove(key).unwrap_or(Value::Null);
            merged.insert(key.clone(), merge_patch(old, change));
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_row_of_the_appendix_of_the_rfc_holds() {
        for (original, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            assert_eq!(
                merge_patch(original.clone(), &patch),
                result,
                "{original} + {patch}"
            );
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d]", json_value(), 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_changes_nothing_more(target in json_value(), patch in json_value()) {
            let once = merge_patch(target, &patch);
            prop_assert_eq!(merge_patch(once.clone(), &patch), once);
        }

        #[test]
        fn null_removes_and_what_is_not_named_stays(target in object(), patch in object()) {
            let merged = merge_patch(target.clone(), &patch);
            for key in ["a", "b", "c", "d"] {
                match patch.get(key) {
                    None => prop_assert_eq!(merged.get(key), target.get(key)),
                    Some(Value::Null) => prop_assert_eq!(merged.get(key), None),
                    Some(change @ Value::Object(_)) => {
                        let old = target.get(key).cloned().unwrap_or(Value::Null);
                        prop_assert_eq!(merged.get(key), Some(&merge_patch(old, change)));
                    }
                    Some(change) => prop_assert_eq!(merged.get(key), Some(change)),
                }
            }
        }

        #[test]
        fn the_empty_object_patches_nothing(target in object()) {
            prop_assert_eq!(merge_patch(target.clone(), &json!({})), target);
        }
    }
}
