//! `oxenv rescore`: what recorded episodes would have been worth by another rubric.
//!
//! Invariant: no environment runs and no log changes; a judge is asked only what the record has no answer
//! of it to.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use oxenv_core::rubric::{JudgeCache, RecordedEpisode, RecordedStep, Rescored, rescore};
use oxenv_core::{CallRecord, Reset, RubricFactory};
use oxenv_store::{
    Hole, SessionFilter, SessionSummary, StoredCall, StoredEntry, StoredEvent, StoredJson, StoredOutcome,
    Trajectories,
};
use oxenv_wire::{Action, Reward};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::exit::usage;
use crate::output::print;
use crate::replay::remember_entry;
use crate::rubrics::{self, RubricArgs};
use crate::trajectories::{self, Incomplete, is_damage};

#[derive(Args)]
#[command(after_help = "\
Failed steps are left out, as they are when a rubric scores a running episode. The judge is
asked only what the record has no answer to. Exits with 6 if the record is incomplete or damaged;
what can be read is scored.

Examples:
  oxenv rescore records --rubric rubric.toml
  oxenv rescore records --rubric rubric.json --out scores.jsonl
  oxenv rescore records --rubric rubric.json --judge-url http://127.0.0.1:8001/v1 --judge-model M")]
pub(crate) struct RescoreArgs {
    /// The folder of --record
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    rubric: RubricArgs,
    /// Never ask the judge; an episode without a recorded answer fails
    #[arg(long)]
    judge_recorded: bool,
    /// Only sessions of this environment
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// Write the scores of each episode here, one JSON object a line
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the same lines instead of a table
    #[arg(long)]
    json: bool,
}

/// An episode's rewards, the old and the new.
#[derive(Serialize)]
struct EpisodeRewards<'a> {
    session_id: &'a str,
    environment: &'a str,
    epoch: u64,
    episode_id: &'a str,
    old_reward: Option<f64>,
    reward: Option<f64>,
    scores: Value,
    steps: Vec<StepLine>,
    /// What of its session is missing from the record, or may be.
    #[serde(skip_serializing_if = "<[Hole]>::is_empty")]
    holes: &'a [Hole],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct StepLine {
    seq: u64,
    old_reward: Option<Reward>,
    reward: Option<f64>,
    done: bool,
    parts: Value,
}

/// An episode of a record.
struct EpisodeToRescore {
    epoch: u64,
    recorded: RecordedEpisode,
    /// For each step, its number in the session and its reward.
    steps: Vec<(u64, Option<Reward>)>,
    old_reward: Option<f64>,
}

pub(crate) async fn run(mut args: RescoreArgs) -> anyhow::Result<()> {
    args.rubric.only_recorded = args.judge_recorded;
    let cache = Arc::new(JudgeCache::default());
    let rubric = rubrics::named(&args.rubric, &cache)?;
    let mut incomplete = Incomplete::default();
    let trajectories = trajectories::open(&args.folder, &mut incomplete)?;
    let mut out = match &args.out {
        Some(path) => {
            let file = std::fs::File::create(path);
            let file = file.map_err(|error| usage(format!("cannot write '{}': {error}", path.display())))?;
            Some(std::io::BufWriter::new(file))
        }
        None => None,
    };
    let (mut episodes, mut failed) = (0u64, 0u64);
    let filter =
        SessionFilter { environment: args.environment, limit: usize::MAX, ..SessionFilter::default() };
    for session in trajectories::sessions(&trajectories, filter)? {
        incomplete.holes(&session.id, &session.holes);
        let read = match read(&trajectories, &session, &cache) {
            Err(error) if is_damage(&error) => {
                incomplete.session(&session.id, &format_args!("it is left out: {error}"));
                continue;
            }
            read => read?,
        };
        for episode in read {
            let line = scored(&rubric, &session, &episode).await;
            episodes += 1;
            failed += u64::from(line.error.is_some());
            let text = serde_json::to_string(&line)?;
            if let Some(out) = &mut out {
                writeln!(out, "{text}")?;
            }
            print(&if args.json { text } else { text_line(&line) })?;
        }
    }
    if let Some(mut out) = out {
        out.flush()?;
    }
    if failed > 0 {
        bail!("{failed} of {episodes} episodes could not be scored");
    }
    Ok(incomplete.outcome()?)
}

