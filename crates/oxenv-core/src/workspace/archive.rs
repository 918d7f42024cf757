//! A workspace as bytes, and back: names, modes, times and contents, in order of names.
//!
//! Invariant: an archive is not trusted. It has names and no paths, so nothing in it can be put outside of
//! the folder that is filled; a link in it leads to somewhere in that folder.
//!
//! After [`MAGIC`] comes one entry after another: a byte for the kind, then the name; for files and folders
//! the time (seconds and nanoseconds since 1970) and the mode; for files the content, for links where they
//! lead. What follows a folder is in it, up to an end.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, RawMode, Timespec, symlinkat};

use super::WorkspaceLimits;
use super::copying::{LeftOut, Size, create_file, make_folder, too_large, within};
use super::marks::Marks;
use super::place::WorkspacePath;
use crate::folders::{
    EntryKind, FolderCursor, OpenFolder, RecordEntry, Walk, WalkError, WalkEvent, failed, named,
};
use crate::snapshot_room::SnapshotRoom;

/// What every archive begins with; the number is the format's version.
const MAGIC: &[u8] = b"oxenv workspace 1\n";

/// Room for what entries take beside their contents, and for what follows an archive.
const OVERHEAD_BYTES: usize = 64 << 10;

const FOLDER_MARK: u8 = b'd';
const FILE_MARK: u8 = b'f';
/// A link by the path from its own folder.
const LINK_MARK: u8 = b'l';
/// A link by the path from the workspace; it was, and will be, an absolute one.
const LINK_FROM_TOP_MARK: u8 = b'L';
const END_MARK: u8 = b'.';

/// Writes down what is in a workspace, behind what is there already.
///
/// # Errors
/// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit;
/// [`io::ErrorKind::Unsupported`] for a link that leads out of the folder.
pub(super) fn pack(
    place: &WorkspacePath,
    begun: Vec<u8>,
    limits: WorkspaceLimits,
    room: SnapshotRoom,
) -> io::Result<Vec<u8>> {
    let folder = place.open()?;
    let mut packing =
        Packing { place, folder: &folder, limits, room, out: begun, left_out: LeftOut::default() };
    let size = Size::of(&folder, limits.files);
    packing.fits(MAGIC.len() as u64 + size.bytes)?;
    // All at once, because a vector that grows is in memory twice. What an entry takes beside its content is
    // little.
    packing.out.reserve_exact(usize::try_from(size.bytes).unwrap_or(0) + OVERHEAD_BYTES);
    packing.out.extend(MAGIC);
    let mut walk = Walk::new(&folder, limits.files).map_err(|error| packing.stopped(error))?;
    while let Some(event) = walk.next().map_err(|error| packing.stopped(error))? {
        match event {
            WalkEvent::Entry(entry) => packing.entry(&mut walk, &entry)?,
            WalkEvent::Left => packing.out.push(END_MARK),
        }
    }
    packing.out.push(END_MARK);
    packing.fits(0)?;
    packing.left_out.warn("not saved");
    Ok(packing.out)
}

/// Fills an empty folder with what an archive holds.
///
/// # Errors
/// The file system's; [`io::ErrorKind::InvalidData`] if it is not a valid archive;
/// [`io::ErrorKind::QuotaExceeded`] past the limit of files.
pub(super) fn unpack(archive: &[u8], folder: &OpenFolder, limits: WorkspaceLimits) -> io::Result<()> {
    let rest = archive.strip_prefix(MAGIC).ok_or_else(|| invalid("it does not begin like one"))?;
    let position = FolderCursor::at(folder);
    let mut unpacking = Unpacking { top: folder.path(), rest, position, marks: Vec::new(), files: 0 };
    while !unpacking.entry()? {
        if unpacking.files > limits.files {
            let message =
                format!("the archive of a workspace has more than {} files and folders", limits.files);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
    }
    match unpacking.rest {
        [] => Ok(()),
        _ => Err(invalid("something follows its end")),
    }
}

struct Packing<'a> {
    place: &'a WorkspacePath,
    folder: &'a OpenFolder,
    limits: WorkspaceLimits,
    room: SnapshotRoom,
    out: Vec<u8>,
    left_out: LeftOut,
}

