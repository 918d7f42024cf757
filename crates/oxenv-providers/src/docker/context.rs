//! The folder that an image is built from, as the tar archive that the daemon reads.
//!
//! Invariant: owners and times of this machine are not in it, and no link leads out of the folder. It is read
//! while it is sent, so its size does not matter; a receiver that is dropped ends the reading.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use oxenv_core::folders::{EntryKind, OpenFolder, RecordEntry, Walk, WalkEvent};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::dockerignore::DockerIgnore;
use crate::error::{ProviderCode, ProviderError};

/// How much is sent at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// The time of everything in an archive, in seconds since 1970. Some tools take 0 for no time.
const ENTRY_MTIME: u64 = 1_153_704_088;
/// The longest path in an archive, in bytes: no program can open a longer one.
const MAX_PATH_BYTES: usize = 4095;
/// Under this name the daemon is sent a build file that is not in the folder.
pub(super) const GENERATED_BUILD_FILE: &str = ".oxenv.dockerfile";

/// A folder to send.
#[derive(Debug, Clone)]
pub(super) struct BuildContext {
    pub(super) folder: PathBuf,
    /// The build file's path within the folder.
    pub(super) file: String,
    /// The build file's text, if it is not in the folder.
    pub(super) text: Option<String>,
}

impl BuildContext {
    /// Writes the archive in pieces; returns an error if a file cannot be read.
    pub(super) fn send(self, pieces: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), ProviderError> {
        let packed = self.write_to(ChannelWriter(pieces.clone()));
        if packed.is_err() {
            // The daemon must not take half a folder for a whole one.
            let _ = pieces.blocking_send(Err(io::Error::other("the folder cannot be read")));
        }
        packed
    }

    /// Writes the archive; returns an error if a file cannot be read.
    pub(super) fn write_to(&self, out: impl Write) -> Result<(), ProviderError> {
        let ignored = DockerIgnore::read(&self.folder)
            .map_err(|error| read_error(&self.folder.join(".dockerignore"), &error))?;
        let mut archive = Builder::new(BufWriter::with_capacity(CHUNK_BYTES, out));
        let mut packing = ContextWriter { context: self, ignored: &ignored, archive: &mut archive };
        packing.write_folder().and_then(|()| packing.write_generated())?;
        let finished = archive.into_inner().and_then(|mut out| out.flush());
        finished.map_err(|error| read_error(&self.folder, &error))
    }
}

/// A folder that is being packed.
struct ContextWriter<'a, W: Write> {
    context: &'a BuildContext,
    ignored: &'a DockerIgnore,
    archive: &'a mut Builder<W>,
}

