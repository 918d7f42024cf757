//! `oxenv replay`: runs recorded sessions again and compares every byte.
//!
//! Invariant: everything replayed is recorded again, by the same path, and the two records are
//! compared; nothing of the record that is replayed changes.

mod compare;
mod environment;
mod session;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use oxenv_store::{Hole, SessionFilter, Trajectories};
use serde::Serialize;

use crate::assemble::ToolArgs;
use crate::code::CodeArgs;
use crate::exit::Problem;
use crate::output::print;
use crate::registry;
use crate::rubrics::RubricArgs;
use crate::signals::EndSignals;
use crate::trajectories::{self, Incomplete, is_damage};
use environment::ReplayOptions;

pub(crate) use environment::{Folder, ReplayEnvironment, remember_entry};

#[derive(Args)]
#[command(after_help = "\
Tools of other servers, and those of environments that do not promise to be deterministic, are
answered from the record: the replay then proves everything but those answers. --live calls them.
Sessions of a manifest, with a rubric or with programs need the flags they were served with; those of
an environment written in Python need --environment with what was served, and its flags.

Exit codes: 0 if all were the same, 1 if not, 5 if a signal ended it before,
6 if some could not be compared because the record is incomplete.

Examples:
  oxenv replay records                      every session
  oxenv replay records SESSION --json
  oxenv replay records --tools tools.yaml   sessions of a manifest
  oxenv replay records --environment my_env sessions of an environment written in Python
  oxenv replay records --environment connect4 --rubric rubric.toml")]
pub(crate) struct ReplayArgs {
    /// The folder of --record
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Which sessions [default: all]
    #[arg(value_name = "SESSION")]
    sessions: Vec<String>,
    /// The environment to run [default: the one that the record names]
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    #[command(flatten)]
    tools: ToolArgs,
    #[command(flatten)]
    rubric: RubricArgs,
    #[command(flatten)]
    code: CodeArgs,
    /// Call the tools, instead of answering from the record
    #[arg(long)]
    live: bool,
    /// Print JSON, one object a session
    #[arg(long)]
    json: bool,
}

/// The outcome of replaying a session.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Every byte was the same.
    Same {
        /// How many resets and steps were compared.
        entries: u64,
        /// How many were not, because they had been cut off from outside.
        #[serde(skip_serializing_if = "is_zero")]
        cut_off: u64,
        /// How many could not be written when they happened; their callers were informed.
        #[serde(skip_serializing_if = "is_zero")]
        unwritten: u64,
    },
    /// Every byte was the same of what the record has; it is not complete.
    Incomplete {
        /// How many resets and steps were compared.
        entries: u64,
        /// What is missing of it, or of what it was made from.
        holes: Vec<SessionHole>,
    },
    /// Something was not.
    Differs {
        /// The number of the first entry that was not.
        seq: u64,
        /// What was seen.
        what: String,
        /// The record's side of it.
        recorded: String,
        /// The other side.
        replayed: String,
    },
    /// It cannot be done again.
    CannotBeReplayed {
        /// Why.
        why: String,
        /// Whether that is because the record cannot be read.
        #[serde(skip)]
        damaged: bool,
    },
}

/// Something that is missing of a session.
#[derive(Debug, Serialize)]
pub(crate) struct SessionHole {
    pub(crate) session_id: String,
    #[serde(flatten)]
    pub(crate) hole: Hole,
}

#[derive(Serialize)]
struct ReplayLine<'a> {
    session_id: &'a str,
    environment: &'a str,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

/// Replays. A signal ends it, and what it has made goes.
pub(crate) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let mut signals = EndSignals::new()?;
    tokio::select! {
        outcome = replay(args) => outcome,
        () = signals.next() => Err(Problem::Interrupted.into()),
    }
}

