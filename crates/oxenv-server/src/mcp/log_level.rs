//! How grave a line of a tool's log is, by MCP's levels, and the least grave level that a client wants.
//!
//! Invariant: a level that is not MCP's counts as information; a typo loses no message.

use std::sync::{Arc, Mutex, PoisonError};

/// MCP's levels, from the least to the gravest.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// One of MCP's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogLevel(usize);

impl LogLevel {
    pub(super) const INFO: LogLevel = LogLevel(1);

    /// The level of that name; `None` for an unknown name.
    pub(super) fn named(name: &str) -> Option<Self> {
        LEVELS.iter().position(|level| *level == name).map(LogLevel)
    }

    /// The level that a tool means.
    pub(super) fn of(name: &str) -> Self {
        Self::named(name).unwrap_or(Self::INFO)
    }

    pub(super) fn name(self) -> &'static str {
        LEVELS[self.0]
    }
}

/// From which level on a client wants the log; it may change its mind.
#[derive(Clone)]
pub(super) struct LogThreshold(Arc<Mutex<LogLevel>>);

impl LogThreshold {
    pub(super) fn get(&self) -> LogLevel {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, severity: LogLevel) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = severity;
    }
}

impl Default for LogThreshold {
    fn default() -> Self {
        LogThreshold(Arc::new(Mutex::new(LogLevel::INFO)))
    }
}
