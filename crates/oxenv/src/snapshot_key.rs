//! The key that `serve` makes snapshots with: of a file, of the record, or of this process.
//!
//! Invariant: the key itself is never shown; a file that cannot be a key is refused before a port is bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use oxenv_core::{SnapshotKey, SnapshotKeySource};

use crate::exit::usage;

/// The name of the file beside a record.
const FILE_NAME: &str = "snapshot.key";
/// Bytes of a key: fewer could be guessed, and more are no key but some other file.
const MIN_KEY_BYTES: usize = 32;
const MAX_KEY_BYTES: usize = 4096;

/// The key of the named file; else that beside the record, which is made if it is not there; else a random
/// one.
pub(crate) fn of(file: Option<&Path>, record: Option<&Path>) -> anyhow::Result<SnapshotKey> {
    match (file, record) {
        (Some(file), _) => Ok(SnapshotKey::new(&read(file)?, SnapshotKeySource::File)),
        (None, Some(record)) => Ok(SnapshotKey::new(&record_key(record)?, SnapshotKeySource::Record)),
        (None, None) => Ok(SnapshotKey::random()),
    }
}

/// A process that has opened the record has it exclusively, so the file is made by one process
/// only.
fn record_key(record: &Path) -> anyhow::Result<Vec<u8>> {
    let path = record.join(FILE_NAME);
    if !path.try_exists().map_err(|error| unreadable(&path, &error))? {
        make(record, &path).map_err(|error| {
            usage(format!("cannot make the key of snapshots {}: {error}", path.display()))
        })?;
    }
    read(&path)
}

/// Makes the file as a whole or not at all.
fn make(folder: &Path, path: &Path) -> io::Result<()> {
    let mut key = [0; MIN_KEY_BYTES];
    getrandom::fill(&mut key)?;
    let unfinished = path.with_extension("key.new");
    // What an earlier try has left may be open to others.
    remove(&unfinished)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The bytes of a key. A line's end behind them is not part of it.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut key = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    file.take(MAX_KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(|error| unreadable(path, &error))?;
    if key.len() > MIN_KEY_BYTES && key.ends_with(b"\n") {
        key.pop();
    }
    if (MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(key);
    }
    let path = path.display();
    Err(usage(format!(
        "{path} is no key of snapshots: it must have from {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes; \
         make one with: openssl rand -hex 32 > {path}"
    )))
}

fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    usage(format!("cannot read the key of snapshots {}: {error}", path.display()))
}
