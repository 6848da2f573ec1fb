//! The identities of a user: e-mail, wallet address, phone, social account, referral code; and the
//! name.
//!
//! Each is made by `parse` only, so a value that exists is valid. Two have the same *key* if and
//! only if they are the same to the unique indexes; the key is computed here and stored, so that no
//! backend's own idea of case decides.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha3::{Digest as _, Keccak256};

use crate::validation::{FaultCode, Invalid};

const fn bad_format(detail: &'static str) -> Invalid {
    Invalid::new(FaultCode::BadFormat, detail)
}

const fn too_long(detail: &'static str) -> Invalid {
    Invalid::new(FaultCode::TooLong, detail)
}

/// An e-mail address, as given: at most 254 bytes (RFC 5321 with its erratum 1690), the part before
/// the `@` at most 64.
///
/// The check is pragmatic: one `@`, no blanks, control characters or characters that would need
/// quoting, and a domain of at least two labels of letters, digits and inner hyphens. Whether mail
/// arrives is for a mail to find out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// Reads an address; nothing is trimmed or changed.
    ///
    /// # Errors
    /// `too_long` or `bad_format`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > 254 {
            return Err(too_long("must be at most 254 bytes"));
        }
        let (local, domain) = text.split_once('@').ok_or(bad_format("must hold one @"))?;
        if local.len() > 64 {
            return Err(too_long("must have at most 64 bytes before the @"));
        }
        let is_odd = |char: char| {
            char.is_whitespace() || char.is_control() || "\"(),:;<>@[\\]".contains(char)
        };
        if local.is_empty() || local.contains(is_odd) {
            return Err(bad_format("is no e-mail address before the @"));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|char| char.is_alphanumeric() || char == '-')
        };
        if !domain.contains('.') || !domain.split('.').all(is_label) {
            return Err(bad_format("is no e-mail address after the @"));
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which addresses are compared: each character in Unicode lower case, and a final
    /// sigma as any sigma. No Unicode normalization is done.
    pub fn key(&self) -> String {
        let lower = self.0.chars().flat_map(char::to_lowercase);
        lower
            .map(|char| if char == 'ς' { 'σ' } else { char })
            .collect()
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An EVM address: `0x` and 40 hex digits, shown with the checksum of EIP-55.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WalletAddress([u8; 20]);

impl WalletAddress {
    /// Reads an address. Letters in one case are taken as they are; in mixed case they must be those
    /// of EIP-55.
    ///
    /// # Errors
    /// `bad_format`, also when the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        const FORM: Invalid = bad_format("must be 0x and 40 hexadecimal digits");
        let digits = text.strip_prefix("0x").ok_or(FORM)?;
        let mut bytes = [0; 20];
        hex::decode_to_slice(digits, &mut bytes).or(Err(FORM))?;
        let address = Self(bytes);
        let is_mixed = digits.bytes().any(|byte| byte.is_ascii_uppercase())
            && digits.bytes().any(|byte| byte.is_ascii_lowercase());
        if is_mixed && address.to_string() != text {
            return Err(bad_format(
                "is in mixed case, but not that of its EIP-55 checksum",
            ));
        }
        Ok(address)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The form in which addresses are compared: all in lower case.
    pub fn key(&self) -> String {
        format!("0x{}", hex::encode(self.0))
    }
}

/// EIP-55: a letter is a capital where the nibble at its place in the Keccak-256 of the lower-case
/// digits is 8 or more.
impl fmt::Display for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = Keccak256::digest(digits.as_bytes());
        let nibbles = hash.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
        let mut text = String::from("0x");
        for (digit, nibble) in digits.chars().zip(nibbles) {
            text.push(if nibble >= 8 {
                digit.to_ascii_uppercase()
            } else {
                digit
            });
        }
        f.pad(&text)
    }
}

/// A phone number in E.164: `+` and 7 to 15 digits, the first not 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Phone(String);

