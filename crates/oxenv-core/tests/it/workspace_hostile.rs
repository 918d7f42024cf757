//! Workspaces in which a tool has done something that keeps others from reading or removing them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_core::{WorkspaceSource, Workspaces, folders};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::workspace::{Folder, listing, open, source, write};

/// Says on stderr what was not tested, and why.
fn skipped(what: &str) {
    eprintln!("skipped: {what}");
}

/// Does something as a user who has no right to read everything; if these tests run as root, in a thread
/// without it.
fn as_user(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
            }
            work();
        });
        thread.join().unwrap();
    });
}

#[test]
fn folders_that_are_shut_are_removed_by_their_owner() {
    as_user(|| {
        let parent = Folder::in_memory();
        let (all, one) = open(&parent, WorkspaceSource::Empty);
        for again in [true, false] {
            for mode in [0o000, 0o111, 0o222, 0o333, 0o444, 0o555, 0o666] {
                // So deep that they have to be moved, and less deep.
                for depth in [1, 15, 16, 17, 40] {
                    let shut = one.path().join(format!("{mode:o}-{depth}")).join("d/".repeat(depth));
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(&shut).unwrap();
                    write(&shut, "folder/file", "text");
                    fs::create_dir(shut.join("empty")).unwrap();
                    for shut in [shut.join("empty"), shut.join("folder"), shut] {
                        fs::set_permissions(shut, fs::Permissions::from_mode(mode)).unwrap();
                    }
                }
            }
            fs::set_permissions(one.path(), fs::Permissions::from_mode(0o000)).unwrap();
            if again {
                one.renew().unwrap();
                assert!(listing(one.path()).is_empty());
            }
        }
        drop((one, all));
        assert!(listing(&parent.0).is_empty());
    });
}

/// Makes something immutable until this is dropped; nothing where that cannot be done.
struct Immutable(File);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        let file = File::open(path).unwrap();
        let flags = ioctl_getflags(&file).ok()?;
        ioctl_setflags(&file, flags | IFlags::IMMUTABLE).ok()?;
        Some(Immutable(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let flags = ioctl_getflags(&self.0).unwrap();
        ioctl_setflags(&self.0, flags - IFlags::IMMUTABLE).unwrap();
    }
}

#[test]
fn what_is_immutable_is_named_and_keeps_nothing_else() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let deep = "d/".repeat(30);
    let fill = |locked: &str| {
        for folder in ["a/b", "z", &deep] {
            for file in ["before", locked, "zero/after"] {
                write(one.path(), &format!("{folder}/{file}"), "text");
            }
        }
    };
    fill("locked");
    let Some(locked) = Immutable::new(&one.path().join("a/b/locked")) else {
        return skipped("immutable files: they need root and a file system that has them");
    };
    let error = one.renew().unwrap_err();
    let path = one.path().join("a/b/locked");
    let expected = format!(
        "cannot remove {}: Operation not permitted (os error 1); if it is immutable or append-only, take \
         that away (chattr -i -a)",
        path.display()
    );
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::PermissionDenied, expected));
    assert_eq!(listing(one.path()), ["a/", "a/b/", "a/b/locked: text"]);
    // Two more, one in a folder that cannot be changed itself, far down.
    fill("also");
    let also = Immutable::new(&one.path().join("z/also")).unwrap();
    let folder = Immutable::new(&one.path().join(&deep).join("zero")).unwrap();
    let error = one.renew().unwrap_err().to_string();
    assert!(error.contains("(and 2 others)"), "{error}");
    let left = listing(one.path());
    assert_eq!(left.iter().filter(|entry| !entry.ends_with('/')).count(), 3, "{left:?}");
    drop((locked, also, folder));
    one.renew().unwrap();
    assert!(listing(one.path()).is_empty());
    // A server that could not remove something leaves it to the next one.
    fill("locked");
    let locked = Immutable::new(&one.path().join("z/locked")).unwrap();
    let path = one.path().to_owned();
    drop((one, all));
    assert_eq!(listing(&path), ["z/", "z/locked: text"]);
    drop(locked);
    drop(Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap());
    assert!(listing(&parent.0).is_empty());
}

