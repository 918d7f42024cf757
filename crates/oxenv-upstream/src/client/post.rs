//! Requests of ours over HTTP: their parameters and their results stay the text that they are.
//!
//! rmcp's own client would read each result into types and write it again. This one leaves to it only what it
//! greets a server with, and the streams.
//!
//! Invariant: a request is posted once, and its answer keeps its bytes, as JSON and as events.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, CustomRequest, JsonRpcMessage, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, HttpStatusError, InsufficientScopeError, SseError, StreamableHttpError,
    StreamableHttpPostResponse,
};
use sse_stream::{Sse, SseStream};

use super::state::{ConnectionState, Listener, Outgoing, number};
use super::stdio::{self, MAX_LINE_BYTES};

/// How much of the body of a refusal is read.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// How much of what is no message is shown.
const PREVIEW_BYTES: usize = 200;
/// The header that names a session.
const SESSION_HEADER: &str = "mcp-session-id";
/// The type of a stream of events.
const EVENT_STREAM: &str = "text/event-stream";
/// The type of a message.
const JSON: &str = "application/json";

pub(super) type Fault = StreamableHttpError<reqwest::Error>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

/// A request that can be posted.
pub(super) struct Post<'a> {
    pub(super) url: &'a str,
    pub(super) message: &'a ClientJsonRpcMessage,
    pub(super) id: RequestId,
    pub(super) session: Option<Arc<str>>,
    pub(super) headers: HashMap<HeaderName, HeaderValue>,
}

/// The number of a request whose answer must stay text.
pub(super) fn textual(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    let ClientJsonRpcMessage::Request(request) = message else { return None };
    let ClientRequest::CustomRequest(CustomRequest { extensions, .. }) = &request.request else {
        return None;
    };
    let outgoing = extensions.get::<Arc<Outgoing>>()?;
    let textual = outgoing.parameters.is_some() || !matches!(outgoing.listener, Listener::Ours);
    textual.then(|| request.id.clone())
}

/// Posts a request and takes what answers it, as far as the beginning of its events.
///
/// # Errors
/// As rmcp's client has them.
pub(super) async fn post(
    client: &reqwest::Client,
    post: Post<'_>,
    traffic: &Arc<ConnectionState>,
) -> Result<StreamableHttpPostResponse, Fault> {
    let (in_session, id) = (post.session.is_some(), post.id.clone());
    let response = post.request(client)?.send().await?;
    let status = response.status();
    if matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
        return Ok(StreamableHttpPostResponse::Accepted);
    }
    if status == StatusCode::NOT_FOUND && in_session {
        return Err(StreamableHttpError::SessionExpired);
    }
    let session = header(&response, SESSION_HEADER);
    let kind = header(&response, CONTENT_TYPE.as_str());
    let is = |wanted: &str| kind.as_deref().is_some_and(|kind| kind.starts_with(wanted));
    if !status.is_success() {
        let answer = refusal(response, is(JSON), id).await?;
        return Ok(StreamableHttpPostResponse::Json(answer, session));
    }
    if is(EVENT_STREAM) {
        let events = as_text(events(response), traffic.clone());
        return Ok(StreamableHttpPostResponse::Sse(events, session));
    }
    if !is(JSON) {
        return Err(StreamableHttpError::UnexpectedContentType(kind));
    }
    let body = read(response, MAX_LINE_BYTES).await?;
    let body = String::from_utf8_lossy(&body);
    let answer = stdio::answer(&body, id).ok_or_else(|| no_message(&body))?;
    Ok(StreamableHttpPostResponse::Json(answer, session))
}

impl Post<'_> {
    fn request(self, client: &reqwest::Client) -> Result<RequestBuilder, Fault> {
        let mut body = Vec::new();
        stdio::write_message(&mut body, self.message)?;
        let request = client.post(self.url).header(ACCEPT, "text/event-stream, application/json");
        let mut request = request.header(CONTENT_TYPE, JSON).body(body);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        Ok(match self.session {
            Some(session) => request.header(SESSION_HEADER, &*session),
            None => request,
        })
    }
}

/// Events in which the answers to requests of ours are text, as rmcp hands it on. Requests and notifications
/// that are too long to be read into values are left out.
pub(super) fn as_text(events: Events, traffic: Arc<ConnectionState>) -> Events {
    let change = move |event: Result<Sse, SseError>| {
        event.map(|mut event| {
            let changed = event.data.as_deref().and_then(|data| quoted(data, &traffic));
            if changed.is_some() {
                event.data = changed;
            } else if event.data.as_deref().is_some_and(stdio::is_too_long) {
                event.data = None;
            }
            event
        })
    };
    events.map(change).boxed()
}

/// Events whose end, in order or not, is reported to the state of the connection.
pub(super) fn report_end(events: Events, traffic: Arc<ConnectionState>) -> Events {
    let at_end = traffic.clone();
    let end = stream::poll_fn(move |_| {
        at_end.news_ended();
        Poll::Ready(None)
    });
    let broken = move |event: &Result<Sse, SseError>| {
        if event.is_err() {
            traffic.news_ended();
        }
    };
    events.inspect(broken).chain(end).boxed()
}

