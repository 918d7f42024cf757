//! A client from the registry, in both eras, over HTTP and over a pipe.

use std::sync::{Arc, Mutex};

use oxenv_core::{SessionOptions, StoreLimits};
use oxenv_server::{App, ServerConfig, serve_pipe};
use oxenv_test_support::{soon, until};
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ElicitRequestParams,
    ElicitResult, ElicitationAction, Implementation, ProgressNotificationParam, ProtocolVersion,
    ReadResourceRequestParams, ServerNotification, SubscriptionFilter,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, NotificationContext, RequestContext, RoleClient, RunningService,
    ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, ErrorData};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::served::Served;
use crate::talker::Talker;

/// A client that takes down what it hears.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl Ear {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl ClientHandler for Ear {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("ear", "1"))
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        self.note("asked");
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "name": "Ada" })))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.note(format!("progress {}", params.progress));
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.note("tools changed");
    }
}

type Client = RunningService<RoleClient, Ear>;

async fn connect(served: &Served, path: &str, lifecycle: ClientLifecycleMode) -> Client {
    let transport = StreamableHttpClientTransport::from_uri(format!("http://{}{path}", served.address));
    soon(Ear::default().serve_with_lifecycle(transport, lifecycle)).await.unwrap()
}

fn alone() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

async fn call(
    client: &Client,
    tool: &'static str,
    arguments: &Value,
) -> Result<CallToolResult, ServiceError> {
    let arguments = arguments.as_object().unwrap().clone();
    soon(client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments))).await
}

fn text(result: &CallToolResult) -> &str {
    &result.content[0].as_text().unwrap().text
}

/// What both eras, and every way in, must do alike.
async fn walk(client: &Client) {
    let tools = soon(client.list_all_tools()).await.unwrap();
    assert_eq!(tools[0].name, "say");
    assert_eq!(text(&call(client, "say", &json!({ "text": "hello" })).await.unwrap()), "hello");
    let object = call(client, "object", &json!({})).await.unwrap();
    assert_eq!((object.structured_content, object.is_error), (Some(json!({ "n": 7 })), Some(false)));
    let wrong = call(client, "strict", &json!({})).await.unwrap();
    assert_eq!(wrong.is_error, Some(true));
    match call(client, "nope", &json!({})).await {
        Err(ServiceError::McpError(error)) => assert_eq!(error.code.0, -32602),
        other => panic!("{other:?}"),
    }
    let prompts = soon(client.list_all_prompts()).await.unwrap();
    assert_eq!(prompts[0].name, "greet");
    let read = soon(client.read_resource(ReadResourceRequestParams::new("memo://one"))).await.unwrap();
    assert!(format!("{read:?}").contains("in session: true"), "{read:?}");
}

#[tokio::test]
async fn a_client_that_shakes_hands() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let client = connect(&served, "/mcp", ClientLifecycleMode::Initialize).await;
    assert_eq!(client.peer_info().unwrap().protocol_version, ProtocolVersion::V_2025_11_25);
    walk(&client).await;
    // Asked in the middle of a call.
    let schema = json!({ "type": "object", "properties": {} });
    let params = json!({ "message": "who?", "requestedSchema": schema });
    let asked =
        call(&client, "ask", &json!({ "method": "elicitation/create", "params": params })).await.unwrap();
    assert!(text(&asked).contains("Ada"), "{asked:?}");
    let none = json!({});
    let counting = call(&client, "count_to_three", &none);
    let (counted, ()) = tokio::join!(counting, async {
        talker.entered().await;
        talker.open();
    });
    assert_eq!(text(&counted.unwrap()), "three");
    let ear = client.service().clone();
    until("all of it was heard", || ear.heard() == ["asked", "progress 1", "progress 2", "progress 3"]).await;
    talker.grow();
    until("the change was heard", || ear.heard().contains(&"tools changed".to_owned())).await;
    soon(client.cancel()).await.unwrap();
    until("the client said goodbye", || served.app.mcp_sessions() == 0).await;
    served.end().await;
}

#[tokio::test]
async fn a_client_whose_requests_stand_alone() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let client = connect(&served, &format!("/sessions/{}/mcp", session.id()), alone()).await;
    walk(&client).await;
    // Input in rounds, which the client goes through by itself.
    assert_eq!(text(&call(&client, "want", &json!({})).await.unwrap()), "hello Ada");
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let mut changes = soon(client.listen(filter)).await.unwrap();
    talker.grow();
    let told = soon(changes.next()).await.unwrap();
    assert!(matches!(told, Some(ServerNotification::ToolListChangedNotification(_))), "{told:?}");
    soon(changes.cancel()).await.unwrap();
    assert_eq!(served.app.mcp_sessions(), 0, "it has no session");
    // say, object, want twice; a call that was refused is one as well.
    assert!(session.info().step_count >= 4);
    soon(client.cancel()).await.unwrap();
    session.end(oxenv_core::EndReason::Closed);
    drop(session);
    served.end().await;
}

/// The same tools for an agent on a pipe; its session ends with it.
#[tokio::test]
async fn a_client_on_a_pipe() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    for (way_out, lifecycle) in [
        ("input", ClientLifecycleMode::Initialize),
        ("stop", ClientLifecycleMode::Initialize),
        ("input", alone()),
    ] {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (input, output) = tokio::io::split(ours);
        let (stop, stopped) = oneshot::channel::<()>();
        let app: Arc<App> = Arc::clone(&served.app);
        let serving = tokio::spawn(serve_pipe(app, input, output, async {
            // Dropped is not stopped.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        let ear = Ear::default();
        let client =
            soon(ear.clone().serve_with_lifecycle(tokio::io::split(theirs), lifecycle)).await.unwrap();
        walk(&client).await;
        let none = json!({});
        let counting = call(&client, "count_to_three", &none);
        let (counted, ()) = tokio::join!(counting, async {
            talker.entered().await;
            talker.open();
        });
        assert_eq!(text(&counted.unwrap()), "three");
        until("progress was heard", || ear.heard() == ["progress 1", "progress 2", "progress 3"]).await;
        assert_eq!(served.active(), 1);
        match way_out {
            "stop" => stop.send(()).unwrap(),
            _ => {
                soon(client.cancel()).await.unwrap();
            }
        }
        soon(serving).await.unwrap().unwrap();
        until("its session has ended", || served.active() == 0).await;
    }
    served.end().await;
}

/// Whoever does not speak MCP on a pipe ends it, and leaves nothing.
#[tokio::test]
async fn nonsense_on_a_pipe() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    for (said, fine) in [
        ("", true),
        ("nope\n", true),
        ("{}\n", true),
        ("{\"jsonrpc\":\"2.0\",\"method\":\"tools/list\",\"id\":1}\n", true),
        ("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n", false),
    ] {
        let (input, output) = (std::io::Cursor::new(said.as_bytes().to_vec()), tokio::io::sink());
        let app = Arc::clone(&served.app);
        let outcome = soon(serve_pipe(app, input, output, std::future::pending())).await;
        assert_eq!(outcome.is_ok(), fine, "{said:?}: {outcome:?}");
        assert_eq!(served.active(), 0, "{said:?}");
    }
    served.end().await;
}
