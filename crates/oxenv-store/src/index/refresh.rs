//! Brings the index up to the log.
//!
//! Invariant: the index of a log is the same whether it was made at once or bit by bit. Where the log
//! is not what it was (a record that was read is gone), the index is made anew.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oxenv_wire::Reward;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::schema::{self, number, stored_number};
use super::{RefreshReport, Trouble, faults, holes};
use crate::error::LogError;
use crate::log::bounds::{self, Extent};
use crate::log::unwritten::UnwrittenMark;
use crate::log::{LogPosition, Reading, RecordCursor, checksum_at, segment};
use crate::stored::{self, RecordSummary};

/// Maximum number of records of one transaction; between two of them others may read.
const MAX_TRANSACTION_RECORDS: u64 = 50_000;

/// The progress of the index.
#[derive(Debug)]
struct Progress {
    /// The oldest segment.
    first: u64,
    /// Where to read on.
    reading: Reading,
    /// Where the last record that was read begins, to know it again.
    last: LogPosition,
    /// The checksum of that record.
    checksum: u32,
}

/// The content of one record.
struct Arrival<'a> {
    brief: RecordSummary<'a>,
    at: LogPosition,
    /// Bytes of its text.
    length: u32,
    /// Whether everything that its session did is in segments that should be there.
    complete: bool,
}

/// A session that was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    number: i64,
    /// The number of its last entry.
    last_seq: u64,
}

/// The sessions that were seen.
type Sessions = HashMap<String, Seen>;

pub(super) fn refresh(connection: &mut Connection, folder: &Path) -> Result<RefreshReport, Trouble> {
    let mut refreshed = RefreshReport::default();
    let mut sessions = Sessions::new();
    while !refresh_part(connection, folder, &mut refreshed, &mut sessions)? {}
    Ok(refreshed)
}

/// Takes in some records; true when there are no more.
fn refresh_part(
    connection: &mut Connection,
    folder: &Path,
    refreshed: &mut RefreshReport,
    sessions: &mut Sessions,
) -> Result<bool, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let extent = bounds::extent(folder)?;
    let first = extent.segments.first().copied();
    let progress = load(&transaction)?;
    let known = match progress {
        None => None,
        Some(progress) => {
            let known = resume_point(&transaction, folder, &extent, progress)?;
            refreshed.rebuilt |= known.is_none();
            known
        }
    };
    let (mut cursor, mut progress) = match known {
        Some(known) => known,
        None => {
            sessions.clear();
            schema::clear(&transaction)?;
            let cursor = RecordCursor::open(folder)?;
            let reading = cursor.reading();
            let first = first.unwrap_or(reading.segment);
            (cursor, Progress { first, reading, last: LogPosition::default(), checksum: 0 })
        }
    };
    if let Some(first) = first.filter(|first| progress.first < *first) {
        sessions.clear();
        forget(&transaction, first)?;
        progress.first = first;
    }
    let more = take_in(&transaction, &mut cursor, &mut progress, refreshed, sessions, &extent)?;
    if !more {
        refreshed.faults.extend(faults::at_the_end(&transaction, folder, &extent, &cursor, progress.last)?);
    }
    watch(&transaction, folder, &extent, &cursor)?;
    save(&transaction, &progress)?;
    transaction.commit()?;
    Ok(!more)
}

/// Where to read on, if the log is still what it was.
fn resume_point(
    transaction: &Transaction<'_>,
    folder: &Path,
    extent: &Extent,
    progress: Progress,
) -> Result<Option<(RecordCursor, Progress)>, Trouble> {
    let at = progress.last;
    if at != LogPosition::default() && checksum_at(folder, at)? != Some(progress.checksum) {
        return Ok(None);
    }
    if !watched(transaction, folder, extent, &progress)? {
        return Ok(None);
    }
    Ok(RecordCursor::resume(folder, progress.reading.clone())?.map(|cursor| (cursor, progress)))
}

