//! An environment of one's own, from its types to a served port.
//!
//! Run it with `cargo run -p oxenv-server --example counter`, then:
//! `curl -X POST http://127.0.0.1:8001/step -H 'Content-Type: application/json' -d '{"action": {"add": 4}}'`

use std::sync::Arc;

use oxenv_core::{
    EnvironmentSpec, Failure, NativeToolset, Reset, SessionStore, Step, StoreLimits, Toolbox,
    TypedEnvironment, contract, typed,
};
use oxenv_server::{Server, ServerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Counter {
    value: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Add {
    /// How much to add.
    add: i64,
}

#[derive(Serialize, JsonSchema)]
struct Shown {
    /// The sum so far.
    value: i64,
}

impl TypedEnvironment for Counter {
    type Action = Add;
    type Observation = Shown;
    type State = Shown;

    async fn reset(&mut self, _reset: &Reset) -> Result<Step<Shown>, Failure> {
        self.value = 0;
        Ok(Step::new(Shown { value: 0 }))
    }

    async fn step(&mut self, action: Add) -> Result<Step<Shown>, Failure> {
        self.value += action.add;
        Ok(Step::new(Shown { value: self.value }).reward(1.0).done(self.value >= 10))
    }

    fn state(&self) -> Shown {
        Shown { value: self.value }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Numbers {
    /// What to add up.
    numbers: Vec<i64>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tools = NativeToolset::new("math")
        .tool("sum", "Adds numbers up.", |sum: Numbers| Ok(sum.numbers.iter().sum::<i64>()));
    let spec = EnvironmentSpec::new("counter", "Adds up to ten");
    let factory =
        Arc::new(typed(spec, |_boot| Counter { value: 0 }).with_tools(Toolbox::of(vec![Arc::new(tools)])?));

    let actions = [serde_json::json!({ "add": 4 }), serde_json::json!({ "add": 5 })];
    let violations = contract::check(factory.clone(), &actions).await;
    assert!(violations.is_empty(), "{violations:#?}");

    let store = SessionStore::new(factory, StoreLimits::default());
    let server = Server::bind(([127, 0, 0, 1], 8001).into(), store, ServerConfig::default()).await?;
    println!("serving counter on http://{}", server.address()?);
    server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await;
    Ok(())
}
