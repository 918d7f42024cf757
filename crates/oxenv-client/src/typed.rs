//! [`TypedClient`]: an [`EnvClient`] with the types of one environment.
//!
//! Invariant: an observation that is not of the type is a failure which states that the step was taken,
//! never a panic.

use std::marker::PhantomData;

use oxenv_wire::{Delivered, RawJson, Reward};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::env_client::EnvClient;
use crate::error::{ClientError, Code, Result};
use crate::options::{ResetOptions, StepOptions};
use crate::result::StepResult;

/// A session of an environment whose actions are `A`, observations `O` and states `S`.
///
/// Observations that do not need all fields need not name them; unknown ones are left alone, unless the type
/// refuses them itself.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::{EnvClient, ResetOptions, TypedClient};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize)]
/// struct Move {
///     column: u8,
/// }
///
/// #[derive(Deserialize)]
/// struct Board {
///     legal_actions: Vec<u8>,
/// }
///
/// let env: TypedClient<Move, Board> = TypedClient::new(EnvClient::connect("localhost:8000").await?);
/// let start = env.reset(&ResetOptions::default()).await?;
/// env.step(&Move { column: start.observation.legal_actions[0] }).await?;
/// # Ok(())
/// # }
/// ```
pub struct TypedClient<A, O, S = serde_json::Value> {
    client: EnvClient,
    types: PhantomData<fn(A) -> (O, S)>,
}

/// The result of a reset or a step, with the environment's type of observation.
#[derive(Debug, Clone)]
pub struct TypedResult<O> {
    /// The observation.
    pub observation: O,
    /// The reward; none is not 0.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
    /// The observation's metadata, where the server gives it beside the observation.
    pub metadata: Option<RawJson>,
    /// The number that the request got within its session, where the server gives one.
    pub seq: Option<u64>,
    /// Whether this is the first reply to a request that was repeated.
    pub repeated: bool,
}

impl<A, O, S> TypedClient<A, O, S> {
    /// Adds types to a session.
    #[must_use]
    pub fn new(client: EnvClient) -> Self {
        TypedClient { client, types: PhantomData }
    }

    /// The session without them, for tools, forks and the rest.
    #[must_use]
    pub fn client(&self) -> &EnvClient {
        &self.client
    }

    /// The session, given back.
    #[must_use]
    pub fn into_inner(self) -> EnvClient {
        self.client
    }
}

impl<A: Serialize, O: DeserializeOwned, S: DeserializeOwned> TypedClient<A, O, S> {
    /// Begins an episode.
    ///
    /// # Errors
    /// As [`EnvClient::reset`]; [`Code::InvalidReply`], if the observation is not of the type.
    pub async fn reset(&self, options: &ResetOptions) -> Result<TypedResult<O>> {
        typed(self.client.reset(options).await?)
    }

    /// Takes an action.
    ///
    /// # Errors
    /// As [`EnvClient::step`]; [`Code::InvalidReply`], if the observation is not of the type: the step was
    /// taken.
    pub async fn step(&self, action: &A) -> Result<TypedResult<O>> {
        self.step_with(action, &StepOptions::default()).await
    }

    /// Takes an action with a deadline, an idempotency key or an expected step number.
    ///
    /// # Errors
    /// As [`TypedClient::step`] and [`EnvClient::step_with`].
    pub async fn step_with(&self, action: &A, options: &StepOptions) -> Result<TypedResult<O>> {
        typed(self.client.step_with(action, options).await?)
    }

    /// The state.
    ///
    /// # Errors
    /// As [`EnvClient::state`]; [`Code::InvalidReply`], if it is not of the type.
    pub async fn state(&self) -> Result<S> {
        serde_json::from_value(self.client.state().await?).map_err(|error| {
            let message = format!("the state is not of the expected type: {error}");
            ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
        })
    }

    /// Ends the session and waits for that.
    ///
    /// # Errors
    /// As [`EnvClient::close`].
    pub async fn close(&self) -> Result<()> {
        self.client.close().await
    }
}

fn typed<O: DeserializeOwned>(result: StepResult) -> Result<TypedResult<O>> {
    let observation = result.observation_as()?;
    let StepResult { reward, done, metadata, seq, repeated, .. } = result;
    Ok(TypedResult { observation, reward, done, metadata, seq, repeated })
}
