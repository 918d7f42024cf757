//! Computes rewards: a [`Rubric`] looks at what was done and shown, and returns what it was worth.
//!
//! Invariant: a rubric that cannot decide fails, in the phase `verify`; it never turns a failure
//! into a number, and one that has no opinion gives null, never 0.
//!
//! Entry points: [`RubricSpec`] reads a rubric that was declared, [`scored`] puts one over any
//! environment, [`rescore`] applies one to what was recorded. The components stand here too, for
//! rubrics that are put together in Rust.

mod act;
mod checks;
mod containers;
mod error;
mod expected;
mod judge;
mod part;
mod reader;
mod readings;
mod rescore;
mod scored;
mod scorer;
mod spec;
mod trajectory;

use std::ops::BitOr;
use std::sync::Arc;

use oxenv_wire::Reward;
use serde_json::Value;

use crate::environment::Reset;
use crate::failure::Failure;
use crate::work::Work;

pub use act::{EpisodeEvent, PastEvent, ScoringContext};
pub use checks::{Constant, EnvironmentReward, FinalState, FinalStateSource, OutputMatches, ToolCalled};
pub use containers::{Combination, Gate};
pub use error::RubricError;
pub use judge::{Judge, JudgeAnswer, JudgeCache, JudgeQuestion, JudgeRubric, JudgeTask, Judges};
pub use part::ComponentRubric;
pub use rescore::{RecordedEpisode, RecordedStep, Rescored, RescoredStep, rescore};
pub use scored::scored;
pub use spec::RubricSpec;
pub use trajectory::{EpisodeRubric, Trajectory};

/// What an act was worth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// The reward; absent is no opinion, null on the wire.
    pub reward: Option<Reward>,
    /// Whether the episode is done because the rubric ended it.
    pub done: bool,
}

impl Score {
    /// A score that does not end the episode.
    #[must_use]
    pub fn of(reward: Option<Reward>) -> Self {
        Score { reward, done: false }
    }
}

/// What a rubric needs besides the act itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RubricNeeds {
    /// The earlier acts of the episode.
    pub episode: bool,
    /// The environment's state after the act.
    pub state: bool,
}

impl BitOr for RubricNeeds {
    type Output = RubricNeeds;

    fn bitor(self, other: RubricNeeds) -> RubricNeeds {
        RubricNeeds { episode: self.episode || other.episode, state: self.state || other.state }
    }
}

/// The parts of a rubric's last score.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreReport {
    /// The parts by their names and what each gave; null: no opinion, or not asked.
    pub parts: Vec<(String, Option<Reward>)>,
    /// For each part, by its name, the reward of every act of the episode in order; empty before
    /// the end. A rubric's own name is the empty string.
    pub step_rewards: Vec<(String, Vec<f64>)>,
    /// What judges answered, by the digests of the questions; see [`JudgeCache`].
    pub answers: Vec<(String, f64)>,
}

/// Scores the acts of one session: its typed steps and its tool calls.
///
/// # Behavior
/// - It is asked for one act at a time, in order, about finished ones only; a call that failed on its
///   way to the tool is never scored.
/// - The same acts give the same scores, unless it asks a judge.
/// - A failure is about the reward alone: the act has happened.
/// - Dropping a pending score cancels it; the session then demands a reset.
///
/// ```
/// use oxenv_core::rubric::ScoringContext;
/// use oxenv_core::{Failure, Reset, Rubric, Score, Work};
///
/// /// Rewards short actions.
/// #[derive(Clone)]
/// struct Brevity;
///
/// impl Rubric for Brevity {
///     fn reset(&mut self, _reset: &Reset) {}
///
///     fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
///         let reward = if seen.act.input().len() < 200 { 1.0 } else { 0.0 };
///         Work::done(Ok(Score::of(Some(reward.into()))))
///     }
///
///     fn fork(&self) -> Box<dyn Rubric> {
///         Box::new(self.clone())
///     }
/// }
/// ```
pub trait Rubric: Send {
    /// Begins an episode.
    fn reset(&mut self, reset: &Reset);

    /// Scores the act that was just finished.
    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>>;

    /// What it needs. Called once, when it is new.
    fn needs(&self) -> RubricNeeds {
        RubricNeeds::default()
    }

    /// The parts of the last score.
    fn report(&self) -> ScoreReport {
        ScoreReport::default()
    }

    /// A copy that goes on independently from the present state.
    fn fork(&self) -> Box<dyn Rubric>;

    /// The present state for [`Rubric::load`]; null if there is none.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes the state that the same rubric saved.
    ///
    /// # Errors
    /// When the value is not one of its states.
    fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        match saved {
            Value::Null => Ok(()),
            _ => Err(no_state_of("a rubric that keeps none")),
        }
    }
}

/// Makes a rubric per session.
pub type RubricFactory = Arc<dyn Fn() -> Box<dyn Rubric> + Send + Sync>;

/// That a saved value is no state of that rubric.
fn no_state_of(what: &str) -> Failure {
    Failure::action(format!("the saved value is no state of {what}"))
}
