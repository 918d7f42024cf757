//! Working directories: which part of an environment's folder a session gets a copy of.
//!
//! Invariant: nothing is written into the folder, and links are copied as links.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Maximum bytes of a folder of which each session gets a copy.
pub const MAX_COPIED_BYTES: u64 = 64 << 20;

/// What no environment reads, or reads by its place: version control, installed packages, caches.
const LEFT_OUT: [&str; 9] = [
    ".git",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
];

/// How the names of files end that an editor keeps while one is edited.
const OF_EDITORS: [&str; 3] = ["~", ".swp", ".swx"];

/// Bytes that a copy of a folder takes; stops counting above `enough`.
///
/// # Errors
/// The folder cannot be read.
pub fn size(folder: &Path, enough: u64) -> io::Result<u64> {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            match () {
                () if is_left_out(&entry) => {}
                () if kind.is_dir() => folders.push(entry.path()),
                () => bytes += entry.metadata()?.len(),
            }
            if bytes > enough {
                return Ok(bytes);
            }
        }
    }
    Ok(bytes)
}

/// The files of a folder, but for what is left out and what editors leave: when each was changed, and its
/// length.
pub(crate) fn files(folder: &Path) -> io::Result<BTreeMap<PathBuf, (SystemTime, u64)>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_temporary = OF_EDITORS.iter().any(|ending| name.to_string_lossy().ends_with(ending));
            if is_left_out(&entry) || is_temporary {
                continue;
            }
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                _ => {
                    let about = entry.metadata()?;
                    files.insert(entry.path(), (about.modified()?, about.len()));
                }
            }
        }
    }
    Ok(files)
}

/// Copies a folder without what is left out into one that exists.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
            if is_left_out(&entry) {
                continue;
            }
            if kind.is_dir() {
                fs::create_dir(&place)?;
                folders.push((entry.path(), place));
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, place)?;
            } else if kind.is_file() {
                fs::copy(entry.path(), place)?;
            }
        }
    }
    Ok(())
}

fn is_left_out(entry: &fs::DirEntry) -> bool {
    LEFT_OUT.iter().any(|name| entry.file_name() == *name)
}
