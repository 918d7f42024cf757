//! The stdio transport: one JSON-RPC message per line, over any pair of pipes.
//!
//! rmcp's own would read each result into types and write it again, drop a line that is too long so that its
//! request never ends, and answer garbage with errors. This one hands results on as they are, as text
//! within a [`CustomResult`], ends a connection that cannot be read, and skips what is no message.
//!
//! Invariant: the result of a request of ours keeps its bytes; parameters of ours are written as they are.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rmcp::RoleClient;
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, CustomRequest, CustomResult, ErrorCode, ErrorData, GetMeta,
    NumberOrString, PingRequest, RequestId, RequestMetaObject, ServerJsonRpcMessage, ServerRequest,
    ServerResult,
};
use rmcp::transport::Transport;
use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::questions::{MAX_REQUEST_BYTES, QUESTION_METHODS, TooLong};
use super::state::{ConnectionState, Outgoing, number};
use oxenv_process::secret::Redactor;

/// The longest line that is read.
pub(crate) const MAX_LINE_BYTES: usize = 100 << 20;
/// Messages that may come in one line.
const MAX_BATCH: usize = 10_000;
/// Bytes that may wait for a server that does not read; a single message may be longer.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Messages that may wait for writing.
const MAX_QUEUED: usize = 16_384;
/// A buffer that grew beyond this is given back after its line.
const MAX_KEPT_BUFFER: usize = 1 << 20;
/// How much of what is no message is shown.
const PREVIEW_BYTES: usize = 200;

/// A transport of lines.
pub(crate) struct LineTransport<R, W> {
    read: BufReader<R>,
    line: Vec<u8>,
    /// Messages that came in one line with others.
    batch: VecDeque<ServerJsonRpcMessage>,
    longest: usize,
    garbage: SkippedLines,
    pipe: Arc<LineWriter<W>>,
    traffic: Arc<ConnectionState>,
}

/// The lines that are no messages.
struct SkippedLines {
    label: String,
    redactor: Redactor,
    /// Whether one was logged.
    logged: bool,
}

/// The channel to the server. Lines are queued in the order of their sending; the task that writes
/// takes all.
struct LineWriter<W> {
    queue: Mutex<LineQueue>,
    write: tokio::sync::Mutex<Option<W>>,
}

/// Lines that are not being written yet.
#[derive(Default)]
struct LineQueue {
    lines: Vec<u8>,
    count: usize,
}

/// A message as far as its kind.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Value>,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send + 'static> LineTransport<R, W> {
    /// A transport that reads lines from one pipe and writes them to another. The label is for logs.
    pub(crate) fn new(
        read: R,
        write: W,
        label: &str,
        redactor: Redactor,
        traffic: Arc<ConnectionState>,
    ) -> Self {
        LineTransport {
            read: BufReader::with_capacity(64 << 10, read),
            line: Vec::new(),
            batch: VecDeque::new(),
            longest: MAX_LINE_BYTES,
            garbage: SkippedLines { label: label.to_owned(), redactor, logged: false },
            pipe: Arc::new(LineWriter {
                queue: Mutex::default(),
                write: tokio::sync::Mutex::new(Some(write)),
            }),
            traffic,
        }
    }

    /// Reads up to the end of a line into `line`, unless the connection ends. A dropped future loses nothing.
    async fn read_line(&mut self) -> Option<()> {
        loop {
            let available = match self.read.fill_buf().await {
                Ok(available) => available,
                Err(error) => {
                    self.traffic.lost(format!("cannot be read: {error}"));
                    return None;
                }
            };
            if available.is_empty() {
                self.traffic.lost("closed its output");
                return None;
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            if self.line.len() + taken > self.longest {
                self.traffic.close(format!("sent a line of more than {} MiB", self.longest >> 20));
                return None;
            }
            self.line.extend_from_slice(&available[..taken]);
            self.read.consume(taken);
            if end.is_some() {
                return Some(());
            }
        }
    }

    /// Reads a line; what it holds for rmcp goes into `batch`.
    fn read_messages(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        // A bad character within a text is no reason to leave a request without its answer.
        let line = String::from_utf8_lossy(line);
        if !line.starts_with('[') {
            return self.take(&line);
        }
        // The revision of March 2025 has batches.
        match serde_json::from_str::<Batch<'_>>(&line) {
            Ok(Batch(texts)) => texts.iter().for_each(|text| self.take(text.get())),
            Err(_) => self.garbage.report_skipped(&line),
        }
    }

    fn take(&mut self, text: &str) {
        match self.traffic.read(text) {
            Some(message) => self.batch.extend(self.traffic.incoming(message)),
            None => self.garbage.report_skipped(text),
        }
    }
}

