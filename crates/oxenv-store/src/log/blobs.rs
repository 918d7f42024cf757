//! Blobs: values too long for a record, in files named by the hash of their content.
//!
//! Invariant: a blob is whole before a record names it, and each segment has a list of the blobs
//! that its records name, which is complete before they are written.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{no_file, read_plain};
use crate::error::LogError;

/// The folder of the blobs, within that of the log.
const FOLDER: &str = "blobs";

/// A value to keep beside the log.
#[derive(Debug)]
pub(crate) struct Blob {
    /// The name: 64 hexadecimal digits.
    pub(crate) sha256: String,
    /// The value, which is JSON.
    pub(crate) text: String,
}

impl Blob {
    pub(crate) fn of(text: &str) -> Self {
        Blob { sha256: hash(text.as_bytes()), text: text.to_owned() }
    }
}

/// The file of a blob.
pub(crate) fn path(folder: &Path, sha256: &str) -> PathBuf {
    // An invalid hash must not name a file elsewhere.
    let plain = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    let sha256 = if plain { sha256 } else { "no-hash" };
    folder.join(FOLDER).join(&sha256[..2]).join(sha256)
}

/// The list of the blobs that a segment names, which is a text of one hash a line.
pub(crate) fn list_path(segment: &Path) -> PathBuf {
    segment.with_extension("blobs")
}

/// Reads a blob and checks it against its name.
pub(crate) fn read(folder: &Path, sha256: &str) -> Result<String, LogError> {
    let path = path(folder, sha256);
    let fault = |reason: &str| LogError::Blob { path: path.clone(), reason: reason.to_owned() };
    let bytes = read_plain(&path).map_err(|error| fault(&error.to_string()))?;
    if hash(&bytes) != sha256 {
        return Err(fault("its content is not what its name says"));
    }
    String::from_utf8(bytes).map_err(|_| fault("it is no UTF-8"))
}

/// Writes a blob unless it is there. `durable`: it is on the disk afterwards, its name too.
pub(super) fn write(folder: &Path, blob: &Blob, durable: bool) -> io::Result<()> {
    let path = path(folder, &blob.sha256);
    let there = fs::metadata(&path).is_ok_and(|about| about.len() == blob.text.len() as u64);
    if there {
        return Ok(());
    }
    let below = path.parent().unwrap_or(folder);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(below)?;
    // There is one writer, so one name for what is not whole yet is enough.
    let unfinished = below.join("unfinished");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(blob.text.as_bytes())?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&unfinished, &path)?;
    if durable {
        for changed in [below, &folder.join(FOLDER), folder] {
            File::open(changed)?.sync_all()?;
        }
    }
    Ok(())
}

/// Adds names to a segment's list.
pub(super) fn append_names(segment: &Path, names: &[&str], durable: bool) -> io::Result<()> {
    let mut text = names.join("\n");
    text.push('\n');
    let path = list_path(segment);
    if fs::metadata(&path).is_ok_and(|about| !about.is_file()) {
        return Err(no_file());
    }
    let mut list = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // A name that is cut off ends here, and is invalid.
    if list.metadata()?.len() % 65 != 0 {
        text.insert(0, '\n');
    }
    list.write_all(text.as_bytes())?;
    if durable { list.sync_data() } else { Ok(()) }
}

/// The blobs that a segment names; none when it has no list.
pub(super) fn read_names(segment: &Path) -> io::Result<HashSet<String>> {
    match read_plain(&list_path(segment)) {
        Ok(text) => Ok(String::from_utf8_lossy(&text)
            .lines()
            .filter(|line| line.len() == 64)
            .map(str::to_owned)
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}

/// The blobs that a record's text names. Data that looks like a reference is taken for one, which
/// keeps a blob longer than needed and does no harm.
pub(super) fn named_in(payload: &[u8]) -> impl Iterator<Item = &str> {
    const REFERENCE: &str = "_blob\":{\"sha256\":\"";
    let text = std::str::from_utf8(payload).unwrap_or_default();
    text.match_indices(REFERENCE).filter_map(|(at, found)| text[at + found.len()..].get(..64))
}

fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
