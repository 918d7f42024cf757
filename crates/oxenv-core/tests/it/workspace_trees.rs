//! Workspaces with whatever a tool may put into them: what is copied, saved and removed of any such folder.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oxenv_core::{WorkspaceSource, folders};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use crate::workspace::{Folder, listing, open};

/// Something in a folder.
#[derive(Debug, Clone)]
enum Thing {
    File {
        length: u16,
        mode: u32,
    },
    Hole,
    Link(&'static str),
    /// A link to the folder outside.
    Out,
    /// Another name of a file outside.
    HardLink,
    Pipe,
    Socket,
    Folder {
        mode: u32,
    },
    /// Folders within each other.
    Chain(u8),
    Wide(u8),
}

#[derive(Debug, Clone)]
struct Planned {
    /// Which of the folders that are there already it is put into.
    folder: Index,
    long_name: bool,
    thing: Thing,
}

fn thing() -> impl Strategy<Value = Thing> {
    let modes = || prop_oneof![Just(0o700), Just(0o000), Just(0o444), Just(0o555), Just(0o4755)];
    // From where a link is, `..` may lead out of the workspace; such are not saved.
    let targets = prop_oneof![Just("."), Just("nowhere"), Just("loop"), Just("a/b"), Just("..")];
    prop_oneof![
        3 => (0..3000_u16, modes()).prop_map(|(length, mode)| Thing::File { length, mode }),
        1 => Just(Thing::Hole),
        2 => targets.prop_map(Thing::Link),
        1 => Just(Thing::Out),
        1 => Just(Thing::HardLink),
        1 => Just(Thing::Pipe),
        1 => Just(Thing::Socket),
        4 => modes().prop_map(|mode| Thing::Folder { mode }),
        2 => (1..90_u8).prop_map(Thing::Chain),
        1 => (1..60_u8).prop_map(Thing::Wide),
    ]
}

fn tree() -> impl Strategy<Value = Vec<Planned>> {
    let planned = (any::<Index>(), any::<bool>(), thing());
    let planned = planned.prop_map(|(folder, long_name, thing)| Planned { folder, long_name, thing });
    vec(planned, 0..40)
}

/// A tree that is being made.
struct Making<'a> {
    outside: &'a Path,
    folders: Vec<(OwnedFd, u32)>,
}

impl Making<'_> {
    /// Makes a tree in a folder; modes come last, because they may forbid to fill what has them.
    fn all(folder: &Path, outside: &Path, planned: &[Planned]) {
        let mut making = Making { outside, folders: vec![(open_folder(CWD, folder), 0o755)] };
        for (number, planned) in planned.iter().enumerate() {
            let mut name = format!("{number}-");
            if planned.long_name {
                name = format!("{name:x<255}");
            }
            making.thing(planned, &name);
        }
        for (folder, mode) in &making.folders {
            rustix::fs::fchmod(folder, Mode::from_raw_mode(*mode)).unwrap();
        }
    }

    fn thing(&mut self, planned: &Planned, name: &str) {
        let folder = planned.folder.get(&self.folders).0.as_fd();
        match planned.thing {
            Thing::File { length, mode } => {
                let mut file = new_file(folder, name);
                file.write_all(&vec![b'x'; length.into()]).unwrap();
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).unwrap();
            }
            Thing::Hole => new_file(folder, name).set_len(1 << 40).unwrap(),
            Thing::Link(target) => rustix::fs::symlinkat(target, folder, name).unwrap(),
            Thing::Out => rustix::fs::symlinkat(self.outside, folder, name).unwrap(),
            Thing::HardLink => {
                let readme = self.outside.join("readme");
                rustix::fs::linkat(CWD, &readme, folder, name, AtFlags::empty()).unwrap();
            }
            Thing::Pipe => special(folder, name, FileType::Fifo),
            Thing::Socket => special(folder, name, FileType::Socket),
            Thing::Folder { mode } => {
                let made = new_folder(folder, name);
                self.folders.push((made, mode & 0o777));
            }
            Thing::Chain(levels) => {
                let mut made = new_folder(folder, name);
                for level in 0..levels {
                    made = new_folder(made.as_fd(), name);
                    // Something on the way too.
                    if level % 7 == 0 {
                        drop(new_file(made.as_fd(), "file"));
                    }
                }
                self.folders.push((made, 0o700));
            }
            Thing::Wide(count) => {
                let made = new_folder(folder, name);
                for number in 0..count {
                    drop(new_folder(made.as_fd(), &number.to_string()));
                }
                self.folders.push((made, 0o700));
            }
        }
    }
}

fn open_folder(folder: impl AsFd, name: impl rustix::path::Arg) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty()).unwrap()
}

