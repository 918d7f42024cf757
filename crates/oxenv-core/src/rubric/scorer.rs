//! [`Scorer`]: a rubric in the course of an episode, with all that it looks back on.
//!
//! Invariant: an act that could not be scored is still remembered, so later scores do not depend on
//! it; a failure is of the phase `verify`, whatever failed.

use oxenv_wire::{ErrorCode, Phase, RawJson, Reward};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{EpisodeEvent, PastEvent, Rubric, RubricNeeds, Score, ScoreReport, ScoringContext, no_state_of};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::snapshot::MAX_NUMBER;

/// Bytes of an episode that are kept for a rubric that looks back.
const MAX_HISTORY_BYTES: usize = 16 << 20;
/// The longest state of a rubric that is read, in bytes: it is built as a value.
const MAX_SAVED_RUBRIC: usize = 1 << 20;
/// Maximum number of parts whose totals are read.
const MAX_PARTS: usize = 1 << 12;

/// A rubric and its present episode.
pub(super) struct Scorer {
    rubric: Box<dyn Rubric>,
    needs: RubricNeeds,
    episode: EpisodeHistory,
}

/// What the environment itself reports about an act.
#[derive(Clone, Copy)]
pub(super) struct EnvironmentVerdict<'a> {
    pub(super) reward: Option<Reward>,
    pub(super) done: bool,
    pub(super) state: Option<&'a RawValue>,
}

/// A score and what it was made of.
#[derive(Debug)]
pub(super) struct ScoredEvent {
    pub(super) score: Score,
    pub(super) report: ScoreReport,
}

/// The state of an episode.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpisodeHistory {
    task: Option<RawJson>,
    /// Acts so far, scored or not.
    steps: u64,
    earlier: Vec<PastEvent>,
    /// Bytes that `earlier` takes; over the limit, it is dropped as a whole.
    bytes: usize,
    /// What each part has given in all.
    totals: Vec<(String, f64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedScorer {
    rubric: RawJson,
    episode: EpisodeHistory,
}

impl Scorer {
    pub(super) fn new(rubric: Box<dyn Rubric>) -> Self {
        let needs = rubric.needs();
        Scorer { rubric, needs, episode: EpisodeHistory::default() }
    }

    pub(super) fn needs(&self) -> RubricNeeds {
        self.needs
    }

    pub(super) fn begin(&mut self, reset: &Reset) {
        self.episode = EpisodeHistory { task: reset.arguments.clone(), ..EpisodeHistory::default() };
        self.rubric.reset(reset);
    }

    pub(super) async fn score(
        &mut self,
        act: EpisodeEvent<'_>,
        own: EnvironmentVerdict<'_>,
    ) -> Result<ScoredEvent, Failure> {
        let judged = self.judge(act, own).await.map_err(|failure| failure.in_phase(Phase::Verify));
        if self.needs.episode {
            self.episode.remember(act.to_past());
        }
        let judged = judged?;
        for (name, reward) in &judged.report.parts {
            if let Some(reward) = reward {
                self.episode.add(name, reward.as_f64());
            }
        }
        Ok(judged)
    }

    async fn judge(
        &mut self,
        act: EpisodeEvent<'_>,
        own: EnvironmentVerdict<'_>,
    ) -> Result<ScoredEvent, Failure> {
        let episode = &mut self.episode;
        episode.steps += 1;
        if self.needs.episode && episode.bytes > MAX_HISTORY_BYTES {
            let message = format!(
                "the episode takes more than the {} MiB that a rubric can look back on",
                MAX_HISTORY_BYTES >> 20
            );
            return Err(Failure::infrastructure(message));
        }
        let seen = ScoringContext {
            act,
            earlier: &episode.earlier,
            task: episode.task.as_deref(),
            state: own.state,
            reward: own.reward,
            done: own.done,
            step: episode.steps,
        };
        let score = self.rubric.score(&seen).await?;
        if let Some(reward) = score.reward.filter(|reward| !reward.is_finite()) {
            let message =
                format!("the rubric gave the reward {}, which is not a finite number", reward.as_f64());
            return Err(Failure::new(ErrorCode::NonFiniteReward, message));
        }
        Ok(ScoredEvent { score, report: self.rubric.report() })
    }

    /// The totals of the parts in this episode so far, an object of numbers.
    pub(super) fn totals(&self) -> Map<String, Value> {
        self.episode.totals.iter().map(|(name, total)| (name.clone(), (*total).into())).collect()
    }

    pub(super) fn fork(&self) -> Scorer {
        Scorer { rubric: self.rubric.fork(), needs: self.needs, episode: self.episode.clone() }
    }

    pub(super) fn save(&self) -> Result<RawJson, Failure> {
        let not_json = |error| Failure::environment(format!("the rubric's state is not JSON: {error}"));
        let rubric = oxenv_wire::raw(&self.rubric.save()).map_err(not_json)?;
        oxenv_wire::raw(&SavedScorer { rubric, episode: self.episode.clone() }).map_err(not_json)
    }

    /// Takes what the same rubric saved. Changed only if that can be.
    pub(super) fn load(&mut self, saved: &str) -> Result<(), Failure> {
        let no_state = || no_state_of("a scored environment");
        let saved: SavedScorer = serde_json::from_str(saved).map_err(|_| no_state())?;
        let mut episode = saved.episode;
        if saved.rubric.get().len() > MAX_SAVED_RUBRIC
            || episode.totals.len() > MAX_PARTS
            || episode.steps > MAX_NUMBER
        {
            return Err(no_state());
        }
        let mut rubric = self.rubric.fork();
        rubric.load(&serde_json::from_str(saved.rubric.get()).map_err(|_| no_state())?)?;
        // The bytes are counted anew, because the snapshot's maker may have counted otherwise. An
        // episode that was too long to be kept stays so.
        let too_long = episode.bytes > MAX_HISTORY_BYTES;
        episode.bytes =
            if too_long { episode.bytes } else { episode.earlier.iter().map(PastEvent::weight).sum() };
        (self.rubric, self.episode) = (rubric, episode);
        Ok(())
    }
}

impl EpisodeHistory {
    fn remember(&mut self, act: PastEvent) {
        if self.bytes > MAX_HISTORY_BYTES {
            return;
        }
        self.bytes += act.weight();
        self.earlier.push(act);
        if self.bytes > MAX_HISTORY_BYTES {
            self.earlier = Vec::new();
        }
    }

    fn add(&mut self, name: &str, reward: f64) {
        match self.totals.iter_mut().find(|(known, _)| known == name) {
            Some((_, total)) => *total += reward,
            None => self.totals.push((name.to_owned(), reward)),
        }
    }
}
