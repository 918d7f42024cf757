//! [`EndReason`]: why a session ended.

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody closed it, or the socket that owned it went away.
    Closed,
    /// Its lease ran out.
    Expired,
    /// Its environment panicked; holds what the panic said.
    Failed(String),
    /// The server shut down.
    Drained,
}

impl EndReason {
    /// The reason in a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            EndReason::Closed => "closed",
            EndReason::Expired => "expired",
            EndReason::Failed(_) => "failed",
            EndReason::Drained => "drained",
        }
    }
}
