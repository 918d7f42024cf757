//! The task that owns a connection's socket. It writes requests and hands each reply to the caller with its
//! id.
//!
//! Invariant: the socket is always read, so pings are answered between calls. Requests of several callers
//! are written together. The task ends soon after the last user is gone, and answers every request before.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink as _, Stream as _, StreamExt as _};
use oxenv_wire::{MULTI_PROTOCOL, ReplyKind, after};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message, Utf8Bytes};
use uuid::Uuid;

use super::loss::{LossRecovery, SocketLoss};
use super::protocol_not_offered;
use super::reply::{ReplyEnvelope, reply_id};
use super::resume::Reattachment;
use super::state::{ConnectionInner, ConnectionPhase, OutgoingFrame, SessionEntry};
use crate::dial::{MAX_UNSENT_PONGS, MaybeTlsStream, dial};
use crate::error::{ClientError, Code};
use crate::server_error::excerpt;

pub(super) type ClientSocket = WebSocketStream<MaybeTlsStream>;

/// A server that is silent this long is pinged; after as long again the socket counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The pause before the second attempt; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(25);
/// The longest pause between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How long the server may take to say that it has closed the socket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most messages that one poll reads, so that writes get their turn.
const MAX_READS_PER_POLL: usize = 256;

/// The state of the task.
struct Driver {
    inner: Arc<ConnectionInner>,
    socket: ClientSocket,
    /// Frames taken from the outbox and not written yet.
    sending: VecDeque<OutgoingFrame>,
    /// Sessions whose `attach` has no reply yet, by request id. Nothing else is sent before.
    attaching: HashMap<u64, Arc<SessionEntry>>,
    /// When the connection was lost; `None` once all sessions are attached again.
    lost_at: Option<Instant>,
    /// Whether this socket has brought a reply.
    has_delivered: bool,
    /// How long to wait before the next attempt to reconnect.
    backoff: Duration,
    unflushed: bool,
    /// Pings since everything was sent last.
    unsent_pongs: usize,
    ping_timer: Interval,
    has_received: bool,
    has_pinged: bool,
    ping_due: bool,
}

enum DriverExit {
    Released,
    Lost(SocketLoss),
}

/// Drives a socket until it is no longer needed.
pub(super) async fn drive(inner: Arc<ConnectionInner>, socket: ClientSocket) {
    let mut driver = Driver {
        inner,
        socket,
        sending: VecDeque::new(),
        attaching: HashMap::new(),
        lost_at: None,
        has_delivered: false,
        backoff: Duration::ZERO,
        unflushed: false,
        unsent_pongs: 0,
        ping_timer: ping_timer(),
        has_received: true,
        has_pinged: false,
        ping_due: false,
    };
    loop {
        match poll_fn(|context| driver.poll(context)).await {
            DriverExit::Released => return driver.close().await,
            DriverExit::Lost(loss) => {
                if !driver.reconnect(loss).await {
                    return;
                }
            }
        }
    }
}

impl Driver {
    /// Reconnects after a lost socket; false if that is not worth it or not possible in time.
    async fn reconnect(&mut self, loss: SocketLoss) -> bool {
        let unwritten = std::mem::take(&mut self.sending);
        let unwritten = if self.attaching.is_empty() { unwritten } else { VecDeque::new() };
        self.attaching.clear();
        if !self.inner.handle_loss(&loss, unwritten) {
            return false;
        }
        if self.has_delivered {
            self.backoff = Duration::ZERO;
        }
        let since = *self.lost_at.get_or_insert_with(Instant::now);
        let inner = Arc::clone(&self.inner);
        let mut last = loss.error;
        loop {
            let Some(until) = inner.expire_requests(since, &last) else { return false };
            let pause = self.next_backoff();
            let attempt = async {
                sleep(pause).await;
                dial(&inner.target, "/ws", Some(MULTI_PROTOCOL), &inner.options).await
            };
            let dialled = tokio::select! {
                biased;
                () = inner.released.notified() => return false,
                dialled = timeout_at(until, attempt) => dialled,
            };
            match dialled {
                Ok(Ok(dialled)) if dialled.subprotocol.as_deref() == Some(MULTI_PROTOCOL) => {
                    self.replace_socket(dialled.socket);
                    return true;
                }
                Ok(Ok(_)) => last = protocol_not_offered(&inner.target),
                Ok(Err(error)) => last = error,
                // The time of one request is over; the others' may not be.
                Err(_) => {}
            }
        }
    }

    fn next_backoff(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (2 * pause).clamp(INITIAL_BACKOFF, MAX_BACKOFF);
        // Jitter, so that the clients of a restarted server do not all reconnect at once.
        let share = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
        pause.mul_f64(0.75 + 0.25 * share)
    }