impl Phone {
    /// Reads a number; no blanks, hyphens or national forms.
    ///
    /// # Errors
    /// `bad_format`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix('+').unwrap_or_default();
        let is_number = (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number {
            Ok(Self(text.to_owned()))
        } else {
            Err(bad_format(
                "must be E.164: + and 7 to 15 digits, the first not 0",
            ))
        }
    }

    /// Reads a number from a query string, in which an unescaped `+` has become a blank: one leading
    /// blank counts as `+`.
    ///
    /// # Errors
    /// `bad_format`.
    pub fn parse_lookup(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix(' ') {
            Some(digits) => Self::parse(&format!("+{digits}")),
            None => Self::parse(text),
        }
    }

    /// The number, which is also the form in which numbers are compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who vouches for a social account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocialProvider {
    /// Google.
    Google,
    /// Apple.
    Apple,
    /// Facebook.
    Facebook,
    /// A phone sign-in service.
    Phone,
}

impl SocialProvider {
    /// Reads the name, in lower case.
    ///
    /// # Errors
    /// `not_allowed`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        [Self::Google, Self::Apple, Self::Facebook, Self::Phone]
            .into_iter()
            .find(|provider| provider.as_str() == text)
            .ok_or(Invalid::new(
                FaultCode::NotAllowed,
                "must be google, apple, facebook or phone",
            ))
    }

    /// The name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Apple => "apple",
            Self::Facebook => "facebook",
            Self::Phone => "phone",
        }
    }
}

impl fmt::Display for SocialProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An account with a provider, compared exactly. In JSON `{"provider", "id"}`, as text
/// `provider:id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "SocialParts")]
pub struct SocialId {
    provider: SocialProvider,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SocialParts {
    provider: SocialProvider,
    id: String,
}

impl TryFrom<SocialParts> for SocialId {
    type Error = Invalid;

    fn try_from(parts: SocialParts) -> Result<Self, Invalid> {
        Self::new(parts.provider, &parts.id)
    }
}

impl SocialId {
    /// The account `id` (1–255 characters, no control characters) with `provider`.
    ///
    /// # Errors
    /// `too_short`, `too_long` or `bad_format`, all about the id.
    pub fn new(provider: SocialProvider, id: &str) -> Result<Self, Invalid> {
        check_text(id, 255, "must be at most 255 characters")?;
        Ok(Self {
            provider,
            id: id.to_owned(),
        })
    }

    /// Reads `provider:id`, as in a look-up; the id may hold further colons.
    ///
    /// # Errors
    /// Those of [`SocialProvider::parse`] and [`Self::new`], or `bad_format` without a colon.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (provider, id) = text
            .split_once(':')
            .ok_or(bad_format("must be provider:id"))?;
        Self::new(SocialProvider::parse(provider)?, id)
    }

    /// Who vouches for it.
    pub const fn provider(&self) -> SocialProvider {
        self.provider
    }

    /// The provider's name for it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The form in which accounts are compared, `provider:id`.
    pub fn key(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for SocialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.id)
    }
}

/// A user's name: 1–200 characters as given, none of them a control character, not all blank.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Reads a name; nothing is trimmed or changed.
    ///
    /// # Errors
    /// `too_short`, `too_long` or `bad_format`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check_text(text, 200, "must be at most 200 characters")?;
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_text(text: &str, max_chars: usize, over: &'static str) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::new(
            FaultCode::TooShort,
            "must not be empty or blank",
        ));
    }
    if text.chars().nth(max_chars).is_some() {
        return Err(too_long(over));
    }
    if text.contains(char::is_control) {
        return Err(bad_format("must not hold control characters"));
    }
    Ok(())
}

/// The code by which a user refers others: 8 of 31 letters and digits, without `0 O 1 I L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReferralCode([char; ReferralCode::CHARS]);

impl ReferralCode {
    /// Characters in a code.
    pub const CHARS: usize = 8;

    /// What codes are made of.
    pub const ALPHABET: &'static str = "ABCDEFGHJKMNPQRSTUVWXYZ23456789";

