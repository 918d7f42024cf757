//! Gives recorded sessions to others: as lines of JSON, one a session, or as rows, one a step.
//!
//! Invariant: a session is written while it is read; no more than a piece of it is in memory. What
//! the log has as JSON text is written as that text. A session of which something cannot be read is
//! left out as a whole, and named; the others are written.

use std::fmt;
use std::io::{self, Write};

use crate::error::LogError;
use crate::index::{SessionFilter, SessionSummary, Trajectories};
use crate::stored::StoredEntry;

mod jsonl;
mod reply;
#[cfg(feature = "parquet")]
mod rows;

/// Number of sessions that are looked up at once.
const PAGE_SESSIONS: usize = 100;

/// Maximum number of entries in memory at once.
const PAGE_ENTRIES: usize = 256;

/// What an export has written.
#[derive(Debug, Default)]
pub struct Exported {
    /// How many sessions.
    pub sessions: u64,
    /// The sessions that it left out, because something of them cannot be read.
    pub left_out: Vec<LeftOut>,
}

/// A session that an export left out.
#[derive(Debug)]
pub struct LeftOut {
    /// Its id.
    pub session: String,
    /// What cannot be read.
    pub why: LogError,
}

/// Why an export ended early.
#[derive(Debug)]
pub enum ExportError {
    /// The records cannot be read.
    Log(LogError),
    /// The output cannot be written.
    Output(io::Error),
}

/// Writes the sessions that the filter lets through as JSON, one line each; the filter's limit is
/// how many. The form is described in `docs/records.md`.
///
/// ```
/// use oxenv_store::{SessionFilter, Trajectories, export_jsonl};
///
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-export-{}", std::process::id()));
/// # let opened = oxenv_core::RecordEvent::Opened {
/// #     environment: "echo",
/// #     version: "1.0.0",
/// #     deterministic: true,
/// #     seed: 7,
/// #     episode_id: "e-0",
/// #     origin: None,
/// # };
/// # let entry = oxenv_core::RecordEntry { session_id: "s-1", seq: 0, epoch: 0, time_us: 0, event: opened };
/// # let recorder = oxenv_store::LogRecorder::open(&folder, oxenv_store::LogOptions::default())?;
/// # let runtime = tokio::runtime::Runtime::new()?;
/// # runtime.block_on(oxenv_core::Recorder::append(&recorder, &entry)).unwrap();
///
/// let trajectories = Trajectories::open(&folder)?;
/// trajectories.refresh()?;
/// let mut lines = Vec::new();
/// let exported = export_jsonl(&trajectories, &mut lines, &SessionFilter::default())?;
/// assert_eq!((exported.sessions, exported.left_out.len()), (1, 0));
/// assert!(lines.starts_with(br#"{"session_id":"s-1""#));
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the log cannot be used or the output cannot be written; whole lines stay.
pub fn export_jsonl(
    trajectories: &Trajectories,
    out: &mut dyn Write,
    filter: &SessionFilter,
) -> Result<Exported, ExportError> {
    each_session(trajectories, filter, |session| jsonl::write(trajectories, session, out))
}

/// Writes the steps of the sessions that the filter lets through as rows of a Parquet file. The columns
/// are described in `docs/records.md`.
///
/// # Errors
/// As [`export_jsonl`]; the file is then of no use.
#[cfg(feature = "parquet")]
pub fn export_parquet(
    trajectories: &Trajectories,
    out: impl Write + Send,
    filter: &SessionFilter,
) -> Result<Exported, ExportError> {
    let mut rows = rows::Rows::begin(out)?;
    let written = each_session(trajectories, filter, |session| rows.write(trajectories, session))?;
    rows.end()?;
    Ok(written)
}

fn each_session(
    trajectories: &Trajectories,
    filter: &SessionFilter,
    mut each: impl FnMut(&SessionSummary) -> Result<(), ExportError>,
) -> Result<Exported, ExportError> {
    let mut filter = filter.clone();
    let mut left = filter.limit;
    let mut exported = Exported::default();
    while left > 0 {
        filter.limit = left.min(PAGE_SESSIONS);
        let page = trajectories.sessions(&filter)?;
        for session in &page {
            match readable(trajectories, session) {
                Ok(()) => {
                    each(session)?;
                    exported.sessions += 1;
                }
                Err(ExportError::Log(why)) => {
                    exported.left_out.push(LeftOut { session: session.id.clone(), why });
                }
                Err(error) => return Err(error),
            }
        }
        left -= page.len();
        match page.last() {
            Some(last) if page.len() == filter.limit => filter.after = Some(last.id.clone()),
            _ => break,
        }
    }
    Ok(exported)
}

/// Reads all of a session, so that none is written in part.
fn readable(trajectories: &Trajectories, session: &SessionSummary) -> Result<(), ExportError> {
    each_entry(trajectories, session, |entry| Ok(reply::readable(entry)?))
}

/// A session's entries in order.
fn each_entry(
    trajectories: &Trajectories,
    session: &SessionSummary,
    mut each: impl FnMut(&StoredEntry) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut from = 0;
    loop {
        let entries = trajectories.entries_from(&session.id, from, PAGE_ENTRIES)?;
        for entry in &entries {
            each(entry)?;
            from = entry.seq + 1;
        }
        if entries.len() < PAGE_ENTRIES {
            return Ok(());
        }
    }
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportError::Log(error) => error.fmt(f),
            ExportError::Output(error) => write!(f, "cannot write the export: {error}"),
        }
    }
}

impl std::error::Error for ExportError {}

impl From<LogError> for ExportError {
    fn from(error: LogError) -> Self {
        ExportError::Log(error)
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        ExportError::Output(error)
    }
}
