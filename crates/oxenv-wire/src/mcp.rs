//! JSON-RPC 2.0 as MCP and OpenEnv's dialect of it speak it: requests, and what `tools/list` and
//! `tools/call` are answered with.
//!
//! Invariant: a request that is refused here is answered with `id: null`, as the reference does,
//! because its id cannot be trusted.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ToolErrorType;
use crate::issue::{ValidationIssue, render_issues};
use crate::json::{Json, Object, ParseError, raw, read};
use crate::preview::preview;
use crate::reply::ErrorData;
use crate::result::{ToolResult, push_string};
use crate::shape::Shape;
use crate::tool::ToolError;

/// Characters that an id may have.
const MAX_ID: usize = 255;

/// JSON-RPC's and MCP's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum RpcCode {
    /// The text is not a JSON object.
    ParseError = -32700,
    /// The object is not a request.
    InvalidRequest = -32600,
    /// No such method.
    MethodNotFound = -32601,
    /// The method's parameters are wrong.
    InvalidParams = -32602,
    /// The call failed: unknown tool, wrong arguments, a failure inside.
    InternalError = -32603,
    /// No session can be had.
    ServerError = -32000,
    /// There is no such resource; of the revisions with a handshake.
    ResourceNotFound = -32002,
    /// The client did not declare a capability that the request needs.
    MissingCapability = -32021,
}

impl From<RpcCode> for i32 {
    fn from(code: RpcCode) -> Self {
        code as i32
    }
}

/// The two eras of MCP, which spell results differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum McpEra {
    /// Sessions by handshake: 2024-11-05 to 2025-11-25.
    Handshake,
    /// Each request stands alone: 2026-07-28.
    Stateless,
}

/// An error reply.
#[derive(Debug, Clone)]
pub struct RpcError {
    /// The code.
    pub code: RpcCode,
    /// What happened.
    pub message: String,
    /// Details, null allowed.
    pub data: Value,
}

impl RpcError {
    /// An error without details.
    #[must_use]
    pub fn new(code: RpcCode, message: impl Into<String>) -> Self {
        RpcError { code, message: message.into(), data: Value::Null }
    }
}

/// The id of a request: a string, a whole number, or absent (null).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcId<'a>(&'a str);

impl<'a> RpcId<'a> {
    /// No id.
    pub const NULL: RpcId<'static> = RpcId("null");

    /// The id as JSON.
    #[must_use]
    pub fn get(self) -> &'a str {
        self.0
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct RpcRequest<'a> {
    /// Its id; a request without one is answered with `id: null`.
    pub id: RpcId<'a>,
    /// Whether it had an id at all; one without is a notification in MCP's eyes.
    pub has_id: bool,
    /// The method.
    pub method: Cow<'a, str>,
    /// The parameters: an object, or absent.
    pub params: Option<Json<'a>>,
    split: Option<Result<Object<'a>, ParseError>>,
}

