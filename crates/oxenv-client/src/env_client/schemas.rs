//! [`Schemas`]: the schemas of an environment's tools, as it listed them last.
//!
//! Invariant: a check sees one list; what is listed anew takes the place of what has the same name.

use std::collections::HashMap;
use std::sync::Arc;

use oxenv_wire::Tool;
use parking_lot::Mutex;
use serde_json::Value;

use crate::arguments::Checker;
use crate::error::{ClientError, Code, Result};

/// Cheap to clone; a clone shares the list.
#[derive(Clone, Default)]
pub(super) struct Schemas(Arc<Mutex<Arc<Checkers>>>);

type Checkers = HashMap<String, Arc<Checker>>;

impl Schemas {
    /// Whether that tool was listed.
    pub(super) fn know(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }

    /// Takes what the environment lists in the place of what it listed before.
    pub(super) fn replace(&self, tools: &[Tool]) {
        *self.0.lock() = Arc::new(checkers(tools).collect());
    }

    /// Takes what agents are shown. What else was listed stays: an orchestrator may be shown more.
    pub(super) fn add(&self, tools: &[Tool]) {
        let mut all = self.0.lock();
        let more: Checkers = checkers(tools).collect();
        let before = all.iter().filter(|(name, _)| !more.contains_key(*name));
        let before: Vec<_> = before.map(|(name, checker)| (name.clone(), Arc::clone(checker))).collect();
        *all = Arc::new(before.into_iter().chain(more).collect());
    }

    /// # Errors
    /// [`Code::ToolNotFound`] and [`Code::InvalidArguments`], with all that is wrong.
    pub(super) async fn check(&self, name: &str, arguments: &Value) -> Result<()> {
        let checkers = self.0.lock().clone();
        match checkers.get(name) {
            Some(checker) => checker.check(name, arguments).await,
            None => Err(not_found(name, &checkers)),
        }
    }
}

fn checkers(tools: &[Tool]) -> impl Iterator<Item = (String, Arc<Checker>)> {
    tools.iter().map(|tool| (tool.name.to_string(), Arc::new(Checker::new(&tool.input_schema))))
}

fn not_found(name: &str, checkers: &Checkers) -> ClientError {
    let mut names: Vec<&str> = checkers.keys().map(String::as_str).collect();
    names.sort_unstable();
    let offered = match names.len() {
        0 => "the environment offers none".to_owned(),
        1..=12 => format!("the environment offers {}", names.join(", ")),
        many => format!("the environment offers {many} others; list_tools names them"),
    };
    ClientError::new(Code::ToolNotFound, format!("there is no tool {name:?}; {offered}"))
}
