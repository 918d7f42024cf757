//! Brings the index up to the log.
//!
//! Invariant: the index of a log is the same whether it was made at once or bit by bit. Where the log
//! is not what it was (a record that was read is gone), the index is made anew.

use std::collections::HashMap;
use std::path::Path;

use oxenv_wire::Reward;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Refreshed, schema};
use crate::error::LogError;
use crate::log::{Cursor, Position, segment};
use crate::stored::{self, Brief};

/// So many records are taken in before others may look.
const AT_ONCE: u64 = 50_000;

/// How far the index has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// The oldest segment.
    first: u64,
    /// Where to read on.
    next: Position,
    /// Where the last record that was read begins, to know it again.
    last: Position,
    /// What it was.
    checksum: u32,
}

/// What one record brings.
struct Arrival<'a> {
    brief: Brief<'a>,
    at: Position,
    /// Of its text.
    length: u32,
}

/// The numbers of sessions that were seen.
type Numbers = HashMap<String, i64>;

pub(super) fn refresh(connection: &mut Connection, folder: &Path) -> Result<Refreshed, LogError> {
    let mut refreshed = Refreshed::default();
    let mut numbers = Numbers::new();
    while !part(connection, folder, &mut refreshed, &mut numbers)? {}
    Ok(refreshed)
}

/// Takes in some records; true when there are no more.
fn part(
    connection: &mut Connection,
    folder: &Path,
    refreshed: &mut Refreshed,
    numbers: &mut Numbers,
) -> Result<bool, LogError> {
    let failed = || schema::fault(folder);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed())?;
    let Some(first) = segment::list(folder)?.first().copied() else {
        schema::clear(&transaction).map_err(failed())?;
        return transaction.commit().map_err(failed()).map(|()| true);
    };
    let progress = load(&transaction).map_err(failed())?;
    let (mut cursor, mut progress) = match progress.map(|progress| known(folder, progress)).transpose()? {
        Some(Some((cursor, progress))) => (cursor, progress),
        other => {
            refreshed.rebuilt |= other.is_some();
            numbers.clear();
            schema::clear(&transaction).map_err(failed())?;
            let next = Position { segment: first, offset: 0 };
            (Cursor::open(folder)?, Progress { first, next, last: Position::default(), checksum: 0 })
        }
    };
    if progress.first < first {
        numbers.clear();
        forget(&transaction, first).map_err(failed())?;
        progress.first = first;
    }
    let more = take_in(&transaction, &mut cursor, &mut progress, refreshed, numbers, folder)?;
    save(&transaction, &progress).map_err(failed())?;
    transaction.commit().map_err(failed())?;
    Ok(!more)
}

/// Where to read on, if the log still has the record that was read last.
fn known(folder: &Path, progress: Progress) -> Result<Option<(Cursor, Progress)>, LogError> {
    let at = progress.last;
    if at != Position::default() {
        let Some(mut cursor) = Cursor::open_at(folder, at)? else { return Ok(None) };
        match cursor.next() {
            Ok(Some(found))
                if found.at == at && crc32fast::hash(cursor.text(&found)) == progress.checksum => {}
            _ => return Ok(None),
        }
    }
    Ok(Cursor::open_at(folder, progress.next)?.map(|cursor| (cursor, progress)))
}

/// True when there may be more.
fn take_in(
    transaction: &Transaction<'_>,
    cursor: &mut Cursor,
    progress: &mut Progress,
    refreshed: &mut Refreshed,
    numbers: &mut Numbers,
    folder: &Path,
) -> Result<bool, LogError> {
    for _ in 0..AT_ONCE {
        let found = match cursor.next() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(fault @ LogError::Damaged { .. }) => {
                refreshed.faults.push(fault);
                progress.next = cursor.position();
                continue;
            }
            Err(error) => return Err(error),
        };
        let text = cursor.text(&found);
        (progress.last, progress.checksum) = (found.at, crc32fast::hash(text));
        match stored::read(text) {
            Ok(Some(brief)) => {
                let arrival =
                    Arrival { brief, at: found.at, length: u32::try_from(text.len()).unwrap_or(u32::MAX) };
                arrival.put(transaction, numbers).map_err(schema::fault(folder))?;
                refreshed.entries += 1;
            }
            Ok(None) => {}
            Err(reason) => refreshed.faults.push(cursor.unreadable(&found, reason)),
        }
        progress.next = cursor.position();
    }
    Ok(true)
}

