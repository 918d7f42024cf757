//! How many descriptors (open files and sockets) the process has, and may have.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// How many the process may have open, if that has an end.
#[must_use]
pub fn descriptor_limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}

/// How many the process has open; unknown where there is no `/proc`.
#[must_use]
pub fn open_descriptors() -> Option<usize> {
    const FOLDER: &str = "/proc/self/fd";
    // Since Linux 6.2 it is the folder's size.
    let size = fs::metadata(FOLDER).ok()?.len();
    match usize::try_from(size) {
        Ok(size) if size > 0 => Some(size),
        // The folder that is being read has a descriptor too.
        _ => Some(fs::read_dir(FOLDER).ok()?.count().saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_has_a_descriptor() {
        let file = fs::File::open("/dev/null").unwrap();
        let open = open_descriptors().unwrap();
        assert!(open > 0 && descriptor_limit().is_none_or(|limit| open <= limit));
        drop(file);
    }
}
