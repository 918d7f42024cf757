//! An environment that is nothing but its tools: the tools RFC's `ToolEnabledEnvironment`.
//!
//! Invariant: without a rubric the reward is null; a failure is told by its error, never by a number.

use std::sync::Arc;

use oxenv_wire::{RawJson, empty_object, raw};
use serde_json::json;
use serde_json::value::RawValue;

use crate::environment::{CallRecord, Environment, Observed, Reset};
use crate::failure::Failure;
use crate::rubric::{Rubric, RubricFactory};
use crate::spec::{Boot, Capabilities, EnvironmentFactory, EnvironmentSpec, Instance};
use crate::toolbox::{Mount, Toolbox};
use crate::work::Work;

/// An environment of tools alone, scored by a rubric if it has one.
#[derive(Default)]
pub struct ToolEnvironment {
    rubric: Option<Box<dyn Rubric>>,
}

impl ToolEnvironment {
    /// An environment whose calls `rubric` scores; without one, rewards are null.
    #[must_use]
    pub fn new(rubric: Option<Box<dyn Rubric>>) -> Self {
        ToolEnvironment { rubric }
    }

    /// What such an environment declares.
    #[must_use]
    pub fn spec(name: &str, description: &str, scored: bool) -> EnvironmentSpec {
        let capabilities = Capabilities { observes_calls: scored, ..Capabilities::default() };
        // Tools of other programs promise nothing about seeds.
        let capabilities = Capabilities { deterministic: false, ..capabilities };
        EnvironmentSpec {
            title: "ToolEnvironment".to_owned(),
            capabilities,
            ..EnvironmentSpec::new(name, description)
        }
    }
}

impl Environment for ToolEnvironment {
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        if let Some(rubric) = &mut self.rubric {
            rubric.reset(reset);
        }
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

    fn after_call<'a>(&'a mut self, call: &'a CallRecord) -> Work<'a, Result<Observed, Failure>> {
        let score = self.rubric.as_mut().map(|rubric| rubric.score(call)).unwrap_or_default();
        let (reward, done) = (score.reward, score.done);
        Work::done(Ok(Observed { fields: empty_object(), metadata: None, reward, done }))
    }
}

/// Makes environments of the same toolsets, which all sessions share.
struct SharedTools {
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
    rubric: Option<RubricFactory>,
}

/// A factory of environments that are these toolsets, composed in their order and shared by all
/// sessions; `rubric` scores each session's calls.
#[must_use]
pub fn tool_environment(
    name: &str,
    description: &str,
    toolsets: Vec<Mount>,
    rubric: Option<RubricFactory>,
) -> Arc<dyn EnvironmentFactory> {
    let spec = Arc::new(ToolEnvironment::spec(name, description, rubric.is_some()));
    Arc::new(SharedTools { spec, toolbox: Arc::new(Toolbox::new(toolsets)), rubric })
}

impl EnvironmentFactory for SharedTools {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, _boot: Boot) -> Work<'_, Result<Instance, Failure>> {
        let rubric = self.rubric.as_ref().map(|rubric| rubric());
        Work::done(Ok(Instance::new(Box::new(ToolEnvironment::new(rubric)), Arc::clone(&self.toolbox))))
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.toolbox)
    }
}
