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
/// Maximum bytes of the buffer that is kept between frames.
const MAX_KEPT_BUFFER: usize = 1 << 20;

/// The server's end of a worker's socket.
pub(crate) struct FrameStream {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// The number of the last request.
    number: u32,
}

impl FrameStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        FrameStream { stream, buffer: Vec::new(), number: 0 }
    }

    /// Sends a request and waits for its reply, which is valid until the next request.
    pub(crate) async fn exchange(&mut self, request: &impl Serialize) -> io::Result<&[u8]> {
        self.number = self.number.wrapping_add(1);
        self.stream.write_all(&frame(request, self.number)?).await?;
        let number = read_frame(&mut self.stream, &mut self.buffer).await?;
        if number != self.number {
            let says = "answered a request that was not made: something else writes to its socket";
            return Err(io::Error::new(io::ErrorKind::InvalidData, says));
        }
        Ok(&self.buffer)
    }

    /// The stream, for who sends and receives at the same time.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// Reads the next frame into a buffer; gives the number of its request.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<u32> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let [size @ .., n0, n1, n2, n3] = head;
    let (size, number) = (u32::from_be_bytes(size) as usize, u32::from_be_bytes([n0, n1, n2, n3]));
    if size > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {size} bytes")));
    }
    buffer.clear();
    buffer.shrink_to(MAX_KEPT_BUFFER);
    buffer.resize(size, 0);
    stream.read_exact(buffer).await?;
    Ok(number)
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
