//! Which protocol a client speaks, by the headers of its request: OpenEnv's dialect or MCP, and which era.
//!
//! Invariant: headers alone decide which clients get the dialect, which is always status 200.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};

/// The revision with stateless requests.
pub(crate) const STATELESS_REVISION: &str = "2026-07-28";
/// Protocol revisions that a header may name.
pub(crate) const REVISIONS: [&str; 5] =
    ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", STATELESS_REVISION];

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(crate) const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientProtocol<'a> {
    /// OpenEnv's dialect, which is every request without a header of MCP's.
    Dialect,
    /// MCP of the handshake's era, outside of a transport session.
    Bare,
    /// MCP within the transport session of that id.
    Session(&'a str),
    /// MCP of 2026-07-28.
    Stateless,
    /// MCP of a revision that is not known here.
    Unknown(&'a str),
}

impl<'a> ClientProtocol<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let revision = text(PROTOCOL_VERSION);
        match (revision, text(SESSION_ID)) {
            (Some(STATELESS_REVISION), _) => ClientProtocol::Stateless,
            (Some(revision), _) if !REVISIONS.contains(&revision) => ClientProtocol::Unknown(revision),
            (_, Some(id)) => ClientProtocol::Session(id),
            (Some(_), None) => ClientProtocol::Bare,
            (None, None) if accept_names(headers, "text/event-stream") => ClientProtocol::Bare,
            (None, None) => ClientProtocol::Dialect,
        }
    }

    /// The status of a reply; the dialect knows only one.
    pub(crate) fn status(self, otherwise: StatusCode) -> StatusCode {
        if self == ClientProtocol::Dialect { StatusCode::OK } else { otherwise }
    }
}

/// What MCP's own clients accept, to the letter.
const MCP_ACCEPT: &str = "application/json, text/event-stream";

/// Whether a client takes plain JSON as a reply.
pub(crate) fn takes_json(headers: &HeaderMap) -> bool {
    if headers.get(header::ACCEPT).is_some_and(|accepted| accepted == MCP_ACCEPT) {
        return true;
    }
    accept_names(headers, "application/json")
        || takes_anything(headers)
        || accept_names(headers, "application/*")
}

/// Whether a client has no wishes about the kind of the reply.
pub(crate) fn takes_anything(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::ACCEPT) || accept_names(headers, "*/*")
}

/// The one value of a header; nothing when it is absent, twice there or no text.
pub(crate) fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether the Accept header names a media type.
pub(crate) fn accept_names(headers: &HeaderMap, kind: &str) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(kind)
    })
}
