//! One episode, two doors, in Rust: training code steps it over HTTP, an agent calls its tools over
//! MCP. The twin of `demo.py`.
//!
//! Run it with `cargo run -p oxenv-server --example echo_mcp_demo -- http://127.0.0.1:8000` against
//! `oxenv serve echo`.

use rmcp::ServiceExt as _;
use rmcp::model::CallToolRequestParams;
use rmcp::transport::StreamableHttpClientTransport;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let http = reqwest::Client::new();
    let post = async |url: String, body: Value| -> Outcome<Value> {
        Ok(http.post(url).json(&body).send().await?.error_for_status()?.json().await?)
    };
    let get = async |url: &str| -> Outcome<Value> { Ok(http.get(url).send().await?.json().await?) };

    let session = post(format!("{server}/sessions"), json!({ "episode_id": "demo" })).await?;
    let session = format!("{server}/sessions/{}", session["session_id"].as_str().unwrap_or_default());
    post(format!("{session}/reset"), json!({ "seed": 7, "episode_id": "demo" })).await?;
    println!("trainer: episode {} has begun", get(&format!("{session}/state")).await?["episode_id"]);

    agent(&format!("{session}/mcp")).await?;
    println!("trainer: the agent took {} steps", get(&format!("{session}/state")).await?["step_count"]);

    let action =
        json!({ "type": "call_tool", "tool_name": "echo_with_length", "arguments": { "message": "mine" } });
    let step = post(format!("{session}/step"), json!({ "action": action })).await?;
    println!(
        "trainer: my own step gave {} and the reward {}",
        step["observation"]["result"]["data"], step["reward"]
    );
    println!(
        "trainer: together that is {} steps of one episode",
        get(&format!("{session}/state")).await?["step_count"]
    );
    http.delete(&session).send().await?.error_for_status()?;
    Ok(())
}

/// It knows one address, the session's MCP endpoint, and sees neither rewards nor resets.
async fn agent(mcp: &str) -> Outcome<()> {
    let agent = ().serve(StreamableHttpClientTransport::from_uri(mcp)).await?;
    let tools: Vec<String> =
        agent.list_all_tools().await?.into_iter().map(|tool| tool.name.into_owned()).collect();
    println!("agent: tools are {}", tools.join(", "));
    for message in ["Hello MCP!", "Hello again!"] {
        let arguments = json!({ "message": message }).as_object().cloned().unwrap_or_default();
        let result =
            agent.call_tool(CallToolRequestParams::new("echo_message").with_arguments(arguments)).await?;
        let text =
            result.content.first().and_then(|block| block.as_text()).map_or("", |block| block.text.as_str());
        println!("agent: the environment says '{text}'");
    }
    agent.cancel().await?;
    Ok(())
}
