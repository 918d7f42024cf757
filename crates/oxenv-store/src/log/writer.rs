//! The writer of a log: whole batches of frames, at the end of the newest segment.
//!
//! Invariant: what a batch left behind when it failed is cut off before the next one is written, so
//! a segment holds whole batches and at most one torn end. What another writer left is never changed:
//! each begins a segment of its own, with its first batch.

use oxenv_wire::after;
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::blobs::{self, Blob};
use super::bounds::{self, Bounds};
use super::frame::Content;
use super::segment::{self, Head, SegmentSummary, Sink};
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
    bounds: Bounds,
    /// The number of the first segment that is ours.
    run: u64,
    number: u64,
    /// None until the first segment is begun.
    file: Option<Box<dyn Sink>>,
    /// The segment before this one.
    previous: Option<SegmentSummary>,
    /// The whole part of the segment.
    content: Content,
    /// Whether something may stand behind it.
    torn: bool,
    /// The blobs that the segment's list has.
    listed: HashSet<String>,
    /// When the first write was made that is not on the disk yet.
    unsynced: Option<Instant>,
}

/// Why a batch could not be written.
#[derive(Debug)]
pub(super) struct WriteError {
    /// The segment's file.
    pub(super) path: PathBuf,
    /// The operating system's error.
    pub(super) error: io::Error,
}

impl Writer {
    /// Looks at what was written before; the first batch begins a new segment. The caller holds the
    /// folder's lock.
    pub(super) fn open(folder: &Path, options: &LogOptions) -> Result<(Self, Recovery), LogError> {
        let opener = |path: &Path| Ok(Box::new(segment::create(path)?) as Box<dyn Sink>);
        Self::open_with(folder, options, Box::new(opener))
    }

    /// Opens the log as [`Writer::open`] does, over other files.
    pub(super) fn open_with(
        folder: &Path,
        options: &LogOptions,
        opener: Opener,
    ) -> Result<(Self, Recovery), LogError> {
        let segments = segment::list(folder)?;
        for number in &segments {
            segment::check(&segment::path(folder, *number))?;
        }
        let last = segments.last().copied().unwrap_or(0);
        let first = segments.first().copied().unwrap_or(1);
        let known = bounds::read(folder);
        let bounds = known.unwrap_or(Bounds { first, last, end: None });
        let mut writer = Writer {
            folder: folder.to_owned(),
            opener,
            durability: options.durability,
            segment_bytes: options.segment_bytes,
            retention: options.retention,
            server: options.server.clone(),
            bounds,
            run: 0,
            number: bounds.last.max(last) + 1,
            file: None,
            previous: None,
            content: Content::NONE,
            torn: true,
            listed: HashSet::new(),
            unsynced: None,
        };
        let recovery = writer.take_over(&segments, known)?;
        // Its writer's record of its end stays valid, whatever happened to it since.
        writer.previous = bounds.end.filter(|end| end.segment + 1 == writer.number).or(writer.previous);
        writer.run = writer.number;
        let durable = writer.durable();
        retain::retain(folder, last, &writer.retention, &mut writer.bounds, durable)?;
        Ok((writer, recovery))
    }

    /// Looks at the segment that another writer wrote last.
    fn take_over(&mut self, segments: &[u64], known: Option<Bounds>) -> Result<Recovery, LogError> {
        let Some(last) = segments.last() else { return Ok(Recovery::default()) };
        let path = segment::path(&self.folder, *last);
        let mut named = HashSet::new();
        let end = segment::end(&path, |text| named.extend(blobs::named_in(text).map(str::to_owned)))?;
        let mut previous = Some(SegmentSummary { segment: *last, content: end.content });
        // Its beginning was there when the bounds were written, so its present content is not vouched
        // for.
        if !end.begun && known.is_some_and(|bounds| bounds.last >= *last) {
            previous = None;
        }
        self.previous = previous.filter(|previous| previous.segment + 1 == self.number);
        let listed = blobs::read_names(&path).map_err(LogError::io(&path))?;
        let missing: Vec<&str> = named.difference(&listed).map(String::as_str).collect();
        if !missing.is_empty() {
            blobs::append_names(&path, &missing, self.durable()).map_err(LogError::io(&path))?;
        }
        Ok(Recovery { segment: Some(path), torn_bytes: end.torn, damaged_bytes: end.damaged })
    }

