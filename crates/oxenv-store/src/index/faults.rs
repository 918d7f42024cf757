//! What of the record is missing or cannot be read, kept so that it is reported every time.
//!
//! Invariant: what was found while reading lasts as long as its segment is read from; what the bounds
//! and the end of the log say is looked at each time.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use super::schema::{number, stored_number};
use crate::error::{LogError, Unlisted};
use crate::log::bounds::{self, Extent};
use crate::log::{LogPosition, RecordCursor, segment};

/// A fault as the table has it.
#[derive(PartialEq, Eq, Hash)]
struct Row {
    /// The segment that it is about; of several that are missing, the first.
    segment: u64,
    offset: u64,
    kind: &'static str,
    /// How many bytes; of segments that are missing, the number of the last.
    bytes: u64,
    reason: String,
}

const DAMAGED: &str = "damaged";
const UNREADABLE: &str = "unreadable";
const CHANGED: &str = "changed";
const MISSING: &str = "missing";
const NO_BOUNDS: &str = "no bounds";
const BEFORE: &str = "before";
const BEHIND: &str = "behind";

/// Keeps what was found while reading. False if it is not a fault of the record.
pub(super) fn keep(transaction: &Transaction<'_>, fault: &LogError) -> rusqlite::Result<bool> {
    let Some(row) = Row::of(fault) else { return Ok(false) };
    row.put(transaction, true)?;
    Ok(true)
}

/// Looks at what can be seen at the end alone; returns what was not known.
pub(super) fn at_the_end(
    transaction: &Transaction<'_>,
    folder: &Path,
    extent: &Extent,
    cursor: &RecordCursor,
    last: LogPosition,
) -> rusqlite::Result<Vec<LogError>> {
    let file = |number| segment::path(folder, number);
    let mut faults: Vec<LogError> = extent
        .missing()
        .into_iter()
        .map(|gone| LogError::Missing { path: file(*gone.start()), last: file(*gone.end()) })
        .collect();
    faults.extend(cursor.wrong_end(extent.bounds));
    faults.extend(unlisted(folder, extent, last));
    // Format 1 has no bounds.
    if extent.bounds.is_none() && cursor.run().is_some() {
        faults.push(LogError::NoBounds { path: bounds::path(folder) });
    }
    let known: HashSet<Row> = rows(transaction, "WHERE lasting = 0")?.into_iter().collect();
    transaction.execute("DELETE FROM faults WHERE lasting = 0", [])?;
    let mut new = Vec::new();
    for fault in faults {
        let Some(row) = Row::of(&fault) else { continue };
        row.put(transaction, false)?;
        if !known.contains(&row) {
            new.push(fault);
        }
    }
    Ok(new)
}

/// The segments that are there and should not be. A new one is reported before anything but its beginning is
/// written, so `last`, the last record that was read, is looked at before the bounds.
fn unlisted(folder: &Path, extent: &Extent, last: LogPosition) -> Vec<LogError> {
    let fault = |number, reason| LogError::Unlisted { path: segment::path(folder, number), reason };
    let before = extent.before_first().map(|number| fault(number, Unlisted::Before));
    let mut faults: Vec<LogError> = before.collect();
    let Some(now) = bounds::read(folder) else { return faults };
    let is_begun = |number: u64| {
        number == now.last + 1
            && (last.segment < number || last.segment == number && last.offset <= segment::HEAD_OFFSET)
    };
    let behind = extent.segments.iter().copied().filter(|number| *number > now.last && !is_begun(*number));
    faults.extend(behind.map(|number| fault(number, Unlisted::Behind)));
    faults
}

/// Everything that is known, in the order of the log.
pub(super) fn all(connection: &Connection, folder: &Path) -> rusqlite::Result<Vec<LogError>> {
    let mut faults: Vec<LogError> = rows(connection, "")?.into_iter().map(|row| row.fault(folder)).collect();
    let find = "SELECT id, segment, offset, entries FROM unopened ORDER BY segment, offset";
    let mut statement = connection.prepare_cached(find)?;
    let unopened = statement.query_map([], |row| {
        Ok(LogError::NoOpening {
            path: segment::path(folder, number(row.get(1)?)),
            offset: number(row.get(2)?),
            session: row.get(0)?,
            entries: number(row.get(3)?),
        })
    })?;
    for fault in unopened {
        faults.push(fault?);
    }
    Ok(faults)
}

fn rows(connection: &Connection, which: &str) -> rusqlite::Result<Vec<Row>> {
    let find =
        format!("SELECT segment, offset, kind, bytes, reason FROM faults {which} ORDER BY segment, offset");
    let mut statement = connection.prepare_cached(&find)?;
    let rows = statement.query_map([], |row| {
        let kind: String = row.get(2)?;
        let kinds = [DAMAGED, UNREADABLE, CHANGED, MISSING, NO_BOUNDS, BEFORE, BEHIND];
        Ok(Row {
            segment: number(row.get(0)?),
            offset: number(row.get(1)?),
            kind: kinds.into_iter().find(|known| *known == kind).unwrap_or(DAMAGED),
            bytes: number(row.get(3)?),
            reason: row.get(4)?,
        })
    })?;
    rows.collect()
}

impl Row {
    /// None for what is not a fault of the record, but of reading it.
    fn of(fault: &LogError) -> Option<Row> {
        let segment = segment::number(fault.path()).unwrap_or(0);
        let row = |kind, offset, bytes, reason: &str| {
            Some(Row { segment, offset, kind, bytes, reason: reason.to_owned() })
        };
        match fault {
            LogError::Damaged { offset, bytes, .. } => row(DAMAGED, *offset, *bytes, ""),
            LogError::Unreadable { offset, reason, .. } => row(UNREADABLE, *offset, 0, reason),
            // Behind every entry of it, so that it is found by what comes after one.
            LogError::Changed { reason, .. } => row(CHANGED, i64::MAX as u64, 0, reason),
            LogError::Missing { last, .. } => row(MISSING, 0, segment::number(last).unwrap_or(segment), ""),
            LogError::NoBounds { .. } => row(NO_BOUNDS, 0, 0, ""),
            LogError::Unlisted { reason: Unlisted::Before, .. } => row(BEFORE, 0, 0, ""),
            LogError::Unlisted { reason: Unlisted::Behind, .. } => row(BEHIND, 0, 0, ""),
            _ => None,
        }
    }

    fn put(&self, transaction: &Transaction<'_>, lasting: bool) -> rusqlite::Result<()> {
        let insert = "INSERT OR REPLACE INTO faults VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        transaction.prepare_cached(insert)?.execute(params![
            stored_number(self.segment),
            stored_number(self.offset),
            self.kind,
            stored_number(self.bytes),
            self.reason,
            lasting,
        ])?;
        Ok(())
    }

    fn fault(self, folder: &Path) -> LogError {
        let Row { segment, offset, kind, bytes, reason } = self;
        let path = segment::path(folder, segment);
        match kind {
            UNREADABLE => LogError::Unreadable { path, offset, reason },
            CHANGED => LogError::Changed { path, reason },
            MISSING => LogError::Missing { path, last: segment::path(folder, bytes) },
            NO_BOUNDS => LogError::NoBounds { path: bounds::path(folder) },
            BEFORE => LogError::Unlisted { path, reason: Unlisted::Before },
            BEHIND => LogError::Unlisted { path, reason: Unlisted::Behind },
            _ => LogError::Damaged { path, offset, bytes },
        }
    }
}