#[test]
fn what_has_the_name_is_removed_whatever_it_is() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let path = parent.0.join("it");
    let remove = || {
        folders::remove(&path).unwrap();
        assert!(path.symlink_metadata().is_err());
    };
    assert_eq!(folders::remove(&path).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(&path, "text").unwrap();
    remove();
    symlink(&outside.0, &path).unwrap();
    remove();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    remove();
    write(&path, "a/b/c", "text");
    remove();
    for wrong in ["/", "..", ""] {
        let error = folders::remove(Path::new(wrong)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong}");
    }
    assert_eq!(listing(&outside.0), before);
}

#[test]
fn what_is_mounted_in_a_workspace_is_not_emptied() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let (_all, one) = open(&parent, WorkspaceSource::Empty);
    let point = one.path().join("a/mounted");
    fs::create_dir_all(&point).unwrap();
    write(one.path(), "a/other", "");
    let mounted = Command::new("mount").arg("--bind").args([&outside.0, &point]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skipped("mounts in a workspace: they need root");
    }
    let error = one.renew();
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a/mounted: ") && error.contains("unmount it"), "{error}");
    assert_eq!(listing(&outside.0), before);
    assert_eq!(listing(one.path()), ["a/", "a/mounted/"]);
    one.renew().unwrap();
    assert!(listing(one.path()).is_empty());
}

/// A link in the place of the workspace leads neither a fork nor a snapshot to anything.
#[test]
fn a_workspace_that_became_a_link_is_not_copied() {
    let (parent, outside) = (Folder::new(), source());
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    fs::remove_dir(one.path()).unwrap();
    symlink(&outside.0, one.path()).unwrap();
    for error in [one.fork(&all, "fork").map(drop).unwrap_err(), one.save().map(drop).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        assert!(error.to_string().contains("reset the session"), "{error}");
    }
    one.renew().unwrap();
    write(one.path(), "kept", "text");
    assert_eq!(listing(one.fork(&all, "fork").unwrap().path()), ["kept: text"]);
}

/// The folder of all workspaces is the one that was made, whatever its path leads to by now.
#[test]
fn a_root_that_became_a_link_is_not_followed() {
    let (parent, outside) = (Folder::new(), Folder::new());
    write(&outside.0, "one/kept", "outside");
    write(&outside.0, "lock", "outside");
    let before = listing(&outside.0);
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    write(one.path(), "file", "text");
    let root = one.path().parent().unwrap().to_owned();
    let moved = parent.0.join("moved");
    fs::rename(&root, &moved).unwrap();
    symlink(&outside.0, &root).unwrap();
    let fork = one.fork(&all, "fork").unwrap();
    assert_eq!(listing(&moved.join("fork")), ["file: text"]);
    let archive = one.save().unwrap();
    drop(all.restore("back", PathBuf::from("/where/it/was"), &archive).unwrap());
    one.renew().unwrap();
    assert!(listing(&moved.join("one")).is_empty());
    drop((fork, one));
    assert_eq!(listing(&moved), ["lock: "]);
    drop(all);
    assert!(listing(&moved).is_empty());
    assert_eq!(listing(&outside.0), before);
}

