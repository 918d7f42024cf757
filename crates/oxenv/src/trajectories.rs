//! `oxenv trajectories`: recorded sessions listed, shown and exported.
//!
//! Invariant: nothing here changes a log; records of a folder and of a server look the same. Where
//! a record is incomplete is reported each time.

mod incomplete;
mod remote;
mod source;
mod table;
mod view;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use oxenv_core::utc_micros;
use oxenv_store::{LeftOut, LogError, SessionFilter, SessionSummary, Trajectories};
use oxenv_wire::preview;

use crate::client::ClientTokenArgs;
use crate::exit::usage;
use crate::output::print;
use crate::values::duration;
use remote::RemoteRecords;
use view::{EntryPage, SessionView};

pub(crate) use incomplete::Incomplete;
pub(crate) use source::RecordFolder;

/// Number of entries or sessions that are read at once.
const PAGE_ENTRIES: usize = 500;
/// A log with more entries is slow to read, so a note is printed if that has to be done each time.
const SLOW_READ_ENTRIES: u64 = 100_000;

#[derive(Args)]
#[command(after_help = "stderr lists what of a record is missing or damaged; the exit code is then 6.

Example:
  oxenv trajectories list records")]
pub(crate) struct TrajectoriesArgs {
    #[command(subcommand)]
    command: TrajectoriesCommand,
}

