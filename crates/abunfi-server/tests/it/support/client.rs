//! Calls and their answers.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// A call that is put together.
#[must_use]
pub(crate) struct Call {
    request: reqwest::RequestBuilder,
    token: Option<String>,
}

impl Call {
    pub(crate) fn new(request: reqwest::RequestBuilder, token: &str) -> Self {
        Self {
            request,
            token: Some(token.to_owned()),
        }
    }

    /// With this token.
    pub(crate) fn by(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub(crate) fn by_nobody(mut self) -> Self {
        self.token = None;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.request = self
            .request
            .header("content-type", "application/json")
            .body(body.to_string());
        self
    }

    /// A body that need not be JSON, said to be JSON.
    pub(crate) fn text(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self
            .request
            .header("content-type", "application/json")
            .body(body);
        self
    }

    /// A body of a type of the caller's.
    pub(crate) fn typed(mut self, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.header("content-type", content_type).body(body);
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let request = match self.token {
            Some(token) => self.request.bearer_auth(token),
            None => self.request,
        };
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("a whole answer").to_vec();
        Answer {
            status,
            headers,
            body,
        }
    }

    /// Sends it and expects this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> impl Future<Output = Answer> {
        let place = std::panic::Location::caller();
        async move {
            let answer = self.send().await;
            assert_eq!(answer.status.as_u16(), status, "{place}: {}", answer.text());
            answer
        }
    }

    /// Sends it and expects this refusal.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> impl Future<Output = Answer> {
        let place = std::panic::Location::caller();
        async move {
            let answer = self.send().await;
            answer.check_problem(status, code, &place.to_string());
            answer
        }
    }
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// What is at a JSON pointer.
    #[track_caller]
    pub(crate) fn at(&self, pointer: &str) -> Value {
        match self.json().pointer(pointer) {
            Some(value) => value.clone(),
            None => panic!("nothing at {pointer} of {}", self.text()),
        }
    }

    /// The text at a JSON pointer.
    #[track_caller]
    pub(crate) fn text_at(&self, pointer: &str) -> String {
        match self.at(pointer) {
            Value::String(text) => text,
            other => panic!("{other} at {pointer} is no text"),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn etag(&self) -> String {
        self.header("etag").expect("a tag").to_owned()
    }

    /// Whether this is a problem as the contract has them.
    pub(crate) fn check_problem(&self, status: u16, code: &str, place: &str) {
        let text = self.text();
        assert_eq!(self.status.as_u16(), status, "{place}: {text}");
        let content_type = self.header("content-type");
        assert_eq!(content_type, Some("application/problem+json"), "{place}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{place}: {text}");
        assert_eq!(problem["status"], status, "{place}");
        for member in ["type", "title", "detail", "request_id"] {
            let has_text = problem[member]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            assert!(has_text, "{place}: {member} of {text}");
        }
        if status == 503 || status == 429 || code == "idempotency_in_progress" {
            let seconds = self.header("retry-after").expect("Retry-After");
            assert!(seconds.parse::<u32>().unwrap() >= 1, "{place}");
        }
    }

    /// The pointers and codes of a `validation_failed`, in order of the pointers.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let problem = self.json();
        let mut faults: Vec<_> = problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors in {problem}"))
            .iter()
            .map(|fault| {
                let text = |member: &str| fault[member].as_str().expect("a text").to_owned();
                assert!(!text("detail").is_empty());
                (text("pointer"), text("code"))
            })
            .collect();
        faults.sort();
        faults
    }

    /// Expects exactly these faults.
    #[track_caller]
    pub(crate) fn has_faults(&self, expected: &[(&str, &str)]) {
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned()))
            .collect();
        expected.sort();
        assert_eq!(self.faults(), expected);
    }
}