impl<R, W> Transport<RoleClient> for LineTransport<R, W>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        mut message: ClientJsonRpcMessage,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.traffic.outgoing(&mut message);
        // Queued here, not in the future, so that a cancellation cannot overtake its request.
        let queued = self.pipe.push(&message);
        let (pipe, traffic) = (self.pipe.clone(), self.traffic.clone());
        async move {
            let written = match queued {
                Ok(()) => pipe.flush().await,
                Err(error) => Err(error),
            };
            // Nothing can be sent to it any more, and a part of a message may have been written.
            written.inspect_err(|error| traffic.lost(format!("cannot be written to: {error}")))
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            if let Some(message) = self.batch.pop_front() {
                return Some(message);
            }
            self.read_line().await?;
            let mut line = std::mem::take(&mut self.line);
            self.read_messages(&line);
            if line.capacity() <= MAX_KEPT_BUFFER {
                line.clear();
                self.line = line;
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.pipe.write.lock().await.take();
        Ok(())
    }
}

impl<W: AsyncWrite + Unpin> LineWriter<W> {
    fn push(&self, message: &ClientJsonRpcMessage) -> io::Result<()> {
        let mut queue = self.queue.lock();
        if queue.lines.len() > MAX_QUEUED_BYTES || queue.count >= MAX_QUEUED {
            return Err(io::Error::other("it does not read its input"));
        }
        let start = queue.lines.len();
        if let Err(error) = write_message(&mut queue.lines, message) {
            queue.lines.truncate(start);
            return Err(error.into());
        }
        queue.lines.push(b'\n');
        queue.count += 1;
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        let mut write = self.write.lock().await;
        let queued = std::mem::take(&mut *self.queue.lock()).lines;
        if queued.is_empty() {
            // The previous writer of the pipe took this line too.
            return Ok(());
        }
        let write = write.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        write.write_all(&queued).await?;
        write.flush().await
    }
}

impl SkippedLines {
    /// Reports a line that is not a message; once for each server, as it may print many.
    fn report_skipped(&mut self, line: &str) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        // Cut only after it was redacted, or a part of a secret might stay.
        let start: String = line.chars().take(16 * PREVIEW_BYTES).collect();
        let shown: String = self.redactor.redact(&start).chars().take(PREVIEW_BYTES).collect();
        tracing::warn!(
            toolset = %self.label,
            "its server prints to stdout what is no message that can be read, which is skipped: {shown}"
        );
    }
}

