//! One action, however it is spelled: as OpenEnv ships it, as the journal prints it, as the tools
//! RFC's `UnifiedAction`, or as a graph of calls.
//!
//! Invariant: only the exact `type`/`action_type` values below are taken; any other object is the
//! environment's own typed action and stays raw. The reply follows the spelling of the request.

use std::borrow::Cow;

use serde_json::json;
use serde_json::value::RawValue;

use crate::graph::CallGraph;
use crate::issue::ValidationIssue;
use crate::json::{Json, Object, RawJson, raw};
use crate::shape::Shape;

/// How a request was spelled, and so how its reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spelling {
    /// `{"type":"call_tool","tool_name","arguments"}`: OpenEnv 0.2.3 to 0.10.0.
    #[default]
    Stock,
    /// `{"type":"CallToolAction","tool_name","parameters"}`: the RFC 003 journal.
    Journal,
    /// `{"action_type":"tool","tool_name","tool_args"}`: the tools RFC.
    Unified,
}

/// One call of one tool.
#[derive(Debug, Clone)]
pub struct ToolCall<'a> {
    /// How it was spelled.
    pub spelling: Spelling,
    /// The tool's name.
    pub name: Cow<'a, str>,
    /// The arguments: an object, or absent for none.
    pub arguments: Option<&'a RawValue>,
}

/// What an agent wants done.
#[derive(Debug, Clone)]
pub enum Action<'a> {
    /// List the tools.
    ListTools(Spelling),
    /// Call one tool.
    CallTool(ToolCall<'a>),
    /// Call several tools, as their needs allow.
    CallTools(CallGraph<'a>),
    /// Run a program.
    Code(Cow<'a, str>),
    /// The environment's own action.
    Typed(&'a RawValue),
}

impl<'a> Action<'a> {
    /// Reads an action.
    ///
    /// ```
    /// use oxenv_wire::{Action, Json};
    ///
    /// let text = r#"{"type": "call_tool", "tool_name": "add", "arguments": {"a": 1}}"#;
    /// let sent = Json::parse(text).unwrap();
    /// assert!(matches!(Action::parse(sent), Ok(Action::CallTool(call)) if call.name == "add"));
    /// let sent = Json::parse(r#"{"column": 3}"#).unwrap();
    /// assert!(matches!(Action::parse(sent), Ok(Action::Typed(_))));
    /// ```
    ///
    /// # Errors
    /// Every issue found, when the value is not an object, or is one of the known spellings with a
    /// wrong shape. A typed action is not looked into here.
    pub fn parse(value: impl Into<Json<'a>>) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(&[], &fault, value)])?;
        Self::from_object(&object)
    }

    /// Reads an action from an object that was split already.
    ///
    /// # Errors
    /// As [`Action::parse`].
    pub fn from_object(object: &Object<'a>) -> Result<Self, Vec<ValidationIssue>> {
        let tag = |key| object.get(key).and_then(Json::text);
        match (tag("type").as_deref(), tag("action_type").as_deref()) {
            (Some("list_tools"), _) => list_tools(object, "type", Spelling::Stock),
            (Some("call_tool"), _) => stock_call(object).map(Action::CallTool),
            (Some("call_tools"), _) => CallGraph::parse(object).map(Action::CallTools),
            (Some("ListToolsAction"), _) => list_tools(object, "type", Spelling::Journal),
            (_, Some("ListToolsAction")) => list_tools(object, "action_type", Spelling::Journal),
            (Some("CallToolAction"), _) => journal_call(object, "type"),
            (_, Some("CallToolAction")) => journal_call(object, "action_type"),
            (_, Some("tool")) => unified_call(object),
            (_, Some("code")) => unified_code(object),
            _ => Ok(Action::Typed(object.json().raw())),
        }
    }
}

impl Action<'_> {
    /// The action as it is spelled; a typed one keeps its bytes.
    #[must_use]
    pub fn to_raw(&self) -> RawJson {
        let spelled = match self {
            Action::Typed(action) => return (*action).to_owned(),
            Action::ListTools(Spelling::Journal) => json!({ "type": "ListToolsAction" }),
            Action::ListTools(_) => json!({ "type": "list_tools" }),
            Action::CallTool(call) => {
                let (kind, key, arguments) = match call.spelling {
                    Spelling::Stock => ("type", "call_tool", "arguments"),
                    Spelling::Journal => ("type", "CallToolAction", "parameters"),
                    Spelling::Unified => ("action_type", "tool", "tool_args"),
                };
                return spelled_call(kind, key, &call.name, arguments, call.arguments);
            }
            Action::CallTools(graph) => return graph.to_raw(),
            Action::Code(code) => json!({ "action_type": "code", "code": code }),
        };
        raw(&spelled).unwrap_or_default()
    }
}

fn spelled_call(tag: &str, value: &str, name: &str, key: &str, arguments: Option<&RawValue>) -> RawJson {
    let name = raw(name).unwrap_or_default();
    let mut text = format!("{{\"{tag}\":\"{value}\",\"tool_name\":{}", name.get());
    if let Some(arguments) = arguments {
        text.extend([",\"", key, "\":", arguments.get()]);
    }
    text.push('}');
    RawValue::from_string(text).unwrap_or_default()
}

/// Reads a typed action as a tool call, as environments of tools alone do: `type` may be absent.
///
/// # Errors
/// Every issue found.
pub fn default_call<'a>(value: impl Into<Json<'a>>) -> Result<ToolCall<'a>, Vec<ValidationIssue>> {
    let value = value.into();
    let object =
        Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(&[], &fault, value)])?;
    stock_call(&object)
}