/// The episodes that a session has begun, those of its origin not among them.
fn read(
    trajectories: &Trajectories,
    session: &SessionSummary,
    cache: &JudgeCache,
) -> anyhow::Result<Vec<EpisodeToRescore>> {
    let mut episodes: Vec<EpisodeToRescore> = Vec::new();
    for entry in trajectories.entries(&session.id)? {
        remember_entry(cache, &entry)?;
        if let Some(episode) = begun(&entry)? {
            episodes.push(episode);
        } else if let Some(episode) = episodes.last_mut().filter(|episode| episode.epoch == entry.epoch) {
            take(episode, &entry)?;
        }
    }
    Ok(episodes)
}

fn begun(entry: &StoredEntry) -> anyhow::Result<Option<EpisodeToRescore>> {
    let StoredEvent::Reset { seed, seed_given, episode_id, arguments, outcome, .. } = &entry.event else {
        return Ok(None);
    };
    let StoredOutcome::Answered { reward, .. } = outcome else { return Ok(None) };
    let reset = Reset {
        seed: *seed,
        seed_given: *seed_given,
        episode_id: episode_id.clone(),
        arguments: arguments.as_ref().map(StoredJson::raw).transpose()?,
    };
    let recorded = RecordedEpisode { reset, steps: Vec::new(), ends: false };
    let old_reward = reward.map(Reward::as_f64);
    Ok(Some(EpisodeToRescore { epoch: entry.epoch, recorded, steps: Vec::new(), old_reward }))
}

fn take(episode: &mut EpisodeToRescore, entry: &StoredEntry) -> anyhow::Result<()> {
    let StoredEvent::Step { action, calls, outcome, .. } = &entry.event else { return Ok(()) };
    let StoredOutcome::Answered { reply, reward, .. } = outcome else { return Ok(()) };
    let action = action.raw()?;
    if calls.is_empty() && lists_tools(&action) {
        return Ok(());
    }
    let calls = calls.iter().map(call).collect::<anyhow::Result<Vec<_>>>()?;
    episode.recorded.steps.push(RecordedStep::read(action, calls, &reply.text()?)?);
    episode.steps.push((entry.seq, *reward));
    if let Some(reward) = reward {
        episode.old_reward = Some(episode.old_reward.unwrap_or(0.0) + reward.as_f64());
    }
    Ok(())
}

/// A list of tools is a step of the session, and nothing that a rubric is ever asked about.
fn lists_tools(action: &RawValue) -> bool {
    matches!(Action::parse(action), Ok(Action::ListTools(_)))
}

fn call(call: &StoredCall) -> anyhow::Result<CallRecord> {
    Ok(CallRecord {
        tool: call.tool.clone(),
        arguments: call.arguments.as_ref().map(StoredJson::raw).transpose()?,
        outcome: call.played_back()?,
    })
}

async fn scored<'a>(
    rubric: &RubricFactory,
    session: &'a SessionSummary,
    episode: &'a EpisodeToRescore,
) -> EpisodeRewards<'a> {
    let mut line = EpisodeRewards {
        session_id: &session.id,
        environment: &session.environment,
        epoch: episode.epoch,
        episode_id: &episode.recorded.reset.episode_id,
        old_reward: episode.old_reward,
        reward: None,
        scores: Value::Null,
        steps: Vec::new(),
        holes: &session.holes,
        error: None,
    };
    match rescore(rubric(), &episode.recorded).await {
        Ok(Rescored { steps, reward, scores }) => {
            line.reward = reward;
            line.scores = scores;
            let told = steps.into_iter().zip(&episode.steps).map(|(step, (seq, old))| StepLine {
                seq: *seq,
                old_reward: *old,
                reward: step.reward,
                done: step.done,
                parts: step.report.parts.into_iter().map(|(name, reward)| (name, json!(reward))).collect(),
            });
            line.steps = told.collect();
        }
        Err(failure) => line.error = Some(failure.to_string()),
    }
    line
}

fn text_line(line: &EpisodeRewards<'_>) -> String {
    let number = |reward: Option<f64>| reward.map_or("null".to_owned(), |reward| reward.to_string());
    let came = match &line.error {
        Some(error) => format!("cannot be scored: {error}"),
        None => number(line.reward),
    };
    let EpisodeRewards { session_id, environment, epoch, .. } = line;
    format!("{session_id}  {environment}  epoch {epoch}  {} → {came}", number(line.old_reward))
}
