//! Temporary folders.
//!
//! Invariant: a folder is gone once its `Scratch` is dropped.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A folder that only this user can enter.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder within another.
    pub(super) fn new(within: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
            let path = within.join(format!("oxenv-{}-{time:x}-{count:x}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let says = format!("cannot make a folder in '{}': {error}", within.display());
                    return Err(io::Error::new(error.kind(), says));
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
