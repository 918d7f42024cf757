//! One endpoint and its connection, which is made on demand and again after a loss, with growing pauses.
//!
//! Invariant: at most one connection is being made at a time. What runs in the background ends with the
//! endpoint.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use oxenv_upstream::backoff::Backoff;
use oxenv_upstream::remote::{Remote, RemoteEndpoint, RemoteError, RemoteErrorKind};
use oxenv_wire::{Delivered, Tool, after};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::endpoint_error;

/// The changes that endpoints report to their multiplexer.
#[derive(Default)]
pub(super) struct ChangeSignals {
    /// How many changes there were.
    changes: AtomicU64,
    changed: Notify,
    /// Cancelled at the end.
    pub(super) stop: CancellationToken,
}

/// One endpoint.
pub(super) struct MultiplexedEndpoint {
    pub(super) remote: RemoteEndpoint,
    pub(super) url: Arc<str>,
    pub(super) optional: bool,
    connect_timeout: Duration,
    signals: Arc<ChangeSignals>,
    state: Mutex<EndpointState>,
    /// Held by the task that connects.
    connect_lock: tokio::sync::Mutex<()>,
    /// How many changes of its list there were.
    changes: AtomicU64,
    was_connected: AtomicBool,
}

#[derive(Default)]
struct EndpointState {
    connection: Option<Arc<EndpointConnection>>,
    failure: Option<ConnectFailure>,
    backoff: Backoff,
    reconnect_task: Option<JoinHandle<()>>,
}

/// Why there is no connection, and when calls may try again.
struct ConnectFailure {
    fault: RemoteError,
    retry_at: Instant,
}

/// A connection with the task that follows its changes.
pub(super) struct EndpointConnection {
    pub(super) remote: Arc<Remote>,
    watcher: JoinHandle<()>,
}

/// A connection that can be used.
pub(super) struct AcquiredConnection {
    pub(super) connection: Arc<EndpointConnection>,
    /// Whether it was made just now, so that it has served nothing yet.
    pub(super) is_new: bool,
}

/// The purpose of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectUrgency {
    /// A call, which waits its turn after failures.
    AfterBackoff,
    /// A listing that a caller asked for.
    Now,
}

impl ChangeSignals {
    /// How many changes there were.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Waits until there were more changes than that, or the end.
    pub(super) async fn changed_since(&self, seen: impl Fn() -> u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.changes() > seen() || self.stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

impl MultiplexedEndpoint {
    pub(super) fn new(
        remote: RemoteEndpoint,
        optional: bool,
        connect_timeout: Duration,
        signals: Arc<ChangeSignals>,
    ) -> Self {
        MultiplexedEndpoint {
            url: remote.url().into(),
            remote,
            optional,
            connect_timeout,
            signals,
            state: Mutex::default(),
            connect_lock: tokio::sync::Mutex::new(()),
            changes: AtomicU64::new(0),
            was_connected: AtomicBool::new(false),
        }
    }

    /// How many changes of its list there were.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Its list may have changed.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.signals.changes.fetch_add(1, Ordering::AcqRel);
        self.signals.changed.notify_waiters();
    }

    /// Its connection, if there is one.
    fn live_connection(&self) -> Option<Arc<EndpointConnection>> {
        let state = self.state.lock();
        state.connection.as_ref().filter(|connection| !connection.remote.is_over()).cloned()
    }

    /// Its connection, made if need be.
    ///
    /// # Errors
    /// Why there is no result, by its code. Nothing was run there.
    pub(super) async fn connection(
        self: &Arc<Self>,
        wanted: ConnectUrgency,
        deadline: Instant,
    ) -> Result<AcquiredConnection, RemoteError> {
        if let Some(connection) = self.live_connection() {
            return Ok(AcquiredConnection { connection, is_new: false });
        }
        let Ok(_turn) = timeout_at(deadline, self.connect_lock.lock()).await else {
            return Err(timed_out("is still being connected"));
        };
        if let Some(connection) = self.live_connection() {
            return Ok(AcquiredConnection { connection, is_new: false });
        }
        if wanted == ConnectUrgency::AfterBackoff {
            self.wait_backoff(deadline).await?;
        }
        match self.remote.connect(deadline.min(after(Instant::now(), self.connect_timeout))).await {
            Ok(_) if self.signals.stop.is_cancelled() => Err(timed_out("was closed")),
            Ok(remote) => Ok(AcquiredConnection { connection: self.store_connection(remote), is_new: true }),
            Err(fault) => {
                self.record_failure(&fault);
                Err(fault)
            }
        }
    }

    /// Waits until a call may try to connect.
    async fn wait_backoff(&self, deadline: Instant) -> Result<(), RemoteError> {
        let due = {
            let state = self.state.lock();
            let Some(down) = &state.failure else { return Ok(()) };
            let pause = down.retry_at.saturating_duration_since(Instant::now());
            if pause > Backoff::MAX_CALL_WAIT || down.retry_at > deadline {
                let mut fault = down.fault.clone();
                fault.message = format!("{}; the next try is in {:.1} s", fault.message, pause.as_secs_f64());
                return Err(fault);
            }
            down.retry_at
        };
        sleep_until(due).await;
        Ok(())
    }

    fn store_connection(self: &Arc<Self>, remote: Remote) -> Arc<EndpointConnection> {
        let remote = Arc::new(remote);
        let watcher =
            tokio::spawn(watch_changes(remote.clone(), Arc::downgrade(self), self.signals.stop.clone()));
        let connection = Arc::new(EndpointConnection { remote, watcher });
        self.was_connected.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.connection = Some(connection.clone());
        state.failure = None;
        state.backoff.reset();
        connection
    }

    fn record_failure(&self, fault: &RemoteError) {
        let mut state = self.state.lock();
        let pause = state.backoff.next_pause();
        state.failure = Some(ConnectFailure { fault: fault.clone(), retry_at: after(Instant::now(), pause) });
    }

    /// Gives up a connection, unless it has been replaced. Calls in flight over it go on.
    pub(super) fn discard_connection(&self, connection: &Arc<EndpointConnection>) -> bool {
        let mut state = self.state.lock();
        if state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.connection = None;
            return true;
        }
        false
    }

