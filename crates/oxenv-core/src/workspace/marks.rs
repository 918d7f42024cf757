//! [`Marks`]: what a copy of a file or a folder keeps beside its contents.
//!
//! Invariant: the owner and the time of the last read are not kept.

use std::os::fd::AsFd;

use rustix::fs::{Mode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// The mode and the time of a file or a folder.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    pub(super) mode: Mode,
    pub(super) modified: Timespec,
}

impl Marks {
    pub(super) fn of(seen: &Stat) -> Self {
        // The types of the parts differ between systems.
        #[allow(clippy::unnecessary_cast)]
        let modified =
            Timespec { tv_sec: seen.st_mtime as i64, tv_nsec: seen.st_mtime_nsec as rustix::fs::Nsecs };
        Marks { mode: Mode::from_raw_mode(seen.st_mode), modified }
    }

    pub(super) fn put_on(&self, file: impl AsFd) -> Result<(), Errno> {
        rustix::fs::fchmod(&file, self.mode)?;
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        rustix::fs::futimens(&file, &Timestamps { last_access, last_modification: self.modified })
    }
}
