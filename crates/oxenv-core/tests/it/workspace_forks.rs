//! Forks of workspaces on a real file system: what is copied, what is kept apart, what is refused.

use std::fs::{self, File, FileTimes};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use oxenv_core::{Workspace, WorkspaceLimits, WorkspaceSource, Workspaces};

use crate::workspace::{Folder, listing, open, source, write};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn forked(all: &Workspaces, one: &Workspace) -> Workspace {
    one.fork(all, "fork").unwrap()
}

#[test]
fn a_fork_has_the_present_contents_and_goes_its_own_way() {
    let (parent, from) = (Folder::new(), source());
    for source in [WorkspaceSource::Empty, WorkspaceSource::CopyOf(from.0.clone())] {
        let (all, one) = open(&parent, source);
        let fresh = listing(one.path());
        write(one.path(), "made/by/a/tool", "text");
        fs::create_dir(one.path().join("empty")).unwrap();
        fs::hard_link(one.path().join("made/by/a/tool"), one.path().join("linked")).unwrap();
        let before = listing(one.path());
        let fork = forked(&all, &one);
        assert_ne!(fork.path(), one.path());
        assert_eq!(fork.known_as(), one.path());
        assert_eq!(listing(fork.path()), before);
        // Two names of one file are two files in a fork, so that neither is the original's.
        fs::write(fork.path().join("made/by/a/tool"), "changed").unwrap();
        fs::remove_dir(fork.path().join("empty")).unwrap();
        write(fork.path(), "new", "");
        assert_eq!(listing(one.path()), before);
        fs::write(one.path().join("linked"), "changed too").unwrap();
        assert!(listing(fork.path()).contains(&"linked: text".to_owned()));
        // A reset makes it what it makes of the original.
        fork.renew().unwrap();
        assert_eq!(listing(fork.path()), fresh);
        let again = fork.fork(&all, "again").unwrap();
        assert_eq!(again.known_as(), one.path());
        let path = fork.path().to_owned();
        drop(one);
        drop(fork);
        assert!(!path.exists() && again.path().exists());
    }
}

#[test]
fn modes_and_times_are_kept() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    write(one.path(), "folder/program", "#!/bin/sh\n");
    write(one.path(), "folder/secret", "text");
    let old = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for (name, mode) in [("folder/program", 0o755), ("folder/secret", 0o400), ("folder", 0o750)] {
        let path = one.path().join(name);
        File::open(&path).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let fork = forked(&all, &one);
    for (name, expected) in [("folder/program", 0o755), ("folder/secret", 0o400), ("folder", 0o750)] {
        let path = fork.path().join(name);
        assert_eq!(mode(&path), expected, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old, "{name}");
    }
    assert_eq!(mode(fork.path()), mode(one.path()));
}

#[test]
fn links_are_copied_and_never_followed() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    write(one.path(), "kept", "text");
    for (link, leads) in [
        ("relative", Path::new("kept")),
        ("broken", Path::new("nowhere")),
        ("out", &outside.0),
        ("loop", Path::new(".")),
        ("own", &one.path().join("kept")),
        ("top", one.path()),
    ] {
        symlink(leads, one.path().join(link)).unwrap();
    }
    let fork = forked(&all, &one);
    let leads = |link: &str| fs::read_link(fork.path().join(link)).unwrap();
    assert_eq!(leads("relative"), Path::new("kept"));
    assert_eq!(leads("broken"), Path::new("nowhere"));
    assert_eq!(leads("out"), outside.0);
    // A link into the original's folder leads into the fork's, or the two would share a file.
    assert_eq!(leads("own"), fork.path().join("kept"));
    assert_eq!(fs::canonicalize(fork.path().join("top")).unwrap(), fs::canonicalize(fork.path()).unwrap());
    fs::write(fork.path().join("own"), "changed").unwrap();
    assert_eq!(fs::read_to_string(one.path().join("kept")).unwrap(), "text");
    drop((fork, one, all));
    assert_eq!(listing(&outside.0), before);
}

