//! JSON to BSON and back.
//!
//! What this platform wrote comes back exactly: integers are `Int64`, floats `Double`. (The order of
//! keys may change, which the canonical form does not see.) What only others write, and JSON has no type
//! for, is read as canonical Extended JSON v2, so that nothing is lost and the hash covers it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mongodb::bson::{Binary, Bson, DateTime, Document, Regex};
use serde_json::{Map, Number, Value, json};

use crate::clock::Timestamp;

/// A number that no backend keeps exactly: [`check_document`](crate::documents::canonical::check_document)
/// refuses it before it comes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an integer outside 64 bits")]
pub(super) struct OutOfRange;

/// The value as BSON.
///
/// It recurses as deep as the value is nested, which [`check_document`] bounds.
///
/// [`check_document`]: crate::documents::canonical::check_document
pub(super) fn to_bson(value: &Value) -> Result<Bson, OutOfRange> {
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => number_to_bson(number)?,
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(items) => Bson::Array(items.iter().map(to_bson).collect::<Result<_, _>>()?),
        Value::Object(members) => Bson::Document(
            members
                .iter()
                .map(|(key, member)| Ok((key.clone(), to_bson(member)?)))
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn number_to_bson(number: &Number) -> Result<Bson, OutOfRange> {
    if let Some(integer) = number.as_i64() {
        return Ok(Bson::Int64(integer));
    }
    if number.is_u64() {
        return Err(OutOfRange);
    }
    number.as_f64().map(Bson::Double).ok_or(OutOfRange)
}

/// The value as JSON. Never fails: every BSON value has an Extended JSON form.
pub(super) fn to_json(value: Bson) -> Value {
    match value {
        Bson::Null => Value::Null,
        Bson::Boolean(value) => Value::Bool(value),
        Bson::Int32(value) => Value::from(value),
        Bson::Int64(value) => Value::from(value),
        Bson::Double(value) => double_to_json(value),
        Bson::String(text) => Value::String(text),
        Bson::Array(items) => Value::Array(items.into_iter().map(to_json).collect()),
        Bson::Document(document) => document_to_json(document),
        Bson::Decimal128(value) => json!({"$numberDecimal": value.to_string()}),
        Bson::ObjectId(id) => json!({"$oid": id.to_hex()}),
        Bson::DateTime(at) => json!({"$date": {"$numberLong": at.timestamp_millis().to_string()}}),
        Bson::Binary(Binary { subtype, bytes }) => json!({"$binary": {
            "base64": STANDARD.encode(bytes),
            "subType": format!("{:02x}", u8::from(subtype)),
        }}),
        Bson::RegularExpression(Regex { pattern, options }) => json!({"$regularExpression": {
            "pattern": pattern.as_str(),
            "options": options.as_str(),
        }}),
        Bson::Timestamp(at) => json!({"$timestamp": {"t": at.time, "i": at.increment}}),
        Bson::JavaScriptCode(code) => json!({"$code": code}),
        Bson::JavaScriptCodeWithScope(code) => {
            json!({"$code": code.code, "$scope": document_to_json(code.scope)})
        }
        Bson::Symbol(symbol) => json!({"$symbol": symbol}),
        Bson::Undefined => json!({"$undefined": true}),
        Bson::MinKey => json!({"$minKey": 1}),
        Bson::MaxKey => json!({"$maxKey": 1}),
        // Its parts are private to the driver; it has been deprecated since MongoDB 2.
        Bson::DbPointer(pointer) => json!({"$dbPointer": format!("{pointer:?}")}),
    }
}

pub(super) fn document_to_json(document: Document) -> Value {
    Value::Object(
        document
            .into_iter()
            .map(|(key, value)| (key, to_json(value)))
            .collect::<Map<_, _>>(),
    )
}

/// A JSON number, or for what JSON has no number for, Extended JSON.
fn double_to_json(value: f64) -> Value {
    Number::from_f64(value).map_or_else(
        || {
            let text = if value.is_nan() {
                "NaN"
            } else if value.is_sign_positive() {
                "Infinity"
            } else {
                "-Infinity"
            };
            json!({ "$numberDouble": text })
        },
        Value::Number,
    )
}

/// The BSON date that is not before `at`. Dates have milliseconds only: where the exact time matters, it
/// is kept beside as microseconds, and the date is for the server's own expiry, which must not be early.
pub(super) fn date_not_before(at: Timestamp) -> DateTime {
    let micros = at.micros();
    let millis = micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0);
    DateTime::from_millis(millis)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{JavaScriptCodeWithScope, doc};
    use proptest::prelude::*;

    use super::*;
    use crate::documents::canonical::{canonical_json, content_hash};

    #[test]
    fn what_json_has_no_type_for_is_read_as_extended_json() {
        let oid = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
        for (bson, expected) in [
            (
                Bson::Decimal128("12345678901234567890.123456".parse().unwrap()),
                json!({"$numberDecimal": "12345678901234567890.123456"}),
            ),
            (Bson::Double(f64::NAN), json!({"$numberDouble": "NaN"})),
            (
                Bson::Double(f64::INFINITY),
                json!({"$numberDouble": "Infinity"}),
            ),
            (
                Bson::Double(f64::NEG_INFINITY),
                json!({"$numberDouble": "-Infinity"}),
            ),
            (
                Bson::ObjectId(oid),
                json!({"$oid": "0123456789abcdef01234567"}),
            ),
            (
                Bson::DateTime(DateTime::from_millis(-1)),
                json!({"$date": {"$numberLong": "-1"}}),
            ),
            (
                Bson::Binary(Binary {
                    subtype: BinarySubtype::Uuid,
                    bytes: vec![1, 2, 255],
                }),
                json!({"$binary": {"base64": "AQL/", "subType": "04"}}),
            ),
            (
                Bson::Timestamp(mongodb::bson::Timestamp {
                    time: 7,
                    increment: 8,
                }),
                json!({"$timestamp": {"t": 7, "i": 8}}),
            ),
            (
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                    code: "f()".to_owned(),
                    scope: doc! {"a": 1_i64},
                }),
                json!({"$code": "f()", "$scope": {"a": 1}}),
            ),
            (Bson::Undefined, json!({"$undefined": true})),
            (Bson::MinKey, json!({"$minKey": 1})),
            (Bson::MaxKey, json!({"$maxKey": 1})),
        ] {
            assert_eq!(to_json(bson.clone()), expected, "{bson:?}");
        }
    }

    #[test]
    fn integers_of_every_width_and_floats_stay_apart() {
        assert_eq!(canonical_json(&to_json(Bson::Int32(1))), "1");
        assert_eq!(canonical_json(&to_json(Bson::Int64(1))), "1");
        assert_eq!(canonical_json(&to_json(Bson::Double(1.0))), "1.0");
        assert_eq!(to_bson(&json!(1)), Ok(Bson::Int64(1)));
        assert_eq!(to_bson(&json!(1.0)), Ok(Bson::Double(1.0)));
        assert_eq!(to_bson(&json!(i64::MIN)), Ok(Bson::Int64(i64::MIN)));
        assert_eq!(to_bson(&json!(u64::MAX)), Err(OutOfRange));
    }

    #[test]
    fn a_date_for_expiry_is_never_early() {
        for (micros, millis) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (-1, 0)] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(date_not_before(at).timestamp_millis(), millis, "{micros}");
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL)
                .prop_map(Value::from),
            "[^\0]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-e]{1,2}|[^\0.$]{1,3}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_document_survives_the_bytes_of_bson_with_its_hash(value in json_value()) {
            let document = doc! {"doc": to_bson(&value).unwrap()};
            let bytes = document.to_vec().unwrap();
            let mut read = Document::from_reader(bytes.as_slice()).unwrap();
            let back = to_json(read.remove("doc").unwrap());
            prop_assert_eq!(content_hash(&back), content_hash(&value));
        }
    }
}
