//! A server under test, and the proof that nothing is left of what was done to it.
//!
//! Invariant: [`Served::end`] is the last line of a test; a test that forgets it fails when the
//! server is dropped.

use std::net::SocketAddr;
use std::sync::Arc;

use oxenv_core::{EnvironmentFactory, Execution, SessionStore, StoreLimits};
use oxenv_server::{App, Mode, Server, ServerConfig};
use oxenv_test_support::{Ws, http, soon, until};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::stage::{Scripted, Stage, Unblock};

/// A running server.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) stage: Stage,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
    descriptors: usize,
    _unblock: Unblock,
}

/// A server of scripted environments that suspend, with tools.
pub(crate) async fn serve() -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await
}

/// The same in production mode.
pub(crate) async fn serve_production() -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let config = ServerConfig { mode: Mode::Production, ..ServerConfig::default() };
    Served::start(&stage, factory, StoreLimits::default(), config).await
}

impl Served {
    pub(crate) async fn start(
        stage: &Stage,
        factory: impl EnvironmentFactory + 'static,
        limits: StoreLimits,
        config: ServerConfig,
    ) -> Self {
        let store = SessionStore::new(Arc::new(factory), limits);
        Self::over("127.0.0.1:0".parse().unwrap(), stage, store, config).await
    }

    /// The same over a store that the test has made, at an address of its choice.
    pub(crate) async fn over(
        address: SocketAddr,
        stage: &Stage,
        store: SessionStore,
        config: ServerConfig,
    ) -> Self {
        let descriptors = descriptors();
        let server = Server::bind(address, store, config).await.unwrap();
        let (address, app) = (server.address().unwrap(), Arc::clone(server.app()));
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Served {
            address,
            app,
            stage: stage.clone(),
            stop: Some(stop),
            running: Some(running),
            descriptors,
            _unblock: Unblock(stage.clone()),
        }
    }

    pub(crate) async fn ws(&self, path: &str) -> Ws {
        Ws::connect(self.address, path).await
    }

    pub(crate) fn active(&self) -> usize {
        self.app.store.status().active
    }

    /// Asks the server to stop, and goes on at once.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().expect("it was stopped already").send(());
    }

    /// Waits until the server has returned.
    pub(crate) async fn stopped(&mut self) {
        if let Some(running) = self.running.take() {
            soon(running).await.expect("the server panicked");
        }
    }

    /// Waits until nothing is left of what clients did, while the server runs on.
    pub(crate) async fn quiet(&self) {
        let store = &self.app.store;
        until("no session takes a slot", || store.status().active == 0).await;
        until("nothing is stuck", || store.status().stuck == 0).await;
        until("no connection is open", || self.app.connections() == 0).await;
        until("no call is at a gate", || self.stage.waiting() == 0).await;
        until("no session but the default one is left", || store.list().len() <= 1).await;
        until("no environment but the default one is alive", || self.stage.live() <= store.list().len())
            .await;
    }

    /// The last line of a test. Its clients are gone by now.
    pub(crate) async fn end(mut self) {
        self.quiet().await;
        let health = http(self.address, "GET", "/health", &[], b"").await;
        assert_eq!(health.status, 200, "the server is not well after the test");
        self.stop();
        self.gone().await;
    }

    /// The last line of a test that has stopped the server itself.
    pub(crate) async fn gone(mut self) {
        self.stopped().await;
        let stage = self.stage.clone();
        assert_eq!(self.app.connections(), 0, "the server returned before its connections");
        assert!(self.app.store.list().is_empty(), "the server returned before its sessions");
        assert_eq!(self.active(), 0);
        until("no environment is alive", || stage.live() == 0).await;
        // Only nextest gives a test a process, and so descriptors, of its own.
        if std::env::var_os("NEXTEST").is_some() {
            until("no descriptor is left", || descriptors() <= self.descriptors).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        assert!(self.running.is_none() || std::thread::panicking(), "a test must end with Served::end");
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
