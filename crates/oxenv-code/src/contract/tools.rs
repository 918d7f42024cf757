//! Rules of tools as functions, and the tools that the suite's programs call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oxenv_core::{CallContext, CallRequest, CodeLimits, CodeTools, Principal, Toolbox, Toolset, Work};
use oxenv_wire::{RawJson, Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Expected, Suite};

/// The tools of the suite's programs, called through a toolbox as those of a session are.
pub(super) struct SuiteTools {
    toolbox: Toolbox,
    list: Arc<[Tool]>,
    toolset: Arc<SuiteToolset>,
}

/// `add`, `echo.value`, `fail` and `wait`.
struct SuiteToolset {
    list: Arc<[Tool]>,
    /// How many calls of `add` there were.
    added: AtomicUsize,
}

impl SuiteTools {
    pub(super) fn new() -> Self {
        let toolset = Arc::new(SuiteToolset { list: suite_tools(), added: AtomicUsize::new(0) });
        // Their names differ.
        let toolbox =
            Toolbox::of(vec![Arc::clone(&toolset) as Arc<dyn Toolset>]).unwrap_or_else(|_| Toolbox::empty());
        SuiteTools { list: toolbox.tools(Principal::Control), toolbox, toolset }
    }

    /// How many calls of `add` there were.
    pub(super) fn added(&self) -> usize {
        self.toolset.added.load(Ordering::Relaxed)
    }
}

fn suite_tools() -> Arc<[Tool]> {
    let tool = |name: &'static str, description: &str, properties: Value, required: Value| Tool {
        name: name.into(),
        title: None,
        description: description.to_owned(),
        input_schema: json!({ "type": "object", "properties": properties, "required": required }),
        output_schema: None,
        annotations: None,
        meta: None,
    };
    let numbers = json!({ "b": { "type": "integer", "default": 10 }, "a": { "type": "integer" } });
    Arc::new([
        tool("add", "Adds b to a.", numbers, json!(["a"])),
        tool("echo.value", "Gives its value back.", json!({ "value": {} }), json!([])),
        tool("fail", "Fails.", json!({}), json!([])),
        tool("wait", "Waits.", json!({ "ms": { "type": "integer" } }), json!(["ms"])),
    ])
}

impl Toolset for SuiteToolset {
    fn name(&self) -> &'static str {
        "suite"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::clone(&self.list)
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let failed = |why: &str| Err(ToolError::new(ToolErrorType::ExecutionError, why));
        let arguments = arguments.and_then(|arguments| serde_json::from_str::<Value>(arguments.get()).ok());
        let Some(mut arguments) = arguments else { return Work::done(failed("no arguments")) };
        let number = |key: &str| arguments[key].as_u64();
        match tool {
            "add" => {
                self.added.fetch_add(1, Ordering::Relaxed);
                let sum = number("a").unwrap_or_default() + number("b").unwrap_or(10);
                Work::done(result(&Value::from(sum)))
            }
            "echo.value" => Work::done(result(&arguments["value"].take())),
            "wait" => {
                let time = Duration::from_millis(number("ms").unwrap_or_default());
                Work::pending(async move {
                    tokio::time::sleep(time).await;
                    result(&Value::Null)
                })
            }
            _ => Work::done(failed("it is broken")),
        }
    }
}

fn result(value: &Value) -> Result<ToolResult, ToolError> {
    ToolResult::from_value(value)
        .map_err(|error| ToolError::new(ToolErrorType::ExecutionError, error.to_string()))
}

impl CodeTools for SuiteTools {
    fn list(&self) -> Arc<[Tool]> {
        Arc::clone(&self.list)
    }

    fn call<'a>(&'a self, tool: &'a str, arguments: RawJson) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(async move {
            let request = CallRequest::new(CallContext::sessionless(Principal::Control), Some(&arguments));
            self.toolbox.find(tool).call(&request).await
        })
    }
}

impl Suite {
    pub(super) async fn tools(&mut self) {
        self.calls().await;
        self.lists().await;
        self.errors().await;
    }

