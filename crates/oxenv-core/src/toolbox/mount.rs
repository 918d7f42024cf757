//! One toolset within a toolbox, with the rules that hold for it there.
//!
//! Invariant: plain data; what it means is decided by the catalogue and the toolbox.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::{Buckets, Policy};
use crate::toolset::Toolset;

/// How a toolset's tools are named where they are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// Unchanged; one whose name is taken by an earlier toolset becomes `set__tool`.
    #[default]
    PrefixOnConflict,
    /// `set__tool` always.
    PrefixAlways,
    /// Unchanged; one whose name is taken is not offered, and the toolbox reports a problem.
    Refuse,
}

/// A toolset within a toolbox.
#[derive(Clone)]
pub struct Mount {
    /// The toolset.
    pub toolset: Arc<dyn Toolset>,
    /// How its tools are named.
    pub naming: Naming,
    /// What stands before `__` in prefixed names; absent: the toolset's name.
    pub prefix: Option<String>,
    /// Which callers may call what, how often, with which arguments.
    pub policy: Arc<Policy>,
    /// The server's share of its rate limits; those of a session are the toolbox's own.
    pub server_buckets: Arc<Buckets>,
    /// Deadline of a call; absent: the toolbox's.
    pub deadline: Option<Duration>,
    /// Whether a session is of no use without it.
    pub required: bool,
}

impl Mount {
    /// A toolset without any rule.
    #[must_use]
    pub fn new(toolset: Arc<dyn Toolset>) -> Self {
        Mount {
            toolset,
            naming: Naming::default(),
            prefix: None,
            policy: Arc::default(),
            server_buckets: Arc::default(),
            deadline: None,
            required: false,
        }
    }

    /// What stands before `__` in prefixed names.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_else(|| self.toolset.name())
    }

    /// The name that a tool is offered by when it has to carry the prefix.
    pub(super) fn prefixed(&self, tool: &str) -> String {
        format!("{}__{tool}", self.prefix())
    }
}
