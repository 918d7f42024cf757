//! Time limits and rare events beside a hot loop, at next to no cost while nothing happens.
//!
//! Invariant: a timer is made only for work that is not done at its first poll, and an event's
//! future is polled only when it was woken, however often the loop around it turns.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

/// Awaits work for that long at most; `None` when it took longer.
pub(crate) async fn within<W: Future>(limit: Duration, work: W) -> Option<W::Output> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout(limit, work).await.ok(),
    }
}

/// Events that may come while a loop does other things.
pub(crate) struct Events<'a, E>(FuturesUnordered<Pin<Box<dyn Future<Output = E> + Send + 'a>>>);

impl<'a, E> Events<'a, E> {
    pub(crate) fn new() -> Self {
        Events(FuturesUnordered::new())
    }

    /// Adds an event to wait for.
    pub(crate) fn watch(&self, event: impl Future<Output = E> + Send + 'a) {
        self.0.push(Box::pin(event));
    }

    /// The next event; never, when none is left to wait for.
    pub(crate) async fn next(&mut self) -> E {
        match self.0.next().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}