/// Forgets the sessions that were opened in segments that are gone.
fn forget(transaction: &Transaction<'_>, first: u64) -> rusqlite::Result<()> {
    for table in ["entries", "epochs", "steps", "calls"] {
        let gone = "SELECT number FROM sessions WHERE segment < ?1";
        transaction
            .execute(&format!("DELETE FROM {table} WHERE session IN ({gone})"), [stored_number(first)])?;
    }
    transaction.execute("DELETE FROM sessions WHERE segment < ?1", [stored_number(first)])?;
    Ok(())
}

fn load(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Progress>> {
    let read = "SELECT first, segment, offset, last_segment, last_offset, checksum FROM progress";
    let progress = transaction.query_row(read, [], |row| {
        Ok(Progress {
            first: number(row.get(0)?),
            next: Position { segment: number(row.get(1)?), offset: number(row.get(2)?) },
            last: Position { segment: number(row.get(3)?), offset: number(row.get(4)?) },
            checksum: row.get(5)?,
        })
    });
    progress.optional()
}

fn save(transaction: &Transaction<'_>, progress: &Progress) -> rusqlite::Result<()> {
    let Progress { first, next, last, checksum } = *progress;
    transaction.execute(
        "INSERT OR REPLACE INTO progress VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            stored_number(first),
            stored_number(next.segment),
            stored_number(next.offset),
            stored_number(last.segment),
            stored_number(last.offset),
            checksum
        ],
    )?;
    Ok(())
}

/// SQLite has 64 bits with a sign: the same bits are kept.
pub(super) fn stored_number(number: u64) -> i64 {
    number.cast_signed()
}

/// The reverse.
pub(super) fn number(stored: i64) -> u64 {
    stored.cast_unsigned()
}

impl Arrival<'_> {
    fn put(&self, transaction: &Transaction<'_>, numbers: &mut Numbers) -> rusqlite::Result<()> {
        if self.brief.event == "opened" {
            self.opened(transaction, numbers)?;
        }
        // The session of an entry that nobody opened was opened in a segment that is gone.
        let Some(session) = session(transaction, numbers, &self.brief.session)? else { return Ok(()) };
        let brief = &self.brief;
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
        transaction
            .prepare_cached("UPDATE sessions SET last_us = ?2 WHERE number = ?1")?
            .execute(params![session, stored_number(brief.time_us)])?;
        match brief.event.as_str() {
            "reset" => self.reset(transaction, session),
            "step" => self.step(transaction, session),
            "closed" => self.closed(transaction, session),
            _ => Ok(()),
        }
    }

    fn opened(&self, transaction: &Transaction<'_>, numbers: &mut Numbers) -> rusqlite::Result<()> {
        let brief = &self.brief;
        if let Some(old) = session(transaction, numbers, &brief.session)? {
            for table in ["entries", "epochs", "steps", "calls"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE session = ?1"), [old])?;
            }
            transaction.execute("DELETE FROM sessions WHERE number = ?1", [old])?;
        }
        let origin = brief.origin.as_ref();
        let insert = "INSERT INTO sessions (id, segment, environment, version, deterministic, seed, opened_us,
             last_us, origin_kind, origin_session, origin_seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10)";
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
        ])?;
        numbers.insert(brief.session.clone(), transaction.last_insert_rowid());
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
        let update = "UPDATE sessions SET closed_us = ?2, reason = ?3 WHERE number = ?1";
        let time = stored_number(self.brief.time_us);
        transaction.prepare_cached(update)?.execute(params![session, time, self.brief.reason])?;
        Ok(())
    }
}

/// A session's number in the index.
fn session(transaction: &Transaction<'_>, numbers: &mut Numbers, id: &str) -> rusqlite::Result<Option<i64>> {
    if let Some(number) = numbers.get(id) {
        return Ok(Some(*number));
    }
    let find = "SELECT number FROM sessions WHERE id = ?1";
    let found = transaction.prepare_cached(find)?.query_row([id], |row| row.get(0)).optional()?;
    if let Some(number) = found {
        numbers.insert(id.to_owned(), number);
    }
    Ok(found)
}

/// A code as it is spelled on the wire.
fn word(code: &impl serde::Serialize) -> String {
    serde_json::to_value(code).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
