//! [`ComponentRubric`]: a rubric within another one, with its name and its last score.
//!
//! Invariant: a part that was not asked about an act reports null for itself and for all within it,
//! never what it gave for an earlier act.

use oxenv_wire::Reward;
use serde_json::Value;

use super::{Rubric, RubricNeeds, Score, ScoreReport, ScoringContext, no_state_of};
use crate::environment::Reset;
use crate::failure::Failure;

/// A rubric as a part of another.
pub struct ComponentRubric {
    name: String,
    rubric: Box<dyn Rubric>,
    last: LastScore,
}

/// A part's result for the last act.
#[derive(Clone, Copy)]
enum LastScore {
    /// It was not asked.
    NotAsked,
    /// It was asked; absent: it has no opinion.
    Given(Option<Reward>),
}

impl LastScore {
    fn reward(self) -> Option<Reward> {
        match self {
            LastScore::NotAsked => None,
            LastScore::Given(reward) => reward,
        }
    }
}

impl ComponentRubric {
    /// A part; its name stands in reports, below the name of the whole.
    #[must_use]
    pub fn new(name: impl Into<String>, rubric: Box<dyn Rubric>) -> Self {
        ComponentRubric { name: name.into(), rubric, last: LastScore::NotAsked }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn reset(&mut self, reset: &Reset) {
        self.last = LastScore::NotAsked;
        self.rubric.reset(reset);
    }

    /// Marks that it is not asked about the present act.
    pub(super) fn skip(&mut self) {
        self.last = LastScore::NotAsked;
    }

    pub(super) async fn score(&mut self, seen: &ScoringContext<'_>) -> Result<Score, Failure> {
        self.last = LastScore::NotAsked;
        let score = self.rubric.score(seen).await?;
        self.last = LastScore::Given(score.reward);
        Ok(score)
    }

    pub(super) fn needs(&self) -> RubricNeeds {
        self.rubric.needs()
    }

    /// Adds its score and those within it.
    pub(super) fn report(&self, whole: &mut ScoreReport) {
        let own = self.rubric.report();
        whole.parts.push((self.name.clone(), self.last.reward()));
        let asked = matches!(self.last, LastScore::Given(_));
        let inner = own.parts.into_iter();
        whole.parts.extend(inner.map(|(name, reward)| (self.below(&name), reward.filter(|_| asked))));
        if asked {
            let rewards = own.step_rewards.into_iter();
            whole.step_rewards.extend(rewards.map(|(name, rewards)| (self.below(&name), rewards)));
            whole.answers.extend(own.answers);
        }
    }

    /// The report of a part that is the whole: a rubric without parts is listed itself.
    pub(super) fn report_alone(&self) -> ScoreReport {
        let mut report = self.rubric.report();
        if report.parts.is_empty() {
            report.parts.push((self.name.clone(), self.last.reward()));
        }
        for (name, _) in report.step_rewards.iter_mut().filter(|(name, _)| name.is_empty()) {
            name.clone_from(&self.name);
        }
        report
    }

    pub(super) fn fork(&self) -> ComponentRubric {
        ComponentRubric { name: self.name.clone(), rubric: self.rubric.fork(), last: self.last }
    }

    pub(super) fn save(&self) -> Value {
        self.rubric.save()
    }

    pub(super) fn load(&mut self, saved: &Value) -> Result<(), Failure> {
        self.last = LastScore::NotAsked;
        self.rubric.load(saved)
    }

    fn below(&self, name: &str) -> String {
        if name.is_empty() { self.name.clone() } else { format!("{}.{name}", self.name) }
    }
}

/// What several parts need together.
pub(super) fn needs<'a>(parts: impl IntoIterator<Item = &'a ComponentRubric>) -> RubricNeeds {
    parts.into_iter().fold(RubricNeeds::default(), |needs, part| needs | part.needs())
}

pub(super) fn report<'a>(parts: impl IntoIterator<Item = &'a ComponentRubric>) -> ScoreReport {
    let mut report = ScoreReport::default();
    parts.into_iter().for_each(|part| part.report(&mut report));
    report
}

pub(super) fn save<'a>(parts: impl IntoIterator<Item = &'a ComponentRubric>) -> Value {
    parts.into_iter().map(ComponentRubric::save).collect()
}

pub(super) fn load(parts: Vec<&mut ComponentRubric>, saved: &Value) -> Result<(), Failure> {
    match saved.as_array() {
        Some(states) if states.len() == parts.len() => {
            parts.into_iter().zip(states).try_for_each(|(part, state)| part.load(state))
        }
        _ => Err(no_state_of(&format!("a rubric of {} parts", parts.len()))),
    }
}
