//! Upstreams over HTTP and of both eras: rmcp's own server on real sockets and pipes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::serve::ListenerExt;
use oxenv_core::{CallNotification, CallerChannel, ChangeCounter, RequestError, Scope, Toolset, Work};
use oxenv_test_support::until;
use oxenv_wire::ErrorCode;
use rmcp::model::ProtocolVersion;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::upstream_support::*;

#[path = "../servers/fixture.rs"]
mod fixture;
use fixture::Fixture;

const OLD: &[ProtocolVersion] = &[ProtocolVersion::V_2025_11_25];
const MODERN: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];

/// A server in a runtime of its own, which can be ended with all its connections.
struct Server {
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl Server {
    async fn start(versions: &'static [ProtocolVersion], address: &str, json: bool) -> Self {
        let fixture = Fixture::new(versions);
        Self::of(move || fixture.clone(), address, json).await
    }

    /// A server of which each session counts for itself.
    async fn of_sessions(address: &str) -> Self {
        Self::of(|| Fixture::new(OLD), address, false).await
    }

    async fn of(make: impl Fn() -> Fixture + Send + Sync + 'static, address: &str, json: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = StreamableHttpServerConfig::default();
        config.legacy_session_mode = !json;
        config.json_response = json;
        let service =
            StreamableHttpService::new(move || Ok(make()), Arc::new(LocalSessionManager::default()), config);
        let router = axum::Router::new().nest_service("/mcp", service);
        let address: SocketAddr = address.parse().unwrap();
        let bound = runtime.spawn(async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            let listener = socket.listen(64).unwrap();
            let address = listener.local_addr().unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        let address = bound.await.unwrap();
        Server { runtime: Some(runtime), address }
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn entry(address: SocketAddr, more: &str) -> String {
    format!(
        "  - name: web\n    mcp_server:\n      transport: http\n      url: http://{address}/mcp\n      \
         headers: {{ X-Token: \"${{TOKEN}}\" }}\n{more}"
    )
}

fn stdio(mode: &str) -> String {
    format!(
        "  - name: pipe\n    mcp_server:\n      command: {}\n      args: [\"{mode}\"]\n      \
         env: {{ MARK: \"@MARK@\" }}\n",
        stdio_server().display()
    )
}

async fn open(entry: String) -> (Stage, Arc<dyn Toolset>) {
    let stage = Stage::new(&[entry]);
    stage.manager.start();
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    assert_eq!(toolset.problem(), None);
    (stage, toolset)
}

async fn exercise(toolset: &Arc<dyn Toolset>, modern: bool) {
    assert_eq!(call(toolset, "echo", json!({"text": "a"})).await.unwrap().text(), "a");
    let mut written = String::new();
    call(toolset, "rich", json!({})).await.unwrap().write_mcp(&mut written);
    assert!(written.contains(r#""structuredContent":{"a":1.0}"#), "{written}");
    let recorder = Recorder::default();
    call_as(toolset, Some(&recorder), "notes", json!({})).await.unwrap();
    assert_eq!(recorder.0.into_inner(), ["0/None None", "1/None None"]);
    let answered = call_as(toolset, Some(&Answering), "ask", json!({})).await;
    if !modern {
        assert_eq!(answered.unwrap().text(), "a-model");
    }
    assert!(timeout(Duration::from_millis(100), call(toolset, "wait", json!({}))).await.is_err());
    let changes = ChangeCounter::default();
    toolset.watch(&changes);
    let before = toolset.list().len();
    assert_eq!(say(toolset, "change").await, "changed");
    timeout(Duration::from_secs(5), changes.after(0)).await.unwrap();
    assert_eq!(toolset.list().len(), before + 1);
}

#[tokio::test]
async fn both_eras_work_over_http() {
    for (versions, json) in [(OLD, false), (MODERN, false), (ProtocolVersion::KNOWN_VERSIONS, false)] {
        let server = Server::start(versions, "127.0.0.1:0", json).await;
        let (stage, toolset) = open(entry(server.address, "")).await;
        exercise(&toolset, versions == MODERN).await;
        stage.manager.close().await;
    }
}

#[tokio::test]
async fn a_server_without_sessions_works() {
    let server = Server::start(OLD, "127.0.0.1:0", true).await;
    let (_stage, toolset) = open(entry(server.address, "")).await;
    assert_eq!(call(&toolset, "echo", json!({"text": "a"})).await.unwrap().text(), "a");
    assert_eq!(say(&toolset, "count").await, "2");
}

#[tokio::test]
async fn both_eras_work_over_pipes() {
    for mode in ["all", "modern"] {
        let (stage, toolset) = open(stdio(mode)).await;
        exercise(&toolset, mode == "modern").await;
        stage.manager.close().await;
        stage.emptied().await;
    }
}

#[tokio::test]
async fn a_server_that_was_started_again_is_greeted_again() {
    for (versions, json) in [(OLD, false), (MODERN, false), (OLD, true)] {
        let mut server = Server::start(versions, "127.0.0.1:0", json).await;
        let (_stage, toolset) = open(entry(server.address, "")).await;
        assert_eq!(say(&toolset, "count").await, "1");
        server.stop();
        let error = call(&toolset, "count", json!({})).await.unwrap_err();
        assert!(matches!(error.code, Some(ErrorCode::UpstreamUnavailable | ErrorCode::UpstreamLost)));
        assert!(toolset.problem().is_some());
        let _server = Server::start(versions, &server.address.to_string(), json).await;
        assert_eq!(say(&toolset, "count").await, "1");
        assert_eq!(toolset.problem(), None);
    }
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let mut server = Server::start(OLD, "127.0.0.1:0", false).await;
    server.stop();
    let stage = Stage::new(&[entry(server.address, "    start_timeout_s: 3\n")]);
    stage.manager.start();
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let problem = toolset.problem().unwrap();
    assert!(problem.contains("onnection re"), "{problem}");
    let changes = ChangeCounter::default();
    toolset.watch(&changes);
    let _server = Server::start(OLD, &server.address.to_string(), false).await;
    timeout(Duration::from_secs(10), changes.after(0)).await.unwrap();
    assert_eq!(say(&toolset, "count").await, "1");
}

async fn counts(stage: &Stage) -> (String, String, Scope) {
    let sessions = [stage.session(1).remove(0), stage.session(2).remove(0)];
    for session in &sessions {
        assert_eq!(say(session, "echo").await, "");
    }
    (say(&sessions[0], "count").await, say(&sessions[1], "count").await, sessions[0].scope())
}

#[tokio::test]
async fn a_server_that_gives_sessions_gives_one_to_each_of_ours() {
    let server = Server::of_sessions("127.0.0.1:0").await;
    let counted = |first: &str, second: &str, scope| (first.to_owned(), second.to_owned(), scope);
    let stage = Stage::new(&[entry(server.address, "")]);
    stage.manager.start();
    assert_eq!(counts(&stage).await, counted("2", "2", Scope::Session));
    // As for other toolsets of sessions, nobody calls it without one.
    let listed = stage.manager.server_toolsets().remove(0);
    listed.ready().await;
    assert_eq!(listed.list().len(), 7);
    let error = call(&listed, "count", json!({})).await.unwrap_err();
    assert!(
        error.message.ends_with("each session has its own; call it within a session"),
        "{}",
        error.message
    );
    // What is written is kept to.
    for (scope, expected) in
        [("server", counted("3", "4", Scope::Server)), ("session", counted("2", "2", Scope::Session))]
    {
        let stage = Stage::new(&[entry(server.address, &format!("    scope: {scope}\n"))]);
        stage.manager.start();
        assert_eq!(counts(&stage).await, expected);
    }
    // In production all share it, unless another scope is written.
    let stage = Stage::in_production(&[entry(server.address, "")]);
    stage.manager.start();
    assert_eq!(counts(&stage).await, counted("3", "4", Scope::Server));
}

#[tokio::test]
async fn a_server_that_gives_none_is_shared() {
    let server = Server::start(OLD, "127.0.0.1:0", true).await;
    let stage = Stage::new(&[entry(server.address, "")]);
    stage.manager.start();
    assert_eq!(counts(&stage).await, ("3".to_owned(), "4".to_owned(), Scope::Server));
    assert_eq!(say(&stage.manager.server_toolsets()[0], "count").await, "5");
}

#[tokio::test]
async fn sessions_that_were_there_before_their_server_have_one_of_its_each() {
    let mut server = Server::of_sessions("127.0.0.1:0").await;
    server.stop();
    let stage = Stage::new(&[entry(server.address, "    start_timeout_s: 3\n")]);
    stage.manager.start();
    let sessions = [stage.session(1).remove(0), stage.session(2).remove(0)];
    let error = call(&sessions[0], "count", json!({})).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable), "{}", error.message);
    let changes = ChangeCounter::default();
    sessions[0].watch(&changes);
    let _server = Server::of_sessions(&server.address.to_string()).await;
    timeout(Duration::from_secs(10), changes.after(0)).await.unwrap();
    for session in &sessions {
        assert_eq!(say(session, "count").await, "1");
    }
}

#[tokio::test]
async fn an_eager_session_has_one_of_its_own_as_soon_as_its_server_comes() {
    let mut server = Server::of_sessions("127.0.0.1:0").await;
    server.stop();
    let stage = Stage::new(&[entry(server.address, "    start_timeout_s: 3\n    startup: eager\n")]);
    stage.manager.start();
    let session = stage.session(1).remove(0);
    session.ready().await;
    let problem = session.problem().unwrap();
    assert!(problem.contains("onnection re"), "{problem}");
    let sessions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sessions);
    let make = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Fixture::new(OLD)
    };
    let _server = Server::of(make, &server.address.to_string(), false).await;
    // One was asked whose its instances are, and one is the session's.
    until("the session's own", || sessions.load(Ordering::SeqCst) == 2).await;
    assert_eq!(say(&session, "count").await, "1");
    assert_eq!(sessions.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn calls_do_not_make_a_server_that_is_away_be_asked_more_often() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let stage = Stage::new(&[entry(address, "    start_timeout_s: 3\n")]);
    stage.manager.start();
    let session = stage.session(1).remove(0);
    session.ready().await;
    let at_once = asked.load(Ordering::SeqCst);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        let error = call(&session, "count", json!({})).await.unwrap_err();
        assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable), "{}", error.message);
        yield_now().await;
    }
    // After 0, 0.2, 0.6 and 1.4 s.
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 4 * at_once, "{asked} connections, {at_once} at once");
}

#[tokio::test]
async fn a_call_whose_server_goes_away_is_lost() {
    let mut server = Server::start(OLD, "127.0.0.1:0", false).await;
    let (_stage, toolset) = open(entry(server.address, "")).await;
    let waiting = call(&toolset, "wait", json!({}));
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    server.stop();
    let error = timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamLost), "{}", error.message);
}

/// A caller that answers sampling.
struct Answering;

impl CallerChannel for Answering {
    fn tell(&self, _: CallNotification) {}

    fn ask<'a>(&'a self, method: &'a str, parameters: Value) -> Work<'a, Result<Value, RequestError>> {
        assert_eq!(method, "sampling/createMessage");
        assert_eq!(parameters["maxTokens"], 9);
        let content = json!({"type": "text", "text": "yes"});
        Work::done(Ok(json!({"role": "assistant", "model": "a-model", "content": content})))
    }
}
