//! [`EndReason`]: why a session ended.

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// A caller closed it, or the socket that owned it went away.
    Closed,
    /// Its lease ran out.
    Expired,
    /// Its environment panicked; holds the panic's message.
    Failed(String),
    /// The server shut down.
    Drained,
}

impl EndReason {
    /// The reason as one word.
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
