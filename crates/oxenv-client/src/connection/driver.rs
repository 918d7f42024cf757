//! The task that owns a connection's socket: it writes what callers ask, and gives each the reply with its id.
//!
//! Invariant: the socket is always read, so pings are answered while nobody calls; what several callers ask is
//! written together; the task ends soon after the connection's last user is gone, and answers everybody before.

use oxenv_core::after;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink as _, Stream as _, StreamExt as _};
use oxenv_wire::ReplyKind;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message, Utf8Bytes};

use super::reply::{Envelope, id_of};
use super::state::{Kept, Link, Outgoing, Phase};
use crate::dial::{MAX_UNSENT_PONGS, Stream};
use crate::error::{ClientError, Code};
use crate::server_error::excerpt;

pub(super) type Socket = WebSocketStream<Stream>;

/// After that much silence the server is pinged; after as much again it is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// How long the server may take to say that it has closed the socket.
const CLOSING: Duration = Duration::from_secs(2);
/// Messages that are read before others get their turn.
const AT_ONCE: usize = 256;

/// The task's own part of a connection.
pub(super) struct Driver {
    pub(super) link: Arc<Link>,
    pub(super) socket: Socket,
    /// Frames that were taken, and are not written yet.
    pub(super) sending: VecDeque<Outgoing>,
    /// Sessions that the socket is still to have again; until then nothing else is sent.
    pub(super) attaching: HashMap<u64, Arc<Kept>>,
    /// When the socket was lost that this one stands for; none once all is as it was.
    pub(super) lost: Option<Instant>,
    /// Whether the socket has brought an answer.
    pub(super) useful: bool,
    /// How long to wait before the next attempt to come back.
    pub(super) pause: Duration,
    unflushed: bool,
    /// Pings since everything was sent last.
    pongs: usize,
    clock: Interval,
    heard: bool,
    pinged: bool,
    ping: bool,
}

/// Why a socket is not used any more.
pub(super) struct Loss {
    pub(super) error: ClientError,
    pub(super) mend: Mend,
}

/// What may be done about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// Come back and ask again.
    Repeat,
    /// Come back; to ask again would end the same way.
    Return,
    /// Nothing: the server does not speak the protocol.
    Nothing,
}

enum End {
    Released,
    Lost(Loss),
}

/// Drives a socket until nobody needs it any more.
pub(super) async fn run(link: Arc<Link>, socket: Socket) {
    let mut driver = Driver {
        link,
        socket,
        sending: VecDeque::new(),
        attaching: HashMap::new(),
        lost: None,
        useful: false,
        pause: Duration::ZERO,
        unflushed: false,
        pongs: 0,
        clock: clock(),
        heard: true,
        pinged: false,
        ping: false,
    };
    loop {
        match poll_fn(|context| driver.poll(context)).await {
            End::Released => return driver.hang_up().await,
            End::Lost(loss) => {
                if !driver.come_back(loss).await {
                    return;
                }
            }
        }
    }
}

impl Driver {
    /// Goes on with a new socket.
    pub(super) fn renew(&mut self, socket: Socket) {
        self.socket = socket;
        (self.sending, self.attaching) = self.link.attachments();
        (self.unflushed, self.useful, self.pongs) = (false, false, 0);
        self.clock = clock();
        (self.heard, self.pinged, self.ping) = (true, false, false);
        self.attached();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.link.driver.register(context.waker());
        match self.poll_once(context) {
            Ok(true) => Poll::Ready(End::Released),
            Ok(false) => Poll::Pending,
            Err(loss) => Poll::Ready(End::Lost(loss)),
        }
    }

