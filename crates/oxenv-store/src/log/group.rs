//! Group commit: entries of all sessions come together in memory, and one thread writes them.
//!
//! Invariant: an entry's work is ready only when its batch was written as safely as was asked, or
//! failed. Only the thread waits for the disk; a session that waits is woken once.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use oxenv_core::{Failure, RecordEntry, Redact, Work};
use oxenv_wire::ErrorCode;
use parking_lot::Mutex;

use super::blobs::Blob;
use super::unwritten::Unwritten;
use super::writer::{COMPLAINT_INTERVAL, WriteError, Writer};
use super::{LogOptions, WriteLag, frame, line};
use crate::error::LogError;

/// Number of collected bytes that wakes the thread to write, whether or not an entry waits.
const FLUSH_BYTES: usize = 128 * 1024;
/// A buffer that had to grow beyond this is given back.
const MAX_KEPT_BUFFER: usize = 1024 * 1024;

/// The writing thread and what it is given.
pub(super) struct Group {
    shared: Arc<GroupShared>,
    thread: Option<JoinHandle<()>>,
    folder: PathBuf,
    redact: Option<Redact>,
    inline_bytes: usize,
    behind_bytes: usize,
}

struct GroupShared {
    next: Mutex<NextBatch>,
    /// Whether the thread sleeps and has not been woken.
    asleep: AtomicBool,
    thread: OnceLock<thread::Thread>,
    failed: AtomicU64,
}

/// The entries to write next.
#[derive(Default)]
struct NextBatch {
    frames: Vec<u8>,
    blobs: Vec<Blob>,
    lag: WriteLag,
    /// What of the lag the thread is writing now.
    writing: WriteLag,
    /// Refused entries that are not named in the log yet.
    unwritten: Unwritten,
    batch: Arc<Batch>,
    closing: bool,
    /// Whether the thread ended without a request to end.
    lost: bool,
}

/// Entries that are written together.
#[derive(Default)]
struct Batch {
    outcome: OnceLock<Result<(), Failure>>,
    waiting: Mutex<Vec<Waker>>,
}

/// Waits for a batch.
struct SegmentSummary {
    shared: Arc<GroupShared>,
    batch: Arc<Batch>,
    polled: bool,
    place: Option<usize>,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Group {
    pub(super) fn start(writer: Writer, folder: &Path, options: LogOptions) -> Result<Self, LogError> {
        let shared = Arc::new(GroupShared {
            next: Mutex::default(),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
            failed: AtomicU64::new(0),
        });
        let body =
            Thread { shared: Arc::clone(&shared), writer, unwritten: Unwritten::default(), complained: None };
        let thread = thread::Builder::new().name("oxenv-log".to_owned()).spawn(move || body.run());
        let thread = thread.map_err(LogError::io(folder))?;
        // Nothing else sets it.
        let _ = shared.thread.set(thread.thread().clone());
        Ok(Group {
            shared,
            thread: Some(thread),
            folder: folder.to_owned(),
            redact: options.redact,
            inline_bytes: options.inline_bytes,
            behind_bytes: options.behind_bytes,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn lag(&self) -> WriteLag {
        self.shared.next.lock().lag
    }

    pub(super) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    pub(super) fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        let style = line::ValueStyle { redact: self.redact.as_ref(), inline: self.inline_bytes };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let mut blobs = Vec::new();
            frame::append(scratch, |out| blobs = line::write(out, entry, &style));
            let work = self.push(entry, scratch, blobs);
            scratch.shrink_to(MAX_KEPT_BUFFER);
            work
        })
    }

    fn push(
        &self,
        entry: &RecordEntry<'_>,
        frame: &[u8],
        blobs: Vec<Blob>,
    ) -> Work<'static, Result<(), Failure>> {
        let mut next = self.shared.next.lock();
        if next.lag.bytes as usize > self.behind_bytes || next.lost {
            next.unwritten.add(entry.session_id, entry.seq);
            drop(next);
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            return Work::done(Err(refused(self.behind_bytes)));
        }
        let bytes = frame.len() + blobs.iter().map(|blob| blob.text.len()).sum::<usize>();
        next.frames.extend_from_slice(frame);
        next.blobs.extend(blobs);
        next.lag = next.lag.plus(1, bytes as u64);
        let plenty = next.frames.len() > FLUSH_BYTES;
        let batch = Arc::clone(&next.batch);
        drop(next);
        if plenty {
            self.shared.wake_thread();
        }
        Work::pending(SegmentSummary { shared: Arc::clone(&self.shared), batch, polled: false, place: None })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.next.lock().closing = true;
        self.shared.wake_thread();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has reported it.
            let _ = thread.join();
        }
    }
}

