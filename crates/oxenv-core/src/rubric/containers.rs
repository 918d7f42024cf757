//! Rubrics that are made of others: [`Sequence`], [`Gate`], [`WeightedSum`].
//!
//! Invariant: a part without an opinion changes nothing; where no part has one, the whole has none.

use oxenv_wire::Reward;
use serde_json::Value;

use super::part::{self, ComponentRubric};
use super::{Rubric, RubricNeeds, Score, ScoreReport, ScoringContext};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::work::{Work, join_all};

/// How far weights may be from adding up to 1.
const WEIGHT_TOLERANCE: f64 = 1e-6;

/// Asks its parts in order and stops at the first that gives 0, which is then its own score;
/// otherwise its score is that of the last part with an opinion.
pub struct Sequence {
    parts: Vec<ComponentRubric>,
}

/// Lets the score of its part through if it reaches a threshold, and gives 0 otherwise.
pub struct Gate {
    part: ComponentRubric,
    threshold: f64,
}

/// Adds up what its parts give, each times its weight. The parts are asked together.
pub struct WeightedSum {
    parts: Vec<ComponentRubric>,
    weights: Vec<f64>,
}

impl Sequence {
    /// Parts in the order in which they are asked.
    #[must_use]
    pub fn new(parts: Vec<ComponentRubric>) -> Self {
        Sequence { parts }
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        self.parts.iter_mut().for_each(ComponentRubric::skip);
        let mut whole = Score::default();
        for part in &mut self.parts {
            let score = part.score(seen).await?;
            whole.done |= score.done;
            whole.reward = score.reward.or(whole.reward);
            if score.reward.is_some_and(|reward| reward.as_f64() == 0.0) {
                break;
            }
        }
        Ok(whole)
    }
}

impl Gate {
    /// A part and the least score that is let through; the reference's default is 1.
    #[must_use]
    pub fn new(part: ComponentRubric, threshold: f64) -> Self {
        Gate { part, threshold }
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        let score = self.part.score(seen).await?;
        let below = |reward: &Reward| reward.as_f64() < self.threshold;
        let reward = score.reward.map(|reward| if below(&reward) { Reward::Float(0.0) } else { reward });
        Ok(Score { reward, ..score })
    }
}

impl WeightedSum {
    /// Parts with their weights.
    ///
    /// # Errors
    /// When the weights do not add up to 1, within a millionth.
    pub fn new(parts: Vec<(f64, ComponentRubric)>) -> Result<Self, String> {
        let sum: f64 = parts.iter().map(|(weight, _)| weight).sum();
        // Also refuses a sum that is no number.
        if (sum - 1.0).abs() <= WEIGHT_TOLERANCE {
            Ok(Self::free(parts))
        } else {
            Err(format!("the weights add up to {sum}; make them add up to 1"))
        }
    }

    /// Parts with weights of any sum: with weights of 1, a plain sum.
    #[must_use]
    pub fn free(parts: Vec<(f64, ComponentRubric)>) -> Self {
        let (weights, parts) = parts.into_iter().unzip();
        WeightedSum { parts, weights }
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        let asked = self.parts.iter_mut().map(|part| Work::pending(part.score(seen))).collect();
        let mut whole = Score::default();
        let mut sum = None;
        for (score, weight) in join_all(asked).await.into_iter().zip(&self.weights) {
            let score = score?;
            whole.done |= score.done;
            if let Some(reward) = score.reward {
                sum = Some(sum.unwrap_or(0.0) + weight * reward.as_f64());
            }
        }
        Ok(Score { reward: sum.map(Reward::Float), ..whole })
    }
}

impl Rubric for Sequence {
    fn reset(&mut self, reset: &Reset) {
        self.parts.iter_mut().for_each(|part| part.reset(reset));
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::pending(self.ask(seen))
    }

    fn needs(&self) -> RubricNeeds {
        part::needs(&self.parts)
    }

    fn report(&self) -> ScoreReport {
        part::report(&self.parts)
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(Sequence { parts: self.parts.iter().map(ComponentRubric::fork).collect() })
    }

    fn save(&self) -> Value {
        part::save(&self.parts)
    }

    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        part::load(self.parts.iter_mut().collect(), saved)
    }
}

impl Rubric for Gate {
    fn reset(&mut self, reset: &Reset) {
        self.part.reset(reset);
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::pending(self.ask(seen))
    }

    fn needs(&self) -> RubricNeeds {
        self.part.needs()
    }

    fn report(&self) -> ScoreReport {
        part::report([&self.part])
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(Gate { part: self.part.fork(), threshold: self.threshold })
    }

    fn save(&self) -> Value {
        self.part.save()
    }

    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        self.part.load(saved)
    }
}

impl Rubric for WeightedSum {
    fn reset(&mut self, reset: &Reset) {
        self.parts.iter_mut().for_each(|part| part.reset(reset));
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::pending(self.ask(seen))
    }

    fn needs(&self) -> RubricNeeds {
        part::needs(&self.parts)
    }

    fn report(&self) -> ScoreReport {
        part::report(&self.parts)
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(WeightedSum {
            parts: self.parts.iter().map(ComponentRubric::fork).collect(),
            weights: self.weights.clone(),
        })
    }

    fn save(&self) -> Value {
        part::save(&self.parts)
    }

    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        part::load(self.parts.iter_mut().collect(), saved)
    }
}
