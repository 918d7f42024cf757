//! A workspace as bytes, and back: names, modes, times and contents, in order of names.
//!
//! Invariant: an archive is not trusted. It has names and no paths, so nothing in it can be put outside of
//! the folder that is filled; a link in it leads to somewhere in that folder.
//!
//! After [`MAGIC`] comes one entry after another: a byte that tells the kind, then the name; for files and folders
//! the time (seconds and nanoseconds since 1970) and the mode; for files the content, for links where they lead.
//! What follows a folder is in it, up to an end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::copying::{create, inside, open, within};
use super::{WorkspaceLimits, named};

/// What every archive begins with; the number is the format's version.
const MAGIC: &[u8] = b"oxenv workspace 1\n";

const FOLDER: u8 = b'd';
const FILE: u8 = b'f';
/// A link by the path from its own folder.
const LINK: u8 = b'l';
/// A link by the path from the workspace; it was, and will be, an absolute one.
const LINK_FROM_TOP: u8 = b'L';
const END: u8 = b'.';

/// The time and the mode of an entry.
struct Marks {
    modified: SystemTime,
    mode: u32,
}

/// Writes a folder's contents down.
///
/// # Errors
/// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit;
/// [`io::ErrorKind::Unsupported`] for a link that leads out of the folder.
pub(super) fn pack(folder: &Path, limits: WorkspaceLimits) -> io::Result<Vec<u8>> {
    let mut packing = Packing { top: folder, limits, files: 0, out: MAGIC.to_vec() };
    packing.contents(folder, 0)?;
    Ok(packing.out)
}