    /// Lists its tools, over a new connection if the old one does not work.
    ///
    /// # Errors
    /// Why they cannot be listed; where that may pass, the endpoint is tried again in the background.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Arc<[Tool]>, RemoteError> {
        let outcome = self.list_once().await;
        if let Err(fault) = &outcome
            && (endpoint_error::is_transient(fault) || self.was_connected.load(Ordering::Acquire))
        {
            self.reconnect_in_background();
        }
        outcome
    }

    async fn list_once(self: &Arc<Self>) -> Result<Arc<[Tool]>, RemoteError> {
        let deadline = after(Instant::now(), self.connect_timeout);
        loop {
            let AcquiredConnection { connection, is_new } =
                self.connection(ConnectUrgency::Now, deadline).await?;
            match connection.remote.tools(deadline).await {
                Ok(tools) => return Ok(tools),
                Err(fault) => {
                    self.discard_connection(&connection);
                    if is_new || Instant::now() >= deadline {
                        self.record_failure(&fault);
                        return Err(fault);
                    }
                }
            }
        }
    }

    /// Tries it again and again in the background, until it lists its tools.
    pub(super) fn reconnect_in_background(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.reconnect_task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.reconnect_task =
                Some(tokio::spawn(reconnect(Arc::downgrade(self), self.signals.stop.clone())));
        }
    }

    /// Ends its connection and what runs in the background.
    pub(super) async fn close(&self) {
        self.remote.close();
        let (connection, task) = {
            let mut state = self.state.lock();
            (state.connection.take(), state.reconnect_task.take())
        };
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        if let Some(connection) = connection {
            connection.watcher.abort();
            connection.remote.close().await;
        }
    }
}

impl Drop for EndpointConnection {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Follows the list changes that a server announces.
async fn watch_changes(remote: Arc<Remote>, endpoint: Weak<MultiplexedEndpoint>, stop: CancellationToken) {
    let note = || {
        if let Some(endpoint) = endpoint.upgrade() {
            endpoint.note_change();
        }
    };
    let follow = async {
        loop {
            remote.list_change().await;
            note();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = remote.over() => {
            if let Some(endpoint) = endpoint.upgrade().filter(|_| !stop.is_cancelled()) {
                endpoint.note_change();
                endpoint.reconnect_in_background();
            }
        }
        () = async { tokio::join!(follow, remote.subscribe()); } => {}
    }
}

async fn reconnect(endpoint: Weak<MultiplexedEndpoint>, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(backoff.next_pause()) => {}
        }
        let Some(endpoint) = endpoint.upgrade() else { return };
        let listed = tokio::select! {
            () = stop.cancelled() => return,
            listed = endpoint.list_once() => listed,
        };
        if listed.is_ok() {
            return endpoint.note_change();
        }
    }
}

fn timed_out(says: &str) -> RemoteError {
    RemoteError {
        kind: RemoteErrorKind::TimedOut,
        message: says.to_owned(),
        delivered: Delivered::No,
        retry_after: None,
        data: Value::Null,
    }
}
