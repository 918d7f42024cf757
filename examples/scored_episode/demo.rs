//! An episode that an agent plays wholly through MCP, scored by a rubric that it never sees.
//!
//! Run it with `cargo run -p oxenv-server --example scored_episode`. The agent has a calculator and
//! a tool to hand in its answer; each use of the calculator costs a little, the right answer is
//! worth 1 and ends the episode: `rubric.json` says so. The trainer reads the reward and its parts at
//! the control door.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use oxenv_core::{Judges, Mount, NativeToolset, RubricSpec, SessionStore, StoreLimits, tool_environment};
use oxenv_server::{Server, ServerConfig};
use rmcp::ServiceExt as _;
use rmcp::model::CallToolRequestParams;
use rmcp::transport::StreamableHttpClientTransport;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Factors {
    a: i64,
    b: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// What 17 times 23 is.
    answer: i64,
}

/// What the trainer wants: the right answer, with few calculations.
const RUBRIC: &str = include_str!("rubric.json");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calculator =
        NativeToolset::new("calculator").tool("multiply", "Multiplies two numbers.", |factors: Factors| {
            factors.a.checked_mul(factors.b).ok_or_else(|| "the product is too large".to_owned())
        });
    let desk = NativeToolset::new("desk")
        .tool("submit", "Hands in the answer.", |answer: Answer| Ok(format!("{} is noted", answer.answer)));
    let toolsets = vec![Mount::new(Arc::new(calculator)), Mount::new(Arc::new(desk))];
    let rubric = RubricSpec::read(serde_json::from_str(RUBRIC)?)?.compile(&Judges::default())?;
    let factory = tool_environment("sums", "What is 17 times 23?", toolsets, Some(rubric));

    let store = SessionStore::new(factory, StoreLimits::default());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(address, store, ServerConfig::default()).await?;
    let url = format!("http://{}", server.address()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async { drop(stopped.await) }));

    train(&url).await?;

    drop(stop);
    serving.await?;
    Ok(())
}

/// Opens a session, hands its agent door to an agent, and looks at what came of it.
async fn train(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let http = reqwest::Client::new();
    let session: Value = http.post(format!("{url}/sessions")).json(&json!({})).send().await?.json().await?;
    let session = format!("{url}/sessions/{}", session["session_id"].as_str().unwrap_or_default());
    http.post(format!("{session}/reset")).json(&json!({ "seed": 7 })).send().await?.error_for_status()?;

    play(&format!("{session}/mcp")).await?;

    let played: Value = http.get(&session).send().await?.json().await?;
    println!(
        "trainer: {} steps, reward {}, done {}",
        played["step_count"], played["episode_reward"], played["done"]
    );
    println!("trainer: that is made of {}", played["episode_scores"]);
    Ok(())
}

/// The agent: it knows one address, and neither rewards nor resets are behind it.
async fn play(mcp: &str) -> Result<(), Box<dyn std::error::Error>> {
    let agent = ().serve(StreamableHttpClientTransport::from_uri(mcp)).await?;
    let tools: Vec<String> =
        agent.list_all_tools().await?.into_iter().map(|tool| tool.name.into_owned()).collect();
    println!("agent: tools are {}", tools.join(", "));
    let call = |name: &'static str, arguments: Value| {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        agent.call_tool(CallToolRequestParams::new(name).with_arguments(arguments))
    };
    let product = call("multiply", json!({ "a": 17, "b": 23 })).await?;
    let product = product.structured_content.map_or(Value::Null, |structured| structured["result"].clone());
    println!("agent: the calculator says {product}");
    call("submit", json!({ "answer": product })).await?;
    let late = call("submit", json!({ "answer": 0 })).await;
    println!("agent: a call after the end is refused: {}", late.is_err());
    agent.cancel().await?;
    Ok(())
}
