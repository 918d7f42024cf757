//! Workspaces as bytes: what comes back, and that bytes from anybody reach nothing outside of the folder.

use std::fs::{self, File, FileTimes};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use oxenv_core::{SnapshotRoom, Workspace, WorkspaceLimits, WorkspaceSource, Workspaces};
use proptest::prelude::*;

use crate::workspace::{Folder, listing, open, source, write};

const KNOWN: &str = "/where/it/was";

fn restored(all: &Workspaces, archive: &[u8]) -> Workspace {
    all.restore("restored", PathBuf::from(KNOWN), archive).unwrap()
}

/// One with everything that is saved.
fn full(parent: &Folder) -> (Workspaces, Workspace) {
    let (all, one) = open(parent, WorkspaceSource::Empty);
    write(one.path(), "folder/deep/file", "text");
    write(one.path(), "folder/empty", "");
    fs::create_dir(one.path().join("folder/none")).unwrap();
    symlink("../../top", one.path().join("folder/deep/up")).unwrap();
    symlink("nowhere", one.path().join("broken")).unwrap();
    symlink(one.path().join("folder/deep"), one.path().join("absolute")).unwrap();
    fs::set_permissions(one.path().join("folder/empty"), fs::Permissions::from_mode(0o741)).unwrap();
    let old = UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    for name in ["folder/deep/file", "folder/deep"] {
        let file = File::open(one.path().join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
    }
    (all, one)
}

#[test]
fn what_was_saved_comes_back() {
    let parent = Folder::new();
    let (all, one) = full(&parent);
    let archive = one.save().unwrap();
    let back = restored(&all, &archive);
    assert_eq!(back.known_as(), Path::new(KNOWN));
    let here = |path: &Path, entry: String| entry.replace(path.to_str().unwrap(), "HERE");
    let shown = |workspace: &Workspace| -> Vec<String> {
        listing(workspace.path()).into_iter().map(|entry| here(workspace.path(), entry)).collect()
    };
    assert_eq!(shown(&back), shown(&one));
    assert!(shown(&back).contains(&"absolute -> HERE/folder/deep".to_owned()));
    for name in ["folder", "folder/empty", "folder/deep", "folder/deep/file"] {
        let (one, other) =
            (fs::metadata(one.path().join(name)).unwrap(), fs::metadata(back.path().join(name)).unwrap());
        assert_eq!(
            (one.mode(), one.modified().unwrap()),
            (other.mode(), other.modified().unwrap()),
            "{name}"
        );
    }
    // The same contents are the same bytes, whenever and wherever they are saved.
    assert_eq!(one.save().unwrap(), archive);
    assert_eq!(back.save().unwrap(), archive);
    // What a reset makes of it is what it makes of any other.
    back.renew().unwrap();
    assert!(listing(back.path()).is_empty());
}

#[test]
fn links_that_may_lead_out_are_not_saved() {
    for (folder, leads) in [
        ("", "/etc/passwd"),
        ("", ".."),
        ("", "../one/kept"),
        ("a/b", "../../../x"),
        // Where it leads depends on what another link is.
        ("", "kept/../../x"),
    ] {
        let parent = Folder::new();
        let (_all, one) = open(&parent, WorkspaceSource::Empty);
        fs::create_dir_all(one.path().join(folder)).unwrap();
        symlink(leads, one.path().join(folder).join("link")).unwrap();
        let error = one.save().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{leads}");
        let expected = format!(
            "the workspace {} cannot be saved: its link 'link' may lead out of it, to {leads}; remove the \
             link, or make it one by a path from its own folder",
            one.path().display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn limits_hold_for_saving_and_restoring() {
    let parent = Folder::new();
    let (all, one) = full(&parent);
    let archive = one.save().unwrap();
    drop(one);
    let (limits, size) = (WorkspaceLimits::default(), archive.len() as u64);
    for (limits, fits) in
        [(WorkspaceLimits { files: 8, ..limits }, true), (WorkspaceLimits { files: 7, ..limits }, false)]
    {
        let parent = Folder::new();
        let all = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap().with_limits(limits);
        let one = match all.restore("one", KNOWN.into(), &archive) {
            Ok(one) => one,
            Err(error) => {
                assert!(!fits, "{error}");
                assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
                all.open("one").unwrap()
            }
        };
        assert_eq!(listing(one.path()).len(), if fits { 8 } else { 0 });
    }
    // What is there already takes room too.
    let one = all.restore("one", KNOWN.into(), &archive).unwrap();
    let room = |bytes: u64| SnapshotRoom { bytes, more: "ask for more" };
    let begun = vec![7; 10];
    assert_eq!(one.save_onto(begun.clone(), room(10 + size)).unwrap(), [&begun[..], &archive].concat());
    for bytes in [9 + size, 10] {
        let error = one.save_onto(begun.clone(), room(bytes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        assert!(error.to_string().ends_with("; ask for more"), "{error}");
    }
    let one = all.open("two").unwrap();
    write(one.path(), "file", &"x".repeat(1000));
    let error = one.save_onto(Vec::new(), room(1000)).unwrap_err();
    assert!(error.to_string().contains("has 1000 bytes in 1 files and folders, and no more than 1000 bytes"));
    // One that is far too large is not read at all, or this would take a minute and the memory of the
    // machine.
    std::fs::File::create(one.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(one.save().unwrap_err().kind(), ErrorKind::QuotaExceeded);
}

/// An archive by hand.
struct Forged(Vec<u8>);

impl Forged {
    fn new() -> Self {
        Forged(b"oxenv workspace 1\n".to_vec())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
        self
    }

    fn named(mut self, kind: u8, name: &[u8]) -> Self {
        self.0.push(kind);
        self.bytes(name)
    }

    fn entry(mut self, kind: u8, name: &[u8], mode: u32) -> Self {
        self = self.named(kind, name);
        self.0.extend(7_u64.to_le_bytes());
        self.0.extend(7_u32.to_le_bytes());
        self.0.extend(mode.to_le_bytes());
        self
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(b'f', name, 0o644).bytes(b"attack")
    }

    fn folder(self, name: &[u8]) -> Self {
        self.entry(b'd', name, 0o755)
    }

    fn link(self, name: &[u8], leads: &[u8]) -> Self {
        self.named(b'l', name).bytes(leads)
    }

    fn end(mut self) -> Self {
        self.0.push(b'.');
        self
    }
}

#[test]
fn hostile_archives_reach_nothing_outside() {
    let outside = source();
    let path = outside.0.to_str().unwrap().as_bytes();
    let within = |name: &str| [path, name.as_bytes()].concat();
    let new = Forged::new;
    let hostile = [
        new().file(b"..").end(),
        new().file(b".").end(),
        new().file(b"").end(),
        new().file(b"../attack").end(),
        new().file(b"a/../../attack").end(),
        new().file(&within("/attack")).end(),
        new().file(b"zero\0zero").end(),
        new().folder(b"..").file(b"attack").end().end(),
        new().folder(path).file(b"attack").end().end(),
        // A link, and then what would be written through it.
        new().link(b"link", path).file(b"link").end(),
        new().link(b"link", path).folder(b"link").file(b"attack").end().end(),
        new().link(b"link", b"..").end(),
        new().link(b"link", b"../other/attack").end(),
        new().link(b"link", b"down/../../..").end(),
        new().link(b"link", b"to\0zero").end(),
        new().folder(b"a").link(b"link", b"../..").end().end(),
        new().named(b'L', b"link").bytes(path).end(),
        new().named(b'L', b"link").bytes(b"../..").end(),
        new().link(b"own", b"inside").file(b"own").end(),
        // What is there twice, too much, or not at all.
        new().file(b"twice").file(b"twice").end(),
        new().folder(b"twice").end().folder(b"twice").end().end(),
        new().file(b"no-end"),
        new().folder(b"no-end").end(),
        new().file(b"more").end().end(),
        new().file(b"more").end().file(b"after"),
        new().entry(b'x', b"unknown", 0).end(),
        Forged(b"oxenv workspace 2\n.".to_vec()),
        Forged(Vec::new()),
        Forged([&new().entry(b'f', b"long", 0o644).0[..], &u64::MAX.to_le_bytes()].concat()),
    ];
    let before = listing(&outside.0);
    let parent = Folder::new();
    let all = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    let other = all.open("other").unwrap();
    for (number, archive) in hostile.iter().enumerate() {
        let error = all.restore("one", KNOWN.into(), &archive.0).map(|one| listing(one.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{number}: {error}");
        assert!(error.to_string().starts_with("these bytes are no saved workspace: "), "{number}: {error}");
    }
    // Nothing half-made stays either.
    let root = other.path().parent().unwrap();
    assert_eq!(fs::read_dir(root).unwrap().count(), 2, "another workspace and the lock");
    assert!(listing(other.path()).is_empty());
    assert_eq!(listing(&outside.0), before);
}

#[test]
fn modes_of_an_archive_neither_raise_rights_nor_keep_a_folder_from_being_deleted() {
    let parent = Folder::new();
    let all = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    let archive = Forged::new().entry(b'f', b"root", 0o6777).bytes(b"").entry(b'd', b"shut", 0).end().end();
    let one = restored(&all, &archive.0);
    let mode = |name: &str| fs::metadata(one.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("root"), mode("shut")), (0o777, 0o700));
    let path = one.path().to_owned();
    drop(one);
    assert!(!path.exists());
}

#[test]
fn a_deep_archive_that_is_cut_off_leaves_nothing() {
    let parent = Folder::in_memory();
    let all = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    let deep = (0..50_000).fold(Forged::new(), |archive, _| archive.folder(b"d"));
    let error = all.restore("one", KNOWN.into(), &deep.0).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    all.open("one").unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the bytes are, it is a workspace or an error, and nothing is left of an error.
    #[test]
    fn changed_archives_are_workspaces_or_errors(at in 0usize..600, to: u8, cut in 0usize..600) {
        let parent = Folder::new();
        let (all, one) = full(&parent);
        let mut archive = one.save().unwrap();
        if let Some(byte) = archive.get_mut(at) {
            *byte = to;
        }
        archive.truncate(archive.len().max(cut) - cut.min(archive.len()) / 7);
        let outside = listing(one.path());
        match all.restore("restored", KNOWN.into(), &archive) {
            Ok(back) => drop(fs::read_dir(back.path()).unwrap()),
            Err(_) => prop_assert!(!one.path().parent().unwrap().join("restored").exists()),
        }
        prop_assert_eq!(listing(one.path()), outside);
    }
}
