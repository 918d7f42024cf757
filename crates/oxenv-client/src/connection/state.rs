//! What the callers of a connection and the task that drives its socket share.
//!
//! Invariant: each request is in one place, `waiting`, from the moment that it is made until its answer is there or
//! its caller gives up; the lock is never held across an await, nor while an answer is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use oxenv_wire::{Delivered, SessionCreated};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::frame::{Frame, quoted};
use super::reply;
use crate::error::{ClientError, Code, Result};
use crate::options::ClientOptions;
use crate::server_address::Target;

/// Requests in flight: as many as a server reads before it has answered some.
pub(super) const IN_FLIGHT: u32 = 1024;

/// The shared part of a connection.
pub(super) struct Link {
    pub(super) target: Target,
    pub(super) options: ClientOptions,
    pub(super) state: Mutex<State>,
    /// Wakes the task when there is something to write.
    pub(super) driver: AtomicWaker,
    /// Told when the connection's last user is gone.
    pub(super) released: Notify,
    room: Semaphore,
    ids: AtomicU64,
    /// What the keys that are made here begin with.
    prefix: String,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Frames that the task has not taken yet, in the order in which they are to be sent.
    pub(super) outbox: VecDeque<Outgoing>,
    pub(super) waiting: HashMap<u64, Waiting>,
    pub(super) sessions: HashMap<String, Arc<Kept>>,
    /// Whether the connection's last user is gone.
    pub(super) released: bool,
}

#[derive(Default)]
pub(super) enum Phase {
    #[default]
    Up,
    /// The socket is lost and there is something to come back for.
    Lost,
    /// There is no socket and there will be none.
    Over(ClientError),
}

/// A frame on its way out.
pub(super) struct Outgoing {
    pub(super) id: u64,
    pub(super) text: Utf8Bytes,
}

/// A request whose answer is not there yet.
pub(super) struct Waiting {
    /// Who waits; nobody any more, where the answer matters without its caller.
    pub(super) answer: Option<oneshot::Sender<Result<Reply>>>,
    pub(super) again: Option<Again>,
    pub(super) whose: Whose,
    pub(super) makes: Option<Making>,
    /// Whether it was written to a socket that is gone now.
    pub(super) written: bool,
}

/// How a request outlives its socket: the same frame is sent again, within that time.
pub(super) struct Again {
    pub(super) text: Utf8Bytes,
    pub(super) within: Duration,
}

/// Which sessions a request is about.
pub(super) enum Whose {
    Nobody,
    One(Arc<Kept>),
    Several,
}

/// A request whose answer brings sessions.
#[derive(Clone, Copy)]
pub(super) struct Making {
    pub(super) resume: Option<Duration>,
    /// Whether they end with whoever asked for them.
    pub(super) owned: bool,
}

/// An answer, and the sessions that came with it.
pub(super) struct Reply {
    pub(super) text: Utf8Bytes,
    pub(super) holds: Vec<Hold>,
}

/// A session of the socket.
pub(super) struct Kept {
    pub(super) id: String,
    /// The id as JSON.
    pub(super) quoted: String,
    pub(super) mcp_url: String,
    pub(super) agent_token: Option<String>,
    pub(super) resume: Option<Duration>,
    /// Why it cannot be used any more.
    pub(super) gone: OnceLock<ClientError>,
    users: AtomicUsize,
}

/// The use of a session. Dropping it ends the session if it is owned, without waiting for that.
pub(super) struct Hold {
    pub(super) link: Arc<Link>,
    pub(super) kept: Arc<Kept>,
    owned: bool,
}

/// A request that is ready to be sent.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) text: String,
    /// Within what time it may be sent again after a lost socket.
    pub(super) again: Option<Duration>,
    pub(super) whose: Whose,
    pub(super) makes: Option<Making>,
    /// How many requests it counts as.
    pub(super) weight: u32,
}

/// A request on its way, which is given up by being dropped.
struct Ticket<'a> {
    link: &'a Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<Result<Reply>>,
    /// Whether the request may have been delivered, told to whoever gives it up.
    fate: &'a mut Delivered,
    answered: bool,
}

