//! The union of a session's toolsets, and the one road of a call.
//!
//! Invariant: every call, whatever the door, goes through [`Toolbox::call`]; the name→owner map is
//! immutable, so a changed list is a new toolbox.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

use crate::toolset::{CallContext, Scope, Toolset};
use crate::work::{CatchPanic, Work, panic_text};

/// The tools that a session offers.
pub struct Toolbox {
    toolsets: Vec<Arc<dyn Toolset>>,
    owners: BTreeMap<String, usize>,
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
            owners: BTreeMap::new(),
            tools: Arc::new([]),
            deadline: Self::DEFAULT_DEADLINE,
        }
    }

    /// The union of toolsets, in their order.
    ///
    /// # Errors
    /// Names both owners when two toolsets offer the same tool.
    pub fn of(toolsets: Vec<Arc<dyn Toolset>>) -> Result<Self, String> {
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        let mut tools = Vec::new();
        for (index, toolset) in toolsets.iter().enumerate() {
            for tool in toolset.list().iter() {
                if let Some(other) = owners.insert(tool.name.to_string(), index) {
                    let other = toolsets[other].name();
                    return Err(format!(
                        "tool '{}' is offered by '{other}' and by '{}'",
                        tool.name,
                        toolset.name()
                    ));
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
        let begin = AssertUnwindSafe(|| toolset.call(context, tool, arguments));
        let ran = match catch_unwind(begin) {
            // A tool that finished at once needs no timer.
            Ok(Work::Done(Some(outcome))) => return outcome,
            Ok(pending) => tokio::time::timeout(self.deadline, CatchPanic(pending)).await,
            Err(panic) => Ok(Err(panic_text(panic.as_ref()))),
        };
        ran.unwrap_or_else(|_| {
            let message = format!("tool '{tool}' did not answer within {} s", self.deadline.as_secs_f64());
            Ok(Err(ToolError::new(ToolErrorType::Timeout, message)))
        })
        .unwrap_or_else(|panic| {
            tracing::error!(tool, toolset = toolset.name(), panic, "tool panicked");
            let message = format!("tool '{tool}' panicked; its server's log says where");
            Err(ToolError::new(ToolErrorType::ExecutionError, message))
        })
    }

    fn owner(&self, tool: &str) -> Option<&Arc<dyn Toolset>> {
        self.owners.get(tool).map(|index| &self.toolsets[*index])
    }
}
