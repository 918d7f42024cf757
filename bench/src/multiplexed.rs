//! Many sessions on one WebSocket of `oxenv.1`: a step in each frame, or many of them in a batch.
//!
//! The invariant: frames are built when the sessions are known and are sent as they are from then on, so a
//! step costs the generator no more than its share of a copy; each reply is told by its id.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::{timeout, timeout_at};

use crate::frame;
use crate::pacing::Pace;
use crate::plan::{Kind, Plan};
use crate::reply_checker::{Checker, excerpt};
use crate::statistics::Recorder;
use crate::websocket::{Said, Socket};

/// How long the socket may take to close; it is not measured.
const CLOSING: Duration = Duration::from_secs(2);

/// The sessions of one socket, ready to be stepped.
#[derive(Debug)]
pub(crate) struct Many {
    socket: Socket,
    lanes: Vec<Lane>,
    pub(crate) sessions: usize,
}

/// One frame that is sent again and again; its id is its place.
#[derive(Debug)]
struct Lane {
    frame: Vec<u8>,
    steps: u64,
    checker: Checker,
    /// When the requests in flight were sent, the oldest first.
    sent: VecDeque<Instant>,
}

/// Opens and resets that many sessions on one socket.
pub(crate) async fn open(plan: &Plan, sessions: usize) -> anyhow::Result<Many> {
    let target = plan.target.clone().with_header("Sec-WebSocket-Protocol", "oxenv.1");
    let mut socket = Socket::open(&target, "/ws").await?;
    let mut ids = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        let opened =
            ask(&mut socket, &json!({ "id": 0, "type": "open" })).await.context("cannot open a session")?;
        let id = opened["session"].as_str().context("a session without an id")?.to_owned();
        ask(&mut socket, &json!({ "id": 0, "type": "reset", "session": id }))
            .await
            .context("the reset failed")?;
        ids.push(id);
    }
    let share = if let Kind::Batch(items) = plan.kind { items } else { 1 };
    // A batch of more steps than there are sessions goes round them.
    let round: Vec<&String> = ids.iter().cycle().take(share.max(ids.len())).collect();
    let lanes = round.chunks(share).enumerate().map(|(index, ids)| Lane::new(plan, index, ids)).collect();
    Ok(Many { socket, lanes, sessions })
}

/// The frame of a lane: one step, or a batch of one for each of the sessions.
pub(crate) fn payload(kind: Kind, index: usize, ids: &[&String], action: &Value) -> String {
    let step = |id: &&String| json!({ "type": "step", "session": id, "data": action });
    let frame = match kind {
        Kind::Batch(_) => {
            let items: Vec<Value> = ids.iter().map(step).collect();
            json!({ "id": index, "type": "batch", "data": { "items": items } })
        }
        _ => {
            let mut frame = json!({ "id": index });
            if let (Value::Object(frame), Some(Value::Object(step))) = (&mut frame, ids.first().map(step)) {
                frame.extend(step);
            }
            frame
        }
    };
    frame.to_string()
}

async fn ask(socket: &mut Socket, request: &Value) -> anyhow::Result<Value> {
    let place = socket.ask(&frame::text(request.to_string().as_bytes())).await?;
    let bytes = socket.bytes(place);
    let reply: Value = serde_json::from_slice(bytes).context("not JSON")?;
    if reply["type"] == "error" || reply.get("id").is_none() {
        bail!("{} (does the server speak oxenv.1?)", excerpt(bytes));
    }
    Ok(reply)
}

impl Lane {
    fn new(plan: &Plan, index: usize, ids: &[&String]) -> Self {
        let text = payload(plan.kind, index, ids, &plan.action);
        Lane {
            frame: frame::text(text.as_bytes()),
            steps: ids.len() as u64,
            checker: Checker::new(plan.kind.expect(), plan.sample.clone()),
            sent: VecDeque::with_capacity(plan.depth),
        }
    }
}

impl Many {
    /// Steps until the load is over and every reply is there, or until `deadline`; then closes the socket.
    pub(crate) async fn run(mut self, depth: usize, pace: Pace, recorder: Recorder, deadline: Instant) {
        let ended = timeout_at(deadline.into(), self.steps(depth, &pace, &recorder))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no reply by the end of the load")));
        match ended {
            Ok(()) => drop(timeout(CLOSING, self.socket.hang_up()).await),
            Err(error) => {
                let lost: u64 = self.lanes.iter().map(|lane| lane.steps * lane.sent.len() as u64).sum();
                (0..lost.max(1)).for_each(|_| recorder.error(&error));
            }
        }
    }

    async fn steps(&mut self, depth: usize, pace: &Pace, recorder: &Recorder) -> anyhow::Result<()> {
        for index in 0..self.lanes.len() {
            self.top_up(index, depth, pace);
        }
        while self.lanes.iter().any(|lane| !lane.sent.is_empty()) {
            self.socket.pump().await?;
            while let Some(said) = self.socket.next()? {
                let Said::Text(place) = said else { bail!("the server closed the socket") };
                let bytes = self.socket.bytes(place);
                let index = id_of(bytes).with_context(|| format!("no id in {}", excerpt(bytes)))?;
                let lane = self.lanes.get_mut(index).context("an id that nobody sent")?;
                let due = lane.sent.pop_front().context("a message that nobody asked for")?;
                match lane.checker.check(bytes) {
                    Ok(()) => recorder.replies(due, lane.steps),
                    Err(error) => recorder.error(&error),
                }
                self.top_up(index, depth, pace);
            }
        }
        Ok(())
    }

    fn top_up(&mut self, index: usize, depth: usize, pace: &Pace) {
        let lane = &mut self.lanes[index];
        while lane.sent.len() < depth
            && let Some(due) = pace.take()
        {
            self.socket.queue(&lane.frame);
            lane.sent.push_back(due);
        }
    }
}

/// The number in `{"id":NUMBER,…`.
fn id_of(reply: &[u8]) -> Option<usize> {
    let rest = reply.strip_prefix(b"{\"id\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_step_or_a_batch_of_steps() {
        let (one, two) = ("a".to_owned(), "b".to_owned());
        let action = json!({ "x": 1 });
        let step = payload(Kind::Multiplex, 3, &[&one], &action);
        assert_eq!(step, r#"{"id":3,"type":"step","session":"a","data":{"x":1}}"#);
        let batch: Value = serde_json::from_str(&payload(Kind::Batch(2), 0, &[&one, &two], &action)).unwrap();
        assert_eq!(batch["data"]["items"][1], json!({ "type": "step", "session": "b", "data": { "x": 1 } }));
    }

    #[test]
    fn the_id_of_a_reply_is_its_first_number() {
        assert_eq!(id_of(br#"{"id":42,"type":"batch"}"#), Some(42));
        for other in [&br#"{"id":null}"#[..], br#"{"type":"taken"}"#, b""] {
            assert_eq!(id_of(other), None);
        }
    }
}