    /// Does what can be done now; whether that was the last.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Result<bool, Loss> {
        self.poll_clock(context)?;
        self.poll_read(context)?;
        self.poll_write(context)?;
        Ok(self.attaching.is_empty() && self.sending.is_empty() && !self.unflushed && self.link.is_released())
    }

    fn poll_clock(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        while self.clock.poll_tick(context).is_ready() {
            if self.pinged && !self.heard {
                let why = format!("the server has said nothing for {} s", 2 * SILENCE.as_secs());
                return Err(Loss::of(&why, Mend::Repeat));
            }
            self.ping = !self.heard;
            self.pinged = self.ping;
            self.heard = false;
        }
        Ok(())
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        for _ in 0..AT_ONCE {
            match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.read(message)?,
                Poll::Ready(Some(Err(error))) => return Err(Loss::from(error)),
                Poll::Ready(None) => return Err(Loss::of("it was closed", Mend::Repeat)),
                Poll::Pending => return Ok(()),
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn read(&mut self, message: Message) -> Result<(), Loss> {
        self.heard = true;
        match message {
            Message::Text(text) => match id_of(&text) {
                Some(id) => match self.attaching.remove(&id) {
                    Some(kept) => {
                        self.link.attached(&kept, &text);
                        self.attached();
                    }
                    None => {
                        self.useful = true;
                        self.link.deliver(id, text);
                    }
                },
                None => self.event(&text)?,
            },
            Message::Close(frame) => return Err(Loss::closed(frame)),
            Message::Binary(_) => return Err(Loss::nonsense("a binary frame")),
            Message::Ping(_) => {
                // The library has made the pong, and would keep any number of them.
                (self.unflushed, self.pongs) = (true, self.pongs + 1);
                if self.pongs > MAX_UNSENT_PONGS {
                    return Err(Loss::of("the server pings and takes no pongs", Mend::Nothing));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&self, text: &Utf8Bytes) -> Result<(), Loss> {
        let envelope = Envelope::read(text).map_err(|error| Loss::nonsense(error.message()))?;
        match (envelope.kind, &envelope.session) {
            (ReplyKind::Taken, Some(session)) => self.link.taken(session),
            (ReplyKind::Error, _) => {
                tracing::warn!(reply = excerpt(text.as_bytes()), "the server could not read a request");
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets the callers' frames go if all sessions are there again.
    fn attached(&mut self) {
        if self.attaching.is_empty() {
            self.link.up();
            self.lost = None;
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        loop {
            if self.sending.is_empty() && self.attaching.is_empty() {
                std::mem::swap(&mut self.sending, &mut self.link.state.lock().outbox);
            }
            if self.sending.is_empty() && !self.ping {
                break;
            }
            if self.poll_frames(context)?.is_pending() {
                return Ok(());
            }
        }
        if self.unflushed && Pin::new(&mut self.socket).poll_flush(context)?.is_ready() {
            (self.unflushed, self.pongs) = (false, 0);
        }
        Ok(())
    }

    fn poll_frames(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Loss> {
        loop {
            if !self.ping && self.sending.is_empty() {
                return Ok(Poll::Ready(()));
            }
            if Pin::new(&mut self.socket).poll_ready(context)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let message = match std::mem::take(&mut self.ping) {
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

    /// Says goodbye. The server answers when it has read everything, the last requests too.
    async fn hang_up(&mut self) {
        let goodbye = async {
            self.socket.close(None).await?;
            while self.socket.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<(), SocketError>(())
        };
        let _ = timeout(CLOSING, goodbye).await;
    }
}

impl Drop for Driver {
    /// Also when the runtime ends that the task runs in.
    fn drop(&mut self) {
        self.link.over(&ClientError::new(Code::Closed, "the connection is closed"));
    }
}

impl Link {
    fn is_released(&self) -> bool {
        let state = self.state.lock();
        state.released && state.outbox.is_empty() && matches!(state.phase, Phase::Up)
    }
}

impl Loss {
    fn of(why: &str, mend: Mend) -> Self {
        let message = format!("the connection was lost: {why}");
        Loss { error: ClientError::new(Code::ConnectionLost, message), mend }
    }

    fn nonsense(what: &str) -> Self {
        let message = format!("the server does not keep to oxenv.1: {what}");
        Loss { error: ClientError::new(Code::InvalidReply, message), mend: Mend::Nothing }
    }

    fn closed(frame: Option<CloseFrame>) -> Self {
        let Some(frame) = frame else {
            return Loss::of("the server closed it", Mend::Repeat);
        };
        let code = u16::from(frame.code);
        // 1009: a frame was too long for the server, and would be again.
        let mend = if code == 1009 { Mend::Return } else { Mend::Repeat };
        let what = if code == 1009 { ": a request was longer than it takes" } else { "" };
        Loss::of(&format!("the server closed it with {code} {}{what}", frame.reason), mend)
    }
}

impl From<SocketError> for Loss {
    fn from(error: SocketError) -> Self {
        let mend = match &error {
            SocketError::Capacity(_) => Mend::Return,
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Mend::Repeat,
            SocketError::Protocol(_) | SocketError::Utf8(_) => return Loss::nonsense(&error.to_string()),
            _ => Mend::Repeat,
        };
        Loss::of(&error.to_string(), mend)
    }
}

fn clock() -> Interval {
    let mut clock = interval_at(after(Instant::now(), SILENCE), SILENCE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
