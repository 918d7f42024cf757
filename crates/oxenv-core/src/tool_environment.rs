//! An environment that is nothing but its tools: the tools RFC's `ToolEnabledEnvironment`.
//!
//! Invariant: by itself it gives no reward; [`scored`] puts a rubric over it as over any other.

use std::sync::Arc;

use oxenv_wire::{RawJson, empty_object, raw};
use serde_json::json;
use serde_json::value::RawValue;

use crate::capabilities::{Capabilities, ForkMode};
use crate::environment::{Environment, Observed, Reset};
use crate::failure::Failure;
use crate::rubric::{RubricFactory, scored};
use crate::spec::{EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec};
use crate::toolbox::{Mount, Toolbox};
use crate::work::Work;

/// An environment of tools alone. Its own state is nothing: what there is, its toolsets have.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToolEnvironment;

impl ToolEnvironment {
    /// What such an environment declares without its toolsets: whether a session can be forked and
    /// saved is for these to say.
    #[must_use]
    pub fn spec(name: &str, description: &str) -> EnvironmentSpec {
        // Tools of other programs promise nothing about seeds.
        let deterministic = false;
        let (fork, snapshot) = (ForkMode::Stateless, true);
        let capabilities = Capabilities { deterministic, fork, snapshot, ..Capabilities::default() };
        EnvironmentSpec {
            title: "ToolEnvironment".to_owned(),
            capabilities,
            ..EnvironmentSpec::new(name, description)
        }
    }
}

impl Environment for ToolEnvironment {
    fn reset<'a>(&'a mut self, _reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        let metadata = raw(&json!({ "status": "ready" })).ok();
        Work::done(Ok(Observed { fields: empty_object(), metadata, reward: None, done: false }))
    }

    fn step<'a>(&'a mut self, _action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        let message = "this environment takes tool calls: \
                       send {\"type\": \"call_tool\", \"tool_name\": \"…\", \"arguments\": {…}}, \
                       or {\"type\": \"list_tools\"} for the names";
        Work::done(Err(Failure::action(message)))
    }

    fn state(&self) -> Result<RawJson, Failure> {
        Ok(empty_object())
    }

    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        Ok(Box::new(ToolEnvironment))
    }

    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Ok(Vec::new())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        match snapshot {
            [] => Ok(()),
            _ => {
                Err(Failure::action("these bytes are no snapshot of an environment of tools, which is empty"))
            }
        }
    }
}

/// Makes environments of the same toolsets, which all sessions share.
struct SharedTools {
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
}

/// A factory of environments that are these toolsets, composed in their order and shared by all
/// sessions; `rubric` scores each session's calls, at once: for one that asks judges, put [`scored`]
/// over a factory without a rubric. Sessions can be forked and saved if no toolset has a state.
#[must_use]
pub fn tool_environment(
    name: &str,
    description: &str,
    toolsets: Vec<Mount>,
    rubric: Option<RubricFactory>,
) -> Arc<dyn EnvironmentFactory> {
    let mut spec = ToolEnvironment::spec(name, description);
    if toolsets.iter().any(|mount| mount.toolset.fork() != ForkMode::Stateless) {
        spec.capabilities.fork = ForkMode::None;
        spec.capabilities.snapshot = false;
    }
    let tools = Arc::new(SharedTools { spec: Arc::new(spec), toolbox: Arc::new(Toolbox::new(toolsets)) });
    match rubric {
        Some(rubric) => scored(tools, rubric, false),
        None => tools,
    }
}

impl EnvironmentFactory for SharedTools {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, _boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::done(Ok(EnvironmentInstance::new(Box::new(ToolEnvironment), Arc::clone(&self.toolbox))))
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.toolbox)
    }
}
