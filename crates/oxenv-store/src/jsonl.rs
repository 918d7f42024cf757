//! Audit records as lines of JSON in a file, which a thread of its own writes in groups.
//!
//! Invariant: recording waits for memory alone. A record that was taken is in the file once, whole and
//! in its order, as soon as the file takes it; what cannot be written is kept and tried again. What is kept
//! is bounded by places: a call has one before it is made.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use oxenv_core::{AuditRecord, AuditSink, Work, utc_micros};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::lines::Lines;

/// The version of the lines, which each of them carries as `v`.
const VERSION: u32 = 1;
/// Records that may wait to be written, those of calls that are being made included.
const MAX_PLACES: usize = 16 * 1024;
/// Bytes of a record that take one place; a longer record takes more.
const PLACE_BYTES: usize = 1024;
/// How soon a write that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long the end waits for records still to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum time between two messages about trouble in the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);
/// A buffer that had to grow beyond this is given back.
const MAX_KEPT_BUFFER: usize = 256 * 1024;

/// Appends audit records to a file, one JSON object a line.
///
/// A thread writes them, a moment after `record` returned; the end of the process costs those that are not
/// written yet, unless the sink is dropped before. Several processes may append to one file.
///
/// ```
/// use std::time::Duration;
///
/// use oxenv_store::JsonlAudit;
///
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-audit-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let audit = JsonlAudit::open(folder.join("audit.jsonl"))?;
/// assert!(audit.flush(Duration::from_secs(1)), "nothing was recorded yet, so nothing waits");
/// assert_eq!(audit.status().waiting, 0);
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JsonlAudit(Arc<Shared>);

/// The state of an audit file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditFileStatus {
    /// Records that are not written yet.
    pub waiting: u64,
    /// Writes that failed and were tried again, since the start.
    pub failed: u64,
    /// Calls that were refused because their record had no place, since the start.
    pub refused: u64,
}

struct Shared {
    path: PathBuf,
    places: Semaphore,
    queue: Mutex<Queue>,
    /// The thread has something to do.
    work: Condvar,
    /// The thread has done something.
    done: Condvar,
    failed: AtomicU64,
    refused: AtomicU64,
    warned: Mutex<Option<Instant>>,
}

/// What to write.
#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Places that the lines take.
    places: usize,
    /// Records that are not written yet, those that the thread is writing included.
    waiting: u64,
    closing: bool,
    /// Whether the thread has ended.
    over: bool,
}

/// The state of the thread.
struct Writer {
    shared: Arc<Shared>,
    lines: Lines<File>,
    id: Option<FileId>,
    /// Refused calls that the file has a line about.
    reported: u64,
}

#[derive(Serialize)]
struct AuditLine<'a> {
    v: u32,
    #[serde(flatten)]
    record: &'a AuditRecord<'a>,
}

/// Calls without a record.
#[derive(Serialize)]
struct Refused {
    v: u32,
    time_us: u64,
    refused: u64,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl JsonlAudit {
    /// Opens the file, or makes one that only its owner may read, and starts the thread that writes it.
    ///
    /// # Errors
    /// Names the file when it cannot be opened for reading and writing.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let OpenedFile { file, torn, id } = open(&path)?;
        let shared = Arc::new(Shared {
            path,
            places: Semaphore::new(MAX_PLACES),
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            warned: Mutex::default(),
        });
        let writer = Writer { shared: Arc::clone(&shared), lines: Lines::new(file, torn), id, reported: 0 };
        thread::Builder::new().name("oxenv-audit".to_owned()).spawn(move || writer.run())?;
        Ok(JsonlAudit(shared))
    }

    /// Waits until everything is written, for that long at most; false if something is left. Blocks its
    /// thread.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let mut queue = self.0.queue.lock();
        !self.0.done.wait_while_for(&mut queue, |queue| queue.waiting > 0, within).timed_out()
    }

    /// The state of the file.
    #[must_use]
    pub fn status(&self) -> AuditFileStatus {
        AuditFileStatus {
            waiting: self.0.queue.lock().waiting,
            failed: self.0.failed.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }
}

impl AuditSink for JsonlAudit {
    fn take_place(&self) -> Work<'_, ()> {
        let places = &self.0.places;
        match places.try_acquire() {
            Ok(place) => {
                place.forget();
                Work::done(())
            }
            Err(_) => Work::pending(async {
                match places.acquire().await {
                    Ok(place) => place.forget(),
                    // It is never closed.
                    Err(_) => std::future::pending().await,
                }
            }),
        }
    }

    fn refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        self.0.warn(|file, refused| {
            tracing::error!(file, refused, "tool calls are refused: the audit file takes no more records");
        });
    }

    fn record(&self, record: &AuditRecord<'_>) {
        SCRATCH.with_borrow_mut(|line| {
            line.clear();
            append_line(line, &AuditLine { v: VERSION, record });
            // A long record takes several places, as far as there are any.
            let places = 1 + self.0.places.forget_permits(line.len() / PLACE_BYTES);
            let mut queue = self.0.queue.lock();
            queue.lines.extend_from_slice(line);
            queue.places += places;
            queue.waiting += 1;
            drop(queue);
            self.0.work.notify_one();
            line.shrink_to(MAX_KEPT_BUFFER);
        });
    }
}