/// Remembers how the files look that were read or passed over.
fn watch(
    transaction: &Transaction<'_>,
    folder: &Path,
    extent: &Extent,
    cursor: &RecordCursor,
) -> Result<(), Trouble> {
    let reached = cursor.position().segment;
    for number in extent.segments.iter().copied().filter(|number| *number <= reached) {
        let Some((bytes, modified)) = look(folder, number)? else { continue };
        let put = "INSERT INTO segments (number, bytes, modified_ns) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET bytes = ?2, modified_ns = ?3";
        transaction.prepare_cached(put)?.execute(params![
            stored_number(number),
            stored_number(bytes),
            modified
        ])?;
    }
    Ok(())
}

/// Whether the files up to the one that was read last are those that there were, and look as they did.
/// That one may have grown.
fn watched(
    transaction: &Transaction<'_>,
    folder: &Path,
    extent: &Extent,
    progress: &Progress,
) -> Result<bool, Trouble> {
    let mut statement =
        transaction.prepare_cached("SELECT number, bytes, modified_ns FROM segments ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut known = HashSet::new();
    while let Some(row) = rows.next()? {
        let (segment, bytes, modified) = (number(row.get(0)?), number(row.get(1)?), row.get::<_, i64>(2)?);
        known.insert(segment);
        let newest = segment == progress.reading.segment;
        let same = match look(folder, segment)? {
            // Retention records what it removes; of format 1 nothing does.
            None => extent.bounds.is_none_or(|bounds| segment < bounds.first),
            Some(now) if now == (bytes, modified) => true,
            Some((now, _)) if newest && now > bytes => true,
            Some((now, _)) if newest && now == bytes => progress.reading.still_holds(folder)?,
            Some(_) => false,
        };
        if !same {
            return Ok(false);
        }
    }
    // One that was put back, or put there, would be passed over.
    Ok(extent.segments.iter().all(|number| *number > progress.reading.segment || known.contains(number)))
}

/// How long a segment is and when it was changed; none if it is not there.
fn look(folder: &Path, number: u64) -> Result<Option<(u64, i64)>, LogError> {
    let path = segment::path(folder, number);
    match fs::metadata(&path) {
        Ok(about) if !about.is_file() => Ok(None),
        Ok(about) => {
            let modified = about.mtime().wrapping_mul(1_000_000_000).wrapping_add(about.mtime_nsec());
            Ok(Some((about.len(), modified)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::Io { path, source: error }),
    }
}

/// True when there may be more.
fn take_in(
    transaction: &Transaction<'_>,
    cursor: &mut RecordCursor,
    progress: &mut Progress,
    refreshed: &mut RefreshReport,
    sessions: &mut Sessions,
    extent: &Extent,
) -> Result<bool, Trouble> {
    let mut taken = 0;
    let mut more = true;
    while more && (taken < MAX_TRANSACTION_RECORDS || cursor.has_more_to_tell()) {
        taken += 1;
        let found = match cursor.next() {
            Ok(Some(found)) => found,
            Ok(None) => {
                more = false;
                continue;
            }
            Err(fault) => {
                if !faults::keep(transaction, &fault)? {
                    return Err(fault.into());
                }
                refreshed.faults.push(fault);
                continue;
            }
        };
        if found.at.offset == segment::HEAD_OFFSET {
            transaction
                .prepare_cached(
                    "INSERT INTO segments (number, run) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET run = ?2",
                )?
                .execute(params![stored_number(found.at.segment), cursor.run().map(stored_number)])?;
        }
        let text = cursor.text(&found);
        (progress.last, progress.checksum) = (found.at, crc32fast::hash(text));
        match stored::read(text) {
            Ok(Some(brief)) => {
                let complete =
                    cursor.run().is_some_and(|run| extent.bounds.is_some_and(|bounds| run >= bounds.first));
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                Arrival { brief, at: found.at, length, complete }.put(transaction, sessions)?;
                refreshed.entries += 1;
            }
            Ok(None) => unwritten(transaction, found.at, text)?,
            Err(reason) => {
                let fault = cursor.unreadable(&found, reason);
                faults::keep(transaction, &fault)?;
                refreshed.faults.push(fault);
            }
        }
    }
    progress.reading = cursor.reading();
    Ok(more)
}

/// Takes in which entries could not be written, if that is what the record is about.
fn unwritten(transaction: &Transaction<'_>, at: LogPosition, text: &[u8]) -> rusqlite::Result<()> {
    let Some(mark) = UnwrittenMark::read(text) else { return Ok(()) };
    for range in mark.entries {
        let (first, last) = (stored_number(range.first), stored_number(range.last));
        transaction
            .prepare_cached("INSERT OR REPLACE INTO unwritten VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![stored_number(at.segment), range.session, first, last])?;
    }
    Ok(())
}

/// Forgets the sessions that were opened in segments that are gone.
fn forget(transaction: &Transaction<'_>, first: u64) -> rusqlite::Result<()> {
    for table in ["gaps", "entries", "epochs", "steps", "calls"] {
        let gone = "SELECT number FROM sessions WHERE segment < ?1";
        transaction
            .execute(&format!("DELETE FROM {table} WHERE session IN ({gone})"), [stored_number(first)])?;
    }
    for table in ["sessions", "faults", "unwritten", "unopened"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE segment < ?1"), [stored_number(first)])?;
    }
    transaction.execute("DELETE FROM segments WHERE number < ?1", [stored_number(first)])?;
    Ok(())
}

fn load(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Progress>> {
    let read = "SELECT first, reading, last_segment, last_offset, checksum FROM progress";
    let progress = transaction.query_row(read, [], |row| {
        let Ok(reading) = serde_json::from_str(&row.get::<_, String>(1)?) else { return Ok(None) };
        Ok(Some(Progress {
            first: number(row.get(0)?),
            reading,
            last: LogPosition { segment: number(row.get(2)?), offset: number(row.get(3)?) },
            checksum: row.get(4)?,
        }))
    });
    Ok(progress.optional()?.flatten())
}

fn save(transaction: &Transaction<'_>, progress: &Progress) -> rusqlite::Result<()> {
    let Progress { first, reading, last, checksum } = progress;
    let reading = serde_json::to_string(reading)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction.execute(
        "INSERT OR REPLACE INTO progress VALUES (1, ?1, ?2, ?3, ?4, ?5)",
        params![
            stored_number(*first),
            reading,
            stored_number(last.segment),
            stored_number(last.offset),
            checksum
        ],
    )?;
    Ok(())
}

impl Arrival<'_> {
    fn put(&self, transaction: &Transaction<'_>, sessions: &mut Sessions) -> rusqlite::Result<()> {
        if self.brief.event == "opened" {
            self.opened(transaction, sessions)?;
        }
        // The session of an entry without an opening was opened in a segment that is gone.
        let Some(seen) = session(transaction, sessions, &self.brief.session)? else {
            return self.unopened(transaction);
        };
        let (brief, session) = (&self.brief, seen.number);
        if brief.seq > seen.last_seq + 1 {
            self.gap(transaction, seen)?;
        }
        transaction
            .prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                session,
                stored_number(brief.seq),
                stored_number(brief.epoch),
                brief.event,
                stored_number(self.at.segment),
                stored_number(self.at.offset),
                self.length
            ])?;
        let last_seq = brief.seq.max(seen.last_seq);
        let update = "UPDATE sessions SET last_us = ?2, last_seq = ?3, last_segment = ?4, last_offset = ?5
             WHERE number = ?1";
        transaction.prepare_cached(update)?.execute(params![
            session,
            stored_number(brief.time_us),
            stored_number(last_seq),
            stored_number(self.at.segment),
            stored_number(self.at.offset)
        ])?;
        if let Some(seen) = sessions.get_mut(&brief.session) {
            seen.last_seq = last_seq;
        }
        match brief.event.as_str() {
            "reset" => self.reset(transaction, session),
            "step" => self.step(transaction, session),
            "closed" => self.closed(transaction, session),
            _ => Ok(()),
        }
    }

    /// Entries are missing before this one, but for those that could not be written.
    fn gap(&self, transaction: &Transaction<'_>, seen: Seen) -> rusqlite::Result<()> {
        let find =
            "SELECT first, last FROM unwritten WHERE id = ?1 AND last >= ?2 AND first < ?3 ORDER BY first";
        let mut next = seen.last_seq + 1;
        let mut unwritten = 0;
        let mut statement = transaction.prepare_cached(find)?;
        let (id, seq) = (&self.brief.session, self.brief.seq);
        let mut rows = statement.query(params![id, stored_number(next), stored_number(seq)])?;
        while let Some(row) = rows.next()? {
            let (first, last) = (number(row.get(0)?).max(next), number(row.get(1)?).min(seq - 1));
            if first > next {
                holes::keep(transaction, seen.number, next..=first - 1, self.at)?;
            }
            unwritten += last + 1 - first;
            next = last + 1;
        }
        if next < seq {
            holes::keep(transaction, seen.number, next..=seq - 1, self.at)?;
        }
        let update = "UPDATE sessions SET unwritten = unwritten + ?2 WHERE number = ?1";
        transaction.prepare_cached(update)?.execute(params![seen.number, stored_number(unwritten)])?;
        Ok(())
    }

    /// Its opening is missing, unless retention has removed it or it could not be written.
    fn unopened(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        if !self.complete {
            return Ok(());
        }
        let insert = "INSERT OR IGNORE INTO unopened SELECT ?1, ?2, ?3, ?4
             WHERE NOT EXISTS (SELECT 1 FROM unwritten WHERE id = ?1 AND first = 0)";
        transaction.prepare_cached(insert)?.execute(params![
            self.brief.session,
            stored_number(self.at.segment),
            stored_number(self.at.offset),
            stored_number(self.brief.seq)
        ])?;
        Ok(())
    }

    fn opened(&self, transaction: &Transaction<'_>, sessions: &mut Sessions) -> rusqlite::Result<()> {
        let brief = &self.brief;
        if let Some(Seen { number: old, .. }) = session(transaction, sessions, &brief.session)? {
            for table in ["gaps", "entries", "epochs", "steps", "calls"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE session = ?1"), [old])?;
            }
            transaction.execute("DELETE FROM sessions WHERE number = ?1", [old])?;
        }
        let origin = brief.origin.as_ref();
        let insert =
            "INSERT INTO sessions (id, segment, environment, version, deterministic, seed, opened_us,
             last_us, origin_kind, origin_session, origin_seq, last_seq, last_segment, last_offset)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10, ?11, ?2, ?12)";
        transaction.prepare_cached(insert)?.execute(params![
            brief.session,
            stored_number(self.at.segment),
            brief.environment,
            brief.version,
            brief.deterministic,
            brief.seed.map(stored_number),
            stored_number(brief.time_us),
            origin.map(|origin| &origin.kind),
            origin.map(|origin| &origin.session_id),
            origin.map(|origin| stored_number(origin.seq)),
            stored_number(brief.seq),
            stored_number(self.at.offset),
        ])?;
        let seen = Seen { number: transaction.last_insert_rowid(), last_seq: brief.seq };
        sessions.insert(brief.session.clone(), seen);
        Ok(())
    }

    fn reset(&self, transaction: &Transaction<'_>, session: i64) -> rusqlite::Result<()> {
        let brief = &self.brief;
        if brief.failure.is_some() {
            return self.failed(transaction, session);
        }
        let insert = "INSERT OR REPLACE INTO epochs (session, epoch, seed, episode_id, began_us, done)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        transaction.prepare_cached(insert)?.execute(params![
            session,
            stored_number(brief.epoch),
            brief.seed.map(stored_number),
            brief.episode_id,
            stored_number(brief.time_us),
            brief.done == Some(true),
        ])?;
        let update = "UPDATE sessions SET epochs = epochs + 1, done = ?2 WHERE number = ?1";
        transaction.prepare_cached(update)?.execute(params![session, brief.done == Some(true)])?;
        Ok(())
    }

    fn step(&self, transaction: &Transaction<'_>, session: i64) -> rusqlite::Result<()> {
        let brief = &self.brief;
        let reward = brief.reward.map(Reward::as_f64);
        let failure = brief.failure.as_ref();
        let insert = "INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        transaction.prepare_cached(insert)?.execute(params![
            session,
            stored_number(brief.seq),
            stored_number(brief.epoch),
            brief.step.map(stored_number),
            brief.principal,
            reward,
            brief.done,
            failure.map(|failure| word(&failure.code)),
            failure.map(|failure| word(&failure.kind)),
            brief.duration_us.map(stored_number),
            stored_number(brief.time_us),
        ])?;
        self.calls(transaction, session)?;
        if failure.is_some() {
            return self.failed(transaction, session);
        }
        let (reward, done) = (reward.unwrap_or(0.0), brief.done == Some(true));
        let update =
            "UPDATE sessions SET steps = steps + 1, reward = reward + ?2, done = ?3 WHERE number = ?1";
        transaction.prepare_cached(update)?.execute(params![session, reward, done])?;
        let update = "UPDATE epochs SET steps = steps + 1, reward = reward + ?3, done = ?4
             WHERE session = ?1 AND epoch = ?2";
        transaction.prepare_cached(update)?.execute(params![
            session,
            stored_number(brief.epoch),
            reward,
            done
        ])?;
        Ok(())
    }

    fn calls(&self, transaction: &Transaction<'_>, session: i64) -> rusqlite::Result<()> {
        for (position, call) in (0_u32..).zip(&self.brief.calls) {
            let error = call.error.as_ref().map(|error| word(&error.error_type));
            transaction
                .prepare_cached("INSERT OR REPLACE INTO calls VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    session,
                    stored_number(self.brief.seq),
                    position,
                    call.id,
                    call.tool,
                    error
                ])?;
        }
        Ok(())
    }

    fn failed(&self, transaction: &Transaction<'_>, session: i64) -> rusqlite::Result<()> {
        let update = "UPDATE sessions SET failures = failures + 1 WHERE number = ?1";
        transaction.prepare_cached(update)?.execute([session])?;
        Ok(())
    }

    fn closed(&self, transaction: &Transaction<'_>, session: i64) -> rusqlite::Result<()> {
        let update = "UPDATE sessions SET closed_us = ?2, reason = ?3, counted = ?4 WHERE number = ?1";
        let (time, counted) = (stored_number(self.brief.time_us), self.brief.entries.map(stored_number));
        transaction.prepare_cached(update)?.execute(params![session, time, self.brief.reason, counted])?;
        Ok(())
    }
}

/// A session, if the index has it.
fn session(
    transaction: &Transaction<'_>,
    sessions: &mut Sessions,
    id: &str,
) -> rusqlite::Result<Option<Seen>> {
    if let Some(seen) = sessions.get(id) {
        return Ok(Some(*seen));
    }
    let find = "SELECT number, last_seq FROM sessions WHERE id = ?1";
    let seen = |row: &rusqlite::Row<'_>| Ok(Seen { number: row.get(0)?, last_seq: number(row.get(1)?) });
    let found = transaction.prepare_cached(find)?.query_row([id], seen).optional()?;
    if let Some(seen) = found {
        sessions.insert(id.to_owned(), seen);
    }
    Ok(found)
}

/// A code as it is spelled on the wire.
fn word(code: &impl serde::Serialize) -> String {
    serde_json::to_value(code).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