#[derive(Subcommand)]
enum TrajectoriesCommand {
    /// List recorded sessions, the oldest first.
    List(ListArgs),
    /// Show what a recorded session did.
    Show(ShowArgs),
    /// Export recorded sessions to other programs; those that cannot be read are listed on stderr.
    Export(ExportArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv trajectories list records
  oxenv trajectories list records --environment connect4 --since 2h
  oxenv trajectories list http://127.0.0.1:8000 --json")]
struct ListArgs {
    /// The folder of --record, or the URL of a server that records
    #[arg(value_name = "DIR|URL")]
    place: String,
    /// Only sessions of this environment
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Only sessions opened since this time: 2h for two hours ago, or 2026-11-21T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Maximum number of sessions to list
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: ClientTokenArgs,
}

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv trajectories show records SESSION
  oxenv trajectories show http://127.0.0.1:8000 SESSION --json")]
struct ShowArgs {
    /// The folder of --record, or the URL of a server that records
    #[arg(value_name = "DIR|URL")]
    place: String,
    /// The session's id
    session: String,
    /// Print everything as JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    token: ClientTokenArgs,
}

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv trajectories export records > sessions.jsonl
  oxenv trajectories export records --environment connect4 --out sessions.jsonl")]
struct ExportArgs {
    /// The folder of --record
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The file format
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Where to write [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only sessions of this environment
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Only sessions opened since this time: 2h for two hours ago, or 2026-11-21T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Maximum number of sessions to export
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object a line, one line a session.
    Jsonl,
    /// Rows of steps, as Parquet.
    #[cfg(feature = "parquet")]
    Parquet,
}

/// Where recorded sessions are.
enum RecordSource {
    Folder(RecordFolder),
    Server(RemoteRecords),
}

pub(crate) async fn run(args: &TrajectoriesArgs) -> anyhow::Result<()> {
    match &args.command {
        TrajectoriesCommand::List(args) => list(args).await,
        TrajectoriesCommand::Show(args) => show(args).await,
        TrajectoriesCommand::Export(args) => export(args),
    }
}

/// The records of a folder, with everything that was written to its log. Reports what is missing.
pub(crate) fn open(folder: &Path, incomplete: &mut Incomplete) -> anyhow::Result<Trajectories> {
    if !folder.is_dir() {
        return Err(usage(format!(
            "'{}' is no folder; name the one that was given to --record",
            folder.display()
        )));
    }
    let trajectories = Trajectories::open(folder).map_err(|error| usage(error.to_string()))?;
    let entries = trajectories.refresh()?.entries;
    if let Some(reason) = trajectories.in_memory().filter(|_| entries > SLOW_READ_ENTRIES) {
        let note =
            format!("note: the index cannot be kept ({reason}), so all {entries} entries are read each time");
        // There is no reader when stderr is gone.
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    trajectories.faults()?.iter().for_each(|fault| incomplete.record(fault));
    Ok(trajectories)
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut incomplete = Incomplete::default();
    let place = RecordSource::open(&args.place, args.token.token.as_deref(), &mut incomplete)?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut filter = SessionFilter {
        environment: args.environment.clone(),
        since_us: args.since,
        ..SessionFilter::default()
    };
    let mut sessions = Vec::new();
    while left > 0 {
        filter.limit = left.min(PAGE_ENTRIES);
        let page = place.sessions(&filter).await?;
        left -= page.len().min(left);
        let Some(last) = page.last().filter(|_| page.len() == filter.limit) else {
            sessions.extend(page);
            break;
        };
        filter.after = Some(last.session_id.clone());
        sessions.extend(page);
    }
    match args.json {
        true => sessions.iter().try_for_each(|session| print(&serde_json::to_string(session)?))?,
        false => print(&table::sessions(&sessions))?,
    }
    sessions.iter().for_each(|session| incomplete.holes(&session.session_id, &session.holes));
    Ok(incomplete.outcome()?)
}

async fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let mut incomplete = Incomplete::default();
    let place = RecordSource::open(&args.place, args.token.token.as_deref(), &mut incomplete)?;
    let session = place.session(&args.session).await?;
    let session = session.ok_or_else(|| incomplete.unknown(&args.session))?;
    print(&if args.json { serde_json::to_string(&session)? } else { table::head(&session) })?;
    incomplete.holes(&args.session, &session.holes);
    let mut after = None;
    loop {
        let page = match place.entries(&args.session, after, PAGE_ENTRIES).await {
            Err(error) if is_damage(&error) => {
                incomplete.session(&args.session, &error);
                break;
            }
            page => page?,
        };
        for entry in &page.entries {
            match args.json {
                true => print(&serde_json::to_string(entry)?)?,
                false => table::lines(entry).iter().try_for_each(|line| print(line))?,
            }
        }
        match page.next {
            next @ Some(_) => after = next,
            None => break,
        }
    }
    Ok(incomplete.outcome()?)
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let mut incomplete = Incomplete::default();
    let trajectories = open(&args.folder, &mut incomplete)?;
    let filter = SessionFilter {
        environment: args.environment.clone(),
        since_us: args.since,
        limit: args.limit.unwrap_or(usize::MAX),
        ..SessionFilter::default()
    };
    let mut out: Box<dyn Write + Send> = match &args.out {
        Some(path) => {
            let file = std::fs::File::create(path);
            Box::new(file.map_err(|error| usage(format!("cannot write '{}': {error}", path.display())))?)
        }
        None => Box::new(std::io::stdout()),
    };
    let written = match args.format {
        Format::Jsonl => {
            let mut lines = std::io::BufWriter::new(&mut out);
            oxenv_store::export_jsonl(&trajectories, &mut lines, &filter)
                .and_then(|written| lines.flush().map(|()| written).map_err(Into::into))
        }
        #[cfg(feature = "parquet")]
        Format::Parquet => oxenv_store::export_parquet(&trajectories, &mut out, &filter),
    };
    match written {
        // A reader that left, as `head` does, is no error of ours.
        Err(oxenv_store::ExportError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        written => {
            for LeftOut { session, why } in written?.left_out {
                incomplete.session(&session, &format_args!("it is left out: {why}"));
            }
            for session in sessions(&trajectories, filter)? {
                incomplete.holes(&session.id, &session.holes);
            }
            Ok(incomplete.outcome()?)
        }
    }
}

/// Every session that the filter lets through.
pub(crate) fn sessions(
    trajectories: &Trajectories,
    mut filter: SessionFilter,
) -> Result<Vec<SessionSummary>, LogError> {
    let mut left = filter.limit;
    let mut sessions: Vec<SessionSummary> = Vec::new();
    while left > 0 {
        filter.limit = left.min(PAGE_ENTRIES);
        let page = trajectories.sessions(&filter)?;
        left -= page.len().min(left);
        let full = page.len() == filter.limit;
        sessions.extend(page);
        match sessions.last().filter(|_| full) {
            Some(last) => filter.after = Some(last.id.clone()),
            None => break,
        }
    }
    Ok(sessions)
}

/// Whether something of the record is missing or damaged, rather than that it cannot be reached.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<LogError>().is_some_and(LogError::is_damage)
}

impl RecordSource {
    fn open(place: &str, token: Option<&str>, incomplete: &mut Incomplete) -> anyhow::Result<Self> {
        match place.contains("://") {
            true => Ok(RecordSource::Server(RemoteRecords::new(place, token)?)),
            false => Ok(RecordSource::Folder(RecordFolder::new(open(Path::new(place), incomplete)?))),
        }
    }

    async fn sessions(&self, filter: &SessionFilter) -> anyhow::Result<Vec<SessionView>> {
        match self {
            RecordSource::Folder(recorded) => Ok(recorded.sessions_in(filter)?),
            RecordSource::Server(remote) => remote.sessions(filter).await,
        }
    }

    async fn session(&self, id: &str) -> anyhow::Result<Option<SessionView>> {
        match self {
            RecordSource::Folder(recorded) => Ok(recorded.session_of(id)?),
            RecordSource::Server(remote) => remote.session(id).await.map(Some),
        }
    }

    async fn entries(&self, id: &str, after: Option<u64>, limit: usize) -> anyhow::Result<EntryPage> {
        match self {
            RecordSource::Folder(recorded) => Ok(recorded.entries_of(id, after, limit)?),
            RecordSource::Server(remote) => remote.entries(id, after, limit).await,
        }
    }
}

/// A point in time, or how long ago it was, as microseconds of UTC since 1970.
fn since(text: &str) -> Result<u64, String> {
    let time = match humantime::parse_rfc3339_weak(text) {
        Ok(time) => time,
        Err(_) => SystemTime::now()
            .checked_sub(
                duration(text)
                    .map_err(|_| format!("'{}': write 2h, or 2026-11-21T08:00:00Z", preview(text)))?,
            )
            .unwrap_or(SystemTime::UNIX_EPOCH),
    };
    Ok(utc_micros(time.max(SystemTime::UNIX_EPOCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1_000_000));
        let now = utc_micros(SystemTime::now());
        let ago = now - since("1h").unwrap();
        assert!((3_590_000_000..3_610_000_000).contains(&ago), "{ago}");
        assert!(since("soon").is_err());
    }
}
