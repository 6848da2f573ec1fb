//! Opaque secret tokens: sessions (`abs_…`) and service keys (`abk_…`).
//!
//! A token is its prefix and 256 random bits in base64url, 47 characters. Only the SHA-256 of the
//! whole text is ever stored or compared; with 256 bits of entropy a plain hash needs no salt and no
//! slow function, since nobody can enumerate what it hides. There is no checksum: a mistyped token is
//! one hash and one look-up away from being refused, and hints help guessers more than typists.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Random bytes in a token: 256 bits, twice what OWASP's session sheet asks for.
pub const SECRET_BYTES: usize = 32;

/// Characters of a token: 4 of prefix, 43 of base64url.
pub const TOKEN_CHARS: usize = 47;

/// What a token gives access to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// A session of one user.
    Session,
    /// A service key with scopes.
    ServiceKey,
}

impl TokenKind {
    /// The four characters such a token starts with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Session => "abs_",
            Self::ServiceKey => "abk_",
        }
    }
}

/// A secret as its holder shows it. `Debug` hides it, and there is no `Display`: whoever writes it
/// out must say [`Token::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    kind: TokenKind,
    text: String,
}

impl Token {
    /// The token of `kind` made of `secret`, which must come from the system's generator.
    pub fn from_random(kind: TokenKind, secret: [u8; SECRET_BYTES]) -> Self {
        let mut text = String::with_capacity(TOKEN_CHARS);
        text.push_str(kind.prefix());
        URL_SAFE_NO_PAD.encode_string(secret, &mut text);
        Self { kind, text }
    }

    /// Reads a token of either kind; `None` unless prefix, length and alphabet are exactly right.
    pub fn parse(text: &str) -> Option<Self> {
        let kind = [TokenKind::Session, TokenKind::ServiceKey]
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))?;
        if text.len() != TOKEN_CHARS {
            return None;
        }
        // 43 characters are 32 bytes and two bits; the decoder insists that those are zero, so a
        // secret has one text only.
        URL_SAFE_NO_PAD
            .decode(text.strip_prefix(kind.prefix())?)
            .ok()?;
        Some(Self {
            kind,
            text: text.to_owned(),
        })
    }

    /// Session or service key.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The secret in clear, to be shown once.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What is stored instead of the secret.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}***)", self.kind.prefix())
    }
}

/// SHA-256 of a whole token, prefix included.
///
/// Comparing two of them need not be constant-time: what a timing leaks are bits of a hash whose
/// preimage the attacker cannot choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a secret of any form, such as `ABUNFI_ADMIN_KEY`.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The hash as it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits, for keys in Redis.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl TryFrom<&[u8]> for TokenHash {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

/// Shows eight digits: enough to tell two apart in a log, not enough to look one up.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({:.8}…)", self.to_hex())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;

    use super::*;

    fn session(byte: u8) -> Token {
        Token::from_random(TokenKind::Session, [byte; SECRET_BYTES])
    }

    #[test]
    fn the_text_of_a_token_is_fixed_for_good() {
        assert_eq!(
            session(0).expose(),
            "abs_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        );
        let key = Token::from_random(TokenKind::ServiceKey, [255; SECRET_BYTES]);
        assert_eq!(
            key.expose(),
            "abk___________________________________________8"
        );
        assert_eq!(key.kind(), TokenKind::ServiceKey);
    }

    #[test]
    fn the_hash_is_the_sha256_of_the_whole_text() {
        // printf %s abs_AAAA… | sha256sum
        assert_eq!(session(0).hash().to_hex(), HASH_OF_ZERO);
        assert_eq!(session(0).hash(), TokenHash::of(session(0).expose()));
    }
    const HASH_OF_ZERO: &str = "9b6dccc4b86d4f13752ebce938665fd354da6f4b28fc12ea579cdb940ce585ce";

    #[test]
    fn what_is_not_exactly_a_token_is_none() {
        let good = session(7).expose().to_owned();
        assert_eq!(Token::parse(&good), Some(session(7)));
        let swapped = good.replacen("abs_", "abz_", 1);
        let blank = good.replacen('B', " ", 1);
        let loose_bits = format!("{}B", good.strip_suffix('c').unwrap());
        for bad in [
            "",
            "abs_",
            "ABS_",
            &good[1..],
            &good[..46],
            &format!("{good}A"),
            &swapped,
            &blank,
            &loose_bits,
        ] {
            assert_eq!(Token::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_token_survives_its_text(secret in any::<[u8; SECRET_BYTES]>(), key in any::<bool>()) {
            let token = Token::from_random(if key { TokenKind::ServiceKey } else { TokenKind::Session }, secret);
            prop_assert_eq!(token.expose().len(), TOKEN_CHARS);
            prop_assert_eq!(Token::parse(token.expose()), Some(token));
        }

        #[test]
        fn debug_output_never_holds_the_secret(secret in any::<[u8; SECRET_BYTES]>()) {
            let token = Token::from_random(TokenKind::Session, secret);
            prop_assert_eq!(format!("{token:?}"), "Token(abs_***)");
            let shown = format!("{:?}", token.hash());
            prop_assert!(shown.len() < 30 && !shown.contains(&token.hash().to_hex()));
        }

        #[test]
        fn no_text_makes_it_panic_and_what_is_read_is_written_back(text in "(abs_|abk_)?[A-Za-z0-9_é-]{40,48}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(token.expose(), text);
            }
        }
    }
}
