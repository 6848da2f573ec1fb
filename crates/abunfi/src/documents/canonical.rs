//! The canonical form of JSON, its hash, and the limits of documents.
//!
//! The canonical form is compact, has the members of every object in the order of their keys' UTF-8
//! bytes, escapes only what must be escaped, writes integers as such and floats in the shortest form
//! that reads back as the same float. `1` and `1.0` differ in it, as they do in MongoDB. (RFC 8785
//! would order by UTF-16 and write `1.0` as `1`.) Two JSON texts have the same canonical form if
//! and only if they mean the same to every backend.
//!
//! Invariant: stored hashes are over this form. It may never change.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::validation::{FaultCode, Faults, Path};

/// Largest document, in bytes of its canonical form.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// Deepest nesting of objects and arrays in a document, the outermost being 1.
pub const MAX_DOCUMENT_DEPTH: usize = 32;

/// The canonical text of `value`.
///
/// It recurses as deep as `value` is nested; what came through
/// [`parse_json`](super::parse::parse_json) is bounded.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// SHA-256 of the canonical text of `value`.
pub fn content_hash(value: &Value) -> [u8; 32] {
    Sha256::digest(canonical_json(value).as_bytes()).into()
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => write_object(text, members),
    }
}

fn write_object(text: &mut String, members: &Map<String, Value>) {
    // Sorted here and not by the map: in some build of ours serde_json's map may keep insertion
    // order, since any crate in it can switch that on.
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| key.as_str());
    text.push('{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_string(text, key);
        text.push(':');
        write_value(text, value);
    }
    text.push('}');
}

fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for char in string.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            control @ '\0'..='\u{1f}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

/// What the root of a document may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// An object only: preferences, metadata.
    Object,
    /// Any JSON value: dev data, temporary data.
    Any,
}

/// Checks `value`, which stands at the JSON pointer `at` of a body (empty: it is the body), against
/// the limits that hold for documents on every backend: size, depth, keys, NUL, integers.
///
/// Safe for values of any depth. Numbers that no `Value` holds are found when the text is read, see
/// [`Parsed`](super::parse::Parsed).
///
/// # Errors
/// All faults, in the order of the document, by these codes: `wrong_type` (the root), `too_long`
/// (size), `out_of_range` (depth, integers), `too_short` (an empty key), `not_allowed` (other keys,
/// NUL).
pub fn check_document(value: &Value, at: &str, root: Root) -> Result<(), Faults> {
    let mut faults = Faults::new();
    if root == Root::Object && !value.is_object() {
        faults.add(at, FaultCode::WrongType, "must be an object");
    }
    let is_shallow = check_value(value, &Path::Start(at), 1, &mut faults);
    if is_shallow && canonical_json(value).len() > MAX_DOCUMENT_BYTES {
        faults.add(
            at,
            FaultCode::TooLong,
            "must be at most 256 KiB in its canonical form",
        );
    }
    faults.into_result()
}

/// Checks what is at `path`, around which there are `depth - 1` containers; whether the depth was
/// found to be within its limit. Stops, and says no, when no more faults are kept.
fn check_value(value: &Value, path: &Path<'_>, depth: usize, faults: &mut Faults) -> bool {
    if faults.is_full() {
        return false;
    }
    match value {
        Value::Object(_) | Value::Array(_) if depth > MAX_DOCUMENT_DEPTH => {
            faults.add(
                path.pointer(),
                FaultCode::OutOfRange,
                "nested deeper than 32 levels",
            );
            return false;
        }
        Value::Object(members) => {
            let mut is_shallow = true;
            for (key, member) in members {
                let path = Path::Key(path, key);
                if let Some((code, detail)) = key_fault(key) {
                    faults.add(path.pointer(), code, detail);
                }
                is_shallow &= check_value(member, &path, depth + 1, faults);
            }
            return is_shallow;
        }
        Value::Array(items) => {
            let mut is_shallow = true;
            for (index, item) in items.iter().enumerate() {
                is_shallow &= check_value(item, &Path::Index(path, index), depth + 1, faults);
            }
            return is_shallow;
        }
        Value::String(string) if string.contains('\0') => {
            faults.add(path.pointer(), FaultCode::NotAllowed, "must not hold NUL");
        }
        Value::Number(number) if number.is_u64() && !number.is_i64() => {
            faults.add(
                path.pointer(),
                FaultCode::OutOfRange,
                "an integer outside 64 bits",
            );
        }
        _ => {}
    }
    true
}