#[test]
fn holes_stay_holes() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let all = all.with_limits(WorkspaceLimits { copied_bytes: 1 << 20, ..WorkspaceLimits::default() });
    let mut file = File::create(one.path().join("sparse")).unwrap();
    file.write_all(b"beginning").unwrap();
    file.seek(SeekFrom::Start(1 << 33)).unwrap();
    file.write_all(b"end").unwrap();
    let fork = forked(&all, &one);
    let copy = fs::metadata(fork.path().join("sparse")).unwrap();
    assert_eq!(copy.len(), (1 << 33) + 3);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    let mut ends = File::open(fork.path().join("sparse")).unwrap();
    ends.seek(SeekFrom::Start(1 << 33)).unwrap();
    assert_eq!(std::io::read_to_string(ends).unwrap(), "end");
}

#[test]
fn what_is_no_file_is_left_out() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    write(one.path(), "kept", "text");
    // Beside the folder the path may be too long for a socket.
    std::env::set_current_dir(one.path()).unwrap();
    let _socket = UnixListener::bind("socket").unwrap();
    let made = std::process::Command::new("mkfifo").arg(one.path().join("pipe")).status().unwrap();
    assert!(made.success());
    assert_eq!(listing(forked(&all, &one).path()), ["kept: text"]);
}

#[test]
fn limits_are_told_with_the_size_and_nothing_half_made_stays() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    for number in 0..20 {
        write(one.path(), &format!("folder-{number}/file"), &"x".repeat(1000));
    }
    let root = one.path().parent().unwrap().to_owned();
    let limits = WorkspaceLimits::default();
    let all = all.with_limits(WorkspaceLimits { files: 39, ..limits });
    let error = one.fork(&all, "fork").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    let name = one.path().display();
    assert_eq!(
        error.to_string(),
        format!(
            "the workspace {name} has 20000 bytes in 40 files and folders, and no more than 39 files and \
             folders are taken along; remove what is not needed, or keep it outside of the workspace"
        )
    );
    let all = all.with_limits(WorkspaceLimits { copied_bytes: 19_999, ..limits });
    let error = one.fork(&all, "fork").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert!(error.to_string().contains("no more than 19999 bytes"), "{error}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2, "the workspace and the lock");
    let all = all.with_limits(WorkspaceLimits { copied_bytes: 20_000, files: 40 });
    assert_eq!(listing(forked(&all, &one).path()), listing(one.path()));
    // A name that is taken is the other's, and stays.
    assert_eq!(one.fork(&all, "one").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(one.path().exists());
}

#[test]
fn a_shared_workspace_is_neither_forked_nor_saved() {
    let (parent, own) = (Folder::new(), source());
    let before = listing(&own.0);
    let (all, one) = open(&parent, WorkspaceSource::Shared(own.0.clone()));
    assert!(all.is_shared());
    let name = own.0.display();
    let expected = format!(
        "all sessions share the workspace {name}, so it can be neither forked nor saved; let each session \
         have a copy of it (without --share-workspace)"
    );
    let (_others, other) = open(&parent, WorkspaceSource::Empty);
    let archive = other.save().unwrap();
    let refused = [
        one.fork(&all, "fork").map(drop).unwrap_err(),
        one.save().map(drop).unwrap_err(),
        all.restore("fork", "/x".into(), &archive).map(drop).unwrap_err(),
    ];
    for error in refused {
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unsupported, expected.clone()));
    }
    assert_eq!(listing(&own.0), before);
}

/// What still writes in the background may take things away while they are copied.
#[test]
fn a_workspace_that_changes_meanwhile_can_be_forked() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    for number in 0..200 {
        write(one.path(), &format!("kept/{number}"), "text");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                write(one.path(), "kept/journal", "text");
                fs::remove_file(one.path().join("kept/journal")).unwrap();
                fs::create_dir(one.path().join("folder")).unwrap();
                fs::remove_dir(one.path().join("folder")).unwrap();
            }
        });
        for number in 0..20 {
            let fork = one.fork(&all, &format!("fork-{number}"));
            let saved = one.save();
            stop.store(number == 19 || fork.is_err() || saved.is_err(), std::sync::atomic::Ordering::Relaxed);
            assert!(fs::read_dir(fork.unwrap().path().join("kept")).unwrap().count() >= 200);
            saved.unwrap();
        }
    });
}