    /// Goes on with a new socket.
    fn replace_socket(&mut self, socket: ClientSocket) {
        self.socket = socket;
        let Reattachment { frames, sessions } = self.inner.reattach();
        (self.sending, self.attaching) = (frames, sessions);
        (self.unflushed, self.has_delivered, self.unsent_pongs) = (false, false, 0);
        self.ping_timer = ping_timer();
        (self.has_received, self.has_pinged, self.ping_due) = (true, false, false);
        self.resume_if_attached();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<DriverExit> {
        self.inner.driver_waker.register(context.waker());
        match self.poll_once(context) {
            Ok(true) => Poll::Ready(DriverExit::Released),
            Ok(false) => Poll::Pending,
            Err(loss) => Poll::Ready(DriverExit::Lost(loss)),
        }
    }

    /// Does what can be done now; true when the connection is released and everything is written.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Result<bool, SocketLoss> {
        self.poll_ping_timer(context)?;
        self.poll_read(context)?;
        self.poll_write(context)?;
        Ok(self.attaching.is_empty()
            && self.sending.is_empty()
            && !self.unflushed
            && self.inner.is_released())
    }

    fn poll_ping_timer(&mut self, context: &mut Context<'_>) -> Result<(), SocketLoss> {
        while self.ping_timer.poll_tick(context).is_ready() {
            if self.has_pinged && !self.has_received {
                let why = format!("the server has said nothing for {} s", 2 * PING_INTERVAL.as_secs());
                return Err(SocketLoss::new(&why, LossRecovery::Resend));
            }
            self.ping_due = !self.has_received;
            self.has_pinged = self.ping_due;
            self.has_received = false;
        }
        Ok(())
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<(), SocketLoss> {
        for _ in 0..MAX_READS_PER_POLL {
            match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.handle_message(message)?,
                Poll::Ready(Some(Err(error))) => return Err(SocketLoss::from(error)),
                Poll::Ready(None) => return Err(SocketLoss::new("it was closed", LossRecovery::Resend)),
                Poll::Pending => return Ok(()),
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn handle_message(&mut self, message: Message) -> Result<(), SocketLoss> {
        self.has_received = true;
        match message {
            Message::Text(text) => match reply_id(&text) {
                Some(id) => match self.attaching.remove(&id) {
                    Some(entry) => {
                        self.inner.handle_attached(&entry, &text);
                        self.resume_if_attached();
                    }
                    None => {
                        self.has_delivered = true;
                        self.inner.deliver(id, text);
                    }
                },
                None => self.handle_event(&text)?,
            },
            Message::Close(frame) => return Err(SocketLoss::closed(frame)),
            Message::Binary(_) => return Err(SocketLoss::protocol_violation("a binary frame")),
            Message::Ping(_) => {
                // The library has made the pong, and would keep any number of them.
                (self.unflushed, self.unsent_pongs) = (true, self.unsent_pongs + 1);
                if self.unsent_pongs > MAX_UNSENT_PONGS {
                    return Err(SocketLoss::new("the server pings and takes no pongs", LossRecovery::GiveUp));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_event(&self, text: &Utf8Bytes) -> Result<(), SocketLoss> {
        let envelope =
            ReplyEnvelope::parse(text).map_err(|error| SocketLoss::protocol_violation(error.message()))?;
        match (envelope.kind, &envelope.session) {
            (ReplyKind::Taken, Some(session)) => self.inner.session_taken(session),
            (ReplyKind::Error, _) => {
                tracing::warn!(reply = excerpt(text.as_bytes()), "the server could not read a request");
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends callers' frames again once all sessions are attached.
    fn resume_if_attached(&mut self) {
        if self.attaching.is_empty() {
            self.inner.resume_requests();
            self.lost_at = None;
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), SocketLoss> {
        loop {
            if self.sending.is_empty() && self.attaching.is_empty() {
                std::mem::swap(&mut self.sending, &mut self.inner.state.lock().outbox);
            }
            if self.sending.is_empty() && !self.ping_due {
                break;
            }
            if self.poll_frames(context)?.is_pending() {
                return Ok(());
            }
        }
        if self.unflushed && Pin::new(&mut self.socket).poll_flush(context)?.is_ready() {
            (self.unflushed, self.unsent_pongs) = (false, 0);
        }
        Ok(())
    }

    fn poll_frames(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, SocketLoss> {
        loop {
            if !self.ping_due && self.sending.is_empty() {
                return Ok(Poll::Ready(()));
            }
            if Pin::new(&mut self.socket).poll_ready(context)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let message = match std::mem::take(&mut self.ping_due) {
                true => Message::Ping(Bytes::new()),
                false => match self.sending.pop_front() {
                    Some(frame) => Message::Text(frame.text),
                    None => return Ok(Poll::Ready(())),
                },
            };
            Pin::new(&mut self.socket).start_send(message)?;
            self.unflushed = true;
        }
    }

    /// Closes the socket. The server answers when it has read all requests.
    async fn close(&mut self) {
        let goodbye = async {
            self.socket.close(None).await?;
            while self.socket.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<(), SocketError>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

impl Drop for Driver {
    /// Also when the runtime ends that the task runs in.
    fn drop(&mut self) {
        self.inner.fail_all(&ClientError::new(Code::Closed, "the connection is closed"));
    }
}

impl ConnectionInner {
    fn is_released(&self) -> bool {
        let state = self.state.lock();
        state.released && state.outbox.is_empty() && matches!(state.phase, ConnectionPhase::Open)
    }
}

fn ping_timer() -> Interval {
    let mut clock = interval_at(after(Instant::now(), PING_INTERVAL), PING_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
