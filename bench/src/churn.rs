//! Short sessions: connect, reset, step and close, repeatedly.
//!
//! Invariant: an iteration ends when the server has closed the connection, so the server's clean-up is
//! measured too.

use std::time::Instant;

use anyhow::{Context, anyhow};
use tokio::time::timeout_at;

use crate::frame;
use crate::http::RETRY_PAUSE;
use crate::open;
use crate::pacing::Pacer;
use crate::plan::LoadPlan;
use crate::reply_checker::ReplyChecker;
use crate::statistics::Recorder;

/// Runs short sessions one after the other until the load is over, at most until `deadline`.
pub(crate) async fn run(plan: &LoadPlan, pacer: Pacer, recorder: Recorder, deadline: Instant) {
    if timeout_at(deadline.into(), sessions(plan, &pacer, &recorder)).await.is_err() {
        recorder.error(&anyhow!("a session did not end by the end of the load"));
    }
    for due in pacer.take_unsent() {
        recorder.unsent(due);
    }
}

async fn sessions(plan: &LoadPlan, pacer: &Pacer, recorder: &Recorder) {
    let mut checker = ReplyChecker::new(plan.kind.expected_reply(), plan.first_reply.clone());
    let reset = frame::text(open::RESET_MESSAGE);
    while let Some(due) = pacer.next().await {
        match session(plan, &reset, &mut checker).await {
            Ok(()) => recorder.reply(due),
            Err(error) => {
                recorder.error(&error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn session(plan: &LoadPlan, reset: &[u8], checker: &mut ReplyChecker) -> anyhow::Result<()> {
    let mut socket = open::websocket_session(&plan.target, reset).await?;
    let reply = socket.request(&plan.request).await.context("no reply to the step")?;
    checker.check(socket.bytes(reply))?;
    socket.close().await.context("the session did not close")
}