impl GroupShared {
    /// Wakes the thread up if it sleeps.
    fn wake_thread(&self) {
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Future for SegmentSummary {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.batch.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        // Whatever else is ready to run goes first: its entries then go into the same write. A
        // single task is polled again at once.
        if !self.polled && self.shared.asleep.load(Ordering::Acquire) {
            self.polled = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polled = true;
        let batch = Arc::clone(&self.batch);
        let mut waiting = batch.waiting.lock();
        // The thread takes the waiting callers after it has set the outcome.
        if let Some(outcome) = batch.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        match self.place {
            Some(place) => waiting[place].clone_from(context.waker()),
            None => {
                self.place = Some(waiting.len());
                waiting.push(context.waker().clone());
            }
        }
        drop(waiting);
        self.shared.wake_thread();
        Poll::Pending
    }
}

impl Drop for SegmentSummary {
    fn drop(&mut self) {
        if self.place.is_none() && self.batch.outcome.get().is_none() {
            self.shared.wake_thread();
        }
    }
}

/// The state of the writing thread.
struct Thread {
    shared: Arc<GroupShared>,
    writer: Writer,
    /// What could not be written and is not named in the log yet.
    unwritten: Unwritten,
    complained: Option<Instant>,
}

/// The entries that the thread took to write.
struct Taken {
    frames: Vec<u8>,
    blobs: Vec<Blob>,
    batch: Arc<Batch>,
    /// Entries refused since the last batch was taken.
    refused: Unwritten,
}

/// The thread's next work.
enum WriterTask {
    Write(Taken),
    Sleep,
    End,
}

/// Answers the waiting callers if the thread ends by a panic.
struct Watch(Arc<GroupShared>, Option<Arc<Batch>>);

impl Thread {
    fn run(mut self) {
        let mut watch = Watch(Arc::clone(&self.shared), None);
        let mut spare = Vec::new();
        loop {
            match self.take(&mut spare) {
                WriterTask::Write(mut taken) => {
                    watch.1 = Some(Arc::clone(&taken.batch));
                    self.commit(&mut taken);
                    watch.1 = None;
                    spare = taken.frames;
                }
                WriterTask::Sleep => self.sleep(),
                WriterTask::End => break,
            }
            self.sync_if_due(false);
        }
        self.end();
    }

    /// Takes what has come together; if that is nothing, the thread counts as asleep from here on.
    fn take(&self, spare: &mut Vec<u8>) -> WriterTask {
        let mut next = self.shared.next.lock();
        let empty = next.frames.is_empty();
        self.shared.asleep.store(empty && !next.closing, Ordering::Release);
        if empty {
            return if next.closing { WriterTask::End } else { WriterTask::Sleep };
        }
        next.writing = next.lag;
        spare.clear();
        spare.shrink_to(MAX_KEPT_BUFFER);
        let frames = std::mem::replace(&mut next.frames, std::mem::take(spare));
        let (blobs, batch) = (std::mem::take(&mut next.blobs), std::mem::take(&mut next.batch));
        let refused = std::mem::take(&mut next.unwritten);
        WriterTask::Write(Taken { frames, blobs, batch, refused })
    }

    fn sleep(&self) {
        match self.writer.sync_due() {
            None => thread::park(),
            Some(due) => thread::park_timeout(due.saturating_duration_since(Instant::now())),
        }
    }

    fn commit(&mut self, taken: &mut Taken) {
        self.unwritten.append(std::mem::take(&mut taken.refused));
        let outcome = self.write(&taken.frames, &taken.blobs);
        let written = {
            let mut next = self.shared.next.lock();
            let written = std::mem::take(&mut next.writing);
            next.lag = next.lag.minus(written);
            written
        };
        let outcome = outcome.map_err(|fault| {
            self.shared.failed.fetch_add(written.records, Ordering::Relaxed);
            self.complain(&fault, written.records);
            failure(&fault)
        });
        taken.batch.finish(outcome);
    }

    /// Writes a batch, behind what could not be written before it.
    fn write(&mut self, frames: &[u8], blobs: &[Blob]) -> Result<(), WriteError> {
        let outcome = if self.unwritten.is_empty() {
            self.writer.commit(frames, blobs)
        } else {
            let bytes = [&self.unwritten.frame()[..], frames].concat();
            self.writer.commit(&bytes, blobs)
        };
        match outcome {
            Ok(()) => self.unwritten = Unwritten::default(),
            Err(_) => self.unwritten.add_batch(frames),
        }
        outcome
    }

    /// Reports what is left to report, now that nothing more comes.
    fn end(&mut self) {
        self.unwritten.append(std::mem::take(&mut self.shared.next.lock().unwritten));
        if !self.unwritten.is_empty()
            && let Err(fault) = self.write(&[], &[])
        {
            self.complain(&fault, 0);
        }
        self.sync_if_due(true);
        if let Err(fault) = self.writer.end() {
            self.complain(&fault, 0);
        }
    }

    fn sync_if_due(&mut self, now: bool) {
        let Some(due) = self.writer.sync_due() else { return };
        if (now || due <= Instant::now())
            && let Err(fault) = self.writer.sync()
        {
            self.complain(&fault, 0);
        }
    }

    fn complain(&mut self, fault: &WriteError, records: u64) {
        if self.complained.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            return;
        }
        self.complained = Some(Instant::now());
        let failed = self.shared.failed.load(Ordering::Relaxed);
        let (file, error) = (fault.path.display(), &fault.error);
        tracing::error!(%file, %error, records, failed, "records of steps cannot be written");
    }
}

impl Batch {
    fn finish(&self, outcome: Result<(), Failure>) {
        // Nothing else sets it.
        let _ = self.outcome.set(outcome);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let next = {
            let mut next = self.0.next.lock();
            next.lost = true;
            std::mem::take(&mut next.batch)
        };
        let lost =
            || Failure::new(ErrorCode::RecordFailed, "the writer of records has ended: restart the server");
        next.finish(Err(lost()));
        if let Some(batch) = self.1.take() {
            batch.finish(Err(lost()));
        }
    }
}

impl WriteLag {
    fn plus(self, records: u64, bytes: u64) -> WriteLag {
        WriteLag { records: self.records + records, bytes: self.bytes + bytes }
    }

