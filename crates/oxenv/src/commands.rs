//! The small commands: `envs`, `call`, `step`, `completions`.
//!
//! Invariant: stdout holds the answer and nothing else.

use std::io::Write;

use anyhow::{Context, bail};
use clap::CommandFactory;
use oxenv_wire::JsonError;
use serde_json::{Value, json};

use crate::cli::{CallArgs, Cli, CompletionsArgs, EnvsArgs, StepArgs};
use crate::client::Client;
use crate::exit::usage;
use crate::registry;

pub(crate) fn envs(args: &EnvsArgs) -> anyhow::Result<()> {
    let environments = registry::environments();
    if args.json {
        let list: Vec<Value> = environments
            .iter()
            .map(|factory| {
                let spec = factory.spec();
                json!({
                    "name": spec.name, "description": spec.description, "version": spec.version,
                    "action_space": spec.action_space, "capabilities": spec.capabilities,
                })
            })
            .collect();
        return print(&serde_json::to_string_pretty(&list)?);
    }
    let width = environments.iter().map(|factory| factory.spec().name.len()).max().unwrap_or(0);
    let lines: Vec<String> = environments
        .iter()
        .map(|factory| format!("{:width$}  {}", factory.spec().name, factory.spec().description))
        .collect();
    print(&lines.join("\n"))
}

pub(crate) async fn call(args: &CallArgs) -> anyhow::Result<()> {
    let arguments = object("the arguments", &args.arguments)?;
    let client = Client::new(&args.url, args.timeout, args.token.as_deref())?;
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

pub(crate) async fn step(args: &StepArgs) -> anyhow::Result<()> {
    let action = object("the action", &args.action)?;
    let client = Client::new(&args.url, args.timeout, args.token.as_deref())?;
    if args.reset {
        let seed = args.seed.map_or(json!({}), |seed| json!({ "seed": seed }));
        client.post("/reset", &seed).await?;
    }
    let reply = client.post("/step", &json!({ "action": action })).await?;
    print(&serde_json::to_string_pretty(&reply)?)
}

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oxenv", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

pub(crate) fn object(what: &str, text: &str) -> anyhow::Result<Value> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => Err(usage(format!("{what} must be a JSON object, not {other}"))),
        Err(_) => Err(usage(format!("{what}: {}", JsonError::diagnose(text)))),
    }
}

/// Prints a text and a line end; a reader that left is no error of ours.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}