impl<'a> RpcRequest<'a> {
    /// The parameters, to be read as the method needs.
    ///
    /// # Errors
    /// As [`RpcParams::parse`].
    pub fn read_params(&self) -> Result<RpcParams<'a>, RpcError> {
        self.split.clone().transpose().map(RpcParams).map_err(RpcParams::refused)
    }

    /// Reads a request from a text.
    ///
    /// ```
    /// use oxenv_wire::{RpcRequest, write_rpc_result};
    ///
    /// let request = RpcRequest::parse(r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#).unwrap();
    /// assert_eq!(request.method, "ping");
    /// let mut reply = String::new();
    /// write_rpc_result(&mut reply, request.id, |out| out.push_str("{}"));
    /// assert_eq!(reply, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    /// ```
    ///
    /// # Errors
    /// The fault to answer with: `-32700` when the text is no JSON object, `-32600` when the object
    /// is not a request.
    pub fn parse(message: &'a str) -> Result<Self, RpcError> {
        let object = Object::parse(message).map_err(|fault| match fault {
            ParseError::Syntax(fault) => RpcError::new(RpcCode::ParseError, format!("Parse error: {fault}")),
            ParseError::NotObject(name) => {
                let message = format!(
                    "Parse error: a request is one JSON object, not a {name}; batches are not part of MCP"
                );
                RpcError::new(RpcCode::ParseError, message)
            }
            ParseError::DuplicateKey(key) => RpcError::new(
                RpcCode::InvalidRequest,
                format!("Invalid request: the key '{}' appears twice", preview(&key)),
            ),
        })?;
        Self::from_object(&object)
    }

    /// Reads a request from an object.
    ///
    /// # Errors
    /// `-32600` when the object is not a request.
    pub fn from_object(object: &Object<'a>) -> Result<Self, RpcError> {
        let mut shape = Shape::new(object, &[]);
        shape.required("jsonrpc");
        shape.literal("jsonrpc", "2.0");
        let method = shape.string("method");
        let params = shape.optional_object("params", true);
        let id = object.get("id");
        match id {
            Some(value) if !is_id(value) => {
                let msg = "Input should be a string, an integer or null";
                shape.issues.push(ValidationIssue::new("id_type", &["id"], msg, value));
            }
            Some(value) if is_long(value) => {
                let msg = format!("String should have at most {MAX_ID} characters");
                shape.issues.push(ValidationIssue::new("string_too_long", &["id"], msg, value));
            }
            _ => {}
        }
        shape.only(&["jsonrpc", "id", "method", "params"]);
        let id = id.map_or("null", Json::get);
        let split = params.and_then(|_| object.child("params"));
        let request = RpcRequest { id: RpcId(id), has_id: id != "null", method, params, split };
        shape.finish(request).map_err(|issues| {
            let message = format!("Invalid request: {}", render_issues("JsonRpcRequest", &issues));
            RpcError::new(RpcCode::InvalidRequest, message)
        })
    }
}

/// The parameters of a request, parsed once and read as its method needs.
#[derive(Debug, Clone)]
pub struct RpcParams<'a>(Option<Object<'a>>);

/// Parameters of `tools/call`.
#[derive(Debug, Clone)]
pub struct ToolCallParams<'a> {
    /// The tool's name.
    pub name: Cow<'a, str>,
    /// The arguments: an object, or absent.
    pub arguments: Option<&'a RawValue>,
}

impl<'a> RpcParams<'a> {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    /// `-32602` when they are no object.
    pub fn parse(params: Option<Json<'a>>) -> Result<Self, RpcError> {
        params.map(Object::from_raw).transpose().map(RpcParams).map_err(Self::refused)
    }

    fn refused(fault: ParseError) -> RpcError {
        let why = match fault {
            ParseError::DuplicateKey(key) => format!("the key '{}' appears twice", preview(&key)),
            ParseError::Syntax(fault) => fault.message,
            ParseError::NotObject(_) => "an object is required".to_owned(),
        };
        RpcError::new(RpcCode::InvalidParams, format!("Invalid params - {why}"))
    }