/// A root is found in a folder that may be open to all users of a machine.
#[test]
fn what_only_looks_like_an_abandoned_root_is_left_alone() {
    let parent = Folder::new();
    let lookalike = |name: &str| {
        let root = parent.0.join(format!("oxenv-workspaces-{name}"));
        write(&root, "session/file", "text");
        root
    };
    let pipe = lookalike("pipe");
    assert!(Command::new("mkfifo").arg(pipe.join("lock")).status().unwrap().success());
    let link = lookalike("link");
    write(&parent.0, "lock-elsewhere", "");
    symlink(parent.0.join("lock-elsewhere"), link.join("lock")).unwrap();
    let folder = lookalike("folder");
    fs::create_dir(folder.join("lock")).unwrap();
    let others = lookalike("others");
    write(&others, "lock", "");
    let is_root = rustix::process::geteuid().is_root();
    match is_root {
        true => chown(&others, Some(65534), None).unwrap(),
        false => skipped("roots of other users: they need root"),
    }
    drop(Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap());
    for root in [&pipe, &link, &folder] {
        assert!(root.join("session/file").exists(), "{}", root.display());
    }
    assert_eq!(others.join("session/file").exists(), is_root);
}

/// A tool that moves its folder away and puts a link, or another folder, in its place.
#[test]
fn a_workspace_that_was_replaced_is_the_folder_that_was_made() {
    let (parent, outside, away) = (Folder::new(), source(), Folder::new());
    let before = listing(&outside.0);
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let root = one.path().parent().unwrap().to_owned();
    let replace = |moved: &Path, folder: bool| {
        write(one.path(), "file", "made by a tool");
        fs::rename(one.path(), moved).unwrap();
        match folder {
            true => write(one.path(), "file", "put there"),
            false => symlink(&outside.0, one.path()).unwrap(),
        }
        for error in [one.fork(&all, "fork").map(drop).unwrap_err(), one.save().map(drop).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::NotADirectory);
            assert!(error.to_string().contains("reset the session"), "{error}");
        }
    };
    for folder in [false, true] {
        // Within the root it is still ours; what a tool has taken out of there is the tool's.
        for (moved, stays) in [(root.join("moved"), false), (away.0.join(format!("moved-{folder}")), true)] {
            replace(&moved, folder);
            one.renew().unwrap();
            assert!(listing(one.path()).is_empty() && !one.path().is_symlink());
            assert_eq!(moved.exists(), stays);
            write(one.path(), "kept", "text");
            assert_eq!(listing(one.fork(&all, "fork").unwrap().path()), ["kept: text"]);
        }
    }
    replace(&root.join("moved"), false);
    drop(one);
    assert_eq!(listing(&root), ["lock: "]);
    drop(all);
    assert_eq!(listing(&outside.0), before);
    assert_eq!(listing(&away.0).iter().filter(|entry| entry.ends_with("file: made by a tool")).count(), 2);
}

/// Programs that go on writing make no reset fail, and nothing of before the reset is left.
#[test]
fn a_reset_beside_writers_succeeds() {
    let (parent, from) = (Folder::in_memory(), source());
    write(&from.0, "file-0", "given");
    write(&from.0, "0/d/given", "given");
    for source in [WorkspaceSource::Empty, WorkspaceSource::CopyOf(from.0.clone())] {
        let (all, one) = open(&parent, source);
        let fresh = listing(one.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (done, path) = (&done, one.path());
                scope.spawn(move || {
                    let deep = format!("{writer}/{}", "d/".repeat(20));
                    while !done.load(Ordering::Relaxed) {
                        let _ = fs::create_dir_all(path.join(&deep));
                        let _ = fs::write(path.join(&deep).join("file"), "text");
                        let _ = fs::write(path.join(format!("{writer}/file")), "text");
                        let _ = fs::write(path.join(format!("file-{writer}")), "text");
                    }
                });
            }
            for _ in 0..200 {
                write(one.path(), "before", "the reset");
                one.renew().unwrap();
                assert!(!one.path().join("before").exists());
            }
            done.store(true, Ordering::Relaxed);
        });
        one.renew().unwrap();
        assert_eq!(listing(one.path()), fresh);
        let root = one.path().parent().unwrap().to_owned();
        drop(one);
        assert_eq!(listing(&root), ["lock: "]);
        drop(all);
        assert!(listing(&parent.0).is_empty());
    }
}