impl Link {
    pub(super) fn new(target: Target, options: ClientOptions) -> Arc<Self> {
        Arc::new(Link {
            target,
            options,
            state: Mutex::default(),
            driver: AtomicWaker::new(),
            released: Notify::new(),
            room: Semaphore::new(IN_FLIGHT as usize),
            ids: AtomicU64::new(1),
            prefix: Uuid::new_v4().simple().to_string(),
        })
    }

    /// The number of the next request.
    pub(super) fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The key of a request that may be sent again.
    pub(super) fn key(&self, id: u64) -> String {
        format!("{}-{id}", self.prefix)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Why there is none; what the server refuses is an answer.
    pub(super) async fn ask(self: &Arc<Self>, request: Request, limit: Duration) -> Result<Reply> {
        let mut fate = Delivered::No;
        let answer = tokio::time::timeout(limit, self.answer(request, &mut fate)).await;
        answer.unwrap_or_else(|_| {
            let message = format!("no answer came within {} s", limit.as_secs_f64());
            Err(ClientError::new(Code::TimedOut, message).with_delivered(fate))
        })
    }

    async fn answer(self: &Arc<Self>, request: Request, fate: &mut Delivered) -> Result<Reply> {
        // Without waiting where that can be done, so that requests go out in the order in which they were begun.
        let _room = match self.room.try_acquire_many(request.weight) {
            Ok(room) => Ok(room),
            // The semaphore is never closed.
            Err(_) => self.room.acquire_many(request.weight).await,
        };
        let id = request.id;
        let answer = self.enlist(request)?;
        let mut ticket = Ticket { link: self, id, answer, fate, answered: false };
        let answer = (&mut ticket.answer).await;
        ticket.answered = true;
        // Whoever drives the socket answers everything before it ends.
        answer.unwrap_or_else(|_| Err(ClientError::new(Code::Closed, "the connection is closed")))
    }

    fn enlist(&self, request: Request) -> Result<oneshot::Receiver<Result<Reply>>> {
        let (tell, answer) = oneshot::channel();
        let mut state = self.state.lock();
        if let Phase::Over(error) = &state.phase {
            return Err(error.clone().with_delivered(Delivered::No));
        }
        if let Whose::One(kept) = &request.whose {
            kept.usable()?;
        }
        state.push(request, Some(tell));
        drop(state);
        self.driver.wake();
        Ok(answer)
    }

    /// Answers a request; nothing happens if nobody waits for it.
    pub(super) fn deliver(self: &Arc<Self>, id: u64, text: Utf8Bytes) {
        let mut state = self.state.lock();
        let Some(waiting) = state.waiting.remove(&id) else { return };
        let holds = match (waiting.makes, &waiting.whose) {
            (Some(making), _) => {
                reply::made(&text).into_iter().map(|made| self.hold(&mut state, made, making)).collect()
            }
            (None, Whose::One(kept)) if waiting.answer.is_none() => {
                // The answer to a close that nobody waits for.
                state.forget(kept);
                Vec::new()
            }
            _ => Vec::new(),
        };
        drop(state);
        let reply = Reply { text, holds };
        // What nobody takes is dropped, and its sessions are ended with it.
        if let Some(answer) = waiting.answer {
            let _ = answer.send(Ok(reply));
        }
    }

    fn hold(self: &Arc<Self>, state: &mut State, made: SessionCreated, making: Making) -> Hold {
        let kept = match state.sessions.get(&made.session_id).filter(|kept| kept.gone.get().is_none()) {
            Some(kept) => Arc::clone(kept),
            None => {
                let kept = Arc::new(Kept {
                    quoted: quoted(&made.session_id),
                    mcp_url: self.target.http_url(path_of(&made.mcp_url)),
                    agent_token: made.agent_token,
                    resume: making.resume,
                    gone: OnceLock::new(),
                    users: AtomicUsize::new(0),
                    id: made.session_id,
                });
                state.sessions.insert(kept.id.clone(), Arc::clone(&kept));
                kept
            }
        };
        kept.users.fetch_add(1, Ordering::Relaxed);
        Hold { link: Arc::clone(self), kept, owned: making.owned }
    }

    /// Another client has taken a session.
    pub(super) fn taken(&self, session: &str) {
        let mut state = self.state.lock();
        if let Some(kept) = state.sessions.remove(session) {
            let message =
                format!("another client took the session {session}: attach to it again to take it back");
            let code = Code::Server(oxenv_wire::ErrorCode::SessionError);
            let _ = kept.gone.set(ClientError::new(code, message).with_delivered(Delivered::No));
        }
    }

    /// The connection's last user is gone.
    pub(super) fn release(&self) {
        self.state.lock().released = true;
        self.released.notify_one();
        self.driver.wake();
    }

    fn let_go(&self, kept: &Arc<Kept>, end: bool) {
        let last = kept.users.fetch_sub(1, Ordering::Relaxed) == 1;
        let mut state = self.state.lock();
        let usable = kept.gone.get().is_none() && !matches!(state.phase, Phase::Over(_));
        if end && usable {
            let id = self.id();
            let _ = kept.gone.set(closed(&kept.id));
            state.push(close(id, kept), None);
            drop(state);
            self.driver.wake();
        } else if last {
            state.forget(kept);
        }
    }
}

impl State {
    fn push(&mut self, request: Request, answer: Option<oneshot::Sender<Result<Reply>>>) {
        let Request { id, text, again, whose, makes, .. } = request;
        let text = Utf8Bytes::from(text);
        let again = again.map(|within| Again { text: text.clone(), within });
        self.waiting.insert(id, Waiting { answer, again, whose, makes, written: false });
        self.outbox.push_back(Outgoing { id, text });
    }

