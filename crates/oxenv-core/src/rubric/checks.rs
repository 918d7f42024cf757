//! Rubrics without parts that look for themselves: [`ToolCalled`], [`OutputMatches`], [`FinalState`],
//! [`EnvironmentReward`], [`Constant`].
//!
//! Invariant: a check gives 1 or 0 about what it was made for, and has no opinion about anything
//! else. What cannot be read as JSON does not match, nor what is too deep to check.

use std::borrow::Cow;
use std::sync::Arc;

use oxenv_schema::{CheckBudget, MAX_INLINE_BYTES, Schema, TooDeep, run_blocking};
use oxenv_wire::Reward;
use serde_json::Value;

use super::expected::expected;
use super::readings::{Read, Readings};
use super::{EpisodeEvent, Rubric, RubricNeeds, Score, ScoringContext};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::policy::Pattern;
use crate::work::Work;

/// Maximum number of texts that are checked on the calling thread.
const MAX_INLINE_TEXTS: usize = 32;

/// At the end of an episode: whether a tool was called as often as it should have been. Calls that
/// the tool answered with an error do not count.
#[derive(Clone)]
pub struct ToolCalled {
    tool: Arc<Pattern>,
    arguments: Option<Arc<Schema>>,
    at_least: u64,
    at_most: Option<u64>,
}

/// Whether the outcome of an act fits a JSON Schema: the result of a tool, or else the observation of
/// a typed step. A tool's error does not fit. A text that is JSON is read as JSON.
#[derive(Clone)]
pub struct OutputMatches {
    tool: Option<Arc<Pattern>>,
    schema: Arc<Schema>,
    readings: Readings,
}

/// At the end of an episode: whether the environment is as it should be.
#[derive(Clone)]
pub struct FinalState {
    of: FinalStateSource,
    wanted: Expectation,
}

/// The source of a final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalStateSource {
    /// The environment's state.
    State,
    /// The last observation of a typed step.
    Observation,
}

#[derive(Clone)]
enum Expectation {
    Schema(Arc<Schema>),
    Part(Arc<Value>),
}

/// The reward that the environment itself gave, if it gave one.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvironmentReward;

/// A constant reward for every act, or for every call of some tools.
#[derive(Clone)]
pub struct Constant {
    reward: Reward,
    tool: Option<Arc<Pattern>>,
}

impl ToolCalled {
    /// A tool, by a pattern in which `*` stands for any characters and `?` for one, that should be
    /// called once or more.
    ///
    /// # Errors
    /// When the pattern is invalid.
    pub fn new(tool: &str) -> Result<Self, String> {
        Ok(ToolCalled { tool: Arc::new(Pattern::new(tool)?), arguments: None, at_least: 1, at_most: None })
    }

    /// Counts only calls whose arguments fit this JSON Schema.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn with_arguments(mut self, schema: &Value) -> Result<Self, String> {
        self.arguments = Some(expected(schema)?);
        Ok(self)
    }

    /// How often it should be called; without `at_most` there is no upper limit.
    #[must_use]
    pub fn times(mut self, at_least: u64, at_most: Option<u64>) -> Self {
        (self.at_least, self.at_most) = (at_least, at_most);
        self
    }

    /// The inputs of the calls that count if their arguments fit.
    fn inputs<'a>(&self, seen: &'a ScoringContext<'a>) -> Vec<Cow<'a, str>> {
        let earlier = seen.earlier.iter().map(|act| (act.tool.as_deref(), act.input.get(), act.is_error));
        let last = (seen.act.tool(), seen.act.input(), seen.act.is_error());
        earlier
            .chain([last])
            .filter(|(tool, _, is_error)| !is_error && tool.is_some_and(|tool| self.tool.matches(tool)))
            .map(|(_, input, _)| Cow::Borrowed(input))
            .collect()
    }

    fn holds(&self, count: usize) -> bool {
        let count = count as u64;
        count >= self.at_least && self.at_most.is_none_or(|most| count <= most)
    }
}

impl OutputMatches {
    /// A JSON Schema that observations of typed steps should fit.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn of_observation(schema: &Value) -> Result<Self, String> {
        Ok(OutputMatches { tool: None, schema: expected(schema)?, readings: Readings::of(schema) })
    }

    /// A JSON Schema that the results of tools should fit; these are given by a pattern.
    ///
    /// # Errors
    /// When the pattern is invalid, or the schema does not compile.
    pub fn of_tool(tool: &str, schema: &Value) -> Result<Self, String> {
        let tool = Some(Arc::new(Pattern::new(tool)?));
        Ok(OutputMatches { tool, schema: expected(schema)?, readings: Readings::of(schema) })
    }
}

impl FinalState {
    /// A JSON Schema that the state or the last observation should fit.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn fitting(of: FinalStateSource, schema: &Value) -> Result<Self, String> {
        Ok(FinalState { of, wanted: Expectation::Schema(expected(schema)?) })
    }

    /// A value that should be found in the state or the last observation: an object in which at least
    /// these keys are, as deep as it goes; anything else exactly.
    #[must_use]
    pub fn containing(of: FinalStateSource, part: Value) -> Self {
        FinalState { of, wanted: Expectation::Part(Arc::new(part)) }
    }

    /// What is checked, at the end of an episode.
    fn text<'a>(&self, seen: &ScoringContext<'a>) -> Result<Option<&'a str>, Failure> {
        match (self.of, seen.act) {
            _ if !seen.done => Ok(None),
            (FinalStateSource::Observation, EpisodeEvent::Step { observed, .. }) => {
                Ok(Some(observed.fields.get()))
            }
            // Where a call ends the episode, what the environment showed last is what stands.
            (FinalStateSource::Observation, EpisodeEvent::Call(_)) => {
                let shown = seen.earlier.iter().rev().find(|act| act.tool.is_none());
                Ok(shown.map(|act| act.output.get()))
            }
            (FinalStateSource::State, _) => match seen.state {
                Some(state) => Ok(Some(state.get())),
                None => {
                    let message = "the final state is not known here: records keep observations only, \
                                   so check those, or score while the environment lives";
                    Err(Failure::infrastructure(message))
                }
            },
        }
    }
}

