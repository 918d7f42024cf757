//! What requests of one session share: the client, once it is connected, and the instance that serves it.
//!
//! Invariant: after a lost connection only a reset opens another session; what a forked process's parent made
//! is never touched.

use std::mem;
use std::sync::Arc;

use oxenv_client::{ClientError, ClientOptions, Code, EnvClient, OpenOptions, Protocol};
use oxenv_providers::Instance;
use oxenv_wire::{Delivered, ErrorCode};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::launch::{INSTANCE_STOP_TIMEOUT, SESSION_CLOSE_TIMEOUT, ServerSource};
use crate::runtime::{ExitFuture, ExitHook, generation, register_exit_hook, spawn_cleanup};

/// How it is opened.
pub(super) struct SessionOrigin {
    pub(super) source: ServerSource,
    pub(super) client: ClientOptions,
    pub(super) open: OpenOptions,
}

/// What requests in flight share with the session.
pub(crate) struct SessionState {
    /// `None`: it was opened by something else, and cannot be opened again.
    source: Option<SessionOrigin>,
    pub(super) connection: Mutex<SessionConnection>,
    pub(super) born: usize,
}

#[derive(Default)]
pub(super) enum SessionConnection {
    #[default]
    NotConnected,
    Open(Arc<EnvClient>, Option<Instance>),
    /// The connection is gone; the instance goes on.
    Lost(Option<Instance>),
    Closed,
}

/// When a session that is not open is opened again.
#[derive(PartialEq)]
pub(super) enum Reopen {
    /// Only if it never was.
    Never,
    IfLost,
    Always,
}

impl SessionState {
    pub(super) fn new(origin: Option<SessionOrigin>, connection: SessionConnection) -> Arc<Self> {
        let state =
            Arc::new(SessionState { source: origin, connection: Mutex::new(connection), born: generation() });
        register_exit_hook(&state);
        state
    }

    pub(super) fn can_reopen(&self) -> bool {
        self.source.is_some()
    }

    /// The client; connects first where needed.
    pub(super) async fn client(&self, reopen: Reopen) -> Result<Arc<EnvClient>, ClientError> {
        let mut connection = self.connection.lock().await;
        match &*connection {
            SessionConnection::Open(client, _) => return Ok(client.clone()),
            SessionConnection::Lost(_) if reopen == Reopen::Never => {
                return Err(not_open(Code::ConnectionLost, "the session was lost; reset to begin another"));
            }
            SessionConnection::Closed if reopen != Reopen::Always => {
                return Err(not_open(
                    Code::Closed,
                    "the client was closed; connect it again or make another",
                ));
            }
            _ => {}
        }
        let Some(SessionOrigin { source, client: options, open }) = &self.source else {
            return Err(not_open(
                Code::Closed,
                "the session has ended, and cannot be opened again; make another",
            ));
        };
        if let SessionConnection::Lost(Some(instance)) = &*connection {
            let client = Arc::new(EnvClient::connect_with(instance.url(), options, open).await?);
            if let SessionConnection::Lost(instance) = mem::take(&mut *connection) {
                *connection = SessionConnection::Open(client.clone(), instance);
            }
            return Ok(client);
        }
        let (client, instance) = source.open(options, open).await?;
        let client = Arc::new(client);
        *connection = SessionConnection::Open(client.clone(), instance);
        Ok(client)
    }

    /// Notes it if a failure means that the session is gone, and returns whether it does.
    pub(super) async fn note_failure(&self, client: &Arc<EnvClient>, error: &ClientError) -> bool {
        let gone = match error.code() {
            // Over HTTP a session outlives connections.
            Code::ConnectionLost => client.protocol() != Protocol::Http,
            Code::Closed | Code::Server(ErrorCode::SessionEnded | ErrorCode::SessionNotFound) => true,
            _ => false,
        };
        if !gone {
            return false;
        }
        let mut connection = self.connection.lock().await;
        if let SessionConnection::Open(current, instance) = &mut *connection
            && Arc::ptr_eq(current, client)
        {
            let instance = instance.take();
            *connection = SessionConnection::Lost(instance);
        }
        true
    }

    pub(super) async fn noting_failure<T>(
        &self,
        client: &Arc<EnvClient>,
        outcome: Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if let Err(error) = &outcome {
            self.note_failure(client, error).await;
        }
        outcome
    }

    pub(super) async fn close(&self) -> Result<(), ClientError> {
        let connection = mem::replace(&mut *self.connection.lock().await, SessionConnection::Closed);
        connection.end().await
    }
}

impl SessionConnection {
    /// Ends it for callers that do not wait. A session without an instance ends with its socket at the
    /// latest, so a server that does not answer delays no caller.
    async fn end_in_time(self) {
        let instance = matches!(self, SessionConnection::Open(_, Some(_)) | SessionConnection::Lost(Some(_)));
        let _ =
            timeout(if instance { INSTANCE_STOP_TIMEOUT } else { SESSION_CLOSE_TIMEOUT }, self.end()).await;
    }

    async fn end(self) -> Result<(), ClientError> {
        let (closed, instance) = match self {
            SessionConnection::Open(client, instance) => (client.close().await, instance),
            SessionConnection::Lost(instance) => (Ok(()), instance),
            SessionConnection::NotConnected | SessionConnection::Closed => (Ok(()), None),
        };
        match instance {
            // With the instance the session ends in any case.
            Some(instance) => Ok(instance.stop().await?),
            None => closed,
        }
    }
}

impl ExitHook for SessionState {
    fn end(self: Arc<Self>) -> ExitFuture {
        Box::pin(async move {
            let Ok(mut connection) = timeout(SESSION_CLOSE_TIMEOUT, self.connection.lock()).await else {
                return;
            };
            let connection = mem::replace(&mut *connection, SessionConnection::Closed);
            connection.end_in_time().await;
        })
    }
}

impl Drop for SessionState {
    fn drop(&mut self) {
        let connection = mem::take(self.connection.get_mut());
        if self.born != generation() {
            // It is the parent's: a goodbye from here would end what the parent still uses.
            mem::forget(connection);
        } else if matches!(connection, SessionConnection::Open(..) | SessionConnection::Lost(Some(_))) {
            spawn_cleanup(connection.end_in_time());
        }
    }
}

/// A failure of a session that is not open: nothing was sent.
fn not_open(code: Code, message: &str) -> ClientError {
    ClientError::new(code, message).with_delivered(Delivered::No)
}
