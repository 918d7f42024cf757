//! [`Principal`]: who is calling.

/// Who is calling, as the door knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The orchestrator: resets, steps, sees rewards.
    Control,
    /// The agent: calls tools, never sees rewards.
    Agent,
    /// Somebody who only looks.
    Observer,
}
