//! The numbers themselves: plain integers behind a shard's lock.
//!
//! Invariant: adding up the shards in any order gives the same numbers.

use std::collections::HashMap;

use oxenv_core::{Failure, ObservedCall, OperationKind};
use oxenv_wire::{ErrorCode, FailureKind, Phase, ToolErrorType};

use super::histogram::Histogram;

/// The counts of a shard, or of all of them together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) session_wait: Histogram,
    pub(super) refused: HashMap<ErrorCode, u64>,
    pub(super) ended: HashMap<&'static str, u64>,
    pub(super) failures: HashMap<(ErrorCode, FailureKind, Phase), u64>,
    /// By kind. There are few, and comparing them is cheaper than hashing one.
    pub(super) operations: Vec<(OperationKind, OperationTimes)>,
    /// By toolset, by tool.
    pub(super) tools: HashMap<Box<str>, HashMap<Box<str>, ToolCounts>>,
}

/// The operations of one kind.
#[derive(Debug, Default)]
pub(super) struct OperationTimes {
    pub(super) waited: Histogram,
    pub(super) took: Histogram,
}

/// The calls of one tool.
#[derive(Debug, Default)]
pub(super) struct ToolCounts {
    pub(super) took: Histogram,
    /// By type; there are six.
    pub(super) errors: Vec<(&'static str, u64)>,
}

impl Counts {
    pub(super) fn failed(&mut self, failure: &Failure) {
        *self.failures.entry((failure.code, failure.kind, failure.phase)).or_default() += 1;
    }

    pub(super) fn operation(&mut self, kind: OperationKind) -> &mut OperationTimes {
        let at = self.operations.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.operations.push((kind, OperationTimes::default()));
            self.operations.len() - 1
        });
        &mut self.operations[at].1
    }

    /// The calls of a tool that was counted here before.
    pub(super) fn tool(&mut self, toolset: &str, tool: &str) -> Option<&mut ToolCounts> {
        self.tools.get_mut(toolset)?.get_mut(tool)
    }

    pub(super) fn new_tool(&mut self, toolset: &str, tool: &str) -> &mut ToolCounts {
        self.tools.entry(toolset.into()).or_default().entry(tool.into()).or_default()
    }

    pub(super) fn add(&mut self, other: &Counts) {
        self.opened += other.opened;
        self.session_wait.add(&other.session_wait);
        sum(&mut self.refused, &other.refused);
        sum(&mut self.ended, &other.ended);
        sum(&mut self.failures, &other.failures);
        for (kind, times) in &other.operations {
            let mine = self.operation(*kind);
            mine.waited.add(&times.waited);
            mine.took.add(&times.took);
        }
        for (toolset, tools) in &other.tools {
            for (tool, calls) in tools {
                let mine = self.new_tool(toolset, tool);
                mine.took.add(&calls.took);
                calls.errors.iter().for_each(|(kind, count)| *mine.errors_of(kind) += count);
            }
        }
    }
}

impl ToolCounts {
    pub(super) fn called(&mut self, call: &ObservedCall<'_>) {
        self.took.observe(call.took);
        match call.error {
            Some(error) => *self.errors_of(type_name(error.error_type)) += 1,
            None if call.tool_error => *self.errors_of("reported") += 1,
            None => {}
        }
    }

    fn errors_of(&mut self, kind: &'static str) -> &mut u64 {
        let at = self.errors.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.errors.push((kind, 0));
            self.errors.len() - 1
        });
        &mut self.errors[at].1
    }
}

fn sum<K: Copy + Eq + std::hash::Hash>(into: &mut HashMap<K, u64>, from: &HashMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}

fn type_name(kind: ToolErrorType) -> &'static str {
    match kind {
        ToolErrorType::ExecutionError => "execution_error",
        ToolErrorType::InvalidArgs => "invalid_args",
        ToolErrorType::TransportError => "transport_error",
        ToolErrorType::ToolNotFound => "tool_not_found",
        ToolErrorType::Timeout => "timeout",
    }
}
