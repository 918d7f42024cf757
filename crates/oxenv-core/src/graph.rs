//! The plan of a `call_tools` action: which call needs which, and what `${id.path}` stands for.
//!
//! Invariant: everything that can be known beforehand is checked before anything runs: ids, needs,
//! references, cycles. What only a result can show fails that call alone.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use oxenv_wire::{
    CallGraph, ErrorCode, FillBudget, FillError, GraphCall, Json, Loc, MAX_GRAPH_CALLS, MAX_REFERENCES,
    RawJson, Reference, Template, ToolError, ToolErrorType, ToolResult, ValidationIssue, check_readable,
    preview, raw,
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// Maximum number of issues reported for one action.
const MAX_ISSUES: usize = 64;
/// Bytes that references may put into the arguments of all calls of a graph: results that are put into each
/// other grow without end.
const MAX_FILLED: usize = 16 << 20;
/// Bytes of results that the references of a graph may be looked up in.
const MAX_SCANNED: usize = 64 << 20;
/// Bytes of results that one graph keeps, unless a single result has more.
const MAX_RESULTS: usize = 64 << 20;

/// A checked graph.
pub(crate) struct CallPlan<'a> {
    calls: Vec<PlannedCall<'a>>,
}

/// What one graph may still cost.
pub(crate) struct GraphBudget {
    fill: FillBudget,
    /// Bytes of the results that are kept.
    results: usize,
}

/// One call of a plan.
pub(crate) struct PlannedCall<'a> {
    pub(crate) id: &'a str,
    pub(crate) tool: &'a str,
    arguments: Option<&'a RawValue>,
    /// The arguments with their references, if there is something to fill in.
    template: Option<Template>,
    /// Calls that must be done first: indices into the plan.
    needs: Vec<usize>,
}

/// The outcomes of the calls so far, by their place in the plan.
pub(crate) type Outcomes = [Option<Result<ToolResult, ToolError>>];

impl<'a> CallPlan<'a> {
    /// Checks a graph.
    ///
    /// # Errors
    /// A validation failure with every issue: no calls or too many, an id twice, an unknown need, a
    /// reference to a call that is not there, a cycle.
    pub(crate) fn new(graph: &'a CallGraph<'_>) -> Result<Self, Failure> {
        if graph.calls.is_empty() || graph.calls.len() > MAX_GRAPH_CALLS {
            let message = format!("List should have 1 to {MAX_GRAPH_CALLS} calls");
            let count = Value::from(graph.calls.len());
            return Err(Failure::invalid(vec![issue("list_length", vec!["calls".into()], &message, &count)]));
        }
        let mut issues = Issues::default();
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (index, call) in graph.calls.iter().enumerate() {
            if ids.insert(&call.id, index).is_some() {
                let message = format!("The id '{}' appears twice", preview(&call.id));
                issues.add("duplicate_id", at(index, "id"), &message, &call.id);
            }
        }
        let calls: Vec<PlannedCall<'_>> = graph
            .calls
            .iter()
            .enumerate()
            .map(|(index, call)| plan_call(index, call, &ids, &mut issues))
            .collect();
        let plan = CallPlan { calls };
        if let Some(cycle) = plan.cycle() {
            let message = format!("These calls need each other: {}", cycle.join(" → "));
            issues.push(|| issue("cycle", vec!["calls".into()], &message, &Value::from(cycle)));
        }
        if issues.0.is_empty() { Ok(plan) } else { Err(Failure::invalid(issues.0)) }
    }

    pub(crate) fn calls(&self) -> &[PlannedCall<'a>] {
        &self.calls
    }

    /// A chain of calls that comes back to its beginning.
    fn cycle(&self) -> Option<Vec<&'a str>> {
        // 0: not seen, 1: on the path, 2: done.
        let mut marks = vec![0_u8; self.calls.len()];
        for start in 0..self.calls.len() {
            // Explicit, because a graph may be as deep as it has calls.
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            while let Some((call, next)) = path.last_mut() {
                let call = *call;
                if *next == 0 && marks[call] == 2 {
                    path.pop();
                    continue;
                }
                marks[call] = 1;
                let Some(need) = self.calls[call].needs.get(*next).copied() else {
                    marks[call] = 2;
                    path.pop();
                    continue;
                };
                *next += 1;
                if marks[need] == 1 {
                    let begin = path.iter().position(|(on_path, _)| *on_path == need).unwrap_or(0);
                    let ids = path[begin..].iter().map(|(on_path, _)| *on_path).chain([need]);
                    return Some(ids.map(|index| self.calls[index].id).collect());
                }
                path.push((need, 0));
            }
        }
        None
    }
}

impl PlannedCall<'_> {
    /// Whether everything that the call needs is there.
    pub(crate) fn ready(&self, done: &Outcomes) -> bool {
        self.needs.iter().all(|need| done[*need].is_some())
    }

    /// The arguments with every reference replaced; the error is the call's own outcome.
    pub(crate) fn resolve(
        &self,
        plan: &CallPlan<'_>,
        done: &Outcomes,
        budget: &mut GraphBudget,
    ) -> Result<Option<RawJson>, ToolError> {
        let mut results: Vec<(&str, &ToolResult)> = Vec::new();
        for need in &self.needs {
            let id = plan.calls[*need].id;
            let Some(Ok(result)) = done[*need].as_ref().filter(|outcome| succeeded(outcome)) else {
                let message = format!("not called: '{id}', which it needs, gave no result");
                return Err(ToolError::new(ToolErrorType::ExecutionError, message));
            };
            results.push((id, result));
        }
        let Some(template) = &self.template else { return Ok(self.arguments.map(RawValue::to_owned)) };
        let referred: HashSet<&str> = template.references().iter().map(Reference::id).collect();
        let mut values: HashMap<&str, Cow<'_, str>> = HashMap::new();
        for (id, result) in results.into_iter().filter(|(id, _)| referred.contains(id)) {
            let value = result.value();
            if let Cow::Owned(text) = &value {
                let left = budget.fill.scanned.checked_sub(text.len());
                budget.fill.scanned = left.ok_or_else(|| invalid(fill_failure(&FillError::TooFar)))?;
            }
            values.insert(id, value);
        }
        let find = |reference: &Reference, budget: &mut FillBudget| {
            let value = values.get(reference.id()).map_or(Json::NULL, |value| Json::from_checked(value));
            reference.find(value, budget)
        };
        let filled = template.fill(&mut budget.fill, find).map_err(|(at, fault)| unfilled(at, &fault))?;
        RawValue::from_string(filled).map(Some).map_err(|error| invalid(error.to_string()))
    }
}

