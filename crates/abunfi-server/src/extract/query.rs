//! The query string: each parameter at most once, and none that the route does not have.

use abunfi::clock::Timestamp;
use axum::extract::FromRequestParts;
use axum::extract::Query;
use http::Uri;
use http::request::Parts;

use crate::error::{Problem, Result};

/// More parameters than any route has are refused unread.
const MAX_PARAMETERS: usize = 32;
/// The longest value: a cursor, an e-mail address, a piece of a message.
const MAX_VALUE_BYTES: usize = 2_048;

/// The query string as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueryString(Uri);

impl<S: Send + Sync> FromRequestParts<S> for QueryString {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> std::result::Result<Self, Self::Rejection> {
        Ok(Self(parts.uri.clone()))
    }
}

impl QueryString {
    /// Decodes the parameters.
    pub(crate) fn read(&self) -> Result<QueryReader> {
        if self.0.query().is_none_or(str::is_empty) {
            return Ok(QueryReader {
                parameters: Vec::new(),
            });
        }
        let Ok(Query(parameters)) = Query::<Vec<(String, String)>>::try_from_uri(&self.0) else {
            return Err(Problem::invalid_parameter(
                "the query string cannot be read",
            ));
        };
        if parameters.len() > MAX_PARAMETERS {
            return Err(Problem::invalid_parameter("there are too many parameters"));
        }
        for (index, (name, value)) in parameters.iter().enumerate() {
            let is_readable = value.len() <= MAX_VALUE_BYTES
                && !value.contains(|char: char| {
                    char.is_control() || char == char::REPLACEMENT_CHARACTER
                });
            if !is_readable {
                return Err(invalid(name, "is too long or holds control characters"));
            }
            let earlier = parameters.iter().take(index);
            if earlier.into_iter().any(|(other, _)| other == name) {
                return Err(invalid(name, "is there more than once"));
            }
        }
        Ok(QueryReader { parameters })
    }

    /// For routes without parameters.
    pub(crate) fn expect_none(&self) -> Result<()> {
        self.read()?.finish()
    }
}

/// Takes the parameters that a route has; what is left when it [finishes](Self::finish) is unknown.
#[derive(Debug)]
pub(crate) struct QueryReader {
    parameters: Vec<(String, String)>,
}

impl QueryReader {
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.parameters.iter().position(|(key, _)| key == name)?;
        Some(self.parameters.swap_remove(index).1)
    }

    /// A parameter that must be one of a kind; `expected` says which.
    pub(crate) fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match parse(&value) {
                Some(parsed) => Ok(Some(parsed)),
                None => Err(invalid(name, &format!("must be {expected}"))),
            },
        }
    }

    /// A time; a blank counts as the `+` that it was before somebody forgot to escape it.
    pub(crate) fn time(&mut self, name: &str) -> Result<Option<Timestamp>> {
        self.parse(name, "an RFC 3339 time", |value| {
            Timestamp::parse(&value.replace(' ', "+"))
        })
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.parse(name, "true or false", |value| value.parse().ok())
    }

    /// A text of 1 to `max` characters.
    pub(crate) fn text(&mut self, name: &str, max: usize) -> Result<Option<String>> {
        self.parse(name, &format!("1 to {max} characters"), |value| {
            (1..=max)
                .contains(&value.chars().count())
                .then(|| value.to_owned())
        })
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self.parameters.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(name, "is not a parameter of this route")),
        }
    }
}

/// Names are shown so far as they are short and plain.
pub(crate) fn invalid(name: &str, what: &str) -> Problem {
    let shown: String = name
        .chars()
        .filter(|char| !char.is_control())
        .take(64)
        .collect();
    Problem::invalid_parameter(format!("`{shown}` {what}"))
}
