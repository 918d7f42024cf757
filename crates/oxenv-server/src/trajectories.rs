//! Where recorded sessions are read from, for the doors that show them.
//!
//! Invariant: the doors know no database: what they show is JSON that the source has made.

use std::fmt;

use oxenv_core::Failure;
use oxenv_wire::RawJson;

/// Which recorded sessions are asked for, in the order in which they were opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrajectoryFilter {
    /// Only sessions of that environment.
    pub environment: Option<String>,
    /// Only those opened at that time or later: microseconds of UTC since 1970.
    pub since_us: Option<u64>,
    /// Those that come after that session.
    pub after: Option<String>,
    /// So many at the most.
    pub limit: usize,
}

/// Reads recorded sessions.
///
/// # Behavior
/// - What was acknowledged before a call is in its answer.
/// - The methods read files and may take a while; they are called where blocking is allowed.
pub trait TrajectorySource: fmt::Debug + Send + Sync {
    /// Sessions with their ids, each as an object.
    ///
    /// # Errors
    /// When the record cannot be read.
    fn sessions(&self, asked: &TrajectoryFilter) -> Result<Vec<(String, RawJson)>, Failure>;

    /// One session as an object; nothing when it is not in the record.
    ///
    /// # Errors
    /// When the record cannot be read.
    fn session(&self, id: &str) -> Result<Option<RawJson>, Failure>;

    /// What a session did, with the numbers, each as an object: at most `limit` whose number is above
    /// `after`; all of them from the first if that is absent.
    ///
    /// # Errors
    /// When the record cannot be read.
    fn entries(&self, id: &str, after: Option<u64>, limit: usize) -> Result<Vec<(u64, RawJson)>, Failure>;
}
