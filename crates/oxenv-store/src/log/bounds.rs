//! Where the log begins and ends: the file `log-bounds.json` beside the segments.
//!
//! Invariant: what retention removes is recorded before it is removed, and a new segment is there
//! before it is recorded, so a missing segment within the bounds was removed by something else.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::segment::{self, SegmentSummary};
use super::{read_plain, sync_folder};
use crate::error::LogError;

/// How often the bounds are read again when segments were removed meanwhile.
const MAX_TRIES: usize = 10;

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// The oldest segment that retention has left.
    pub(crate) first: u64,
    /// The newest segment.
    pub(crate) last: u64,
    /// The content of the newest one when its writer ended; absent while it is written, and when its
    /// writer was killed.
    #[serde(default)]
    pub(crate) end: Option<SegmentSummary>,
}

/// What there is of a log.
pub(crate) struct Extent {
    /// None where they are missing or cannot be read.
    pub(crate) bounds: Option<Bounds>,
    /// The numbers of the segments, in order.
    pub(crate) segments: Vec<u64>,
}

/// The file.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("log-bounds.json")
}

/// `None` where they are missing, cannot be read, or were not left by a writer.
pub(crate) fn read(folder: &Path) -> Option<Bounds> {
    let bounds: Bounds = serde_json::from_slice(&read_plain(&path(folder)).ok()?).ok()?;
    let Bounds { first, last, end } = bounds;
    // All that was written may be removed before the next segment is begun.
    let fit = last <= segment::MAX_NUMBER && first <= last + 1 && end.is_none_or(|end| end.segment == last);
    fit.then_some(bounds)
}

/// Bounds and segments of one moment.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn extent(folder: &Path) -> Result<Extent, LogError> {
    let mut bounds = read(folder);
    for _ in 0..MAX_TRIES {
        let segments = segment::list(folder)?;
        let now = read(folder);
        if now == bounds {
            return Ok(Extent { bounds, segments });
        }
        bounds = now;
    }
    Ok(Extent { bounds, segments: segment::list(folder)? })
}

impl Bounds {
    /// Replaces the file. `durable`: it is on the disk afterwards.
    pub(super) fn write(&self, folder: &Path, durable: bool) -> io::Result<()> {
        let (path, unfinished) = (path(folder), folder.join("log-bounds.unfinished"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&unfinished, &path)?;
        if durable { sync_folder(folder) } else { Ok(()) }
    }
}

impl Extent {
    /// The segments that should be there and are not, as runs of numbers. Without bounds, those in the
    /// middle alone.
    pub(crate) fn missing(&self) -> Vec<RangeInclusive<u64>> {
        let mut missing = Vec::new();
        let (Some(first), Some(last)) = (self.first(), self.last()) else { return missing };
        let mut next = first;
        let there = self.segments.iter().copied().filter(|number| *number >= first);
        for number in there.chain([last + 1]) {
            if number > next {
                missing.push(next..=number - 1);
            }
            next = next.max(number + 1);
        }
        missing
    }

    /// The segments that stand before the first one that there should be. One that retention is about to
    /// remove, or was when its writer was killed, is none of them.
    pub(crate) fn before_first(&self) -> impl Iterator<Item = u64> {
        let bounds = self.bounds;
        let going = move |number, bounds: Bounds| bounds.end.is_none() && number + 1 == bounds.first;
        let odd = move |number: &u64| {
            bounds.is_some_and(|bounds| *number < bounds.first && !going(*number, bounds))
        };
        self.segments.iter().copied().filter(odd)
    }

    fn first(&self) -> Option<u64> {
        self.bounds.map(|bounds| bounds.first).or(self.segments.first().copied())
    }

    fn last(&self) -> Option<u64> {
        self.bounds.map(|bounds| bounds.last).max(self.segments.last().copied())
    }
}
