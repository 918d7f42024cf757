//! The transport sessions of clients that shook hands, and what each is connected to.
//!
//! Invariant: their number is bounded, and an unused one ends: a client that never closes its
//! session costs nothing for long. A session with an open stream or a request being answered is in
//! use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use oxenv_wire::{RpcCode, RpcError};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError,
};
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::endpoint::McpEndpoint;
use super::log_level::LogThreshold;
use super::target::McpTarget;
use crate::auth::caller::Caller;
use crate::load::Load;

/// How long the messages of a request are kept after its client has cancelled it.
const CANCELLED_TTL: Duration = Duration::from_secs(1);

/// All transport sessions of a server.
pub(crate) struct Transports {
    local: LocalSessionManager,
    table: Mutex<HashMap<SessionId, Arc<Transport>>>,
    room: Arc<Semaphore>,
    idle: Duration,
    started: Instant,
    /// Streams that wait for nothing in particular end with this.
    stopping: CancellationToken,
}

/// One transport session.
pub(crate) struct Transport {
    pub(crate) target: McpTarget,
    /// The one session that the endpoint leads to at which it was made; `None` for `/mcp`.
    session_id: Option<String>,
    /// The caller that made it, which alone may use it: its id is no credential.
    caller: Caller,
    pub(super) level: LogThreshold,
    /// Its requests that rmcp works on, also for clients that went away meanwhile.
    pub(super) load: Arc<Load>,
    in_use: AtomicUsize,
    /// When it was last in use, in milliseconds since the start.
    last: AtomicU64,
    _room: OwnedSemaphorePermit,
}

/// A transport session to make, if the handshake succeeds.
pub(crate) struct TransportPlan {
    pub(crate) target: McpTarget,
    pub(crate) session_id: Option<String>,
    pub(crate) caller: Caller,
    pub(super) level: LogThreshold,
    pub(crate) room: OwnedSemaphorePermit,
}

/// The transport sessions as rmcp's service sees them during one request.
pub(crate) struct TransportManager {
    transports: Arc<Transports>,
    plan: Mutex<Option<TransportPlan>>,
}

/// Marks a transport session in use.
pub(crate) struct TransportGuard {
    transports: Arc<Transports>,
    transport: Arc<Transport>,
}

impl Transports {
    pub(crate) fn new(max: usize, idle: Duration, stopping: CancellationToken) -> Arc<Self> {
        let mut local = LocalSessionManager::default();
        // Only we know what is in use: answers that need no stream never reach rmcp's clock.
        local.session_config.keep_alive = None;
        local.session_config.completed_cache_ttl = CANCELLED_TTL;
        Arc::new(Transports {
            local,
            table: Mutex::default(),
            room: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            idle,
            started: Instant::now(),
            stopping,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table().len()
    }

    /// The transport session of that id, if that caller made it at that endpoint. It is in use from now on.
    pub(crate) fn find(self: &Arc<Self>, id: &str, endpoint: McpEndpoint<'_>) -> Option<TransportGuard> {
        let table = self.table();
        let same = |transport: &Transport| {
            transport.session_id.as_deref() == endpoint.session_id() && transport.caller == *endpoint.caller
        };
        let transport = table.get(id).filter(|transport| same(transport))?;
        Some(TransportGuard::new(self, transport))
    }

    /// Room for one more; if need be the one goes for it that was not used for the longest time, and
    /// one of the caller's own before those of others.
    pub(crate) async fn reserve(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, RpcError> {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(room);
        }
        let oldest = {
            let table = self.table();
            let idle = table.iter().filter(|(_, transport)| transport.is_idle());
            idle.min_by_key(|(_, transport)| {
                (transport.caller != *caller, transport.last.load(Ordering::Acquire))
            })
            .map(|(id, _)| Arc::clone(id))
        };
        if let Some(id) = oldest {
            self.end(&id).await;
        }
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let message = "every MCP session of this server is in use; try again later";
            RpcError::new(RpcCode::ServerError, message)
        })
    }

