//! [`Work`]: a result that is there already, or will be.
//!
//! Invariant: work that is `Done` costs no allocation and no hop, which is what keeps a step of an
//! environment that does not suspend as cheap as a function call.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use oxenv_wire::panic_text;

/// What an environment or a tool returns.
#[must_use = "work does nothing unless it is awaited"]
pub enum Work<'a, T> {
    /// Finished. `None` only after it was polled.
    Done(Option<T>),
    /// A future to await. Dropping it cancels it.
    Pending(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> Work<'a, T> {
    /// Finished work.
    pub fn done(value: T) -> Self {
        Work::Done(Some(value))
    }

    /// Work that is a future.
    pub fn pending(future: impl Future<Output = T> + Send + 'a) -> Self {
        Work::Pending(Box::pin(future))
    }
}

// Neither variant is structurally pinned: `Done` is plain data and `Pending` is pinned in its box.
impl<T> Unpin for Work<'_, T> {}

impl<T> Future for Work<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            // Polling finished work again is a caller's bug; it never becomes ready, as with `pending()`.
            Work::Done(value) => value.take().map_or(Poll::Pending, Poll::Ready),
            Work::Pending(future) => future.as_mut().poll(context),
        }
    }
}

/// A future whose panic is its output.
pub(crate) struct CatchPanic<F>(pub(crate) F);

impl<F: Future + Unpin> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = Pin::new(&mut self.0);
        match catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_text(panic.as_ref()))),
        }
    }
}

/// Runs several works together and gives their results in order.
pub(crate) async fn join_all<T>(mut works: Vec<Work<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = works.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (work, result) in works.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(value) = Pin::new(work).poll(context)
            {
                *result = Some(value);
            }
        }
        match results.iter().all(Option::is_some) {
            true => Poll::Ready(results.drain(..).flatten().collect()),
            false => Poll::Pending,
        }
    })
    .await
}
