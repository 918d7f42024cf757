//! Where recorded sessions are read from, for the doors that show them.
//!
//! Invariant: the doors know no database: what they show is JSON that the source has made.

use std::fmt;

use oxenv_core::Failure;
use oxenv_wire::RawJson;

/// The requested recorded sessions, in the order in which they were opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrajectoryFilter {
    /// Only sessions of that environment.
    pub environment: Option<String>,
    /// Only those opened at that time or later: microseconds of UTC since 1970.
    pub since_us: Option<u64>,
    /// Those that come after that session.
    pub after: Option<String>,
    /// Maximum number of sessions to return.
    pub limit: usize,
}

/// Some of what a session did.
#[derive(Debug, Clone, Default)]
pub struct EntriesPage {
    /// Each entry as an object, with its number within the session.
    pub entries: Vec<(u64, RawJson)>,
    /// Whether more may follow.
    pub more: bool,
}

/// Reads recorded sessions.
///
/// # Behavior
/// - An answer includes everything that was acknowledged before the call.
/// - The methods read files and may be slow; they are called where blocking is allowed.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::Failure;
/// use oxenv_server::{EntriesPage, ServerConfig, TrajectoryFilter, TrajectorySource};
/// use oxenv_wire::RawJson;
///
/// /// A record of nothing.
/// #[derive(Debug)]
/// struct EmptyRecord;
///
/// impl TrajectorySource for EmptyRecord {
///     fn sessions(&self, _filter: &TrajectoryFilter) -> Result<Vec<(String, RawJson)>, Failure> {
///         Ok(Vec::new())
///     }
///
///     fn session(&self, _id: &str) -> Result<Option<RawJson>, Failure> {
///         Ok(None)
///     }
///
///     fn entries(&self, _id: &str, _after: Option<u64>, _limit: usize) -> Result<EntriesPage, Failure> {
///         Ok(EntriesPage::default())
///     }
/// }
///
/// let config = ServerConfig { trajectories: Some(Arc::new(EmptyRecord)), ..ServerConfig::default() };
/// ```
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

    /// What a session did: at most `limit` entries whose number is above `after`; from the first on if that
    /// is absent. A page ends early, behind its first entry at the earliest, when its entries take much
    /// memory.
    ///
    /// # Errors
    /// When the record cannot be read.
    fn entries(&self, id: &str, after: Option<u64>, limit: usize) -> Result<EntriesPage, Failure>;
}
