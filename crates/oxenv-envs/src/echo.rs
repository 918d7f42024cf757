//! `echo`: two tools that give back what they are sent; the smallest environment of tools.
//!
//! Invariant: no state, so every fork and snapshot is exact.

use std::sync::Arc;

use oxenv_core::{
    ActionSpace, Capabilities, Environment, EnvironmentContext, EnvironmentFactory, EnvironmentInstance,
    EnvironmentSpec, Failure, ForkMode, NativeToolset, Observed, Reset, Toolbox, Work,
};
use oxenv_wire::{RawJson, Reward, default_call, legacy_message, raw};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

const SNAPSHOT: &[u8] = b"echo";

/// A factory of `echo`.
#[must_use]
pub fn factory() -> Arc<dyn EnvironmentFactory> {
    Arc::new(EchoFactory { spec: Arc::new(spec()), toolbox: Arc::new(toolbox()) })
}

fn spec() -> EnvironmentSpec {
    EnvironmentSpec {
        title: "EchoEnvironment".to_owned(),
        readme: Some(include_str!("echo/README.md").to_owned()),
        action_space: ActionSpace::Tools,
        capabilities: Capabilities { fork: ForkMode::Stateless, snapshot: true, ..Capabilities::default() },
        ..EnvironmentSpec::new("echo", "Gives back every message, through two tools")
    }
}

fn toolbox() -> Toolbox {
    let tools = NativeToolset::new("echo")
        .tool("echo_message", "Echo back the provided message.", |echo: Message| Ok(echo.message))
        .tool("echo_with_length", "Echo back the message with its length.", |echo: Message| {
            let length = echo.message.chars().count();
            Ok(MessageWithLength { message: echo.message, length })
        });
    // One toolset cannot be in conflict with itself.
    Toolbox::of(vec![Arc::new(tools)]).unwrap_or_else(|_| Toolbox::empty())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Message {
    /// The message to echo back
    message: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true), transform = open_object)]
struct MessageWithLength {
    message: String,
    length: usize,
}

/// The reference publishes this result as an open object, without its fields.
fn open_object(schema: &mut schemars::Schema) {
    schema.remove("properties");
    schema.remove("required");
}

struct EchoFactory {
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
}

impl EnvironmentFactory for EchoFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, _boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::done(Ok(EnvironmentInstance::new(Box::new(Echo), Arc::clone(&self.toolbox))))
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.toolbox)
    }
}

struct Echo;

impl Environment for Echo {
    fn reset<'a>(&'a mut self, _reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        let ready = json!({ "status": "ready", "message": "Echo environment ready!" });
        Work::done(Ok(Observed {
            fields: object("{}"),
            metadata: raw(&ready).ok(),
            reward: Some(Reward::Float(0.0)),
            done: false,
        }))
    }

    /// Takes the journal's deprecated `{"message": …}`; tool calls go to the toolbox, not here.
    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        let Some(message) = legacy_message(action) else {
            return Work::done(Err(Failure::invalid(default_call(action).err().unwrap_or_default())));
        };
        let echoed = json!({ "echoed_message": message, "message_length": message.chars().count() });
        let warning = "the action {\"message\": …} is deprecated: call the tool echo_message instead";
        Work::done(Ok(Observed {
            fields: raw(&echoed).unwrap_or_default(),
            metadata: raw(&json!({ "oxenv": { "warning": warning } })).ok(),
            reward: None,
            done: false,
        }))
    }

    fn state(&self) -> Result<RawJson, Failure> {
        Ok(object("{}"))
    }

    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        Ok(Box::new(Echo))
    }

    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Ok(SNAPSHOT.to_vec())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        if snapshot == SNAPSHOT {
            Ok(())
        } else {
            Err(Failure::action("these bytes are no snapshot of echo"))
        }
    }
}

fn object(text: &str) -> RawJson {
    RawValue::from_string(text.to_owned()).unwrap_or_default()
}