fn key_fault(key: &str) -> Option<(FaultCode, &'static str)> {
    if key.is_empty() {
        Some((FaultCode::TooShort, "a key must not be empty"))
    } else if key.starts_with('$') {
        Some((FaultCode::NotAllowed, "a key must not start with $"))
    } else if key.contains('.') {
        Some((FaultCode::NotAllowed, "a key must not hold a dot"))
    } else if key.contains('\0') {
        Some((FaultCode::NotAllowed, "a key must not hold NUL"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::documents::parse::{MAX_BODY_DEPTH, parse_json};

    fn read(text: &str) -> Value {
        parse_json(text.as_bytes(), MAX_BODY_DEPTH)
            .unwrap()
            .into_value()
            .unwrap()
    }

    fn codes(value: &Value) -> Vec<(String, &'static str)> {
        check_document(value, "", Root::Any)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|fault| (fault.pointer, fault.code.as_str()))
            .collect()
    }

    #[test]
    fn the_canonical_form_is_fixed_for_good() {
        let value = read(
            "{ \"b\": [1, 1.0, 1e2, -0, -0.0, null, true],\n \"a\\u0000\": \"\\u0001é/\\/\\b\\f\\n\\r\\t\\\"\\\\\\u007f\", \"\": {}, \"é\": [], \"😀\": 1, \"ﬁ\": 2 }",
        );
        assert_eq!(
            canonical_json(&value),
            "{\"\":{},\"a\\u0000\":\"\\u0001é//\\b\\f\\n\\r\\t\\\"\\\\\u{7f}\",\"b\":[1,1.0,100.0,0,-0.0,null,true],\"é\":[],\"ﬁ\":2,\"😀\":1}"
        );
        assert_eq!(
            hex::encode(content_hash(&json!({}))),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }

    #[test]
    fn an_integer_and_a_float_of_the_same_size_differ() {
        assert_ne!(content_hash(&json!(1)), content_hash(&json!(1.0)));
    }

    #[test]
    fn every_key_and_value_that_a_backend_could_not_keep_is_refused() {
        let value = json!({"": 1, "$set": 2, "a.b": 3, "c\0": 4, "d": ["\0", u64::MAX, i64::MAX], "e$": "$.", "f": {"$": 0}});
        let mut found = codes(&value);
        found.sort();
        assert_eq!(
            found,
            [
                ("/".to_owned(), "too_short"),
                ("/$set".to_owned(), "not_allowed"),
                ("/a.b".to_owned(), "not_allowed"),
                ("/c\0".to_owned(), "not_allowed"),
                ("/d/0".to_owned(), "not_allowed"),
                ("/d/1".to_owned(), "out_of_range"),
                ("/f/$".to_owned(), "not_allowed"),
            ]
        );
    }

    #[test]
    fn thirty_two_levels_are_kept_and_one_more_is_refused() {
        let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert!(codes(&nested(32)).is_empty());
        assert_eq!(codes(&nested(33)), [("/a".repeat(32), "out_of_range")]);
        assert_eq!(codes(&nested(100)).len(), 1);
    }

    #[test]
    fn the_size_is_that_of_the_canonical_form_and_exact() {
        let of_size = |bytes: usize| json!({ "a": "x".repeat(bytes - r#"{"a":""}"#.len()) });
        assert!(codes(&of_size(MAX_DOCUMENT_BYTES)).is_empty());
        assert_eq!(
            codes(&of_size(MAX_DOCUMENT_BYTES + 1)),
            [(String::new(), "too_long")]
        );
    }

    #[test]
    fn a_root_that_must_be_an_object_may_be_nothing_else_and_faults_stand_where_the_document_does()
    {
        for value in [json!([]), json!(1), json!(null)] {
            assert!(check_document(&value, "", Root::Any).is_ok());
            let faults = check_document(&value, "/metadata", Root::Object)
                .unwrap_err()
                .into_vec();
            assert_eq!(faults.first().unwrap().pointer, "/metadata");
        }
        let faults = check_document(&json!({"$": 1}), "/metadata", Root::Object).unwrap_err();
        assert_eq!(faults.iter().next().unwrap().pointer, "/metadata/$");
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (prop::num::f64::NORMAL | prop::num::f64::ZERO).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec(("[a-e]{1,2}|.{1,3}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same value in another text: members reversed, blanks everywhere.
    fn loosely(value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(loosely).collect();
                format!(" [ {} ]\n", items.join(" ,\t"))
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by(|a, b| b.0.cmp(a.0));
                let members: Vec<_> = members
                    .into_iter()
                    .map(|(key, value)| format!("{} :\r{}", json!(key), loosely(value)))
                    .collect();
                format!("\n{{ {} }}", members.join(" , "))
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn the_order_of_keys_and_the_spacing_do_not_matter(value in json_value()) {
            let canonical = canonical_json(&value);
            prop_assert_eq!(canonical_json(&read(&loosely(&value))), canonical.clone());
            prop_assert_eq!(canonical_json(&read(&canonical)), canonical);
        }

        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in any::<String>(), control in "[\\x00-\\x20\"\\\\]{0,5}") {
            let value = json!(format!("{text}{control}"));
            prop_assert_eq!(canonical_json(&value), value.to_string());
        }

        #[test]
        fn different_values_have_different_hashes(a in json_value(), b in json_value()) {
            prop_assert_eq!(content_hash(&a) == content_hash(&b), canonical_json(&a) == canonical_json(&b));
            prop_assert_eq!(read(&canonical_json(&a)), a);
        }

        #[test]
        fn a_fault_points_at_something_in_the_document(value in json_value()) {
            for (pointer, _) in codes(&value) {
                prop_assert!(pointer.ends_with('…') || value.pointer(&pointer).is_some(), "{}", pointer);
            }
        }
    }
}
