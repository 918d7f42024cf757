//! [`OrderedSocket`]: a WebSocket with replies in the order of its requests, as in the stock dialect.
//!
//! Invariant: the next reply belongs to the oldest request without one. A request that is given up keeps its
//! place in the queue, so that its late reply is thrown away and never goes to another request.
//!
//! A caller that waits for a reply reads the socket itself, so that a step wakes no other task. The driver
//! reads it while no caller does: it answers pings and notices a lost socket.

mod driver;
mod pending;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Sink as _, Stream as _};
use oxenv_wire::{Delivered, after};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::driver::drive;
use self::pending::PendingReplies;
use super::reply;
use crate::dial::{MAX_UNSENT_PONGS, MaybeTlsStream};
use crate::error::{ClientError, Code, Result};
use crate::server_error::excerpt;

/// The socket. Its drop ends the session and cancels what runs in it.
pub(super) struct OrderedSocket {
    state: Arc<Mutex<SocketState>>,
    _driver: DropGuard,
}

struct SocketState {
    socket: WebSocketStream<MaybeTlsStream>,
    /// The server, for messages.
    server: String,
    pending: PendingReplies,
    unflushed: bool,
    /// Pings since everything was sent last.
    unsent_pongs: usize,
    /// The caller asked the server to close.
    closing: bool,
    /// The caller that waits for it.
    close_waker: Option<Waker>,
    /// Why no more replies come.
    ended: Option<ClientError>,
}

/// A caller's entry in the queue. Its drop abandons the entry.
struct ReplyGuard<'a> {
    state: &'a Mutex<SocketState>,
    number: Option<u64>,
}

impl OrderedSocket {
    /// Takes a socket over; needs a runtime, which drives it from now on.
    pub(super) fn new(socket: WebSocketStream<MaybeTlsStream>, server: String) -> Self {
        let state = SocketState {
            socket,
            server,
            pending: PendingReplies::default(),
            unflushed: false,
            unsent_pongs: 0,
            closing: false,
            close_waker: None,
            ended: None,
        };
        let shared = Arc::new(Mutex::new(state));
        let left = CancellationToken::new();
        tokio::spawn(drive(shared.clone(), left.clone()));
        OrderedSocket { state: shared, _driver: left.drop_guard() }
    }

    /// Sends a text and waits for its reply.
    ///
    /// # Errors
    /// Why there is none, and whether the request was delivered.
    pub(super) async fn request(&self, request: String, within: Duration, what: &str) -> Result<Utf8Bytes> {
        let mut ticket = ReplyGuard { state: &self.state, number: None };
        let mut request = Some(request);
        let answer = poll_fn(|cx| {
            let mut state = self.state.lock();
            if let Some(request) = request.take() {
                ticket.number = Some(state.send(request, cx)?);
            }
            let Some(number) = ticket.number else { return Poll::Pending };
            let reply = state.poll_reply(number, cx);
            if reply.is_ready() {
                ticket.number = None;
            }
            reply
        });
        match timeout_at(deadline(within), answer).await {
            Ok(reply) => reply,
            Err(_) => {
                let message = format!("no reply to {what} within {} s", within.as_secs_f64());
                Err(ClientError::new(Code::TimedOut, message))
            }
        }
    }

    /// Asks the server to end the session and waits until it has.
    ///
    /// # Errors
    /// If it does not say so in time.
    pub(super) async fn close(&self, request: &str, within: Duration) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.ended.is_none() && !state.closing {
                state.write(request.to_owned());
            }
            state.closing = true;
        }
        let ended = poll_fn(|cx| {
            let mut state = self.state.lock();
            state.poll_io(cx, None);
            if state.ended.is_some() {
                return Poll::Ready(());
            }
            state.close_waker = Some(cx.waker().clone());
            Poll::Pending
        });
        timeout_at(deadline(within), ended).await.map_err(|_| {
            let message = format!("the server did not close the session within {} s", within.as_secs_f64());
            ClientError::new(Code::TimedOut, message)
        })
    }
}

impl SocketState {
    /// Sends a request and returns its number. The socket is read first, so that nothing is sent into
    /// a connection that is known to be lost.
    fn send(&mut self, request: String, cx: &mut Context<'_>) -> Result<u64> {
        if self.closing {
            return Err(ClientError::new(Code::Closed, "the client was closed; make another"));
        }
        if self.pending.all_answered() {
            self.poll_io(cx, None);
        }
        if let Some(ended) = &self.ended {
            return Err(ended.clone().with_delivered(Delivered::No));
        }
        self.write(request);
        Ok(self.pending.push())
    }

