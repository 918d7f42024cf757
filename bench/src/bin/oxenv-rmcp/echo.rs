//! The handler of every server here: tools that return their message.
//!
//! Invariant: the list of tools is built once and a call reads one argument, so that the SDK is measured.

use std::sync::Arc;

use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};

/// The name of the one tool that is called.
pub(crate) const ECHO: &str = "echo_message";

/// Tools that return their message.
#[derive(Clone)]
pub(crate) struct Echo {
    tools: Arc<[Tool]>,
}

impl Echo {
    /// `echo_message`, as oxenv's echo environment has it.
    pub(crate) fn one() -> Self {
        Self { tools: [tool(ECHO.to_owned())].into() }
    }

    /// `count` tools, named `PREFIX_0`, `PREFIX_1`, ….
    pub(crate) fn many(count: usize, prefix: &str) -> Self {
        Self { tools: (0..count).map(|number| tool(format!("{prefix}_{number}"))).collect() }
    }
}

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.to_vec()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.tools.iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("unknown tool '{}'", request.name), None));
        }
        let message = request.arguments.as_ref().and_then(|arguments| arguments.get("message"));
        let Some(message) = message.and_then(Value::as_str) else {
            return Err(ErrorData::invalid_params("'message' must be a string", None));
        };
        let mut result = CallToolResult::success(vec![ContentBlock::text(message)]);
        result.structured_content = Some(json!({ "result": message }));
        Ok(CallToolResponse::Complete(result))
    }
}

fn tool(name: String) -> Tool {
    let schema = |property: &str, title: &str| -> Arc<JsonObject> {
        let properties = json!({ property: { "type": "string", "title": title } });
        let mut schema = JsonObject::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), properties);
        schema.insert("required".to_owned(), json!([property]));
        schema.into()
    };
    let mut tool = Tool::new(name, "Echo back the provided message.", schema("message", "Message"));
    tool.output_schema = Some(schema("result", "Result"));
    tool
}
