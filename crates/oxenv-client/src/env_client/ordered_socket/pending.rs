//! [`PendingReplies`]: the queue of requests that wait for a reply.
//!
//! Invariant: replies are handed out in the order of the requests; an abandoned request takes its reply, too.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The requests without a reply, and the replies that have not been taken yet.
#[derive(Default)]
pub(super) struct PendingReplies {
    entries: VecDeque<PendingReply>,
    /// The number of the first entry.
    first: u64,
    /// How many entries have their reply.
    answered: usize,
}

enum PendingReply {
    Waiting(Option<Waker>),
    /// The caller no longer waits.
    Abandoned,
    Answered(Utf8Bytes),
    Taken,
}

impl PendingReplies {
    /// Adds a request and gives its number.
    pub(super) fn push(&mut self) -> u64 {
        self.entries.push_back(PendingReply::Waiting(None));
        self.first + self.entries.len() as u64 - 1
    }

    /// Whether no reply is missing.
    pub(super) fn all_answered(&self) -> bool {
        self.answered == self.entries.len()
    }

    /// Whether that request has its reply.
    pub(super) fn is_answered(&self, number: u64) -> bool {
        number < self.next_number()
    }

    /// The number of the request whose reply comes next.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.answered as u64
    }

    /// Takes the waker of a request.
    pub(super) fn take_waker(&mut self, number: u64) -> Option<Waker> {
        match self.entry(number) {
            Some(PendingReply::Waiting(waker)) => waker.take(),
            _ => None,
        }
    }

    /// Sets the waker of a request; `before` is its earlier one, which is kept if it wakes the same task.
    pub(super) fn set_waker(&mut self, number: u64, before: Option<Waker>, cx: &Context<'_>) {
        if let Some(PendingReply::Waiting(waker)) = self.entry(number) {
            let before = before.filter(|waker| waker.will_wake(cx.waker()));
            *waker = Some(before.unwrap_or_else(|| cx.waker().clone()));
        }
    }

    /// Hands a reply to the next request, and wakes its caller.
    pub(super) fn deliver(&mut self, text: Utf8Bytes) {
        let Some(place) = self.entries.get_mut(self.answered) else { return };
        self.answered += 1;
        if let PendingReply::Waiting(waker) = std::mem::replace(place, PendingReply::Taken) {
            *place = PendingReply::Answered(text);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.drop_taken();
    }

    /// Takes the reply of a request, if it is there.
    pub(super) fn take(&mut self, number: u64) -> Option<Utf8Bytes> {
        let place = self.entry(number)?;
        if !matches!(place, PendingReply::Answered(_)) {
            return None;
        }
        let PendingReply::Answered(text) = std::mem::replace(place, PendingReply::Taken) else { return None };
        self.wake_next_reader();
        Some(text)
    }

    /// Abandons a request. Its reply is thrown away when it comes.
    pub(super) fn abandon(&mut self, number: u64) {
        let left = if self.is_answered(number) { PendingReply::Taken } else { PendingReply::Abandoned };
        if let Some(place) = self.entry(number) {
            *place = left;
        }
        self.wake_next_reader();
    }

    /// No more replies come: wakes all.
    pub(super) fn wake_all(&mut self) {
        for place in &mut self.entries {
            if let PendingReply::Waiting(waker) = place
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Wakes another caller that waits, to read the socket.
    fn wake_next_reader(&mut self) {
        self.drop_taken();
        let waiting = self.entries.iter().skip(self.answered).find_map(|place| match place {
            PendingReply::Waiting(Some(waker)) => Some(waker),
            _ => None,
        });
        if let Some(waker) = waiting {
            waker.wake_by_ref();
        }
    }

    /// Drops the leading entries that are no longer needed.
    fn drop_taken(&mut self) {
        while self.answered > 0 && matches!(self.entries.front(), Some(PendingReply::Taken)) {
            self.entries.pop_front();
            self.answered -= 1;
            self.first += 1;
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut PendingReply> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}
