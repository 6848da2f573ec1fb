//! Exact decimals: amounts, signed sums, and the finer decimals of gas fees and exchange rates.
//!
//! Invariant: no float ever holds money. A decimal is an integer count of its smallest part, and is
//! written as a decimal *string* wherever it leaves the program. Each type accepts on input what the
//! contract allows (plain digits, perhaps one `.` with digits on both sides) and writes one canonical
//! form: no leading zeros, no trailing zeros after the point, no point without a fraction.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::validation::{FaultCode, Invalid};

/// Micro-units in one unit (scale 6).
pub const MICROS_PER_UNIT: i64 = 1_000_000;

/// Longest text that is read as a decimal, in bytes: leading zeros are allowed, but not a megabyte.
const MAX_TEXT_BYTES: usize = 40;

/// Why a text is not the decimal wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.detail())]
pub enum DecimalError {
    /// Not plain digits with at most one point between digits, or unreasonably long.
    BadFormat,
    /// More decimals than are kept; zeros count too.
    TooManyDecimals,
    /// Well formed, but beyond what can be held.
    OutOfRange,
}

impl DecimalError {
    /// The code of the contract for this refusal.
    pub const fn code(self) -> FaultCode {
        match self {
            Self::BadFormat => FaultCode::BadFormat,
            Self::TooManyDecimals => FaultCode::TooManyDecimals,
            Self::OutOfRange => FaultCode::OutOfRange,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::BadFormat => {
                "must be digits with at most one point between them, such as \"1500000\" or \"0.5\""
            }
            Self::TooManyDecimals => "has more decimals than are kept",
            Self::OutOfRange => "must be below 1000000000000",
        }
    }
}

impl From<DecimalError> for Invalid {
    fn from(error: DecimalError) -> Self {
        Self::new(error.code(), error.detail())
    }
}

/// An amount, share count or price: `0 ≤ v < 10¹²` units, exact to a millionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Amount(i64);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount, 999999999999.999999.
    pub const MAX: Self = Self(999_999_999_999_999_999);

    /// Reads digits with at most 6 decimals and below 10¹². Leading zeros are accepted; a sign, an
    /// exponent, blanks, and a leading or trailing point are not.
    ///
    /// # Errors
    /// [`DecimalError`], of which [`DecimalError::TooManyDecimals`] comes before
    /// [`DecimalError::OutOfRange`].
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let micros = parse_scaled(text, 6)?;
        i64::try_from(micros)
            .ok()
            .and_then(Self::from_micros)
            .ok_or(DecimalError::OutOfRange)
    }

    /// The amount of so many micro-units; `None` if negative or 10¹⁸ and more.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if 0 <= micros && micros <= Self::MAX.0 {
            Some(Self(micros))
        } else {
            None
        }
    }

    /// Micro-units, in `0..10¹⁸`.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum; `None` if it is no amount (10¹² units or more).
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_micros)
    }

    /// The difference; `None` if it is no amount (negative).
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).and_then(Self::from_micros)
    }
}

/// A sum over many amounts, in micro-units, perhaps negative: balances of system accounts, nets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SignedSum(i128);

impl SignedSum {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads what [`fmt::Display`] writes: as [`Amount::parse`], with a leading `-` allowed and
    /// bounded by `i128` only.
    ///
    /// # Errors
    /// [`DecimalError`].
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let micros = parse_scaled(digits, 6)?;
        let signed = if negative {
            0_i128.checked_sub_unsigned(micros)
        } else {
            0_i128.checked_add_unsigned(micros)
        };
        signed.map(Self).ok_or(DecimalError::OutOfRange)
    }

    /// The sum of so many micro-units.
    pub const fn from_micros(micros: i128) -> Self {
        Self(micros)
    }

    /// Micro-units.
    pub const fn micros(self) -> i128 {
        self.0
    }

    /// The sum; `None` beyond `i128`, which 10²⁰ amounts do not reach.
    pub fn checked_add(self, other: impl Into<Self>) -> Option<Self> {
        self.0.checked_add(other.into().0).map(Self)
    }

    /// The difference; `None` beyond `i128`.
    pub fn checked_sub(self, other: impl Into<Self>) -> Option<Self> {
        self.0.checked_sub(other.into().0).map(Self)
    }
}

impl From<Amount> for SignedSum {
    fn from(amount: Amount) -> Self {
        Self(i128::from(amount.0))
    }
}

/// A decimal `0 ≤ v < 10¹²` with up to 18 decimals: gas fees and exchange rates. It is kept and
/// shown; nothing is computed with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Decimal18(u128);

impl Decimal18 {
    /// The largest, in attos.
    const MAX_ATTOS: u128 = 999_999_999_999_999_999_999_999_999_999;

    /// Reads as [`Amount::parse`] does, with up to 18 decimals.
    ///
    /// # Errors
    /// [`DecimalError`].
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        Self::from_attos(parse_scaled(text, 18)?).ok_or(DecimalError::OutOfRange)
    }

    /// The decimal of so many 10⁻¹⁸; `None` if 10³⁰ or more.
    pub const fn from_attos(attos: u128) -> Option<Self> {
        if attos <= Self::MAX_ATTOS {
            Some(Self(attos))
        } else {
            None
        }
    }

    /// The value in 10⁻¹⁸, below 10³⁰.
    pub const fn attos(self) -> u128 {
        self.0
    }
}

