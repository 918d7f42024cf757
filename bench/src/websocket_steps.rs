//! Steps on one WebSocket session.
//!
//! The invariant: replies come in the order of the requests, which is what the wire promises, so the oldest
//! request in flight is the one that a reply answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::time::{timeout, timeout_at};

use crate::pacing::Pace;
use crate::plan::Plan;
use crate::reply_checker::Checker;
use crate::statistics::Recorder;
use crate::websocket::{Said, Socket};

/// How long a session may take to close; it is not measured.
const CLOSING: Duration = Duration::from_secs(2);

/// One session under load.
#[derive(Debug)]
pub(crate) struct Steps {
    socket: Socket,
    checker: Checker,
    request: Arc<[u8]>,
    depth: usize,
    pace: Pace,
    recorder: Recorder,
    /// When the requests in flight were due, the oldest first.
    sent: VecDeque<Instant>,
}

impl Steps {
    pub(crate) fn new(socket: Socket, plan: &Plan, pace: Pace, recorder: Recorder) -> Self {
        let checker = Checker::new(plan.kind.expect(), plan.sample.clone());
        let (request, depth) = (plan.request.clone(), plan.depth);
        Self { socket, checker, request, depth, pace, recorder, sent: VecDeque::with_capacity(depth) }
    }

    /// Steps until the load is over and every reply is there, or until `deadline`; then closes the session.
    pub(crate) async fn run(mut self, deadline: Instant) {
        let ended = timeout_at(deadline.into(), self.steps())
            .await
            .unwrap_or_else(|_| Err(anyhow!("no reply by the end of the load")));
        for due in self.pace.leftover() {
            self.recorder.unsent(due);
        }
        match ended {
            // How a session that has done its work closes is not what is measured here.
            Ok(()) => drop(timeout(CLOSING, self.socket.close()).await),
            Err(error) => (0..self.sent.len().max(1)).for_each(|_| self.recorder.error(&error)),
        }
    }

    async fn steps(&mut self) -> anyhow::Result<()> {
        loop {
            while self.sent.len() < self.depth
                && let Some(due) = self.pace.take()
            {
                self.socket.queue(&self.request);
                self.sent.push_back(due);
            }
            if self.sent.is_empty() && self.pace.over() {
                return Ok(());
            }
            let room = self.sent.len() < self.depth;
            tokio::select! {
                biased;
                read = self.socket.pump() => read?,
                () = self.pace.wait(), if room => {}
            }
            self.take_replies()?;
        }
    }

    fn take_replies(&mut self) -> anyhow::Result<()> {
        while let Some(said) = self.socket.next()? {
            let Said::Text(place) = said else { bail!("the server closed the session") };
            let due = self.sent.pop_front().context("a message that nobody asked for")?;
            match self.checker.check(self.socket.bytes(place)) {
                Ok(()) => self.recorder.reply(due),
                Err(error) => self.recorder.error(&error),
            }
        }
        Ok(())
    }
}
