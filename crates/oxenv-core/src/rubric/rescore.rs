//! [`rescore`]: what a recorded episode would have been worth by another rubric.
//!
//! Invariant: nothing recorded changes, and no environment runs; only a judge may be asked, and not
//! again about what a [`super::JudgeCache`] remembers.

use oxenv_wire::{RawJson, Reward, empty_object, raw};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::scorer::{EnvironmentVerdict, Scorer};
use super::{EpisodeEvent, Rubric, ScoreReport};
use crate::environment::{CallRecord, Observed, Reset};
use crate::failure::Failure;

/// An episode as it was recorded.
#[derive(Debug, Clone)]
pub struct RecordedEpisode {
    /// How it began.
    pub reset: Reset,
    /// Its steps in order, without those that failed.
    pub steps: Vec<RecordedStep>,
    /// Whether the last step ends it even if it was not done, so that episodes that were broken off
    /// get a final score too.
    pub ends: bool,
}

/// A step as it was recorded.
#[derive(Debug, Clone)]
pub struct RecordedStep {
    /// The action as it was spelled.
    pub action: RawJson,
    /// The tool calls that it made, in order of completion; none: it was a typed action.
    pub calls: Vec<CallRecord>,
    /// The observation for it.
    pub observed: Observed,
}

/// What an episode would have been worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Rescored {
    /// Its steps in order.
    pub steps: Vec<RescoredStep>,
    /// The sum of its rewards; null if there was none.
    pub reward: Option<f64>,
    /// What each part gave in all, an object of numbers.
    pub scores: Value,
}

/// The reward that a step would have had.
#[derive(Debug, Clone, PartialEq)]
pub struct RescoredStep {
    /// The reward; of several calls, their sum.
    pub reward: Option<f64>,
    /// Whether the episode would have been done.
    pub done: bool,
    /// The parts of the score of the last call, or of the action.
    pub report: ScoreReport,
}

impl RecordedStep {
    /// A step from the reply to it as a `/ws` frame's data has it:
    /// `{"observation":{…},"reward":…,"done":…}`, with `metadata` where there is some.
    ///
    /// # Errors
    /// When the reply is not of that form.
    pub fn read(action: RawJson, calls: Vec<CallRecord>, reply: &str) -> Result<Self, serde_json::Error> {
        let reply: RecordedReply<'_> = serde_json::from_str(reply)?;
        let mut fields: serde_json::Map<String, Value> = serde_json::from_str(reply.observation.get())?;
        // The envelope repeats it here for stock clients; it is no field of the environment's.
        fields.shift_remove("metadata");
        let fields = raw(&fields)?;
        let metadata = reply.metadata.map(RawValue::to_owned);
        let observed = Observed { fields, metadata, reward: reply.reward, done: reply.done };
        Ok(RecordedStep { action, calls, observed })
    }
}

/// Scores an episode again with a new rubric, as [`super::scored`] would have done. The rewards of
/// the environment itself are those that were recorded.
///
/// # Errors
/// When an act cannot be scored: a judge cannot be reached, or the rubric looks at a state, which
/// records do not have. Dropping the future leaves nothing behind.
pub async fn rescore(rubric: Box<dyn Rubric>, episode: &RecordedEpisode) -> Result<Rescored, Failure> {
    let mut scorer = Scorer::new(rubric);
    scorer.begin(&episode.reset);
    let mut rescored = Rescored { steps: Vec::new(), reward: None, scores: Value::Null };
    for (index, step) in episode.steps.iter().enumerate() {
        let last = episode.ends && index + 1 == episode.steps.len();
        let step = rescore_step(&mut scorer, step, last).await?;
        rescored.reward = added(rescored.reward, step.reward);
        rescored.steps.push(step);
    }
    rescored.scores = scorer.totals().into();
    Ok(rescored)
}

#[derive(Deserialize)]
struct RecordedReply<'a> {
    #[serde(borrow)]
    observation: &'a RawValue,
    reward: Option<Reward>,
    done: bool,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

async fn rescore_step(scorer: &mut Scorer, step: &RecordedStep, last: bool) -> Result<RescoredStep, Failure> {
    let mut rescored =
        RescoredStep { reward: None, done: step.observed.done || last, report: ScoreReport::default() };
    let calls: Vec<&CallRecord> = step.calls.iter().filter(|call| call.outcome.is_ok()).collect();
    let action = EpisodeEvent::Step { action: &step.action, observed: &step.observed };
    let acts = match step.calls.is_empty() {
        true => vec![action],
        false => calls.iter().map(|call| EpisodeEvent::Call(call)).collect(),
    };
    let ends = rescored.done;
    for (index, act) in acts.iter().enumerate() {
        let is_last = index + 1 == acts.len();
        let reward = own_reward(&step.observed).filter(|_| is_last);
        let judged =
            scorer.score(*act, EnvironmentVerdict { reward, done: ends && is_last, state: None }).await?;
        rescored.reward = added(rescored.reward, judged.score.reward.map(Reward::as_f64));
        rescored.done |= judged.score.done;
        rescored.report = judged.report;
    }
    Ok(rescored)
}

/// The reward of the environment itself: a rubric that scored it left it in the metadata.
fn own_reward(observed: &Observed) -> Option<Reward> {
    let metadata = observed.metadata.clone().unwrap_or_else(empty_object);
    let metadata: Value = serde_json::from_str(metadata.get()).unwrap_or_default();
    let ours = &metadata["oxenv"];
    match ours.get("scores") {
        Some(_) => serde_json::from_value(ours["environment_reward"].clone()).ok(),
        None => observed.reward,
    }
}

fn added(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}
