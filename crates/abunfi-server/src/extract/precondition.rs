//! Entity tags: `ETag`, `If-Match`, `If-None-Match`.
//!
//! A tag is `"<version>"`, or `"<version>-<hash>"` where it covers a whole body that holds more than its
//! version says (the hybrid user, the dashboard). `If-Match` compares the version alone, so a tag of either
//! form guards a write; `If-None-Match` of a GET compares the whole tag.

use abunfi::documents::Expected;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::error::{Problem, Result};

/// Bytes of the hash in a tag: 96 bits are far beyond accident.
const HASH_BYTES: usize = 12;
/// More tags than this in one header are refused.
const MAX_TAGS: usize = 16;
/// A version that nothing has: what a foreign tag asks for.
const NO_VERSION: i64 = -1;

/// A strong entity tag, with its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ETag(String);

impl ETag {
    pub(crate) fn of_version(version: i64) -> Self {
        Self(format!("\"{version}\""))
    }

    /// The tag of a whole body.
    pub(crate) fn of_body(version: i64, body: &[u8]) -> Self {
        use std::fmt::Write as _;

        let mut tag = format!("\"{version}-");
        for byte in Sha256::digest(body).iter().take(HASH_BYTES) {
            // Writing to a String does not fail.
            let _infallible = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        Self(tag)
    }

    pub(crate) fn header_value(&self) -> Result<HeaderValue> {
        HeaderValue::from_str(&self.0).map_err(Problem::internal)
    }
}

/// The conditional headers as they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preconditions {
    if_match: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
}

impl<S: Send + Sync> FromRequestParts<S> for Preconditions {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        Ok(Self {
            if_match: all(&parts.headers, header::IF_MATCH),
            if_none_match: all(&parts.headers, header::IF_NONE_MATCH),
        })
    }
}

fn all(headers: &HeaderMap, name: HeaderName) -> Vec<HeaderValue> {
    headers.get_all(name).iter().cloned().collect()
}

/// One of the tags of a header.
#[derive(Debug, PartialEq, Eq)]
enum Listed<'h> {
    /// `*`
    Any,
    Tag {
        weak: bool,
        /// With its quotes.
        tag: &'h str,
    },
}

impl Preconditions {
    /// What a write demands of the version that is there.
    pub(crate) fn expected(&self) -> Result<Expected> {
        let if_match = read_list(&self.if_match, "If-Match")?;
        let if_none_match = read_list(&self.if_none_match, "If-None-Match")?;
        match (if_match.as_slice(), if_none_match.as_slice()) {
            ([], []) | ([Listed::Any], []) => Ok(Expected::Anything),
            ([], [Listed::Any]) => Ok(Expected::Absent),
            ([Listed::Tag { weak, tag }], []) => Ok(Expected::Version(if *weak {
                // The comparison of If-Match is the strong one, which no weak tag passes.
                NO_VERSION
            } else {
                version_of(tag)
            })),
            ([], _) => Err(Problem::invalid_parameter(
                "the only `If-None-Match` of a write is `*`",
            )),
            (_, []) => Err(Problem::invalid_parameter("`If-Match` takes one tag")),
            _ => Err(Problem::invalid_parameter(
                "`If-Match` and `If-None-Match` exclude each other",
            )),
        }
    }

    /// The version that a write to something that always exists demands. `If-None-Match: *` never holds
    /// there.
    pub(crate) fn version(&self) -> Result<Option<i64>> {
        match self.expected()? {
            Expected::Anything => Ok(None),
            Expected::Version(version) => Ok(Some(version)),
            Expected::Absent => Ok(Some(NO_VERSION)),
        }
    }

    /// Whether a GET that would give `current` is answered with 304.
    ///
    /// # Errors
    /// 412 when `If-Match` does not hold.
    pub(crate) fn is_not_modified(&self, current: &ETag) -> Result<bool> {
        if self.if_match.is_empty() && self.if_none_match.is_empty() {
            return Ok(false);
        }
        let if_match = read_list(&self.if_match, "If-Match")?;
        let version = version_of(&current.0);
        let holds = |listed: &Listed<'_>| match listed {
            Listed::Any => true,
            Listed::Tag { weak, tag } => !weak && version_of(tag) == version,
        };
        if !if_match.is_empty() && !if_match.iter().any(holds) {
            return Err(Problem::version_mismatch(Some(version)));
        }
        let if_none_match = read_list(&self.if_none_match, "If-None-Match")?;
        Ok(if_none_match.iter().any(|listed| match listed {
            Listed::Any => true,
            Listed::Tag { tag, .. } => *tag == current.0,
        }))
    }
}

