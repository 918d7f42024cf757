//! The `call_tools` action: several calls in one step, with the results of some as input of others.
//!
//! Invariant: only the shape is read here, and no more calls than a graph may have. Cycles, unknown needs and
//! `${id.path}` references are checked by the runner of the graph, before anything runs.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::issue::{Loc, MAX_ISSUES, ValidationIssue};
use crate::json::{Json, Object, RawJson, raw, read};
use crate::shape::Shape;

/// The most calls of one graph, and so the most needs of one call.
pub const MAX_GRAPH_CALLS: usize = 256;
/// The most characters of a call's id.
const MAX_ID: usize = 255;

/// One call of a graph.
#[derive(Debug, Clone)]
pub struct GraphCall<'a> {
    /// Its name within the graph, of 255 characters at most, by which others refer to its result.
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
            match read::<Elements<'_>>(value) {
                Ok(Elements { more: true, .. }) => {
                    let message = format!("List should have 1 to {MAX_GRAPH_CALLS} calls");
                    issues.push(ValidationIssue::new("list_length", &["calls"], message, value));
                }
                Ok(items) => {
                    for (index, item) in items.first.into_iter().enumerate() {
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
    if id.chars().nth(MAX_ID).is_some() {
        let issue = ValidationIssue::new(
            "string_too_long",
            &["id"],
            format!("String should have at most {MAX_ID} characters"),
            object.get("id").unwrap_or(Json::NULL),
        );
        shape.issues.push(issue.with_ctx(serde_json::json!({ "max_length": MAX_ID })));
    }
    let tool_name = shape.string("tool_name");
    let arguments = shape.optional_object("arguments", true).map(Json::raw);
    let mut needs = Vec::new();
    if let Some(value) = object.get("needs") {
        match call_ids(value) {
            Ok(ids) => needs = ids,
            Err(why) => shape.issues.push(ValidationIssue::new("list_type", &["needs"], why, value)),
        }
    }
    shape.only(&["id", "tool_name", "arguments", "needs"]);
    shape.finish(GraphCall { id, tool_name, arguments, needs })
}

fn call_ids(value: Json<'_>) -> Result<Vec<Cow<'_, str>>, String> {
    let wrong = || "Input should be a list of call ids".to_owned();
    let ids = read::<Elements<'_>>(value).map_err(|_| wrong())?;
    if ids.more {
        return Err(format!("Input should be a list of at most {MAX_GRAPH_CALLS} call ids"));
    }
    ids.first.into_iter().map(|id| Json::from(id).text()).collect::<Option<_>>().ok_or_else(wrong)
}

/// The elements of a list as they were sent, up to [`MAX_GRAPH_CALLS`].
struct Elements<'a> {
    first: Vec<&'a RawValue>,
    /// Whether the list has more.
    more: bool,
}

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Elements { first: Vec::new(), more: false })
    }
}

impl<'de> Visitor<'de> for Elements<'de> {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Self, A::Error> {
        while self.first.len() < MAX_GRAPH_CALLS {
            let Some(element) = elements.next_element()? else { return Ok(self) };
            self.first.push(element);
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {
            self.more = true;
        }
        Ok(self)
    }
}

fn within(mut issue: ValidationIssue, index: usize) -> ValidationIssue {
    issue.loc.splice(0..0, [Loc::from("calls"), Loc::Index(index)]);
    issue
}
