//! Strict JSON: what is not read exactly is refused, or reported.
//!
//! Invariant: a body is never changed by being read. `serde_json` alone would take the last of two
//! equal keys, turn an integer of more than 64 bits into the nearest float, and read a float up to
//! one unit in the last place off (its `float_roundtrip` is a feature, and a feature of anyone's
//! choosing is chosen for all). So the structure and the numbers are read here, in one pass by
//! RFC 8259, and the texts of strings that hold escapes by `serde_json`. Property tests compare the
//! two on accepted and refused texts alike.

use serde_json::{Map, Number, Value};

use crate::validation::{FaultCode, Faults, Path};

/// Deepest nesting of objects and arrays in the body of a request.
pub const MAX_BODY_DEPTH: usize = 40;

/// A place in a JSON text, both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// Why bytes are not JSON that can be taken. Nothing of the content is repeated but keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not UTF-8: 400 `malformed_json`.
    #[error("{reason} at {at}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
        /// Where.
        at: Position,
    },
    /// An object names a member twice, and which one was meant is anyone's guess: 400
    /// `malformed_json`.
    #[error("the key {pointer} occurs twice, again at {at}")]
    DuplicateKey {
        /// JSON pointer to the member.
        pointer: String,
        /// Where its second value would begin.
        at: Position,
    },
    /// Nested deeper than the limit: 400 `too_deep`.
    #[error("nested deeper than {limit} levels at {at}")]
    TooDeep {
        /// The limit that was given.
        limit: usize,
        /// Where it was passed.
        at: Position,
    },
    /// More numbers out of range than are reported, the first ones here: 422 `validation_failed`.
    #[error("too many numbers out of range")]
    Numbers(Faults),
}

/// JSON that was read, and the numbers in it that no `Value` holds: integers outside `i64` and
/// `u64`, and floats beyond the finite ones. (An integer that fits `u64` only is held exactly;
/// whether it is allowed is the matter of who reads it.)
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    value: Value,
    numbers: Faults,
}

impl Parsed {
    /// The value, if every number in it is exact.
    ///
    /// # Errors
    /// An `out_of_range` for each that is not.
    pub fn into_value(self) -> Result<Value, Faults> {
        self.numbers.into_result().map(|()| self.value)
    }

    /// The value and the faults of its numbers, for a batch whose items fail alone. In place of such
    /// a number stands some float: a number it is in any case, so it can pass for nothing else.
    pub fn into_parts(self) -> (Value, Faults) {
        (self.value, self.numbers)
    }
}

/// Reads `bytes` as one JSON text whose objects and arrays nest at most `max_depth` deep (an
/// outermost one is at depth 1).
///
/// It stops at the first level too many, so depth costs nothing however long the text is; it
/// recurses `max_depth` deep, which must be a small constant.
///
/// # Errors
/// [`JsonError`], the first in the order of the text.
pub fn parse_json(bytes: &[u8], max_depth: usize) -> Result<Parsed, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Malformed {
        reason: "not UTF-8",
        at: position(bytes, error.valid_up_to()),
    })?;
    let mut parser = Parser {
        text,
        at: 0,
        max_depth,
        numbers: Faults::new(),
    };
    let value = parser.value(&Path::Start(""), 1)?;
    parser.skip_blanks();
    if parser.peek().is_some() {
        return Err(parser.malformed("expected the end"));
    }
    Ok(Parsed {
        value,
        numbers: parser.numbers,
    })
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    max_depth: usize,
    numbers: Faults,
}

impl<'t> Parser<'t> {
    /// Reads a value; if it is an object or array, it is the `depth`th around each other.
    fn value(&mut self, path: &Path<'_>, depth: usize) -> Result<Value, JsonError> {
        self.skip_blanks();
        match self.peek() {
            Some(b'{' | b'[') if depth > self.max_depth => Err(JsonError::TooDeep {
                limit: self.max_depth,
                at: self.position(),
            }),
            Some(b'{') => self.object(path, depth),
            Some(b'[') => self.array(path, depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(path).map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.malformed("expected a value")),
        }
    }

