//! The tables of the index.
//!
//! Invariant: an index of another version is thrown away and made anew, since the log has everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use crate::error::LogError;

/// The version of the tables.
const INDEX_VERSION: i64 = 1;
/// Another process may be busy with the index for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// An entry's place is where its record is in the log. Seeds are 64 bits without a sign, and stored
/// as the same bits with one.
const TABLES: &str = "
CREATE TABLE progress (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    first INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, segment INTEGER NOT NULL,
    environment TEXT NOT NULL, version TEXT NOT NULL, deterministic INTEGER NOT NULL, seed INTEGER NOT NULL,
    opened_us INTEGER NOT NULL, closed_us INTEGER, reason TEXT,
    origin_kind TEXT, origin_session TEXT, origin_seq INTEGER,
    epochs INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    reward REAL NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, last_us INTEGER NOT NULL
);
CREATE INDEX sessions_by_time ON sessions (opened_us);
CREATE INDEX sessions_by_environment ON sessions (environment, number);
CREATE TABLE entries (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, event TEXT NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
CREATE TABLE epochs (
    session INTEGER NOT NULL, epoch INTEGER NOT NULL, seed INTEGER NOT NULL, episode_id TEXT NOT NULL,
    began_us INTEGER NOT NULL, steps INTEGER NOT NULL DEFAULT 0, reward REAL NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session, epoch)
) WITHOUT ROWID;
CREATE TABLE steps (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    principal TEXT NOT NULL, reward REAL, done INTEGER, code TEXT, kind TEXT,
    duration_us INTEGER NOT NULL, time_us INTEGER NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
CREATE TABLE calls (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, position INTEGER NOT NULL,
    id TEXT, tool TEXT NOT NULL, error TEXT,
    PRIMARY KEY (session, seq, position)
) WITHOUT ROWID;
";

/// The index's file.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("index.sqlite")
}

/// What SQLite said, with the file.
pub(super) fn fault(folder: &Path) -> impl FnOnce(rusqlite::Error) -> LogError {
    let path = path(folder);
    move |error| LogError::Index { path, reason: error.to_string() }
}

/// Opens the index, and makes it anew where it cannot be used.
pub(super) fn open(folder: &Path) -> Result<Connection, LogError> {
    let about = fs::metadata(folder).map_err(LogError::io(folder))?;
    if !about.is_dir() {
        let source = std::io::ErrorKind::NotADirectory.into();
        return Err(LogError::Io { path: folder.to_owned(), source });
    }
    match connect(folder) {
        Ok(connection) => Ok(connection),
        Err(error) if is_damage(&error) => {
            tracing::warn!(index = %path(folder).display(), %error, "the index is damaged and is made anew");
            remove(folder)?;
            connect(folder).map_err(fault(folder))
        }
        Err(error) => Err(fault(folder)(error)),
    }
}

/// Empties the tables.
pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM progress; DELETE FROM sessions; DELETE FROM entries; DELETE FROM epochs;
         DELETE FROM steps; DELETE FROM calls; DELETE FROM sqlite_sequence;",
    )
}

fn connect(folder: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path(folder))?;
    connection.busy_timeout(PATIENCE)?;
    // What a crash of the machine takes from the index is read from the log again.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != INDEX_VERSION {
        drop_tables(&transaction)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", INDEX_VERSION)?;
    }
    transaction.commit()?;
    Ok(connection)
}

fn drop_tables(connection: &Connection) -> rusqlite::Result<()> {
    const NEXT: &str =
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' LIMIT 1";
    while let Some(name) = connection.query_row(NEXT, [], |row| row.get::<_, String>(0)).optional()? {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn remove(folder: &Path) -> Result<(), LogError> {
    for suffix in ["", "-wal", "-shm"] {
        let file = folder.join(format!("index.sqlite{suffix}"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LogError::Io { path: file, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}
