//! The result of a reset or a step.
//!
//! Invariant: the observation keeps its bytes until it is read, and a reward its type.

use oxenv_wire::{RawJson, Reward};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ClientError, Code, Result};

/// The result of a reset or a step.
#[derive(Debug, Clone, Deserialize)]
pub struct StepResult {
    /// The observation: an object.
    pub observation: RawJson,
    /// The reward; none is not 0.
    #[serde(default)]
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    #[serde(default)]
    pub done: bool,
    /// The observation's metadata, where the server gives it beside the observation.
    #[serde(default)]
    pub metadata: Option<RawJson>,
    /// The number that the request got within its session, where the server gives one.
    #[serde(skip)]
    pub seq: Option<u64>,
    /// Whether this is the first reply to a request that was repeated.
    #[serde(skip)]
    pub repeated: bool,
}

/// A session that a fork or a restore made, by its id.
#[derive(Debug, Clone, Deserialize)]
pub struct ForkedSession {
    /// Its id.
    pub session_id: String,
    /// Where an agent finds its tools.
    pub mcp_url: String,
    /// The token that the agent has to present there, if there is one.
    #[serde(default)]
    pub agent_token: Option<String>,
}

impl StepResult {
    /// The observation as a type.
    ///
    /// # Errors
    /// [`Code::InvalidReply`], if it does not fit.
    ///
    /// ```
    /// use oxenv_client::StepResult;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Echo {
    ///     message: String,
    /// }
    ///
    /// let text = r#"{"observation":{"message":"hi"},"reward":1,"done":false}"#;
    /// let step: StepResult = serde_json::from_str(text)?;
    /// assert_eq!(step.observation_as::<Echo>()?.message, "hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn observation_as<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.observation.get()).map_err(|error| {
            ClientError::new(
                Code::InvalidReply,
                format!("the observation is not of the expected type: {error}"),
            )
            .with_delivered(oxenv_wire::Delivered::Yes)
        })
    }

    /// The observation as JSON.
    #[must_use]
    pub fn observation_value(&self) -> Value {
        serde_json::from_str(self.observation.get()).unwrap_or_default()
    }
}
