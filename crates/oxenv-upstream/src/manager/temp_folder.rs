//! Temporary folders of tool servers.
//!
//! Invariant: a folder is gone once its `TempFolder` is dropped. What a killed server has left is removed by
//! the next one: it is the folder whose lock is not held.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use oxenv_core::folders;

/// The prefix of the folders, before a part of their own.
const PREFIX: &str = "oxenv-tools-";

/// A folder that only this user can enter.
pub(super) struct TempFolder {
    path: PathBuf,
    /// Its lock marks it as in use for other servers.
    _lock: File,
}

impl TempFolder {
    /// Makes a folder within another.
    pub(super) fn new(within: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        let name = format!("{process}-{time:x}-{count:x}");
        // It has its name when its lock is held, or another server that starts at this moment would remove
        // it.
        let (unlocked, path) =
            (within.join(format!("oxenv-new-{name}")), within.join(format!("{PREFIX}{name}")));
        let made = DirBuilder::new().mode(0o700).create(&unlocked).and_then(|()| {
            let lock = File::open(&unlocked)?;
            lock.lock_shared()?;
            fs::rename(&unlocked, &path)?;
            Ok(lock)
        });
        match made {
            Ok(lock) => Ok(TempFolder { path, _lock: lock }),
            Err(error) => {
                // There may be none.
                let _ = fs::remove_dir(&unlocked);
                let message = format!("cannot make a folder in '{}': {error}", within.display());
                Err(io::Error::new(error.kind(), message))
            }
        }
    }

    /// Removes the folders in another that servers have left which were killed.
    pub(super) fn sweep(within: &Path) {
        let user = rustix::process::geteuid().as_raw();
        for entry in fs::read_dir(within).into_iter().flatten().flatten() {
            let ours = |about: &fs::Metadata| about.is_dir() && about.uid() == user;
            // The check is of the entry, not of a link's target.
            if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
                || !entry.metadata().is_ok_and(|about| ours(&about))
            {
                continue;
            }
            let path = entry.path();
            let free = File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok());
            if free && let Err(error) = folders::remove(&path) {
                tracing::debug!(
                    %error,
                    path = %path.display(),
                    "could not remove an abandoned folder of a tool server"
                );
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Releases a folder. If no other process holds it, a separate thread removes it: a server may
    /// have put any number of files there, so this may be slow.
    pub(super) async fn release(scratch: Option<Arc<Self>>) {
        if let Some(scratch) = scratch {
            let _ = tokio::task::spawn_blocking(move || drop(scratch)).await;
        }
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What cannot be removed is left to the next server.
        if let Err(error) = folders::remove(&self.path) {
            tracing::warn!(%error, "could not remove the folder of a tool server");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_folders_are_swept_and_no_others() {
        let within = TempFolder::new(&std::env::temp_dir()).unwrap();
        let in_use = TempFolder::new(within.path()).unwrap();
        let abandoned = within.path().join(format!("{PREFIX}1-1-1"));
        fs::create_dir_all(abandoned.join("files")).unwrap();
        fs::write(abandoned.join("files/file"), "text").unwrap();
        let target = within.path().join("target");
        fs::create_dir(&target).unwrap();
        let link = within.path().join(format!("{PREFIX}link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        TempFolder::sweep(within.path());
        assert!(in_use.path().exists() && target.exists() && link.is_symlink());
        assert!(!abandoned.exists());
        let path = in_use.path().to_owned();
        drop(in_use);
        assert!(!path.exists());
    }
}
