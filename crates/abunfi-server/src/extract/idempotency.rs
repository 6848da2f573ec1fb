//! `Idempotency-Key`, and what makes two requests the same.

use abunfi::documents::canonical::canonical_json;
use abunfi::ledger::RequestKey;
use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem, Result};

const NAME: &str = "idempotency-key";
const MAX_CHARS: usize = 255;

/// The header as it came.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey(Result<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        Ok(Self(read(&parts.headers)))
    }
}

impl IdempotencyKey {
    /// The key with the fingerprint of its request. `path` is the route with its ids, in one spelling.
    pub(crate) fn for_request(self, path: &str, body: &Value) -> Result<RequestKey> {
        Ok(RequestKey {
            key: self.0?,
            fingerprint: fingerprint("POST", path, body),
        })
    }
}

fn read(headers: &HeaderMap) -> Result<String> {
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else {
        return Err(Problem::new(
            Code::IdempotencyKeyMissing,
            "a request that moves money needs the header Idempotency-Key",
        ));
    };
    let bytes = value.as_bytes();
    let is_valid = values.next().is_none()
        && (1..=MAX_CHARS).contains(&bytes.len())
        && bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(key) if is_valid => Ok(key.to_owned()),
        _ => Err(Problem::new(
            Code::IdempotencyKeyInvalid,
            "an Idempotency-Key is 1 to 255 visible ASCII characters, once",
        )),
    }
}

/// SHA-256 over method, path and canonical body, with a NUL between them (which none of them holds).
pub(crate) fn fingerprint(method: &str, path: &str, body: &Value) -> [u8; 32] {
    Sha256::new()
        .chain_update(method)
        .chain_update([0])
        .chain_update(path)
        .chain_update([0])
        .chain_update(canonical_json(body))
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use serde_json::json;

    use super::*;

    fn of(text: &str) -> [u8; 32] {
        fingerprint("POST", "/p", &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn order_and_spacing_do_not_matter_and_everything_else_does() {
        assert_eq!(
            of(r#"{"a":1,"b":"x"}"#),
            of("{ \"b\" : \"x\",\n \"a\": 1 }")
        );
        assert_ne!(of(r#"{"a":1}"#), of(r#"{"a":2}"#));
        assert_ne!(
            fingerprint("POST", "/p", &json!({})),
            fingerprint("POST", "/q", &json!({}))
        );
        assert_ne!(
            fingerprint("POST", "/p", &json!({})),
            fingerprint("PUT", "/p", &json!({}))
        );
    }
}
