//! Rubrics without parts that look for themselves: [`ToolCalled`], [`OutputMatches`], [`FinalState`],
//! [`EnvironmentReward`], [`Constant`].
//!
//! Invariant: a check gives 1 or 0 about what it was made for, and has no opinion about anything
//! else. What cannot be read as JSON does not match.

use std::sync::Arc;

use jsonschema::Validator;
use oxenv_wire::Reward;
use serde_json::Value;

use super::{Act, Needs, Rubric, Score, Seen};
use crate::environment::Reset;
use crate::failure::Failure;
use crate::policy::{Pattern, validator};
use crate::work::Work;

/// At the end of an episode: whether a tool was called as often as it should have been. Calls that
/// the tool answered with an error do not count.
#[derive(Clone)]
pub struct ToolCalled {
    tool: Arc<Pattern>,
    arguments: Option<Arc<Validator>>,
    at_least: u64,
    at_most: Option<u64>,
}

/// Whether what came of an act fits a JSON Schema: the result of a tool, or else the observation of a
/// typed step. A tool's error does not fit.
#[derive(Clone)]
pub struct OutputMatches {
    tool: Option<Arc<Pattern>>,
    schema: Arc<Validator>,
}

/// At the end of an episode: whether the environment is as it should be.
#[derive(Clone)]
pub struct FinalState {
    of: Of,
    wanted: Wanted,
}

/// What a final state is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The environment's state.
    State,
    /// The last observation of a typed step.
    Observation,
}

#[derive(Clone)]
enum Wanted {
    Schema(Arc<Validator>),
    Part(Arc<Value>),
}

/// The reward that the environment itself gave, if it gave one.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvironmentReward;

/// The same for every act, or for every call of some tools.
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
    /// When the pattern is none.
    pub fn new(tool: &str) -> Result<Self, String> {
        Ok(ToolCalled { tool: Arc::new(Pattern::new(tool)?), arguments: None, at_least: 1, at_most: None })
    }

    /// Counts only calls whose arguments fit this JSON Schema.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn with_arguments(mut self, schema: &Value) -> Result<Self, String> {
        self.arguments = Some(Arc::new(validator(schema)?));
        Ok(self)
    }

    /// How often it should be called; without `at_most` there is no upper limit.
    #[must_use]
    pub fn times(mut self, at_least: u64, at_most: Option<u64>) -> Self {
        (self.at_least, self.at_most) = (at_least, at_most);
        self
    }

    fn counts(&self, tool: Option<&str>, input: &str, is_error: bool) -> bool {
        tool.is_some_and(|tool| self.tool.matches(tool))
            && !is_error
            && self.arguments.as_deref().is_none_or(|arguments| fits(arguments, input))
    }
}

impl OutputMatches {
    /// A JSON Schema that observations of typed steps should fit.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn of_observation(schema: &Value) -> Result<Self, String> {
        Ok(OutputMatches { tool: None, schema: Arc::new(validator(schema)?) })
    }

    /// A JSON Schema that the results of tools should fit; these are given by a pattern.
    ///
    /// # Errors
    /// When the pattern is none, or the schema does not compile.
    pub fn of_tool(tool: &str, schema: &Value) -> Result<Self, String> {
        Ok(OutputMatches { tool: Some(Arc::new(Pattern::new(tool)?)), schema: Arc::new(validator(schema)?) })
    }
}

impl FinalState {
    /// A JSON Schema that the state or the last observation should fit.
    ///
    /// # Errors
    /// When the schema does not compile, or refers to something outside itself.
    pub fn fitting(of: Of, schema: &Value) -> Result<Self, String> {
        Ok(FinalState { of, wanted: Wanted::Schema(Arc::new(validator(schema)?)) })
    }

    /// A value that should be found in the state or the last observation: an object in which at least
    /// these keys are, as deep as it goes; anything else exactly.
    #[must_use]
    pub fn containing(of: Of, part: Value) -> Self {
        FinalState { of, wanted: Wanted::Part(Arc::new(part)) }
    }

    fn look(&self, seen: &Seen<'_>) -> Result<Option<Reward>, Failure> {
        let text = match (self.of, seen.act) {
            _ if !seen.done => return Ok(None),
            (Of::Observation, Act::Step { observed, .. }) => observed.fields.get(),
            // Where a call ends the episode, what the environment showed last is what stands.
            (Of::Observation, Act::Call(_)) => {
                match seen.earlier.iter().rev().find(|act| act.tool.is_none()) {
                    Some(act) => act.output.get(),
                    None => return Ok(None),
                }
            }
            (Of::State, _) => match seen.state {
                Some(state) => state.get(),
                None => {
                    let message = "the final state is not known here: records keep observations only, \
                                   so check those, or score while the environment lives";
                    return Err(Failure::infrastructure(message));
                }
            },
        };
        Ok(truth(match &self.wanted {
            Wanted::Schema(schema) => fits(schema, text),
            Wanted::Part(part) => serde_json::from_str(text).is_ok_and(|value| contains(&value, part)),
        }))
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
    /// When the pattern is none.
    pub fn for_tool(mut self, tool: &str) -> Result<Self, String> {
        self.tool = Some(Arc::new(Pattern::new(tool)?));
        Ok(self)
    }
}

impl Rubric for ToolCalled {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a Seen<'a>) -> Work<'a, Result<Score, Failure>> {
        if !seen.done {
            return nothing();
        }
        let earlier = seen.earlier.iter();
        let earlier =
            earlier.filter(|act| self.counts(act.tool.as_deref(), act.input.get(), act.is_error)).count();
        let last = self.counts(seen.act.tool(), seen.act.input(), seen.act.is_error());
        let count = earlier as u64 + u64::from(last);
        gives(truth(count >= self.at_least && self.at_most.is_none_or(|most| count <= most)))
    }

    fn needs(&self) -> Needs {
        Needs { episode: true, state: false }
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for OutputMatches {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a Seen<'a>) -> Work<'a, Result<Score, Failure>> {
        let asked = match (&self.tool, seen.act.tool()) {
            (None, None) => true,
            (Some(pattern), Some(tool)) => pattern.matches(tool),
            _ => false,
        };
        if !asked {
            return nothing();
        }
        gives(truth(!seen.act.is_error() && fits(&self.schema, &seen.act.output())))
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for FinalState {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a Seen<'a>) -> Work<'a, Result<Score, Failure>> {
        Work::done(self.look(seen).map(Score::of))
    }

    fn needs(&self) -> Needs {
        Needs { episode: self.of == Of::Observation, state: self.of == Of::State }
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

impl Rubric for EnvironmentReward {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a Seen<'a>) -> Work<'a, Result<Score, Failure>> {
        gives(seen.reward)
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(*self)
    }
}

impl Rubric for Constant {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a Seen<'a>) -> Work<'a, Result<Score, Failure>> {
        let meant = match &self.tool {
            None => true,
            Some(pattern) => seen.act.tool().is_some_and(|tool| pattern.matches(tool)),
        };
        gives(meant.then_some(self.reward))
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

fn gives<'a>(reward: Option<Reward>) -> Work<'a, Result<Score, Failure>> {
    Work::done(Ok(Score::of(reward)))
}

fn nothing<'a>() -> Work<'a, Result<Score, Failure>> {
    gives(None)
}

fn truth(holds: bool) -> Option<Reward> {
    Some(Reward::Float(f64::from(u8::from(holds))))
}

fn fits(schema: &Validator, text: &str) -> bool {
    serde_json::from_str(text).is_ok_and(|value| schema.is_valid(&value))
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
