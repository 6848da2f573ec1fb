//! Reads a JSON object field by field and collects every fault, so that a client sees all of them at once.

use serde_json::{Map, Value};

use crate::validation::{FaultCode, Faults, Invalid, pointer_to};

/// Reads the fields of one object. What is left when it is [finished](Self::finish) is unknown, and a fault.
#[derive(Debug)]
pub struct Reader {
    fields: Map<String, Value>,
    /// Else there is one fault, and none of fields that cannot be there.
    is_object: bool,
    pointer: String,
    faults: Faults,
}

/// What a field's parser says of a value that it refuses.
pub type FieldError = (FaultCode, String);

impl From<Invalid> for FieldError {
    fn from(invalid: Invalid) -> Self {
        (invalid.code, invalid.detail.to_owned())
    }
}

impl Reader {
    /// Reads `value`, which is at `pointer` (empty for the root). Anything but an object is one fault.
    #[must_use]
    pub fn new(value: Value, pointer: &str) -> Self {
        let mut faults = Faults::default();
        let is_object = value.is_object();
        let fields = match value {
            Value::Object(fields) => fields,
            other => {
                let (code, detail) = wrong_type("an object", &other);
                faults.add(pointer, code, detail);
                Map::new()
            }
        };
        Self {
            fields,
            is_object,
            pointer: pointer.to_owned(),
            faults,
        }
    }

    /// The pointer of a field, escaped as RFC 6901 wants it.
    #[must_use]
    pub fn pointer_to(&self, field: &str) -> String {
        pointer_to(&self.pointer, field)
    }

    pub fn fault(&mut self, field: &str, code: FaultCode, detail: impl Into<String>) {
        if !self.is_object {
            return;
        }
        let pointer = self.pointer_to(field);
        self.faults.add(pointer, code, detail);
    }

    /// Takes over faults that were found elsewhere, with their pointers as they are.
    pub fn absorb(&mut self, faults: Faults) {
        self.faults.extend(faults);
    }

    /// The raw field; `None` when it is absent. `null` is a value.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field)
    }

    /// A field that may be absent or `null`, parsed from whatever JSON it is.
    pub fn optional_value<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(Value) -> Result<T, FieldError>,
    ) -> Option<T> {
        match self.take(field)? {
            Value::Null => None,
            value => match parse(value) {
                Ok(parsed) => Some(parsed),
                Err((code, detail)) => {
                    self.fault(field, code, detail);
                    None
                }
            },
        }
    }

    /// A string field that may be absent or `null`.
    pub fn optional<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        self.optional_value(field, |value| match value {
            Value::String(text) => parse(&text),
            other => Err(wrong_type("a string", &other)),
        })
    }

    /// A string field that must be there.
    pub fn required<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        if matches!(self.fields.get(field), None | Some(Value::Null)) {
            self.fields.remove(field);
            self.fault(field, FaultCode::Required, "this field is required");
            return None;
        }
        self.optional(field, parse)
    }

    /// For a merge patch: absent is `None`, `null` is `Some(None)`, anything else is parsed.
    pub fn nullable<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<Option<T>> {
        match self.fields.get(field)? {
            Value::Null => {
                self.fields.remove(field);
                Some(None)
            }
            _ => self.optional(field, parse).map(Some),
        }
    }

    pub fn optional_bool(&mut self, field: &str) -> Option<bool> {
        self.optional_value(field, |value| {
            value
                .as_bool()
                .ok_or_else(|| wrong_type("a boolean", &value))
        })
    }

    /// An integer ≥ 0 within 64 bits.
    pub fn optional_count(&mut self, field: &str) -> Option<i64> {
        self.optional_value(field, |value| match value.as_i64() {
            Some(count) if count >= 0 => Ok(count),
            Some(_) => Err((
                FaultCode::OutOfRange,
                "an integer of 0 or more is expected".to_owned(),
            )),
            None if value.is_u64() => {
                Err((FaultCode::OutOfRange, "the integer is too large".to_owned()))
            }
            None => Err(wrong_type("an integer", &value)),
        })
    }

    #[must_use]
    pub fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// All faults, with one for each field that nobody asked for.
    ///
    /// # Errors
    /// The faults, when there is at least one.
    pub fn finish(mut self) -> Result<(), Faults> {
        let unknown: Vec<String> = self.fields.keys().cloned().collect();
        for field in unknown {
            self.fault(&field, FaultCode::UnknownField, "there is no such field");
        }
        self.faults.into_result()
    }
}

/// A text of `1..=max` characters without control characters.
///
/// # Errors
/// `too_short`, `too_long` or `bad_format`.
pub fn text(value: &str, max: usize) -> Result<String, FieldError> {
    if value.is_empty() {
        return Err((FaultCode::TooShort, "the text is empty".to_owned()));
    }
    if value.chars().count() > max {
        return Err((FaultCode::TooLong, format!("at most {max} characters")));
    }
    if value.chars().any(char::is_control) {
        return Err((
            FaultCode::BadFormat,
            "control characters are not allowed".to_owned(),
        ));
    }
    Ok(value.to_owned())
}

#[must_use]
pub fn wrong_type(expected: &str, value: &Value) -> FieldError {
    (
        FaultCode::WrongType,
        format!("{expected} is expected, not {}", kind_of(value)),
    )
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