    fn object(&mut self, path: &Path<'_>, depth: usize) -> Result<Value, JsonError> {
        let mut members = Map::new();
        self.at += 1;
        if self.take_after_blanks(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.malformed("expected a key"));
            }
            let key = self.string()?;
            if !self.take_after_blanks(b':') {
                return Err(self.malformed("expected a colon"));
            }
            let here = Path::Key(path, &key);
            if members.contains_key(&key) {
                return Err(JsonError::DuplicateKey {
                    pointer: here.pointer(),
                    at: self.position(),
                });
            }
            let value = self.value(&here, depth + 1)?;
            members.insert(key, value);
            if self.take_after_blanks(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take_after_blanks(b',') {
                return Err(self.malformed("expected a comma or a closing brace"));
            }
        }
    }

    fn array(&mut self, path: &Path<'_>, depth: usize) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        self.at += 1;
        if self.take_after_blanks(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            let item = self.value(&Path::Index(path, items.len()), depth + 1)?;
            items.push(item);
            if self.take_after_blanks(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take_after_blanks(b',') {
                return Err(self.malformed("expected a comma or a closing bracket"));
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += 1;
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                }
                Some(0..=0x1f) => return Err(self.malformed("a control character in a string")),
                Some(_) => {}
                None => return Err(self.malformed("a string that does not end")),
            }
        }
        self.at += 1;
        let quoted = self.since(start);
        if escaped {
            serde_json::from_str(quoted).or(Err(JsonError::Malformed {
                reason: "a wrong escape in the string",
                at: position(self.text.as_bytes(), start),
            }))
        } else {
            Ok(quoted.trim_matches('"').to_owned())
        }
    }

    fn number(&mut self, path: &Path<'_>) -> Result<Number, JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut is_integer = true;
        if self.take(b'.') {
            is_integer = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            is_integer = false;
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let token = self.since(start);
        if is_integer {
            if let Ok(number) = token.parse::<i64>() {
                return Ok(number.into());
            }
            if let Ok(number) = token.parse::<u64>() {
                return Ok(number.into());
            }
        }
        // The standard library rounds correctly, and to infinity what is too large.
        let float = token.parse().ok().and_then(Number::from_f64);
        match float {
            Some(float) if !is_integer => Ok(float),
            inexact => {
                self.report_number(path, is_integer)?;
                Ok(inexact
                    .or(Number::from_f64(f64::MAX))
                    .unwrap_or_else(|| Number::from(u64::MAX)))
            }
        }
    }

    fn report_number(&mut self, path: &Path<'_>, is_integer: bool) -> Result<(), JsonError> {
        if self.numbers.is_full() {
            return Err(JsonError::Numbers(std::mem::take(&mut self.numbers)));
        }
        let detail = if is_integer {
            "an integer outside 64 bits"
        } else {
            "a number that is not finite"
        };
        self.numbers
            .add(path.pointer(), FaultCode::OutOfRange, detail);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.malformed("expected a digit"))
        } else {
            Ok(())
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        if self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.malformed("expected a value"))
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn take_after_blanks(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        self.take(byte)
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The text from `start` to here. Both are places right before or after an ASCII character, so
    /// it is never the empty text by default.
    fn since(&self, start: usize) -> &'t str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn position(&self) -> Position {
        position(self.text.as_bytes(), self.at)
    }

    fn malformed(&self, reason: &'static str) -> JsonError {
        JsonError::Malformed {
            reason,
            at: self.position(),
        }
    }
}

