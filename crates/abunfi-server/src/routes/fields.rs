//! Fields that several bodies have.

use std::time::Duration;

use abunfi::documents::canonical::{Root, check_document};
use abunfi::json_reader::{FieldError, Reader, wrong_type};
use abunfi::validation::{FaultCode, Faults};
use serde_json::Value;

/// A required field whose reader recorded no fault is there.
pub(crate) fn present<T>(field: Option<T>) -> Result<T, Faults> {
    field.ok_or_else(|| {
        let mut faults = Faults::new();
        faults.add("", FaultCode::Required, "a required field is missing");
        faults
    })
}

/// For a merge patch: a field that may be changed, but not removed.
pub(crate) fn not_null<T>(
    reader: &mut Reader,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, FieldError>,
) -> Option<T> {
    match reader.nullable(field, parse)? {
        Some(value) => Some(value),
        None => {
            reader.fault(field, FaultCode::NotAllowed, "this field cannot be removed");
            None
        }
    }
}

/// One of a few words, where `from_name` knows them.
pub(crate) fn word<T>(
    text: &str,
    words: &'static str,
    from_name: impl FnOnce(&str) -> Option<T>,
) -> Result<T, FieldError> {
    from_name(text).ok_or_else(|| (FaultCode::NotAllowed, format!("must be one of {words}")))
}

/// A document that may be absent, within the limits of all documents.
pub(crate) fn document(reader: &mut Reader, field: &str, root: Root) -> Option<Value> {
    let value = reader.take(field).filter(|value| !value.is_null())?;
    if let Err(faults) = check_document(&value, &reader.pointer_to(field), root) {
        reader.absorb(faults);
    }
    Some(value)
}

/// A number of seconds from 1 to `max`.
pub(crate) fn seconds(value: &Value, max: Duration) -> Result<Duration, FieldError> {
    let Some(seconds) = value.as_i64() else {
        return Err(if value.is_u64() {
            (FaultCode::OutOfRange, "the integer is too large".to_owned())
        } else {
            wrong_type("an integer", value)
        });
    };
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=max.as_secs()).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            (
                FaultCode::OutOfRange,
                format!("must be 1 to {} seconds", max.as_secs()),
            )
        })
}

/// A name in a path: 1–200 of `A-Za-z0-9._:-`.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// The bytes that names are made of.
pub(crate) const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-')
}

/// 1–128 visible ASCII characters.
pub(crate) fn request_id(text: &str) -> Result<String, FieldError> {
    let is_valid =
        (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err((
            FaultCode::BadFormat,
            "must be 1 to 128 visible ASCII characters".to_owned(),
        ))
    }
}
