//! A server of ours in this process, and the proof that clients left nothing in it.
//!
//! Invariant: [`Served::end`] is the last line of a test: no session, no environment and no connection is
//! left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oxenv_client::{ClientOptions, Connection, EnvClient, OpenOptions};
use oxenv_core::{EnvironmentFactory, Execution, SessionStore, StoreLimits};
use oxenv_server::{App, Server, ServerConfig};
use oxenv_test_support::until;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::stage::{Scripted, Stage};

/// A running server.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) stage: Stage,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

/// A server of scripted environments.
pub(crate) async fn serve() -> TestServer {
    serve_with(StoreLimits::default(), ServerConfig::default()).await
}

/// The same with limits and times of the test's choice.
pub(crate) async fn serve_with(limits: StoreLimits, config: ServerConfig) -> TestServer {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    serve_factory(&stage, Arc::new(factory), limits, config).await
}

/// A server of any environment.
pub(crate) async fn serve_factory(
    stage: &Stage,
    factory: Arc<dyn EnvironmentFactory>,
    limits: StoreLimits,
    config: ServerConfig,
) -> TestServer {
    let store = SessionStore::new(factory, limits);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), store, config).await.unwrap();
    let (address, app) = (server.address().unwrap(), Arc::clone(server.app()));
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    TestServer { address, app, stage: stage.clone(), stop, running }
}

impl TestServer {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.url(), &ClientOptions::default()).await.unwrap()
    }

    /// Sessions that take a slot.
    pub(crate) fn active(&self) -> usize {
        self.app.store.status().active
    }

    pub(crate) async fn end(self) {
        until("no session takes a slot", || self.active() == 0).await;
        until("no environment is alive", || self.stage.live() == 0).await;
        until("no connection is open", || self.app.connections() == 0).await;
        self.stop().await;
    }

    /// Stops it with what is in flight.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.running.await.expect("the server panicked");
    }
}

/// How long a session is kept for a test that comes back to it.
pub(crate) fn resumable() -> OpenOptions {
    OpenOptions { resume: Some(Duration::from_secs(60)), ..OpenOptions::default() }
}

/// Takes a step and gives what the environment counted.
pub(crate) async fn count(client: &EnvClient) -> u64 {
    let result = client.step(&serde_json::json!({ "do": "count" })).await.unwrap();
    result.observation_value()["count"].as_u64().unwrap()
}
