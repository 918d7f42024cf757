//! [`SnapshotRoom`]: how much a snapshot holds.
//!
//! Invariant: what is too large is refused before it is made.

use crate::failure::Failure;

/// How many bytes of a session may be saved, and what a refused caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRoom {
    /// Bytes of the environment's state, the workspace and the calls to make again, together. Default 256
    /// MiB.
    pub bytes: u64,
    /// What allows more, for the refusal; may be empty.
    pub more: &'static str,
}

impl Default for SnapshotRoom {
    fn default() -> Self {
        SnapshotRoom { bytes: 256 << 20, more: "the server's --max-snapshot allows more" }
    }
}

impl SnapshotRoom {
    /// Refuses a state for which there is no room.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] with the size, the limit and what allows more.
    pub fn holds(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let limit = self.bytes;
        let more = if self.more.is_empty() { String::new() } else { format!("; {}", self.more) };
        Err(Failure::unsupported(format!(
            "the session's state has {bytes} bytes, and a snapshot holds {limit} at most{more}"
        )))
    }
}
