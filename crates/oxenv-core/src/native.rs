//! Tools written in Rust: a function of a typed argument, with its schema made from the type.
//!
//! Invariant: a function sees only arguments that its type accepted; a panic in it is an
//! `execution_error` of that call and nothing more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use oxenv_schema::{LazySchema, explain};
use oxenv_wire::{
    RESERVED_TOOL_NAMES, Tool, ToolError, ToolErrorType, ToolResult, empty_object, read, render_issues,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::toolset::{CallContext, Toolset};
use crate::typed::schema_of;
use crate::work::Work;

type Function = Box<dyn Fn(Option<&RawValue>) -> Result<ToolResult, ToolError> + Send + Sync>;

/// A toolset of Rust functions that finish at once and keep no state of a session.
///
/// ```
/// use oxenv_core::NativeToolset;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Add {
///     /// The first number.
///     a: i64,
///     /// The second number.
///     b: i64,
/// }
///
/// let tools = NativeToolset::new("math").tool("add", "Adds two numbers.", |add: Add| Ok(add.a + add.b));
/// ```
pub struct NativeToolset {
    name: String,
    tools: Arc<[Tool]>,
    functions: BTreeMap<Cow<'static, str>, Function>,
}

impl NativeToolset {
    /// An empty toolset.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        NativeToolset { name: name.into(), tools: Arc::new([]), functions: BTreeMap::new() }
    }

    /// Adds a tool. An `Err` of the function is what the model reads as the tool's failure.
    ///
    /// # Panics
    /// When the name is taken, reserved, empty or over 64 characters: a mistake in the program.
    #[must_use]
    pub fn tool<A, R, F>(mut self, name: &'static str, description: &str, function: F) -> Self
    where
        A: DeserializeOwned + JsonSchema,
        R: Serialize + JsonSchema,
        F: Fn(A) -> Result<R, String> + Send + Sync + 'static,
    {
        assert!(!self.functions.contains_key(name), "tool '{name}' is declared twice");
        assert!(!RESERVED_TOOL_NAMES.contains(&name), "tool name '{name}' is reserved for orchestration");
        assert!((1..=64).contains(&name.len()), "tool name '{name}' must have 1 to 64 characters");
        let input_schema = input_schema::<A>();
        let tool = Tool {
            name: Cow::Borrowed(name),
            title: None,
            description: description.to_owned(),
            input_schema: input_schema.clone(),
            output_schema: Some(output_schema::<R>()),
            annotations: None,
            meta: None,
        };
        self.tools = self.tools.iter().cloned().chain([tool]).collect();
        self.functions.insert(Cow::Borrowed(name), erase(name, input_schema, function));
        self
    }
}

impl Toolset for NativeToolset {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> Arc<[Tool]> {
        self.tools.clone()
    }

    fn validates(&self) -> bool {
        true
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let Some(function) = self.functions.get(tool) else {
            return Work::done(Err(ToolError::not_found(tool)));
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| function(arguments)));
        Work::done(outcome.unwrap_or_else(|_| {
            Err(ToolError::new(
                ToolErrorType::ExecutionError,
                format!("tool '{tool}' panicked; its server's log says where"),
            ))
        }))
    }
}

fn erase<A, R, F>(name: &'static str, schema: Value, function: F) -> Function
where
    A: DeserializeOwned,
    R: Serialize,
    F: Fn(A) -> Result<R, String> + Send + Sync + 'static,
{
    let compiled = LazySchema::default();
    Box::new(move |arguments| {
        let empty = empty_object();
        let arguments = arguments.unwrap_or(&empty);
        let parsed: A = read(arguments).map_err(|error| {
            let issues = explain(&compiled, &schema, arguments, &error.to_string());
            ToolError::new(ToolErrorType::InvalidArgs, render_issues(&format!("call[{name}]"), &issues))
        })?;
        let value =
            function(parsed).map_err(|message| ToolError::new(ToolErrorType::ExecutionError, message))?;
        ToolResult::from_value(&value).map_err(|error| {
            ToolError::new(ToolErrorType::ExecutionError, format!("the result is not JSON: {error}"))
        })
    })
}

/// The schema of a tool's arguments: closed, so that a misspelt argument is an error.
fn input_schema<A: JsonSchema>() -> Value {
    let mut schema = schema_of::<A>();
    if let Some(object) = schema.as_object_mut() {
        object.remove("title");
        object.remove("description");
        object.entry("additionalProperties").or_insert(json!(false));
        object.entry("properties").or_insert(json!({}));
    }
    schema
}

/// The schema of a tool's structured result: anything but an object is wrapped as `result`.
fn output_schema<R: JsonSchema>() -> Value {
    let mut schema = schema_of::<R>();
    if let Some(object) = schema.as_object_mut() {
        object.remove("title");
    }
    if schema["type"] == "object" {
        return schema;
    }
    json!({
        "properties": { "result": schema },
        "required": ["result"],
        "type": "object",
        "x-fastmcp-wrap-result": true,
    })
}
