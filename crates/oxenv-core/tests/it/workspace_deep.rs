//! Workspaces that are deeper than a stack, a path or the descriptors of a process reach.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oxenv_core::{WorkspaceSource, Workspaces};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::workspace::{Folder, listing, open};

/// More than a thread's stack has room for calls of a function that calls itself once for each.
const DEEP: usize = 20_000;

/// Makes folders within folders, and a file in the last.
pub(crate) fn nest(folder: &Path, levels: usize) {
    let mut last = open_folder(&openat(CWD, folder, OFlags::PATH, Mode::empty()).unwrap(), ".").unwrap();
    for _ in 0..levels {
        mkdirat(&last, "d", Mode::RWXU).unwrap();
        last = open_folder(&last, "d").unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let mut file = File::from(openat(&last, "bottom", flags, Mode::RUSR | Mode::WUSR).unwrap());
    file.write_all(b"here").unwrap();
}

/// How many folders are within each other, the last of which has the file.
pub(crate) fn depth(folder: &Path) -> usize {
    let mut last = open_folder(&openat(CWD, folder, OFlags::PATH, Mode::empty()).unwrap(), ".").unwrap();
    let mut levels = 0;
    while let Some(next) = open_folder(&last, "d") {
        last = next;
        levels += 1;
    }
    let mut text = String::new();
    let bottom = openat(&last, "bottom", OFlags::RDONLY, Mode::empty()).unwrap();
    File::from(bottom).read_to_string(&mut text).unwrap();
    assert_eq!(text, "here");
    levels
}

fn open_folder(folder: &OwnedFd, name: &str) -> Option<OwnedFd> {
    openat(folder, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Does all that is done to workspaces, one of which is that deep.
fn everything(parent: &Folder, levels: usize) {
    let (all, one) = open(parent, WorkspaceSource::Empty);
    nest(one.path(), levels);
    let fork = one.fork(&all, "fork").unwrap();
    assert_eq!(depth(fork.path()), levels);
    let archive = one.save().unwrap();
    let back = all.restore("back", PathBuf::from("/where/it/was"), &archive).unwrap();
    assert_eq!(depth(back.path()), levels);
    assert!(back.save().unwrap() == archive, "what was restored is what was saved");
    one.renew().unwrap();
    assert!(listing(one.path()).is_empty());
    let path = back.path().to_owned();
    drop(back);
    assert!(!path.exists());
    drop(all);
    assert!(listing(&parent.0).is_empty(), "the root goes with a fork in it");
}

#[test]
fn a_deep_one_is_forked_saved_restored_emptied_and_removed() {
    everything(&Folder::in_memory(), DEEP);
}

#[test]
fn a_deep_source_is_copied() {
    let (parent, from) = (Folder::in_memory(), Folder::in_memory());
    nest(&from.0, DEEP);
    let (_all, one) = open(&parent, WorkspaceSource::CopyOf(from.0.clone()));
    assert_eq!(depth(one.path()), DEEP);
    one.renew().unwrap();
    assert_eq!(depth(one.path()), DEEP);
}

#[test]
fn a_deep_root_of_a_dead_server_is_removed() {
    let parent = Folder::in_memory();
    let dead = parent.0.join("oxenv-workspaces-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    nest(&dead, DEEP);
    let all = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    assert!(!dead.exists());
    drop(all);
    assert!(listing(&parent.0).is_empty());
}

/// Where deep folders are in each other's way: many in one, each of which is deep.
#[test]
fn many_deep_ones_beside_each_other_are_removed() {
    let parent = Folder::in_memory();
    let (_all, one) = open(&parent, WorkspaceSource::Empty);
    for number in 0..200 {
        let folder = one.path().join(format!("a/b/{}/{number}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        nest(&folder, 100);
    }
    one.renew().unwrap();
    assert!(listing(one.path()).is_empty());
}

#[test]
fn a_few_descriptors_are_enough() {
    let parent = Folder::in_memory();
    few_descriptors(64);
    everything(&parent, 3000);
}

/// With fewer than are used otherwise.
#[test]
fn a_folder_is_removed_with_very_few_descriptors() {
    let parent = Folder::in_memory();
    nest(&parent.0.join("."), 300);
    few_descriptors(6);
    oxenv_core::folders::remove(&parent.0).unwrap();
    assert!(!parent.0.exists());
}

/// Leaves this process that many descriptors.
fn few_descriptors(left: u64) {
    // Not counting the one that reads the folder.
    let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(used + left), maximum }).unwrap();
}

/// What a message shows of a path is short, however long the path is.
#[test]
fn an_error_deep_down_is_named_in_few_words() {
    let parent = Folder::in_memory();
    let (_all, one) = open(&parent, WorkspaceSource::Empty);
    let link_at = nest_with_link(one.path(), 5000);
    let error = one.save().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("its link 'out'"), "{error}");
    assert!(error.to_string().len() < 1000, "{error}");
    drop(link_at);
}

fn nest_with_link(folder: &Path, levels: usize) -> OwnedFd {
    nest(folder, levels);
    let mut last = open_folder(&openat(CWD, folder, OFlags::PATH, Mode::empty()).unwrap(), ".").unwrap();
    while let Some(next) = open_folder(&last, "d") {
        last = next;
    }
    rustix::fs::symlinkat("/etc/passwd", &last, "out").unwrap();
    last
}

/// Another thread moves the folders that are being copied; what comes is a copy, or an error that says so.
#[test]
fn folders_that_move_meanwhile_are_an_error_at_worst() {
    let parent = Folder::in_memory();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    nest(one.path(), 300);
    let moved = one.path().join("d/d/d/d");
    let aside = one.path().join("aside");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&moved, &aside).unwrap();
                fs::rename(&aside, &moved).unwrap();
            }
        });
        let copies = (0..50).map(|number| one.fork(&all, &format!("fork-{number}")).map(drop));
        let failed: Vec<_> = copies.filter_map(Result::err).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for error in failed {
            assert!(error.to_string().contains(one.path().to_str().unwrap()), "{error}");
        }
    });
    assert_eq!(depth(one.path()), 300);
    assert_eq!(fs::read_dir(one.path().parent().unwrap()).unwrap().count(), 2, "the workspace and the lock");
}
