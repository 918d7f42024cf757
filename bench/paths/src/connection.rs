//! The client's end of a connection through memory: whole HTTP requests and WebSocket frames, made
//! beforehand.

use std::sync::Arc;

use oxenv_server::{App, serve_connection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Bytes that either side may be ahead of the other. Larger than any reply here.
const PIPE_BYTES: usize = 1 << 20;

/// A connection to a server in this process.
pub(crate) struct Connection {
    stream: DuplexStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(app: &Arc<App>) -> Self {
        let (stream, server_end) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(serve_connection(Arc::clone(app), server_end));
        Connection { stream, received: Vec::with_capacity(PIPE_BYTES) }
    }

    /// Sends a request and gives head and body of its response.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Response<'_> {
        self.send(request).await;
        let head_end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
            self.receive().await;
        };
        let head = std::str::from_utf8(&self.received[..head_end]).expect("a head of ASCII");
        let length = header(head, "content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.received.len() < head_end + length {
            self.receive().await;
        }
        Response { bytes: &self.received, head_end }
    }

    /// Sends a text frame and gives the text of the next one.
    pub(crate) async fn frame(&mut self, frame: &[u8]) -> &str {
        self.send(frame).await;
        loop {
            if let Some((start, end)) = text_frame(&self.received) {
                return std::str::from_utf8(&self.received[start..end]).expect("text");
            }
            self.receive().await;
        }
    }

    /// Makes the connection a WebSocket.
    pub(crate) async fn upgrade(&mut self, protocol: Option<&str>) {
        let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{protocol}\r\n"
        );
        let response = self.exchange(request.as_bytes()).await;
        assert!(response.head().starts_with("HTTP/1.1 101"), "{}", response.head());
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.received.clear();
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    async fn receive(&mut self) {
        let read = self.stream.read_buf(&mut self.received).await.expect("the server writes");
        assert!(read > 0, "the server ended the connection");
    }
}

/// A response as it came.
pub(crate) struct Response<'a> {
    bytes: &'a [u8],
    head_end: usize,
}

impl<'a> Response<'a> {
    pub(crate) fn head(&self) -> &'a str {
        std::str::from_utf8(&self.bytes[..self.head_end]).expect("a head of ASCII")
    }

    pub(crate) fn body(&self) -> &'a str {
        std::str::from_utf8(&self.bytes[self.head_end..]).expect("a body of text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head(), name)
    }
}

/// The bytes of a POST request; `headers` are whole lines.
pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    request("POST", path, headers, body)
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The bytes of a masked text frame, as clients send them. The mask is all zeros, so the text shows.
pub(crate) fn text(message: &str) -> Vec<u8> {
    let length = message.len();
    let mut frame = vec![0x81];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(0x80 | short),
        (_, Ok(medium)) => {
            frame.push(0x80 | 126);
            frame.extend(medium.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(message.as_bytes());
    frame
}

/// Where the text of the first frame begins and ends, once it is whole.
fn text_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let [first, short, rest @ ..] = bytes else { return None };
    assert_eq!(*first, 0x81, "one whole text frame");
    let (length, start) = match short {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 10),
        short => (usize::from(*short), 2),
    };
    (bytes.len() >= start + length).then_some((start, start + length))
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(':')).find_map(|(key, value)| {
        let found = key.eq_ignore_ascii_case(name);
        found.then(|| value.trim())
    })
}