/// The version in a tag of ours; [`NO_VERSION`] of a foreign one.
fn version_of(tag: &str) -> i64 {
    let inner = tag.trim_matches('"');
    let version = inner
        .split_once('-')
        .map_or(inner, |(version, _hash)| version);
    let is_plain = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    let version = version.parse().ok().filter(|_| is_plain);
    version.unwrap_or(NO_VERSION)
}

/// The tags of all lines of a header, by RFC 9110 §8.8.3.
fn read_list<'h>(values: &'h [HeaderValue], name: &str) -> Result<Vec<Listed<'h>>> {
    let malformed = || {
        Problem::invalid_parameter(format!(
            "`{name}` must be `*` or entity tags in double quotes"
        ))
    };
    let mut list = Vec::new();
    for value in values {
        let mut rest = value.to_str().or(Err(malformed()))?.trim();
        if rest == "*" {
            list.push(Listed::Any);
            continue;
        }
        loop {
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let inner = quoted.strip_prefix('"').ok_or_else(malformed)?;
            let length = inner.find('"').ok_or_else(malformed)?;
            let (tag, after) = quoted.split_at_checked(length + 2).ok_or_else(malformed)?;
            list.push(Listed::Tag { weak, tag });
            if list.len() > MAX_TAGS {
                return Err(malformed());
            }
            rest = after.trim_start();
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(',').ok_or_else(malformed)?.trim_start();
        }
    }
    let is_mixed = list.len() > 1 && list.contains(&Listed::Any);
    if is_mixed { Err(malformed()) } else { Ok(list) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn preconditions(if_match: &[&str], if_none_match: &[&str]) -> Preconditions {
        let values = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| HeaderValue::from_str(text).unwrap())
                .collect()
        };
        Preconditions {
            if_match: values(if_match),
            if_none_match: values(if_none_match),
        }
    }

    #[test]
    fn a_write_is_guarded_by_the_version_of_either_form_of_tag() {
        for (if_match, expected) in [
            ("\"7\"", Expected::Version(7)),
            ("\"7-0123abcd\"", Expected::Version(7)),
            ("*", Expected::Anything),
            ("W/\"7\"", Expected::Version(NO_VERSION)),
            ("\"abc\"", Expected::Version(NO_VERSION)),
            ("\"+7\"", Expected::Version(NO_VERSION)),
            ("\"\"", Expected::Version(NO_VERSION)),
        ] {
            let got = preconditions(&[if_match], &[]).expected().unwrap();
            assert_eq!(got, expected, "{if_match}");
        }
        assert_eq!(
            preconditions(&[], &["*"]).expected().unwrap(),
            Expected::Absent
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (if_match, if_none_match) in [
            (vec!["7"], vec![]),
            (vec!["\"7"], vec![]),
            (vec!["\"7\" \"8\""], vec![]),
            (vec!["\"7\", \"8\""], vec![]),
            (vec!["*, \"8\""], vec![]),
            (vec!["\"7\""], vec!["*"]),
            (vec![], vec!["\"7\""]),
        ] {
            let refused = preconditions(&if_match, &if_none_match).expected();
            assert!(refused.is_err(), "{if_match:?} {if_none_match:?}");
        }
    }

    #[test]
    fn a_get_is_not_modified_only_for_the_very_same_tag() {
        let current = ETag::of_body(3, b"body");
        let other = ETag::of_body(3, b"another");
        let read = |tags: &str| {
            preconditions(&[], &[tags])
                .is_not_modified(&current)
                .unwrap()
        };
        assert!(read("*"));
        assert!(read(&current.0));
        assert!(read(&format!("\"x\", W/{}", current.0)));
        assert!(!read(&other.0));
        assert!(!read("\"3\""));
        assert!(
            preconditions(&["\"4\""], &[])
                .is_not_modified(&current)
                .is_err()
        );
        assert!(
            !preconditions(&["\"3\""], &[])
                .is_not_modified(&current)
                .unwrap()
        );
    }
}
