//! An MCP server on rmcp, for tests over stdio and HTTP in both eras.
//!
//! Invariant: it behaves; servers that do not are in `odd.py`.

#![allow(deprecated, reason = "rmcp marks sampling as deprecated, which servers still use")]

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CreateMessageRequestParams,
    ErrorData, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion,
    SamplingMessage, ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// The server; a clone shares its state.
#[derive(Clone)]
pub(crate) struct Fixture {
    versions: &'static [ProtocolVersion],
    calls: Arc<AtomicU32>,
    added: Arc<AtomicU32>,
    changed: Arc<Notify>,
}

impl Fixture {
    /// A server of these revisions.
    pub(crate) fn new(versions: &'static [ProtocolVersion]) -> Self {
        let (calls, added) = (Arc::default(), Arc::default());
        Fixture { versions, calls, added, changed: Arc::new(Notify::new()) }
    }
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build())
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(self.versions)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let names = ["echo", "count", "notes", "ask", "wait", "change", "rich"].map(str::to_owned);
        let added = (0..self.added.load(Ordering::SeqCst)).map(|number| format!("added_{number}"));
        let tools = names.into_iter().chain(added).map(|name| {
            let schema: Map<String, Value> = Map::from_iter([("type".to_owned(), json!("object"))]);
            Tool::new(name, "A tool.", schema)
        });
        Ok(ListToolsResult::with_all_items(tools.collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let calls = 1 + self.calls.fetch_add(1, Ordering::SeqCst);
        let arguments = request.arguments.unwrap_or_default();
        let text = match &*request.name {
            "echo" => arguments.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            "count" => calls.to_string(),
            "notes" => {
                let token = context.meta.get_progress_token();
                for step in 0..2 {
                    let Some(token) = token.clone() else { break };
                    let note = ProgressNotificationParam::new(token, f64::from(step));
                    context.peer.notify_progress(note).await.map_err(internal)?;
                }
                "told".to_owned()
            }
            "ask" => {
                let question = CreateMessageRequestParams::new(vec![SamplingMessage::user_text("well?")], 9);
                let answer = context.peer.create_message(question).await.map_err(internal)?;
                answer.model
            }
            "wait" => {
                context.ct.cancelled().await;
                "late".to_owned()
            }
            "change" => {
                self.added.fetch_add(1, Ordering::SeqCst);
                self.changed.notify_waiters();
                // Reaches clients of the older revisions.
                let _ = context.peer.notify_tool_list_changed().await;
                "changed".to_owned()
            }
            "rich" => {
                let mut result = CallToolResult::structured(json!({"a": 1.0}));
                result.content = vec![ContentBlock::image("AAAA", "image/png")];
                return Ok(result.into());
            }
            other => return Err(ErrorData::invalid_params(format!("Unknown tool: {other}"), None)),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        loop {
            tokio::select! {
                () = context.cancelled() => return Ok(()),
                () = self.changed.notified() => {
                    context.sink().notify_tool_list_changed().await.map_err(internal)?;
                }
            }
        }
    }
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
