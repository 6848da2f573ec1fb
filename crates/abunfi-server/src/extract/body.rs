//! Bodies: bounded, of the right type, strict JSON.

use std::sync::Arc;

use abunfi::documents::parse::{JsonError, MAX_BODY_DEPTH, Parsed, parse_json};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::error::{Code, Problem, Result};
use crate::middleware::Progress;

/// The largest body.
pub(crate) const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// The largest body of a batch: 1,000 postings with room for their metadata.
const BATCH_LIMIT_BYTES: usize = 4 * BODY_LIMIT_BYTES;

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A body that has not been read yet.
#[derive(Debug)]
pub(crate) struct RequestBody {
    headers: HeaderMap,
    body: Body,
    progress: Option<Arc<Progress>>,
}

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = std::convert::Infallible;

    async fn from_request(
        request: Request,
        _state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        Ok(Self {
            progress: parts.extensions.get::<Arc<Progress>>().cloned(),
            headers: parts.headers,
            body,
        })
    }
}

impl RequestBody {
    /// A JSON value that must be there.
    pub(crate) async fn json(self) -> Result<Value> {
        let bytes = self.read(&[JSON], BODY_LIMIT_BYTES).await?;
        Ok(parse(&bytes)?.into_value()?)
    }

    /// A JSON value, or `{}` when there is no body: for routes on which every field may be absent.
    pub(crate) async fn json_or_empty(self) -> Result<Value> {
        let bytes = self.read(&[JSON], BODY_LIMIT_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        Ok(parse(&bytes)?.into_value()?)
    }

    /// The body of a `PATCH`.
    pub(crate) async fn merge_patch(self) -> Result<Value> {
        let bytes = self.read(&[JSON, MERGE_PATCH], BODY_LIMIT_BYTES).await?;
        Ok(parse(&bytes)?.into_value()?)
    }

    /// The body of a batch, with the faults of its numbers apart, so that items can fail alone.
    pub(crate) async fn batch(self) -> Result<Parsed> {
        let bytes = self.read(&[JSON], BATCH_LIMIT_BYTES).await?;
        parse(&bytes)
    }

    async fn read(self, types: &[&str], limit: usize) -> Result<Bytes> {
        let content_type = self.headers.get(header::CONTENT_TYPE);
        if self.headers.get(header::CONTENT_ENCODING).is_some() {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "a body is sent without Content-Encoding",
            ));
        }
        let declared = self
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let is_absent = axum::body::HttpBody::is_end_stream(&self.body) || declared == Some(0);
        match content_type {
            None if is_absent => {}
            Some(given) if types.iter().any(|accepted| is_type(given, accepted)) => {}
            _ => {
                return Err(Problem::new(
                    Code::UnsupportedMediaType,
                    format!("the Content-Type must be {}", types.join(" or ")),
                ));
            }
        }
        if declared.is_some_and(|declared| u64::try_from(limit).is_ok_and(|limit| declared > limit))
        {
            return Err(too_large(limit));
        }
        if let Some(progress) = &self.progress {
            progress.set_reading(true);
        }
        let collected = Limited::new(self.body, limit).collect().await;
        if let Some(progress) = &self.progress {
            progress.set_reading(false);
        }
        match collected {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
            Err(_cut) => Err(Problem::new(
                Code::MalformedJson,
                "the body ended before it was whole",
            )),
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("a body here has at most {limit} bytes"),
    )
}

/// Whether `given` is `accepted`, perhaps with `charset=utf-8`.
fn is_type(given: &HeaderValue, accepted: &str) -> bool {
    let Ok(given) = given.to_str() else {
        return false;
    };
    let mut parts = given.split(';').map(str::trim);
    let is_type = parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case(accepted));
    is_type
        && parts.all(|parameter| {
            let charset = parameter.to_ascii_lowercase();
            let charset = charset
                .strip_prefix("charset=")
                .map(|name| name.trim_matches('"').to_owned());
            charset.is_none_or(|name| name == "utf-8")
        })
}

fn parse(bytes: &[u8]) -> Result<Parsed> {
    parse_json(bytes, MAX_BODY_DEPTH).map_err(|error| match error {
        JsonError::TooDeep { .. } => Problem::new(Code::TooDeep, error.to_string()),
        JsonError::Malformed { .. } | JsonError::DuplicateKey { .. } => {
            Problem::new(Code::MalformedJson, error.to_string())
        }
        JsonError::Numbers(faults) => Problem::validation(&faults),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_may_say_utf_8_and_nothing_else() {
        for (given, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=latin1", false),
            ("application/jsonp", false),
            ("text/plain", false),
            ("application/merge-patch+json", false),
        ] {
            assert_eq!(
                is_type(&HeaderValue::from_static(given), JSON),
                accepted,
                "{given}"
            );
        }
    }
}
