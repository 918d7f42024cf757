//! The log of requests to the control plane and to instances.
//!
//! Invariant: `Debug` shows no header and no body, because they hold keys.

use std::collections::VecDeque;
use std::fmt;

use axum::http::request::Parts;
use bytes::Bytes;
use parking_lot::Mutex;

/// Requests that are kept; older ones are forgotten.
const MAX_REQUESTS: usize = 10_000;
/// Bytes of them that are kept; the newest is kept in any case.
const MAX_LOG_BYTES: usize = 64 << 20;

/// Where a request was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The control plane.
    Control,
    /// The instance of that id.
    Instance(String),
}

/// A request that came.
#[derive(Clone)]
pub struct LoggedRequest {
    /// The addressee.
    pub to: Destination,
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers, their names in small letters, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl LoggedRequest {
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

    pub(crate) fn new(to: Destination, parts: &Parts, body: Bytes) -> Self {
        let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        LoggedRequest {
            to,
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            headers: parts.headers.iter().map(header).collect(),
            body,
        }
    }
}

impl LoggedRequest {
    /// Roughly its bytes.
    fn size_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 64);
        self.path.len() + self.body.len() + headers.sum::<usize>() + 256
    }
}

impl fmt::Debug for LoggedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {}", self.to, self.method, self.path)
    }
}

/// The requests that came.
#[derive(Default)]
pub(crate) struct RequestLog(Mutex<LogEntries>);

#[derive(Default)]
struct LogEntries {
    requests: VecDeque<LoggedRequest>,
    bytes: usize,
}

impl RequestLog {
    pub(crate) fn add(&self, request: LoggedRequest) {
        let mut kept = self.0.lock();
        kept.bytes += request.size_bytes();
        kept.requests.push_back(request);
        while kept.requests.len() > MAX_REQUESTS || (kept.bytes > MAX_LOG_BYTES && kept.requests.len() > 1) {
            let oldest = kept.requests.pop_front();
            kept.bytes -= oldest.map_or(0, |oldest| oldest.size_bytes());
        }
    }

    pub(crate) fn requests(&self) -> Vec<LoggedRequest> {
        self.0.lock().requests.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let log = RequestLog::default();
        let request = |length: usize| LoggedRequest {
            to: Destination::Control,
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            body: vec![b'x'; length].into(),
        };
        for _ in 0..20 {
            log.add(request(16 << 20));
        }
        assert_eq!(log.requests().len(), 3);
        log.add(request(MAX_LOG_BYTES));
        assert_eq!(log.requests().len(), 1);
        for _ in 0..MAX_REQUESTS + 10 {
            log.add(request(0));
        }
        assert_eq!(log.requests().len(), MAX_REQUESTS);
        assert_eq!(log.0.lock().bytes, MAX_REQUESTS * request(0).size_bytes());
    }
}
