//! Frames over a Unix socket: four bytes of length, four with the number of the request (big-endian), then
//! JSON.
//!
//! Invariant: one request at a time, and a reply has the number of its request: any other is an error, after
//! which the stream is of no use.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes before the JSON.
const HEAD_BYTES: usize = 8;
/// Maximum bytes of a frame.
const MAX_FRAME: usize = 1 << 30;
/// Bytes that are read at once when nothing is known of the next frame.
const READ_BYTES: usize = 4096;
/// Maximum bytes of the buffer that is kept between frames.
const MAX_KEPT_BUFFER: usize = 1 << 20;

/// The server's end of a worker's socket.
pub(crate) struct FrameStream {
    stream: UnixStream,
    replies: FrameReader,
    /// The number of the last request.
    number: u32,
}

impl FrameStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        FrameStream { stream, replies: FrameReader::default(), number: 0 }
    }

    /// Sends a request and waits for its reply, which is valid until the next request.
    pub(crate) async fn exchange(&mut self, request: &impl Serialize) -> io::Result<&[u8]> {
        self.number = self.number.wrapping_add(1);
        self.stream.write_all(&frame(request, self.number)?).await?;
        let reply = self.replies.next(&mut self.stream).await?;
        if reply.number != self.number {
            let says = "answered a request that was not made: something else writes to its socket";
            return Err(io::Error::new(io::ErrorKind::InvalidData, says));
        }
        Ok(reply.json)
    }

    /// The stream, for who sends and receives at the same time.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// A frame that was read.
pub(crate) struct Frame<'r> {
    /// The number of the request that it replies to.
    pub(crate) number: u32,
    pub(crate) json: &'r [u8],
}

/// Reads frames. A small frame is one read. A read that is cancelled loses nothing.
#[derive(Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// Length of the frame that was read last, which is at the beginning of the buffer.
    last: usize,
}

impl FrameReader {
    /// The next frame, which is valid until the one after it.
    pub(crate) async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame<'_>> {
        self.buffer.drain(..std::mem::take(&mut self.last));
        self.buffer.shrink_to(MAX_KEPT_BUFFER);
        loop {
            let missing = match self.buffer.first_chunk::<HEAD_BYTES>() {
                None => READ_BYTES,
                Some([size @ .., n0, n1, n2, n3]) => {
                    let (size, number) =
                        (u32::from_be_bytes(*size), u32::from_be_bytes([*n0, *n1, *n2, *n3]));
                    let end = HEAD_BYTES + size as usize;
                    if end > HEAD_BYTES + MAX_FRAME {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("a frame of {size} bytes"),
                        ));
                    }
                    if self.buffer.len() >= end {
                        self.last = end;
                        return Ok(Frame { number, json: &self.buffer[HEAD_BYTES..end] });
                    }
                    end - self.buffer.len()
                }
            };
            self.buffer.reserve(missing);
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A request as a frame.
pub(crate) fn frame(request: &impl Serialize, number: u32) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut frame, request)?;
    let size = frame.len() - HEAD_BYTES;
    if size > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a request of {size} bytes")));
    }
    let head = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    frame[..4].copy_from_slice(&head);
    frame[4..HEAD_BYTES].copy_from_slice(&number.to_be_bytes());
    Ok(frame)
}