impl Drop for JsonlAudit {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closing = true;
        self.0.work.notify_one();
        self.0.done.wait_while_for(&mut queue, |queue| !queue.over, CLOSE_TIMEOUT);
        if queue.waiting > 0 {
            let (file, lost) = (self.0.path.display(), queue.waiting);
            tracing::error!(%file, lost, "audit records are lost: they could not be written before the end");
        }
    }
}

impl fmt::Debug for JsonlAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonlAudit").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Shared {
    /// Logs a message, unless it was logged just now.
    fn warn(&self, say: impl FnOnce(&str, u64)) {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL) {
            *warned = Some(now);
            drop(warned);
            say(&self.path.to_string_lossy(), self.refused.load(Ordering::Relaxed));
        }
    }
}

impl Writer {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut group = Vec::new();
        loop {
            let mut queue = shared.queue.lock();
            shared.work.wait_while(&mut queue, |queue| queue.lines.is_empty() && !queue.closing);
            mem::swap(&mut group, &mut queue.lines);
            let (places, records, closing) = (mem::take(&mut queue.places), queue.waiting, queue.closing);
            drop(queue);
            self.tell_refused(&mut group);
            let written = self.write(&mut group);
            group.shrink_to(MAX_KEPT_BUFFER);
            shared.places.add_permits(places);
            let mut queue = shared.queue.lock();
            if written {
                queue.waiting -= records;
            }
            queue.over = !written || (closing && queue.lines.is_empty());
            shared.done.notify_all();
            if queue.over {
                return;
            }
        }
    }

    /// Goes on with the file that stands at the path, if that is another one now, because the first was moved
    /// away or removed.
    fn follow(&mut self) -> io::Result<()> {
        if self.id != id(fs::metadata(&self.shared.path)) {
            let OpenedFile { file, torn, id } = open(&self.shared.path)?;
            self.lines.replace(file, torn);
            self.id = id;
        }
        Ok(())
    }

    /// Writes a group, however often that takes; false if the end came before.
    fn write(&mut self, group: &mut Vec<u8>) -> bool {
        let shared = Arc::clone(&self.shared);
        while let Err(error) = self.follow().and_then(|()| self.lines.write(group)) {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            shared.warn(|file, refused| {
                tracing::error!(file, %error, refused, "audit records cannot be written, \
                 and are tried again");
            });
            let mut queue = shared.queue.lock();
            if queue.closing {
                return false;
            }
            shared.work.wait_while_for(&mut queue, |queue| !queue.closing, RETRY_INTERVAL);
        }
        true
    }

    /// Puts a line about calls that were refused since the last one before the others.
    fn tell_refused(&mut self, group: &mut Vec<u8>) {
        let refused = self.shared.refused.load(Ordering::Relaxed);
        if refused > self.reported {
            let mut line = Vec::new();
            let time_us = utc_micros(SystemTime::now());
            append_line(&mut line, &Refused { v: VERSION, time_us, refused: refused - self.reported });
            group.splice(..0, line);
            self.reported = refused;
        }
    }
}

/// A file that was opened.
struct OpenedFile {
    file: File,
    /// Whether its last line lacks its end.
    torn: bool,
    id: Option<FileId>,
}

/// What distinguishes one file from another.
#[derive(PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

fn id(about: io::Result<fs::Metadata>) -> Option<FileId> {
    about.ok().map(|about| FileId { device: about.dev(), inode: about.ino() })
}

fn open(path: &Path) -> io::Result<OpenedFile> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let checked = opened.and_then(|file| {
        let (torn, id) = (lacks_line_end(&file)?, id(file.metadata()));
        Ok(OpenedFile { file, torn, id })
    });
    checked.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the audit file '{}': {error}", path.display()))
    })
}

/// Only a file has an end to look at; a terminal or a pipe has not.
fn lacks_line_end(file: &File) -> io::Result<bool> {
    let about = file.metadata()?;
    if !about.is_file() || about.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, about.len() - 1)?;
    Ok(last != *b"\n")
}

fn append_line(lines: &mut Vec<u8>, content: &impl Serialize) {
    let begin = lines.len();
    // Nothing in a record can fail to be JSON; if it did, the line would state it.
    if serde_json::to_writer(&mut *lines, content).is_err() {
        lines.truncate(begin);
        lines.extend_from_slice(br#"{"v":1,"lost":1}"#);
    }
    // Arguments keep the spaces that they were sent with. Within strings line ends are escaped.
    for space in lines[begin..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *space = b' ';
    }
    lines.push(b'\n');
}