impl<W: Write> ContextWriter<'_, W> {
    /// Packs what is in the folder, in the order of names.
    fn write_folder(&mut self) -> Result<(), ProviderError> {
        let folder = OpenFolder::open(&self.context.folder).map_err(|error| invalid_context(&error))?;
        let mut walk = Walk::new(&folder, u64::MAX).map_err(|error| invalid_context(&error.into()))?;
        // The path of the present folder within the whole, which ends with `/`, and the lengths of those
        // above it.
        let (mut within, mut lengths) = (String::new(), Vec::new());
        while let Some(event) = walk.next().map_err(|error| invalid_context(&error.into()))? {
            let entry = match event {
                WalkEvent::Entry(entry) => entry,
                WalkEvent::Left => {
                    within.truncate(lengths.pop().unwrap_or(0));
                    continue;
                }
            };
            let Some(name) = entry.name().to_str() else {
                let here = walk.path_of(&entry);
                return Err(pack_error(&here, "its name is no UTF-8: rename it or list it in .dockerignore"));
            };
            let path = format!("{within}{name}");
            let stays_out = self.ignored.excludes(&path) && !self.is_needed(&path);
            if !stays_out {
                self.write_entry(&path, &walk, &entry)?;
            }
            // A folder that is too deep has stopped this already, unless it stays out.
            if (!stays_out || (self.may_hold_more(&path) && path.len() <= MAX_PATH_BYTES))
                && walk.enter(&entry).map_err(|error| invalid_context(&error.into()))?
            {
                lengths.push(within.len());
                within = format!("{path}/");
            }
        }
        Ok(())
    }

    /// The daemon reads these itself, and takes them out where `.dockerignore` excludes them.
    fn is_needed(&self, path: &str) -> bool {
        path == self.context.file || path == ".dockerignore"
    }

    /// Whether something in a folder that stays out is sent all the same.
    fn may_hold_more(&self, path: &str) -> bool {
        let holds_file = self.context.file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        holds_file || self.ignored.has_exceptions()
    }

    fn write_entry(&mut self, path: &str, walk: &Walk<'_>, entry: &RecordEntry) -> Result<(), ProviderError> {
        let generated =
            self.context.text.is_some() && (path == ".dockerignore" || path == GENERATED_BUILD_FILE);
        if generated {
            return Ok(());
        }
        let here = walk.path_of(entry);
        if path.len() > MAX_PATH_BYTES {
            let why = "its path is longer than a path may be in a container: list it in .dockerignore";
            return Err(pack_error(&here, why));
        }
        let replaced = || read_error(&here, &io::Error::other("it was replaced while the folder was read"));
        let added = match entry.kind() {
            EntryKind::Link => {
                let to =
                    walk.read_link(entry).map_err(|error| invalid_context(&error))?.ok_or_else(replaced)?;
                if leads_out(path, &to) {
                    let why = "it is a link that leads out of the folder: list it in .dockerignore";
                    return Err(pack_error(&here, why));
                }
                self.archive.append_link(&mut entry_header(EntryType::Symlink, entry), path, to)
            }
            EntryKind::Folder => {
                let mut header = entry_header(EntryType::Directory, entry);
                self.archive.append_data(&mut header, format!("{path}/"), io::empty())
            }
            EntryKind::File => {
                let file =
                    walk.open_file(entry).map_err(|error| invalid_context(&error))?.ok_or_else(replaced)?;
                let mut header = entry_header(EntryType::Regular, entry);
                header.set_size(entry.len());
                self.archive.append_data(&mut header, path, ExactLengthFile { file, left: entry.len() })
            }
            // Sockets and devices have no place in an image.
            EntryKind::Special => return Ok(()),
        };
        added.map_err(|error| read_error(&here, &error))
    }

    /// The build file that is not in the folder, and a note to the daemon that it does not belong there.
    fn write_generated(&mut self) -> Result<(), ProviderError> {
        let Some(text) = &self.context.text else { return Ok(()) };
        let ignore = format!(".dockerignore\n{GENERATED_BUILD_FILE}\n");
        for (name, text) in [(GENERATED_BUILD_FILE, text.as_str()), (".dockerignore", &ignore)] {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(text.len() as u64);
            let added = self.archive.append_data(&mut header, name, text.as_bytes());
            added.map_err(|error| read_error(Path::new(name), &error))?;
        }
        Ok(())
    }
}

/// What an archive records of an entry: nothing of this machine.
fn entry_header(kind: EntryType, entry: &RecordEntry) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    let is_executable = kind == EntryType::Directory || entry.mode() & 0o100 != 0;
    header.set_mode(if is_executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(ENTRY_MTIME);
    header.set_size(0);
    header
}

/// Whether a link within the folder leads out of it.
fn leads_out(path: &str, to: &Path) -> bool {
    let mut depth = path.matches('/').count();
    for part in to.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

fn read_error(path: &Path, error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, format!("cannot read {}: {error}", path.display()))
}

/// For an error that names the path already.
fn invalid_context(error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, error.to_string())
}

fn pack_error(path: &Path, why: &str) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, format!("cannot pack {}: {why}", path.display()))
}

/// A file of the promised length, even if it changes meanwhile.
struct ExactLengthFile {
    file: File,
    left: u64,
}

