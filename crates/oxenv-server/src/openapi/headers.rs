//! The headers of replies that the OpenAPI document describes.
//!
//! Invariant: every header that a handler gives a reply, besides those of HTTP's framing, is one of
//! these.

use serde_json::{Map, Value, json};

/// A header of a reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyHeader {
    name: &'static str,
    description: &'static str,
    /// The JSON Schema type of its value.
    kind: &'static str,
    /// Whether every reply of that status has it.
    required: bool,
}

pub(crate) const SEQ: ReplyHeader = ReplyHeader {
    name: "Oxenv-Seq",
    description: "The number that the request got within its session",
    kind: "integer",
    required: false,
};
pub(crate) const REPEATED: ReplyHeader = ReplyHeader {
    name: "Oxenv-Repeated",
    description: "`true` where this is the reply to an earlier request with the same key",
    kind: "boolean",
    required: false,
};
pub(crate) const RETRY_AFTER: ReplyHeader = ReplyHeader {
    name: "Retry-After",
    description: "Seconds after which a repeat is worth it; absent where none is",
    kind: "integer",
    required: false,
};
pub(crate) const AUTHENTICATE: ReplyHeader = ReplyHeader {
    name: "WWW-Authenticate",
    description: "The scheme to send a token with",
    kind: "string",
    required: true,
};
pub(crate) const ALLOW: ReplyHeader = ReplyHeader {
    name: "Allow",
    description: "The methods that are answered",
    kind: "string",
    required: true,
};
pub(crate) const MCP_SESSION: ReplyHeader = ReplyHeader {
    name: "Mcp-Session-Id",
    description: "The MCP session that an `initialize` has begun",
    kind: "string",
    required: false,
};
pub(crate) const NO_CACHE: ReplyHeader = ReplyHeader {
    name: "Cache-Control",
    description: "`no-cache`, on events",
    kind: "string",
    required: false,
};
pub(crate) const NO_BUFFERING: ReplyHeader = ReplyHeader {
    name: "X-Accel-Buffering",
    description: "`no`, on events: proxies are to pass each on at once",
    kind: "string",
    required: false,
};

impl ReplyHeader {
    /// This header, on a status whose replies all have it.
    pub(crate) const fn required(self) -> Self {
        ReplyHeader { required: true, ..self }
    }
}

/// The headers of one response, as an object of the document.
pub(super) fn object<'a>(headers: impl Iterator<Item = &'a ReplyHeader>) -> Value {
    let described = headers.map(|ReplyHeader { name, description, kind, required }| {
        let header = json!({ "description": description, "required": required, "schema": { "type": kind } });
        ((*name).to_owned(), header)
    });
    Value::Object(described.collect::<Map<_, _>>())
}
