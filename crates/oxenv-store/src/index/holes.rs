//! What of a session is missing from the record, or may be.
//!
//! Invariant: a session without a hole has every entry that was acknowledged, as far as the log
//! shows; `docs/records.md` describes how far that is.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::schema::{number, stored_number};
use crate::log::{LogPosition, segment};

/// What of a session is missing, or may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hole {
    /// Entries are missing. In format 1 they may be such as could not be written.
    Entries {
        /// The number of the first one.
        first: u64,
        /// The number of the last one.
        last: u64,
        /// Where the entry before them is.
        after: Location,
        /// Where the entry behind them is.
        before: Location,
    },
    /// The session has no end, and behind its last entry something cannot be read that may be of it.
    End {
        /// The number of its last entry.
        last: u64,
        /// What cannot be read.
        unreadable: Location,
    },
    /// The entry of its end counted more entries before it.
    Count {
        /// How many it counted.
        counted: u64,
        /// How many there are.
        found: u64,
    },
    /// A file with entries of it is not as it was when its writer left it.
    Changed {
        /// The file's name.
        file: String,
    },
}

/// A place in a segment, or a segment as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The name of the segment's file.
    pub file: String,
    /// Bytes from its beginning; 0 for all of it.
    pub offset: u64,
}

/// Keeps that entries are missing between two others.
pub(super) fn keep(
    transaction: &Transaction<'_>,
    session: i64,
    missing: RangeInclusive<u64>,
    before: LogPosition,
) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO gaps
        SELECT ?1, ?2, ?3, last_segment, last_offset, ?4, ?5 FROM sessions WHERE number = ?1";
    transaction.prepare_cached(insert)?.execute(params![
        session,
        stored_number(*missing.start()),
        stored_number(*missing.end()),
        stored_number(before.segment),
        stored_number(before.offset),
    ])?;
    Ok(())
}

/// The holes of a session.
pub(super) fn of(connection: &Connection, folder: &Path, session: i64) -> rusqlite::Result<Vec<Hole>> {
    let mut holes = gaps(connection, folder, session)?;
    holes.extend(count(connection, session)?);
    holes.extend(changed(connection, folder, session)?);
    holes.extend(end(connection, folder, session)?);
    Ok(holes)
}

fn gaps(connection: &Connection, folder: &Path, session: i64) -> rusqlite::Result<Vec<Hole>> {
    let find = "SELECT first, last, after_segment, after_offset, before_segment, before_offset
        FROM gaps WHERE session = ?1 ORDER BY first";
    let mut statement = connection.prepare_cached(find)?;
    let rows = statement.query_map([session], |row| {
        Ok(Hole::Entries {
            first: number(row.get(0)?),
            last: number(row.get(1)?),
            after: location(folder, number(row.get(2)?), number(row.get(3)?)),
            before: location(folder, number(row.get(4)?), number(row.get(5)?)),
        })
    })?;
    rows.collect()
}

fn count(connection: &Connection, session: i64) -> rusqlite::Result<Option<Hole>> {
    let find = "SELECT counted, last_seq FROM sessions
        WHERE number = ?1 AND counted IS NOT NULL AND counted != last_seq";
    let mut statement = connection.prepare_cached(find)?;
    let hole = |row: &rusqlite::Row<'_>| {
        Ok(Hole::Count { counted: number(row.get(0)?), found: number(row.get(1)?) })
    };
    statement.query_row([session], hole).optional()
}

fn changed(connection: &Connection, folder: &Path, session: i64) -> rusqlite::Result<Vec<Hole>> {
    let find = "SELECT segment FROM faults WHERE kind = 'changed' AND EXISTS
        (SELECT 1 FROM entries WHERE entries.session = ?1 AND entries.segment = faults.segment)";
    let mut statement = connection.prepare_cached(find)?;
    let rows = statement.query_map([session], |row| {
        Ok(Hole::Changed { file: location(folder, number(row.get(0)?), 0).file })
    })?;
    rows.collect()
}

/// A session is written by one writer alone, so entries of other writers are not its own.
fn end(connection: &Connection, folder: &Path, session: i64) -> rusqlite::Result<Option<Hole>> {
    let find = "SELECT sessions.last_seq, faults.segment,
        CASE faults.kind WHEN 'changed' THEN 0 ELSE faults.offset END FROM sessions JOIN faults
        WHERE sessions.number = ?1 AND sessions.closed_us IS NULL AND
         faults.kind NOT IN ('no bounds', 'before', 'behind')
        AND (faults.segment, faults.offset) > (sessions.last_segment, sessions.last_offset)
        AND (SELECT run FROM segments WHERE number <= faults.segment AND run IS NOT NULL
                ORDER BY number DESC LIMIT 1)
            IS (SELECT run FROM segments WHERE number <= sessions.segment AND run IS NOT NULL
                ORDER BY number DESC LIMIT 1)
        ORDER BY faults.segment, faults.offset LIMIT 1";
    let mut statement = connection.prepare_cached(find)?;
    let hole = |row: &rusqlite::Row<'_>| {
        let unreadable = location(folder, number(row.get(1)?), number(row.get(2)?));
        Ok(Hole::End { last: number(row.get(0)?), unreadable })
    };
    statement.query_row([session], hole).optional()
}

fn location(folder: &Path, number: u64, offset: u64) -> Location {
    let path = segment::path(folder, number);
    Location { file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), offset }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => write!(f, "'{}'", self.file),
            offset => write!(f, "byte {offset} of '{}'", self.file),
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hole::Entries { first, last, after, before } => {
                if first == last {
                    write!(f, "entry {first} is missing")?;
                } else {
                    write!(f, "entries {first} to {last} are missing")?;
                }
                write!(f, " between {after} and {before}")
            }
            Hole::End { last, unreadable } => {
                write!(f, "what came after entry {last} may be missing: {unreadable} cannot be read")
            }
            Hole::Count { counted, found } => {
                let before = crate::error::counted(*counted, "entry", "entries");
                let are = if *found == 1 { "is" } else { "are" };
                write!(f, "its end counted {before} before it, and there {are} {found}")
            }
            Hole::Changed { file } => write!(f, "'{file}' is not the file that was written"),
        }
    }
}
