//! Parsing an HTTP/1.1 response in a read buffer, with `httparse`.
//!
//! Invariant: nothing is copied and nothing waits. A response is complete or it is not, and then the caller
//! reads on.

use std::mem::MaybeUninit;
use std::ops::Range;

use anyhow::{Context, anyhow};
use httparse::{ParserConfig, Response, Status, parse_chunk_size};

/// Maximum number of header fields of a response; hyper's is the same.
const MAX_HEADERS: usize = 100;

/// Maximum length of a body or of a chunk, so that sums of positions cannot overflow.
const MAX_LENGTH: usize = usize::MAX / 4;

/// The fields of a response's head that the load generator needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line that ends it.
    pub(crate) length: usize,
    framing: BodyFraming,
    /// Whether the connection can carry another request.
    pub(crate) keep_alive: bool,
    /// Whether the body is a stream of server-sent events.
    pub(crate) event_stream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFraming {
    Length(usize),
    Chunked,
}

/// A complete response and where its body is in the buffer. A chunked body includes the chunk sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: Range<usize>,
}

/// Parses the head at the start of `bytes`; `None` while it is incomplete.
pub(crate) fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<ResponseHead>> {
    with_head(bytes, |length, response| {
        let mut head = ResponseHead {
            status: response.code.unwrap_or_default(),
            length,
            framing: BodyFraming::Length(0),
            keep_alive: response.version == Some(1),
            event_stream: false,
        };
        for header in &*response.headers {
            head.read_header(header.name, header.value.trim_ascii())?;
        }
        Ok(head)
    })
}

/// Parses the response at the start of `bytes`; `None` while it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<HttpResponse>> {
    let Some(head) = parse_head(bytes)? else { return Ok(None) };
    let start = head.length;
    let end = match head.framing {
        BodyFraming::Length(length) => start + length,
        BodyFraming::Chunked => match chunks_end(bytes, start)? {
            Some(end) => end,
            None => return Ok(None),
        },
    };
    Ok((end <= bytes.len()).then_some(HttpResponse { head, body: start..end }))
}

/// The value of a header in the head at the start of `bytes`, if it is there and is UTF-8.
pub(crate) fn header<'a>(bytes: &'a [u8], name: &str) -> anyhow::Result<Option<&'a str>> {
    let value = with_head(bytes, |_, response| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        Ok(header.and_then(|header| std::str::from_utf8(header.value.trim_ascii()).ok()))
    })?;
    Ok(value.flatten())
}

/// The content of a chunked body, without the chunk sizes.
pub(crate) fn decode_chunked(bytes: &[u8], response: &HttpResponse) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut position = response.body.start;
    while let Some(chunk) = chunk_at(bytes, position)?.filter(|chunk| !chunk.is_empty()) {
        content.extend_from_slice(bytes.get(chunk.clone()).context("a chunk is cut short")?);
        position = chunk.end + 2;
    }
    Ok(content)
}

impl HttpResponse {
    pub(crate) fn is_chunked(&self) -> bool {
        self.head.framing == BodyFraming::Chunked
    }
}

impl ResponseHead {
    fn read_header(&mut self, name: &str, value: &[u8]) -> anyhow::Result<()> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let length = length.filter(|length| *length < MAX_LENGTH);
            self.framing = BodyFraming::Length(length.context("the response has an invalid Content-Length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.framing = BodyFraming::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            self.keep_alive = !value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case("content-type") {
            let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
            self.event_stream = media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
        }
        Ok(())
    }
}

/// Parses a head and passes its length and its parts on; `None` while it is incomplete.
fn with_head<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(usize, &Response<'_, 'a>) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
    match parsed.map_err(|error| anyhow!("the response is not HTTP/1: {error}"))? {
        Status::Complete(length) => read(length, &response).map(Some),
        Status::Partial => Ok(None),
    }
}

/// Where a chunked body ends; `None` until the last chunk is there. Trailers are not supported.
fn chunks_end(bytes: &[u8], mut position: usize) -> anyhow::Result<Option<usize>> {
    while let Some(chunk) = chunk_at(bytes, position)? {
        position = chunk.end + 2;
        if chunk.is_empty() {
            return Ok(Some(position));
        }
    }
    Ok(None)
}

/// The data of the chunk whose size line is at `position`; `None` while that line is incomplete.
fn chunk_at(bytes: &[u8], position: usize) -> anyhow::Result<Option<Range<usize>>> {
    let Some(rest) = bytes.get(position..) else { return Ok(None) };
    match parse_chunk_size(rest) {
        Ok(Status::Complete((line, size))) => {
            let size = usize::try_from(size).ok().filter(|size| *size < MAX_LENGTH);
            let start = position + line;
            Ok(Some(start..start + size.context("the response has a chunk that is too long")?))
        }
        Ok(Status::Partial) => Ok(None),
        Err(error) => Err(anyhow!("the response has a broken chunk: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sized_reply_is_read_when_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\n{}HTTP/1.1";
        let end = bytes.len() - 8;
        for cut in 0..end {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "at {cut}");
        }
        let response = parse(bytes).unwrap().unwrap();
        assert_eq!((response.head.status, response.head.keep_alive, response.body.end), (200, true, end));
        assert_eq!(&bytes[response.body.clone()], b"{}");
        assert!(!response.is_chunked());
    }

    #[test]
    fn a_chunked_reply_is_put_together() {
        let bytes = b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                      3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "at {cut}");
        }
        let response = parse(bytes).unwrap().unwrap();
        assert_eq!(
            (response.head.status, response.head.keep_alive, response.body.end),
            (500, false, bytes.len())
        );
        assert_eq!(decode_chunked(bytes, &response).unwrap(), b"abcde");
    }

    #[test]
    fn headers_are_found_by_name() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nMCP-Session-Id: abc \r\ncontent-type: text/event-stream;x\r\n\r\nb: c\r\n";
        let head = parse_head(bytes).unwrap().unwrap();
        assert!(head.event_stream);
        assert_eq!(header(bytes, "mcp-session-id").unwrap(), Some("abc"));
        assert_eq!(header(bytes, "b").unwrap(), None);
    }

    #[test]
    fn a_connection_is_kept_as_the_version_and_the_header_say() {
        for (head, kept) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(parse_head(head.as_bytes()).unwrap().unwrap().keep_alive, kept, "{head:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n").is_err());
        for size in ["x", "ffffffffffffffff", "10000000000000000"] {
            let bytes = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{size}\r\n");
            assert!(parse(bytes.as_bytes()).is_err(), "{size}");
        }
    }
}