    /// Writes a batch of frames and the blobs that they name. Afterwards it is as safe as was asked.
    pub(super) fn commit(&mut self, frames: &[u8], blobs: &[Blob]) -> Result<(), WriteError> {
        self.write(frames, blobs).map_err(|error| {
            // At once if possible, so that nothing of a failed batch is found later.
            let _ = self.cut();
            WriteError { path: self.path(), error }
        })
    }

    /// When written bytes have to be flushed to the disk.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        let Durability::Interval(interval) = self.durability else { return None };
        Some(after(self.unsynced?, interval))
    }

    /// Brings what was written to the disk. A failure is reported once: what the operating system has
    /// dropped then, asking again does not bring back.
    pub(super) fn sync(&mut self) -> Result<(), WriteError> {
        if self.unsynced.take().is_none() {
            return Ok(());
        }
        self.sync_file().map_err(|error| WriteError { path: self.path(), error })
    }

    /// Records what the log holds, now that nothing more is written.
    pub(super) fn end(&mut self) -> Result<(), WriteError> {
        let fault = |path: PathBuf| move |error| WriteError { path, error };
        if self.content.bytes == 0 {
            return Ok(());
        }
        self.cut().map_err(fault(self.path()))?;
        self.bounds.end = Some(SegmentSummary { segment: self.number, content: self.content });
        let written = self.bounds.write(&self.folder, self.durable());
        written.map_err(fault(bounds::path(&self.folder)))
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.folder, self.number)
    }

    fn write(&mut self, frames: &[u8], blobs: &[Blob]) -> io::Result<()> {
        self.cut()?;
        if self.content.bytes >= self.segment_bytes {
            self.rotate()?;
        }
        if self.content.bytes == 0 {
            self.begin()?;
        }
        self.keep(blobs)?;
        self.append(frames)?;
        match self.durability {
            Durability::Process => {}
            Durability::Interval(_) => {
                self.unsynced.get_or_insert_with(Instant::now);
            }
            Durability::Machine => self.sync_file()?,
        }
        self.torn = false;
        self.content = self.content.with(frames);
        Ok(())
    }

    /// Cuts off what does not count.
    fn cut(&mut self) -> io::Result<()> {
        if self.torn
            && let Some(file) = &mut self.file
        {
            file.truncate(self.content.bytes)?;
            self.torn = false;
        }
        Ok(())
    }

    fn sync_file(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.sync())
    }

    /// Appends bytes, which do not count until the caller confirms them.
    fn append(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::NotFound.into()) };
        self.torn = true;
        while !rest.is_empty() {
            match file.write(rest) {
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
            blobs::append_names(&self.path(), &new, durable)?;
            self.listed.extend(new.iter().map(|name| (*name).to_owned()));
        }
        Ok(())
    }

    /// Goes on to the next segment, which is still to be begun.
    fn rotate(&mut self) -> io::Result<()> {
        if self.unsynced.take().is_some() {
            self.sync_file()?;
        }
        self.file = Some((self.opener)(&segment::path(&self.folder, self.number + 1))?);
        // From here on there is no way back: readers may have gone on to the new file.
        self.previous = Some(SegmentSummary { segment: self.number, content: self.content });
        (self.number, self.content, self.torn) = (self.number + 1, Content::NONE, true);
        self.listed.clear();
        let durable = self.durable();
        let removed = retain::retain(&self.folder, self.number, &self.retention, &mut self.bounds, durable);
        if let Err(error) = removed {
            tracing::warn!(%error, "old records cannot be removed");
        }
        Ok(())
    }

    /// Writes what a segment begins with.
    fn begin(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let path = self.path();
            self.file = Some((self.opener)(&path)?);
        }
        self.cut()?;
        let head = Head::new(self.number, self.run, self.previous, &self.server).text();
        self.append(&head)?;
        let durable = self.durable();
        if durable {
            self.sync_file()?;
            sync_folder(&self.folder)?;
        }
        (self.bounds.last, self.bounds.end) = (self.number, None);
        self.bounds.write(&self.folder, durable)?;
        self.torn = false;
        self.content = Content::NONE.with(&head);
        Ok(())
    }

    fn durable(&self) -> bool {
        self.durability != Durability::Process
    }
}

/// How long the log is silent between complaints.
pub(super) const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
