//! The databases of an instance: `current`, which the episode changes, and `seed`, which is as the episode
//! began.
//!
//! Invariant: a query that is no longer awaited is interrupted, so that no thread is left behind; none
//! reaches a file of this machine.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, Value as Sql, ValueRef};
use rusqlite::{Connection, InterruptHandle, Row, params_from_iter};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The longest that a query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
    CREATE TABLE issues (id INTEGER PRIMARY KEY, title TEXT NOT NULL, status TEXT NOT NULL, assignee TEXT);
    CREATE TABLE comments (id INTEGER PRIMARY KEY, issue_id INTEGER NOT NULL, text TEXT NOT NULL);
";
const SUBJECTS: [&str; 8] = [
    "The login",
    "The search",
    "The export",
    "The invoice",
    "The chart",
    "The upload",
    "The filter",
    "The import",
];
const TROUBLES: [&str; 6] =
    ["is slow", "loses a row", "shows a wrong date", "fails twice", "needs a test", "has no title"];
const PEOPLE: [&str; 4] = ["ada", "grace", "edsger", "barbara"];

/// The body of a query.
#[derive(Deserialize)]
pub(super) struct QueryBody {
    pub(super) query: String,
    pub(super) args: Option<Vec<Value>>,
    pub(super) read_only: Option<bool>,
}

/// Both databases.
pub(super) struct Databases {
    current: Arc<Database>,
    seed: Arc<Database>,
}

struct Database {
    connection: Mutex<Connection>,
    interrupt: InterruptHandle,
    writable: bool,
}

impl Databases {
    pub(super) fn new(seed: i64) -> rusqlite::Result<Self> {
        Ok(Databases { current: Database::new(true, seed)?, seed: Database::new(false, seed)? })
    }

    fn named(&self, name: &str) -> Option<&Arc<Database>> {
        match name {
            "current" => Some(&self.current),
            "seed" => Some(&self.seed),
            _ => None,
        }
    }

    /// Fills both databases from a seed.
    pub(super) async fn reset(&self, seed: i64) -> rusqlite::Result<()> {
        for database in [&self.current, &self.seed] {
            database.on_thread(move |connection| seed_database(connection, seed)).await?;
        }
        Ok(())
    }

    /// The tables of one of them.
    pub(super) async fn describe(&self, name: &str) -> Option<Value> {
        let tables = self.named(name)?.on_thread(|connection| describe_tables(connection)).await;
        Some(match tables {
            Ok(tables) => json!({"success": true, "resource_name": name, "tables": tables, "error": null,
                "message": "Schema described"}),
            Err(error) => json!({"success": false, "resource_name": name, "tables": null,
                "error": error.to_string(), "message": "Schema not described"}),
        })
    }

    /// Does a query in one of them.
    pub(super) async fn query(&self, name: &str, query: QueryBody) -> Option<Value> {
        let database = self.named(name)?;
        let read_only = query.read_only.unwrap_or(true) || !database.writable;
        let work = move |connection: &mut Connection| {
            let outcome = run_query(connection, &query, read_only);
            // A transaction does not go beyond its query: a reset could not begin one.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            outcome
        };
        let outcome = database.on_thread(work).await;
        Some(outcome.unwrap_or_else(|error| {
            json!({"success": false, "columns": null, "rows": null, "rows_affected": null,
                "last_insert_id": null,
                "error": error.to_string(), "message": "Query failed"})
        }))
    }

    /// Does a statement of ours in `current`.
    pub(super) async fn execute(&self, sql: &'static str, args: Vec<Value>) -> rusqlite::Result<Vec<Value>> {
        self.current.on_thread(move |connection| query_objects(connection, sql, &args)).await
    }

    /// All that is in them, so that another process can have them.
    pub(super) async fn contents(&self) -> rusqlite::Result<Value> {
        let (before, after) =
            (self.seed.on_thread(dump_tables).await?, self.current.on_thread(dump_tables).await?);
        Ok(json!({"seed": before, "current": after}))
    }
}

impl Database {
    fn new(writable: bool, seed: i64) -> rusqlite::Result<Arc<Self>> {
        let mut connection = Connection::open_in_memory()?;
        connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
            AuthAction::Attach { .. } => Authorization::Deny,
            _ => Authorization::Allow,
        }))?;
        seed_database(&mut connection, seed)?;
        let interrupt = connection.get_interrupt_handle();
        Ok(Arc::new(Database { connection: Mutex::new(connection), interrupt, writable }))
    }

    async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let turn = Arc::new(Mutex::new(JobState::Queued));
        let _caller = InterruptOnDrop { database: Arc::clone(self), state: Arc::clone(&turn) };
        let database = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = database.connection.lock();
            if std::mem::replace(&mut *turn.lock(), JobState::Running) == JobState::Done {
                return Err(interrupted());
            }
            let outcome = work(&mut connection);
            *turn.lock() = JobState::Done;
            outcome
        });
        match tokio::time::timeout(QUERY_TIMEOUT, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(interrupted()),
        }
    }
}

