//! Opaque cursors of lists, bound to the filters they were made for.
//!
//! A cursor is base64url of `version ‖ first 8 bytes of SHA-256(filters) ‖ payload as JSON`. It is
//! not signed: it says where to go on, never what may be seen, so the owner of the rows must come
//! from the path and the caller's rights, and a forged cursor reaches nothing that `cursor` absent
//! would not. The hash finds mistakes (a cursor of one list given to another), not attackers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// Format of what follows it; cursors of another version are refused as invalid.
const VERSION: u8 = 1;

/// Bytes of the hash of the filters: 64 bits, plenty against accidents.
const FILTER_HASH_BYTES: usize = 8;

/// Longest cursor that is looked at; ours hold a time and an id and stay far below.
const MAX_CURSOR_CHARS: usize = 1024;

/// Why a cursor cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not a cursor of ours, or damaged: 400 `invalid_cursor`.
    #[error("the cursor is not one that was given out")]
    Invalid,
    /// A cursor of a list with other filters: 400 `cursor_mismatch`.
    #[error("the cursor belongs to other filters")]
    Mismatch,
}

/// The cursor that continues after `payload` in the list described by `filters`.
///
/// `filters` is any text that is the same for the same list and differs for different ones: name the
/// list, its owner and every filter, in a fixed order. The page size is no filter.
///
/// # Errors
/// Only if `payload` cannot be JSON (a map whose keys are not text), which is a bug of the caller.
pub fn encode(filters: &str, payload: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut bytes = vec![VERSION];
    bytes.extend(filter_hash(filters));
    serde_json::to_writer(&mut bytes, payload)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The payload of a cursor that [`encode`] made for the same `filters`.
///
/// # Errors
/// [`CursorError::Mismatch`] for a well-formed cursor of other filters, else
/// [`CursorError::Invalid`].
pub fn decode<T: DeserializeOwned>(filters: &str, cursor: &str) -> Result<T, CursorError> {
    if cursor.len() > MAX_CURSOR_CHARS {
        return Err(CursorError::Invalid);
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(cursor)
        .or(Err(CursorError::Invalid))?;
    let rest = bytes.strip_prefix(&[VERSION]).ok_or(CursorError::Invalid)?;
    let (hash, payload) = rest
        .split_first_chunk::<FILTER_HASH_BYTES>()
        .ok_or(CursorError::Invalid)?;
    if *hash != filter_hash(filters) {
        return Err(CursorError::Mismatch);
    }
    serde_json::from_slice(payload).or(Err(CursorError::Invalid))
}

fn filter_hash(filters: &str) -> [u8; FILTER_HASH_BYTES] {
    let digest: [u8; 32] = Sha256::digest(filters.as_bytes()).into();
    digest.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_of_other_filters_is_told_apart_from_a_broken_one() {
        let cursor = encode("users?status=active", &(1, "a")).unwrap();
        assert_eq!(
            decode("users?status=active", &cursor),
            Ok((1, "a".to_owned()))
        );
        assert_eq!(
            decode::<(i32, String)>("users", &cursor),
            Err(CursorError::Mismatch)
        );
        assert_eq!(
            decode::<bool>("users?status=active", &cursor),
            Err(CursorError::Invalid)
        );
    }

    #[test]
    fn what_was_never_given_out_is_invalid() {
        let good = encode("f", &1).unwrap();
        let other_version = URL_SAFE_NO_PAD.encode([2_u8; 12]);
        let long = "A".repeat(MAX_CURSOR_CHARS + 1);
        for bad in [
            "",
            "A",
            "!!",
            "AQ",
            &good[1..],
            &format!("{good}="),
            &other_version,
            &long,
        ] {
            assert_eq!(
                decode::<i32>("f", bad),
                Err(CursorError::Invalid),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_form_of_a_cursor_is_the_one_already_given_out() {
        // 01, then the start of SHA-256("f"), then the JSON text 1.
        assert_eq!(encode("f", &1).unwrap(), "ASUvEMg2EOvKMQ");
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_for_its_filters_only(filters in ".{0,40}", other in ".{0,40}", at in any::<i64>(), id in any::<u128>()) {
            let cursor = encode(&filters, &(at, id.to_string())).unwrap();
            prop_assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(decode(&filters, &cursor), Ok((at, id.to_string())));
            if filters != other {
                prop_assert_eq!(decode::<(i64, String)>(&other, &cursor), Err(CursorError::Mismatch));
            }
        }

        #[test]
        fn no_text_makes_decoding_panic(text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode::<serde_json::Value>("f", &text);
            let _ = decode::<serde_json::Value>("f", &URL_SAFE_NO_PAD.encode(bytes));
        }
    }
}
