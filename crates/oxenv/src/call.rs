//! `oxenv call`: calls a tool of a running environment.
//!
//! Invariant: stdout holds the result and nothing else.

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::ConnectionArgs;
use crate::output::print;
use crate::values::object;

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv call http://127.0.0.1:8000 echo_message '{\"message\": \"hi\"}'
  oxenv call http://127.0.0.1:8000/sessions/ID/mcp echo_with_length '{\"message\": \"hi\"}' --json")]
pub(crate) struct CallArgs {
    /// The server, or the full URL of an MCP endpoint
    pub(crate) url: String,
    /// The tool's name
    pub(crate) tool: String,
    /// The arguments, a JSON object
    #[arg(default_value = "{}")]
    pub(crate) arguments: String,
    /// Print the whole result, not only its data
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

pub(crate) async fn run(args: &CallArgs) -> anyhow::Result<()> {
    let arguments = object("the arguments", &args.arguments)?;
    let client = args.connection.client(&args.url)?;
    let path = if client.has_path() { "" } else { "/mcp" };
    let request = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": args.tool, "arguments": arguments },
    });
    let reply = client.post(path, &request).await?;
    if let Some(message) = reply["error"]["message"].as_str() {
        bail!("tool '{}' failed: {message}", args.tool);
    }
    let result = reply.get("result").with_context(|| format!("not a JSON-RPC reply: {reply}"))?;
    let shown = if args.json { result } else { result.get("data").unwrap_or(result) };
    match shown {
        Value::String(text) if !args.json => print(text),
        value => print(&serde_json::to_string_pretty(value)?),
    }
}