    fn minus(self, other: WriteLag) -> WriteLag {
        WriteLag { records: self.records - other.records, bytes: self.bytes - other.bytes }
    }
}

fn failure(fault: &WriteError) -> Failure {
    let name = fault.path.file_name().unwrap_or_default().to_string_lossy();
    let message = format!(
        "the record could not be written to '{name}': {}; make room or mend the record folder, then reset",
        fault.error
    );
    let internal = fault.path.display().to_string();
    Failure::new(ErrorCode::RecordFailed, message).with(|detail| detail.internal = Some(internal))
}

fn refused(behind: usize) -> Failure {
    let message = format!(
        "the record was not taken: {} MiB wait to be written already; \
         the disk of the record folder is too slow",
        behind / (1024 * 1024)
    );
    Failure::new(ErrorCode::RecordFailed, message)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fs::File;
    use std::io;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::Duration;

    use oxenv_core::RecordEvent;
    use proptest::prelude::*;

    use super::super::segment::{Sink, create};
    use super::super::{Durability, LogReader, Retention};
    use super::*;

    /// What one write, or bringing to the disk, does instead of what it should.
    #[derive(Debug, Clone, Copy)]
    enum InjectedFault {
        /// It takes at most that many bytes.
        Short(usize),
        /// It takes that many bytes, and the next one finds the disk full.
        Full(usize),
        /// Nothing can be brought to the disk.
        NoSync,
    }

    /// The troubles that are still to come, one for each operation.
    type Troubles = Arc<Mutex<VecDeque<Option<InjectedFault>>>>;

    /// A file with troubles. It reports each of its operations.
    struct FaultyFile {
        file: File,
        troubles: Troubles,
        full: bool,
        operations: Sender<&'static str>,
        /// Each write waits for a message from here, if there is a channel.
        gate: Option<Arc<Mutex<Receiver<()>>>>,
    }

    impl Sink for FaultyFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.operations.send("write");
            if let Some(gate) = &self.gate {
                let _ = gate.lock().recv();
            }
            if std::mem::take(&mut self.full) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let most = match self.troubles.lock().pop_front().flatten() {
                Some(InjectedFault::Short(most)) => most.max(1),
                Some(InjectedFault::Full(most)) => {
                    self.full = true;
                    most
                }
                _ => bytes.len(),
            };
            if most == 0 {
                self.full = false;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Sink::write(&mut self.file, &bytes[..most.min(bytes.len())])
        }

        fn sync(&mut self) -> io::Result<()> {
            let _ = self.operations.send("sync");
            match self.troubles.lock().pop_front().flatten() {
                Some(InjectedFault::NoSync) => Err(io::Error::other("the disk is gone")),
                _ => self.file.sync(),
            }
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            self.file.truncate(length)
        }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("oxenv-group-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn options(durability: Durability) -> LogOptions {
        LogOptions { durability, retention: Retention::default(), ..LogOptions::default() }
    }

    /// A group over a file with troubles, the operations that it reports, and the troubles, which begin after
    /// opening.
    fn group(
        folder: &Path,
        options: LogOptions,
        gate: Option<Receiver<()>>,
    ) -> (Group, Receiver<&'static str>, Troubles) {
        let troubles = Arc::new(Mutex::new(VecDeque::new()));
        let (operations, operations_seen) = mpsc::channel();
        let gate = gate.map(|gate| Arc::new(Mutex::new(gate)));
        let shared = Arc::clone(&troubles);
        let opener = move |path: &Path| {
            let (troubles, gate) = (Arc::clone(&shared), gate.clone());
            let file = create(path)?;
            Ok(Box::new(FaultyFile { file, troubles, full: false, operations: operations.clone(), gate })
                as Box<dyn Sink>)
        };
        let (writer, _) = Writer::open_with(folder, &options, Box::new(opener)).unwrap();
        (Group::start(writer, folder, options).unwrap(), operations_seen, troubles)
    }

    fn closed(seq: u64) -> RecordEntry<'static> {
        RecordEntry {
            session_id: "a",
            seq,
            epoch: 0,
            time_us: 1,
            event: RecordEvent::Closed { reason: "closed" },
        }
    }

