//! [`StockSession`]: a session in the stock dialect of `/ws`, as every OpenEnv server speaks it.
//!
//! Invariant: the socket is the session. Nothing is sent twice, since the dialect has no keys.

use std::time::Duration;

use oxenv_wire::{ErrorCode, Phase, RawJson, Tool};
use parking_lot::Mutex;
use serde::Serialize;

use super::ordered_socket::OrderedSocket;
use super::{reply, tools};
use crate::dial::{OpenedSocket, ServerAddress};
use crate::error::{ClientError, Code, Result};
use crate::options::{OpenOptions, ResetOptions, StepOptions};
use crate::result::StepResult;

pub(super) struct StockSession {
    socket: OrderedSocket,
    /// The content of the first reset, if it has none of its own.
    first_reset: Mutex<FirstReset>,
}

/// The seed and the name that a session was opened with, where the protocol has no place for them but a
/// reset.
#[derive(Default)]
pub(super) struct FirstReset {
    seed: Option<u64>,
    episode_id: Option<String>,
}

impl StockSession {
    /// # Errors
    /// [`Code::VersionMismatch`], if the session is to outlive its socket.
    pub(super) fn new(dialled: OpenedSocket, target: &ServerAddress, open: &OpenOptions) -> Result<Self> {
        if open.resume.is_some() {
            let message = format!("{target} does not speak oxenv.1, so its sessions cannot be resumed");
            return Err(ClientError::new(Code::VersionMismatch, message));
        }
        let socket = OrderedSocket::new(dialled.socket, target.to_string());
        Ok(StockSession { socket, first_reset: Mutex::new(FirstReset::from_options(open)) })
    }

    pub(super) async fn reset(&self, options: &ResetOptions, within: Duration) -> Result<StepResult> {
        let options = self.first_reset.lock().merge_into(options);
        let text = self.socket.request(stock_request("reset", &options)?, within, "the reset").await?;
        reply::read(&text, "observation", Some(Phase::Reset))
    }

    pub(super) async fn step(
        &self,
        action: RawJson,
        options: &StepOptions,
        within: Duration,
    ) -> Result<StepResult> {
        refuse_keys(options)?;
        let mut request = String::with_capacity(action.get().len() + 32);
        request.push_str("{\"type\":\"step\",\"data\":");
        request.push_str(action.get());
        request.push('}');
        let text = self.socket.request(request, within, "the step").await?;
        reply::read(&text, "observation", Some(Phase::Step))
    }

    pub(super) async fn state(&self, within: Duration) -> Result<RawJson> {
        let text = self
            .socket
            .request(r#"{"type":"state"}"#.to_owned(), within, "the question for the state")
            .await?;
        reply::read(&text, "state", None)
    }

    /// The tools without a step; none if the server does not list them so.
    pub(super) async fn tools(&self, within: Duration) -> Result<Option<Vec<Tool>>> {
        let request = format!(r#"{{"type":"mcp","data":{}}}"#, tools::LIST_TOOLS_RPC);
        let text = self.socket.request(request, within, "the question for the tools").await?;
        Ok(reply::read::<RawJson>(&text, "mcp", None)
            .ok()
            .and_then(|data| tools::parse_tools_rpc(data.get())))
    }

    pub(super) async fn close(&self, within: Duration) -> Result<()> {
        self.socket.close(r#"{"type":"close"}"#, within).await
    }
}

impl FirstReset {
    pub(super) fn from_options(open: &OpenOptions) -> Self {
        FirstReset { seed: open.seed, episode_id: open.episode_id.clone() }
    }

    /// The options with what is left for the first episode.
    pub(super) fn merge_into(&mut self, options: &ResetOptions) -> ResetOptions {
        let first = std::mem::take(self);
        let mut options = options.clone();
        options.seed = options.seed.or(first.seed);
        options.episode_id = options.episode_id.or(first.episode_id);
        options
    }
}

/// A key that the server does not heed would promise too much.
pub(super) fn refuse_keys(options: &StepOptions) -> Result<()> {
    if options.key.is_none() && options.expected_step.is_none() {
        return Ok(());
    }
    let message =
        "this server has no keys and no numbers of steps; use one of ours with oxenv.1, or leave them out";
    Err(ClientError::new(Code::Server(ErrorCode::Unsupported), message))
}

fn stock_request<T: Serialize>(kind: &str, data: &T) -> Result<String> {
    #[derive(Serialize)]
    struct StockRequest<'a, T> {
        #[serde(rename = "type")]
        kind: &'a str,
        data: &'a T,
    }
    serde_json::to_string(&StockRequest { kind, data }).map_err(|error| {
        ClientError::new(Code::InvalidOptions, format!("the {kind} cannot be JSON: {error}"))
    })
}