    /// A code made of 64 random bits: their number modulo 31⁸ (about 2³⁹·⁶), in base 31. No code is
    /// likelier than another by more than a factor of 1 + 2⁻²⁴. Codes collide (half a chance among a
    /// million users), so whoever stores one must be ready to draw again.
    pub fn from_random(random: [u8; 8]) -> Self {
        let mut rest = u64::from_be_bytes(random);
        Self(std::array::from_fn(|_| {
            let digit = usize::try_from(rest % 31).unwrap_or_default();
            rest /= 31;
            Self::ALPHABET.chars().nth(digit).unwrap_or('A')
        }))
    }

    /// Reads a code in either case.
    ///
    /// # Errors
    /// `bad_format`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        const FORM: Invalid = bad_format("must be 8 letters or digits, without 0, O, 1, I and L");
        let mut code = ['A'; Self::CHARS];
        let mut chars = text.chars().map(|char| char.to_ascii_uppercase());
        for place in &mut code {
            *place = chars
                .next()
                .filter(|char| Self::ALPHABET.contains(*char))
                .ok_or(FORM)?;
        }
        if chars.next().is_some() {
            Err(FORM)
        } else {
            Ok(Self(code))
        }
    }

    /// The form in which codes are compared, that is the code in capitals.
    pub fn key(&self) -> String {
        self.0.iter().collect()
    }
}

impl fmt::Display for ReferralCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.key())
    }
}

/// What a user can be looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// [`Email`].
    Email,
    /// [`WalletAddress`].
    WalletAddress,
    /// [`Phone`].
    Phone,
    /// [`SocialId`].
    Social,
    /// [`ReferralCode`].
    ReferralCode,
}

impl IdentityKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Email,
        Self::WalletAddress,
        Self::Phone,
        Self::Social,
        Self::ReferralCode,
    ];

    /// The name of the field and of the query parameter, also what is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::WalletAddress => "wallet_address",
            Self::Phone => "phone",
            Self::Social => "social",
            Self::ReferralCode => "referral_code",
        }
    }

    /// The key of `text` as an identity of this kind in a look-up (a leading blank in a phone number
    /// counts as `+`). Two identities of a kind are the same if and only if their keys are.
    ///
    /// # Errors
    /// Those of the kind's `parse`.
    pub fn key(self, text: &str) -> Result<String, Invalid> {
        match self {
            Self::Email => Email::parse(text).map(|email| email.key()),
            Self::WalletAddress => WalletAddress::parse(text).map(|address| address.key()),
            Self::Phone => Phone::parse_lookup(text).map(String::from),
            Self::Social => SocialId::parse(text).map(|social| social.key()),
            Self::ReferralCode => ReferralCode::parse(text).map(|code| code.key()),
        }
    }
}

