//! [`Principal`]: the caller.

/// The caller, as the door knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The orchestrator: resets, steps, sees rewards.
    Control,
    /// The agent: calls tools, never sees rewards.
    Agent,
    /// A caller that only reads.
    Observer,
}
