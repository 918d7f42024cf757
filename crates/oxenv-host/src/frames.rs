//! Frames over a Unix socket: four bytes of length (big-endian), then JSON.
//!
//! Invariant: one request at a time; a caller that drops a request in flight has to drop the connection
//! too, since the reply to it would be taken for the next one's.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Maximum bytes of a frame.
const MAX_FRAME: usize = 1 << 30;
/// Maximum bytes of the buffer that is kept between frames.
const MAX_KEPT_BUFFER: usize = 1 << 20;

/// The server's end of a worker's socket.
pub(crate) struct FrameStream {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl FrameStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        FrameStream { stream, buffer: Vec::new() }
    }

    /// Sends a request and waits for its reply, which is valid until the next request.
    pub(crate) async fn exchange(&mut self, request: &impl Serialize) -> io::Result<&[u8]> {
        self.stream.write_all(&frame(request)?).await?;
        self.receive().await
    }

    /// The next frame.
    pub(crate) async fn receive(&mut self) -> io::Result<&[u8]> {
        read_frame(&mut self.stream, &mut self.buffer).await?;
        Ok(&self.buffer)
    }

    /// The stream, for a caller that sends and receives at the same time.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// Reads the next frame into a buffer.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes(head) as usize;
    if size > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {size} bytes")));
    }
    buffer.clear();
    buffer.shrink_to(MAX_KEPT_BUFFER);
    buffer.resize(size, 0);
    stream.read_exact(buffer).await?;
    Ok(())
}

/// A request as a frame.
pub(crate) fn frame(request: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, request)?;
    let size = frame.len() - 4;
    if size > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a request of {size} bytes")));
    }
    let head = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    frame[..4].copy_from_slice(&head);
    Ok(frame)
}