/// Reads plain digits with at most `scale` decimals as a count of 10⁻ˢᶜᵃˡᵉ.
fn parse_scaled(text: &str, scale: usize) -> Result<u128, DecimalError> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // A sum of `i128` micro-units has up to 40 bytes without its sign, so no sum is refused here.
    if text.len() > MAX_TEXT_BYTES || !is_digits(whole) || !fraction.is_none_or(is_digits) {
        return Err(DecimalError::BadFormat);
    }
    let fraction = fraction.unwrap_or_default();
    let Some(padding) = scale.checked_sub(fraction.len()) else {
        return Err(DecimalError::TooManyDecimals);
    };
    let digits = whole
        .bytes()
        .chain(fraction.bytes())
        .chain(std::iter::repeat_n(b'0', padding));
    let mut parts: u128 = 0;
    for digit in digits {
        parts = parts
            .checked_mul(10)
            .and_then(|tenfold| tenfold.checked_add(u128::from(digit.saturating_sub(b'0'))))
            .ok_or(DecimalError::OutOfRange)?;
    }
    Ok(parts)
}

/// Writes a count of 10⁻ˢᶜᵃˡᵉ in canonical form; `per_unit` is 10ˢᶜᵃˡᵉ.
fn fmt_scaled(
    f: &mut fmt::Formatter<'_>,
    negative: bool,
    parts: u128,
    scale: usize,
    per_unit: u128,
) -> fmt::Result {
    let (units, mut fraction) = (parts / per_unit, parts % per_unit);
    if f.width().is_some() || f.sign_plus() {
        let mut text = units.to_string();
        if fraction != 0 {
            text.push_str(format!(".{fraction:0scale$}").trim_end_matches('0'));
        }
        return f.pad_integral(!negative, "", &text);
    }
    // Without memory of its own: an answer to a batch has thousands of amounts.
    if negative {
        f.write_str("-")?;
    }
    f.write_str(itoa::Buffer::new().format(units))?;
    if fraction == 0 {
        return Ok(());
    }
    let mut digits = scale;
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        digits -= 1;
    }
    write!(f, ".{fraction:0digits$}")
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_scaled(f, false, u128::from(self.0.unsigned_abs()), 6, 1_000_000)
    }
}

impl fmt::Display for SignedSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_scaled(f, self.0 < 0, self.0.unsigned_abs(), 6, 1_000_000)
    }
}

