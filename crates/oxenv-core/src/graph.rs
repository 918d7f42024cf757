//! The plan of a `call_tools` action: which call needs which, and what `${id.path}` stands for.
//!
//! Invariant: everything that can be known beforehand is checked before anything runs: ids, needs,
//! references, cycles. What only a result can tell fails that call alone.

use std::collections::HashMap;

use oxenv_wire::{
    CallGraph, GraphCall, Loc, RawJson, Structured, ToolError, ToolErrorType, ToolResult, ValidationIssue,
    raw, read,
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// Calls in one action, at the most.
const MAX_CALLS: usize = 256;
/// Issues of one action that are told, at the most.
const MAX_ISSUES: usize = 64;
/// Bytes that references may put into the arguments of one call: results that are put into each
/// other grow without end.
const MAX_FILLED: usize = 16 << 20;

/// A checked graph.
pub(crate) struct Plan<'a> {
    calls: Vec<Planned<'a>>,
}

/// One call of a plan.
pub(crate) struct Planned<'a> {
    pub(crate) id: &'a str,
    pub(crate) tool: &'a str,
    arguments: Option<&'a RawValue>,
    /// The arguments as a value, where something is to be filled in.
    template: Option<Value>,
    /// What the arguments refer to: `id.path`.
    references: Vec<String>,
    /// Calls that must be done first: indices into the plan.
    needs: Vec<usize>,
}

/// What came of the calls so far, by their place in the plan.
pub(crate) type Outcomes = [Option<Result<ToolResult, ToolError>>];

impl<'a> Plan<'a> {
    /// Checks a graph.
    ///
    /// # Errors
    /// A validation failure with every issue: no calls or too many, an id twice, an unknown need, a
    /// reference to a call that is not there, a cycle.
    pub(crate) fn new(graph: &'a CallGraph<'_>) -> Result<Self, Failure> {
        let mut issues = Vec::new();
        if graph.calls.is_empty() || graph.calls.len() > MAX_CALLS {
            let message = format!("List should have 1 to {MAX_CALLS} calls");
            let count = Value::from(graph.calls.len());
            return Err(Failure::invalid(vec![issue("list_length", vec!["calls".into()], &message, &count)]));
        }
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (index, call) in graph.calls.iter().enumerate() {
            if ids.insert(&call.id, index).is_some() {
                let message = format!("The id '{}' appears twice", call.id);
                issues.push(issue("duplicate_id", at(index, "id"), &message, &Value::from(call.id.as_ref())));
            }
        }
        let calls: Vec<Planned<'_>> = graph
            .calls
            .iter()
            .enumerate()
            .map(|(index, call)| plan_call(index, call, &ids, &mut issues))
            .collect();
        let plan = Plan { calls };
        if let Some(cycle) = plan.cycle() {
            let message = format!("These calls need each other: {}", cycle.join(" → "));
            issues.push(issue("cycle", vec!["calls".into()], &message, &Value::from(cycle)));
        }
        issues.truncate(MAX_ISSUES);
        if issues.is_empty() { Ok(plan) } else { Err(Failure::invalid(issues)) }
    }

