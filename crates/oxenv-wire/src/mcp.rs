//! JSON-RPC 2.0 as OpenEnv's MCP dialect speaks it: `tools/list`, `tools/call`,
//! `openenv/session/create`, `openenv/session/close`.
//!
//! Invariant: a request that is refused here is answered with `id: null`, as the reference does,
//! because its id cannot be trusted.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::issue::{ValidationIssue, render_issues};
use crate::json::{Json, Object, ParseFault, read};
use crate::result::push_string;
use crate::shape::Shape;

/// JSON-RPC error codes of the dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum RpcCode {
    /// The text is not a JSON object.
    ParseError = -32700,
    /// The object is no request.
    InvalidRequest = -32600,
    /// No such method.
    MethodNotFound = -32601,
    /// The method's parameters are wrong.
    InvalidParams = -32602,
    /// The call failed: unknown tool, wrong arguments, a failure inside.
    InternalError = -32603,
    /// No session can be had.
    ServerError = -32000,
}

/// An error reply.
#[derive(Debug, Clone)]
pub struct RpcFault {
    /// The code.
    pub code: RpcCode,
    /// What happened.
    pub message: String,
    /// Details, null allowed.
    pub data: Value,
}

impl RpcFault {
    /// An error without details.
    #[must_use]
    pub fn new(code: RpcCode, message: impl Into<String>) -> Self {
        RpcFault { code, message: message.into(), data: Value::Null }
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
    split: Option<Result<Object<'a>, ParseFault>>,
}

impl<'a> RpcRequest<'a> {
    /// The parameters, to be asked for what the method needs.
    ///
    /// # Errors
    /// As [`RpcParams::parse`].
    pub fn read_params(&self) -> Result<RpcParams<'a>, RpcFault> {
        self.split.clone().transpose().map(RpcParams).map_err(RpcParams::refused)
    }

    /// Reads a request from a text.
    ///
    /// # Errors
    /// The fault to answer with: `-32700` when the text is no JSON object, `-32600` when the object
    /// is no request.
    pub fn parse(message: &'a str) -> Result<Self, RpcFault> {
        let object = Object::parse(message).map_err(|fault| match fault {
            ParseFault::Syntax(fault) => RpcFault::new(RpcCode::ParseError, format!("Parse error: {fault}")),
            ParseFault::NotObject(name) => {
                let message = format!(
                    "Parse error: a request is one JSON object, not a {name}; batches are not part of MCP"
                );
                RpcFault::new(RpcCode::ParseError, message)
            }
            ParseFault::DuplicateKey(key) => RpcFault::new(
                RpcCode::InvalidRequest,
                format!("Invalid request: the key '{key}' appears twice"),
            ),
        })?;
        Self::from_object(&object)
    }

    /// Reads a request from an object.
    ///
    /// # Errors
    /// `-32600` when the object is no request.
    pub fn from_object(object: &Object<'a>) -> Result<Self, RpcFault> {
        let mut shape = Shape::new(object, &[]);
        shape.required("jsonrpc");
        shape.literal("jsonrpc", "2.0");
        let method = shape.string("method");
        let params = shape.optional_object("params", true);
        let id = object.get("id");
        if let Some(value) = id.filter(|value| !is_id(*value)) {
            let msg = "Input should be a string, an integer or null";
            shape.issues.push(ValidationIssue::new("id_type", &["id"], msg, value));
        }
        shape.only(&["jsonrpc", "id", "method", "params"]);
        let id = id.map_or("null", Json::get);
        let split = params.and_then(|_| object.child("params"));
        let request = RpcRequest { id: RpcId(id), has_id: id != "null", method, params, split };
        shape.finish(request).map_err(|issues| {
            let message = format!("Invalid request: {}", render_issues("JsonRpcRequest", &issues));
            RpcFault::new(RpcCode::InvalidRequest, message)
        })
    }
}

/// The parameters of a request, parsed once and asked for what its method needs.
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
    pub fn parse(params: Option<Json<'a>>) -> Result<Self, RpcFault> {
        params.map(Object::from_raw).transpose().map(RpcParams).map_err(Self::refused)
    }

    fn refused(fault: ParseFault) -> RpcFault {
        let why = match fault {
            ParseFault::DuplicateKey(key) => format!("the key '{key}' appears twice"),
            ParseFault::Syntax(fault) => fault.message,
            ParseFault::NotObject(_) => "an object is required".to_owned(),
        };
        RpcFault::new(RpcCode::InvalidParams, format!("Invalid params - {why}"))
    }

    /// What `tools/call` needs. Keys of newer revisions (`_meta`, `task`) are let pass.
    ///
    /// # Errors
    /// `-32602` with what is missing or wrong.
    pub fn tool_call(&self) -> Result<ToolCallParams<'a>, RpcFault> {
        let Some(name) = self.get("name") else {
            return Err(RpcFault::new(RpcCode::InvalidParams, "Missing 'name' in params"));
        };
        let name = name
            .text()
            .ok_or_else(|| RpcFault::new(RpcCode::InvalidParams, "Invalid params - 'name' is a string"))?;
        let arguments = self.get("arguments");
        if arguments.is_some_and(|value| !value.is_object()) {
            return Err(RpcFault::new(RpcCode::InvalidParams, "Invalid params - 'arguments' is an object"));
        }
        Ok(ToolCallParams { name, arguments: arguments.map(Json::raw) })
    }

    /// The session that the request names, if it names one.
    ///
    /// # Errors
    /// `-32602` when `session_id` is no string.
    pub fn session_id(&self) -> Result<Option<Cow<'a, str>>, RpcFault> {
        let Some(value) = self.get("session_id") else { return Ok(None) };
        let id = value.text().ok_or_else(|| {
            RpcFault::new(RpcCode::InvalidParams, "Invalid params - 'session_id' is a string")
        })?;
        Ok(Some(id))
    }

    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<Json<'a>> {
        self.0.as_ref().and_then(|object| object.get(key)).filter(|value| !value.is_null())
    }
}

/// Appends a successful reply whose result `write` appends.
pub fn write_rpc_result(out: &mut String, id: RpcId<'_>, write: impl FnOnce(&mut String)) {
    out.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    out.push_str(id.get());
    out.push_str(",\"result\":");
    write(out);
    out.push('}');
}

/// Appends an error reply.
pub fn write_rpc_error(out: &mut String, id: RpcId<'_>, fault: &RpcFault) {
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

fn is_id(value: Json<'_>) -> bool {
    match value.get().as_bytes().first() {
        Some(b'n') => true,
        Some(b'"') => value.text().is_some(),
        Some(b'-' | b'0'..=b'9') => read::<i128>(value).is_ok(),
        _ => false,
    }
}
