//! Working directories: which part of an environment's folder a session gets a copy of.
//!
//! Invariant: nothing is written into the folder, and links are copied as links.

use std::fs;
use std::io;
use std::path::Path;

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