    async fn calls(&mut self) {
        let rule = "tools are functions";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let interpreter = interpreter.as_mut();
        for (code, result) in [
            ("add(1)", "11"),
            ("add(1, 2)", "3"),
            ("add(1, b=3)", "4"),
            ("add(b=1, a=4)", "5"),
            ("add(**{'a': 5})", "15"),
            ("[add(n, n) for n in range(3)]", "[0,2,4]"),
            ("f = add\nf(6)", "16"),
            ("call_tool('add', a=7)", "17"),
            ("call_tool('add', {'a': 8, 'b': 0})", "8"),
            (
                "echo_value({'a': [1, 2.5, None, 'é\\n', True, 2**63]})",
                "{\"a\":[1,2.5,null,\"é\\n\",true,9223372036854775808]}",
            ),
            ("echo_value((1, 2)) == [1, 2]", "true"),
            ("call_tool('echo.value', value='x')", "\"x\""),
        ] {
            self.shows(rule, interpreter, code, Expected::result(result)).await;
        }
        let rule = "the calls of a program are told";
        if let Some(outcome) = self.run(rule, interpreter, "add(1)\nwait(1)\nadd(2)").await {
            let names: Vec<&str> = outcome.calls.iter().map(|call| call.tool_name.as_str()).collect();
            let fits =
                names == ["add", "wait", "add"] && outcome.calls.iter().all(|call| call.error.is_none());
            self.require(rule, fits, || format!("{:?}", outcome.calls));
        }
    }

    async fn lists(&mut self) {
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let interpreter = interpreter.as_mut();
        let rule = "list_tools() gives the names";
        let all = "[\"add\",\"echo.value\",\"fail\",\"wait\"]";
        self.shows(rule, interpreter, "list_tools()", Expected::result(all)).await;
        let filtered = "[t for t in list_tools() if 'ai' in t]";
        self.shows(rule, interpreter, filtered, Expected::result("[\"fail\",\"wait\"]")).await;
        let rule = "help() prints how a tool is called";
        let add = "add(a: int, b: int = 10)\n    Adds b to a.\n";
        for code in ["help(add)", "help('add')"] {
            self.shows(rule, interpreter, code, Expected::stdout(add)).await;
        }
        if let Some(outcome) = self.run(rule, interpreter, "help()").await {
            let lines = ["add(a: int, b: int = 10)", "echo.value(value = ...)", "list_tools() -> list"];
            let fits = lines.iter().all(|line| outcome.stdout.lines().any(|shown| shown == *line));
            self.require(rule, fits, || outcome.stdout.clone());
        }
    }

    async fn errors(&mut self) {
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let interpreter = interpreter.as_mut();
        let rule = "a tool's error is an exception that has its type and its message";
        for (code, message) in [
            ("fail()", "execution_error: it is broken"),
            ("add('one')", "invalid_args: "),
            ("add(b=1)", "invalid_args: "),
            ("call_tool('no_such')", "tool_not_found: "),
        ] {
            self.shows(rule, interpreter, code, Expected::error("RuntimeError", message)).await;
        }
        let caught = "try:\n    fail()\nexcept RuntimeError as error:\n    print(str(error).split(':')[0])";
        self.shows(rule, interpreter, caught, Expected::stdout("execution_error\n")).await;
        if let Some(outcome) = self.run(rule, interpreter, caught).await {
            let told = outcome.calls.first().and_then(|call| call.error.as_ref());
            let fits = told.is_some_and(|error| error.error_type == ToolErrorType::ExecutionError);
            self.require(rule, fits, || format!("{:?}", outcome.calls));
        }
        let rule = "what is no call of a tool is none";
        let before = self.tools.added();
        for code in ["add(1, 2, 3)", "add(1, a=1)", "echo_value({1, 2})", "add()[0]"] {
            let refused = self.run(rule, interpreter, code).await;
            let error = refused.and_then(|outcome| outcome.error);
            self.require(rule, error.is_some(), || format!("{code:?} raises nothing"));
        }
        self.shows(rule, interpreter, "no_such()", Expected::error("NameError", "no_such")).await;
        let made = self.tools.added() - before;
        self.require(rule, made == 0, || format!("{made} calls were made"));
    }
}
