//! Many sessions on one WebSocket of `oxenv.1`: one step per frame, or a batch of steps per frame.
//!
//! Invariant: frames are built when the sessions are open and are only copied from then on. A reply is
//! matched to its frame by its id.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::{timeout, timeout_at};

use crate::frame;
use crate::load_kind::LoadKind;
use crate::pacing::Pacer;
use crate::plan::LoadPlan;
use crate::reply_checker::{ReplyChecker, excerpt};
use crate::request::frame_text;
use crate::statistics::Recorder;
use crate::websocket::{Received, WebSocket};

/// Maximum time for closing the socket; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A socket and the open sessions on it.
#[derive(Debug)]
pub(crate) struct MultiplexedSessions {
    socket: WebSocket,
    frames: Vec<RepeatedFrame>,
    pub(crate) sessions: usize,
}

/// A frame that is sent repeatedly. Its id is its index in [`MultiplexedSessions`].
#[derive(Debug)]
struct RepeatedFrame {
    frame: Vec<u8>,
    steps: u64,
    checker: ReplyChecker,
    /// When the copies in flight were due, oldest first.
    in_flight: VecDeque<Instant>,
}

/// Opens and resets `sessions` sessions on one socket.
pub(crate) async fn open(plan: &LoadPlan, sessions: usize) -> anyhow::Result<MultiplexedSessions> {
    let target = plan.target.clone().with_header("Sec-WebSocket-Protocol", "oxenv.1");
    let mut socket = WebSocket::open(&target, "/ws").await?;
    let mut ids = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        let opened = request(&mut socket, &json!({ "id": 0, "type": "open" }))
            .await
            .context("cannot open a session")?;
        let id = opened["session"].as_str().context("a session without an id")?.to_owned();
        request(&mut socket, &json!({ "id": 0, "type": "reset", "session": id }))
            .await
            .context("the reset failed")?;
        ids.push(id);
    }
    let steps_per_frame = if let LoadKind::Batch(items) = plan.kind { items } else { 1 };
    // A batch with more steps than there are sessions steps some of them more than once.
    let stepped: Vec<&String> = ids.iter().cycle().take(steps_per_frame.max(ids.len())).collect();
    let frames = stepped
        .chunks(steps_per_frame)
        .enumerate()
        .map(|(index, ids)| RepeatedFrame::new(plan, index, ids))
        .collect();
    Ok(MultiplexedSessions { socket, frames, sessions })
}

async fn request(socket: &mut WebSocket, request: &Value) -> anyhow::Result<Value> {
    let range = socket.request(&frame::text(request.to_string().as_bytes())).await?;
    let bytes = socket.bytes(range);
    let reply: Value = serde_json::from_slice(bytes).context("not JSON")?;
    if reply["type"] == "error" || reply.get("id").is_none() {
        bail!("{} (does the server speak oxenv.1?)", excerpt(bytes));
    }
    Ok(reply)
}

impl RepeatedFrame {
    fn new(plan: &LoadPlan, index: usize, ids: &[&String]) -> Self {
        let text = frame_text(plan.kind, index, ids, &plan.action);
        RepeatedFrame {
            frame: frame::text(text.as_bytes()),
            steps: ids.len() as u64,
            checker: ReplyChecker::new(plan.kind.expected_reply(), plan.first_reply.clone()),
            in_flight: VecDeque::with_capacity(plan.depth),
        }
    }
}

impl MultiplexedSessions {
    /// Steps until the load is over and every reply has arrived, at most until `deadline`; then closes the
    /// socket.
    pub(crate) async fn run(mut self, depth: usize, pacer: Pacer, recorder: Recorder, deadline: Instant) {
        let ended = timeout_at(deadline.into(), self.steps(depth, &pacer, &recorder))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no reply by the end of the load")));
        match ended {
            Ok(()) => drop(timeout(CLOSE_TIMEOUT, self.socket.close_handshake()).await),
            Err(error) => {
                let lost: u64 =
                    self.frames.iter().map(|frame| frame.steps * frame.in_flight.len() as u64).sum();
                (0..lost.max(1)).for_each(|_| recorder.error(&error));
            }
        }
    }

    async fn steps(&mut self, depth: usize, pacer: &Pacer, recorder: &Recorder) -> anyhow::Result<()> {
        for index in 0..self.frames.len() {
            self.queue_frames(index, depth, pacer);
        }
        while self.frames.iter().any(|frame| !frame.in_flight.is_empty()) {
            self.socket.flush_and_read().await?;
            while let Some(message) = self.socket.next()? {
                let Received::Text(range) = message else { bail!("the server closed the socket") };
                let bytes = self.socket.bytes(range);
                let index = frame_id(bytes).with_context(|| format!("no id in {}", excerpt(bytes)))?;
                let frame = self.frames.get_mut(index).context("the server sent an unknown id")?;
                let due =
                    frame.in_flight.pop_front().context("the server sent a message without a request")?;
                match frame.checker.check(bytes) {
                    Ok(()) => recorder.replies(due, frame.steps),
                    Err(error) => recorder.error(&error),
                }
                self.queue_frames(index, depth, pacer);
            }
        }
        Ok(())
    }

    fn queue_frames(&mut self, index: usize, depth: usize, pacer: &Pacer) {
        let frame = &mut self.frames[index];
        while frame.in_flight.len() < depth
            && let Some(due) = pacer.next_due()
        {
            self.socket.queue(&frame.frame);
            frame.in_flight.push_back(due);
        }
    }
}

/// The number in `{"id":NUMBER,…}`.
fn frame_id(reply: &[u8]) -> Option<usize> {
    let rest = reply.strip_prefix(b"{\"id\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_reply_is_its_first_number() {
        assert_eq!(frame_id(br#"{"id":42,"type":"batch"}"#), Some(42));
        for other in [&br#"{"id":null}"#[..], br#"{"type":"taken"}"#, b""] {
            assert_eq!(frame_id(other), None);
        }
    }
}
