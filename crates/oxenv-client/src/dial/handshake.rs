//! The response to a WebSocket handshake, parsed and judged.
//!
//! Invariant: what is shown of an answer is short, and its control characters are escaped.

use oxenv_wire::ErrorCode;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;

use crate::error::{ClientError, Code, Result};
use crate::server_address::ServerAddress;
use crate::server_error::{self, excerpt};

/// The first byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;

/// The head of a response, and of a refusal its body.
pub(super) struct UpgradeResponse {
    pub(super) status: u16,
    /// Where it ends.
    pub(super) head_length: usize,
    /// The length of what follows, where the server gives it.
    pub(super) body_length: usize,
    response: Response,
    text: String,
}

/// The head, if all of it is there.
pub(super) fn parse_response(target: &ServerAddress, bytes: &[u8]) -> Result<Option<UpgradeResponse>> {
    if bytes.first() == Some(&TLS_ALERT) {
        let message = format!("{target} speaks TLS on that port; use https:// or wss://");
        return Err(ClientError::new(Code::TlsFailed, message));
    }
    match Response::try_parse(bytes) {
        Ok(None) => Ok(None),
        Ok(Some((length, response))) => {
            let body = response.headers().get("content-length");
            let body = body.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
            let status = response.status().as_u16();
            Ok(Some(UpgradeResponse {
                status,
                head_length: length,
                body_length: body,
                response,
                text: String::new(),
            }))
        }
        Err(_) => Err(not_a_server(target, "it does not answer in HTTP/1.1", bytes)),
    }
}

pub(super) fn not_a_server(target: &ServerAddress, why: &str, bytes: &[u8]) -> ClientError {
    let message = format!("{target} is no environment server: {why}: {}", excerpt(bytes));
    ClientError::new(Code::NotAServer, message)
}

/// The server ended the connection instead of answering.
pub(super) fn no_response(target: &ServerAddress) -> ClientError {
    let message = format!("{target} hung up without an answer; check the scheme and the port");
    ClientError::new(Code::ConnectionLost, message).with_retry(true, None)
}

impl UpgradeResponse {
    /// Keeps what follows the head, to explain a refusal.
    pub(super) fn take_body(&mut self, bytes: &[u8]) {
        self.text = String::from_utf8_lossy(bytes.get(self.head_length..).unwrap_or_default()).into_owned();
    }

    /// The subprotocol that was selected, if this is the answer to the handshake with that key.
    pub(super) fn check_accepted(
        &self,
        target: &ServerAddress,
        key: &str,
        offered: Option<&str>,
    ) -> Result<Option<String>> {
        if self.status != 101 {
            return Err(self.refusal_error(target));
        }
        let is = |name: &str, wanted: &str| {
            self.header(name)
                .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted)))
        };
        if !is("upgrade", "websocket") || !is("connection", "upgrade") {
            return Err(not_a_server(target, "it switches to another protocol than WebSocket", b""));
        }
        if self.header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(not_a_server(target, "it answers another handshake than ours", b""));
        }
        let selected = self.header("sec-websocket-protocol");
        if selected.is_some() && selected != offered {
            let message = format!(
                "{target} selects the subprotocol {}, which was not offered",
                excerpt(selected.unwrap_or_default().as_bytes())
            );
            return Err(ClientError::new(Code::VersionMismatch, message));
        }
        Ok(selected.map(str::to_owned))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    fn refusal_error(&self, target: &ServerAddress) -> ClientError {
        let retry_after = self.header("retry-after").and_then(|value| value.parse().ok());
        if let Some(error) = server_error::from_oxenv_body(&self.text, retry_after) {
            return error;
        }
        let (status, said) = (self.status, excerpt(self.text.as_bytes()));
        let nowhere = matches!(status, 404 | 405) || self.text.contains("Not Found");
        let (code, message) = match status {
            // Servers refuse a WebSocket at an unknown path with 403, too.
            _ if nowhere => (
                Code::NotAServer,
                format!(
                    "{target} has no WebSocket at /ws below that address (status {status}); give the \
                     server's own URL: {said}"
                ),
            ),
            401 => (
                Code::Server(ErrorCode::Unauthorized),
                format!("{target} wants a token, or another one (status 401): {said}"),
            ),
            403 => (
                Code::Server(ErrorCode::Forbidden),
                format!("{target} refuses the WebSocket (status 403): {said}; check the token and the path"),
            ),
            426 | 505 => (
                Code::VersionMismatch,
                format!("{target} speaks another version of WebSocket (status {status}): {said}"),
            ),
            300..=399 => (
                Code::NotAServer,
                format!(
                    "{target} redirects to {}; use that address",
                    excerpt(self.header("location").unwrap_or_default().as_bytes())
                ),
            ),
            _ => (
                Code::NotAServer,
                format!("{target} answers the WebSocket's handshake with status {status}: {said}"),
            ),
        };
        ClientError::new(code, message)
    }
}
