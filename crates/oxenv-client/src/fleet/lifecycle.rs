//! Whether an instance can still be used, and what the client counts of its episode.
//!
//! Invariant: once it is known to be gone, it stays so.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{ClientError, Code, Result};

/// Whether an instance can be used, and the episode as the client counts it.
#[derive(Default)]
pub(super) struct InstanceLifecycle {
    gone_error: OnceLock<ClientError>,
    closed: AtomicBool,
    episode: Mutex<EpisodeCounter>,
    /// Whether its image was found to serve no step, or no state.
    pub(super) step_unsupported: AtomicBool,
    pub(super) state_unsupported: AtomicBool,
}

#[derive(Default)]
struct EpisodeCounter {
    id: Option<String>,
    steps: u64,
}

impl InstanceLifecycle {
    /// # Errors
    /// [`Code::Closed`], [`Code::FleetInstanceGone`].
    pub(super) fn check_usable(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ClientError::new(
                Code::Closed,
                "the client of the instance was closed; make another",
            ));
        }
        self.gone_error.get().map_or(Ok(()), |gone| Err(gone.clone()))
    }

    pub(super) fn mark_gone(&self, error: &ClientError) {
        let _ = self.gone_error.set(error.clone());
    }

    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Begins an episode of that name, or of one that is made.
    pub(super) fn begin_episode(&self, id: Option<&str>) {
        let id = id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        *self.episode.lock() = EpisodeCounter { id: Some(id), steps: 0 };
    }

    pub(super) fn count_step(&self) {
        self.episode.lock().steps += 1;
    }

    /// The state, as it is counted here.
    pub(super) fn state(&self, instance_id: &str) -> Value {
        let episode = self.episode.lock();
        json!({ "episode_id": episode.id, "step_count": episode.steps, "instance_id": instance_id })
    }
}
