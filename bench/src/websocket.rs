//! One WebSocket of the load generator.
//!
//! Invariant: one poll both writes and reads, so that a full send buffer cannot keep replies from being read,
//! however many requests are in flight. Pings are answered.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frame::{self, Opcode};
use crate::http_response;
use crate::reply_checker::excerpt;
use crate::target::Target;

/// Initial size of the read buffer; it grows for a larger reply.
const BUFFER_BYTES: usize = 2048;
/// Maximum length of the response to the handshake.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Maximum number of pongs that wait to be sent.
const MAX_QUEUED_PONGS: usize = 1024;

/// What was received from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A text message: where it is in the read buffer, until the next read.
    Text(Range<usize>),
    /// A close frame.
    Close,
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: TcpStream,
    read_buffer: Vec<u8>,
    /// The part of `read_buffer` that is filled and not yet parsed.
    unread: Range<usize>,
    write_buffer: Vec<u8>,
    sent: usize,
    /// Pongs queued since `write_buffer` was last empty.
    pongs: usize,
}

impl WebSocket {
    /// Connects and opens a WebSocket at `path`.
    pub(crate) async fn open(target: &Target, path: &str) -> anyhow::Result<Self> {
        let stream = target.connect().await?;
        let read_buffer = vec![0; BUFFER_BYTES];
        let mut socket =
            Self { stream, read_buffer, unread: 0..0, write_buffer: Vec::new(), sent: 0, pongs: 0 };
        let key = generate_key();
        socket.queue(&target.upgrade(path, &key));
        socket.handshake(&derive_accept_key(key.as_bytes())).await?;
        Ok(socket)
    }

    /// Queues bytes for sending.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.write_buffer.extend_from_slice(bytes);
    }

    /// The payload of the message that [`WebSocket::next`] returned last.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.read_buffer[range]
    }

    /// Sends the queued bytes and waits until some have been read; fails when the server has closed the
    /// connection.
    ///
    /// Cancel safe.
    pub(crate) async fn flush_and_read(&mut self) -> anyhow::Result<()> {
        match self.poll_flush_and_read().await.context("the connection failed")? {
            0 => bail!("the server closed the connection"),
            _ => Ok(()),
        }
    }

    /// Takes the next message from the read buffer; `None` if [`WebSocket::flush_and_read`] must be called
    /// first.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Received>> {
        loop {
            let filled = &self.read_buffer[..self.unread.end];
            let Some(frame) = frame::read(filled, self.unread.start)? else { return Ok(None) };
            self.unread.start = frame.payload.end;
            match frame.opcode {
                Opcode::Text => return Ok(Some(Received::Text(frame.payload))),
                Opcode::Close => return Ok(Some(Received::Close)),
                Opcode::Ping => {
                    self.pongs += 1;
                    if self.pongs > MAX_QUEUED_PONGS {
                        bail!("the server sends pings but does not read the pongs");
                    }
                    self.write_buffer.extend(frame::pong(&self.read_buffer[frame.payload]));
                }
                Opcode::Pong => {}
            }
        }
    }

    /// Sends one frame and waits for the next message.
    pub(crate) async fn request(&mut self, frame: &[u8]) -> anyhow::Result<Range<usize>> {
        self.queue(frame);
        loop {
            match self.next()? {
                Some(Received::Text(range)) => return Ok(range),
                Some(Received::Close) => bail!("the server closed the session"),
                None => self.flush_and_read().await?,
            }
        }
    }

    /// Closes the session as a stock client does: a `close` message, the server's close frame, ours, end of
    /// stream.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.queue(&frame::text(br#"{"type":"close"}"#));
        while self.next()? != Some(Received::Close) {
            self.flush_and_read().await?;
        }
        self.queue(&frame::close());
        // Some servers close the connection without waiting for this frame; the stream ends in both cases.
        while self.poll_flush_and_read().await.is_ok_and(|read| read > 0) {
            self.unread = 0..0;
        }
        Ok(())
    }

    /// Closes the WebSocket with the closing handshake: our close frame, the server's, end of stream.
    pub(crate) async fn close_handshake(mut self) -> anyhow::Result<()> {
        self.queue(&frame::close());
        while self.poll_flush_and_read().await? > 0 {
            self.unread = 0..0;
        }
        Ok(())
    }

    async fn handshake(&mut self, accept: &str) -> anyhow::Result<()> {
        let head = loop {
            match http_response::parse_head(&self.read_buffer[self.unread.clone()])? {
                Some(head) => break head,
                None if self.unread.len() > MAX_HEAD_BYTES => {
                    bail!("the response to the handshake has no end")
                }
                None => self.flush_and_read().await.context("no response to the handshake")?,
            }
        };
        let response = &self.read_buffer[self.unread.clone()];
        if head.status != 101 {
            bail!("the server refused the WebSocket: {}", excerpt(&response[..head.length]));
        }
        if http_response::header(response, "sec-websocket-accept")? != Some(accept) {
            bail!("the server answered the handshake with a wrong Sec-WebSocket-Accept");
        }
        self.unread.start += head.length;
        Ok(())
    }

    async fn poll_flush_and_read(&mut self) -> io::Result<usize> {
        self.make_room();
        let Self { stream, read_buffer, unread, write_buffer, sent, pongs } = self;
        poll_fn(|cx| {
            while *sent < write_buffer.len() {
                match Pin::new(&mut *stream).poll_write(cx, &write_buffer[*sent..]) {
                    Poll::Ready(Ok(written)) => *sent += written,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if *sent == write_buffer.len() {
                write_buffer.clear();
                (*sent, *pongs) = (0, 0);
            }
            let mut spare = ReadBuf::new(&mut read_buffer[unread.end..]);
            match Pin::new(&mut *stream).poll_read(cx, &mut spare) {
                Poll::Ready(Ok(())) => {
                    let read = spare.filled().len();
                    unread.end += read;
                    Poll::Ready(Ok(read))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Moves unread bytes to the front, and grows the buffer if it is full.
    fn make_room(&mut self) {
        if self.unread.start > 0 {
            self.read_buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.read_buffer.len() {
            self.read_buffer.resize(self.read_buffer.len() * 2, 0);
        }
    }
}