fn position(bytes: &[u8], at: usize) -> Position {
    let before = bytes.get(..at).unwrap_or(bytes);
    let mut position = Position { line: 1, column: 1 };
    for byte in before {
        if *byte == b'\n' {
            position.line += 1;
            position.column = 1;
        } else if byte & 0xc0 != 0x80 {
            position.column += 1;
        }
    }
    position
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::validation::MAX_FAULTS;

    fn read(text: &str) -> Result<Parsed, JsonError> {
        parse_json(text.as_bytes(), MAX_BODY_DEPTH)
    }

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn faults_are_named_with_their_place_and_without_the_content() {
        let secret = "{\"é\": \"s3cret\n\"}";
        let error = read(secret).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a control character in a string at line 1 column 14"
        );
        let error = read("[1,\n 2,\n é]").unwrap_err();
        assert_eq!(
            error,
            JsonError::Malformed {
                reason: "expected a value",
                at: at(3, 2)
            }
        );
        let error = parse_json(b"[\"\xc3\xa9\xff\"]", 1).unwrap_err();
        assert_eq!(
            error,
            JsonError::Malformed {
                reason: "not UTF-8",
                at: at(1, 4)
            }
        );
    }

    #[test]
    fn a_key_given_twice_is_refused_by_name() {
        let error = read(r#"{"a": [{"x/y": 1, "\u0078/y": 2}]}"#).unwrap_err();
        assert_eq!(
            error,
            JsonError::DuplicateKey {
                pointer: "/a/0/x~1y".to_owned(),
                at: at(1, 30)
            }
        );
        assert!(read(r#"{"a": {"a": 1}, "A": {"a": 2}}"#).is_ok());
    }

    #[test]
    fn lone_surrogates_and_broken_escapes_are_refused_and_pairs_read() {
        for bad in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\x""#,
            r#""\u12""#,
            "\"\\",
        ] {
            assert!(
                matches!(read(bad), Err(JsonError::Malformed { .. })),
                "{bad}"
            );
        }
        assert_eq!(
            read(r#""\ud83d\ude00\u0000""#).unwrap().value,
            json!("😀\0")
        );
    }

    #[test]
    fn depth_is_counted_in_containers_and_refused_at_once() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(40)).is_ok());
        let too_deep = JsonError::TooDeep {
            limit: 40,
            at: at(1, 41),
        };
        assert_eq!(read(&nested(41)), Err(too_deep.clone()));
        assert_eq!(read(&"[".repeat(1 << 20)), Err(too_deep));
        assert!(matches!(
            read(&r#"{"a":"#.repeat(10_000)),
            Err(JsonError::TooDeep { .. })
        ));
        assert!(read(&format!("\"{}\"", "[".repeat(100))).is_ok());
        assert!(parse_json(b"1", 0).is_ok());
    }

    #[test]
    fn numbers_that_no_value_holds_are_reported_where_they_stand() {
        let parsed = read(
            r#"{"a": [1, 123456789012345678901], "b": {"c": 1e400}, "d": -9223372036854775809}"#,
        )
        .unwrap();
        let pointers: Vec<_> = parsed
            .numbers
            .iter()
            .map(|fault| fault.pointer.as_str())
            .collect();
        assert_eq!(pointers, ["/a/1", "/b/c", "/d"]);
        assert!(
            parsed
                .numbers
                .iter()
                .all(|fault| fault.code == FaultCode::OutOfRange)
        );
        let (value, _) = parsed.clone().into_parts();
        assert!(
            pointers
                .iter()
                .all(|pointer| value.pointer(pointer).unwrap().is_number())
        );
        assert_eq!(parsed.clone().into_value().unwrap_err(), parsed.numbers);
    }

    #[test]
    fn numbers_at_the_edges_are_exact() {
        for (text, value) in [
            ("9223372036854775807", json!(i64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-0", json!(0)),
            ("-0.0", json!(-0.0)),
            ("1e3", json!(1000.0)),
            ("1E-400", json!(0.0)),
            ("1.7976931348623157e308", json!(f64::MAX)),
        ] {
            assert_eq!(read(text).unwrap().into_value().unwrap(), value, "{text}");
        }
        for bad in [
            "01", "-", "1.", ".5", "+1", "1e", "1e+", "0x1", "NaN", "Infinity", "--1",
        ] {
            assert!(
                matches!(read(bad), Err(JsonError::Malformed { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_flood_of_bad_numbers_has_a_bounded_answer() {
        let key = "k".repeat(100_000);
        let body = format!(r#"{{"{key}": [{}1]}}"#, "1e999,".repeat(100_000));
        let Err(JsonError::Numbers(faults)) = read(&body) else {
            panic!("accepted")
        };
        assert_eq!(faults.len(), MAX_FAULTS);
        assert!(serde_json::to_string(&faults).unwrap().len() < 50_000);
    }

    proptest! {
        #[test]
        fn it_accepts_what_serde_json_accepts_and_nothing_else(
            text in prop_oneof![
                r#"([\[\]{}:,]|"a"|"b"|"\\n"|"\\u00e9"|1|-0|2\.50|1e2|true|null| ){0,10}"#,
                r#"[-+.eE0-9]{1,8}"#,
                r#"\["[a\\nu0dé"	]{0,8}"\]"#,
            ]
        ) {
            let ours = read(&text);
            let theirs = serde_json::from_str::<Value>(&text);
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) if !text.contains("-0") => {
                    prop_assert!(!ours.numbers.is_empty() || ours.value == theirs, "{}", text);
                }
                (Ok(_), Ok(_)) | (Err(JsonError::Malformed { .. }), Err(_)) => {}
                (Err(JsonError::DuplicateKey { .. }), _) => {}
                // 1e999, which they refuse and we report.
                (Ok(ours), Err(_)) => prop_assert!(!ours.numbers.is_empty(), "{}", text),
                (ours, theirs) => prop_assert!(false, "{} {:?} {:?}", text, ours, theirs),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_json(&bytes, 3);
        }

        #[test]
        fn every_float_comes_back_exactly(float in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO) {
            let text = serde_json::to_string(&float).unwrap();
            let back = read(&text).unwrap().into_value().unwrap();
            prop_assert_eq!(back.as_f64().map(f64::to_bits), Some(float.to_bits()), "{}", text);
        }
    }
}
