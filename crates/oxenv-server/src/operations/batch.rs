//! A batch at work: its items run together, and each has its place in the reply.
//!
//! Invariant: what is done at its first poll, as most steps are, costs no task, no timer and no queue;
//! items of one session are begun in their order, so they are run in it.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oxenv_wire::{BatchRequest, MultiRequest, ReplyHead, write_batch_data};
use tokio_util::sync::ReusableBoxFuture;

use super::{Desk, Outcome, unread, write_outcome};

/// Items that are done in a row before others get their turn.
const AT_ONCE: usize = 256;

/// A batch whose items have all begun.
pub(crate) struct Batch<'d, 'a> {
    running: FuturesUnordered<Running<'d, 'a>>,
    /// The results, one after the other as they came.
    text: String,
    /// Where the result of each item stands in it.
    places: Vec<Option<Range<usize>>>,
    ready: usize,
}

/// An item at work.
type Running<'d, 'a> = ReusableBoxFuture<'d, (usize, MultiRequest<'a>, Outcome<'a>)>;

impl<'d, 'a: 'd> Batch<'d, 'a> {
    /// Begins every item, and finishes those that can be finished at once.
    pub(crate) async fn begin(desk: &'d Desk, request: &BatchRequest<'a>) -> Self {
        let mut batch = Batch {
            running: FuturesUnordered::new(),
            text: String::with_capacity(256 * request.len()),
            places: vec![None; request.len()],
            ready: 0,
        };
        let timeout_s = request.timeout_s;
        // The memory of a future that is done serves the next one.
        let mut spare: Option<Running<'d, 'a>> = None;
        for (index, item) in request.items().enumerate() {
            let item = match item {
                Ok(item) => item,
                Err(fault) => {
                    batch.put(index, None, &Err(unread(fault)));
                    continue;
                }
            };
            if let Some(outcome) = desk.at_once(&item) {
                batch.put(index, Some(&item), &outcome);
                if index % AT_ONCE == AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            let work = async move {
                let outcome = desk.perform(&item, timeout_s).await;
                (index, item, outcome)
            };
            let mut running = match spare.take() {
                Some(mut spare) => {
                    spare.set(work);
                    spare
                }
                None => ReusableBoxFuture::new(work),
            };
            match poll_fn(|context| Poll::Ready(Pin::new(&mut running).poll(context))).await {
                Poll::Ready((index, item, outcome)) => {
                    batch.put(index, Some(&item), &outcome);
                    spare = Some(running);
                }
                Poll::Pending => batch.running.push(running),
            }
        }
        batch
    }

    /// Waits for one more result and gives its index; none when all are there.
    pub(crate) async fn next(&mut self) -> Option<usize> {
        let (index, item, outcome) = self.running.next().await?;
        self.put(index, Some(&item), &outcome);
        Some(index)
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
    pub(crate) fn write(&self, out: &mut String, list_pending: bool) {
        out.reserve(self.text.len() + 2 * self.places.len() + 32);
        let results = self.places.iter().map(|place| place.clone().map(|place| &self.text[place]));
        write_batch_data(out, results, list_pending);
    }

    fn put(&mut self, index: usize, item: Option<&MultiRequest<'_>>, outcome: &Outcome<'_>) {
        let begin = self.text.len();
        let session = item.map(|item| &*item.session).filter(|session| !session.is_empty());
        write_outcome(&mut self.text, ReplyHead { session, ..ReplyHead::default() }, outcome);
        self.places[index] = Some(begin..self.text.len());
        self.ready += 1;
    }
}
