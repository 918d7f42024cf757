//! `connect4`: four in a row on a 6×7 board, for two players who take turns, or against a seeded
//! opponent.
//!
//! Invariant: fields and rules are those of OpenEnv's connect4; the opponent's moves are a function
//! of the seed and the number of pieces, so a copied board plays on alike.

mod board;

use std::sync::Arc;

use oxenv_core::{
    Capabilities, EnvironmentFactory, EnvironmentSpec, Failure, ForkMode, Reset, Step, TypedEnvironment,
    derive_seed, typed,
};
use oxenv_wire::{Reward, read};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Unread, load, save};
use board::{Board, Drop};

/// A factory of `connect4`.
#[must_use]
pub fn factory() -> Arc<dyn EnvironmentFactory> {
    let spec = EnvironmentSpec {
        title: "Connect4Environment".to_owned(),
        readme: Some(include_str!("connect4/README.md").to_owned()),
        capabilities: Capabilities { fork: ForkMode::Native, snapshot: true, ..Capabilities::default() },
        ..EnvironmentSpec::new("connect4", "Four in a row on a board of 6 rows and 7 columns")
    };
    Arc::new(typed(spec, |boot| Connect4::new(boot.seed, Opponent::None)))
}

/// Who plays the other colour.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Opponent {
    /// The client, in turns.
    #[default]
    None,
    /// A seeded opponent that drops at random.
    Random,
}

/// The reset's own arguments.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Arguments {
    opponent: Opponent,
}

#[derive(Clone, Serialize, Deserialize)]
struct Connect4 {
    board: Board,
    next_player: i8,
    opponent: Opponent,
    seed: u64,
    done: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Connect4Action")]
struct Connect4Action {
    /// The column to drop a piece into, 0 to 6; an illegal one loses the game.
    column: i64,
    /// Anything the sender wants to note; it is not looked at.
    #[serde(default)]
    #[allow(dead_code)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<Unread>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "Connect4Observation")]
struct Connect4Observation {
    /// Rows from the top: 1 and -1 are the players' pieces, 0 is empty.
    board: Board,
    /// Columns that are not full.
    legal_actions: Vec<usize>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(title = "Connect4State")]
struct Connect4State {
    /// Rows from the top.
    board: Board,
    /// Whose turn it is: 1 or -1.
    next_player: i8,
}

impl Connect4 {
    fn new(seed: u64, opponent: Opponent) -> Self {
        Connect4 { board: Board::default(), next_player: 1, opponent, seed, done: false }
    }

    fn seen(&self, reward: Reward) -> Step<Connect4Observation> {
        let observation =
            Connect4Observation { board: self.board.clone(), legal_actions: self.board.legal() };
        Step::new(observation)
            .reward(reward)
            .done(self.done)
            .metadata(json!({ "next_player": self.next_player }))
    }

    /// Drops a piece for whose turn it is; the reward is that player's.
    fn drop_piece(&mut self, column: i64) -> Reward {
        let fell =
            usize::try_from(column).map_or(Drop::Illegal, |column| self.board.drop(column, self.next_player));
        self.next_player = -self.next_player;
        self.done = fell != Drop::Open;
        match fell {
            Drop::Illegal => Reward::Int(-1),
            Drop::Four => Reward::Float(1.0),
            Drop::Full | Drop::Open => Reward::Float(0.0),
        }
    }

    /// The seeded opponent's column: any that is legal, each as likely.
    fn reply(&self) -> usize {
        let legal = self.board.legal();
        let random = derive_seed(self.seed, self.board.pieces()) as usize;
        legal[random % legal.len()]
    }
}

impl TypedEnvironment for Connect4 {
    type Action = Connect4Action;
    type Observation = Connect4Observation;
    type State = Connect4State;

    async fn reset(&mut self, reset: &Reset) -> Result<Step<Connect4Observation>, Failure> {
        let arguments: Arguments = match &reset.arguments {
            None => Arguments::default(),
            Some(arguments) => read(arguments)
                .map_err(|error| Failure::action(format!("opponent is \"none\" or \"random\": {error}")))?,
        };
        *self = Connect4::new(reset.seed, arguments.opponent);
        Ok(self.seen(Reward::Float(0.0)))
    }

    async fn step(&mut self, action: Connect4Action) -> Result<Step<Connect4Observation>, Failure> {
        if self.done {
            return Err(Failure::action("the game is over; reset to play again"));
        }
        let mut reward = self.drop_piece(action.column);
        if self.opponent == Opponent::Random && !self.done {
            let column = self.reply();
            reward = match self.drop_piece(column as i64) {
                Reward::Float(1.0) => Reward::Float(-1.0),
                other => other,
            };
            let mut step = self.seen(reward);
            step.metadata["opponent_column"] = json!(column);
            return Ok(step);
        }
        Ok(self.seen(reward))
    }

    fn state(&self) -> Connect4State {
        Connect4State { board: self.board.clone(), next_player: self.next_player }
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
