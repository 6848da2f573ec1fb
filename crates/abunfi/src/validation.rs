//! Faults of a request body: where, which kind, and what to say.
//!
//! Everything that checks input reports into [`Faults`], so that a caller learns of all faults of a
//! body at once (`errors` of a 422 `validation_failed`). A detail is written for the caller of the
//! API and never repeats the value it is about: values may be personal or secret.

use serde::{Deserialize, Serialize};

/// Most faults kept for one body. The rest are dropped: a caller who mends a hundred can ask again,
/// and an answer must stay small however many faults fit into a megabyte.
pub const MAX_FAULTS: usize = 100;

/// Longest JSON pointer that is built, in bytes; what is longer ends in `…`. Keys may be as long as
/// the body, and one such key above many faults would otherwise multiply.
pub const MAX_POINTER_BYTES: usize = 256;

/// The kinds of fault of the HTTP contract; the serialized names are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The field must be there.
    Required,
    /// The JSON type is not the one expected.
    WrongType,
    /// No such field.
    UnknownField,
    /// Too many characters, bytes or items.
    TooLong,
    /// Too few characters, bytes or items.
    TooShort,
    /// The text has not the form it must have.
    BadFormat,
    /// Of the right form, but too large, too small or too deep.
    OutOfRange,
    /// A decimal with more places than are kept.
    TooManyDecimals,
    /// Well formed, but not one of the values allowed here.
    NotAllowed,
}

impl FaultCode {
    /// The name in the contract, the same as the serialized one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::WrongType => "wrong_type",
            Self::UnknownField => "unknown_field",
            Self::TooLong => "too_long",
            Self::TooShort => "too_short",
            Self::BadFormat => "bad_format",
            Self::OutOfRange => "out_of_range",
            Self::TooManyDecimals => "too_many_decimals",
            Self::NotAllowed => "not_allowed",
        }
    }
}

impl std::fmt::Display for FaultCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one value was refused, before anyone knows where in the body it stood.
///
/// The detail is fixed text, so it cannot carry the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// Which kind of fault.
    pub code: FaultCode,
    /// A sentence for the caller of the API.
    pub detail: &'static str,
}

impl Invalid {
    /// A refusal of `code` that says `detail`.
    pub const fn new(code: FaultCode, detail: &'static str) -> Self {
        Self { code, detail }
    }

    /// The same refusal, at `pointer` in the body.
    pub fn at(self, pointer: impl Into<String>) -> Fault {
        Fault {
            pointer: pointer.into(),
            code: self.code,
            detail: self.detail.to_owned(),
        }
    }
}

/// Checks the name that somebody goes by in keys and in the audit trail: 1–100 visible ASCII characters, since it
/// is a name and not a description.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    let (code, detail) = if name.is_empty() {
        (FaultCode::TooShort, "must not be empty")
    } else if name.len() > 100 {
        (FaultCode::TooLong, "must have at most 100 characters")
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        (FaultCode::BadFormat, "must be visible ASCII without blanks")
    } else {
        return Ok(());
    };
    Err(Invalid::new(code, detail))
}

/// One fault of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the body as it was sent; empty for the whole of it.
    pub pointer: String,
    /// Which kind of fault.
    pub code: FaultCode,
    /// A sentence for the caller of the API.
    pub detail: String,
}

