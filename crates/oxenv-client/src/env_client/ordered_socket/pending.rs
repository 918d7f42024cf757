//! [`Places`]: who waits for which reply.
//!
//! Invariant: replies go to the places in the order of the requests; a place that was given up takes its reply, too.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The requests without a reply, and the replies that nobody has taken yet.
#[derive(Default)]
pub(super) struct Places {
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// How many of the places have got their reply.
    answered: usize,
}

enum Place {
    Waiting(Option<Waker>),
    /// Nobody waits any more.
    GivenUp,
    Answered(Utf8Bytes),
    Taken,
}

impl Places {
    /// A place behind all others; its number.
    pub(super) fn add(&mut self) -> u64 {
        self.places.push_back(Place::Waiting(None));
        self.first + self.places.len() as u64 - 1
    }

    /// Whether no reply is missing.
    pub(super) fn are_answered(&self) -> bool {
        self.answered == self.places.len()
    }

    /// Whether that place has got its reply.
    pub(super) fn is_answered(&self, number: u64) -> bool {
        number < self.next()
    }

    /// Whose reply comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.answered as u64
    }

    /// Whom to wake; nobody until it waits again.
    pub(super) fn stop_waiting(&mut self, number: u64) -> Option<Waker> {
        match self.place(number) {
            Some(Place::Waiting(waker)) => waker.take(),
            _ => None,
        }
    }

    /// Waits; `before` is whom it had to wake.
    pub(super) fn wait(&mut self, number: u64, before: Option<Waker>, cx: &Context<'_>) {
        if let Some(Place::Waiting(waker)) = self.place(number) {
            let before = before.filter(|waker| waker.will_wake(cx.waker()));
            *waker = Some(before.unwrap_or_else(|| cx.waker().clone()));
        }
    }

    /// Gives a reply to the next place, and wakes who waits there.
    pub(super) fn deliver(&mut self, text: Utf8Bytes) {
        let Some(place) = self.places.get_mut(self.answered) else { return };
        self.answered += 1;
        if let Place::Waiting(waker) = std::mem::replace(place, Place::Taken) {
            *place = Place::Answered(text);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.forget();
    }

    /// Takes the reply of a place, which is left with it.
    pub(super) fn take(&mut self, number: u64) -> Option<Utf8Bytes> {
        let place = self.place(number)?;
        if !matches!(place, Place::Answered(_)) {
            return None;
        }
        let Place::Answered(text) = std::mem::replace(place, Place::Taken) else { return None };
        self.leave();
        Some(text)
    }

    /// Leaves a place. It still takes its reply, if that is to come.
    pub(super) fn give_up(&mut self, number: u64) {
        let left = if self.is_answered(number) { Place::Taken } else { Place::GivenUp };
        if let Some(place) = self.place(number) {
            *place = left;
        }
        self.leave();
    }

    /// No more replies come: wakes all.
    pub(super) fn wake_all(&mut self) {
        for place in &mut self.places {
            if let Place::Waiting(waker) = place
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Who leaves lets another who waits read the socket.
    fn leave(&mut self) {
        self.forget();
        let waiting = self.places.iter().skip(self.answered).find_map(|place| match place {
            Place::Waiting(Some(waker)) => Some(waker),
            _ => None,
        });
        if let Some(waker) = waiting {
            waker.wake_by_ref();
        }
    }

    /// Drops the first places as long as nobody needs them.
    fn forget(&mut self) {
        while self.answered > 0 && matches!(self.places.front(), Some(Place::Taken)) {
            self.places.pop_front();
            self.answered -= 1;
            self.first += 1;
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}