impl ConnectionState {
    /// Reads one message; `None` if it is not one.
    fn read(&self, text: &str) -> Option<ServerJsonRpcMessage> {
        // A type of named fields can be read from a list as well.
        let envelope: Envelope<'_> = serde_json::from_str(text).ok().filter(|_| text.starts_with('{'))?;
        let id = envelope.id.and_then(|id| serde_json::from_str::<RequestId>(id.get()).ok());
        match (envelope.method, id) {
            (Some(method), Some(id)) => {
                let request = if text.len() > MAX_REQUEST_BYTES {
                    too_long(method)
                } else {
                    request(method, envelope.params)
                };
                Some(ServerJsonRpcMessage::request(request, id))
            }
            (Some(_), None) if text.len() > MAX_REQUEST_BYTES => None,
            (Some(_), None) => serde_json::from_str(text).ok(),
            (None, id) => {
                let number = match id {
                    Some(id) => number(&id)?,
                    // An error without a number can only be about what waits.
                    None => self.only_one().filter(|_| envelope.error.is_some())?,
                };
                if !self.awaits(number) {
                    return serde_json::from_str(text).ok();
                }
                let id = NumberOrString::Number(number);
                Some(match (envelope.result, envelope.error) {
                    (Some(result), None) => textual(result, id),
                    (_, error) => ServerJsonRpcMessage::error(error_data(error), Some(id)),
                })
            }
        }
    }
}

/// Reads the answer to a request over HTTP, whatever number it has; `None` if it is not an answer.
pub(super) fn answer(text: &str, id: RequestId) -> Option<ServerJsonRpcMessage> {
    let text = text.trim_ascii();
    let envelope: Envelope<'_> = serde_json::from_str(text).ok().filter(|_| text.starts_with('{'))?;
    match (envelope.method, envelope.result, envelope.error) {
        (None, Some(result), None) => Some(textual(result, id)),
        (None, _, Some(error)) => Some(ServerJsonRpcMessage::error(error_data(Some(error)), Some(id))),
        _ => None,
    }
}

/// Whether a message is a request or a notification that is longer than [`MAX_REQUEST_BYTES`].
pub(super) fn is_too_long(text: &str) -> bool {
    text.len() > MAX_REQUEST_BYTES
        && serde_json::from_str::<Envelope<'_>>(text).map_or(true, |envelope| envelope.method.is_some())
}

/// The number and the result of an answer that has one.
pub(super) fn result(text: &str) -> Option<(RequestId, &RawValue)> {
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    let id = serde_json::from_str(envelope.id?.get()).ok()?;
    envelope
        .result
        .filter(|_| envelope.method.is_none() && envelope.error.is_none())
        .map(|result| (id, result))
}

/// A result as its text.
fn textual(result: &RawValue, id: RequestId) -> ServerJsonRpcMessage {
    let text = Value::String(result.get().to_owned());
    ServerJsonRpcMessage::response(ServerResult::CustomResult(CustomResult(text)), id)
}

fn request(method: String, parameters: Option<&RawValue>) -> ServerRequest {
    if method == "ping" {
        return ServerRequest::PingRequest(PingRequest::default());
    }
    // The parameters of an unknown method are not needed.
    let parameters = parameters.filter(|_| QUESTION_METHODS.contains(&method.as_str()));
    let parameters = parameters.and_then(|parameters| serde_json::from_str(parameters.get()).ok());
    ServerRequest::CustomRequest(CustomRequest::new(method, parameters))
}

fn too_long(method: String) -> ServerRequest {
    let mut request = CustomRequest::new(method, None);
    request.extensions.insert(TooLong);
    ServerRequest::CustomRequest(request)
}

fn error_data(error: Option<Value>) -> ErrorData {
    let error = error.unwrap_or_else(|| Value::from("it answered with neither a result nor an error"));
    let code = error["code"].as_i64().and_then(|code| i32::try_from(code).ok());
    let message = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
    let data = error.get("data").cloned();
    ErrorData::new(code.map_or(ErrorCode::INTERNAL_ERROR, ErrorCode), message, data)
}

/// Writes a message, with the parameters of a request of ours as they are.
pub(super) fn write_message(out: &mut Vec<u8>, message: &ClientJsonRpcMessage) -> serde_json::Result<()> {
    if let ClientJsonRpcMessage::Request(request) = message
        && let ClientRequest::CustomRequest(custom) = &request.request
        && let Some(outgoing) = custom.extensions.get::<Arc<Outgoing>>()
        && let Some(parameters) = &outgoing.parameters
    {
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        serde_json::to_writer(&mut *out, &request.id)?;
        out.extend_from_slice(b",\"method\":");
        serde_json::to_writer(&mut *out, &custom.method)?;
        out.extend_from_slice(b",\"params\":{");
        let fields = parameters.get().trim_ascii();
        let fields = &fields[1..fields.len() - 1];
        if custom.extensions.get::<RequestMetaObject>().is_some() {
            out.extend_from_slice(b"\"_meta\":");
            serde_json::to_writer(&mut *out, custom.get_meta())?;
            if !fields.trim_ascii().is_empty() {
                out.push(b',');
            }
        }
        let start = out.len();
        out.extend_from_slice(fields.as_bytes());
        // A line break can only stand between tokens, where a space does as well.
        out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        out.extend_from_slice(b"}}");
        return Ok(());
    }
    serde_json::to_writer(out, message)
}

/// The messages of a batch: [`MAX_BATCH`] at most, else it cannot be read.
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Messages;

        impl<'de> Visitor<'de> for Messages {
            type Value = Batch<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {MAX_BATCH} messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut messages: A) -> Result<Self::Value, A::Error> {
                let mut batch = Vec::new();
                while let Some(message) = messages.next_element()? {
                    if batch.len() == MAX_BATCH {
                        return Err(serde::de::Error::invalid_length(batch.len() + 1, &self));
                    }
                    batch.push(message);
                }
                Ok(Batch(batch))
            }
        }

