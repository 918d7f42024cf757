//! The clients that a [`Connection`] offers: of its sessions, and for steps of many of them at once.
//!
//! Invariant: each session of a connection is an [`EnvClient`] like any other.

use oxenv_wire::RawJson;

use crate::connection::{BatchedStep, Connection};
use crate::env_client::EnvClient;
use crate::error::{ClientError, Code, Result};
use crate::options::OpenOptions;
use crate::result::StepResult;

/// One step of a batch.
pub struct BatchStep<'a> {
    /// The session of the step, on the same connection.
    pub client: &'a EnvClient,
    /// The action: an object.
    pub action: RawJson,
    /// The key under which a repeat is the same step.
    pub key: Option<String>,
}

impl Connection {
    /// Opens a session.
    ///
    /// # Errors
    /// Why there is none, by its code.
    pub async fn open(&self, options: &OpenOptions) -> Result<EnvClient> {
        Ok(EnvClient::from_multi(self.open_session(options).await?, self.options()))
    }

    /// Attaches to a session that exists. When the client is dropped the session is not ended; the server has
    /// it back when the connection closes. After a lost socket it has to be attached to again by the caller.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn attach(&self, session_id: &str) -> Result<EnvClient> {
        Ok(EnvClient::from_multi(self.attach_session(session_id).await?, self.options()))
    }

    /// Makes a new session of a snapshot that fits into a frame ([`EnvClient::restore`] takes larger ones).
    /// Of the options it takes `resume` alone.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if there are others; and why there is none.
    pub async fn restore(&self, snapshot: &str, options: &OpenOptions) -> Result<EnvClient> {
        Ok(EnvClient::from_multi(self.restore_session(snapshot, options).await?, self.options()))
    }

    /// Takes many steps in one frame, of 4,096 at most; the results are in the order of the steps, each with
    /// its own failure.
    ///
    /// ```no_run
    /// # async fn run(connection: oxenv_client::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// use oxenv_client::{BatchStep, OpenOptions};
    /// use serde_json::value::to_raw_value;
    ///
    /// let (one, two) = (
    ///     connection.open(&OpenOptions::default()).await?,
    ///     connection.open(&OpenOptions::default()).await?,
    /// );
    /// let action = to_raw_value(&serde_json::json!({ "action": "DOWN" }))?;
    /// let steps = [&one, &two].map(|client| BatchStep { client, action: action.clone(), key: None });
    /// for result in connection.step_batch(steps.into()).await? {
    ///     println!("{:?}", result?.reward);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if a session is not of this connection; and if the
    /// batch as a whole got no answer.
    pub async fn step_batch(&self, steps: Vec<BatchStep<'_>>) -> Result<Vec<Result<StepResult>>> {
        let (mut items, mut refused) = (Vec::with_capacity(steps.len()), Vec::new());
        for (index, step) in steps.iter().enumerate() {
            let session = step.client.multi().filter(|session| session.is_of(self));
            let session = session.ok_or_else(|| {
                let message =
                    format!("step {index} of the batch is of a session that is not of this connection");
                ClientError::new(Code::InvalidOptions, message)
            })?;
            match session.check_usable() {
                Ok(()) => items.push(BatchedStep { session, action: &step.action, key: step.key.as_deref() }),
                Err(error) => refused.push((index, error)),
            }
        }
        let mut results = if items.is_empty() { Vec::new() } else { self.send_batch(&items).await? };
        for (index, error) in refused {
            results.insert(index, Err(error));
        }
        Ok(results)
    }
}