impl Read for ExactLengthFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Written bytes become pieces of a stream.
struct ChannelWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn packed(folder: &Path, text: Option<&str>) -> Result<Vec<(String, u64, u64)>, ProviderError> {
        let file = if text.is_some() { GENERATED_BUILD_FILE } else { "Dockerfile" };
        pack(folder, file, text)
    }

    fn pack(folder: &Path, file: &str, text: Option<&str>) -> Result<Vec<(String, u64, u64)>, ProviderError> {
        let context =
            BuildContext { folder: folder.to_owned(), file: file.into(), text: text.map(str::to_owned) };
        let (sender, mut receiver) = mpsc::channel(1000);
        context.send(&sender)?;
        drop(sender);
        let mut bytes = Vec::new();
        while let Ok(Ok(piece)) = receiver.try_recv() {
            bytes.extend_from_slice(&piece);
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            (path, entry.size(), entry.header().uid().unwrap())
        });
        Ok(entries.collect())
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("oxenv-context-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("src/deep")).unwrap();
        fs::write(folder.join("Dockerfile"), "FROM x").unwrap();
        fs::write(folder.join(".env"), "TOKEN=1").unwrap();
        fs::write(folder.join("src/deep/a.py"), vec![b'#'; 200_000]).unwrap();
        folder
    }

    #[test]
    fn a_folder_is_packed_without_secrets_and_owners() {
        let folder = folder("plain");
        std::os::unix::fs::symlink("deep/a.py", folder.join("src/link")).unwrap();
        let entries = packed(&folder, None).unwrap();
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["Dockerfile", "src/", "src/deep/", "src/deep/a.py", "src/link"]);
        assert!(entries.iter().all(|(_, _, owner)| *owner == 0));
        assert_eq!(entries[3].1, 200_000);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_let_in_again_is_packed_and_the_build_file_always() {
        let folder = folder("exceptions");
        fs::write(folder.join(".dockerignore"), "*\n!src/deep/a.py\n").unwrap();
        let names =
            |text| packed(&folder, text).unwrap().into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
        assert_eq!(names(None), [".dockerignore", "Dockerfile", "src/deep/a.py"]);
        assert_eq!(names(Some("FROM y")), ["src/deep/a.py", GENERATED_BUILD_FILE, ".dockerignore"]);
        fs::write(folder.join(".dockerignore"), "src\n").unwrap();
        fs::write(folder.join("src/Dockerfile"), "FROM z").unwrap();
        let within = pack(&folder, "src/Dockerfile", None).unwrap();
        assert!(within.iter().any(|(name, ..)| name == "src/Dockerfile"), "{within:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    /// One that cannot be sent, unless it is listed.
    #[test]
    fn a_folder_that_is_too_deep_is_named() {
        let folder = folder("deep");
        let here = std::env::current_dir().unwrap();
        std::env::set_current_dir(folder.join("src")).unwrap();
        let name = "d".repeat(250);
        for _ in 0..100 {
            fs::create_dir(&name).unwrap();
            std::env::set_current_dir(&name).unwrap();
        }
        std::env::set_current_dir(here).unwrap();
        let error = packed(&folder, None).unwrap_err();
        assert_eq!(error.code, ProviderCode::InvalidSpec);
        assert!(error.message.contains("longer than a path may be"), "{error}");
        fs::write(folder.join(".dockerignore"), "src/dd*\n").unwrap();
        assert_eq!(packed(&folder, None).unwrap().len(), 5);
        oxenv_core::folders::remove(&folder).unwrap();
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = folder("link");
        for to in ["/etc/passwd", "../../x"] {
            std::os::unix::fs::symlink(to, folder.join("src/link")).unwrap();
            let error = packed(&folder, None).unwrap_err();
            assert_eq!(error.code, ProviderCode::InvalidSpec);
            assert!(error.message.contains("src/link: it is a link that leads out"), "{error}");
            fs::remove_file(folder.join("src/link")).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
