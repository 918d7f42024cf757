//! What happens when a socket is lost: who is told at once, who is come back for, and what is asked again.
//!
//! Invariant: only a request that the server runs once is sent again, and only to sessions that this socket has
//! again. What was never written says so; of what was, nobody knows.

use oxenv_core::after;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Delivered, MULTI_PROTOCOL, ReplyKind};
use parking_lot::MutexGuard;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::driver::{Driver, Loss, Mend};
use super::frame::Frame;
use super::reply::Envelope;
use super::state::{Kept, Link, Outgoing, Phase, State, Whose};
use crate::dial::dial;
use crate::error::{ClientError, Code};

/// The second attempt comes that long after the first; each later one after twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// No attempt is further from the last one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Nobody's time is longer; clocks end somewhere.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Driver {
    /// Comes back after a lost socket; whether there is another one.
    pub(super) async fn come_back(&mut self, loss: Loss) -> bool {
        let unwritten = std::mem::take(&mut self.sending);
        let unwritten = if self.attaching.is_empty() { unwritten } else { VecDeque::new() };
        self.attaching.clear();
        if !self.link.lose(&loss, unwritten) {
            return false;
        }
        if self.useful {
            self.pause = Duration::ZERO;
        }
        let since = *self.lost.get_or_insert_with(Instant::now);
        let link = Arc::clone(&self.link);
        let mut last = loss.error;
        loop {
            let Some(until) = link.expire(since, &last) else { return false };
            let pause = self.next_pause();
            let attempt = async {
                sleep(pause).await;
                dial(&link.target, "/ws", Some(MULTI_PROTOCOL), &link.options).await
            };
            let dialled = tokio::select! {
                biased;
                () = link.released.notified() => return false,
                dialled = timeout_at(until, attempt) => dialled,
            };
            match dialled {
                Ok(Ok(dialled)) if dialled.subprotocol.as_deref() == Some(MULTI_PROTOCOL) => {
                    self.renew(dialled.socket);
                    return true;
                }
                Ok(Ok(_)) => last = super::not_spoken(&link.target),
                Ok(Err(error)) => last = error,
                // Somebody's time is over; the others' may not be.
                Err(_) => {}
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (2 * pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        // Not all clients of a server that comes back are to meet at its door.
        let share = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
        pause.mul_f64(0.75 + 0.25 * share)
    }
}

impl Link {
    /// Tells everybody that the socket does not outlive; whether there is anything to come back for.
    fn lose(&self, loss: &Loss, unwritten: VecDeque<Outgoing>) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for frame in unwritten.into_iter().rev() {
            state.outbox.push_front(frame);
        }
        let unwritten: HashSet<u64> = state.outbox.iter().map(|frame| frame.id).collect();
        for (id, waiting) in &mut state.waiting {
            waiting.written |= !unwritten.contains(id);
        }
        state.sessions.retain(|_, kept| {
            if kept.resume.is_none() {
                let _ = kept.gone.set(loss.error.clone().with_delivered(Delivered::No));
            }
            kept.resume.is_some()
        });
        let wanted = !state.sessions.is_empty() || state.waiting.values().any(|one| one.again.is_some());
        let mend = if wanted && !state.released { loss.mend } else { Mend::Nothing };
        let given_up: Vec<u64> = state
            .waiting
            .iter()
            .filter(|(_, waiting)| match (mend, &waiting.again) {
                (Mend::Nothing, _) => true,
                (Mend::Return, Some(_)) => waiting.written,
                (Mend::Repeat, Some(_)) => false,
                // An `open` that was never sent can as well be sent later.
                (_, None) => waiting.written || !matches!(waiting.whose, Whose::Nobody),
            })
            .map(|(id, _)| *id)
            .collect();
        state.phase = if mend == Mend::Nothing { Phase::Over(loss.error.clone()) } else { Phase::Lost };
        fail(guard, &given_up, &loss.error);
        mend != Mend::Nothing
    }

    /// Gives up what has been lost for too long; when the next one's time is over, if anybody is left.
    fn expire(&self, since: Instant, last: &ClientError) -> Option<Instant> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let end = |within: Duration| after(since, within.min(FOREVER));
        let message = format!("the connection was lost and did not come back in time: {}", last.message());
        let error = ClientError::new(Code::ConnectionLost, message);
        state.sessions.retain(|_, kept| {
            let left = kept.resume.is_some_and(|resume| end(resume) > now);
            if !left {
                let _ = kept.gone.set(error.clone().with_delivered(Delivered::No));
            }
            left
        });
        let mut given_up = Vec::new();
        let mut next = state.sessions.values().filter_map(|kept| kept.resume).map(end).min();
        for (id, waiting) in &state.waiting {
            match waiting.again.as_ref().map(|again| end(again.within)) {
                Some(end) if end <= now => given_up.push(*id),
                Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                None => {}
            }
        }
        if next.is_none() {
            state.phase = Phase::Over(error.clone());
            given_up = state.waiting.keys().copied().collect();
        }
        fail(guard, &given_up, &error);
        next
    }

    /// The frames that ask for all sessions again, and whose they are.
    pub(super) fn attachments(&self) -> (VecDeque<Outgoing>, HashMap<u64, Arc<Kept>>) {
        let state = self.state.lock();
        let asked = state.sessions.values().map(|kept| (self.id(), Arc::clone(kept)));
        let attaching: HashMap<u64, Arc<Kept>> = asked.collect();
        let frames = attaching.iter().map(|(id, kept)| {
            let text = Frame::request(*id, "attach").with("session", &kept.quoted).end();
            Outgoing { id: *id, text: text.into() }
        });
        (frames.collect(), attaching)
    }

    /// Reads the answer to an `attach` of a session that was there before.
    pub(super) fn attached(&self, kept: &Arc<Kept>, text: &str) {
        let Err(error) = Envelope::read(text).and_then(|reply| reply.data(ReplyKind::Attached)) else {
            return;
        };
        let mut guard = self.state.lock();
        let _ = kept.gone.set(error.clone().with_delivered(Delivered::No));
        guard.sessions.remove(&kept.id);
        let theirs = |whose: &Whose| matches!(whose, Whose::One(one) if Arc::ptr_eq(one, kept));
        let waiting = guard.waiting.iter().filter(|(_, waiting)| theirs(&waiting.whose));
        let given_up: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        fail(guard, &given_up, &error);
    }

    /// All is as it was: what was in flight goes first, in the order in which it was asked.
    pub(super) fn up(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut frames: Vec<Outgoing> = state.outbox.drain(..).collect();
        let written = state.waiting.iter().filter(|(_, waiting)| waiting.written);
        frames.extend(written.filter_map(|(id, waiting)| {
            let text = waiting.again.as_ref()?.text.clone();
            Some(Outgoing { id: *id, text })
        }));
        frames.sort_by_key(|frame| frame.id);
        frames.dedup_by_key(|frame| frame.id);
        state.outbox = frames.into();
        state.phase = Phase::Up;
    }

    /// Tells everybody that there is no socket any more.
    pub(super) fn over(&self, error: &ClientError) {
        let mut guard = self.state.lock();
        let all: Vec<u64> = guard.waiting.keys().copied().collect();
        if !matches!(guard.phase, Phase::Over(_)) {
            guard.phase = Phase::Over(error.clone());
        }
        fail(guard, &all, error);
    }
}

/// Tells those requests that they failed, once the lock is released.
fn fail(mut state: MutexGuard<'_, State>, ids: &[u64], error: &ClientError) {
    let mut told = Vec::with_capacity(ids.len());
    for id in ids {
        let delivered = state.fate(*id);
        let waiting = state.waiting.remove(id);
        told.extend(waiting.and_then(|waiting| waiting.answer).map(|answer| (answer, delivered)));
    }
    let gone: HashSet<u64> = ids.iter().copied().collect();
    state.outbox.retain(|frame| !gone.contains(&frame.id));
    drop(state);
    for (answer, delivered) in told {
        let _ = answer.send(Err(error.clone().with_delivered(delivered)));
    }
}
