//! An environment on Fleet: an episode controlled over HTTP, tools called over MCP, nothing left running.
//!
//! `cargo run -p oxenv-client --example fleet -- fira`, with `FLEET_API_KEY` set, and `FLEET_BASE_URL` for a
//! Fleet elsewhere: `oxenv fleet simulate` prints both.

use std::env;

use oxenv_client::ResetOptions;
use oxenv_client::fleet::{FleetEnvClient, FleetOptions};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let env_key = env::args().nth(1).unwrap_or_else(|| "fira".to_owned());
    play(&env::var("FLEET_API_KEY")?, &env_key, env::var("FLEET_BASE_URL").ok()).await
}

/// Plays an episode. Whatever fails on the way, the instance is deleted when `orch` goes.
pub(crate) async fn play(
    api_key: &str,
    env_key: &str,
    base_url: Option<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let options = FleetOptions { base_url, ..FleetOptions::default() };
    let (orch, tools) = FleetEnvClient::from_fleet(api_key, env_key, options).await?;

    // The orchestrator controls the episode.
    let begun = orch.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await?;
    println!("orchestrator: {}", begun.observation_value()["message"]);

    // The agent uses the tools of both MCP endpoints.
    for tool in tools.list_tools().await? {
        println!("agent: may use {}", tool.name);
    }
    let shot = tools.call_tool("computer", json!({ "action": "screenshot" })).await?;
    println!("agent: sees {} bytes", shot.text().len());

    // The same call as a step of the environment.
    let call = json!({ "type": "call_tool", "tool_name": "computer", "arguments": { "action": "wait" } });
    println!("orchestrator: {}", orch.step(&call).await?.observation_value()["result"]["content"]);
    println!("orchestrator: {}", orch.state().await?);

    orch.close().await?;
    Ok(())
}
