//! What a toolbox adds to a tool call: a call through a toolbox of many tools, compared with a direct call.
//!
//! Invariant: both run the same tool and take turns, so that the difference is the work of the toolbox:
//! finding the owner among all names, policy, rate limits, panics and deadlines.
//!
//! Run it with `cargo run --profile dist -p oxenv-bench --example toolbox`; it prints one JSON object.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use oxenv_core::{
    CallContext, CallRequest, Mount, NativeToolset, Policy, Principal, RateLimit, RateScope, RoleRules,
    Rules, Toolbox, Toolset,
};
use oxenv_wire::{ToolError, ToolResult};
use serde_json::value::RawValue;

const TOOLSETS: usize = 50;
const TOOLS_EACH: usize = 20;
const ALL: usize = TOOLSETS * TOOLS_EACH;
/// How often a round calls every tool, and the number of measured rounds after a first one that is not.
const REPEATS: usize = 200;
const ROUNDS: usize = 15;
/// Distance to the next tool: every tool is called, and never after its neighbour.
const STRIDE: usize = 617;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Echo {
    message: String,
}

/// A tool: its name, and the toolset that owns it.
struct Tool {
    name: String,
    owner: Arc<dyn Toolset>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let report = runtime.block_on(measure());
    println!("{report}");
}

async fn measure() -> serde_json::Value {
    let (tools, mounts) = toolsets();
    let toolbox = Toolbox::new(mounts);
    let arguments = RawValue::from_string(r#"{"message":"hello"}"#.to_owned()).expect("JSON");
    assert_eq!(toolbox.tools(Principal::Agent).len(), ALL, "every tool is offered");
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let alone = without_toolbox(&tools, &arguments).await;
        let whole = with_toolbox(&toolbox, &tools, &arguments).await;
        if round > 0 {
            direct.push(alone);
            through.push(whole);
        }
    }
    let mut added: Vec<f64> = through.iter().zip(&direct).map(|(whole, alone)| whole - alone).collect();
    serde_json::json!({
        "bench": "toolbox",
        "toolsets": TOOLSETS,
        "tools": ALL,
        "calls": ROUNDS * REPEATS * ALL,
        "direct_us": median(&mut direct),
        "toolbox_us": median(&mut through),
        "added_us": median(&mut added),
    })
}

fn toolsets() -> (Vec<Tool>, Vec<Mount>) {
    let (mut tools, mut mounts) = (Vec::new(), Vec::new());
    for set in 0..TOOLSETS {
        let mut toolset = NativeToolset::new(format!("set{set}"));
        let names: Vec<String> = (0..TOOLS_EACH).map(|tool| format!("set{set}_tool{tool}")).collect();
        for name in &names {
            // Names of native tools are static; these are leaked.
            let name: &'static str = name.clone().leak();
            toolset = toolset.tool(name, "Echo back the provided message.", |echo: Echo| Ok(echo.message));
        }
        let owner: Arc<dyn Toolset> = Arc::new(toolset);
        tools.extend(names.into_iter().map(|name| Tool { name, owner: Arc::clone(&owner) }));
        let policy = Policy::compile(rules()).expect("rules that can be kept");
        mounts.push(Mount { policy: Arc::new(policy), ..Mount::new(owner) });
    }
    (tools, mounts)
}

/// Every kind of rule except those about arguments. None of them refuses a call here.
fn rules() -> Rules {
    let agent = RoleRules { deny: vec!["*_admin".to_owned()], ..RoleRules::default() };
    let per = std::time::Duration::from_secs(1);
    let rate = RateLimit { calls: u32::MAX, per, burst: u32::MAX, scope: RateScope::Session };
    Rules {
        allow: vec!["set*_tool*".to_owned()],
        deny: vec!["*_hidden".to_owned()],
        roles: [(Principal::Agent, agent)].into(),
        rate_limit: Some(rate),
        ..Rules::default()
    }
}

/// Microseconds per direct call of the toolset.
async fn without_toolbox(tools: &[Tool], arguments: &RawValue) -> f64 {
    let context = CallContext::sessionless(Principal::Agent);
    let began = Instant::now();
    for tool in order(tools) {
        succeeded(tool.owner.call(context, &tool.name, Some(arguments)).await);
    }
    each(began)
}

/// Microseconds per call through the toolbox.
async fn with_toolbox(toolbox: &Toolbox, tools: &[Tool], arguments: &RawValue) -> f64 {
    let context = CallContext::sessionless(Principal::Agent);
    let began = Instant::now();
    for tool in order(tools) {
        succeeded(toolbox.find(&tool.name).call(&CallRequest::new(context, Some(arguments))).await);
    }
    each(began)
}

fn order(tools: &[Tool]) -> impl Iterator<Item = &Tool> {
    (0..REPEATS * ALL).map(|call| &tools[call * STRIDE % ALL])
}

fn succeeded(outcome: Result<ToolResult, ToolError>) {
    let result = black_box(outcome).expect("a tool that echoes");
    assert!(!result.is_error, "a tool that echoes");
}

fn each(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / (REPEATS * ALL) as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 1000.0).round() / 1000.0
}
