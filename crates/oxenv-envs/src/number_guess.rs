//! `number_guess`: find a hidden number by bisection.
//!
//! Invariant: the hidden number is a function of the seed and the bounds alone, and no observation
//! or state shows it before the episode is done.

use std::sync::Arc;

use oxenv_core::{
    Capabilities, EnvironmentFactory, EnvironmentSpec, Failure, ForkMode, Reset, Step, TaskError, TaskList,
    TypedEnvironment, derive_seed, typed,
};
use oxenv_wire::{Split, read};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Unread, load, save};

/// A factory of `number_guess`.
#[must_use]
pub fn factory() -> Arc<dyn EnvironmentFactory> {
    let spec = EnvironmentSpec {
        title: "NumberGuessEnvironment".to_owned(),
        readme: Some(include_str!("number_guess/README.md").to_owned()),
        capabilities: Capabilities { fork: ForkMode::Native, snapshot: true, ..Capabilities::default() },
        tasks: Some(Arc::new(Tasks)),
        ..EnvironmentSpec::new("number_guess", "Find a hidden number; each guess tells higher or lower")
    };
    Arc::new(typed(spec, |boot| NumberGuess::new(boot.seed, Bounds::default())))
}

/// The reset's own arguments.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
struct Bounds {
    low: i64,
    high: i64,
    attempts: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { low: 1, high: 100, attempts: 7 }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct NumberGuess {
    secret: i64,
    bounds: Bounds,
    used: u32,
    done: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "NumberGuessAction")]
struct NumberGuessAction {
    /// The number that you think it is.
    guess: i64,
    /// Anything the sender wants to note; it is not looked at.
    #[serde(default)]
    #[allow(dead_code)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<Unread>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Hint {
    Start,
    Higher,
    Lower,
    Correct,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "NumberGuessObservation")]
struct NumberGuessObservation {
    /// Where the hidden number is, seen from the guess.
    hint: Hint,
    /// The least it can be.
    low: i64,
    /// The most it can be.
    high: i64,
    /// Guesses left.
    attempts_left: u32,
    /// The hidden number, once the episode is done.
    answer: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "NumberGuessState")]
struct NumberGuessState {
    /// Guesses left.
    attempts_left: u32,
    /// Whether the episode is done.
    finished: bool,
}

impl NumberGuess {
    fn new(seed: u64, bounds: Bounds) -> Self {
        // `high >= low` was checked, and the span of two i64 fits u64.
        let span = bounds.high.wrapping_sub(bounds.low).cast_unsigned().saturating_add(1);
        let secret = bounds.low.wrapping_add((derive_seed(seed, 0) % span).cast_signed());
        NumberGuess { secret, bounds, used: 0, done: false }
    }

    fn seen(&self, hint: Hint) -> Step<NumberGuessObservation> {
        Step::new(NumberGuessObservation {
            hint,
            low: self.bounds.low,
            high: self.bounds.high,
            attempts_left: self.bounds.attempts - self.used,
            answer: self.done.then_some(self.secret),
        })
        .done(self.done)
    }
}

impl TypedEnvironment for NumberGuess {
    type Action = NumberGuessAction;
    type Observation = NumberGuessObservation;
    type State = NumberGuessState;

    async fn reset(&mut self, reset: &Reset) -> Result<Step<NumberGuessObservation>, Failure> {
        let bounds: Bounds = match &reset.arguments {
            None => Bounds::default(),
            Some(arguments) => read(arguments).map_err(|error| {
                Failure::action(format!("low, high and attempts are whole numbers: {error}"))
            })?,
        };
        if bounds.low > bounds.high || bounds.attempts == 0 {
            return Err(Failure::action("number_guess needs low <= high and at least one attempt"));
        }
        *self = NumberGuess::new(reset.seed, bounds);
        Ok(self.seen(Hint::Start).reward(0.0))
    }

    async fn step(&mut self, action: NumberGuessAction) -> Result<Step<NumberGuessObservation>, Failure> {
        if self.done {
            return Err(Failure::action("the episode is done; reset to guess again"));
        }
        self.used += 1;
        let found = action.guess == self.secret;
        self.done = found || self.used == self.bounds.attempts;
        let hint = match action.guess.cmp(&self.secret) {
            std::cmp::Ordering::Less => Hint::Higher,
            std::cmp::Ordering::Equal => Hint::Correct,
            std::cmp::Ordering::Greater => Hint::Lower,
        };
        Ok(self.seen(hint).reward(if found { 1.0 } else { 0.0 }))
    }

    fn state(&self) -> NumberGuessState {
        NumberGuessState { attempts_left: self.bounds.attempts - self.used, finished: self.done }
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        save(self)
    }

    fn restore(bytes: &[u8]) -> Option<Self> {
        load(bytes)
    }
}

/// Tasks are seeds and bounds; no task of one split is in another.
struct Tasks;

impl Tasks {
    fn split(name: &str) -> Result<(usize, u64), TaskError> {
        match name {
            "train" => Ok((1000, 0)),
            "validation" => Ok((100, 1_000_000)),
            "test" => Ok((100, 2_000_000)),
            _ => Err(TaskError::UnknownSplit),
        }
    }
}

impl TaskList for Tasks {
    fn splits(&self) -> Vec<Split> {
        ["train", "validation", "test"]
            .map(|name| Split { name: name.to_owned(), kind: name.to_owned() })
            .to_vec()
    }

    fn count(&self, split: &str) -> Result<usize, TaskError> {
        Self::split(split).map(|(count, _)| count)
    }

    fn task(&self, split: &str, index: usize) -> Result<Value, TaskError> {
        let (count, first_seed) = Self::split(split)?;
        if index >= count {
            return Err(TaskError::OutOfRange);
        }
        // Every tenth task is a wide one, so that an agent has to bisect.
        let (high, attempts) = if index % 10 == 9 { (1000, 10) } else { (100, 7) };
        Ok(json!({ "seed": first_seed + index as u64, "low": 1, "high": high, "attempts": attempts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_within_any_bounds() {
        for (low, high) in [(1, 100), (5, 5), (i64::MIN, i64::MAX), (-3, 0)] {
            for seed in 0..100 {
                let game = NumberGuess::new(seed, Bounds { low, high, attempts: 1 });
                assert!((low..=high).contains(&game.secret), "{} of {low}..={high}", game.secret);
            }
        }
    }
}