impl fmt::Display for Decimal18 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_scaled(f, false, self.0, 18, 1_000_000_000_000_000_000)
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl std::str::FromStr for $type {
            type Err = DecimalError;
            fn from_str(text: &str) -> Result<Self, DecimalError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = DecimalError;
            fn try_from(text: String) -> Result<Self, DecimalError> {
                Self::parse(&text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
text_conversions!(Amount, SignedSum, Decimal18);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;

    use super::*;

    fn amount(micros: i64) -> Amount {
        Amount::from_micros(micros).unwrap()
    }

    #[test]
    fn amounts_are_read_as_the_contract_says() {
        for (text, micros) in [
            ("0", 0),
            ("0.0", 0),
            ("1", 1_000_000),
            ("1500000", 1_500_000_000_000),
            ("0.5", 500_000),
            ("0.000001", 1),
            ("007.10", 7_100_000),
            ("999999999999.999999", 999_999_999_999_999_999),
        ] {
            assert_eq!(Amount::parse(text).unwrap().micros(), micros, "{text}");
        }
    }

    #[test]
    fn what_the_contract_forbids_is_refused_with_its_code() {
        use FaultCode::{BadFormat, OutOfRange, TooManyDecimals};
        let long = "0".repeat(41);
        for (text, code) in [
            ("", BadFormat),
            (".", BadFormat),
            (".5", BadFormat),
            ("5.", BadFormat),
            ("+5", BadFormat),
            ("-5", BadFormat),
            ("-0", BadFormat),
            (" 5", BadFormat),
            ("5 ", BadFormat),
            ("1e3", BadFormat),
            ("1,5", BadFormat),
            ("1.2.3", BadFormat),
            ("0x1", BadFormat),
            ("NaN", BadFormat),
            ("٣", BadFormat),
            ("５", BadFormat),
            ("1_000", BadFormat),
            (long.as_str(), BadFormat),
            ("0.0000001", TooManyDecimals),
            ("1.0000000", TooManyDecimals),
            ("1000000000000", OutOfRange),
            ("1000000000000.0", OutOfRange),
            ("9999999999999999999999999999999999999999", OutOfRange),
        ] {
            let error = Amount::parse(text).unwrap_err();
            assert_eq!(error.code(), code, "{text:?}");
        }
    }

    #[test]
    fn amounts_travel_as_strings_and_never_as_numbers() {
        assert_eq!(serde_json::to_string(&amount(500_000)).unwrap(), r#""0.5""#);
        assert_eq!(
            serde_json::from_str::<Amount>(r#""0.50""#).unwrap(),
            amount(500_000)
        );
        assert!(serde_json::from_str::<Amount>("1").is_err());
        assert!(serde_json::from_str::<Amount>("0.5").is_err());
        assert!(serde_json::from_str::<Amount>(r#""-1""#).is_err());
    }

    #[test]
    fn amounts_fill_a_column_when_they_are_asked_to() {
        for (micros, plain, wide) in [
            (0, "0", "       0"),
            (1, "0.000001", "0.000001"),
            (1_500_000, "1.5", "     1.5"),
            (10_000_000, "10", "      10"),
        ] {
            let amount = amount(micros);
            assert_eq!(
                (format!("{amount}"), format!("{amount:>8}")),
                (plain.to_owned(), wide.to_owned())
            );
        }
        assert_eq!(
            format!("{:>6}", SignedSum::from_micros(-1_500_000)),
            "  -1.5"
        );
    }

    #[test]
    fn arithmetic_never_leaves_the_range() {
        assert_eq!(Amount::MAX.checked_add(amount(1)), None);
        assert_eq!(Amount::MAX.checked_add(Amount::MAX), None);
        assert_eq!(Amount::ZERO.checked_sub(amount(1)), None);
        assert_eq!(Amount::from_micros(-1), None);
        assert_eq!(Amount::from_micros(Amount::MAX.micros() + 1), None);
    }

    #[test]
    fn sums_show_their_sign_and_reach_the_ends_of_their_range() {
        assert_eq!(SignedSum::from_micros(-1_500_000).to_string(), "-1.5");
        assert_eq!(SignedSum::from_micros(-1).to_string(), "-0.000001");
        assert_eq!(SignedSum::ZERO.to_string(), "0");
        assert_eq!(SignedSum::parse("-0").unwrap(), SignedSum::ZERO);
        assert_eq!(SignedSum::parse("--1"), Err(DecimalError::BadFormat));
        for micros in [i128::MIN, i128::MAX] {
            let sum = SignedSum::from_micros(micros);
            assert_eq!(SignedSum::parse(&sum.to_string()), Ok(sum));
        }
        assert_eq!(
            SignedSum::parse("170141183460469231731687303715884.105728"),
            Err(DecimalError::OutOfRange)
        );
    }

    #[test]
    fn finer_decimals_keep_eighteen_places() {
        let fee = Decimal18::parse("0.000000000000000001").unwrap();
        assert_eq!(
            (fee.attos(), fee.to_string().as_str()),
            (1, "0.000000000000000001")
        );
        assert_eq!(
            Decimal18::parse("0.0000000000000000000"),
            Err(DecimalError::TooManyDecimals)
        );
        assert_eq!(
            Decimal18::parse("1000000000000"),
            Err(DecimalError::OutOfRange)
        );
        let max = "999999999999.999999999999999999";
        assert_eq!(Decimal18::parse(max).unwrap().to_string(), max);
    }

    fn is_canonical(text: &str) -> bool {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "1"));
        (whole == "0" || !whole.starts_with('0'))
            && !whole.is_empty()
            && !fraction.is_empty()
            && !fraction.ends_with('0')
    }

    proptest! {
        #[test]
        fn an_amount_survives_its_text(micros in 0..=Amount::MAX.micros()) {
            let text = amount(micros).to_string();
            prop_assert!(is_canonical(&text), "{}", text);
            prop_assert_eq!(Amount::parse(&text), Ok(amount(micros)));
        }

        #[test]
        fn a_sum_survives_its_text(micros in any::<i128>()) {
            let sum = SignedSum::from_micros(micros);
            prop_assert_eq!(SignedSum::parse(&sum.to_string()), Ok(sum));
        }

        #[test]
        fn a_fine_decimal_survives_its_text(attos in 0..=Decimal18::MAX_ATTOS) {
            let decimal = Decimal18::from_attos(attos).unwrap();
            prop_assert!(is_canonical(&decimal.to_string()));
            prop_assert_eq!(Decimal18::parse(&decimal.to_string()), Ok(decimal));
        }

        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_has_the_form(text in "[0-9.+\\- e]{0,20}") {
            if let Ok(read) = Amount::parse(&text) {
                prop_assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
                prop_assert_eq!(Amount::parse(&read.to_string()), Ok(read));
                prop_assert_eq!(Decimal18::parse(&text).map(|d| d.to_string()), Ok(read.to_string()));
            }
        }

        #[test]
        fn order_and_arithmetic_are_those_of_the_integers(a in 0..=Amount::MAX.micros(), b in 0..=Amount::MAX.micros()) {
            prop_assert_eq!(amount(a).cmp(&amount(b)), a.cmp(&b));
            prop_assert_eq!(amount(a).checked_sub(amount(b)).is_some(), a >= b);
            if let Some(sum) = amount(a).checked_add(amount(b)) {
                prop_assert_eq!(sum.checked_sub(amount(b)), Some(amount(a)));
            }
            let net = SignedSum::from(amount(a)).checked_sub(amount(b)).unwrap();
            prop_assert_eq!(net.micros(), i128::from(a) - i128::from(b));
        }
    }
}