impl fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl std::str::FromStr for $type {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
text_conversions!(Email, WalletAddress, Phone, Name, ReferralCode);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn code<T: fmt::Debug>(result: Result<T, Invalid>) -> &'static str {
        result.unwrap_err().code.as_str()
    }

    #[test]
    fn an_address_is_kept_as_given_and_compared_without_case() {
        let email = Email::parse("An.Nguyễn+App@Example.COM").unwrap();
        assert_eq!(email.to_string(), "An.Nguyễn+App@Example.COM");
        assert_eq!(email.key(), "an.nguyễn+app@example.com");
        let sigma =
            ["ΟΔΟΣ@x.gr", "οδος@x.gr", "οδοσ@X.GR"].map(|text| Email::parse(text).unwrap().key());
        assert!(sigma.iter().all(|key| *key == "οδοσ@x.gr"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long_local = format!("{}@x.vn", "a".repeat(65));
        let long_label = format!("a@{}.vn", "b".repeat(64));
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@x.vn",
            "a@b@x.vn",
            "a@x",
            "a@.vn",
            "a@x.",
            "a@x..vn",
            "a b@x.vn",
            " a@x.vn",
            "a@x.vn ",
            "a@x.vn\n",
            "a\0@x.vn",
            "a@-x.vn",
            "a@x-.vn",
            "a@x_y.vn",
            "<a@x.vn>",
            "a@[1.2.3.4]",
            "\"a\"@x.vn",
            "a,b@x.vn",
            "a\u{a0}b@x.vn",
            &long_label,
        ] {
            assert_eq!(code(Email::parse(bad)), "bad_format", "{bad:?}");
        }
        assert_eq!(code(Email::parse(&long_local)), "too_long");
        let of_length = |bytes: usize| {
            format!(
                "a@{}.{}",
                vec!["b".repeat(49); 5].join("."),
                "c".repeat(bytes - 252)
            )
        };
        assert!(Email::parse(&of_length(254)).is_ok());
        assert_eq!(code(Email::parse(&of_length(255))), "too_long");
    }

    #[test]
    fn the_examples_of_eip_55_hold_and_one_wrong_letter_is_refused() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "0xde709f2102306220921060314715629080e2fb77",
        ] {
            let address = WalletAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.key(), text.to_lowercase());
            assert_eq!(WalletAddress::parse(&text.to_lowercase()).unwrap(), address);
            assert_eq!(
                WalletAddress::parse(&format!("0x{}", text[2..].to_uppercase())).unwrap(),
                address
            );
        }
        assert_eq!(
            code(WalletAddress::parse(
                "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
            )),
            "bad_format"
        );
        for bad in [
            "",
            "0x",
            "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0X5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaedd",
            "0xg aeb6053f3e94c9b9a09f33669435e7ef1beaed",
        ] {
            assert_eq!(code(WalletAddress::parse(bad)), "bad_format", "{bad:?}");
        }
    }

    #[test]
    fn phones_are_e164_and_a_blank_is_a_plus_only_in_a_look_up() {
        assert_eq!(
            Phone::parse("+84901234567").unwrap().as_str(),
            "+84901234567"
        );
        for bad in [
            "",
            "+",
            "84901234567",
            "+0901234567",
            "+123456",
            "+1234567890123456",
            "+84 901234567",
            " 84901234567",
            "+8490123456٣",
        ] {
            assert_eq!(code(Phone::parse(bad)), "bad_format", "{bad:?}");
        }
        assert_eq!(
            Phone::parse_lookup(" 84901234567"),
            Phone::parse("+84901234567")
        );
        assert_eq!(
            Phone::parse_lookup("+84901234567"),
            Phone::parse("+84901234567")
        );
        for bad in ["  84901234567", " +84901234567", "84901234567"] {
            assert!(Phone::parse_lookup(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_social_account_is_an_object_in_json_and_one_text_in_a_look_up() {
        let social = SocialId::parse("google:12:3").unwrap();
        assert_eq!(
            social,
            SocialId::new(SocialProvider::Google, "12:3").unwrap()
        );
        assert_eq!(
            serde_json::to_value(&social).unwrap(),
            json!({"provider": "google", "id": "12:3"})
        );
        assert_eq!(
            serde_json::from_value::<SocialId>(json!({"provider": "google", "id": "12:3"}))
                .unwrap(),
            social
        );
        assert!(
            serde_json::from_value::<SocialId>(json!({"provider": "google", "id": ""})).is_err()
        );
        for (bad, why) in [
            ("google", "bad_format"),
            ("Google:1", "not_allowed"),
            ("x:1", "not_allowed"),
            ("apple:", "too_short"),
            ("apple:a\n", "bad_format"),
        ] {
            assert_eq!(code(SocialId::parse(bad)), why, "{bad:?}");
        }
        assert!(SocialId::new(SocialProvider::Apple, &"ă".repeat(255)).is_ok());
        assert_eq!(
            code(SocialId::new(SocialProvider::Apple, &"ă".repeat(256))),
            "too_long"
        );
    }

    #[test]
    fn names_are_counted_in_characters_and_kept_as_given() {
        assert_eq!(
            Name::parse(" Nguyễn Văn An ").unwrap().as_str(),
            " Nguyễn Văn An "
        );
        assert!(Name::parse(&"ễ".repeat(200)).is_ok());
        assert_eq!(code(Name::parse(&"ễ".repeat(201))), "too_long");
        for (bad, why) in [
            ("", "too_short"),
            (" \u{a0}", "too_short"),
            ("a\tb", "bad_format"),
            ("a\u{85}b", "bad_format"),
        ] {
            assert_eq!(code(Name::parse(bad)), why, "{bad:?}");
        }
    }

    #[test]
    fn referral_codes_are_read_in_either_case_and_shown_in_capitals() {
        assert_eq!(
            ReferralCode::parse("k7m2q9xa").unwrap().to_string(),
            "K7M2Q9XA"
        );
        for bad in [
            "",
            "K7M2Q9X",
            "K7M2Q9XAA",
            "K7M2Q9X0",
            "K7M2Q9XO",
            "K7M2Q9X1",
            "K7M2Q9XI",
            "K7M2Q9XL",
            "K7M2Q9X ",
            "K7M2Q9Xß",
        ] {
            assert_eq!(code(ReferralCode::parse(bad)), "bad_format", "{bad:?}");
        }
        assert_eq!(ReferralCode::ALPHABET.len(), 31);
        assert_eq!(ReferralCode::from_random([0; 8]).to_string(), "AAAAAAAA");
        assert_ne!(
            ReferralCode::from_random([1; 8]),
            ReferralCode::from_random([2; 8])
        );
    }

    #[test]
    fn kinds_are_named_as_fields_and_give_the_keys_of_look_ups() {
        for kind in IdentityKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for (kind, text, key) in [
            (IdentityKind::Email, "A@X.vn", "a@x.vn"),
            (IdentityKind::Phone, " 84901234567", "+84901234567"),
            (IdentityKind::Social, "apple:X", "apple:X"),
            (IdentityKind::ReferralCode, "k7m2q9xa", "K7M2Q9XA"),
        ] {
            assert_eq!(kind.key(text).as_deref(), Ok(key));
        }
    }

    #[test]
    fn json_is_text_and_is_checked_when_read() {
        let email: Email = serde_json::from_value(json!("A@x.vn")).unwrap();
        assert_eq!(serde_json::to_value(&email).unwrap(), "A@x.vn");
        assert!(serde_json::from_value::<Email>(json!("A")).is_err());
        assert!(serde_json::from_value::<Name>(json!(5)).is_err());
    }

    proptest! {
        #[test]
        fn an_address_has_one_key_in_any_case(local in "[a-zà-öø-ýđăơưạ-ỹα-ω0-9.+_-]{1,12}", domain in "[a-z0-9]{1,8}(\\.[a-z]{2,4}){1,2}") {
            let text = format!("{local}@{domain}");
            let email = Email::parse(&text).unwrap();
            prop_assert_eq!(email.as_str(), &text);
            prop_assert_eq!(Email::parse(&text.to_uppercase()).unwrap().key(), email.key());
            prop_assert_eq!(Email::parse(&email.key()).unwrap().key(), email.key());
        }

        #[test]
        fn a_wallet_address_survives_its_text_and_its_key(bytes in any::<[u8; 20]>()) {
            let address = WalletAddress(bytes);
            prop_assert_eq!(WalletAddress::parse(&address.to_string()), Ok(address));
            prop_assert_eq!(WalletAddress::parse(&address.key()), Ok(address));
        }

        #[test]
        fn every_random_code_is_a_code(random in any::<[u8; 8]>()) {
            let code = ReferralCode::from_random(random);
            prop_assert_eq!(ReferralCode::parse(&code.to_string()), Ok(code));
            prop_assert_eq!(ReferralCode::parse(&code.to_string().to_lowercase()), Ok(code));
        }

        #[test]
        fn any_text_is_read_as_it_is_or_refused(text in "\\PC{0,20}|[+ a-z@.:0-9]{0,20}") {
            if let Ok(phone) = Phone::parse(&text) { prop_assert_eq!(phone.as_str(), &text); }
            if let Ok(social) = SocialId::parse(&text) { prop_assert_eq!(social.to_string(), text.clone()); }
            if let Ok(name) = Name::parse(&text) { prop_assert_eq!(name.as_str(), &text); }
            let _ = (WalletAddress::parse(&text), ReferralCode::parse(&text), Email::parse(&text));
        }
    }
}