    /// What `tools/call` needs. Keys of newer revisions (`_meta`, `task`) are let pass.
    ///
    /// # Errors
    /// `-32602` with what is missing or wrong.
    pub fn tool_call(&self) -> Result<ToolCallParams<'a>, RpcError> {
        let Some(name) = self.get("name") else {
            return Err(RpcError::new(RpcCode::InvalidParams, "Missing 'name' in params"));
        };
        let name = name
            .text()
            .ok_or_else(|| RpcError::new(RpcCode::InvalidParams, "Invalid params - 'name' is a string"))?;
        let arguments = self.get("arguments");
        if arguments.is_some_and(|value| !value.is_object()) {
            return Err(RpcError::new(RpcCode::InvalidParams, "Invalid params - 'arguments' is an object"));
        }
        Ok(ToolCallParams { name, arguments: arguments.map(Json::raw) })
    }

    /// The session that the request names, if it names one.
    ///
    /// # Errors
    /// `-32602` when `session_id` is not a string.
    pub fn session_id(&self) -> Result<Option<Cow<'a, str>>, RpcError> {
        let Some(value) = self.get("session_id") else { return Ok(None) };
        let id = value.text().ok_or_else(|| {
            RpcError::new(RpcCode::InvalidParams, "Invalid params - 'session_id' is a string")
        })?;
        Ok(Some(id))
    }

    /// The request's metadata, `_meta`; `None` when there is none or it is not an object.
    #[must_use]
    pub fn meta(&self) -> Option<Object<'a>> {
        Object::from_raw(self.get("_meta")?).ok()
    }

    /// A value that is there and not null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Json<'a>> {
        self.0.as_ref().and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }
}

/// Appends a successful reply; `write` appends its result.
pub fn write_rpc_result(out: &mut String, id: RpcId<'_>, write: impl FnOnce(&mut String)) {
    out.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    out.push_str(id.get());
    out.push_str(",\"result\":");
    write(out);
    out.push('}');
}

/// Appends an error reply.
pub fn write_rpc_error(out: &mut String, id: RpcId<'_>, fault: &RpcError) {
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{{\"code\":{},\"message\":",
        id.get(),
        fault.code as i32
    );
    push_string(out, &fault.message);
    let _ = write!(out, ",\"data\":{}}}}}", fault.data);
}

/// Appends what MCP answers to `tools/list`, around a JSON array of tools.
pub fn write_mcp_tools(out: &mut String, era: McpEra, tools: &str) {
    out.push_str(match era {
        McpEra::Handshake => "{\"tools\":",
        McpEra::Stateless => "{\"resultType\":\"complete\",\"tools\":",
    });
    out.push_str(tools);
    out.push_str(match era {
        McpEra::Handshake => "}",
        // Lists may change at any time, and what one caller may see is private to it.
        McpEra::Stateless => ",\"ttlMs\":0,\"cacheScope\":\"private\"}",
    });
}

/// Appends what MCP answers to `tools/call`. An error is a result too, so that the model reads it.
pub fn write_mcp_call(out: &mut String, era: McpEra, outcome: Result<&ToolResult, &ToolError>) {
    let start = out.len();
    match outcome {
        Ok(ToolResult { input_required: Some(result), .. }) if era == McpEra::Stateless => {
            out.push_str(result.get());
            return;
        }
        Ok(result) => result.write_mcp(out),
        Err(error) => write_failed_call(out, error),
    }
    if era == McpEra::Stateless {
        out.replace_range(start..=start, "{\"resultType\":\"complete\",");
    }
}

/// Our own part of the result of a call that failed.
#[derive(Serialize)]
struct FailedCall {
    error_type: ToolErrorType,
    #[serde(flatten)]
    data: Option<ErrorData>,
}

fn write_failed_call(out: &mut String, error: &ToolError) {
    out.push_str("{\"content\":[{\"type\":\"text\",\"text\":");
    push_string(out, &error.message);
    out.push_str("}],\"isError\":true,\"_meta\":{\"oxenv\":");
    let ours = FailedCall { error_type: error.error_type, data: error.data() };
    out.push_str(raw(&ours).unwrap_or_default().get());
    out.push_str("}}");
}

/// Whether an id is longer than what is echoed. Numbers have 128 bits at most.
fn is_long(id: Json<'_>) -> bool {
    id.get().len() > MAX_ID && id.text().is_some_and(|text| text.chars().count() > MAX_ID)
}

fn is_id(value: Json<'_>) -> bool {
    match value.get().as_bytes().first() {
        Some(b'n') => true,
        Some(b'"') => value.text().is_some(),
        Some(b'-' | b'0'..=b'9') => read::<i128>(value).is_ok(),
        _ => false,
    }
}