/// Fills an empty folder with what an archive holds.
///
/// # Errors
/// The file system's; [`io::ErrorKind::InvalidData`] if it is no archive, or one that nobody packed;
/// [`io::ErrorKind::QuotaExceeded`] past a limit.
pub(super) fn unpack(archive: &[u8], folder: &Path, limits: WorkspaceLimits) -> io::Result<()> {
    if archive.len() as u64 > limits.saved_bytes {
        let (size, limit) = (archive.len(), limits.saved_bytes);
        let message =
            format!("the archive of a workspace has {size} bytes, and no more than {limit} are taken");
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
    }
    let rest = archive.strip_prefix(MAGIC).ok_or_else(|| invalid("it does not begin like one"))?;
    let open = vec![(folder.to_owned(), None)];
    let mut unpacking = Unpacking { top: folder, rest, open, files: 0 };
    while !unpacking.open.is_empty() {
        unpacking.entry()?;
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
    top: &'a Path,
    limits: WorkspaceLimits,
    files: u64,
    out: Vec<u8>,
}

impl Packing<'_> {
    fn contents(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let failed = |error: io::Error| named(&error, "cannot read", folder);
        let names = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names: Vec<OsString> = names.collect::<io::Result<_>>().map_err(failed)?;
        names.sort_unstable();
        for name in names {
            let path = folder.join(&name);
            let begin = self.out.len();
            let seen = fs::symlink_metadata(&path).map_err(|error| named(&error, "cannot read", &path));
            match seen.and_then(|seen| self.entry(&path, &name, &seen, depth)) {
                // Programs that still run may remove their temporary files meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.out.truncate(begin),
                packed => packed?,
            }
        }
        self.out.push(END);
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &OsStr, seen: &Metadata, depth: usize) -> io::Result<()> {
        self.files += 1;
        within(self.top, "files and folders", self.files, self.limits.files)?;
        let failed = |error: io::Error| named(&error, "cannot read", path);
        let kind = seen.file_type();
        if kind.is_dir() {
            self.head(FOLDER, name)?;
            self.marks(seen)?;
            self.contents(path, depth + 1)
        } else if kind.is_symlink() {
            self.link(name, &fs::read_link(path).map_err(failed)?, depth)
        } else if kind.is_file() {
            self.fits(seen.len())?;
            let mut content = Vec::new();
            open(path).and_then(|file| file.take(seen.len()).read_to_end(&mut content)).map_err(failed)?;
            self.head(FILE, name)?;
            self.marks(seen)?;
            self.bytes(&content)
        } else {
            tracing::warn!(path = %path.display(), "not saved: it is no file, folder or link");
            Ok(())
        }
    }

    fn link(&mut self, name: &OsStr, leads: &Path, depth: usize) -> io::Result<()> {
        let (kind, leads) = match inside(self.top, leads) {
            Some(from_top) if stays(&from_top, 0) => (LINK_FROM_TOP, from_top),
            None if stays(leads, depth) => (LINK, leads.to_owned()),
            _ => {
                let message = format!(
                    "the workspace {} cannot be saved: its link '{}' may lead out of it, to {}; remove the link, or \
                     make it one by a path from its own folder",
                    self.top.display(),
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

    fn marks(&mut self, seen: &Metadata) -> io::Result<()> {
        let since = seen.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.out.extend(since.as_secs().to_le_bytes());
        self.out.extend(since.subsec_nanos().to_le_bytes());
        self.out.extend((seen.permissions().mode() & 0o777).to_le_bytes());
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.fits(length)?;
        self.out.extend(length.to_le_bytes());
        self.out.extend(bytes);
        Ok(())
    }

    fn fits(&self, more: u64) -> io::Result<()> {
        within(self.top, "bytes", (self.out.len() as u64).saturating_add(more), self.limits.saved_bytes)
    }
}

struct Unpacking<'a> {
    top: &'a Path,
    rest: &'a [u8],
    /// The folders that are being filled, each in the one before it.
    open: Vec<(PathBuf, Option<Marks>)>,
    files: u64,
}

impl<'a> Unpacking<'a> {
    fn entry(&mut self) -> io::Result<()> {
        let [kind] = self.array()?;
        if kind == END {
            if let Some((folder, Some(marks))) = self.open.pop() {
                // A folder that nobody may enter could not be deleted.
                let put_on = File::open(&folder).and_then(|opened| marks.put_on(&opened, 0o700));
                put_on.map_err(|error| named(&error, "cannot restore", &folder))?;
            }
            return Ok(());
        }
        self.files += 1;
        let name = self.name()?;
        let folder = self.open.last().map_or(self.top, |(folder, _)| folder);
        let path = folder.join(name);
        self.make(kind, &path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => invalid(&format!("it has two entries '{}'", path.display())),
            io::ErrorKind::InvalidData => error,
            _ => named(&error, "cannot restore", &path),
        })
    }

    fn make(&mut self, kind: u8, path: &Path) -> io::Result<()> {
        match kind {
            FOLDER => {
                let marks = self.marks()?;
                fs::create_dir(path)?;
                self.open.push((path.to_owned(), Some(marks)));
                Ok(())
            }
            FILE => {
                let marks = self.marks()?;
                let content = self.bytes()?;
                let mut file = create(path)?;
                file.write_all(content)?;
                marks.put_on(&file, 0)
            }
            LINK | LINK_FROM_TOP => {
                let leads = Path::new(OsStr::from_bytes(self.bytes()?));
                let from_top = kind == LINK_FROM_TOP;
                let depth = if from_top { 0 } else { self.open.len() - 1 };
                if !stays(leads, depth) || leads.as_os_str().as_bytes().contains(&0) {
                    return Err(invalid(&format!(
                        "a link of it leads out of the workspace, to '{}'",
                        leads.display()
                    )));
                }
                if from_top { symlink(self.top.join(leads), path) } else { symlink(leads, path) }
            }
            _ => Err(invalid(&format!("it has an entry of the unknown kind {kind}"))),
        }
    }

    fn name(&mut self) -> io::Result<OsString> {
        let bytes = self.bytes()?;
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(invalid(&format!("it has an entry of the name '{}'", bytes.escape_ascii())));
        }
        Ok(OsString::from_vec(bytes.to_vec()))
    }

    fn marks(&mut self) -> io::Result<Marks> {
        let seconds = u64::from_le_bytes(self.array()?);
        let nanoseconds = u32::from_le_bytes(self.array()?);
        let mode = u32::from_le_bytes(self.array()?);
        let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()));
        let modified = since.and_then(|since| UNIX_EPOCH.checked_add(since));
        let modified = modified.ok_or_else(|| invalid("it has a time that is none"))?;
        Ok(Marks { modified, mode: mode & 0o777 })
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

impl Marks {
    /// `more` is what the mode has in any case.
    fn put_on(&self, file: &File, more: u32) -> io::Result<()> {
        file.set_permissions(fs::Permissions::from_mode(self.mode | more))?;
        file.set_times(FileTimes::new().set_modified(self.modified))
    }
}

/// Whether a relative link in a folder of that depth cannot lead out: it goes up no further than the folder is
/// deep, and never after it went down, where it could go up from what another link leads to.
fn stays(leads: &Path, depth: usize) -> bool {
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
