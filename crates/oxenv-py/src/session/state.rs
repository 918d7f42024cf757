//! What requests of one session share: the client, once it is connected, and the instance that serves it.
//!
//! Invariant: after a lost connection only a reset opens another session; what a forked process's parent made is never
//! touched.

use std::mem;
use std::sync::Arc;

use oxenv_client::{ClientError, ClientOptions, Code, EnvClient, OpenOptions, Protocol};
use oxenv_providers::Instance;
use oxenv_wire::{Delivered, ErrorCode};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::launch::{END_LIMIT, GOODBYE_LIMIT, Source};
use crate::runtime::{Ending, Held, end_later, generation, hold};

/// How it is opened.
pub(super) struct Origin {
    pub(super) source: Source,
    pub(super) client: ClientOptions,
    pub(super) open: OpenOptions,
}

/// What requests in flight share with the session.
pub(crate) struct State {
    /// `None`: it was opened by something else, and cannot be opened again.
    origin: Option<Origin>,
    pub(super) live: Mutex<Live>,
    pub(super) born: usize,
}

#[derive(Default)]
pub(super) enum Live {
    #[default]
    NotYet,
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

impl State {
    pub(super) fn new(origin: Option<Origin>, live: Live) -> Arc<Self> {
        let state = Arc::new(State { origin, live: Mutex::new(live), born: generation() });
        hold(&state);
        state
    }

    pub(super) fn can_reopen(&self) -> bool {
        self.origin.is_some()
    }

    /// The client; connects where that is to be done.
    pub(super) async fn client(&self, reopen: Reopen) -> Result<Arc<EnvClient>, ClientError> {
        let mut live = self.live.lock().await;
        match &*live {
            Live::Open(client, _) => return Ok(client.clone()),
            Live::Lost(_) if reopen == Reopen::Never => {
                return Err(ended(Code::ConnectionLost, "the session was lost; reset to begin another"));
            }
            Live::Closed if reopen != Reopen::Always => {
                return Err(ended(Code::Closed, "the client was closed; connect it again or make another"));
            }
            _ => {}
        }
        let Some(Origin { source, client: options, open }) = &self.origin else {
            return Err(ended(
                Code::Closed,
                "the session has ended, and cannot be opened again; make another",
            ));
        };
        if let Live::Lost(Some(instance)) = &*live {
            let client = Arc::new(EnvClient::connect_with(instance.url(), options, open).await?);
            if let Live::Lost(instance) = mem::take(&mut *live) {
                *live = Live::Open(client.clone(), instance);
            }
            return Ok(client);
        }
        let (client, instance) = source.open(options, open).await?;
        let client = Arc::new(client);
        *live = Live::Open(client.clone(), instance);
        Ok(client)
    }

    /// Notes it if a failure means that the session is gone, and says whether it does.
    pub(super) async fn judge(&self, client: &Arc<EnvClient>, error: &ClientError) -> bool {
        let gone = match error.code() {
            // Over HTTP a session outlives connections.
            Code::ConnectionLost => client.protocol() != Protocol::Http,
            Code::Closed | Code::Server(ErrorCode::SessionEnded | ErrorCode::SessionNotFound) => true,
            _ => false,
        };
        if !gone {
            return false;
        }
        let mut live = self.live.lock().await;
        if let Live::Open(current, instance) = &mut *live
            && Arc::ptr_eq(current, client)
        {
            let instance = instance.take();
            *live = Live::Lost(instance);
        }
        true
    }

    pub(super) async fn judged<T>(
        &self,
        client: &Arc<EnvClient>,
        outcome: Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if let Err(error) = &outcome {
            self.judge(client, error).await;
        }
        outcome
    }

    pub(super) async fn close(&self) -> Result<(), ClientError> {
        let live = mem::replace(&mut *self.live.lock().await, Live::Closed);
        live.end().await
    }
}

impl Live {
    /// Ends it for those who do not wait. A session without an instance ends with its socket at the latest, so a
    /// server that does not answer holds nobody up.
    async fn end_in_time(self) {
        let instance = matches!(self, Live::Open(_, Some(_)) | Live::Lost(Some(_)));
        let _ = timeout(if instance { END_LIMIT } else { GOODBYE_LIMIT }, self.end()).await;
    }

    async fn end(self) -> Result<(), ClientError> {
        let (closed, instance) = match self {
            Live::Open(client, instance) => (client.close().await, instance),
            Live::Lost(instance) => (Ok(()), instance),
            Live::NotYet | Live::Closed => (Ok(()), None),
        };
        match instance {
            // With the instance the session ends in any case.
            Some(instance) => Ok(instance.stop().await?),
            None => closed,
        }
    }
}

impl Held for State {
    fn end(self: Arc<Self>) -> Ending {
        Box::pin(async move {
            let Ok(mut live) = timeout(GOODBYE_LIMIT, self.live.lock()).await else { return };
            let live = mem::replace(&mut *live, Live::Closed);
            live.end_in_time().await;
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let live = mem::take(self.live.get_mut());
        if self.born != generation() {
            // It is the parent's: a goodbye from here would end what the parent still uses.
            mem::forget(live);
        } else if matches!(live, Live::Open(..) | Live::Lost(Some(_))) {
            end_later(live.end_in_time());
        }
    }
}

/// A failure of a session that is not open: nothing was sent.
fn ended(code: Code, message: &str) -> ClientError {
    ClientError::new(code, message).with_delivered(Delivered::No)
}
