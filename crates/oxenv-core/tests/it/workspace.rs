//! Workspaces on a real file system: made, made fresh, deleted, and nothing else touched.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oxenv_core::{Workspace, WorkspaceSource, Workspaces};

/// A folder of a test, deleted with it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// One in a file system in memory where there is one: a disk takes long to make and remove many folders.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::within(memory) } else { Self::new() }
    }

    fn within(parent: &Path) -> Self {
        let path = parent.join(format!("oxenv-test-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn with(self, file: &str, text: &str) -> Self {
        write(&self.0, file, text);
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = oxenv_core::folders::remove(&self.0);
    }
}

pub(crate) fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Everything in a folder, with files' texts and links' targets; links are not followed.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name().into_string().unwrap(), entry.file_type().unwrap());
        if kind.is_symlink() {
            found.push(format!("{name} -> {}", fs::read_link(entry.path()).unwrap().display()));
        } else if kind.is_dir() {
            found.push(format!("{name}/"));
            found.extend(listing(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.push(format!("{name}: {}", fs::read_to_string(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

/// A workspace named `one`, with what it lives in.
pub(crate) fn open(parent: &Folder, source: WorkspaceSource) -> (Workspaces, Workspace) {
    let all = Workspaces::new(&parent.0, source).unwrap();
    let one = all.open("one").unwrap();
    (all, one)
}

pub(crate) fn source() -> Folder {
    Folder::new().with("readme", "hello").with("deep/er/file", "text").with("deep/other", "")
}

#[test]
fn an_empty_one_is_emptied() {
    let parent = Folder::new();
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let two = all.open("two").unwrap();
    assert!(listing(one.path()).is_empty());
    write(one.path(), "a/b/c", "made by a tool");
    write(two.path(), "kept", "yes");
    let path = one.path().to_owned();
    one.renew().unwrap();
    assert_eq!(one.path(), path);
    assert!(listing(one.path()).is_empty());
    assert_eq!(listing(two.path()), ["kept: yes"]);
}

#[test]
fn a_copy_is_copied_again() {
    let (parent, from) = (Folder::new(), source());
    fs::set_permissions(from.0.join("readme"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = listing(&from.0);
    let (_all, one) = open(&parent, WorkspaceSource::CopyOf(from.0.clone()));
    assert_eq!(listing(one.path()), before);
    let mode = fs::metadata(one.path().join("readme")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    fs::write(one.path().join("readme"), "changed").unwrap();
    fs::remove_dir_all(one.path().join("deep")).unwrap();
    write(one.path(), "new", "file");
    assert_eq!(listing(&from.0), before, "the original is never written to");
    one.renew().unwrap();
    assert_eq!(listing(one.path()), before);
    // What the user changes meanwhile is in the next copy.
    write(&from.0, "later", "yes");
    one.renew().unwrap();
    assert_eq!(listing(one.path()), listing(&from.0));
}

#[test]
fn a_shared_one_is_left_alone() {
    let (parent, own) = (Folder::new(), source());
    let (all, one) = open(&parent, WorkspaceSource::Shared(own.0.clone()));
    let two = all.open("two").unwrap();
    assert_eq!(one.path(), own.0.canonicalize().unwrap());
    assert_eq!(one.path(), two.path());
    write(one.path(), "made", "by one");
    let before = listing(&own.0);
    one.renew().unwrap();
    drop((one, two, all));
    assert_eq!(listing(&own.0), before);
    assert!(listing(&parent.0).is_empty());
}

#[test]
fn what_was_made_goes_with_its_owner() {
    let (parent, from) = (Folder::new(), source());
    let before = listing(&from.0);
    for source in [WorkspaceSource::Empty, WorkspaceSource::CopyOf(from.0.clone())] {
        let (all, one) = open(&parent, source);
        let two = all.open("two").unwrap();
        write(one.path(), "x", "y");
        let (path, other) = (one.path().to_owned(), two.path().to_owned());
        drop(one);
        assert!(!path.exists() && other.exists());
        drop(all);
        assert!(listing(&parent.0).is_empty());
        drop(two);
        assert_eq!(listing(&from.0), before);
    }
}

#[test]
fn links_are_never_followed() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    let link = |name: &str| symlink(&outside.0, one.path().join(name)).unwrap();
    link("to-folder");
    symlink(outside.0.join("readme"), one.path().join("to-file")).unwrap();
    symlink("nowhere", one.path().join("to-nothing")).unwrap();
    write(one.path(), "deep/file", "");
    link("deep/to-folder");
    one.renew().unwrap();
    assert!(listing(one.path()).is_empty());
    link("again");
    drop((one, all));
    assert!(listing(&parent.0).is_empty());
    assert_eq!(listing(&outside.0), before);
}

#[test]
fn links_of_a_source_are_copied_as_they_are() {
    let (parent, from, outside) = (Folder::new(), source(), source());
    symlink(&outside.0, from.0.join("out")).unwrap();
    symlink("readme", from.0.join("in")).unwrap();
    symlink("nowhere", from.0.join("broken")).unwrap();
    // One that would never end if it were followed.
    symlink(&from.0, from.0.join("deep/loop")).unwrap();
    let before = (listing(&from.0), listing(&outside.0));
    let (all, one) = open(&parent, WorkspaceSource::CopyOf(from.0.clone()));
    assert_eq!(listing(one.path()), before.0);
    one.renew().unwrap();
    assert_eq!(listing(one.path()), before.0);
    drop((one, all));
    assert_eq!((listing(&from.0), listing(&outside.0)), before);
}

/// A tool may delete the folder that it works in, or put anything in its place.
#[test]
fn a_folder_that_was_replaced_comes_back() {
    let (parent, outside, from) = (Folder::new(), source(), source());
    let before = listing(&outside.0);
    for source in [WorkspaceSource::Empty, WorkspaceSource::CopyOf(from.0.clone())] {
        let (all, one) = open(&parent, source);
        let fresh = listing(one.path());
        fs::remove_dir_all(one.path()).unwrap();
        one.renew().unwrap();
        assert_eq!(listing(one.path()), fresh);
        fs::remove_dir_all(one.path()).unwrap();
        symlink(&outside.0, one.path()).unwrap();
        one.renew().unwrap();
        assert!(!one.path().is_symlink());
        assert_eq!(listing(one.path()), fresh);
        fs::remove_dir_all(one.path()).unwrap();
        fs::write(one.path(), "a file").unwrap();
        one.renew().unwrap();
        assert_eq!(listing(one.path()), fresh);
        fs::remove_dir_all(one.path()).unwrap();
        symlink(&outside.0, one.path()).unwrap();
        drop((one, all));
        assert!(listing(&parent.0).is_empty());
        assert_eq!(listing(&outside.0), before);
    }
}

/// Whoever shares the folder of a process must see it made fresh, not another folder in its place.
#[test]
fn a_fresh_workspace_is_the_same_folder() {
    use std::os::unix::fs::MetadataExt as _;
    let parent = Folder::new();
    let (_all, one) = open(&parent, WorkspaceSource::Empty);
    let number = fs::metadata(one.path()).unwrap().ino();
    one.renew().unwrap();
    assert_eq!(fs::metadata(one.path()).unwrap().ino(), number);
}

#[test]
fn two_that_are_made_fresh_at_once_are_fresh_in_the_end() {
    let (parent, from) = (Folder::new(), source());
    for file in 0..50 {
        write(&from.0, &format!("many/{}/{file}", file % 7), "text");
    }
    let (_all, one) = open(&parent, WorkspaceSource::CopyOf(from.0.clone()));
    for _ in 0..10 {
        write(one.path(), "junk/of/a/tool", "");
        std::thread::scope(|scope| {
            let renewals: Vec<_> = (0..4).map(|_| scope.spawn(|| one.renew())).collect();
            renewals.into_iter().for_each(|renewal| renewal.join().unwrap().unwrap());
        });
        assert_eq!(listing(one.path()), listing(&from.0));
    }
}

/// The name becomes a folder that will be deleted.
#[test]
fn a_name_is_one_new_folder_below_the_root() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let (all, one) = open(&parent, WorkspaceSource::Empty);
    write(one.path(), "kept", "");
    let absolute = outside.0.to_str().unwrap();
    for name in
        ["", ".", "..", "../x", "a/b", "a/", "/", absolute, "one", "one/", "lock", "a\0b", &"x".repeat(300)]
    {
        let error = all.open(name).unwrap_err();
        assert!(!error.to_string().is_empty(), "{name:?}");
    }
    assert_eq!(all.open("one").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(listing(one.path()), ["kept: "]);
    assert_eq!(listing(&outside.0), before);
    drop(one);
    all.open("one").unwrap();
}

#[test]
fn a_source_that_cannot_be_is_refused_at_once() {
    let (parent, from) = (Folder::new(), source());
    for wrong in [from.0.join("missing"), from.0.join("readme")] {
        for source in [WorkspaceSource::CopyOf(wrong.clone()), WorkspaceSource::Shared(wrong.clone())] {
            let error = Workspaces::new(&parent.0, source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotADirectory);
            assert!(error.to_string().contains(wrong.to_str().unwrap()), "{error}");
        }
    }
    // Copies within what is copied would never end.
    for within in [from.0.clone(), from.0.join("deep/er"), from.0.join("new/folder")] {
        let error = Workspaces::new(&within, WorkspaceSource::CopyOf(from.0.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(from.0.to_str().unwrap()), "{error}");
        Workspaces::new(&within, WorkspaceSource::Shared(from.0.clone())).unwrap();
    }
    assert!(listing(&parent.0).is_empty());
}

#[test]
fn errors_name_the_folder() {
    let (parent, from) = (Folder::new(), source());
    let (all, one) = open(&parent, WorkspaceSource::CopyOf(from.0.clone()));
    let shared = Workspaces::new(&parent.0, WorkspaceSource::Shared(from.0.clone())).unwrap();
    fs::remove_dir_all(&from.0).unwrap();
    let name = from.0.to_str().unwrap();
    for error in [all.open("two").unwrap_err(), one.renew().unwrap_err(), shared.open("three").unwrap_err()] {
        assert!(error.to_string().contains(name), "{error}");
    }
    let file = Folder::new().with("file", "");
    let error = Workspaces::new(&file.0.join("file"), WorkspaceSource::Empty).unwrap_err();
    assert!(error.to_string().contains(file.0.to_str().unwrap()), "{error}");
    // What failed half way left nothing behind.
    assert_eq!(listing(&parent.0).iter().filter(|entry| entry.contains("two")).count(), 0);
}

/// Python, holding a lock until its input ends.
fn holding(lock: &Path) -> std::process::Child {
    let script = "import fcntl, sys\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_EX)\n\
                  print('held', flush=True)\nsys.stdin.read()";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(lock)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

#[test]
fn roots_of_dead_servers_are_deleted_and_of_living_ones_kept() {
    let (parent, outside) = (Folder::new(), source());
    let before = listing(&outside.0);
    let living = parent.0.join("oxenv-workspaces-living");
    let dead = parent.0.join("oxenv-workspaces-dead");
    let starting = parent.0.join("oxenv-workspaces-starting");
    for root in [&living, &dead] {
        write(root, "lock", "");
        write(root, "session/file", "text");
        symlink(&outside.0, root.join("session/out")).unwrap();
    }
    fs::create_dir(&starting).unwrap();
    // Whatever else is in that folder is somebody else's.
    write(&parent.0, "others/lock", "");
    symlink(&outside.0, parent.0.join("oxenv-workspaces-link")).unwrap();
    write(&parent.0, "oxenv-workspaces-file", "");
    let mut server = holding(&living.join("lock"));
    let first = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    assert!(living.join("session/file").exists() && !dead.exists() && starting.exists());
    // That of a server in this process is one of a living one too.
    let path = first.open("kept").unwrap();
    let second = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    assert!(path.path().exists() && living.exists());
    // Killed, without a chance to clean up.
    server.kill().unwrap();
    server.wait().unwrap();
    let third = Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap();
    assert!(!living.exists() && path.path().exists());
    drop((path, first, second, third));
    let left: Vec<String> =
        listing(&parent.0).into_iter().filter(|entry| !entry.starts_with("others")).collect();
    let link = format!("oxenv-workspaces-link -> {}", outside.0.display());
    assert_eq!(left, ["oxenv-workspaces-file: ", &link, "oxenv-workspaces-starting/"]);
    assert_eq!(listing(&outside.0), before);
}

/// Servers that start at the same moment never take each other for dead.
#[test]
fn many_roots_may_begin_at_once() {
    let parent = Folder::new();
    for _ in 0..20 {
        let roots: Vec<Workspaces> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap()))
                .collect();
            starting.into_iter().map(|root| root.join().unwrap()).collect()
        });
        assert_eq!(fs::read_dir(&parent.0).unwrap().count(), 8);
        let opened: Vec<Workspace> = roots.iter().map(|root| root.open("x").unwrap()).collect();
        assert!(opened.iter().all(|workspace| workspace.path().exists()));
    }
    assert!(listing(&parent.0).is_empty());
}
