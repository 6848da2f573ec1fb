//! `X-Request-Id` and `traceparent`.

use std::sync::Arc;

use abunfi::ids::random_bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const MAX_CHARS: usize = 128;

/// The id of a request: 1–128 visible ASCII characters.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl Default for RequestId {
    fn default() -> Self {
        Self::random()
    }
}

impl RequestId {
    /// The id that the client gave; else the trace's, so that what is stored under it (the audit trail)
    /// can be found from the trace; else a new one.
    pub(crate) fn of(headers: &HeaderMap, trace: Option<&TraceParent>) -> Self {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        };
        let given = given.filter(|id| {
            (1..=MAX_CHARS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match (given, trace) {
            (Some(id), _) => Self(id.into()),
            (None, Some(trace)) => Self(trace.trace_id().into()),
            (None, None) => Self::random(),
        }
    }

    fn random() -> Self {
        let id = uuid::Builder::from_random_bytes(random_bytes()).into_uuid();
        Self(
            id.as_hyphenated()
                .encode_lower(&mut Uuid::encode_buffer())
                .into(),
        )
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn header_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_impossible| HeaderValue::from_static("-"))
    }
}

/// A `traceparent` of W3C Trace Context, version 00 (a later one is read as that, as it asks).
#[derive(Debug, Clone)]
pub(crate) struct TraceParent(HeaderValue);

impl TraceParent {
    /// `None` when there is none, or one that is not well formed: that is ignored, as the standard asks.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let text = value.to_str().ok()?;
        let mut parts = text.split('-');
        let is_hex = |part: &str, length: usize| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let is_set = |part: &str| part.bytes().any(|byte| byte != b'0');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && is_hex(trace, 32)
            && is_set(trace)
            && is_hex(parent, 16)
            && is_set(parent)
            && is_hex(flags, 2)
            && (version != "00" || parts.next().is_none())
            && text.len() <= MAX_CHARS;
        is_valid.then(|| Self(value.clone()))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn trace_id(&self) -> &str {
        self.as_str().split('-').nth(1).unwrap_or_default()
    }

    pub(crate) fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn an_id_is_taken_or_replaced() {
        let long = "a".repeat(129);
        let of = |lines: &[_]| RequestId::of(&headers(lines), None).as_str().to_owned();
        assert_eq!(of(&[("x-request-id", "A-1")]), "A-1");
        assert_eq!(of(&[("x-request-id", &long[1..])]), long[1..]);
        for bad in ["", "a b", &long] {
            assert_eq!(of(&[("x-request-id", bad)]).len(), 36, "{bad}");
        }
        assert_eq!(
            of(&[("x-request-id", "a"), ("x-request-id", "b")]).len(),
            36
        );
    }

    #[test]
    fn a_trace_gives_its_id_to_a_request_that_has_none() {
        let headers = headers(&[("traceparent", TRACE)]);
        let trace = TraceParent::of(&headers).unwrap();
        let id = RequestId::of(&headers, Some(&trace));
        assert_eq!(id.as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn a_malformed_trace_is_ignored() {
        assert!(TraceParent::of(&headers(&[("traceparent", TRACE)])).is_some());
        let later = TRACE.replacen("00", "01", 1) + "-more";
        assert!(TraceParent::of(&headers(&[("traceparent", &later)])).is_some());
        for bad in [
            "",
            "00",
            &TRACE.to_uppercase(),
            &TRACE.replacen("00", "ff", 1),
            &format!("{TRACE}-more"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            let headers = headers(&[("traceparent", bad)]);
            assert!(TraceParent::of(&headers).is_none(), "{bad}");
        }
    }
}
