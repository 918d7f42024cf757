//! Rubrics about whole episodes: [`Trajectory`] scores one at its end, [`EpisodeRubric`] may say when it
//! ends.
//!
//! Invariant: the final score of a trajectory is given once, with the act that ends the episode.

use oxenv_wire::Reward;
use serde_json::Value;

use super::part::{self, ComponentRubric};
use super::{Rubric, RubricNeeds, Score, ScoreReport, ScoringContext};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::work::Work;

/// The most acts that a final score is spread over: each has a number in the last observation.
const MAX_DISCOUNTED_ACTS: u64 = 100_000;

/// Asks its part when the episode is done, and gives every earlier act the same intermediate reward.
///
/// With a discount, the final score is also spread over the acts that led to it: the act `t` of `T`,
/// counted from 0, gets `gamma^(T-1-t)` times the final score, as OpenEnv's
/// `ExponentialDiscountingTrajectoryRubric` has it. These are in the report of the last act. An episode of
/// more than 100,000 acts has no score then.
pub struct Trajectory {
    part: ComponentRubric,
    intermediate: Option<Reward>,
    gamma: Option<f64>,
    /// The rewards of the acts, once the episode is done.
    step_rewards: Option<Vec<f64>>,
}

/// A rubric as a whole: the part that scores, and maybe a condition that ends the episode.
pub struct EpisodeRubric {
    scores: ComponentRubric,
    ends: Option<ComponentRubric>,
}

impl Trajectory {
    /// A part that is asked at the end; acts before it get no reward.
    #[must_use]
    pub fn new(part: ComponentRubric) -> Self {
        Trajectory { part, intermediate: None, gamma: None, step_rewards: None }
    }

    /// What acts before the end are worth.
    #[must_use]
    pub fn intermediate(mut self, reward: Option<Reward>) -> Self {
        self.intermediate = reward;
        self
    }

    /// Spreads the final score over the acts.
    ///
    /// # Errors
    /// When the factor is not from 0 to 1.
    pub fn discounted(mut self, gamma: f64) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&gamma) {
            return Err(format!("gamma is {gamma}; it must be from 0 to 1"));
        }
        self.gamma = Some(gamma);
        Ok(self)
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        self.step_rewards = None;
        if !seen.done {
            self.part.skip();
            return Ok(Score::of(self.intermediate));
        }
        let score = self.part.score(seen).await?;
        if let (Some(gamma), Some(reward)) = (self.gamma, score.reward) {
            if seen.step > MAX_DISCOUNTED_ACTS {
                let message = format!(
                    "the final score is spread over {MAX_DISCOUNTED_ACTS} acts at most, and the episode has \
                     {}",
                    seen.step
                );
                return Err(Failure::infrastructure(message));
            }
            self.step_rewards = Some(discounted(reward.as_f64(), gamma, seen.step));
        }
        Ok(score)
    }
}

impl EpisodeRubric {
    /// A rubric that leaves it to the environment when an episode ends.
    #[must_use]
    pub fn new(scores: ComponentRubric) -> Self {
        EpisodeRubric { scores, ends: None }
    }

    /// Ends the episode as soon as that part, asked as if the episode were over, gives more than 0.
    /// It is not part of reports.
    #[must_use]
    pub fn ending(mut self, ends: ComponentRubric) -> Self {
        self.ends = Some(ends);
        self
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        let done = seen.done || self.is_over(seen).await?;
        let score = self.scores.score(&ScoringContext { done, ..*seen }).await?;
        Ok(Score { done: done || score.done, ..score })
    }

    async fn is_over(&mut self, seen: &ScoringContext<'_>) -> Result<bool, Failure> {
        let Some(ends) = &mut self.ends else { return Ok(false) };
        let score = ends.score(&ScoringContext { done: true, ..*seen }).await?;
        Ok(score.reward.is_some_and(|reward| reward.as_f64() > 0.0))
    }

    fn parts(&self) -> impl Iterator<Item = &ComponentRubric> {
        self.ends.iter().chain([&self.scores])
    }
}

impl Rubric for Trajectory {
    fn reset(&mut self, reset: &Reset) {
        self.step_rewards = None;
        self.part.reset(reset);
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::pending(self.ask(seen))
    }

    fn needs(&self) -> RubricNeeds {
        self.part.needs()
    }

    fn report(&self) -> ScoreReport {
        let mut report = part::report([&self.part]);
        report.step_rewards.extend(self.step_rewards.clone().map(|rewards| (String::new(), rewards)));
        report
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(Trajectory {
            part: self.part.fork(),
            intermediate: self.intermediate,
            gamma: self.gamma,
            step_rewards: self.step_rewards.clone(),
        })
    }

    fn save(&self) -> Value {
        self.part.save()
    }

    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        self.step_rewards = None;
        self.part.load(saved)
    }
}

impl Rubric for EpisodeRubric {
    fn reset(&mut self, reset: &Reset) {
        self.ends.iter_mut().chain([&mut self.scores]).for_each(|part| part.reset(reset));
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::pending(self.ask(seen))
    }

    fn needs(&self) -> RubricNeeds {
        part::needs(self.parts())
    }

    fn report(&self) -> ScoreReport {
        self.scores.report_alone()
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(EpisodeRubric {
            scores: self.scores.fork(),
            ends: self.ends.as_ref().map(ComponentRubric::fork),
        })
    }

    fn save(&self) -> Value {
        part::save(self.parts())
    }

    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        part::load(self.ends.iter_mut().chain([&mut self.scores]).collect(), saved)
    }
}

/// What each of `acts` acts is worth, by the final score `last`. Counts down from the end, so that
/// no power of a large number is needed.
fn discounted(last: f64, gamma: f64, acts: u64) -> Vec<f64> {
    let mut rewards: Vec<f64> =
        std::iter::successors(Some(last), |reward| Some(reward * gamma)).take(acts as usize).collect();
    rewards.reverse();
    rewards
}