    fn wait(work: Work<'static, Result<(), Failure>>) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn numbers(folder: &Path) -> Vec<u64> {
        LogReader::open(folder).unwrap().map(|entry| entry.unwrap().seq).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whatever the disk does: what was acknowledged is in the log, what failed is not, and once
        /// there is room again, entries are written.
        #[test]
        fn the_log_has_what_was_acknowledged_and_nothing_else(
            machine in any::<bool>(),
            script in prop::collection::vec(
                prop::option::of(prop_oneof![
                    (0_usize..300).prop_map(InjectedFault::Short),
                    (0_usize..300).prop_map(InjectedFault::Full),
                    Just(InjectedFault::NoSync),
                ]),
                0..40,
            ),
        ) {
            let folder = folder("faults");
            let durability = if machine { Durability::Machine } else { Durability::Process };
            let mut options = options(durability);
            options.segment_bytes = 900;
            let (group, _hear, troubles) = group(&folder, options, None);
            *troubles.lock() = script.into();
            let mut kept = Vec::new();
            for seq in 0..30 {
                match wait(group.append(&closed(seq))) {
                    Ok(()) => kept.push(seq),
                    Err(failure) => {
                        prop_assert_eq!(failure.code, ErrorCode::RecordFailed);
                        prop_assert!(failure.message.contains(".oxl'"), "{}", failure.message);
                    }
                }
                prop_assert_eq!(numbers(&folder), kept.clone());
            }
            prop_assert_eq!(group.failed(), 30 - kept.len() as u64);
            troubles.lock().clear();
            // A disk that was full for the last one is so no more.
            let _ = wait(group.append(&closed(30)));
            prop_assert!(wait(group.append(&closed(31))).is_ok());
            prop_assert_eq!(group.lag(), WriteLag::default());
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn what_comes_while_the_disk_is_slow_goes_into_one_write() {
        let folder = folder("slow");
        let (go, gate) = mpsc::channel();
        go.send(()).unwrap();
        let mut options = options(Durability::Process);
        options.behind_bytes = 20_000;
        let (group, operations_seen, _) = group(&folder, options, Some(gate));
        // No caller waits for this one, so the thread is notified at once and meets the closed gate, behind
        // what the segment begins with.
        drop(group.append(&closed(0)));
        assert_eq!([operations_seen.recv(), operations_seen.recv()], [Ok("write"), Ok("write")]);
        let works: Vec<_> = (1..100).map(|seq| group.append(&closed(seq))).collect();
        assert_eq!(group.lag().records, 100);
        go.send(()).unwrap();
        go.send(()).unwrap();
        works.into_iter().for_each(|work| wait(work).unwrap());
        assert_eq!(operations_seen.try_iter().count(), 1);
        assert_eq!(numbers(&folder), (0..100).collect::<Vec<_>>());

        // With too much behind, entries fail at once rather than pile up.
        drop(group.append(&closed(100)));
        assert_eq!(operations_seen.recv(), Ok("write"));
        let works: Vec<_> = (101..1000).map(|seq| group.append(&closed(seq))).collect();
        let behind = group.lag();
        assert!((20_000..21_000).contains(&behind.bytes), "{behind:?}");
        go.send(()).unwrap();
        go.send(()).unwrap();
        let failed = works.into_iter().map(wait).filter(Result::is_err).count() as u64;
        assert_eq!((failed, group.failed()), (1000 - 100 - behind.records, failed));
        drop(group);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn durability_is_what_it_says() {
        let heard = |durability| {
            let folder = folder("durability");
            let (group, operations_seen, _) = group(&folder, options(durability), None);
            wait(group.append(&closed(0))).unwrap();
            operations_seen.try_iter().for_each(drop);
            wait(group.append(&closed(1))).unwrap();
            let before_the_reply: Vec<_> = operations_seen.try_iter().collect();
            drop(group);
            std::fs::remove_dir_all(&folder).unwrap();
            (before_the_reply, operations_seen.try_iter().collect::<Vec<_>>())
        };
        assert_eq!(heard(Durability::Process), (vec!["write"], vec![]));
        assert_eq!(heard(Durability::Machine), (vec!["write", "sync"], vec![]));
        // At the end at the latest.
        assert_eq!(heard(Durability::Interval(Duration::from_secs(3600))), (vec!["write"], vec!["sync"]));
    }

    #[test]
    fn an_interval_brings_entries_to_the_disk_while_nothing_happens() {
        let folder = folder("interval");
        let (group, operations_seen, _) =
            group(&folder, options(Durability::Interval(Duration::from_millis(5))), None);
        wait(group.append(&closed(0))).unwrap();
        // What the segment begins with is brought to the disk at once.
        assert_eq!([operations_seen.recv(), operations_seen.recv()], [Ok("write"), Ok("sync")]);
        assert_eq!([operations_seen.recv(), operations_seen.recv()], [Ok("write"), Ok("sync")]);
        drop(group);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    #[test]
    fn what_could_not_be_written_is_told_and_is_no_hole() {
        let folder = folder("unwritten");
        let (group, _hear, troubles) = group(&folder, options(Durability::Process), None);
        let opened = RecordEvent::Opened {
            environment: "e",
            version: "1",
            deterministic: true,
            seed: 1,
            episode_id: "e",
            origin: None,
        };
        let entry = |seq| RecordEntry { session_id: "a", seq, epoch: 0, time_us: 1, event: opened };
        let reset = |seq| RecordEntry {
            event: RecordEvent::Reset {
                seed: 1,
                seed_given: false,
                episode_id: "e",
                arguments: None,
                outcome: oxenv_core::RecordedOutcome::Answered { reply: "{}", reward: None, done: false },
                duration_us: 1,
            },
            ..entry(seq)
        };
        wait(group.append(&entry(0))).unwrap();
        *troubles.lock() = [Some(InjectedFault::Full(20)), Some(InjectedFault::Full(0))].into();
        assert!(wait(group.append(&reset(1))).is_err());
        assert!(wait(group.append(&reset(2))).is_err());
        wait(group.append(&reset(3))).unwrap();
        *troubles.lock() = [Some(InjectedFault::Full(0))].into();
        assert!(wait(group.append(&reset(4))).is_err());
        wait(group.append(&reset(5))).unwrap();
        drop(group);
        let trajectories = crate::Trajectories::open(&folder).unwrap();
        trajectories.refresh().unwrap();
        let session = trajectories.session("a").unwrap().unwrap();
        assert_eq!((session.unwritten, session.holes), (3, Vec::new()));
        assert!(trajectories.faults().unwrap().is_empty());
        assert_eq!(numbers(&folder), [0, 3, 5]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
