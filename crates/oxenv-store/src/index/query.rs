//! Questions to the index.
//!
//! Invariant: lists are asked for in pieces; what is not in the index (an entry's text) is read from
//! the log at the place that the index knows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::schema::{number, stored_number};
use super::{SessionFilter, SessionSummary, holes};
use crate::error::LogError;
use crate::log::{LogPosition, frame, segment};
use crate::stored::{self, StoredEntry, StoredOrigin};

/// Where an entry's record is, and how long its text is.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryLocation {
    at: LogPosition,
    length: u32,
}

const COLUMNS: &str =
    "id, environment, version, deterministic, seed, opened_us, closed_us, reason, origin_kind,
    origin_session, origin_seq, epochs, steps, failures, reward, done, last_us, unwritten, number";

pub(super) fn sessions(
    connection: &Connection,
    folder: &Path,
    filter: &SessionFilter,
) -> rusqlite::Result<Vec<SessionSummary>> {
    let after = match &filter.after {
        None => None,
        Some(id) => {
            let find = "SELECT number FROM sessions WHERE id = ?1";
            let found: Option<i64> =
                connection.prepare_cached(find)?.query_row([id], |row| row.get(0)).optional()?;
            // Nothing comes after a session that is not there.
            match found {
                None => return Ok(Vec::new()),
                found => found,
            }
        }
    };
    let (behind, order) = if filter.newest_first { ("<", "DESC") } else { (">", "ASC") };
    let find = format!(
        "SELECT {COLUMNS} FROM sessions WHERE (?1 IS NULL OR environment = ?1)
         AND (?2 IS NULL OR opened_us >= ?2)
         AND (?3 IS NULL OR opened_us < ?3) AND (?4 IS NULL OR done = ?4)
         AND (?5 IS NULL OR number {behind} ?5)
         ORDER BY number {order} LIMIT ?6"
    );
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&find)?;
    let rows = statement.query_map(
        params![
            filter.environment,
            filter.since_us.map(stored_number),
            filter.until_us.map(stored_number),
            filter.done,
            after,
            limit
        ],
        |row| summary(connection, folder, row),
    )?;
    rows.collect()
}

pub(super) fn session(
    connection: &Connection,
    folder: &Path,
    id: &str,
) -> rusqlite::Result<Option<SessionSummary>> {
    let find = format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1");
    connection.prepare_cached(&find)?.query_row([id], |row| summary(connection, folder, row)).optional()
}

pub(super) fn entry_locations(
    connection: &Connection,
    id: &str,
    from: u64,
    limit: usize,
) -> rusqlite::Result<Vec<EntryLocation>> {
    let find = "SELECT entries.segment, entries.offset, entries.length
        FROM entries JOIN sessions ON sessions.number = entries.session
        WHERE sessions.id = ?1 AND entries.seq >= ?2 ORDER BY entries.seq LIMIT ?3";
    let mut statement = connection.prepare_cached(find)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![id, stored_number(from), limit], |row| {
        let at = LogPosition { segment: number(row.get(0)?), offset: number(row.get(1)?) };
        Ok(EntryLocation { at, length: row.get(2)? })
    })?;
    rows.collect()
}

pub(super) fn entries(folder: &Arc<Path>, places: &[EntryLocation]) -> Result<Vec<StoredEntry>, LogError> {
    let mut open: Option<(u64, PathBuf, File)> = None;
    let mut buffer = Vec::new();
    let mut entries = Vec::with_capacity(places.len());
    for place in places {
        if open.as_ref().is_none_or(|(segment, ..)| *segment != place.at.segment) {
            let path = segment::path(folder, place.at.segment);
            let file = File::open(&path).map_err(LogError::io(&path))?;
            open = Some((place.at.segment, path, file));
        }
        let Some((_, path, file)) = &open else { continue };
        buffer.resize(frame::framed(place.length as usize), 0);
        file.read_exact_at(&mut buffer, place.at.offset).map_err(LogError::io(path))?;
        let (offset, bytes) = (place.at.offset, buffer.len() as u64);
        let Some(text) = frame::only(&buffer) else {
            return Err(LogError::Damaged { path: path.clone(), offset, bytes });
        };
        let unreadable = |reason| LogError::Unreadable { path: path.clone(), offset, reason };
        let brief = stored::read(text).map_err(unreadable)?;
        entries.extend(brief.map(|brief| brief.entry(folder)).transpose().map_err(unreadable)?);
    }
    Ok(entries)
}

fn summary(connection: &Connection, folder: &Path, row: &Row<'_>) -> rusqlite::Result<SessionSummary> {
    let origin = match row.get::<_, Option<String>>(8)? {
        None => None,
        Some(kind) => Some(StoredOrigin { kind, session_id: row.get(9)?, seq: number(row.get(10)?) }),
    };
    Ok(SessionSummary {
        id: row.get(0)?,
        environment: row.get(1)?,
        version: row.get(2)?,
        deterministic: row.get(3)?,
        seed: number(row.get(4)?),
        opened_us: number(row.get(5)?),
        closed_us: row.get::<_, Option<i64>>(6)?.map(number),
        reason: row.get(7)?,
        origin,
        epochs: number(row.get(11)?),
        steps: number(row.get(12)?),
        failures: number(row.get(13)?),
        reward: row.get(14)?,
        done: row.get(15)?,
        last_us: number(row.get(16)?),
        unwritten: number(row.get(17)?),
        holes: holes::of(connection, folder, row.get(18)?)?,
    })
}
