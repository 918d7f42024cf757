//! Tools, and arguments that are checked before they are sent.

use oxenv_client::{ClientOptions, Code, EnvClient, OpenOptions, ResetOptions, StepOptions};
use oxenv_core::{CallContext, Mount, StoreLimits, Toolset, Work, tool_environment};
use oxenv_server::ServerConfig;
use oxenv_wire::{Delivered, ErrorCode, FailureKind, Tool, ToolError, ToolResult};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::multi_support::{serve, serve_factory};
use crate::stage::Stage;
use crate::support::{FakeStockServer, http, open, stock};

#[tokio::test]
async fn tools_are_listed_and_called_over_every_protocol() {
    let stage = Stage::default();
    let served =
        serve_factory(&stage, oxenv_envs::echo::factory(), StoreLimits::default(), ServerConfig::default())
            .await;
    for options in [stock(), http(), ClientOptions::default()] {
        let client = open(&served.url(), &options).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        let names: Vec<String> =
            client.list_tools().await.unwrap().iter().map(|tool| tool.name.to_string()).collect();
        assert!(names.contains(&"echo_message".to_owned()), "{names:?}");
        let result = client.call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
        assert_eq!((result.text().as_str(), result.data(), result.is_error), ("hi", "\"hi\"", false));
        let taken = client.state().await.unwrap()["step_count"].clone();
        let wrong = client.call_tool("echo_message", json!({ "message": 5, "more": 1 })).await.unwrap_err();
        assert_eq!((wrong.code(), wrong.delivered()), (Code::InvalidArguments, Delivered::No));
        assert!(wrong.message().contains("message: ") && wrong.message().contains("more: "), "{wrong}");
        assert_eq!(client.state().await.unwrap()["step_count"], taken, "a refused call was sent");
        let unknown = client.call_tool("echo", Value::Null).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.delivered()), (Code::ToolNotFound, Delivered::No));
        assert!(unknown.message().contains("the environment offers "), "{unknown}");
        client.close().await.unwrap();
    }
    served.end().await;
}

#[tokio::test]
async fn to_learn_the_schemas_is_no_step() {
    let echo = oxenv_envs::echo::factory();
    let served =
        serve_factory(&Stage::default(), echo, StoreLimits::default(), ServerConfig::default()).await;
    for options in [stock(), http(), ClientOptions::default()] {
        let client = open(&served.url(), &options).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        client.call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
        let unknown = client.call_tool("nope", Value::Null).await.unwrap_err();
        assert_eq!(unknown.code(), Code::ToolNotFound);
        // The two calls: only the server can tell what a name is that it did not list.
        assert_eq!(client.state().await.unwrap()["step_count"], 2, "{:?}", options.protocol);
        drop(client);
    }
    served.end().await;
}

/// A toolset whose server does not start.
struct Broken;

impl Toolset for Broken {
    fn name(&self) -> &'static str {
        "git"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::default()
    }

    fn problem(&self) -> Option<String> {
        Some("exited with code 1".to_owned())
    }

    fn call<'a>(
        &'a self,
        _: CallContext<'a>,
        tool: &'a str,
        _: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::done(Err(ToolError::not_found(tool)))
    }
}

#[tokio::test]
async fn a_tool_that_is_missing_because_its_toolset_is_broken_is_no_unknown_one() {
    let factory = tool_environment("tools", "Tools of a test", vec![Mount::new(Arc::new(Broken))], None);
    let served =
        serve_factory(&Stage::default(), factory, StoreLimits::default(), ServerConfig::default()).await;
    for options in [stock(), http(), ClientOptions::default()] {
        let client = open(&served.url(), &options).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        let error = client.call_tool("commit", json!({})).await.unwrap_err();
        assert_eq!(error.code(), Code::Server(ErrorCode::UpstreamUnavailable), "{error}");
        assert_eq!(
            (error.kind(), error.delivered()),
            (FailureKind::Infrastructure, Delivered::No),
            "{error}"
        );
        assert!(error.message().contains("toolset 'git' is not available: exited with code 1"), "{error}");
        client.close().await.unwrap();
    }
    served.end().await;
}

#[tokio::test]
async fn without_the_check_the_server_judges() {
    let stage = Stage::default();
    let served =
        serve_factory(&stage, oxenv_envs::echo::factory(), StoreLimits::default(), ServerConfig::default())
            .await;
    let options = ClientOptions { validate_arguments: false, ..stock() };
    let client = open(&served.url(), &options).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    let wrong = client.call_tool("echo_message", json!({ "message": 5 })).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.delivered()), (Code::InvalidArguments, Delivered::Yes));
    assert_eq!(client.call_tool("echo", Value::Null).await.unwrap_err().code(), Code::ToolNotFound);
    client.close().await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn a_tool_that_fails_is_a_result() {
    let served = serve().await;
    for options in [stock(), ClientOptions::default()] {
        let client = EnvClient::connect_with(&served.url(), &options, &OpenOptions::default()).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        let said = client.call_tool("complain", json!({})).await.unwrap();
        assert!(said.is_error && !said.text().is_empty());
        client.close().await.unwrap();
    }
    served.end().await;
}

#[tokio::test]
async fn a_stock_servers_list_is_asked_for_once() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    let play = async {
        assert!(peer.text().await.contains(r#""method":"tools/list""#));
        peer.say(r#"{"type":"error","data":{"message":"Unknown message type: mcp","code":"UNKNOWN_TYPE"}}"#)
            .await;
        assert_eq!(peer.text().await, r#"{"type":"step","data":{"type":"list_tools"}}"#);
        peer.say(r#"{"type":"observation","data":{"observation":{"tools":[{"name":"t","description":"","input_schema":{}}]},"done":false,"reward":null}}"#).await;
        for error in ["timeout", "transport_error"] {
            assert_eq!(
                peer.text().await,
                r#"{"type":"step","data":{"type":"call_tool","tool_name":"t","arguments":{}}}"#
            );
            let observation =
                json!({"tool_name": "t", "result": null, "error": {"error_type": error, "message": "m"}});
            peer.say(
                &json!({"type": "observation", "data": {"observation": observation, "done": false}})
                    .to_string(),
            )
            .await;
        }
    };
    let calls = async {
        let late = client.call_tool("t", json!({})).await.unwrap_err();
        assert_eq!(late.code(), Code::Server(ErrorCode::DeadlineExceeded));
        let lost = client.call_tool("t", json!({})).await.unwrap_err();
        assert_eq!(
            (lost.code(), lost.delivered()),
            (Code::Server(ErrorCode::UpstreamLost), Delivered::Maybe)
        );
    };
    tokio::join!(play, calls);
}

#[tokio::test]
async fn a_list_that_does_not_come_says_that_the_call_was_not_sent() {
    let mut server = FakeStockServer::start().await;
    let options = ClientOptions { timeout: Duration::from_millis(20), ..stock() };
    let (client, _peer) = server.pair(&options).await;
    let late = client.call_tool("t", json!({})).await.unwrap_err();
    assert_eq!((late.code(), late.delivered()), (Code::TimedOut, Delivered::No));
    let listed = client.list_tools().await.unwrap_err();
    assert_eq!((listed.code(), listed.delivered()), (Code::TimedOut, Delivered::Maybe));
    let hasty = StepOptions { timeout: Some(Duration::from_millis(1)), ..StepOptions::default() };
    assert_eq!(client.step_with(&json!({}), &hasty).await.unwrap_err().code(), Code::TimedOut);
}
