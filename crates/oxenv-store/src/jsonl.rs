//! Audit records as lines of JSON in a file.
//!
//! Invariant: one write for each record, behind everything that is in the file; a record that could
//! not be written is counted, logged, and told in the file once writing works again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use oxenv_core::{AuditRecord, AuditSink, utc_micros};
use parking_lot::Mutex;
use serde::Serialize;

use crate::lines::Lines;

/// The version of the lines, which each of them carries as `v`.
const VERSION: u32 = 1;
/// The log hears of lost records so often at most.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(1);
/// Most records are shorter.
const USUAL_LENGTH: usize = 512;

/// Appends audit records to a file, one JSON object a line.
///
/// The file outlives a crash of the process with every record; after a crash of the machine it may
/// lack the last seconds. Several processes may append to one file.
pub struct JsonlAudit {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    lines: Lines<File>,
    complained: Option<Instant>,
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    record: &'a AuditRecord<'a>,
}

#[derive(Serialize)]
struct Loss {
    v: u32,
    time_us: u64,
    lost: u64,
}

impl JsonlAudit {
    /// Opens the file, or makes one that only its owner may read.
    ///
    /// # Errors
    /// Names the file when it cannot be opened for reading and writing.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let (file, torn) = open(&path)?;
        Ok(JsonlAudit { path, state: Mutex::new(State { lines: Lines::new(file, torn), complained: None }) })
    }

    /// Opens the path again, for when the file was moved away to be rotated; records go on to the new
    /// file. On an error they stay with the old one.
    ///
    /// # Errors
    /// As [`JsonlAudit::open`].
    pub fn reopen(&self) -> io::Result<()> {
        let (file, torn) = open(&self.path)?;
        self.state.lock().lines.replace(file, torn);
        Ok(())
    }

    /// How many records could not be written since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lock().lines.lost()
    }

    fn append(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let Err(error) = state.lines.append(line, loss) else { return };
        let lost = state.lines.lost();
        let now = Instant::now();
        if state.complained.is_some_and(|last| now.duration_since(last) < BETWEEN_COMPLAINTS) {
            return;
        }
        state.complained = Some(now);
        drop(state);
        tracing::error!(file = %self.path.display(), %error, lost, "audit records cannot be written");
    }
}

impl AuditSink for JsonlAudit {
    fn record(&self, record: &AuditRecord<'_>) {
        self.append(&line(&Line { v: VERSION, record }));
    }
}

impl Drop for JsonlAudit {
    fn drop(&mut self) {
        // A last try; whoever reads the log has heard of it.
        let _ = self.state.get_mut().lines.tell_loss(loss);
    }
}

impl fmt::Debug for JsonlAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonlAudit").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The file, and whether its last line lacks its end.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let checked = opened.and_then(|file| {
        let torn = lacks_line_end(&file)?;
        Ok((file, torn))
    });
    checked.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the audit file '{}': {error}", path.display()))
    })
}

/// Only a file has an end to look at; a terminal or a pipe has not.
fn lacks_line_end(file: &File) -> io::Result<bool> {
    let about = file.metadata()?;
    if !about.is_file() || about.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, about.len() - 1)?;
    Ok(last != *b"\n")
}

fn loss(lost: u64) -> Vec<u8> {
    line(&Loss { v: VERSION, time_us: utc_micros(SystemTime::now()), lost })
}

fn line(content: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(USUAL_LENGTH);
    // Nothing in a record can fail to be JSON; if it did, the line would tell that much.
    if serde_json::to_writer(&mut line, content).is_err() {
        line.clear();
        line.extend_from_slice(br#"{"v":1,"lost":1}"#);
    }
    // Arguments keep the spaces that they were sent with. Within strings line ends are escaped.
    for space in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *space = b' ';
    }
    line.push(b'\n');
    line
}
