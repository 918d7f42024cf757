//! The folder that an image is built from, as the tar archive that the daemon reads.
//!
//! Invariant: owners and times of this machine are not in it, and no link leads out of the folder. It is read while it
//! is sent, so its size does not matter; who stops to listen ends the reading.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use tar::{Builder, EntryType, Header, HeaderMode};
use tokio::sync::mpsc;

use super::ignore::Ignored;
use crate::error::{ProviderCode, ProviderError};

/// How much is sent at once, in bytes.
const PIECE: usize = 64 << 10;
/// Under this name the daemon is sent a build file that is not in the folder.
pub(super) const GENERATED: &str = ".oxenv.dockerfile";

/// A folder to send.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) folder: PathBuf,
    /// The build file's path within the folder.
    pub(super) file: String,
    /// The build file's text, if it is not in the folder.
    pub(super) text: Option<String>,
}

impl Context {
    /// Writes the archive in pieces; gives an error if a file cannot be read.
    pub(super) fn send(self, pieces: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), ProviderError> {
        let ignored =
            Ignored::of(&self.folder).map_err(|error| bad(&self.folder.join(".dockerignore"), &error))?;
        let mut archive = Builder::new(BufWriter::with_capacity(PIECE, Pieces(pieces.clone())));
        let mut packing = Packing { context: &self, ignored: &ignored, archive: &mut archive };
        let packed = packing.folder("").and_then(|()| packing.generated());
        let packed = packed.and_then(|()| finish(archive).map_err(|error| bad(&self.folder, &error)));
        if packed.is_err() {
            // The daemon must not take half a folder for a whole one.
            let _ = pieces.blocking_send(Err(io::Error::other("the folder cannot be read")));
        }
        packed
    }
}

fn finish(archive: Builder<BufWriter<Pieces>>) -> io::Result<()> {
    archive.into_inner()?.flush()
}

/// A folder that is being packed.
struct Packing<'a, W: Write> {
    context: &'a Context,
    ignored: &'a Ignored,
    archive: &'a mut Builder<W>,
}

impl<W: Write> Packing<'_, W> {
    /// Packs what is in a folder, which is given relative to the whole and ends with `/`, in the order of names.
    fn folder(&mut self, within: &str) -> Result<(), ProviderError> {
        let folder = self.context.folder.join(within);
        let listed = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = listed.map_err(|error| bad(&folder, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let here = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                return Err(unfit(&here, "its name is no UTF-8: rename it or list it in .dockerignore"));
            };
            let path = format!("{within}{name}");
            let metadata = fs::symlink_metadata(&here).map_err(|error| bad(&here, &error))?;
            let stays_out = self.ignored.holds(&path) && !self.is_needed(&path);
            if !stays_out {
                self.entry(&path, &here, &metadata)?;
            }
            if metadata.is_dir() && (!stays_out || self.may_hold_more(&path)) {
                self.folder(&format!("{path}/"))?;
            }
        }
        Ok(())
    }

    /// The daemon reads these itself, and takes them out where `.dockerignore` says so.
    fn is_needed(&self, path: &str) -> bool {
        path == self.context.file || path == ".dockerignore"
    }

    /// Whether something in a folder that stays out is sent all the same.
    fn may_hold_more(&self, path: &str) -> bool {
        let holds_file = self.context.file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        holds_file || self.ignored.has_exceptions()
    }

    fn entry(&mut self, path: &str, here: &Path, metadata: &Metadata) -> Result<(), ProviderError> {
        let generated = self.context.text.is_some() && (path == ".dockerignore" || path == GENERATED);
        if generated {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata_in_mode(metadata, HeaderMode::Deterministic);
        let added = if metadata.is_symlink() {
            let to = fs::read_link(here).map_err(|error| bad(here, &error))?;
            if leads_out(path, &to) {
                return Err(unfit(
                    here,
                    "it is a link that leads out of the folder: list it in .dockerignore",
                ));
            }
            header.set_size(0);
            self.archive.append_link(&mut header, path, to)
        } else if metadata.is_dir() {
            self.archive.append_data(&mut header, format!("{path}/"), io::empty())
        } else if metadata.is_file() {
            let exact = File::open(here).map(|file| Exact { file, left: metadata.len() });
            exact.and_then(|file| self.archive.append_data(&mut header, path, file))
        } else {
            // Sockets and devices have no place in an image.
            return Ok(());
        };
        added.map_err(|error| bad(here, &error))
    }

    /// The build file that is not in the folder, and the word to the daemon that it does not belong there.
    fn generated(&mut self) -> Result<(), ProviderError> {
        let Some(text) = &self.context.text else { return Ok(()) };
        let ignore = format!(".dockerignore\n{GENERATED}\n");
        for (name, text) in [(GENERATED, text.as_str()), (".dockerignore", &ignore)] {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(text.len() as u64);
            let added = self.archive.append_data(&mut header, name, text.as_bytes());
            added.map_err(|error| bad(Path::new(name), &error))?;
        }
        Ok(())
    }
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

fn bad(path: &Path, error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, format!("cannot read {}: {error}", path.display()))
}

fn unfit(path: &Path, why: &str) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, format!("cannot pack {}: {why}", path.display()))
}

/// A file of the length that was promised, whatever becomes of it meanwhile.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
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

/// What is written becomes pieces of a stream.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
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
    use super::*;

    fn packed(folder: &Path, text: Option<&str>) -> Result<Vec<(String, u64, u64)>, ProviderError> {
        let file = if text.is_some() { GENERATED } else { "Dockerfile" };
        pack(folder, file, text)
    }

    fn pack(folder: &Path, file: &str, text: Option<&str>) -> Result<Vec<(String, u64, u64)>, ProviderError> {
        let context = Context { folder: folder.to_owned(), file: file.into(), text: text.map(str::to_owned) };
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
        assert_eq!(names(Some("FROM y")), ["src/deep/a.py", GENERATED, ".dockerignore"]);
        fs::write(folder.join(".dockerignore"), "src\n").unwrap();
        fs::write(folder.join("src/Dockerfile"), "FROM z").unwrap();
        let within = pack(&folder, "src/Dockerfile", None).unwrap();
        assert!(within.iter().any(|(name, ..)| name == "src/Dockerfile"), "{within:?}");
        fs::remove_dir_all(folder).unwrap();
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
