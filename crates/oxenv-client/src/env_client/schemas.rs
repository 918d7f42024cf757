//! [`Schemas`]: the schemas of an environment's tools, as it listed them last.
//!
//! Invariant: a check sees one list; what is listed anew takes the place of what has the same name.

use std::collections::HashMap;
use std::sync::Arc;

use oxenv_wire::Tool;
use parking_lot::Mutex;
use serde_json::Value;

use crate::arguments::ArgumentChecker;
use crate::error::Result;

/// Cheap to clone; a clone shares the list.
#[derive(Clone, Default)]
pub(super) struct ToolSchemas(Arc<Mutex<Arc<CheckersByName>>>);

type CheckersByName = HashMap<String, Arc<ArgumentChecker>>;

impl ToolSchemas {
    /// Whether that tool was listed.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }

    /// Takes what the environment lists in the place of what it listed before.
    pub(super) fn replace(&self, tools: &[Tool]) {
        *self.0.lock() = Arc::new(checkers(tools).collect());
    }

    /// Takes what agents are shown. What else was listed stays: an orchestrator may be shown more.
    pub(super) fn add(&self, tools: &[Tool]) {
        let mut all = self.0.lock();
        let more: CheckersByName = checkers(tools).collect();
        let before = all.iter().filter(|(name, _)| !more.contains_key(*name));
        let before: Vec<_> = before.map(|(name, checker)| (name.clone(), Arc::clone(checker))).collect();
        *all = Arc::new(before.into_iter().chain(more).collect());
    }

    /// The names that were listed, for a message about one that was not.
    pub(super) fn describe_offered(&self) -> String {
        let checkers = self.0.lock().clone();
        let mut names: Vec<&str> = checkers.keys().map(String::as_str).collect();
        names.sort_unstable();
        match names.len() {
            0 => "the environment offers none".to_owned(),
            1..=12 => format!("the environment offers {}", names.join(", ")),
            many => format!("the environment offers {many} others; list_tools names them"),
        }
    }

    /// Whether arguments fit their tool. A name that was not listed is for the server to judge: it knows
    /// whether the tool does not exist, or whether a toolset does not work.
    ///
    /// # Errors
    /// [`crate::Code::InvalidArguments`], with all that is wrong.
    pub(super) async fn check(&self, name: &str, arguments: &Value) -> Result<()> {
        let checker = self.0.lock().get(name).cloned();
        match checker {
            Some(checker) => checker.check(name, arguments).await,
            None => Ok(()),
        }
    }
}

fn checkers(tools: &[Tool]) -> impl Iterator<Item = (String, Arc<ArgumentChecker>)> {
    tools.iter().map(|tool| (tool.name.to_string(), Arc::new(ArgumentChecker::new(&tool.input_schema))))
}
