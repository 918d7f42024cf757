//! Heartbeats: they keep an instance on Fleet alive.
//!
//! Invariant: it ends with its owner; a heartbeat that fails is logged and tried again, and does no other
//! harm.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::control::FleetControl;
use super::lifecycle::InstanceLifecycle;
use crate::error::Code;

/// Between two tries of a heartbeat that failed, at most.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The task that sends heartbeats. Its drop ends it.
pub(super) struct Heartbeat(AbortHandle);

impl Heartbeat {
    /// Sends the first heartbeat at once, and then two in each interval.
    pub(super) fn start(
        control: FleetControl,
        id: String,
        interval: Duration,
        lifecycle: Arc<InstanceLifecycle>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut interval = interval;
            loop {
                let wait = match control.heartbeat(&id).await {
                    Ok(beat) => {
                        interval = beat
                            .interval_seconds
                            .and_then(parse_interval)
                            .map_or(interval, |seconds| seconds.min(interval));
                        interval / 2
                    }
                    Err(error) if error.code() == Code::FleetInstanceGone => {
                        tracing::warn!(instance = id, "the instance on Fleet is gone");
                        lifecycle.mark_gone(&error);
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(instance = id, %error, "Fleet did not take a heartbeat");
                        (interval / 2).min(MAX_RETRY_DELAY)
                    }
                };
                sleep(wait).await;
            }
        });
        Heartbeat(task.abort_handle())
    }
}

/// An interval as Fleet reports it.
pub(super) fn parse_interval(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|interval| *interval >= Duration::from_millis(10))
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}
