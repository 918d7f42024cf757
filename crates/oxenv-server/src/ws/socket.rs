//! A WebSocket that is read while work goes on, pinged while it is quiet, and given up when its
//! peer is gone.
//!
//! Invariant: requests that arrive while one is being answered are kept in order, up to a bound; past it
//! the peer has to wait, as TCP makes it. At most one reply and one pong wait to be sent: nothing more is
//! read before a pong has gone out.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Error;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite;

use crate::app::App;
use crate::peer::{BusyGuard, Peer};
use crate::timing::{Events, within};

/// How much is read at once; most requests fit.
const READ_BUFFER_BYTES: usize = 1 << 10;
/// Requests kept while one is being answered.
const MAX_REQUESTS_AHEAD: usize = 64;
/// Bytes of them.
const MAX_BYTES_AHEAD: usize = 1 << 20;
/// How long a close waits for the peer's own.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The next event of a socket.
pub(super) enum Incoming {
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame, which the protocol does not have.
    Binary,
    /// The peer is gone, or broke the protocol.
    Gone,
    /// The server is stopping.
    Stopping,
    /// The event that the caller watches for has happened.
    Watched,
}

/// The next event on a socket that runs several requests.
pub(super) enum SocketEvent<T> {
    /// Something that the socket brings.
    Came(Incoming),
    /// Something that is done.
    Done(T),
    /// Another connection needs the place of this one, if it is of no use.
    ToldToEnd,
}

/// What may happen beside requests.
enum BackgroundEvent {
    Beat,
    Stop,
    Watched,
    Lost,
    End,
}

/// One accepted WebSocket.
pub(super) struct ServerSocket {
    inner: WebSocket,
    app: Arc<App>,
    ahead: VecDeque<Message>,
    ahead_bytes: usize,
    events: Events<'static, BackgroundEvent>,
    /// Beats since the last bytes came.
    quiet: u32,
    /// Whether something was fed that may not have gone out yet.
    unsent: bool,
    /// Whether the library owes the peer a pong.
    owes_pong: bool,
    /// Bytes count as a sign of life too, because a message may be long on its way.
    peer: Peer,
    _busy: BusyGuard,
    /// Whether the peer has ended its side, after the bytes that are still unread.
    lost: bool,
    end_requested: bool,
    gone: bool,
    stopping: bool,
    watched: bool,
}

/// Accepts a socket and runs `serve` on it in a task of its own.
pub(super) fn accept<F, R>(app: Arc<App>, upgrade: WebSocketUpgrade, peer: Peer, serve: F) -> Response
where
    F: FnOnce(ServerSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let limit = app.config.max_message;
    let token = app.tasks.token();
    upgrade
        // The default buffers of 128 KiB each would be most of an idle session's memory, and the
        // library clears its read buffer before every read.
        .read_buffer_size(READ_BUFFER_BYTES)
        // Without a `max_write_buffer_size`, which would refuse any longer reply: see `poll_message`.
        .write_buffer_size(4 << 10)
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |inner| async move {
            let _counted = token;
            let mut killed = Events::new();
            killed.watch(app.killed.clone().cancelled_owned());
            let socket = ServerSocket::new(inner, app, peer);
            tokio::select! {
                biased;
                () = serve(socket) => {}
                () = killed.next() => {}
            }
        })
}

impl ServerSocket {
    fn new(inner: WebSocket, app: Arc<App>, peer: Peer) -> Self {
        let mut socket = ServerSocket {
            inner,
            app,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            events: Events::new(),
            _busy: peer.busy(),
            peer,
            lost: false,
            end_requested: false,
            quiet: 0,
            unsent: false,
            owes_pong: false,
            gone: false,
            stopping: false,
            watched: false,
        };
        let stopping = socket.app.stopping.clone();
        socket.events.watch(async move {
            stopping.cancelled().await;
            BackgroundEvent::Stop
        });
        let peer = socket.peer.clone();
        socket.events.watch(async move {
            peer.lost().await;
            BackgroundEvent::Lost
        });
        socket.watch_end();
        socket.next_beat();
        socket
    }

    fn watch_end(&mut self) {
        let end_requested = self.peer.clone().end_requested();
        self.events.watch(async move {
            end_requested.await;
            BackgroundEvent::End
        });
    }

    /// Makes [`ServerSocket::next`] return [`Incoming::Watched`] once that future is ready.
    pub(super) fn watch(&mut self, event: impl Future<Output = ()> + Send + 'static) {
        self.events.watch(async move {
            event.await;
            BackgroundEvent::Watched
        });
    }

