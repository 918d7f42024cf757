//! Workspaces that take long to make: deeper and wider than in the other tests. `scripts/nightly` runs these.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oxenv_core::{WorkspaceLimits, WorkspaceSource};

use crate::workspace::{Folder, listing, open};
use crate::workspace_deep::{depth, nest};

const DEEP: usize = 100_000;
const MANY: usize = 1_000_000;
/// Generous for work that takes as many steps as there are files; too short for that number squared.
const LONG: Duration = Duration::from_secs(240);

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    println!("{what}: {took:?}");
    assert!(took < LONG, "{what} took {took:?}");
    done
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_hundred_thousand_levels() {
    let parent = Folder::in_memory();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let all = all.with_limits(WorkspaceLimits { files: 1 << 20, ..WorkspaceLimits::default() });
    nest(one.path(), DEEP);
    let fork = timed("fork", || one.fork(&all, "fork").unwrap());
    assert_eq!(depth(fork.path()), DEEP);
    // The limits of a workspace are those of the server that made it, when it made it.
    let archive = timed("save", || fork.save().unwrap());
    let back = timed("restore", || all.restore("back", PathBuf::from("/where/it/was"), &archive).unwrap());
    assert_eq!(depth(back.path()), DEEP);
    timed("reset", || one.renew().unwrap());
    assert!(listing(one.path()).is_empty());
    timed("remove two", || drop((fork, back)));
}

fn fill(folder: &Path, files: usize, in_each: usize) {
    for number in 0..files / in_each {
        let folder = folder.join(number.to_string());
        fs::create_dir(&folder).unwrap();
        for file in 0..in_each {
            fs::write(folder.join(file.to_string()), "").unwrap();
        }
    }
}

/// Reading stops at the limit, and removing holds no names in memory.
#[test]
fn a_million_files() {
    let parent = Folder::in_memory();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    for in_each in [1000, MANY] {
        fill(one.path(), MANY, in_each);
        let before = peak_memory();
        timed("refuse a fork", || one.fork(&all, "fork").unwrap_err());
        let by_fork = peak_memory() - before;
        assert!(by_fork < 64 << 20, "{by_fork} bytes for a fork that is refused");
        let before = peak_memory();
        timed("remove", || one.renew().unwrap());
        let by_removal = peak_memory() - before;
        assert!(by_removal < 8 << 20, "{by_removal} bytes for a removal");
        assert!(listing(one.path()).is_empty());
    }
}

/// Many folders that have to be moved to the top, and a top that is large itself.
#[test]
fn a_hundred_thousand_folders_at_the_bottom_of_a_large_one() {
    let parent = Folder::in_memory();
    let (_all, one) = open(&parent, WorkspaceSource::Empty);
    for number in 0..100_000 {
        fs::write(one.path().join(format!("file-{number}")), "").unwrap();
    }
    let bottom = one.path().join("d/".repeat(30));
    fs::create_dir_all(&bottom).unwrap();
    for number in 0..100_000 {
        fs::create_dir_all(bottom.join(format!("{number}/d"))).unwrap();
    }
    timed("remove", || one.renew().unwrap());
    assert!(listing(one.path()).is_empty());
}