    /// Whether a request may have been delivered.
    pub(super) fn fate(&self, id: u64) -> Delivered {
        let written = self.waiting.get(&id).is_none_or(|waiting| waiting.written);
        let still_here = self.outbox.iter().any(|frame| frame.id == id);
        if still_here && !written { Delivered::No } else { Delivered::Maybe }
    }

    fn forget(&mut self, kept: &Arc<Kept>) {
        if self.sessions.get(&kept.id).is_some_and(|found| Arc::ptr_eq(found, kept)) {
            self.sessions.remove(&kept.id);
        }
    }
}

impl Kept {
    pub(super) fn usable(&self) -> Result<()> {
        match self.gone.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.link.let_go(&self.kept, self.owned);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut state = self.link.state.lock();
        *self.fate = state.fate(self.id);
        let sent = *self.fate != Delivered::No;
        match state.waiting.get_mut(&self.id) {
            // The sessions that it makes are to be ended when they are there.
            Some(waiting) if sent && waiting.makes.is_some() => waiting.answer = None,
            _ => {
                state.waiting.remove(&self.id);
                state.outbox.retain(|frame| frame.id != self.id);
            }
        }
        drop(state);
        // An answer that came just now is dropped with its sessions, outside the lock.
        self.answer.close();
        drop(self.answer.try_recv());
    }
}

/// The request that ends a session.
pub(super) fn close(id: u64, kept: &Arc<Kept>) -> Request {
    let text = Frame::request(id, "close").with("session", &kept.quoted).end();
    Request { id, text, again: kept.resume, whose: Whose::One(Arc::clone(kept)), makes: None, weight: 1 }
}

pub(super) fn closed(session: &str) -> ClientError {
    ClientError::new(Code::Closed, format!("the session {session} was closed"))
}

/// The path of an address that a server told: it may not know the name that it is called by from here.
fn path_of(address: &str) -> &str {
    match address.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_behind_others_keep_their_path_alone() {
        assert_eq!(path_of("http://inner:1/sessions/a/mcp"), "/sessions/a/mcp");
        assert_eq!(path_of("/sessions/a/mcp"), "/sessions/a/mcp");
        assert_eq!(path_of("http://inner"), "");
    }
}
