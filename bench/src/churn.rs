//! Short sessions: connect, reset, step, close, again and again.
//!
//! The invariant: an iteration ends when the server has ended the connection, so its clean-up is measured
//! too and sessions cannot pile up behind the figures.

use std::time::Instant;

use anyhow::{Context, anyhow};
use tokio::time::timeout_at;

use crate::frame;
use crate::http::PAUSE;
use crate::open;
use crate::pacing::Pace;
use crate::plan::Plan;
use crate::reply_checker::Checker;
use crate::statistics::Recorder;

/// Runs short sessions until the load is over and the last has ended, or until `deadline`.
pub(crate) async fn run(plan: &Plan, pace: Pace, recorder: Recorder, deadline: Instant) {
    if timeout_at(deadline.into(), sessions(plan, &pace, &recorder)).await.is_err() {
        recorder.error(&anyhow!("a session did not end by the end of the load"));
    }
    for due in pace.leftover() {
        recorder.unsent(due);
    }
}

async fn sessions(plan: &Plan, pace: &Pace, recorder: &Recorder) {
    let mut checker = Checker::new(plan.kind.expect(), plan.sample.clone());
    let reset = frame::text(open::RESET);
    while let Some(due) = pace.next().await {
        match session(plan, &reset, &mut checker).await {
            Ok(()) => recorder.reply(due),
            Err(error) => {
                recorder.error(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn session(plan: &Plan, reset: &[u8], checker: &mut Checker) -> anyhow::Result<()> {
    let mut socket = open::session(&plan.target, reset).await?;
    let reply = socket.ask(&plan.request).await.context("no answer to the step")?;
    checker.check(socket.bytes(reply))?;
    socket.close().await.context("the session did not close")
}