/// A message with its result as text; `None` if it has no result, or is for rmcp.
fn quoted(data: &str, traffic: &ConnectionState) -> Option<String> {
    let (id, result) = stdio::result(data)?;
    let id = number(&id).filter(|id| traffic.awaits_text(*id))?;
    let result = serde_json::to_string(result.get()).ok()?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

/// The content of a status other than success: a JSON-RPC error, or nothing but the status.
async fn refusal(response: Response, is_json: bool, id: RequestId) -> Result<ServerJsonRpcMessage, Fault> {
    let status = response.status();
    let challenge = header(&response, WWW_AUTHENTICATE.as_str());
    match (status, challenge) {
        (StatusCode::UNAUTHORIZED, Some(challenge)) => {
            return Err(StreamableHttpError::AuthRequired(AuthRequiredError::new(challenge)));
        }
        (StatusCode::FORBIDDEN, Some(challenge)) => {
            return Err(StreamableHttpError::InsufficientScope(InsufficientScopeError::new(challenge, None)));
        }
        _ => {}
    }
    let retry_after = header(&response, RETRY_AFTER.as_str());
    let is_known_by_status =
        status == StatusCode::TOO_MANY_REQUESTS || (status.is_server_error() && !is_json);
    let refuses = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let body = if is_known_by_status { Vec::new() } else { read(response, MAX_REFUSAL_BYTES).await? };
    let body = String::from_utf8_lossy(&body);
    if is_json
        && !refuses
        && !is_known_by_status
        && let Some(answer @ JsonRpcMessage::Error(_)) = stdio::answer(&body, id)
    {
        return Ok(answer);
    }
    if is_known_by_status || status.is_server_error() {
        return Err(HttpStatusError::new(status.as_u16(), retry_after).into());
    }
    let says = format!("HTTP {status}: {}", beginning(&body));
    Err(StreamableHttpError::UnexpectedServerResponse(Cow::Owned(says)))
}

fn no_message(body: &str) -> Fault {
    let says = format!("its answer is no JSON-RPC message: {}", beginning(body));
    StreamableHttpError::UnexpectedServerResponse(Cow::Owned(says))
}

fn beginning(body: &str) -> String {
    body.chars().take(PREVIEW_BYTES).collect()
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Reads a body of limited size.
async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, Fault> {
    let too_large = || StreamableHttpError::ResponseBodyTooLarge { max_size: most };
    let length = response.content_length();
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    if length.is_some() {
        return Ok(response.bytes().await?.into());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > most - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The events of a body, none of which may be much longer than [`MAX_LINE_BYTES`].
fn events(response: Response) -> Events {
    let mut length = EventLength::default();
    let chunks = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(io::Error::other)?;
        if length.after(&chunk, MAX_LINE_BYTES) {
            return Ok(chunk);
        }
        Err(io::Error::other(format!("it sent an event of more than {} MiB", MAX_LINE_BYTES >> 20)))
    });
    SseStream::from_bytes_stream(chunks).boxed()
}

/// How long the event is that is being read. Most servers end a chunk with an event, so that no byte need be
/// looked at until a chunk goes too far.
#[derive(Default)]
struct EventLength {
    bytes: usize,
    is_exact: bool,
    /// Whether the last line was ended and nothing came since.
    at_line_start: bool,
    after_return: bool,
}

impl EventLength {
    /// Whether the event is no longer than that after another chunk.
    fn after(&mut self, chunk: &[u8], most: usize) -> bool {
        if !self.is_exact {
            let ends = [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"].iter().any(|end| chunk.ends_with(end));
            self.bytes = if ends { 0 } else { self.bytes + chunk.len() };
            if self.bytes > most {
                *self = EventLength { is_exact: true, ..EventLength::default() };
            }
            return true;
        }
        for byte in chunk {
            self.bytes += 1;
            let ends_line = *byte == b'\r' || (*byte == b'\n' && !self.after_return);
            if ends_line && self.at_line_start {
                self.bytes = 0;
            }
            self.at_line_start = ends_line || (*byte == b'\n' && self.at_line_start);
            self.after_return = *byte == b'\r';
        }
        self.bytes <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_an_end_is_found_however_it_is_cut() {
        for event in ["data: 123\n\n", "data: 123\r\n\r\n", "data: 123\r\r"] {
            for size in 1..12 {
                let mut length = EventLength::default();
                let stream = event.repeat(1000);
                assert!(
                    stream.as_bytes().chunks(size).all(|chunk| length.after(chunk, 40)),
                    "{event:?} {size}"
                );
                let endless = "data: 1\n".repeat(100);
                assert!(
                    !endless.as_bytes().chunks(size).all(|chunk| length.after(chunk, 40)),
                    "{event:?} {size}"
                );
            }
        }
    }
}
