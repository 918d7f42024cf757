//! A batch at work: its items run together, and each has its place in the reply.
//!
//! Invariant: an item that is done at its first poll, as most steps are, costs no task, no timer and no
//! queue; items of one session are begun in their order, so they are run in it. The results that wait to be
//! written have no more bytes together than a frame may have: a few bytes can ask for a session's whole
//! state, or its tools.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oxenv_core::Failure;
use oxenv_wire::{BatchRequest, ErrorCode, MultiRequest, ReplyHead, write_batch_data};
use tokio_util::sync::ReusableBoxFuture;

use super::{RequestContext, RequestOutcome, StartedRequest, write_outcome};
use crate::error;

/// Items that are done in a row before others get their turn.
const MAX_ITEMS_PER_POLL: usize = 256;

/// A batch whose items have all begun.
pub(crate) struct RunningBatch<'d, 'a> {
    running: FuturesUnordered<RunningItem<'d, 'a>>,
    /// The results, one after the other as they came.
    text: String,
    /// Where the result of each item stands in it.
    places: Vec<Option<Range<usize>>>,
    ready: usize,
    /// The most bytes of results.
    limit: usize,
    /// Whether a result did not fit.
    full: bool,
    /// Whether the results so far were written.
    written: bool,
}

/// An item at work.
type RunningItem<'d, 'a> = ReusableBoxFuture<'d, FinishedItem<'a>>;

/// An item that is done.
struct FinishedItem<'a> {
    index: usize,
    item: MultiRequest<'a>,
    outcome: RequestOutcome<'a>,
}

impl<'d, 'a: 'd> RunningBatch<'d, 'a> {
    /// Begins every item, and finishes those that can be finished at once.
    pub(crate) async fn begin(context: &'d RequestContext, request: &BatchRequest<'a>) -> Self {
        let mut batch = RunningBatch {
            running: FuturesUnordered::new(),
            text: String::with_capacity(256 * request.len()),
            places: vec![None; request.len()],
            ready: 0,
            limit: context.app.config.max_message,
            full: false,
            written: false,
        };
        // The memory of a future that is done serves the next one.
        let mut spare: Option<RunningItem<'d, 'a>> = None;
        for (index, item) in request.items().enumerate() {
            let item = match item {
                Ok(item) => item,
                Err(fault) => {
                    batch.put(index, None, &Err(error::unread(fault)));
                    continue;
                }
            };
            if batch.full {
                batch.put(index, Some(&item), &Err(not_run(batch.limit)));
                continue;
            }
            let started = match context.begin(&item, request.timeout_s) {
                StartedRequest::Done(outcome) => {
                    batch.put(index, Some(&item), &outcome);
                    if index % MAX_ITEMS_PER_POLL == MAX_ITEMS_PER_POLL - 1 {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
                started => started,
            };
            let work = async move {
                let outcome = context.finish(&item, started).await;
                FinishedItem { index, item, outcome }
            };
            let mut running = match spare.take() {
                Some(mut spare) => {
                    spare.set(work);
                    spare
                }
                None => ReusableBoxFuture::new(work),
            };
            // Polled now, because items of one session are begun in their order.
            match poll_fn(|context| Poll::Ready(Pin::new(&mut running).poll(context))).await {
                Poll::Ready(finished) => {
                    batch.finished(&finished);
                    spare = Some(running);
                }
                Poll::Pending => batch.running.push(running),
            }
        }
        batch
    }

    /// Waits for one more result and returns its index; none when all are there. What was written is
    /// forgotten.
    pub(crate) async fn next(&mut self) -> Option<usize> {
        let finished = self.running.next().await?;
        if self.written {
            self.text.clear();
            self.places.fill(None);
        }
        self.finished(&finished);
        Some(finished.index)
    }

    /// How many results are there.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Whether there will be no more.
    pub(crate) fn is_over(&self) -> bool {
        self.running.is_empty()
    }

    /// The result of an item, if it is there.
    pub(crate) fn result(&self, index: usize) -> Option<&str> {
        self.places[index].clone().map(|place| &self.text[place])
    }

    /// Appends the data of the reply: the results so far, in the order of the items.
    pub(crate) fn write(&mut self, out: &mut String, list_pending: bool) {
        self.written = true;
        out.reserve(self.text.len() + 2 * self.places.len() + 32);
        let results = self.places.iter().map(|place| place.clone().map(|place| &self.text[place]));
        write_batch_data(out, results, list_pending);
    }

    fn finished(&mut self, finished: &FinishedItem<'_>) {
        self.put(finished.index, Some(&finished.item), &finished.outcome);
    }

    fn put(&mut self, index: usize, item: Option<&MultiRequest<'_>>, outcome: &RequestOutcome<'_>) {
        let begin = self.text.len();
        let session = item.map(|item| &*item.session).filter(|session| !session.is_empty());
        let head = ReplyHead { session, ..ReplyHead::default() };
        write_outcome(&mut self.text, head, outcome);
        if self.text.len() > self.limit && !is_short(outcome) {
            self.text.truncate(begin);
            self.full = true;
            write_outcome(&mut self.text, head, &Err(left_out(outcome, self.limit)));
        }
        self.places[index] = Some(begin..self.text.len());
        self.ready += 1;
    }
}

/// Whether a result takes few bytes: it is what stands in place of another.
fn is_short(outcome: &RequestOutcome<'_>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.issues.is_empty())
}

/// What stands in place of a result for which there is no room.
fn left_out(outcome: &RequestOutcome<'_>, limit: usize) -> Failure {
    match outcome {
        Err(failure) => Failure::new(failure.code, "the batch has no room for what is wrong with this item"),
        Ok(_) => {
            let message = format!(
                "the item was done and its reply is left out: the results of one reply have \
                 {limit} bytes at most"
            );
            Failure::new(ErrorCode::ReplyForgotten, message)
        }
    }
}

/// The answer for an item behind one whose result had no room.
fn not_run(limit: usize) -> Failure {
    let message =
        format!("the item was not begun: the results before it have all the {limit} bytes of one reply");
    Failure::new(ErrorCode::Cancelled, message).undelivered()
}