    /// The next request. Pings a quiet peer, and gives one up that does not answer.
    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            if self.gone {
                return Incoming::Gone;
            }
            if std::mem::take(&mut self.watched) {
                return Incoming::Watched;
            }
            if let Some(message) = self.ahead.pop_front() {
                self.ahead_bytes -= size(&message);
                return match message {
                    Message::Text(text) => Incoming::Text(text),
                    _ => Incoming::Binary,
                };
            }
            if self.stopping {
                return Incoming::Stopping;
            }
            let ServerSocket { inner, owes_pong, events, .. } = self;
            tokio::select! {
                biased;
                message = poll_fn(|context| poll_message(inner, owes_pong, context)) => {
                    self.take(message).await;
                }
                event = events.next() => self.handle_event(&event).await,
            }
        }
    }

    /// Does work while the socket is read; `None` when the peer went away, and the work is dropped.
    pub(super) async fn read_while<W: Future>(&mut self, work: W) -> Option<W::Output> {
        let mut work = pin!(work);
        loop {
            let room = self.ahead.len() < MAX_REQUESTS_AHEAD && self.ahead_bytes < MAX_BYTES_AHEAD;
            // Otherwise what is read comes to the end by itself.
            self.gone |= self.lost && !room;
            if self.gone {
                return None;
            }
            let ServerSocket { inner, owes_pong, events, .. } = self;
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                message = poll_fn(|context| poll_message(inner, owes_pong, context)), if room => {
                    self.take(message).await;
                }
                event = events.next() => match event {
                    BackgroundEvent::Beat if !room => self.send_ping().await,
                    event => self.handle_event(&event).await,
                },
            }
        }
    }

    /// The next event of the socket, or the result of `work`, whichever is first. The socket is read
    /// only while there is `room`; fed frames go out when there is nothing else to do. That the
    /// server stops is reported once.
    pub(super) async fn turn<T>(
        &mut self,
        room: bool,
        mut work: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> SocketEvent<T> {
        loop {
            self.gone |= self.lost && !room;
            if self.gone {
                return SocketEvent::Came(Incoming::Gone);
            }
            if std::mem::take(&mut self.end_requested) {
                return SocketEvent::ToldToEnd;
            }
            if let Some(message) = self.ahead.pop_front() {
                self.ahead_bytes -= size(&message);
                return SocketEvent::Came(match message {
                    Message::Text(text) => Incoming::Text(text),
                    _ => Incoming::Binary,
                });
            }
            if std::mem::take(&mut self.stopping) {
                return SocketEvent::Came(Incoming::Stopping);
            }
            let ServerSocket { inner, unsent, owes_pong, events, .. } = self;
            tokio::select! {
                biased;
                done = poll_fn(&mut work) => return SocketEvent::Done(done),
                traffic = poll_fn(|context| {
                    exchange(inner, owes_pong, unsent, room, context)
                }) => match traffic {
                    IoProgress::Came(message) => self.take(message).await,
                    IoProgress::Sent(sent) => self.gone |= !sent,
                },
                event = events.next() => match event {
                    BackgroundEvent::Beat if !room => self.send_ping().await,
                    event => self.handle_event(&event).await,
                },
            }
        }
    }

    /// Prepares a reply for sending; false when the peer is gone or takes nothing.
    pub(super) async fn feed(&mut self, text: String) -> bool {
        let fed = self.inner.feed(Message::Text(text.into())).await.is_ok();
        self.unsent = true;
        self.gone |= !fed;
        fed
    }

    /// The connection.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Sends a reply; false when the peer is gone or takes nothing.
    pub(super) async fn send(&mut self, text: String) -> bool {
        self.write(Message::Text(text.into())).await
    }

    /// Closes the socket with code 1000.
    pub(super) async fn close(&mut self) {
        self.close_with(close_code::NORMAL, "").await;
    }

    /// Closes the socket because the server is stopping.
    pub(super) async fn close_stopping(&mut self) {
        self.close_with(close_code::AWAY, "the server is shutting down").await;
    }

    /// Closes the socket because another connection needs its place, without waiting for the peer.
    pub(super) async fn close_for_another(&mut self) {
        let reason =
            "the server needs the descriptor for another connection, and this one has no session".into();
        self.write(Message::Close(Some(CloseFrame { code: close_code::AGAIN, reason }))).await;
    }

    async fn close_with(&mut self, code: u16, reason: &'static str) {
        let sent = self.write(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        if !sent {
            return;
        }
        // The peer's own close frame ends the handshake; without this wait its last bytes could
        // meet a closed port, and TCP would take our reply back.
        let patience = self.app.config.drain.min(CLOSE_TIMEOUT);
        let closed = async { while matches!(self.inner.recv().await, Some(Ok(_))) {} };
        within(patience, closed).await;
    }

    async fn take(&mut self, message: Option<Result<Message, Error>>) {
        self.quiet = 0;
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                self.ahead_bytes += size(&message);
                self.ahead.push_back(message);
            }
            // The library answers pings by itself.
            Some(Ok(Message::Ping(_))) => self.owes_pong = true,
            Some(Ok(Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) => {
                // The library has a close frame ready in reply (RFC 6455, section 5.5.1). A peer that takes
                // none gets none: its step is not kept waiting.
                let _ = self.inner.flush().now_or_never();
                self.gone = true;
            }
            None => self.gone = true,
            Some(Err(error)) => {
                if let Some(CloseReason { code, reason }) = protocol_close(error) {
                    self.close_with(code, reason).await;
                }
                self.gone = true;
            }
        }
    }

    async fn handle_event(&mut self, event: &BackgroundEvent) {
        match event {
            BackgroundEvent::Stop => self.stopping = true,
            BackgroundEvent::Beat => {
                if self.peer.take_heard() {
                    self.quiet = 0;
                }
                let silence = self.app.config.ping_every.saturating_mul(self.quiet);
                if silence >= self.app.config.dead_after {
                    tracing::info!(silence_s = silence.as_secs(), "socket gave no sign of life, closing it");
                    self.gone = true;
                    return;
                }
                if self.quiet > 0 {
                    self.write(Message::Ping(Vec::new().into())).await;
                }
                self.quiet += 1;
                self.next_beat();
            }
            BackgroundEvent::Watched => self.watched = true,
            BackgroundEvent::Lost => self.lost = true,
            BackgroundEvent::End => {
                self.end_requested = true;
                self.watch_end();
            }
        }
    }

    /// Reading is paused, so no sign of life can come, but a write shows whether the peer is gone.
    async fn send_ping(&mut self) {
        self.write(Message::Ping(Vec::new().into())).await;
        self.next_beat();
    }

    fn next_beat(&mut self) {
        let beat = tokio::time::sleep(self.app.config.ping_every);
        self.events.watch(async move {
            beat.await;
            BackgroundEvent::Beat
        });
    }

    async fn write(&mut self, message: Message) -> bool {
        // The connection itself gives up on a peer that takes nothing.
        let sent = self.inner.send(message).await.is_ok();
        self.gone |= !sent;
        sent
    }
}

