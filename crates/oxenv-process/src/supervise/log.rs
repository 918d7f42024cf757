//! The log of a detached command: a file with the end of what it writes.
//!
//! Invariant: everything that the command writes is read, kept in bounded space, and readable by the user
//! alone. A file that was removed stays removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// The length at which the next file is begun, in bytes; one older file is kept.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Opens a log to write at its end, and makes it if it is not there.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Copies the pipe to the file until the pipe is closed. The file is there already: if it is not, it was
/// removed, and nothing is written. What cannot be written is lost.
pub(super) async fn write(mut pipe: Receiver, path: PathBuf) {
    let mut chunk = vec![0; 16 << 10];
    let mut file = OpenOptions::new().append(true).open(&path).ok();
    let mut written = 0;
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        if written + length > MAX_FILE_BYTES {
            file = next(&path);
            written = 0;
        }
        written += length;
        if let Some(file) = &mut file {
            let _ = file.write_all(&chunk[..length]);
        }
    }
}

/// Begins the next file, unless the present one was removed.
fn next(path: &Path) -> Option<File> {
    let mut old = path.to_owned().into_os_string();
    old.push(".old");
    std::fs::rename(path, &old).ok()?;
    let file = open(path).ok()?;
    // A process that removes both removes this one last, so it sees this file or this sees that the old one
    // is gone.
    if !Path::new(&old).exists() {
        let _ = std::fs::remove_file(path);
        return None;
    }
    Some(file)
}
