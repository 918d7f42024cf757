//! Rubrics that are made of others: [`Combination`] of several, [`Gate`] of one.
//!
//! Invariant: a part without an opinion changes nothing; where no part has one, the whole has none.

use oxenv_wire::Reward;
use serde_json::Value;

use super::part::{self, ComponentRubric};
use super::{Rubric, RubricNeeds, Score, ScoreReport, ScoringContext};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::work::{Work, join_all};

/// The tolerance for weights that should add up to 1.
const WEIGHT_TOLERANCE: f64 = 1e-6;

/// Several rubrics as one.
///
/// ```
/// use oxenv_core::rubric::{Combination, ComponentRubric, Constant};
/// use oxenv_wire::Reward;
///
/// let part = |name| ComponentRubric::new(name, Box::new(Constant::new(Reward::Float(1.0))));
/// assert!(Combination::weighted_sum(vec![(0.7, part("found")), (0.3, part("short"))]).is_ok());
/// assert!(Combination::weighted_sum(vec![(0.7, part("found"))]).is_err());
/// ```
pub struct Combination {
    parts: Vec<ComponentRubric>,
    score: CombinedScore,
}

/// How the scores of parts become one.
#[derive(Clone)]
enum CombinedScore {
    /// The parts are asked in order up to the first that gives 0; the last opinion counts.
    InOrder,
    /// The parts are asked together; what they give is added up, each times its weight.
    Weighted(Vec<f64>),
}

/// Lets the score of its part through if it reaches a threshold, and gives 0 otherwise.
pub struct Gate {
    part: ComponentRubric,
    threshold: f64,
}

impl Combination {
    /// Asks its parts in order and stops at the first that gives 0, which is then its own score; otherwise
    /// its score is that of the last part with an opinion.
    #[must_use]
    pub fn sequence(parts: Vec<ComponentRubric>) -> Self {
        Combination { parts, score: CombinedScore::InOrder }
    }

    /// Adds up what its parts give, each times its weight. The parts are asked together.
    ///
    /// # Errors
    /// When the weights do not add up to 1, within a millionth.
    pub fn weighted_sum(parts: Vec<(f64, ComponentRubric)>) -> Result<Self, String> {
        let sum: f64 = parts.iter().map(|(weight, _)| weight).sum();
        // Also refuses a sum that is not a number.
        if (sum - 1.0).abs() > WEIGHT_TOLERANCE || sum.is_nan() {
            return Err(format!("the weights add up to {sum}; make them add up to 1"));
        }
        let (weights, parts) = parts.into_iter().unzip();
        Ok(Combination { parts, score: CombinedScore::Weighted(weights) })
    }

    /// Adds up what its parts give. The parts are asked together.
    #[must_use]
    pub fn sum(parts: Vec<ComponentRubric>) -> Self {
        let weights = vec![1.0; parts.len()];
        Combination { parts, score: CombinedScore::Weighted(weights) }
    }

    async fn ask(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        match &self.score {
            CombinedScore::InOrder => ask_in_order(&mut self.parts, seen).await,
            CombinedScore::Weighted(weights) => ask_together(&mut self.parts, weights, seen).await,
        }
    }
}

async fn ask_in_order(parts: &mut [ComponentRubric], seen: &ScoringContext<'_>) -> Result<Score, Failure> {
    parts.iter_mut().for_each(ComponentRubric::skip);
    let mut whole = Score::default();
    for part in parts {
        let score = part.score(seen).await?;
        whole.done |= score.done;
        whole.reward = score.reward.or(whole.reward);
        if score.reward.is_some_and(|reward| reward.as_f64() == 0.0) {
            break;
        }
    }
    Ok(whole)
}

async fn ask_together(
    parts: &mut [ComponentRubric],
    weights: &[f64],
    seen: &ScoringContext<'_>,
) -> Result<Score, Failure> {
    let asked = parts.iter_mut().map(|part| Work::pending(part.score(seen))).collect();
    let mut whole = Score::default();
    let mut sum = None;
    for (score, weight) in join_all(asked).await.into_iter().zip(weights) {
        let score = score?;
        whole.done |= score.done;
        if let Some(reward) = score.reward {
            sum = Some(sum.unwrap_or(0.0) + weight * reward.as_f64());
        }
    }
    Ok(Score { reward: sum.map(Reward::Float), ..whole })
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

impl Rubric for Combination {
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
        let parts = self.parts.iter().map(ComponentRubric::fork).collect();
        Box::new(Combination { parts, score: self.score.clone() })
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
