//! A call: its owner, its arguments, its connection, its one repeat.
//!
//! Invariant: a call is sent again only if it surely was not delivered, and once at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oxenv_upstream::remote::{RemoteError, RemoteErrorKind};
use oxenv_wire::{Delivered, ErrorCode, ToolResult, after};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::catalogue::{EndpointTools, OwnerMap};
use super::endpoint::{AcquiredConnection, ConnectUrgency, EndpointConnection, MultiplexedEndpoint};
use super::endpoint_error;
use super::state::MultiplexerState;
use crate::error::{ClientError, Code, Result};

/// A call that has an owner.
struct RoutedCall<'a> {
    tool: &'a str,
    arguments: &'a Value,
    output_schema: Option<&'a Value>,
    endpoint: &'a Arc<MultiplexedEndpoint>,
    deadline: Instant,
    /// Whether it is with the endpoint.
    sent: AtomicBool,
}

impl MultiplexerState {
    /// Calls a tool at its owner.
    pub(super) async fn call(&self, tool: &str, arguments: Value) -> Result<ToolResult> {
        self.check_open()?;
        let deadline = after(Instant::now(), self.timeout);
        let seconds = self.timeout.as_secs_f64();
        let catalogue = timeout_at(deadline, self.until_closed(self.catalogue())).await;
        let catalogue =
            catalogue.unwrap_or_else(|_| Err(endpoint_error::listing_timed_out(tool, seconds)))??;
        let tool_owner = catalogue.owner(tool).ok_or_else(|| tool_not_found(tool, &catalogue))?;
        let arguments = if arguments.is_null() { json!({}) } else { arguments };
        tool_owner.argument_checker.check(tool, &arguments).await?;
        let endpoint = &self.endpoints[tool_owner.endpoint];
        let call = RoutedCall {
            tool,
            arguments: &arguments,
            output_schema: catalogue.output_schema(tool_owner),
            endpoint,
            deadline,
            sent: AtomicBool::new(false),
        };
        let outcome = timeout_at(deadline, self.call_with_retry(&call)).await;
        let sent = call.sent.load(Ordering::Relaxed);
        let result = outcome
            .unwrap_or_else(|_| Err(endpoint_error::call_timed_out(tool, &endpoint.url, sent, seconds)))?;
        match result.input_required {
            Some(_) => Err(input_required(tool, &endpoint.url)),
            None => Ok(result),
        }
    }

    /// Sends a call, and once more if it surely was not delivered.
    async fn call_with_retry(&self, call: &RoutedCall<'_>) -> Result<ToolResult> {
        let endpoint = call.endpoint;
        let failed = |fault: &RemoteError| endpoint_error::call_error(fault, call.tool, &endpoint.url);
        let mut is_repeat = false;
        loop {
            let linked =
                self.until_closed(endpoint.connection(ConnectUrgency::AfterBackoff, call.deadline)).await?;
            let AcquiredConnection { connection, is_new } = linked.map_err(|fault| {
                endpoint.reconnect_in_background();
                failed(&fault)
            })?;
            call.sent.store(true, Ordering::Relaxed);
            let fault = match connection.remote.call(call.tool, call.arguments, call.output_schema).await {
                Ok(result) => return Ok(result),
                Err(fault) => fault,
            };
            if fault.delivered != Delivered::No {
                if endpoint_error::is_unknown_tool(&fault) {
                    endpoint.note_change();
                }
                return Err(failed(&fault));
            }
            call.sent.store(false, Ordering::Relaxed);
            self.check_open()?;
            match retry_delay(&fault, endpoint, &connection, is_new) {
                Some(pause) if !is_repeat && after(Instant::now(), pause) < call.deadline => {
                    sleep(pause).await;
                }
                _ => return Err(failed(&fault)),
            }
            is_repeat = true;
        }
    }
}

/// How long to wait before a call that was not delivered is sent again, if it may be. A connection that did
/// not serve is given up.
fn retry_delay(
    fault: &RemoteError,
    endpoint: &MultiplexedEndpoint,
    connection: &Arc<EndpointConnection>,
    is_new: bool,
) -> Option<Duration> {
    match fault.kind {
        RemoteErrorKind::Status(429) => fault.retry_after,
        RemoteErrorKind::Status(401 | 403) => None,
        _ => {
            // Behind the next connection may be another list.
            if endpoint.discard_connection(connection) {
                endpoint.note_change();
            }
            (!is_new).then_some(Duration::ZERO)
        }
    }
}

fn tool_not_found(tool: &str, catalogue: &OwnerMap) -> ClientError {
    let missing = |part: &&EndpointTools| part.tools.is_none() && !part.is_usable();
    let missing: Vec<&str> = catalogue.endpoints.iter().filter(missing).map(|part| &*part.url).collect();
    let message = format!("no endpoint offers a tool of the name '{tool}'; list them to see which there are");
    match missing.is_empty() {
        true => ClientError::new(Code::ToolNotFound, message),
        // One of these may have it.
        false => {
            let message = format!("{message}. These could not be listed: {}", missing.join(", "));
            ClientError::new(Code::EndpointUnavailable, message)
        }
    }
}

fn input_required(tool: &str, url: &str) -> ClientError {
    let message = format!("'{tool}' of {url} wants input from a person or a model, which nobody gives here");
    ClientError::new(Code::Server(ErrorCode::InputRequired), message)
        .with_delivered(Delivered::Yes)
        .with_data(json!({ "endpoint": url }))
}