impl Default for GraphBudget {
    fn default() -> Self {
        GraphBudget { fill: FillBudget { inserted: MAX_FILLED, scanned: MAX_SCANNED }, results: 0 }
    }
}

impl GraphBudget {
    /// The outcome of a call as its graph keeps it: a result for which there is no room becomes an error.
    pub(crate) fn keep(&mut self, outcome: Result<ToolResult, ToolError>) -> Result<ToolResult, ToolError> {
        let result = outcome?;
        let before = self.results;
        self.results = before.saturating_add(result.weight());
        if before == 0 || self.results <= MAX_RESULTS {
            return Ok(result);
        }
        self.results = before;
        let message = format!(
            "the call was made and its result is left out: the results of a graph may have {MAX_RESULTS} \
             bytes together"
        );
        Err(ToolError::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::InvalidResult))
    }
}

/// Why a reference could not be replaced.
fn unfilled(reference: &Reference, fault: &FillError) -> ToolError {
    let (path, id) = (preview(reference.path()), reference.id());
    match fault {
        FillError::Missing(step) => {
            invalid(format!("'${{{path}}}': the result of '{id}' has no '{}' there", preview(step)))
        }
        FillError::Unreadable(why) => {
            let message = format!("not called: the result of '{id}' cannot be read: {why}");
            ToolError::new(ToolErrorType::ExecutionError, message)
        }
        FillError::TooLarge | FillError::TooFar => invalid(fill_failure(fault)),
    }
}

/// That the references of a graph ask for too much.
fn fill_failure(fault: &FillError) -> String {
    match fault {
        FillError::TooFar => {
            format!("the references of a graph may look through {MAX_SCANNED} bytes of results, and no more")
        }
        _ => format!("the references of a graph may put {MAX_FILLED} bytes into its calls, and no more"),
    }
}

fn invalid(message: String) -> ToolError {
    ToolError::new(ToolErrorType::InvalidArgs, message)
}

fn succeeded(outcome: &Result<ToolResult, ToolError>) -> bool {
    outcome.as_ref().is_ok_and(|result| !result.is_error)
}

fn plan_call<'a>(
    index: usize,
    call: &'a GraphCall<'_>,
    ids: &HashMap<&str, usize>,
    issues: &mut Issues,
) -> PlannedCall<'a> {
    let mut needs = Vec::new();
    for need in &call.needs {
        match ids.get(need.as_ref()) {
            Some(need) => needs.push(*need),
            None => {
                let message = format!("No call has the id '{}'", preview(need));
                issues.add("unknown_id", at(index, "needs"), &message, need);
            }
        }
    }
    let template = call.arguments.and_then(|arguments| template_of(index, arguments, issues));
    for reference in template.iter().flat_map(Template::references) {
        match ids.get(reference.id()) {
            Some(need) => needs.push(*need),
            None => {
                let path = preview(reference.path());
                let message = format!("'${{{path}}}' refers to no call; write '$${{' for a literal '${{'");
                issues.add("unknown_reference", at(index, "arguments"), &message, reference.path());
            }
        }
    }
    needs.sort_unstable();
    needs.dedup();
    PlannedCall { id: &call.id, tool: &call.tool_name, arguments: call.arguments, template, needs }
}

/// The arguments of a call with their references; `None` where there are no arguments, or where they
/// cannot be read.
fn template_of(index: usize, arguments: &RawValue, issues: &mut Issues) -> Option<Template> {
    if let Err(error) = check_readable(arguments) {
        let message = format!("The arguments cannot be read: {error}");
        issues.push(|| issue("json_invalid", at(index, "arguments"), &message, &Value::Null));
        return None;
    }
    match Template::parse(arguments.into()) {
        Ok(template) => template,
        Err(_) => {
            let message = format!("The arguments of a call hold at most {MAX_REFERENCES} references");
            issues.push(|| issue("too_many_references", at(index, "arguments"), &message, &Value::Null));
            None
        }
    }
}

/// The issues of a graph, up to [`MAX_ISSUES`].
#[derive(Default)]
struct Issues(Vec<ValidationIssue>);

impl Issues {
    fn add(&mut self, kind: &'static str, loc: Vec<Loc>, message: &str, input: &str) {
        self.push(|| issue(kind, loc, message, &Value::from(input)));
    }

    fn push(&mut self, issue: impl FnOnce() -> ValidationIssue) {
        if self.0.len() < MAX_ISSUES {
            self.0.push(issue());
        }
    }
}

fn at(index: usize, key: &str) -> Vec<Loc> {
    vec!["calls".into(), Loc::Index(index), key.into()]
}

fn issue(kind: &'static str, loc: Vec<Loc>, message: &str, input: &Value) -> ValidationIssue {
    let input = raw(input).unwrap_or_default();
    let mut issue = ValidationIssue::new(kind, &[], message, &input);
    issue.loc = loc;
    issue
}