impl Packing<'_> {
    /// Writes an entry down; one that a program removes or replaces meanwhile is left out.
    fn entry(&mut self, walk: &mut Walk<'_>, entry: &RecordEntry) -> io::Result<()> {
        match entry.kind() {
            EntryKind::Folder => {
                if walk.enter(entry).map_err(|error| self.stopped(error))? {
                    self.head(FOLDER_MARK, entry.name())?;
                    self.marks(entry);
                }
                Ok(())
            }
            EntryKind::File => {
                self.fits(entry.len())?;
                let Some(file) = walk.open_file(entry)? else { return Ok(()) };
                self.head(FILE_MARK, entry.name())?;
                self.marks(entry);
                self.fits(size_of::<u64>() as u64 + entry.len())?;
                let at = self.out.len();
                self.out.extend([0; size_of::<u64>()]);
                let read = file.take(entry.len()).read_to_end(&mut self.out);
                let read = read.map_err(|error| named(&error, "cannot read", &walk.path_of(entry)))?;
                self.out[at..at + size_of::<u64>()].copy_from_slice(&(read as u64).to_le_bytes());
                Ok(())
            }
            EntryKind::Link => match walk.read_link(entry)? {
                Some(leads) => self.link(entry.name(), &leads, walk.depth()),
                None => Ok(()),
            },
            EntryKind::Special => {
                self.left_out.add(walk, entry);
                Ok(())
            }
        }
    }

    fn link(&mut self, name: &OsStr, leads: &Path, depth: usize) -> io::Result<()> {
        let (kind, leads) = match self.place.inside(leads) {
            Some(from_top) if stays_inside(&from_top, 0) => (LINK_FROM_TOP_MARK, from_top),
            None if stays_inside(leads, depth) => (LINK_MARK, leads.to_owned()),
            _ => {
                let message = format!(
                    "the workspace {} cannot be saved: its link '{}' may lead out of it, to {}; remove the \
                     link, or make it one by a path from its own folder",
                    self.folder.path().display(),
                    name.display(),
                    leads.display()
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        };
        self.head(kind, name)?;
        self.bytes(leads.as_os_str().as_bytes())
    }

    fn head(&mut self, kind: u8, name: &OsStr) -> io::Result<()> {
        self.out.push(kind);
        self.bytes(name.as_bytes())
    }

    fn marks(&mut self, entry: &RecordEntry) {
        let marks = Marks::of(&entry.stat);
        // Times before 1970 become 1970.
        let (seconds, nanoseconds) = match u64::try_from(marks.modified.tv_sec) {
            Ok(seconds) => (seconds, u32::try_from(marks.modified.tv_nsec).unwrap_or(0)),
            Err(_) => (0, 0),
        };
        self.out.extend(seconds.to_le_bytes());
        self.out.extend(nanoseconds.to_le_bytes());
        self.out.extend((entry.mode() & 0o777).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.fits(length)?;
        self.out.extend(length.to_le_bytes());
        self.out.extend(bytes);
        Ok(())
    }

    fn fits(&self, more: u64) -> io::Result<()> {
        let found = (self.out.len() as u64).saturating_add(more);
        within(self.folder, "bytes", found, self.room.bytes, self.limits.files, self.room.more)
    }

    fn stopped(&self, error: WalkError) -> io::Error {
        too_large(self.folder, error, self.limits)
    }
}

struct Unpacking<'a> {
    top: &'a Path,
    rest: &'a [u8],
    /// The folder that is being filled.
    position: FolderCursor<'a>,
    /// The metadata that the folders on the way to it get when they are filled.
    marks: Vec<Marks>,
    files: u64,
}

impl<'a> Unpacking<'a> {
    /// Makes one entry, or ends a folder; `true` when that is the top.
    fn entry(&mut self) -> io::Result<bool> {
        let [kind] = self.array()?;
        if kind == END_MARK {
            return self.end_folder();
        }
        self.files += 1;
        let name = self.name()?;
        self.make(kind, &name).map_err(|error| {
            let path = self.position.path_of(&name);
            match error.kind() {
                io::ErrorKind::AlreadyExists => invalid(&format!("it has two entries '{}'", path.display())),
                io::ErrorKind::InvalidData => error,
                _ => named(&error, "cannot restore", &path),
            }
        })?;
        Ok(false)
    }

    fn end_folder(&mut self) -> io::Result<bool> {
        let Some(marks) = self.marks.pop() else { return Ok(true) };
        if let Some(left) = self.position.leave()? {
            // A folder without permission to enter could not be deleted.
            let marks = Marks { mode: marks.mode | Mode::RWXU, ..marks };
            let put_on = marks.put_on(&left.folder);
            put_on.map_err(|errno| failed(errno, "cannot restore", &self.position.path_of(&left.name)))?;
        }
        Ok(false)
    }

    fn make(&mut self, kind: u8, name: &CString) -> io::Result<()> {
        match kind {
            FOLDER_MARK => {
                let marks = self.marks()?;
                make_folder(&mut self.position, name)?;
                self.marks.push(marks);
                Ok(())
            }
            FILE_MARK => {
                let marks = self.marks()?;
                let content = self.bytes()?;
                let mut file = create_file(self.position.folder(), name)?;
                file.write_all(content)?;
                Ok(marks.put_on(&file)?)
            }
            LINK_MARK | LINK_FROM_TOP_MARK => {
                let leads = Path::new(OsStr::from_bytes(self.bytes()?));
                let from_top = kind == LINK_FROM_TOP_MARK;
                let depth = if from_top { 0 } else { self.position.depth() };
                if !stays_inside(leads, depth) || leads.as_os_str().as_bytes().contains(&0) {
                    return Err(invalid(&format!(
                        "a link of it leads out of the workspace, to '{}'",
                        leads.display()
                    )));
                }
                let leads = if from_top { self.top.join(leads) } else { PathBuf::from(leads) };
                Ok(symlinkat(leads, self.position.folder(), name)?)
            }
            _ => Err(invalid(&format!("it has an entry of the unknown kind {kind}"))),
        }
    }

    fn name(&mut self) -> io::Result<CString> {
        let bytes = self.bytes()?;
        let refused = || invalid(&format!("it has an entry of the name '{}'", bytes.escape_ascii()));
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(refused());
        }
        CString::new(bytes).map_err(|_| refused())
    }

    fn marks(&mut self) -> io::Result<Marks> {
        let seconds = u64::from_le_bytes(self.array()?);
        let nanoseconds = u32::from_le_bytes(self.array()?);
        let mode = u32::from_le_bytes(self.array()?);
        let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()));
        let modified = since.and_then(|since| {
            let tv_sec = i64::try_from(since.as_secs()).ok()?;
            Some(Timespec { tv_sec, tv_nsec: since.subsec_nanos().into() })
        });
        // The type of a mode differs between systems.
        #[allow(clippy::unnecessary_cast)]
        let mode = Mode::from_raw_mode((mode & 0o777) as RawMode);
        let modified = modified.ok_or_else(|| invalid("it has a time that is none"))?;
        Ok(Marks { mode, modified })
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = u64::from_le_bytes(self.array()?);
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.len());
        let (bytes, rest) = self.rest.split_at(length.ok_or_else(cut_off)?);
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(cut_off)?;
        self.rest = rest;
        Ok(*array)
    }
}

/// Whether a relative link in a folder of that depth cannot lead out: it goes up no further than the folder
/// is deep, and never after it went down, where it could go up from what another link leads to.
fn stays_inside(leads: &Path, depth: usize) -> bool {
    let mut ups = 0;
    let mut downs = 0;
    for part in leads.components() {
        match part {
            Component::ParentDir if downs == 0 => ups += 1,
            Component::CurDir => {}
            Component::Normal(_) => downs += 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    ups <= depth
}

fn cut_off() -> io::Error {
    invalid("it ends too early")
}

fn invalid(what: &str) -> io::Error {
    let message = format!("these bytes are no saved workspace: {what}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}