        deserializer.deserialize_seq(Messages)
    }
}

/// Reads a value that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::state::Listener;
    use rmcp::model::{CancelledNotification, CancelledNotificationParam};
    use serde_json::json;
    use tokio::io::DuplexStream;

    type Pair = (LineTransport<DuplexStream, DuplexStream>, DuplexStream, BufReader<DuplexStream>);

    /// A transport with the server's ends of its pipes.
    fn pair() -> Pair {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (to_server, from_client) = tokio::io::duplex(1 << 16);
        let lines = LineTransport::new(ours, to_server, "test", Redactor::default(), Arc::default());
        (lines, theirs, BufReader::new(from_client))
    }

    fn request(id: i64, parameters: &str) -> ClientJsonRpcMessage {
        let mut request = CustomRequest::new("tools/call", None);
        let parameters = RawValue::from_string(parameters.to_owned()).ok();
        request.extensions.insert(Arc::new(Outgoing { parameters, listener: Listener::Deaf }));
        ClientJsonRpcMessage::request(ClientRequest::CustomRequest(request), NumberOrString::Number(id))
    }

    async fn sent(reader: &mut BufReader<DuplexStream>) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The result of a line that the server writes while request 7 waits.
    async fn received(line: &[u8]) -> Vec<ServerJsonRpcMessage> {
        let (mut lines, mut server, _reader) = pair();
        lines.send(request(7, "{}")).await.unwrap();
        server.write_all(line).await.unwrap();
        drop(server);
        let mut messages = Vec::new();
        while let Some(message) = lines.receive().await {
            messages.push(message);
        }
        messages
    }

    #[tokio::test]
    async fn parameters_are_written_as_they_are_and_in_order() {
        let (mut lines, _server, mut reader) = pair();
        let first = lines.send(request(1, "{ \"a\":\n1e400 }"));
        let cancelled = CancelledNotification::new(CancelledNotificationParam::new(
            Some(NumberOrString::Number(1)),
            None,
        ));
        let second = lines.send(ClientJsonRpcMessage::notification(cancelled.into()));
        // Whichever is polled first, the request goes first.
        second.await.unwrap();
        first.await.unwrap();
        let expected = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{ "a": 1e400 }}"#;
        assert_eq!(sent(&mut reader).await, expected);
        assert!(sent(&mut reader).await.contains("notifications/cancelled"));
        assert!(!lines.traffic.awaits(1));
    }

    #[tokio::test]
    async fn metadata_joins_the_parameters() {
        let (mut lines, _server, mut reader) = pair();
        for (parameters, expected) in
            [("{}", r#"{"_meta":{"k":1}}"#), (r#"{"a":1}"#, r#"{"_meta":{"k":1},"a":1}"#)]
        {
            let mut message = request(1, parameters);
            let ClientJsonRpcMessage::Request(inner) = &mut message else { unreachable!() };
            inner.request.get_meta_mut().0.0.insert("k".into(), json!(1));
            lines.send(message).await.unwrap();
            let line = sent(&mut reader).await;
            assert!(line.ends_with(&format!("\"params\":{expected}}}")), "{line}");
        }
    }

    #[tokio::test]
    async fn results_keep_their_bytes() {
        for id in ["7", "\"7\""] {
            let line = format!("  {{\"result\": {{\"a\" : 1.50}}, \"id\":{id}, \"jsonrpc\":\"2.0\"}} \r\n");
            let messages = received(line.as_bytes()).await;
            let [ServerJsonRpcMessage::Response(response)] = &messages[..] else { panic!("{messages:?}") };
            let ServerResult::CustomResult(CustomResult(text)) = &response.result else {
                panic!("{response:?}")
            };
            assert_eq!(text, r#"{"a" : 1.50}"#);
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_fails_the_request_that_it_names() {
        for (line, expected) in [
            (r#"{"id":7}"#, "neither a result nor an error"),
            (r#"{"id":7,"error":"bad"}"#, "bad"),
            (r#"{"id":null,"error":{"code":-32700,"message":"cannot read that"}}"#, "cannot read that"),
            (r#"{"id":7,"result":{},"error":{"code":1,"message":"both"}}"#, "both"),
        ] {
            let messages = received(format!("{line}\n").as_bytes()).await;
            let [ServerJsonRpcMessage::Error(error)] = &messages[..] else { panic!("{messages:?}") };
            assert_eq!(error.id, Some(NumberOrString::Number(7)));
            assert!(error.error.message.contains(expected), "{}", error.error.message);
        }
    }

    #[tokio::test]
    async fn garbage_is_skipped_and_batches_are_taken_apart() {
        let lines: &[u8] = b"hello\n\n5\n\"x\"\n[1,\n[]\n{\"id\":9,\"result\":{}}\n\xff\xfe\n\
            [{\"id\":7,\"result\":{}},{\"method\":\"ping\",\"id\":\"p\"},3]\n";
        let messages = received(lines).await;
        let kinds: Vec<bool> =
            messages.iter().map(|one| matches!(one, ServerJsonRpcMessage::Response(_))).collect();
        assert_eq!(kinds, [true, false], "{messages:?}");
        let text = received(b"{\"id\":7,\"result\":{\"a\":\"\xff\"}}\n").await;
        assert!(matches!(&text[..], [ServerJsonRpcMessage::Response(_)]), "{text:?}");
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_ends_the_connection() {
        let (mut lines, mut server, _reader) = pair();
        lines.longest = 1 << 20;
        let writing = tokio::spawn(async move { server.write_all(&vec![b'x'; 2 << 20]).await });
        assert!(lines.receive().await.is_none());
        assert_eq!(lines.traffic.end().reason, "sent a line of more than 1 MiB");
        drop(lines);
        assert!(writing.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_reading_that_is_dropped_loses_nothing() {
        let (mut lines, mut server, _reader) = pair();
        lines.send(request(7, "{}")).await.unwrap();
        for part in ["{\"id\":7,", "\"result\"", ":{}}\n"] {
            server.write_all(part.as_bytes()).await.unwrap();
            tokio::select! {
                biased;
                message = lines.receive() => assert!(message.is_some() && part.ends_with('\n')),
                () = tokio::task::yield_now() => assert!(!part.ends_with('\n')),
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_is_gone_ends_the_connection() {
        let (mut lines, server, reader) = pair();
        drop(reader);
        assert!(lines.send(request(1, "{}")).await.is_err());
        assert!(lines.traffic.end().by_server);
        drop(server);
        assert!(lines.receive().await.is_none());
    }
}