/// The faults found so far, in the order found, at most [`MAX_FAULTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// No faults yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Records a fault; silently drops it when there are [`MAX_FAULTS`] already.
    pub fn push(&mut self, fault: Fault) {
        if !self.is_full() {
            self.0.push(fault);
        }
    }

    /// Records a fault from its parts.
    pub fn add(&mut self, pointer: impl Into<String>, code: FaultCode, detail: impl Into<String>) {
        self.push(Fault {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
        });
    }

    /// The value of `result`, or `None` with its refusal recorded at `pointer`.
    pub fn check<T>(&mut self, pointer: &str, result: Result<T, Invalid>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.push(invalid.at(pointer));
                None
            }
        }
    }

    /// Takes over the faults of another check.
    pub fn extend(&mut self, other: Self) {
        for fault in other.0 {
            self.push(fault);
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether further faults would be dropped, so that a check may stop.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_FAULTS
    }

    /// The faults, in the order found.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// The faults as a list.
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// The faults, if there are any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The pointer to member `token` (a key, or the digits of an index) of what is at `parent`.
///
/// `~` and `/` are escaped by RFC 6901 §3. The result is at most [`MAX_POINTER_BYTES`] long and a
/// few bytes for `…`; one that was cut stays as it is.
pub fn pointer_to(parent: &str, token: &str) -> String {
    if parent.len() > MAX_POINTER_BYTES {
        return parent.to_owned();
    }
    let mut pointer = String::with_capacity(parent.len() + token.len().min(MAX_POINTER_BYTES) + 1);
    pointer.push_str(parent);
    pointer.push('/');
    for char in token.chars() {
        if pointer.len() >= MAX_POINTER_BYTES {
            pointer.push('…');
            break;
        }
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
    pointer
}

/// Where a walk through a JSON value stands; lives on the stack, and costs nothing until
/// [`Path::pointer`] is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    /// Where the walk began, as a pointer into the body.
    Start(&'a str),
    /// A member of an object.
    Key(&'a Path<'a>, &'a str),
    /// An item of an array.
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The JSON pointer, cut as by [`pointer_to`].
    pub(crate) fn pointer(&self) -> String {
        match self {
            Self::Start(pointer) => (*pointer).to_owned(),
            Self::Key(parent, key) => pointer_to(&parent.pointer(), key),
            Self::Index(parent, index) => pointer_to(&parent.pointer(), &index.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;

    use super::*;

    const CODES: [FaultCode; 9] = [
        FaultCode::Required,
        FaultCode::WrongType,
        FaultCode::UnknownField,
        FaultCode::TooLong,
        FaultCode::TooShort,
        FaultCode::BadFormat,
        FaultCode::OutOfRange,
        FaultCode::TooManyDecimals,
        FaultCode::NotAllowed,
    ];

    #[test]
    fn codes_are_spelt_as_in_the_contract() {
        assert_eq!(
            serde_json::to_string(&CODES).unwrap(),
            r#"["required","wrong_type","unknown_field","too_long","too_short","bad_format","out_of_range","too_many_decimals","not_allowed"]"#
        );
        for code in CODES {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_fault_has_the_shape_of_the_contract() {
        let fault = Invalid::new(FaultCode::TooManyDecimals, "at most 6").at("/amount");
        assert_eq!(
            serde_json::to_string(&Faults::from(fault)).unwrap(),
            r#"[{"pointer":"/amount","code":"too_many_decimals","detail":"at most 6"}]"#
        );
    }

    #[test]
    fn an_empty_collector_is_no_error_and_any_fault_is() {
        let mut faults = Faults::new();
        assert_eq!(faults.clone().into_result(), Ok(()));
        assert_eq!(
            faults.check::<()>("/a", Err(Invalid::new(FaultCode::Required, "x"))),
            None
        );
        assert_eq!(faults.check("/b", Ok(1)), Some(1));
        assert_eq!(faults.into_result().unwrap_err().len(), 1);
    }

    #[test]
    fn the_number_of_faults_is_bounded() {
        let mut faults = Faults::new();
        for _ in 0..MAX_FAULTS * 2 {
            faults.add("", FaultCode::Required, "");
        }
        let mut sum = faults.clone();
        sum.extend(faults);
        assert_eq!(sum.len(), MAX_FAULTS);
        assert!(sum.is_full());
    }

    proptest! {
        #[test]
        fn a_pointer_finds_the_member_it_was_built_for(keys in prop::collection::vec("[a-c~/01]{0,3}", 0..5)) {
            let mut document = serde_json::json!("here");
            for key in keys.iter().rev() {
                document = serde_json::json!({ key: document });
            }
            let pointer = keys.iter().fold(String::new(), |parent, key| pointer_to(&parent, key));
            prop_assert_eq!(document.pointer(&pointer), Some(&serde_json::json!("here")));
        }

        #[test]
        fn a_pointer_stays_short_however_long_the_keys(keys in prop::collection::vec("\\PC{0,400}", 0..6)) {
            let pointer = keys.iter().fold(String::new(), |parent, key| pointer_to(&parent, key));
            prop_assert!(pointer.len() <= MAX_POINTER_BYTES + 8);
        }
    }
}
