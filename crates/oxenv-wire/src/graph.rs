//! The `call_tools` action: several calls in one step, with the results of some as input of others.
//!
//! Invariant: only the shape is read here. Cycles, unknown needs and `${id.path}` references are
//! judged by whoever runs the graph, before anything runs.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::issue::{Loc, MAX_ISSUES, ValidationIssue};
use crate::json::{Json, Object, RawJson, raw, read};
use crate::shape::Shape;

/// One call of a graph.
#[derive(Debug, Clone)]
pub struct GraphCall<'a> {
    /// Its name within the graph, by which others refer to its result.
    pub id: Cow<'a, str>,
    /// The tool to call.
    pub tool_name: Cow<'a, str>,
    /// The arguments, in which `${id.path}` stands for an earlier result.
    pub arguments: Option<&'a RawValue>,
    /// Calls that must be done first, beside those referred to.
    pub needs: Vec<Cow<'a, str>>,
}

/// A `call_tools` action.
#[derive(Debug, Clone)]
pub struct CallGraph<'a> {
    /// The calls in the order they were sent.
    pub calls: Vec<GraphCall<'a>>,
}

impl<'a> CallGraph<'a> {
    /// The action as it is spelled; arguments keep their bytes.
    pub(crate) fn to_raw(&self) -> RawJson {
        let mut out = String::from("{\"type\":\"call_tools\",\"calls\":[");
        for (index, call) in self.calls.iter().enumerate() {
            let (id, name) = (raw(&call.id).unwrap_or_default(), raw(&call.tool_name).unwrap_or_default());
            out.push_str(if index > 0 { "," } else { "" });
            out.extend(["{\"id\":", id.get(), ",\"tool_name\":", name.get()]);
            if let Some(arguments) = call.arguments {
                out.extend([",\"arguments\":", arguments.get()]);
            }
            if !call.needs.is_empty() {
                out.extend([",\"needs\":", raw(&call.needs).unwrap_or_default().get()]);
            }
            out.push('}');
        }
        out.push_str("]}");
        RawValue::from_string(out).unwrap_or_default()
    }

    pub(crate) fn parse(object: &Object<'a>) -> Result<Self, Vec<ValidationIssue>> {
        let mut shape = Shape::new(object, &[]);
        let calls = shape.required("calls");
        shape.optional_object("metadata", true);
        shape.only(&["type", "calls", "metadata"]);
        let mut issues = shape.issues;
        let mut read_calls = Vec::new();
        if let Some(value) = calls {
            match read::<Vec<&RawValue>>(value) {
                Ok(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        if issues.len() >= MAX_ISSUES {
                            break;
                        }
                        match call(item) {
                            Ok(call) => read_calls.push(call),
                            Err(found) => issues.extend(found.into_iter().map(|issue| within(issue, index))),
                        }
                    }
                }
                Err(_) => issues.push(ValidationIssue::new(
                    "list_type",
                    &["calls"],
                    "Input should be a valid list",
                    value,
                )),
            }
        }
        if issues.is_empty() { Ok(CallGraph { calls: read_calls }) } else { Err(issues) }
    }
}

fn call(value: &RawValue) -> Result<GraphCall<'_>, Vec<ValidationIssue>> {
    let object =
        Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(&[], &fault, value)])?;
    let mut shape = Shape::new(&object, &[]);
    let id = shape.string("id");
    let tool_name = shape.string("tool_name");
    let arguments = shape.optional_object("arguments", true).map(Json::raw);
    let mut needs = Vec::new();
    if let Some(value) = object.get("needs") {
        let names = read::<Vec<&RawValue>>(value).ok();
        match names.and_then(|names| {
            names.into_iter().map(|name| Json::from(name).text()).collect::<Option<Vec<_>>>()
        }) {
            Some(names) => needs = names,
            None => shape.issues.push(ValidationIssue::new(
                "list_type",
                &["needs"],
                "Input should be a list of call ids",
                value,
            )),
        }
    }
    shape.only(&["id", "tool_name", "arguments", "needs"]);
    shape.finish(GraphCall { id, tool_name, arguments, needs })
}

fn within(mut issue: ValidationIssue, index: usize) -> ValidationIssue {
    issue.loc.splice(0..0, [Loc::from("calls"), Loc::Index(index)]);
    issue
}
