//! Tools that talk to their clients while they run, and change when a test wants them to.
//!
//! Invariant: nothing here waits for time; what waits, waits at a gate that the test opens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oxenv_core::{
    CallContext, CallNotification, ChangeCounter, EnvironmentContext, EnvironmentFactory,
    EnvironmentInstance, EnvironmentSpec, Failure, Mount, Principal, RequestError, ResourcesAndPrompts,
    Scope, StoreLimits, Toolbox, Toolset, Work, tool_environment,
};
use oxenv_server::ServerConfig;
use oxenv_test_support::soon;
use oxenv_wire::{Content, ErrorCode, RawJson, Tool, ToolError, ToolErrorType, ToolResult, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::served::Served;
use crate::stage::Stage;

/// A source of tools, shared by all sessions, and the test's hand on it.
#[derive(Clone)]
pub(crate) struct Talker(Arc<Inner>);

struct Inner {
    tools: Mutex<Arc<[Tool]>>,
    watchers: Mutex<Vec<ChangeCounter>>,
    gate: Semaphore,
    entered: Semaphore,
    cancelled: AtomicUsize,
}

impl Default for Talker {
    fn default() -> Self {
        Talker(Arc::new(Inner {
            tools: Mutex::new(tools(&[])),
            watchers: Mutex::default(),
            gate: Semaphore::new(0),
            entered: Semaphore::new(0),
            cancelled: AtomicUsize::new(0),
        }))
    }
}

impl Talker {
    /// A server of environments that are these tools.
    pub(crate) async fn serve(&self, limits: StoreLimits, config: ServerConfig) -> Served {
        let mounts = vec![Mount::new(Arc::new(self.clone()))];
        let factory = Factory(tool_environment("talker", "Tools that talk", mounts, None));
        Served::start(&Stage::default(), factory, limits, config).await
    }

    /// Waits until a call has come to the gate.
    pub(crate) async fn entered(&self) {
        soon(self.0.entered.acquire()).await.unwrap().forget();
    }

    /// Lets one call through the gate, now or when it comes.
    pub(crate) fn open(&self) {
        self.0.gate.add_permits(1);
    }

    /// Calls that were dropped at the gate.
    pub(crate) fn cancelled(&self) -> usize {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Offers one tool more.
    pub(crate) fn grow(&self) {
        *self.0.tools.lock().unwrap() = tools(&["extra"]);
        self.touch();
    }

    /// Says that something has changed, and changes no list.
    pub(crate) fn touch(&self) {
        self.0.watchers.lock().unwrap().iter().for_each(ChangeCounter::bump);
    }

    async fn wait(&self) {
        let mut mark = Mark(&self.0, false);
        self.0.entered.add_permits(1);
        self.0.gate.acquire().await.unwrap().forget();
        mark.1 = true;
    }
}

/// A call at the gate.
struct Mark<'a>(&'a Inner, bool);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn tools(more: &[&str]) -> Arc<[Tool]> {
    let names =
        ["say", "wait", "count_to_three", "murmur", "ask", "want", "object", "strict", "seal", "told"];
    let tool = |name: &&str| Tool {
        name: name.to_string().into(),
        title: None,
        description: String::new(),
        input_schema: match *name {
            "strict" => {
                json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] })
            }
            _ => json!({ "type": "object" }),
        },
        output_schema: None,
        annotations: None,
        meta: None,
    };
    names.iter().chain(more).map(tool).collect()
}

fn text(text: &str) -> ToolResult {
    ToolResult { content: [Content::Text(text.to_owned())].into_iter().collect(), ..ToolResult::default() }
}

impl Toolset for Talker {
    fn name(&self) -> &str {
        "talker"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::clone(&self.0.tools.lock().unwrap())
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.0.watchers.lock().unwrap().push(changes.clone());
    }

    fn scope(&self) -> Scope {
        Scope::Server
    }

    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        assert_eq!(context.principal, Principal::Agent);
        let arguments: Value =
            arguments.map_or(Value::Null, |text| serde_json::from_str(text.get()).unwrap());
        let tell = move |note| {
            if let Some(caller) = context.caller {
                caller.tell(note);
            }
        };
        let count = move |progress: f64| {
            tell(CallNotification::Progress { progress, total: Some(3.0), message: None });
        };
        match tool {
            "say" => Work::done(Ok(text(arguments["text"].as_str().unwrap_or_default()))),
            // What the request says of itself, as far as tools are told.
            "told" => Work::done(Ok(text(context.request.map_or("nothing", RawValue::get)))),
            "object" => Work::done(Ok(ToolResult::from_value(&json!({ "n": 7 })).unwrap())),
            "strict" => Work::done(Ok(text("fits"))),
            "wait" => Work::pending(async move {
                self.wait().await;
                Ok(text("went through"))
            }),
            "count_to_three" => Work::pending(async move {
                count(1.0);
                count(2.0);
                self.wait().await;
                count(3.0);
                Ok(text("three"))
            }),
            // Says something and is done at once.
            "murmur" => {
                for level in ["debug", "info", "error"] {
                    tell(CallNotification::Log { level: level.to_owned(), logger: None, data: json!(level) });
                }
                Work::done(Ok(text("said so")))
            }
            "ask" => Work::pending(async move {
                let caller = context.caller.expect("there is a line to every client that can be asked");
                let method = arguments["method"].as_str().unwrap();
                match caller.ask(method, arguments["params"].clone()).await {
                    Ok(answer) => Ok(text(&answer.to_string())),
                    Err(fault) => Err(ToolError::new(ToolErrorType::ExecutionError, fault.message)),
                }
            }),
            "want" => {
                let request: Value =
                    context.request.map_or(Value::Null, |text| serde_json::from_str(text.get()).unwrap());
                match &request["inputResponses"]["name"]["content"]["name"] {
                    Value::String(name) => Work::done(Ok(text(&format!("hello {name}")))),
                    _ => {
                        Work::done(Ok(ToolResult { input_required: Some(wanted()), ..ToolResult::default() }))
                    }
                }
            }
            "seal" => Work::done(Err(ToolError::new(ToolErrorType::InvalidArgs, "the seal is broken")
                .with_code(ErrorCode::ValidationError))),
            other => Work::done(Err(ToolError::not_found(other))),
        }
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        Arc::new(ResourcesAndPrompts {
            resources: vec![json!({ "uri": "memo://one", "name": "one" })],
            templates: vec![json!({ "uriTemplate": "memo://{name}", "name": "any" })],
            prompts: vec![json!({ "name": "greet" })],
        })
    }

    fn request<'a>(
        &'a self,
        context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        let parameters: Value = serde_json::from_str(parameters.get()).unwrap();
        let answer = match method {
            "resources/read" => json!({ "contents": [{
                "uri": parameters["uri"], "text": format!("in session: {}", context.session_id.is_some()),
            }] }),
            "prompts/get" => json!({ "messages": [{
                "role": "user", "content": { "type": "text", "text": "hello" },
            }] }),
            other => {
                return Work::done(Err(RequestError::new(-32601, format!("Method not found: {other}"))));
            }
        };
        Work::done(Ok(raw(&answer).unwrap()))
    }
}

fn wanted() -> RawJson {
    let schema =
        json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
    let params = json!({ "message": "who are you?", "requestedSchema": schema });
    let requests = json!({ "name": { "method": "elicitation/create", "params": params } });
    raw(&json!({ "resultType": "input_required", "inputRequests": requests })).unwrap()
}

struct Factory(Arc<dyn EnvironmentFactory>);

impl EnvironmentFactory for Factory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        self.0.spec()
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        self.0.create(boot)
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        self.0.server_tools()
    }
}
