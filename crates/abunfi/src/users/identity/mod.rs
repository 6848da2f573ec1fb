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
mod tests;
