//! Which files of an environment have changed.
//!
//! Invariant: a change is told once, and only when the files have been still for a moment.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::directory;

/// How often files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long files that have changed must be still.
const STILL_TIME: Duration = Duration::from_millis(200);
/// The most files that are looked at.
const MAX_FILES: usize = 20_000;

/// When each file was changed, and how long it is.
type Files = BTreeMap<PathBuf, (SystemTime, u64)>;

/// The files of a folder.
pub(crate) struct WatchedFolder {
    folder: PathBuf,
    seen: Files,
}

impl WatchedFolder {
    /// The files as they are now.
    ///
    /// # Errors
    /// The folder cannot be read, or has too many files.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let seen = directory::files(folder)?;
        if seen.len() > MAX_FILES {
            let place = folder.display();
            return Err(io::Error::other(format!(
                "--reload looks at {MAX_FILES} files at most, and {place} has {}: serve a smaller folder",
                seen.len()
            )));
        }
        Ok(WatchedFolder { folder: folder.to_owned(), seen })
    }

    /// Waits until a file is changed, new or gone; gives its name within the folder.
    pub(crate) async fn change(&mut self) -> PathBuf {
        loop {
            sleep(POLL_INTERVAL).await;
            let Some(mut now) = self.look().await else { continue };
            let Some(changed) = difference(&self.seen, &now) else { continue };
            loop {
                sleep(STILL_TIME).await;
                match self.look().await {
                    Some(later) if later != now => now = later,
                    Some(_) => break,
                    None => {}
                }
            }
            self.seen = now;
            return changed.strip_prefix(&self.folder).map_or(changed.clone(), Path::to_owned);
        }
    }

    /// The files now. A folder that is being rewritten cannot be read for a moment.
    async fn look(&self) -> Option<Files> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || directory::files(&folder)).await.ok()?.ok()
    }
}

/// The first file that differs.
fn difference(before: &Files, now: &Files) -> Option<PathBuf> {
    let changed = now.iter().find(|(path, at)| before.get(*path) != Some(at));
    let gone = || before.iter().find(|(path, _)| !now.contains_key(*path));
    changed.or_else(gone).map(|(path, _)| path.clone())
}
