//! The sessions of one socket that has many.
//!
//! Invariant: a session is in here from the moment that the socket takes it until it is closed, another
//! socket takes it, or the socket goes; with the socket go the sessions that were made for it alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use oxenv_core::{Attachment, EndReason, Failure, Session};
use oxenv_wire::{ErrorCode, ReplyHead, ReplyKind, write_multi_reply};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Frames that were not requested, or that come later, and wait until the socket takes them.
const MAX_QUEUED_FRAMES: usize = 64;

/// The sessions, and the channel to the socket for unrequested frames.
pub(crate) struct SocketSessions {
    sessions: Mutex<HashMap<String, SocketSession>>,
    frames: mpsc::Sender<String>,
}

struct SocketSession {
    attachment: Attachment,
    /// Whether the session ends with the socket.
    ends_with_socket: bool,
    /// Notifies the client when another socket takes the session.
    _watch: AbortOnDropHandle<()>,
}

impl Drop for SocketSession {
    fn drop(&mut self) {
        if self.ends_with_socket && !self.attachment.is_superseded() {
            self.attachment.session().end(EndReason::Closed);
        }
    }
}

impl SocketSessions {
    /// No sessions, and the frames to send.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<String>) {
        let (frames, taken) = mpsc::channel(MAX_QUEUED_FRAMES);
        (Arc::new(SocketSessions { sessions: Mutex::default(), frames }), taken)
    }

    /// The session of that id; none if the socket does not have it, a failure if it had.
    pub(crate) fn session(&self, id: &str) -> Option<Result<Arc<Session>, Failure>> {
        let sessions = self.lock();
        let hold = sessions.get(id)?;
        if hold.attachment.is_superseded() {
            return Some(Err(Failure::new(
                ErrorCode::SessionError,
                "another socket has attached to this session",
            )));
        }
        Some(Ok(Arc::clone(hold.attachment.session())))
    }

    /// Takes a session for the socket. With `ends_with_socket` it ends with the socket.
    pub(crate) fn take(self: &Arc<Self>, session: &Arc<Session>, ends_with_socket: bool) {
        let id = session.id().to_owned();
        let mut sessions = self.lock();
        if let Some(hold) = sessions.get_mut(&id)
            && !hold.attachment.is_superseded()
        {
            hold.ends_with_socket = ends_with_socket;
            return;
        }
        let attachment = session.attach();
        let superseded = attachment.superseded();
        let held = Arc::downgrade(self);
        let watched = id.clone();
        let watch = tokio::spawn(async move {
            superseded.await;
            report_taken(&held, &watched).await;
        });
        let hold = SocketSession { attachment, ends_with_socket, _watch: AbortOnDropHandle::new(watch) };
        let before = sessions.insert(id, hold);
        drop(sessions);
        drop(before);
    }

    /// Whether the socket has that session.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|hold| !hold.attachment.is_superseded())
    }

    /// Whether the socket has no session.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Lets a session go that is of no use any more.
    pub(crate) fn forget(&self, id: &str) {
        let hold = self.lock().remove(id);
        // Outside the lock: the session may end with it.
        drop(hold);
    }

    /// Sends a frame as soon as there is room for it.
    pub(crate) async fn send(&self, frame: String) {
        // There is no receiver only when the socket is gone.
        let _ = self.frames.send(frame).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, SocketSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn report_taken(held: &Weak<SocketSessions>, id: &str) {
    let Some(held) = held.upgrade() else { return };
    let mut frame = String::new();
    let head = ReplyHead { session: Some(id), ..ReplyHead::default() };
    write_multi_reply(&mut frame, &head, ReplyKind::Taken, |_| {});
    held.send(frame).await;
    // Only this one: the socket may have taken the session back meanwhile.
    let gone = {
        let mut sessions = held.lock();
        match sessions.get(id).is_some_and(|hold| hold.attachment.is_superseded()) {
            true => sessions.remove(id),
            false => None,
        }
    };
    drop(gone);
}
