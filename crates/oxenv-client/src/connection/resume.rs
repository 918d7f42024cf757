//! Reconnecting after a lost socket: which requests fail, which sessions are attached again, what is sent
//! again.
//!
//! Invariant: a request is sent again only if it has a key, and only after its session is attached again. A
//! request that was never written fails as not delivered; one that was written as maybe delivered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Delivered, ReplyKind, after};
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::frame::FrameWriter;
use super::loss::{LossRecovery, SocketLoss};
use super::reply::ReplyEnvelope;
use super::state::{
    ConnectionInner, ConnectionPhase, ConnectionState, OutgoingFrame, RequestScope, SessionEntry,
};
use crate::error::{ClientError, Code};

/// The longest time that a session is kept, so that deadlines do not overflow.
const MAX_RESUME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The first frames of a new socket.
pub(super) struct Reattachment {
    /// An `attach` for each session that is left.
    pub(super) frames: VecDeque<OutgoingFrame>,
    /// The sessions, by the ids of those frames.
    pub(super) sessions: HashMap<u64, Arc<SessionEntry>>,
}

impl ConnectionInner {
    /// Fails what cannot outlive the socket; true if something is left to reconnect for.
    pub(super) fn handle_loss(&self, loss: &SocketLoss, unwritten: VecDeque<OutgoingFrame>) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for frame in unwritten.into_iter().rev() {
            state.outbox.push_front(frame);
        }
        let unwritten: HashSet<u64> = state.outbox.iter().map(|frame| frame.id).collect();
        for (id, waiting) in &mut state.pending {
            waiting.written |= !unwritten.contains(id);
        }
        state.sessions.retain(|_, entry| {
            if entry.resume.is_none() {
                let _ = entry.gone_error.set(loss.error.clone().with_delivered(Delivered::No));
            }
            entry.resume.is_some()
        });
        let wanted = !state.sessions.is_empty() || state.pending.values().any(|one| one.resend.is_some());
        let recovery = if wanted && !state.released { loss.recovery } else { LossRecovery::GiveUp };
        let given_up: Vec<u64> = state
            .pending
            .iter()
            .filter(|(_, waiting)| match (recovery, &waiting.resend) {
                (LossRecovery::GiveUp, _) => true,
                (LossRecovery::Reconnect, Some(_)) => waiting.written,
                (LossRecovery::Resend, Some(_)) => false,
                // An `open` that was never sent can be sent later.
                (_, None) => waiting.written || !matches!(waiting.scope, RequestScope::NoSession),
            })
            .map(|(id, _)| *id)
            .collect();
        state.phase = if recovery == LossRecovery::GiveUp {
            ConnectionPhase::Closed(loss.error.clone())
        } else {
            ConnectionPhase::Reconnecting
        };
        fail_requests(guard, &given_up, &loss.error);
        recovery != LossRecovery::GiveUp
    }

    /// Fails what has been lost for too long; returns the next deadline, or `None` if nothing is
    /// left.
    pub(super) fn expire_requests(&self, since: Instant, last: &ClientError) -> Option<Instant> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let end = |within: Duration| after(since, within.min(MAX_RESUME));
        let message = format!("the connection was lost and did not come back in time: {}", last.message());
        let error = ClientError::new(Code::ConnectionLost, message);
        state.sessions.retain(|_, entry| {
            let left = entry.resume.is_some_and(|resume| end(resume) > now);
            if !left {
                let _ = entry.gone_error.set(error.clone().with_delivered(Delivered::No));
            }
            left
        });
        let mut given_up = Vec::new();
        let mut next = state.sessions.values().filter_map(|entry| entry.resume).map(end).min();
        for (id, waiting) in &state.pending {
            match waiting.resend.as_ref().map(|again| end(again.within)) {
                Some(end) if end <= now => given_up.push(*id),
                Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                None => {}
            }
        }
        if next.is_none() {
            state.phase = ConnectionPhase::Closed(error.clone());
            given_up = state.pending.keys().copied().collect();
        }
        fail_requests(guard, &given_up, &error);
        next
    }

    /// The frames that ask for all sessions again.
    pub(super) fn reattach(&self) -> Reattachment {
        let state = self.state.lock();
        let asked = state.sessions.values().map(|entry| (self.next_id(), Arc::clone(entry)));
        let attaching: HashMap<u64, Arc<SessionEntry>> = asked.collect();
        let frames = attaching.iter().map(|(id, entry)| {
            let text = FrameWriter::request(*id, "attach").with("session", &entry.quoted_id).finish();
            OutgoingFrame { id: *id, text: text.into() }
        });
        Reattachment { frames: frames.collect(), sessions: attaching }
    }

    /// Reads the answer to an `attach` of a session that was there before.
    pub(super) fn handle_attached(&self, entry: &Arc<SessionEntry>, text: &str) {
        let Err(error) = ReplyEnvelope::parse(text).and_then(|reply| reply.data(ReplyKind::Attached)) else {
            return;
        };
        let mut guard = self.state.lock();
        let _ = entry.gone_error.set(error.clone().with_delivered(Delivered::No));
        guard.sessions.remove(&entry.id);
        let theirs =
            |scope: &RequestScope| matches!(scope, RequestScope::Session(one) if Arc::ptr_eq(one, entry));
        let waiting = guard.pending.iter().filter(|(_, waiting)| theirs(&waiting.scope));
        let given_up: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        fail_requests(guard, &given_up, &error);
    }

    /// Queues the requests in flight before newer ones, in their original order.
    pub(super) fn resume_requests(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut frames: Vec<OutgoingFrame> = state.outbox.drain(..).collect();
        let written = state.pending.iter().filter(|(_, waiting)| waiting.written);
        frames.extend(written.filter_map(|(id, waiting)| {
            let text = waiting.resend.as_ref()?.text.clone();
            Some(OutgoingFrame { id: *id, text })
        }));
        frames.sort_by_key(|frame| frame.id);
        frames.dedup_by_key(|frame| frame.id);
        state.outbox = frames.into();
        state.phase = ConnectionPhase::Open;
    }

    /// Fails every request: there is no socket any more.
    pub(super) fn fail_all(&self, error: &ClientError) {
        let mut guard = self.state.lock();
        let all: Vec<u64> = guard.pending.keys().copied().collect();
        if !matches!(guard.phase, ConnectionPhase::Closed(_)) {
            guard.phase = ConnectionPhase::Closed(error.clone());
        }
        fail_requests(guard, &all, error);
    }
}

/// Fails these requests; callers are notified after the lock is released.
fn fail_requests(mut state: MutexGuard<'_, ConnectionState>, ids: &[u64], error: &ClientError) {
    let mut failed = Vec::with_capacity(ids.len());
    for id in ids {
        let delivered = state.delivery(*id);
        let waiting = state.pending.remove(id);
        failed.extend(waiting.and_then(|waiting| waiting.reply_sender).map(|answer| (answer, delivered)));
    }
    let gone: HashSet<u64> = ids.iter().copied().collect();
    state.outbox.retain(|frame| !gone.contains(&frame.id));
    drop(state);
    for (answer, delivered) in failed {
        let _ = answer.send(Err(error.clone().with_delivered(delivered)));
    }
}
