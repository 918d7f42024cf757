//! Steps of one session on a WebSocket of its own.
//!
//! Invariant: a server replies in the order of the requests, so a reply belongs to the oldest request in
//! flight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::time::{timeout, timeout_at};

use crate::pacing::Pacer;
use crate::plan::LoadPlan;
use crate::reply_checker::ReplyChecker;
use crate::statistics::Recorder;
use crate::websocket::{Received, WebSocket};

/// Maximum time for closing a session; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One session and its requests in flight.
#[derive(Debug)]
pub(crate) struct WebSocketSession {
    socket: WebSocket,
    checker: ReplyChecker,
    request: Arc<[u8]>,
    depth: usize,
    pacer: Pacer,
    recorder: Recorder,
    /// When the requests in flight were due, oldest first.
    in_flight: VecDeque<Instant>,
}

impl WebSocketSession {
    pub(crate) fn new(socket: WebSocket, plan: &LoadPlan, pacer: Pacer, recorder: Recorder) -> Self {
        let checker = ReplyChecker::new(plan.kind.expected_reply(), plan.first_reply.clone());
        let (request, depth) = (plan.request.clone(), plan.depth);
        Self { socket, checker, request, depth, pacer, recorder, in_flight: VecDeque::with_capacity(depth) }
    }

    /// Steps until the load is over and every reply has arrived, at most until `deadline`; then closes the
    /// session.
    pub(crate) async fn run(mut self, deadline: Instant) {
        let ended = timeout_at(deadline.into(), self.steps())
            .await
            .unwrap_or_else(|_| Err(anyhow!("no reply by the end of the load")));
        for due in self.pacer.take_unsent() {
            self.recorder.unsent(due);
        }
        match ended {
            // Closing a session is not measured, so its failure is not reported.
            Ok(()) => drop(timeout(CLOSE_TIMEOUT, self.socket.close()).await),
            Err(error) => (0..self.in_flight.len().max(1)).for_each(|_| self.recorder.error(&error)),
        }
    }

    async fn steps(&mut self) -> anyhow::Result<()> {
        loop {
            while self.in_flight.len() < self.depth
                && let Some(due) = self.pacer.next_due()
            {
                self.socket.queue(&self.request);
                self.in_flight.push_back(due);
            }
            if self.in_flight.is_empty() && self.pacer.is_over() {
                return Ok(());
            }
            let can_send = self.in_flight.len() < self.depth;
            tokio::select! {
                biased;
                read = self.socket.flush_and_read() => read?,
                () = self.pacer.wait_for_due(), if can_send => {}
            }
            self.read_replies()?;
        }
    }

    fn read_replies(&mut self) -> anyhow::Result<()> {
        while let Some(message) = self.socket.next()? {
            let Received::Text(range) = message else { bail!("the server closed the session") };
            let due = self.in_flight.pop_front().context("the server sent a message without a request")?;
            match self.checker.check(self.socket.bytes(range)) {
                Ok(()) => self.recorder.reply(due),
                Err(error) => self.recorder.error(&error),
            }
        }
        Ok(())
    }
}
