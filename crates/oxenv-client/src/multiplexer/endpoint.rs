//! One endpoint: its connection, made when it is wanted and again after it was lost, with growing pauses.
//!
//! Invariant: at most one connection is being made at a time. What runs in the background ends with the endpoint.

use oxenv_core::after;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use oxenv_upstream::remote::{Remote, RemoteEndpoint, RemoteFault, RemoteFaultKind};
use oxenv_wire::{Delivered, Tool};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::endpoint_error;

/// The pause after a first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a call waits for the next try; it fails at once if that is later.
const PATIENCE: Duration = Duration::from_secs(1);

/// What endpoints tell their multiplexer.
#[derive(Default)]
pub(super) struct Signals {
    /// How many changes there were.
    changes: AtomicU64,
    changed: Notify,
    /// Cancelled at the end.
    pub(super) stop: CancellationToken,
}

/// One endpoint.
pub(super) struct Endpoint {
    pub(super) remote: RemoteEndpoint,
    pub(super) url: Arc<str>,
    pub(super) optional: bool,
    connect_timeout: Duration,
    signals: Arc<Signals>,
    state: Mutex<State>,
    /// Held by who connects.
    turn: tokio::sync::Mutex<()>,
    /// How many changes of its list there were.
    changes: AtomicU64,
    was_connected: AtomicBool,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    down: Option<Down>,
    failures: u32,
    reviver: Option<JoinHandle<()>>,
}

/// Why there is no connection, and when calls may try again.
struct Down {
    fault: RemoteFault,
    due: Instant,
}

/// A connection with who follows its changes.
pub(super) struct Link {
    pub(super) remote: Arc<Remote>,
    keeper: JoinHandle<()>,
}

/// Who wants a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A call, which waits its turn after failures.
    ByCall,
    /// A listing, which somebody asked for.
    Now,
}

impl Signals {
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

impl Endpoint {
    pub(super) fn new(
        remote: RemoteEndpoint,
        optional: bool,
        connect_timeout: Duration,
        signals: Arc<Signals>,
    ) -> Self {
        Endpoint {
            url: remote.url().into(),
            remote,
            optional,
            connect_timeout,
            signals,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
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
    fn current(&self) -> Option<Arc<Link>> {
        let state = self.state.lock();
        state.link.as_ref().filter(|link| !link.remote.is_over()).cloned()
    }

    /// Its connection, made if need be; and whether it is a new one.
    ///
    /// # Errors
    /// Why there is none. Nothing was run there.
    pub(super) async fn link(
        self: &Arc<Self>,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<(Arc<Link>, bool), RemoteFault> {
        if let Some(link) = self.current() {
            return Ok((link, false));
        }
        let Ok(_turn) = timeout_at(deadline, self.turn.lock()).await else {
            return Err(late("is still being connected"));
        };
        if let Some(link) = self.current() {
            return Ok((link, false));
        }
        if wanted == Wanted::ByCall {
            self.wait_turn(deadline).await?;
        }
        match self.remote.connect(deadline.min(after(Instant::now(), self.connect_timeout))).await {
            Ok(_) if self.signals.stop.is_cancelled() => Err(late("was closed")),
            Ok(remote) => Ok((self.connected(remote), true)),
            Err(fault) => {
                self.fail(&fault);
                Err(fault)
            }
        }
    }

    /// Waits until a call may try to connect.
    async fn wait_turn(&self, deadline: Instant) -> Result<(), RemoteFault> {
        let due = {
            let state = self.state.lock();
            let Some(down) = &state.down else { return Ok(()) };
            let pause = down.due.saturating_duration_since(Instant::now());
            if pause > PATIENCE || down.due > deadline {
                let mut fault = down.fault.clone();
                fault.message = format!("{}; the next try is in {:.1} s", fault.message, pause.as_secs_f64());
                return Err(fault);
            }
            down.due
        };
        sleep_until(due).await;
        Ok(())
    }

    fn connected(self: &Arc<Self>, remote: Remote) -> Arc<Link> {
        let remote = Arc::new(remote);
        let keeper = tokio::spawn(keep(remote.clone(), Arc::downgrade(self), self.signals.stop.clone()));
        let link = Arc::new(Link { remote, keeper });
        self.was_connected.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.link = Some(link.clone());
        state.down = None;
        state.failures = 0;
        link
    }

    fn fail(&self, fault: &RemoteFault) {
        let mut state = self.state.lock();
        let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16)).min(LONGEST_PAUSE);
        state.failures += 1;
        state.down = Some(Down { fault: fault.clone(), due: after(Instant::now(), pause) });
    }

    /// Gives up a connection, unless there is another one by now. Calls in flight over it go on.
    pub(super) fn drop_link(&self, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
            return true;
        }
        false
    }

    /// Lists its tools, over a new connection if the old one does not work.
    ///
    /// # Errors
    /// Why they cannot be listed; where that may pass, the endpoint is tried again in the background.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Arc<[Tool]>, RemoteFault> {
        let outcome = self.list_once().await;
        if let Err(fault) = &outcome
            && (endpoint_error::is_transient(fault) || self.was_connected.load(Ordering::Acquire))
        {
            self.revive();
        }
        outcome
    }

    async fn list_once(self: &Arc<Self>) -> Result<Arc<[Tool]>, RemoteFault> {
        let deadline = after(Instant::now(), self.connect_timeout);
        loop {
            let (link, is_new) = self.link(Wanted::Now, deadline).await?;
            match link.remote.tools(deadline).await {
                Ok(tools) => return Ok(tools),
                Err(fault) => {
                    self.drop_link(&link);
                    if is_new || Instant::now() >= deadline {
                        self.fail(&fault);
                        return Err(fault);
                    }
                }
            }
        }
    }

    /// Tries it again and again in the background, until it lists its tools.
    pub(super) fn revive(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.reviver.as_ref().is_none_or(JoinHandle::is_finished) {
            state.reviver = Some(tokio::spawn(revive(Arc::downgrade(self), self.signals.stop.clone())));
        }
    }

    /// Ends its connection and what runs in the background.
    pub(super) async fn close(&self) {
        self.remote.close();
        let (link, reviver) = {
            let mut state = self.state.lock();
            (state.link.take(), state.reviver.take())
        };
        if let Some(reviver) = reviver {
            reviver.abort();
            let _ = reviver.await;
        }
        if let Some(link) = link {
            link.keeper.abort();
            link.remote.close().await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Follows what a server tells of its list.
async fn keep(remote: Arc<Remote>, endpoint: Weak<Endpoint>, stop: CancellationToken) {
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
                endpoint.revive();
            }
        }
        () = async { tokio::join!(follow, remote.subscribe()); } => {}
    }
}

async fn revive(endpoint: Weak<Endpoint>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        let Some(endpoint) = endpoint.upgrade() else { return };
        let listed = tokio::select! {
            () = stop.cancelled() => return,
            listed = endpoint.list_once() => listed,
        };
        if listed.is_ok() {
            return endpoint.note_change();
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn late(says: &str) -> RemoteFault {
    RemoteFault {
        kind: RemoteFaultKind::TimedOut,
        message: says.to_owned(),
        delivered: Delivered::No,
        retry_after: None,
        data: Value::Null,
    }
}