/// The state of a job on a database thread.
#[derive(PartialEq)]
enum JobState {
    Queued,
    Running,
    Done,
}

/// Interrupts its job when it is dropped, and no other job.
struct InterruptOnDrop {
    database: Arc<Database>,
    state: Arc<Mutex<JobState>>,
}

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        let mut turn = self.state.lock();
        if *turn == JobState::Running {
            self.database.interrupt.interrupt();
        }
        *turn = JobState::Done;
    }
}

fn interrupted() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
    rusqlite::Error::SqliteFailure(code, Some("interrupted".to_owned()))
}

/// Empties the database and puts in the seed's content.
fn seed_database(connection: &mut Connection, seed: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for SchemaObject { is_table, name, .. } in schema_objects(&transaction)? {
        let kind = if is_table { "TABLE" } else { "VIEW" };
        transaction.execute(&format!("DROP {kind} \"{}\"", name.replace('"', "\"\"")), [])?;
    }
    transaction.execute_batch(SCHEMA)?;
    // Knuth's MMIX generator: the same rows on every machine.
    let mut state = seed.cast_unsigned();
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % bound
    };
    for _ in 0..5 {
        let title = format!("{} {}", SUBJECTS[next(SUBJECTS.len())], TROUBLES[next(TROUBLES.len())]);
        let assignee = PEOPLE[next(PEOPLE.len())];
        transaction.execute(
            "INSERT INTO issues (title, status, assignee) VALUES (?, 'open', ?)",
            [title.as_str(), assignee],
        )?;
    }
    transaction.commit()
}

/// A view or a table.
struct SchemaObject {
    is_table: bool,
    name: String,
    sql: String,
}

/// All views, then all tables.
fn schema_objects(connection: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let mut statement = connection.prepare(
        "SELECT type = 'table', name, sql FROM sqlite_schema
         WHERE type IN ('view', 'table') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY type DESC, rowid",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(SchemaObject { is_table: row.get(0)?, name: row.get(1)?, sql: row.get(2)? })
    })?;
    rows.collect()
}

fn user_tables(connection: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    Ok(schema_objects(connection)?.into_iter().filter(|object| object.is_table).collect())
}

fn describe_tables(connection: &Connection) -> rusqlite::Result<Vec<Value>> {
    let described = user_tables(connection)?.into_iter().map(|SchemaObject { name, sql, .. }| {
        let columns = query_objects(connection, "SELECT * FROM pragma_table_info(?)", &[json!(name)])?;
        Ok(json!({"name": name, "sql": sql, "columns": columns}))
    });
    described.collect()
}

fn dump_tables(connection: &mut Connection) -> rusqlite::Result<Vec<Value>> {
    let tables = user_tables(connection)?.into_iter().map(|SchemaObject { name, sql, .. }| {
        let mut statement =
            connection.prepare(&format!("SELECT * FROM \"{}\"", name.replace('"', "\"\"")))?;
        let rows = query_rows(&mut statement, &[])?;
        Ok(json!({"name": name, "sql": sql, "rows": rows}))
    });
    tables.collect()
}

fn run_query(connection: &Connection, query: &QueryBody, read_only: bool) -> rusqlite::Result<Value> {
    let mut statement = connection.prepare(&query.query)?;
    if read_only && !statement.readonly() {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        let why = "attempt to write a readonly database".to_owned();
        return Err(rusqlite::Error::SqliteFailure(code, Some(why)));
    }
    let args = query.args.as_deref().unwrap_or_default();
    let writes = !statement.readonly();
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = query_rows(&mut statement, args)?;
    let (affected, last) = (connection.changes(), connection.last_insert_rowid());
    Ok(json!({
        "success": true, "columns": columns, "rows": rows, "rows_affected": if writes { affected } else { 0 },
        "last_insert_id": writes.then_some(last), "error": null, "message": "Query executed",
    }))
}

/// Rows as objects.
fn query_objects(connection: &Connection, sql: &str, args: &[Value]) -> rusqlite::Result<Vec<Value>> {
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let objects = query_rows(&mut statement, args)?.into_iter().map(|row| {
        let pairs: Map<String, Value> = names.iter().cloned().zip(row).collect();
        Value::Object(pairs)
    });
    Ok(objects.collect())
}

fn query_rows(statement: &mut rusqlite::Statement<'_>, args: &[Value]) -> rusqlite::Result<Vec<Vec<Value>>> {
    let width = statement.column_count();
    let cells = |row: &Row<'_>| (0..width).map(|at| row.get_ref(at).map(to_json)).collect();
    let rows = statement.query_map(params_from_iter(args.iter().map(to_sql)), cells)?;
    rows.collect()
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

fn to_sql(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Owned(match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer((*flag).into()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Sql::Integer(number),
            None => Sql::Real(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Sql::Text(text.clone()),
        other => Sql::Text(other.to_string()),
    })
}