fn new_folder(folder: impl AsFd, name: &str) -> OwnedFd {
    rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
    open_folder(folder, name)
}

fn new_file(folder: impl AsFd, name: &str) -> File {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).unwrap())
}

fn special(folder: impl AsFd, name: &str, kind: FileType) {
    rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Everything in a folder, by descriptor, with its mode, time and contents; but for what copies leave out.
fn described(folder: &Path) -> BTreeMap<Vec<CString>, String> {
    let mut found = BTreeMap::new();
    describe(&open_folder(CWD, folder), &mut Vec::new(), &mut found);
    found
}

fn describe(folder: &OwnedFd, path: &mut Vec<CString>, found: &mut BTreeMap<Vec<CString>, String>) {
    for entry in Dir::read_from(folder).unwrap() {
        let name = entry.unwrap().file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let marks = || format!("{:o} {}.{}", stat.st_mode, stat.st_mtime, stat.st_mtime_nsec);
        path.push(name);
        let name: &CStr = &path[path.len() - 1].clone();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                found.insert(path.clone(), marks());
                describe(&open_folder(folder, name), path, found);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).unwrap();
                found.insert(path.clone(), format!("-> {target:?}"));
            }
            FileType::RegularFile => {
                let opened = rustix::fs::openat(folder, name, OFlags::RDONLY, Mode::empty()).unwrap();
                let mut text = String::new();
                File::from(opened).take(5000).read_to_string(&mut text).unwrap();
                found.insert(path.clone(), format!("{} {} {text:?}", marks(), stat.st_size));
            }
            _ => {}
        }
        path.pop();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_is_removed_and_nothing_else(planned in tree()) {
        let (parent, outside) = (Folder::in_memory(), Folder::in_memory());
        std::fs::write(outside.0.join("readme"), "hello").unwrap();
        let before = listing(&outside.0);
        let (all, one) = open(&parent, WorkspaceSource::Empty);
        Making::all(one.path(), &outside.0, &planned);
        one.renew().unwrap();
        prop_assert!(described(one.path()).is_empty());
        Making::all(one.path(), &outside.0, &planned);
        drop(one);
        let beside = parent.0.join("beside");
        std::fs::create_dir(&beside).unwrap();
        Making::all(&beside, &outside.0, &planned);
        folders::remove(&beside).unwrap();
        drop(all);
        prop_assert!(listing(&parent.0).is_empty());
        prop_assert_eq!(listing(&outside.0), before);
    }

    #[test]
    fn a_fork_of_any_tree_equals_it(planned in tree()) {
        let (parent, outside) = (Folder::in_memory(), Folder::in_memory());
        std::fs::write(outside.0.join("readme"), "hello").unwrap();
        let before = listing(&outside.0);
        let (all, one) = open(&parent, WorkspaceSource::Empty);
        Making::all(one.path(), &outside.0, &planned);
        let expected = described(one.path());
        let fork = one.fork(&all, "fork").unwrap();
        prop_assert_eq!(described(fork.path()), expected.clone());
        prop_assert_eq!(described(one.path()), expected);
        prop_assert_eq!(listing(&outside.0), before);
    }

    #[test]
    fn any_tree_that_can_be_saved_is_the_same_bytes_again(planned in tree()) {
        let (parent, outside) = (Folder::in_memory(), Folder::in_memory());
        std::fs::write(outside.0.join("readme"), "hello").unwrap();
        let (all, one) = open(&parent, WorkspaceSource::Empty);
        let is_saved = |planned: &Planned| !matches!(planned.thing, Thing::Out | Thing::Hole);
        let planned: Vec<Planned> = planned.into_iter().filter(is_saved).collect();
        Making::all(one.path(), &outside.0, &planned);
        let archive = match one.save() {
            Ok(archive) => archive,
            Err(error) => {
                // A link at the top leads to its parent.
                prop_assert_eq!(error.kind(), ErrorKind::Unsupported);
                return Ok(());
            }
        };
        let back = all.restore("back", PathBuf::from("/where/it/was"), &archive).unwrap();
        let names = |path: &Path| described(path).into_keys().collect::<Vec<_>>();
        prop_assert_eq!(names(back.path()), names(one.path()));
        let again = back.save().unwrap();
        let third = all.restore("third", PathBuf::from("/where/it/was"), &again).unwrap();
        prop_assert!(third.save().unwrap() == again);
        // Folders become open to their owner; all else is the same.
        let is_shut = |planned: &Planned| {
            matches!(planned.thing, Thing::Folder { mode } if mode & 0o700 != 0o700)
        };
        prop_assert!(planned.iter().any(is_shut) || again == archive);
    }
}