/// What was read, or whether the rest could be sent.
enum IoProgress {
    Came(Option<Result<Message, Error>>),
    Sent(bool),
}

/// The next message, once the pong to the last ping has gone out: the library would keep any number of pongs
/// for a peer that pings and reads nothing. The connection itself ends a peer that takes nothing.
fn poll_message(
    socket: &mut WebSocket,
    owes_pong: &mut bool,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Message, Error>>> {
    if *owes_pong {
        if let Err(error) = ready!(socket.poll_flush_unpin(context)) {
            return Poll::Ready(Some(Err(error)));
        }
        *owes_pong = false;
    }
    socket.poll_next_unpin(context)
}

/// Reads if there is room, and sends what was fed if there is nothing to read.
fn exchange(
    socket: &mut WebSocket,
    owes_pong: &mut bool,
    unsent: &mut bool,
    room: bool,
    context: &mut Context<'_>,
) -> Poll<IoProgress> {
    if room && let Poll::Ready(message) = poll_message(socket, owes_pong, context) {
        return Poll::Ready(IoProgress::Came(message));
    }
    if !*unsent {
        return Poll::Pending;
    }
    let sent = ready!(socket.poll_flush_unpin(context)).is_ok();
    *unsent = false;
    Poll::Ready(IoProgress::Sent(sent))
}

fn size(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        _ => 0,
    }
}

/// The content of a close frame.
struct CloseReason {
    code: u16,
    reason: &'static str,
}

/// How a socket is closed whose peer broke the protocol (RFC 6455, 7.4.1); `None` if the connection is gone.
fn protocol_close(error: Error) -> Option<CloseReason> {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    use tungstenite::error::ProtocolError::{ResetWithoutClosingHandshake, UnmaskedFrameFromClient};
    let (code, reason) = match error.into_inner().downcast_ref::<tungstenite::Error>()? {
        Capacity(_) => (close_code::SIZE, "the message is larger than this server takes"),
        Utf8(_) => (close_code::INVALID, "the text is not UTF-8"),
        Protocol(UnmaskedFrameFromClient) => (close_code::PROTOCOL, "a client has to mask its frames"),
        Protocol(ResetWithoutClosingHandshake) => return None,
        Protocol(_) => (close_code::PROTOCOL, "the frame breaks the WebSocket protocol"),
        _ => return None,
    };
    Some(CloseReason { code, reason })
}