async fn replay(args: ReplayArgs) -> anyhow::Result<()> {
    let mut incomplete = Incomplete::default();
    let trajectories = trajectories::open(&args.folder, &mut incomplete)?;
    if let Some(unknown) = unknown(&trajectories, &args.sessions)? {
        return Err(incomplete.unknown(unknown));
    }
    let ids =
        chosen(&trajectories, &args.sessions, args.environment.as_deref(), args.tools.manifest.is_some())?;
    let rubric = RubricArgs { only_recorded: !args.live, ..args.rubric };
    let given = ReplayOptions {
        environment: args.environment,
        tools: args.tools,
        rubric,
        code: args.code,
        live: args.live,
    };
    let (total, mut same, mut lacking) = (ids.len() as u64, 0, 0);
    let mut replayer = Replayer::new(&trajectories, given);
    for (index, id) in ids.iter().enumerate() {
        progress(index, ids.len());
        let (environment, verdict) = replayer.replay(id).await?;
        progress_over();
        if let Some(session) = trajectories.session(id)? {
            incomplete.holes(id, &session.holes);
        }
        match &verdict {
            Verdict::Same { .. } => same += 1,
            Verdict::Incomplete { holes, .. } => {
                lacking += 1;
                for SessionHole { session_id, hole } in holes.iter().filter(|hole| hole.session_id != *id) {
                    incomplete.session(session_id, hole);
                }
            }
            Verdict::CannotBeReplayed { why, damaged: true } => {
                lacking += 1;
                incomplete.session(id, why);
            }
            Verdict::CannotBeReplayed { .. } | Verdict::Differs { .. } => {}
        }
        let line = ReplayLine { session_id: id, environment: &environment, verdict: &verdict };
        print(&if args.json { serde_json::to_string(&line)? } else { text_line(&line) })?;
    }
    replayer.close().await;
    if total == 0 {
        incomplete.outcome()?;
        bail!("no session of '{}' was chosen, so nothing was replayed", args.folder.display());
    }
    if !args.json {
        let lacking = if lacking > 0 { format!(", {lacking} incomplete or damaged") } else { String::new() };
        print(&format!("{same} of {total} the same{lacking}"))?;
    }
    let other = total - same - lacking;
    if other > 0 {
        bail!("{other} of {total} sessions were not the same");
    }
    Ok(incomplete.outcome()?)
}

/// Does sessions of one record again, with an environment of each kind that is made once.
pub(crate) struct Replayer<'a> {
    trajectories: &'a Trajectories,
    given: ReplayOptions,
    environments: BTreeMap<String, Result<ReplayEnvironment, String>>,
}

impl<'a> Replayer<'a> {
    pub(crate) fn new(trajectories: &'a Trajectories, given: ReplayOptions) -> Self {
        Replayer { trajectories, given, environments: BTreeMap::new() }
    }

    /// Replays a session with an environment that is there already.
    pub(crate) fn on(trajectories: &'a Trajectories, environment: ReplayEnvironment) -> Self {
        let environments = BTreeMap::from([(environment.name().to_owned(), Ok(environment))]);
        Replayer { trajectories, given: ReplayOptions::default(), environments }
    }

    /// Returns the environment's name, and the outcome.
    ///
    /// # Errors
    /// When the record cannot be read at all.
    pub(crate) async fn replay(&mut self, id: &str) -> anyhow::Result<(String, Verdict)> {
        let cannot = |environment: &str, why: String| {
            Ok((environment.to_owned(), Verdict::CannotBeReplayed { why, damaged: false }))
        };
        let unreadable = |environment: &str, error: anyhow::Error| match is_damage(&error) {
            true => {
                let verdict = Verdict::CannotBeReplayed { why: error.to_string(), damaged: true };
                Ok((environment.to_owned(), verdict))
            }
            false => Err(error),
        };
        let chain = match session::chain(self.trajectories, id) {
            Ok(Ok(chain)) => chain,
            Ok(Err(session::Unknown { why, damaged })) => {
                return Ok((String::new(), Verdict::CannotBeReplayed { why, damaged }));
            }
            Err(error) => return unreadable("", error),
        };
        let environment = chain[0].environment.clone();
        if !self.environments.contains_key(&environment) {
            let opened = ReplayEnvironment::open(&self.given, &environment, self.trajectories).await;
            self.environments.insert(environment.clone(), opened.map_err(|error| format!("{error:#}")));
        }
        match self.environments.get_mut(&environment) {
            Some(Ok(opened)) => match session::replay(opened, &chain).await {
                Ok(verdict) => Ok((environment, verdict.with_holes(&chain))),
                Err(error) => unreadable(&environment, error),
            },
            Some(Err(why)) => cannot(&environment, why.clone()),
            None => cannot(&environment, "its environment is not there".to_owned()),
        }
    }