impl Constant {
    /// A reward for every act.
    #[must_use]
    pub fn new(reward: Reward) -> Self {
        Constant { reward, tool: None }
    }

    /// Gives it for calls of those tools only.
    ///
    /// # Errors
    /// When the pattern is invalid.
    pub fn for_tool(mut self, tool: &str) -> Result<Self, String> {
        self.tool = Some(Arc::new(Pattern::new(tool)?));
        Ok(self)
    }
}

impl Rubric for ToolCalled {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        if !seen.done {
            return nothing();
        }
        let inputs = self.inputs(seen);
        match &self.arguments {
            None => ready_score(truth(self.holds(inputs.len()))),
            Some(arguments) => {
                let count = count_fitting(arguments, inputs);
                scored(count, |count| self.holds(count))
            }
        }
    }

    fn needs(&self) -> RubricNeeds {
        RubricNeeds { episode: true, state: false }
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for OutputMatches {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        let asked = match (&self.tool, seen.act.tool()) {
            (None, None) => true,
            (Some(pattern), Some(tool)) => pattern.matches(tool),
            _ => false,
        };
        if !asked {
            return nothing();
        }
        if seen.act.is_error() {
            return ready_score(truth(false));
        }
        let Read { texts, needed } = self.readings.read(seen.act);
        scored(count_fitting(&self.schema, texts), move |count| count >= needed)
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for FinalState {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        match (self.text(seen), &self.wanted) {
            (Err(failure), _) => Work::done(Err(failure)),
            (Ok(None), _) => nothing(),
            (Ok(Some(text)), Expectation::Schema(schema)) => {
                scored(count_fitting(schema, vec![Cow::Borrowed(text)]), |count| count == 1)
            }
            (Ok(Some(text)), Expectation::Part(part)) => {
                ready_score(truth(serde_json::from_str(text).is_ok_and(|value| contains(&value, part))))
            }
        }
    }

    fn needs(&self) -> RubricNeeds {
        RubricNeeds {
            episode: self.of == FinalStateSource::Observation,
            state: self.of == FinalStateSource::State,
        }
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for EnvironmentReward {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        ready_score(seen.reward)
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(*self)
    }
}

impl Rubric for Constant {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        let meant = match &self.tool {
            None => true,
            Some(pattern) => seen.act.tool().is_some_and(|tool| pattern.matches(tool)),
        };
        ready_score(meant.then_some(self.reward))
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

fn ready_score<'a>(reward: Option<Reward>) -> Work<'a, Result<Score, Failure>> {
    Work::done(Ok(Score::of(reward)))
}

fn nothing<'a>() -> Work<'a, Result<Score, Failure>> {
    ready_score(None)
}

fn truth(holds: bool) -> Option<Reward> {
    Some(Reward::Float(f64::from(u8::from(holds))))
}

/// The score of a count that is there already, or will be.
fn scored<'a>(
    count: Work<'a, usize>,
    holds: impl FnOnce(usize) -> bool + Send + 'a,
) -> Work<'a, Result<Score, Failure>> {
    match count {
        Work::Done(Some(count)) => ready_score(truth(holds(count))),
        pending => Work::pending(async move { Ok(Score::of(truth(holds(pending.await)))) }),
    }
}

/// How many of these texts of JSON fit: at once where they are few and small, and elsewhere otherwise.
fn count_fitting<'a>(schema: &Arc<Schema>, texts: Vec<Cow<'a, str>>) -> Work<'a, usize> {
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    if texts.len() <= MAX_INLINE_TEXTS && bytes <= MAX_INLINE_BYTES {
        let budget = CheckBudget::inline();
        let fit: Result<Vec<bool>, TooDeep> = texts.iter().map(|text| fits(schema, text, &budget)).collect();
        if let Ok(fit) = fit {
            return Work::done(fit.into_iter().filter(|fits| *fits).count());
        }
    }
    let (schema, texts) = (Arc::clone(schema), texts.into_iter().map(Cow::into_owned));
    let texts: Vec<String> = texts.collect();
    Work::pending(async move {
        let count = run_blocking(move |gone| {
            let fits = |text: &&String| {
                let budget = CheckBudget::full(text.len()).cancelled_by(Arc::clone(&gone));
                fits(&schema, text, &budget).unwrap_or(false)
            };
            texts.iter().filter(fits).count()
        });
        count.await.unwrap_or_default()
    })
}

fn fits(schema: &Schema, text: &str, budget: &CheckBudget) -> Result<bool, TooDeep> {
    serde_json::from_str(text).map_or(Ok(false), |value| schema.is_valid(&value, budget))
}

/// Whether every key of an object is in the other, as deep as it goes; other values are compared
/// whole, numbers by what they are worth.
fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => {
            part.iter().all(|(key, part)| value.get(key).is_some_and(|value| contains(value, part)))
        }
        (Value::Array(value), Value::Array(part)) => {
            value.len() == part.len() && value.iter().zip(part).all(|(value, part)| contains(value, part))
        }
        (Value::Number(value), Value::Number(part)) if value.is_f64() != part.is_f64() => {
            value.as_f64() == part.as_f64()
        }
        _ => value == part,
    }
}