    pub(crate) fn calls(&self) -> &[Planned<'a>] {
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

impl Planned<'_> {
    /// Whether everything that the call needs is there.
    pub(crate) fn ready(&self, done: &Outcomes) -> bool {
        self.needs.iter().all(|need| done[*need].is_some())
    }

    /// The arguments with every reference replaced; the error is the call's own outcome.
    pub(crate) fn resolve(&self, plan: &Plan<'_>, done: &Outcomes) -> Result<Option<RawJson>, ToolError> {
        let mut data: HashMap<&str, Value> = HashMap::new();
        for need in &self.needs {
            let id = plan.calls[*need].id;
            let Some(Ok(result)) = done[*need].as_ref().filter(|outcome| succeeded(outcome)) else {
                let message = format!("not called: '{id}', which it needs, gave no result");
                return Err(ToolError::new(ToolErrorType::ExecutionError, message));
            };
            if self.references.iter().any(|reference| id_of(reference) == id) {
                let value = value_of(result).map_err(|error| {
                    let message = format!("not called: the result of '{id}' cannot be read: {error}");
                    ToolError::new(ToolErrorType::ExecutionError, message)
                })?;
                data.insert(id, value);
            }
        }
        let Some(template) = &self.template else { return Ok(self.arguments.map(RawValue::to_owned)) };
        let filled = self.bounded(&data).and_then(|()| fill(template, &data));
        let filled = filled.map_err(|message| ToolError::new(ToolErrorType::InvalidArgs, message))?;
        Ok(raw(&filled).ok())
    }

    /// Refuses arguments that results would make too large.
    fn bounded(&self, data: &HashMap<&str, Value>) -> Result<(), String> {
        let mut room = MAX_FILLED;
        for reference in &self.references {
            let size = lookup(reference, data)?.to_string().len();
            room = room.checked_sub(size).ok_or_else(|| {
                format!("the results that the arguments refer to have more than {MAX_FILLED} bytes together")
            })?;
        }
        Ok(())
    }
}

fn succeeded(outcome: &Result<ToolResult, ToolError>) -> bool {
    outcome.as_ref().is_ok_and(|result| !result.is_error)
}

/// What a reference to a result stands for: its value, or the text of one that is text alone.
fn value_of(result: &ToolResult) -> serde_json::Result<Value> {
    match result.structured {
        Structured::None => Ok(result.text().into()),
        Structured::Object(_) | Structured::Wrapped(_) => serde_json::from_str(result.data()),
    }
}

fn plan_call<'a>(
    index: usize,
    call: &'a GraphCall<'_>,
    ids: &HashMap<&str, usize>,
    issues: &mut Vec<ValidationIssue>,
) -> Planned<'a> {
    let mut needs = Vec::new();
    for need in &call.needs {
        match ids.get(need.as_ref()) {
            Some(need) => needs.push(*need),
            None => {
                let message = format!("No call has the id '{need}'");
                issues.push(issue("unknown_id", at(index, "needs"), &message, &Value::from(need.as_ref())));
            }
        }
    }
    let (mut template, mut references) = (None, Vec::new());
    match call.arguments.map(read::<Value>).transpose() {
        Ok(Some(arguments)) if refer(&arguments, &mut references) => template = Some(arguments),
        Ok(_) => {}
        Err(error) => {
            let message = format!("The arguments cannot be read: {error}");
            issues.push(issue("json_invalid", at(index, "arguments"), &message, &Value::Null));
        }
    }
    for reference in &references {
        match ids.get(id_of(reference)) {
            Some(need) => needs.push(*need),
            None => {
                let message =
                    format!("'${{{reference}}}' refers to no call; write '$${{' for a literal '${{'");
                let input = Value::from(reference.as_str());
                issues.push(issue("unknown_reference", at(index, "arguments"), &message, &input));
            }
        }
    }
    needs.sort_unstable();
    needs.dedup();
    Planned { id: &call.id, tool: &call.tool_name, arguments: call.arguments, template, references, needs }
}

fn id_of(reference: &str) -> &str {
    reference.split('.').next().unwrap_or_default()
}

/// The parts of a text: what stands between references, and the references.
enum Part<'a> {
    Text(&'a str),
    Reference(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("${") {
        if rest[..begin].ends_with('$') {
            parts.push(Part::Text(&rest[..begin - 1]));
            parts.push(Part::Text("${"));
            rest = &rest[begin + 2..];
            continue;
        }
        let Some(end) = rest[begin..].find('}') else { break };
        parts.push(Part::Text(&rest[..begin]));
        parts.push(Part::Reference(&rest[begin + 2..begin + end]));
        rest = &rest[begin + end + 1..];
    }
    parts.push(Part::Text(rest));
    parts
}

/// Notes every reference; true if the value has one, or a `$${` that stands for `${`.
fn refer(value: &Value, found: &mut Vec<String>) -> bool {
    match value {
        Value::String(text) => {
            let parts = parts(text);
            for part in &parts {
                if let Part::Reference(reference) = part {
                    found.push((*reference).to_owned());
                }
            }
            parts.len() > 1
        }
        // Not `any`, which would stop at the first.
        Value::Array(items) => items.iter().fold(false, |any, item| refer(item, found) | any),
        Value::Object(fields) => fields.values().fold(false, |any, field| refer(field, found) | any),
        _ => false,
    }
}

/// The value with every reference replaced. A text that is one reference becomes the value that it
/// refers to; within a longer text, strings stand as they are and other values as JSON.
fn fill(value: &Value, data: &HashMap<&str, Value>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => {
            let parts = parts(text);
            if let [Part::Text(""), Part::Reference(reference), Part::Text("")] = parts.as_slice() {
                return lookup(reference, data).cloned();
            }
            let mut filled = String::new();
            for part in parts {
                match part {
                    Part::Text(text) => filled.push_str(text),
                    Part::Reference(reference) => match lookup(reference, data)? {
                        Value::String(text) => filled.push_str(text),
                        other => filled.push_str(&other.to_string()),
                    },
                }
            }
            Value::String(filled)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| fill(item, data)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let filled = fields.iter().map(|(key, field)| Ok((key.clone(), fill(field, data)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

fn lookup<'a>(reference: &str, data: &'a HashMap<&str, Value>) -> Result<&'a Value, String> {
    let id = id_of(reference);
    let mut value = data.get(id).ok_or_else(|| format!("'${{{reference}}}' refers to no result"))?;
    for step in reference.split('.').skip(1) {
        let next = match value {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(step),
        };
        value =
            next.ok_or_else(|| format!("'${{{reference}}}': the result of '{id}' has no '{step}' there"))?;
    }
    Ok(value)
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
