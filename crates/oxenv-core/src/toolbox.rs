//! The union of a session's toolsets, and the one road of a call.
//!
//! Invariant: every call, whatever the door, goes through [`Toolbox::call`]; the name→owner map is
//! immutable, so a changed list is a new toolbox.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

use crate::toolset::{CallContext, Scope, Toolset};

/// The tools that a session offers.
pub struct Toolbox {
    toolsets: Vec<Arc<dyn Toolset>>,
    owners: HashMap<String, usize>,
    tools: Arc<[Tool]>,
    deadline: Duration,
}

impl Toolbox {
    /// The deadline of a call unless another is set.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

    /// No tools.
    #[must_use]
    pub fn empty() -> Self {
        Toolbox {
            toolsets: Vec::new(),
            owners: HashMap::new(),
            tools: Arc::new([]),
            deadline: Self::DEFAULT_DEADLINE,
        }
    }

    /// The union of toolsets, in their order.
    ///
    /// # Errors
    /// Names both owners when two toolsets offer the same tool.
    pub fn of(toolsets: Vec<Arc<dyn Toolset>>) -> Result<Self, String> {
        let mut owners: HashMap<String, usize> = HashMap::new();
        let mut tools = Vec::new();
        for (index, toolset) in toolsets.iter().enumerate() {
            for tool in toolset.list().iter() {
                if let Some(other) = owners.insert(tool.name.to_string(), index) {
                    let other = toolsets[other].name();
                    return Err(format!("tool '{}' is offered by '{other}' and by '{}'", tool.name, toolset.name()));
                }
                tools.push(tool.clone());
            }
        }
        Ok(Toolbox { toolsets, owners, tools: tools.into(), deadline: Self::DEFAULT_DEADLINE })
    }

    /// Changes the deadline of calls.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The tools, in order.
    #[must_use]
    pub fn tools(&self) -> &Arc<[Tool]> {
        &self.tools
    }

    /// Whether calls of that tool may overlap with other calls and steps of the session.
    #[must_use]
    pub fn concurrent(&self, tool: &str) -> bool {
        self.owner(tool).is_none_or(|toolset| toolset.concurrent())
    }

    /// Only the tools that need no session.
    #[must_use]
    pub fn server_scoped(&self) -> Self {
        let toolsets =
            self.toolsets.iter().filter(|toolset| toolset.scope() == Scope::Server).cloned().collect();
        // A subset of a union without conflicts has none.
        Self::of(toolsets).unwrap_or_else(|_| Self::empty()).with_deadline(self.deadline)
    }

    /// Calls a tool: finds its owner, which validates the arguments, and holds it to the deadline.
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// One of the five types of tool error; see [`Toolset::call`].
    pub async fn call(
        &self,
        context: CallContext<'_>,
        tool: &str,
        arguments: Option<&RawValue>,
    ) -> Result<ToolResult, ToolError> {
        let Some(toolset) = self.owner(tool) else { return Err(ToolError::not_found(tool)) };
        match toolset.call(context, tool, arguments) {
            // A tool that finished at once needs no timer.
            crate::Work::Done(Some(outcome)) => outcome,
            pending => tokio::time::timeout(self.deadline, pending).await.unwrap_or_else(|_| {
                let message = format!("tool '{tool}' did not answer within {} s", self.deadline.as_secs_f64());
                Err(ToolError::new(ToolErrorType::Timeout, message))
            }),
        }
    }

    fn owner(&self, tool: &str) -> Option<&Arc<dyn Toolset>> {
        self.owners.get(tool).map(|index| &self.toolsets[*index])
    }
}