    fn write(&mut self, text: String) {
        self.unflushed = true;
        if let Err(error) = Pin::new(&mut self.socket).start_send(Message::text(text)) {
            self.handle_error(&error);
        }
    }

    fn poll_reply(&mut self, number: u64, cx: &mut Context<'_>) -> Poll<Result<Utf8Bytes>> {
        // A reply that is read here needs no wake-up.
        let waker = self.pending.take_waker(number);
        self.poll_io(cx, Some(number));
        if let Some(text) = self.pending.take(number) {
            return Poll::Ready(Ok(text));
        }
        let Some(ended) = self.ended.clone() else {
            self.pending.set_waker(number, waker, cx);
            return Poll::Pending;
        };
        // Only of the request whose reply was at hand may it be known that it was delivered.
        let delivered = match ended.delivered() {
            Delivered::Yes if number > self.pending.next_number() => Delivered::Maybe,
            known => known,
        };
        Poll::Ready(Err(ended.with_delivered(delivered)))
    }

    /// Writes and reads as far as the socket is ready, or until request `until` has its reply.
    fn poll_io(&mut self, cx: &mut Context<'_>, until: Option<u64>) {
        while self.ended.is_none() {
            // What the server sent before it broke the connection still has to be read.
            if self.unflushed && Pin::new(&mut self.socket).poll_flush(cx).is_ready() {
                (self.unflushed, self.unsent_pongs) = (false, 0);
            }
            if until.is_some_and(|number| self.pending.is_answered(number)) {
                return;
            }
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => self.handle_message(message),
                Poll::Ready(Some(Err(error))) => self.handle_error(&error),
                Poll::Ready(None) => self.connection_lost("the server hung up"),
                Poll::Pending => return,
            }
        }
        // The answer to the server's close frame, at the best.
        let _ = Pin::new(&mut self.socket).poll_flush(cx);
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Text(text) => self.deliver(text),
            Message::Binary(bytes) => {
                let message = format!("{} sent a binary message: {}", self.server, excerpt(&bytes));
                self.end(ClientError::new(Code::InvalidReply, message));
            }
            Message::Close(frame) => {
                let said = frame.map_or_else(
                    || "without a reason".to_owned(),
                    |frame| format!("with code {} {:?}", u16::from(frame.code), frame.reason.as_str()),
                );
                self.connection_lost(&format!("the server closed the session {said}"));
            }
            Message::Ping(_) => {
                // The library has made the pong, and would keep any number of them.
                (self.unflushed, self.unsent_pongs) = (true, self.unsent_pongs + 1);
                if self.unsent_pongs > MAX_UNSENT_PONGS {
                    self.connection_lost("the server pings and takes no pongs");
                }
            }
            Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// Hands a reply to the oldest request without one. Some errors end the session; they may come unasked.
    fn deliver(&mut self, text: Utf8Bytes) {
        let fatal = reply::session_ending_error(&text);
        self.pending.deliver(text);
        if let Some(error) = fatal {
            self.end(error);
        }
    }

    fn handle_error(&mut self, error: &WsError) {
        match error {
            WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                let message = format!(
                    "a reply of {size} bytes is larger than {max_size}; allow more with max_message, and \
                     connect anew"
                );
                self.end(ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes));
            }
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.connection_lost("the server hung up");
            }
            WsError::Protocol(_) | WsError::Utf8(_) => {
                let message = format!("{} broke the rules of WebSocket: {error}", self.server);
                self.end(ClientError::new(Code::InvalidReply, message));
            }
            other => self.connection_lost(&other.to_string()),
        }
    }

    fn connection_lost(&mut self, how: &str) {
        let error = if self.closing {
            ClientError::new(Code::Closed, "the client was closed")
        } else {
            let message = format!("the session at {} is lost: {how}; connect anew", self.server);
            ClientError::new(Code::ConnectionLost, message)
        };
        self.end(error.with_delivered(Delivered::Maybe));
    }

    /// No more replies come. All waiting callers are woken.
    fn end(&mut self, error: ClientError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error);
        if let Some(waker) = self.close_waker.take() {
            waker.wake();
        }
        self.pending.wake_all();
    }
}

impl Drop for ReplyGuard<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.state.lock().pending.abandon(number);
        }
    }
}

fn deadline(within: Duration) -> Instant {
    after(Instant::now(), within)
}
