//! Retention: which segments and blobs are removed.
//!
//! Invariant: only whole segments are removed, the oldest first, never the one that is written, and the
//! bounds say so before; a blob goes when no segment that stays names it. What is left to do after a
//! crash is done at the next opening.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::bounds::Bounds;
use super::{blobs, segment};
use crate::error::LogError;

/// What is kept. By default everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose last record is older are removed.
    pub age: Option<Duration>,
    /// The oldest segments are removed while all of them and their blobs take more bytes.
    pub bytes: Option<u64>,
}

/// A segment that could be removed.
struct OldSegment {
    path: PathBuf,
    modified: SystemTime,
    bytes: u64,
}

/// Removes what is not kept, in the folder of a log whose newest segment has that number.
pub(super) fn retain(
    folder: &Path,
    newest: u64,
    retention: &Retention,
    bounds: &mut Bounds,
    durable: bool,
) -> Result<(), LogError> {
    let mut segments = Vec::new();
    for number in segment::list(folder)? {
        let path = segment::path(folder, number);
        let about = fs::metadata(&path).map_err(LogError::io(&path))?;
        let modified = about.modified().map_err(LogError::io(&path))?;
        segments.push((number, OldSegment { path, modified, bytes: about.len() }));
    }
    let blob_bytes = if retention.bytes.is_some() { blob_bytes(folder)? } else { 0 };
    let mut total: u64 = blob_bytes + segments.iter().map(|(_, old)| old.bytes).sum::<u64>();
    let mut gone = 0;
    for (number, old) in &segments {
        // A clock that was set back makes ages of zero, so nothing is removed for it.
        let age = SystemTime::now().duration_since(old.modified).unwrap_or_default();
        let too_old = retention.age.is_some_and(|most| age > most);
        let too_much = retention.bytes.is_some_and(|most| total > most);
        if *number >= newest || !(too_old || too_much) {
            break;
        }
        if *number >= bounds.first {
            bounds.first = *number + 1;
            bounds.write(folder, durable).map_err(LogError::io(folder))?;
        }
        fs::remove_file(&old.path).map_err(LogError::io(&old.path))?;
        total -= old.bytes;
        gone += 1;
        if too_much && !too_old {
            total -= sweep(folder)?;
        }
    }
    if gone > 0 {
        tracing::info!(folder = %folder.display(), segments = gone, "old records were removed");
    }
    sweep(folder).map(|_| ())
}

/// Removes the lists of segments that are gone, and what only those name. Returns the bytes of
/// blobs.
fn sweep(folder: &Path) -> Result<u64, LogError> {
    let mut stay = HashSet::new();
    let mut go = Vec::new();
    for entry in fs::read_dir(folder).map_err(LogError::io(folder))? {
        let list = entry.map_err(LogError::io(folder))?.path();
        if list.extension().is_none_or(|extension| extension != "blobs") {
            continue;
        }
        let names = blobs::read_names(&list).map_err(LogError::io(&list))?;
        if list.with_extension("oxl").exists() { stay.extend(names) } else { go.push((list, names)) }
    }
    let mut freed = 0;
    for (list, names) in go {
        for name in names.difference(&stay) {
            freed += remove(&blobs::path(folder, name)).map_err(LogError::io(folder))?;
        }
        remove(&list).map_err(LogError::io(&list))?;
    }
    Ok(freed)
}

fn remove(path: &Path) -> io::Result<u64> {
    let bytes = fs::metadata(path).map_or(0, |about| about.len());
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other.map(|()| bytes),
    }
}

fn blob_bytes(folder: &Path) -> Result<u64, LogError> {
    let mut total = 0;
    let blobs = folder.join("blobs");
    let Ok(below) = fs::read_dir(&blobs) else { return Ok(0) };
    for part in below.flatten() {
        for blob in fs::read_dir(part.path()).map_err(LogError::io(&blobs))?.flatten() {
            total += blob.metadata().map_or(0, |about| about.len());
        }
    }
    Ok(total)
}