/// Reads echo's deprecated `{"message": …}`; `None` when the value is anything else.
#[must_use]
pub fn legacy_message<'a>(value: impl Into<Json<'a>>) -> Option<Cow<'a, str>> {
    let object = Object::from_raw(value).ok()?;
    if object.iter().any(|(key, _)| !matches!(key, "message" | "metadata")) {
        return None;
    }
    object.get("message").and_then(Json::text)
}

fn list_tools<'a>(
    object: &Object<'a>,
    tag: &str,
    spelling: Spelling,
) -> Result<Action<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    shape.optional_object("metadata", true);
    shape.only(&[tag, "metadata"]);
    shape.finish(Action::ListTools(spelling))
}

fn stock_call<'a>(object: &Object<'a>) -> Result<ToolCall<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    shape.optional_object("metadata", false);
    shape.literal("type", "call_tool");
    let name = shape.string("tool_name");
    let arguments = shape.optional_object("arguments", false).map(Json::raw);
    shape.only(&["metadata", "type", "tool_name", "arguments"]);
    shape.finish(ToolCall { spelling: Spelling::Stock, name, arguments })
}

fn journal_call<'a>(object: &Object<'a>, tag: &str) -> Result<Action<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let name = shape.string("tool_name");
    let arguments = shape.optional_object("parameters", true).map(Json::raw);
    shape.optional_object("metadata", true);
    shape.only(&[tag, "metadata", "tool_name", "parameters"]);
    shape.finish(Action::CallTool(ToolCall { spelling: Spelling::Journal, name, arguments }))
}

fn unified_call<'a>(object: &Object<'a>) -> Result<Action<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let name = shape.string("tool_name");
    let arguments = shape.optional_object("tool_args", true).map(Json::raw);
    // The RFC's dataclass sends all of its fields, so the ones of the other kind may be there.
    shape.optional_string("code");
    shape.optional_object("metadata", true);
    shape.only(&["action_type", "metadata", "tool_name", "tool_args", "code"]);
    shape.finish(Action::CallTool(ToolCall { spelling: Spelling::Unified, name, arguments }))
}

fn unified_code<'a>(object: &Object<'a>) -> Result<Action<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let code = shape.string("code");
    shape.optional_string("tool_name");
    shape.optional_object("tool_args", true);
    shape.optional_object("metadata", true);
    shape.only(&["action_type", "metadata", "tool_name", "tool_args", "code"]);
    shape.finish(Action::Code(code))
}