    /// Ends a transport session, and the session that was made for it; false if there is none.
    pub(crate) async fn end(&self, id: &SessionId) -> bool {
        let removed = self.table().remove(id);
        // Dropping its handle ends the worker behind it, even one that waits for a slow reader.
        self.local.sessions.write().await.remove(id);
        if let Some(McpTarget::Private(private)) = removed.as_deref().map(|transport| &transport.target) {
            private.end();
        }
        removed.is_some()
    }

    /// Ends those that have been unused for long, for as long as the future is polled.
    pub(crate) async fn reap(&self) {
        let every = (self.idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = self.now();
            let over = |transport: &Transport| {
                let idle = now.saturating_sub(transport.last.load(Ordering::Acquire));
                idle >= millis(self.idle) || transport.target.has_ended()
            };
            let over: Vec<SessionId> = {
                let table = self.table();
                let idle = table.iter().filter(|(_, transport)| transport.is_idle() && over(transport));
                idle.map(|(id, _)| Arc::clone(id)).collect()
            };
            for id in over {
                tracing::debug!(%id, "MCP session expired");
                self.end(&id).await;
            }
        }
    }

    /// Ends all.
    pub(crate) async fn end_all(&self) {
        let all: Vec<SessionId> = self.table().keys().map(Arc::clone).collect();
        for id in all {
            self.end(&id).await;
        }
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Transport>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport {
    fn is_idle(&self) -> bool {
        self.in_use.load(Ordering::Acquire) == 0
    }
}

impl TransportGuard {
    fn new(transports: &Arc<Transports>, transport: &Arc<Transport>) -> Self {
        transport.in_use.fetch_add(1, Ordering::AcqRel);
        TransportGuard { transports: Arc::clone(transports), transport: Arc::clone(transport) }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }
}

impl Drop for TransportGuard {
    fn drop(&mut self) {
        self.transport.last.store(self.transports.now(), Ordering::Release);
        self.transport.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

impl TransportManager {
    pub(crate) fn new(transports: &Arc<Transports>, plan: Option<TransportPlan>) -> Arc<Self> {
        Arc::new(TransportManager { transports: Arc::clone(transports), plan: Mutex::new(plan) })
    }

    /// A stream that keeps its transport session in use.
    fn using<S>(
        &self,
        id: &SessionId,
        stream: S,
    ) -> impl Stream<Item = ServerSseMessage> + Send + Sync + 'static
    where
        S: Stream<Item = ServerSseMessage> + Send + Sync + 'static,
    {
        let transport = self.transports.table().get(id).map(Arc::clone);
        let in_use = transport.map(|transport| TransportGuard::new(&self.transports, &transport));
        stream.inspect(move |_| {
            let _held = &in_use;
        })
    }
}

type Failed = LocalSessionManagerError;

impl SessionManager for TransportManager {
    type Error = Failed;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Failed> {
        let (id, connection) = self.transports.local.create_session().await?;
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(TransportPlan { target, session_id, caller, level, room }) = plan else {
            self.transports.end(&id).await;
            return Err(Failed::SessionNotFound(id));
        };
        let transport = Transport {
            target,
            session_id,
            caller,
            level,
            load: Arc::default(),
            in_use: AtomicUsize::new(0),
            last: AtomicU64::new(self.transports.now()),
            _room: room,
        };
        self.transports.table().insert(Arc::clone(&id), Arc::new(transport));
        Ok((id, connection))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Failed> {
        self.transports.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Failed> {
        self.transports.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Failed> {
        self.transports.end(id).await;
        Ok(())
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        Ok(self.using(id, self.transports.local.create_stream(id, message).await?))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Failed> {
        self.transports.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        let stream = self.transports.local.create_standalone_stream(id).await?;
        // It would hold up a drain for as long as its client likes.
        let stopping = self.transports.stopping.clone();
        Ok(self.using(id, stream).take_until(async move { stopping.cancelled().await }))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        let stream = self.transports.local.resume(id, last_event_id).await?;
        let stopping = self.transports.stopping.clone();
        Ok(self.using(id, stream).take_until(async move { stopping.cancelled().await }))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The error of a request that names a transport session that its caller does not have.
pub(super) fn unknown_session() -> RpcError {
    let message =
        "unknown Mcp-Session-Id: the MCP session has ended, or was never begun here; initialize again";
    RpcError::new(RpcCode::ServerError, message)
}
