//! An instance as the user of the simulator sees it.

/// The status of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStatus {
    /// It is being made.
    Pending,
    /// It runs.
    Running,
    /// It was ended, or its time is over.
    Stopped,
    /// It could not be made.
    Error,
}

/// An instance, as the simulator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// The key of its environment.
    pub env_key: String,
    /// Its status now.
    pub status: InstanceStatus,
    /// Its root URL, which ends in a `/`.
    pub root: String,
}
