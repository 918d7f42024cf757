//! `grid_world`: walk from one corner of a 5×5 grid to the other.
//!
//! Invariant: fields, moves and rewards are those of OpenEnv's grid_world; the seed changes nothing.

use std::sync::Arc;

use oxenv_core::{
    Capabilities, EnvironmentFactory, EnvironmentSpec, Failure, ForkMode, Reset, Step, TypedEnvironment,
    typed,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Unread, load, save};

const SIZE: i64 = 5;
const GOAL: (i64, i64) = (SIZE - 1, SIZE - 1);

/// A factory of `grid_world`.
#[must_use]
pub fn factory() -> Arc<dyn EnvironmentFactory> {
    let spec = EnvironmentSpec {
        title: "GridWorldEnvironment".to_owned(),
        readme: Some(include_str!("grid_world/README.md").to_owned()),
        capabilities: Capabilities { fork: ForkMode::Native, snapshot: true, ..Capabilities::default() },
        ..EnvironmentSpec::new("grid_world", "Walk from one corner of a 5 by 5 grid to the other")
    };
    Arc::new(typed(spec, |_boot| GridWorld { x: 0, y: 0, done: false }))
}

#[derive(Clone, Serialize, Deserialize)]
struct GridWorld {
    x: i64,
    y: i64,
    done: bool,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Move {
    Up,
    Down,
    Left,
    Right,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "GridWorldAction")]
struct GridWorldAction {
    /// Where to go: UP is x-1, DOWN x+1, LEFT y-1, RIGHT y+1.
    action: Move,
    /// Anything the sender wants to note; it is not looked at.
    #[serde(default)]
    #[allow(dead_code)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<Unread>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "GridWorldObservation")]
struct GridWorldObservation {
    /// Row, 0 to 4.
    x: i64,
    /// Column, 0 to 4.
    y: i64,
    /// What happened, in words.
    message: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "GridWorldState")]
struct GridWorldState {}

impl GridWorld {
    fn seen(&self, message: impl Into<String>) -> Step<GridWorldObservation> {
        Step::new(GridWorldObservation { x: self.x, y: self.y, message: message.into() })
    }
}

impl TypedEnvironment for GridWorld {
    type Action = GridWorldAction;
    type Observation = GridWorldObservation;
    type State = GridWorldState;

    async fn reset(&mut self, _reset: &Reset) -> Result<Step<GridWorldObservation>, Failure> {
        *self = GridWorld { x: 0, y: 0, done: false };
        Ok(self.seen(format!("You are at (0, 0); the goal is at ({}, {}).", GOAL.0, GOAL.1)).reward(0.0))
    }

    async fn step(&mut self, action: GridWorldAction) -> Result<Step<GridWorldObservation>, Failure> {
        if self.done {
            return Err(Failure::action("the goal was reached; reset to walk again"));
        }
        let (dx, dy) = match action.action {
            Move::Up => (-1, 0),
            Move::Down => (1, 0),
            Move::Left => (0, -1),
            Move::Right => (0, 1),
        };
        let to = ((self.x + dx).clamp(0, SIZE - 1), (self.y + dy).clamp(0, SIZE - 1));
        let blocked = to == (self.x, self.y);
        (self.x, self.y) = to;
        self.done = to == GOAL;
        let message = match (self.done, blocked) {
            (true, _) => "You reached the goal.".to_owned(),
            (false, true) => format!("A wall is in the way; you are still at ({}, {}).", self.x, self.y),
            (false, false) => format!("You are at ({}, {}).", self.x, self.y),
        };
        Ok(self.seen(message).reward(if self.done { 1.0 } else { -0.1 }).done(self.done))
    }

    fn state(&self) -> GridWorldState {
        GridWorldState {}
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