    pub(crate) async fn close(self) {
        for environment in self.environments.into_values().flatten() {
            environment.close().await;
        }
    }
}

impl Verdict {
    /// Equal entries of an incomplete record do not prove the whole.
    fn with_holes(self, chain: &[session::ReplayedSession]) -> Verdict {
        let Verdict::Same { entries, .. } = self else { return self };
        let holes: Vec<SessionHole> = chain
            .iter()
            .flat_map(|link| {
                let session_id =
                    |hole: &Hole| SessionHole { session_id: link.id.clone(), hole: hole.clone() };
                link.holes.iter().map(session_id)
            })
            .collect();
        if holes.is_empty() { self } else { Verdict::Incomplete { entries, holes } }
    }
}

/// The sessions to replay. A bundled environment chooses its own; the record does not have what others are
/// named by here.
fn chosen(
    trajectories: &Trajectories,
    named: &[String],
    environment: Option<&str>,
    has_manifest: bool,
) -> anyhow::Result<Vec<String>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let is_bundled = |name: &&str| registry::bundled(name).is_some() && !Path::new(name).exists();
    let environment = environment.filter(|name| !has_manifest && is_bundled(name)).map(str::to_owned);
    let filter = SessionFilter { environment, limit: usize::MAX, ..SessionFilter::default() };
    Ok(trajectories::sessions(trajectories, filter)?.into_iter().map(|session| session.id).collect())
}

fn unknown<'a>(trajectories: &Trajectories, named: &'a [String]) -> anyhow::Result<Option<&'a String>> {
    for id in named {
        if trajectories.session(id)?.is_none() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn text_line(line: &ReplayLine<'_>) -> String {
    let ReplayLine { session_id, environment, verdict } = line;
    match verdict {
        Verdict::Same { entries, cut_off, unwritten } => {
            let but = |count: &u64, what: &str| match count {
                0 => String::new(),
                count => format!(", {count} that {what}"),
            };
            let (cut_off, unwritten) = (
                but(cut_off, "had been cut off were not compared"),
                but(unwritten, "could not be written are not there"),
            );
            format!("same     {session_id}  {environment}  {}{cut_off}{unwritten}", compared(*entries))
        }
        Verdict::Incomplete { entries, holes } => {
            let told: Vec<String> = holes
                .iter()
                .map(|SessionHole { session_id: other, hole }| match other == session_id {
                    true => hole.to_string(),
                    false => format!("session {other}: {hole}"),
                })
                .collect();
            format!(
                "incomplete  {session_id}  {environment}  {} the same, but {}",
                compared(*entries),
                told.join("; ")
            )
        }
        Verdict::Differs { seq, what, recorded, replayed } => format!(
            "differs at seq {seq}  {session_id}  {environment}  {what}\n  recorded: {recorded}\n  \
             replayed: {replayed}"
        ),
        Verdict::CannotBeReplayed { why, .. } => {
            format!("cannot be replayed: {why}  {session_id}  {environment}")
        }
    }
}

fn compared(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

/// The progress, for a terminal.
fn progress(done: usize, total: usize) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() && total > 1 {
        // There is no reader when stderr is gone.
        let _ = write!(stderr, "\r{done} of {total} sessions ").and_then(|()| stderr.flush());
    }
}

fn progress_over() {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
