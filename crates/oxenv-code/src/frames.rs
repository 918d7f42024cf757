//! Frames over pipes: four bytes of length (big-endian), then JSON or plain bytes.
//!
//! Invariant: a frame that is longer than its reader allows is an error before it is read.

use std::io::{self, Read, Write};

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes of a frame of JSON.
pub(crate) const MAX_JSON_FRAME: usize = 64 << 20;
/// Bytes of the length.
const HEAD_BYTES: usize = 4;
/// Bytes of a buffer that are kept between frames.
const MAX_KEPT_BUFFER: usize = 1 << 20;

/// A message as a frame of JSON.
pub(crate) fn json_frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let size = frame.len() - HEAD_BYTES;
    if size > MAX_JSON_FRAME {
        return Err(too_long(size, MAX_JSON_FRAME));
    }
    frame[..HEAD_BYTES].copy_from_slice(&head(size)?);
    Ok(frame)
}

/// The length that goes before so many bytes.
pub(crate) fn head(size: usize) -> io::Result<[u8; HEAD_BYTES]> {
    u32::try_from(size).map(u32::to_be_bytes).map_err(|_| too_long(size, u32::MAX as usize))
}

fn checked(head: [u8; HEAD_BYTES], limit: usize) -> io::Result<usize> {
    let size = u32::from_be_bytes(head) as usize;
    if size > limit { Err(too_long(size, limit)) } else { Ok(size) }
}

fn too_long(size: usize, limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {size} bytes, where {limit} are the most"))
}

/// Reads a frame, waiting for it on this thread.
pub(crate) fn read(input: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut size = [0; HEAD_BYTES];
    input.read_exact(&mut size)?;
    let mut frame = vec![0; checked(size, limit)?];
    input.read_exact(&mut frame)?;
    Ok(frame)
}

/// Writes bytes as a frame.
pub(crate) fn write(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(&head(bytes.len())?)?;
    output.write_all(bytes)?;
    output.flush()
}

/// Reads frames without blocking a thread. After a read that failed or was dropped it is of no use.
pub(crate) struct FrameReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes of the last frame, which are at the beginning of the buffer.
    last: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(input: R) -> Self {
        FrameReader { input, buffer: Vec::new(), last: 0 }
    }

    /// The next frame, which is valid until the one after it. A small frame is one read.
    pub(crate) async fn next(&mut self, limit: usize) -> io::Result<&[u8]> {
        self.buffer.drain(..std::mem::take(&mut self.last));
        self.buffer.shrink_to(MAX_KEPT_BUFFER);
        loop {
            let missing = match self.buffer.first_chunk::<HEAD_BYTES>() {
                None => 4096,
                Some(size) => {
                    let end = HEAD_BYTES + checked(*size, limit)?;
                    if self.buffer.len() >= end {
                        self.last = end;
                        return Ok(&self.buffer[HEAD_BYTES..end]);
                    }
                    end - self.buffer.len()
                }
            };
            self.buffer.reserve(missing);
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Writes bytes as a frame without blocking a thread.
pub(crate) async fn send(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    output.write_all(&head(bytes.len())?).await?;
    output.write_all(bytes).await
}
