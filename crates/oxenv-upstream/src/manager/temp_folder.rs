//! Temporary folders.
//!
//! Invariant: a folder is gone once its `TempFolder` is dropped.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use oxenv_core::folders;

/// A folder that only this user can enter.
pub(super) struct TempFolder(PathBuf);

impl TempFolder {
    /// Makes a folder within another.
    pub(super) fn new(within: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
            let path = within.join(format!("oxenv-{}-{time:x}-{count:x}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(TempFolder(path)),
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

    /// Lets go of a folder. If nobody else holds it, it is removed by a thread that may take its time: a
    /// server may have put any number of files there.
    pub(super) async fn release(scratch: Option<Arc<Self>>) {
        if let Some(scratch) = scratch {
            let _ = tokio::task::spawn_blocking(move || drop(scratch)).await;
        }
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary folder.
        if let Err(error) = folders::remove(&self.0) {
            tracing::warn!(%error, "could not remove the folder of a tool server");
        }
    }
}
