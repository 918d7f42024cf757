//! The writer of a log: whole batches of frames, at the end of the newest segment.
//!
//! Invariant: what a batch left behind when it failed is cut off before the next one is written, so
//! a segment holds whole batches and at most one torn end.

use oxenv_core::after;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::blobs::{self, Blob};
use super::segment::{self, Sink};
use super::{Durability, LogOptions, Recovery, Retention, retain, sync_folder};
use crate::error::LogError;

/// Opens the file of a segment for appending.
type Opener = Box<dyn FnMut(&Path) -> io::Result<Box<dyn Sink>> + Send>;

/// Writes batches.
pub(super) struct Writer {
    folder: PathBuf,
    opener: Opener,
    durability: Durability,
    segment_bytes: u64,
    retention: Retention,
    server: String,
    number: u64,
    file: Box<dyn Sink>,
    /// How long the whole part of the segment is.
    length: u64,
    /// Whether something may stand behind it.
    torn: bool,
    /// The blobs that the segment's list has.
    listed: HashSet<String>,
    /// When the first write was made that is not on the disk yet.
    unsynced: Option<Instant>,
}

/// Why a batch could not be written.
#[derive(Debug)]
pub(super) struct WriteFault {
    /// The segment's file.
    pub(super) path: PathBuf,
    /// What the operating system said.
    pub(super) error: io::Error,
}

impl Writer {
    /// Opens the newest segment, or begins the first one. The caller holds the folder's lock.
    pub(super) fn open(folder: &Path, options: &LogOptions) -> Result<(Self, Recovery), LogError> {
        let opener = |path: &Path| Ok(Box::new(segment::append_to(path)?) as Box<dyn Sink>);
        Self::open_with(folder, options, Box::new(opener))
    }

    /// The same over other files.
    pub(super) fn open_with(
        folder: &Path,
        options: &LogOptions,
        mut opener: Opener,
    ) -> Result<(Self, Recovery), LogError> {
        let segments = segment::list(folder)?;
        for number in &segments {
            segment::open(&segment::path(folder, *number))?;
        }
        let number = segments.last().copied().unwrap_or(1);
        let path = segment::path(folder, number);
        let mut named = HashSet::new();
        let (end, recovery) = if segments.is_empty() {
            (segment::End::default(), Recovery::default())
        } else {
            let end = segment::end(&path, |text| named.extend(blobs::named_in(text).map(str::to_owned)))?;
            let (torn_bytes, damaged_bytes) = (end.torn, end.damaged);
            (end, Recovery { segment: Some(path.clone()), torn_bytes, damaged_bytes })
        };
        let file = opener(&path).map_err(LogError::io(&path))?;
        let mut writer = Writer {
            folder: folder.to_owned(),
            opener,
            durability: options.durability,
            segment_bytes: options.segment_bytes,
            retention: options.retention,
            server: options.server.clone(),
            number,
            file,
            length: end.length,
            torn: end.torn > 0,
            listed: blobs::listed(&path).map_err(LogError::io(&path))?,
            unsynced: None,
        };
        writer.ready(&named).map_err(LogError::io(&path))?;
        retain::retain(folder, writer.number, &writer.retention)?;
        Ok((writer, recovery))
    }

    /// Writes a batch of frames and the blobs that they name. Afterwards it is as safe as was asked.
    pub(super) fn commit(&mut self, frames: &[u8], blobs: &[Blob]) -> Result<(), WriteFault> {
        self.write(frames, blobs).map_err(|error| {
            // At once if it can be, so that nothing of a failed batch is found later.
            let _ = self.cut();
            WriteFault { path: self.path(), error }
        })
    }

    /// When what was written has to be brought to the disk.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        let Durability::Interval(interval) = self.durability else { return None };
        Some(after(self.unsynced?, interval))
    }

    /// Brings what was written to the disk. A failure is told once: what the operating system has
    /// dropped then, asking again does not bring back.
    pub(super) fn sync(&mut self) -> Result<(), WriteFault> {
        if self.unsynced.take().is_none() {
            return Ok(());
        }
        self.file.sync().map_err(|error| WriteFault { path: self.path(), error })
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.folder, self.number)
    }

    fn write(&mut self, frames: &[u8], blobs: &[Blob]) -> io::Result<()> {
        self.cut()?;
        if self.length >= self.segment_bytes {
            self.rotate()?;
        }
        if self.length == 0 {
            self.begin()?;
        }
        self.keep(blobs)?;
        self.append(frames)?;
        match self.durability {
            Durability::Process => {}
            Durability::Interval(_) => {
                self.unsynced.get_or_insert_with(Instant::now);
            }
            Durability::Machine => self.file.sync()?,
        }
        self.torn = false;
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Cuts off what does not count.
    fn cut(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.truncate(self.length)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Appends bytes, which do not count until the caller says so.
    fn append(&mut self, mut rest: &[u8]) -> io::Result<()> {
        self.torn = true;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes blobs and their names, before the records that name them.
    fn keep(&mut self, blobs: &[Blob]) -> io::Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        let durable = self.durable();
        for blob in blobs {
            blobs::write(&self.folder, blob, durable)?;
        }
        let new: Vec<&str> = blobs
            .iter()
            .map(|blob| blob.sha256.as_str())
            .filter(|name| !self.listed.contains(*name))
            .collect();
        if !new.is_empty() {
            blobs::enlist(&self.path(), &new, durable)?;
            self.listed.extend(new.iter().map(|name| (*name).to_owned()));
        }
        Ok(())
    }

    /// Makes the opened segment ready to be written on: `named` is what its records name.
    fn ready(&mut self, named: &HashSet<String>) -> io::Result<()> {
        self.cut()?;
        if self.length == 0 {
            self.begin()?;
        }
        let missing: Vec<&str> = named.difference(&self.listed).map(String::as_str).collect();
        if !missing.is_empty() {
            blobs::enlist(&self.path(), &missing, self.durable())?;
        }
        Ok(())
    }

    /// Goes on to the next segment, which is still to be begun.
    fn rotate(&mut self) -> io::Result<()> {
        if self.unsynced.take().is_some() {
            self.file.sync()?;
        }
        self.file = (self.opener)(&segment::path(&self.folder, self.number + 1))?;
        // From here on there is no way back: readers may have gone on to the new file.
        (self.number, self.length, self.torn) = (self.number + 1, 0, true);
        self.listed.clear();
        if let Err(error) = retain::retain(&self.folder, self.number, &self.retention) {
            tracing::warn!(%error, "old records cannot be removed");
        }
        self.cut()
    }

    /// Writes what a segment begins with.
    fn begin(&mut self) -> io::Result<()> {
        let head = segment::head(self.number, &self.server);
        self.append(&head)?;
        if self.durable() {
            self.file.sync()?;
            sync_folder(&self.folder)?;
        }
        self.torn = false;
        self.length = head.len() as u64;
        Ok(())
    }

    fn durable(&self) -> bool {
        self.durability != Durability::Process
    }
}

/// How long the log is silent between complaints.
pub(super) const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(1);
