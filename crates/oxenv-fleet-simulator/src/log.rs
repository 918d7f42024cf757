//! What came: every request, to the control plane and to instances.
//!
//! Invariant: `Debug` shows no header and no body, because they hold keys.

use std::collections::VecDeque;
use std::fmt;

use axum::http::request::Parts;
use bytes::Bytes;
use parking_lot::Mutex;

/// Requests that are kept; older ones are forgotten.
const KEPT: usize = 10_000;

/// Whom a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// The control plane.
    Control,
    /// The instance of that id.
    Instance(String),
}

/// A request that came.
#[derive(Clone)]
pub struct Request {
    /// To whom.
    pub to: Addressee,
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers, their names in small letters, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(crate) fn new(to: Addressee, parts: &Parts, body: Bytes) -> Self {
        let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Request {
            to,
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            headers: parts.headers.iter().map(header).collect(),
            body,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {}", self.to, self.method, self.path)
    }
}

/// The requests that came.
#[derive(Default)]
pub(crate) struct Log {
    requests: Mutex<VecDeque<Request>>,
}

impl Log {
    pub(crate) fn add(&self, request: Request) {
        let mut requests = self.requests.lock();
        if requests.len() == KEPT {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().iter().cloned().collect()
    }
}
