//! Reading an HTTP/1.1 reply out of a buffer.
//!
//! The invariant: nothing is copied and nothing waits; a reply is whole or it is not, and the caller reads on.

use std::ops::Range;

use anyhow::{Context, bail};

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// How many bytes it has, with the empty line at its end.
    pub(crate) length: usize,
    body: BodyFraming,
    /// Whether another request may follow on the connection.
    pub(crate) keep_alive: bool,
    /// Whether the body is a stream of events.
    pub(crate) events: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFraming {
    Sized(usize),
    Chunked,
}

/// A whole reply: where its body lies, and where the next reply begins.
///
/// A chunked body keeps the chunk sizes inside that range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: Range<usize>,
    pub(crate) end: usize,
}

/// Reads the head at the front of `bytes`; `None` until all of it is there.
pub(crate) fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<ResponseHead>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next().and_then(status).context("the reply is not HTTP/1")?;
    let mut head = ResponseHead {
        status,
        length: end + 4,
        body: BodyFraming::Sized(0),
        keep_alive: true,
        events: false,
    };
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let length = length.filter(|length| *length < usize::MAX / 4);
            head.body =
                BodyFraming::Sized(length.context("the reply has a content-length that is no number")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            head.body = BodyFraming::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") {
            head.keep_alive = !value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"content-type") {
            let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
            head.events = kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
        }
    }
    Ok(Some(head))
}

/// Reads the reply at the front of `bytes`; `None` until all of it is there.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<HttpResponse>> {
    let Some(head) = parse_head(bytes)? else { return Ok(None) };
    let begin = head.length;
    let end = match head.body {
        BodyFraming::Sized(length) => begin + length,
        BodyFraming::Chunked => match chunks_end(bytes, begin)? {
            Some(end) => end,
            None => return Ok(None),
        },
    };
    Ok((end <= bytes.len()).then_some(HttpResponse { head, body: begin..end, end }))
}

/// The value of a header in the head at the front of `bytes`.
pub(crate) fn header<'a>(bytes: &'a [u8], head: &ResponseHead, name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(bytes.get(..head.length)?).ok()?;
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The body without chunk sizes.
pub(crate) fn decode_chunked(bytes: &[u8], reply: &HttpResponse) -> anyhow::Result<Vec<u8>> {
    if reply.is_plain() {
        return Ok(bytes[reply.body.clone()].to_vec());
    }
    let mut whole = Vec::new();
    let mut at = reply.body.start;
    while let Some(chunk) = chunk(bytes, at)?.filter(|chunk| !chunk.is_empty()) {
        whole.extend_from_slice(bytes.get(chunk.clone()).context("a chunk is cut short")?);
        at = chunk.end + 2;
    }
    Ok(whole)
}

impl HttpResponse {
    /// Whether the bytes in `body` are the content as it was meant.
    pub(crate) fn is_plain(&self) -> bool {
        self.head.body != BodyFraming::Chunked
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

/// Where a chunked body ends, once the last chunk is there. Trailers are not understood.
fn chunks_end(bytes: &[u8], mut at: usize) -> anyhow::Result<Option<usize>> {
    while let Some(chunk) = chunk(bytes, at)? {
        at = chunk.end + 2;
        if chunk.is_empty() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The data of the chunk whose size line begins at `at`; `None` until that line is whole.
fn chunk(bytes: &[u8], at: usize) -> anyhow::Result<Option<Range<usize>>> {
    let Some(rest) = bytes.get(at..) else { return Ok(None) };
    let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let digits = rest[..line].split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let Some(size) = size.filter(|size| *size < usize::MAX / 4) else {
        bail!("the reply has a broken chunk")
    };
    let begin = at + line + 2;
    Ok(Some(begin..begin + size))
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
        let reply = parse(bytes).unwrap().unwrap();
        assert_eq!((reply.head.status, reply.head.keep_alive, reply.end), (200, true, end));
        assert_eq!(&bytes[reply.body.clone()], b"{}");
        assert!(reply.is_plain());
    }

    #[test]
    fn a_chunked_reply_is_put_together() {
        let bytes = b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                      3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "at {cut}");
        }
        let reply = parse(bytes).unwrap().unwrap();
        assert_eq!((reply.head.status, reply.head.keep_alive, reply.end), (500, false, bytes.len()));
        assert_eq!(decode_chunked(bytes, &reply).unwrap(), b"abcde");
    }

    #[test]
    fn headers_are_found_by_name() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nMCP-Session-Id: abc \r\ncontent-type: text/event-stream;x\r\n\r\nb: c\r\n";
        let head = parse_head(bytes).unwrap().unwrap();
        assert!(head.events);
        assert_eq!(header(bytes, &head, "mcp-session-id"), Some("abc"));
        assert_eq!(header(bytes, &head, "b"), None);
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n").is_err());
    }
}
