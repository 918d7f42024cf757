//! Many sessions over one socket, and many steps in one frame.
//!
//! Invariant: the socket is opened at the first request and closes with its last user.

use std::future::Future;
use std::sync::Arc;

use oxenv_client::{BatchStep, ClientError, ClientOptions, OpenOptions};
use pyo3::prelude::*;
use tokio::sync::OnceCell;

use crate::error::to_exception;
use crate::options::SessionArguments;
use crate::reply::{NativeReply, ReplyResult, parse_json, raw_json};
use crate::request::NativeRequest;
use crate::runtime::generation;
use crate::session::NativeSession;

/// A socket that many sessions share.
#[pyclass(frozen, name = "Connection", module = "oxenv._native")]
pub(crate) struct NativeConnection {
    shared: Arc<LazyConnection>,
    born: usize,
}

struct LazyConnection {
    url: String,
    client: ClientOptions,
    open: OpenOptions,
    connection: OnceCell<oxenv_client::Connection>,
}

#[pymethods]
impl NativeConnection {
    /// A socket at an address. Nothing is connected yet.
    #[new]
    fn new(py: Python<'_>, url: String, options: &str) -> PyResult<Self> {
        let options =
            parse_json::<SessionArguments>("options", options).and_then(SessionArguments::into_options);
        let (client, open) = options.map_err(|error| to_exception(py, &error))?;
        let shared = LazyConnection { url, client, open, connection: OnceCell::new() };
        Ok(NativeConnection { shared: Arc::new(shared), born: generation() })
    }

    /// Opens a session, from that seed if there is one.
    #[pyo3(signature = (seed=None, episode_id=None))]
    fn open(&self, seed: Option<u64>, episode_id: Option<String>) -> NativeRequest {
        self.request(|shared| async move {
            let mut open = shared.open.clone();
            open.seed = seed.or(open.seed);
            open.episode_id = episode_id.or(open.episode_id);
            let client = shared.connected().await?.open(&open).await?;
            Ok(NativeReply::Sessions(vec![client]))
        })
    }

    /// Attaches to a session that exists.
    fn attach(&self, session_id: String) -> NativeRequest {
        self.request(|shared| async move {
            Ok(NativeReply::Sessions(vec![shared.connected().await?.attach(&session_id).await?]))
        })
    }

    /// Makes a session of a snapshot.
    fn restore(&self, snapshot: String) -> NativeRequest {
        self.request(|shared| async move {
            Ok(NativeReply::Sessions(vec![shared.connected().await?.restore(&snapshot, &shared.open).await?]))
        })
    }

    /// Takes many steps in one frame: pairs of a session of this connection and the JSON text of its action.
    fn step_batch(&self, steps: Vec<(PyRef<'_, NativeSession>, String)>) -> NativeRequest {
        let steps: Vec<_> = steps.into_iter().map(|(session, action)| (session.shared(), action)).collect();
        self.request(|shared| async move {
            let mut clients = Vec::with_capacity(steps.len());
            for (state, _) in &steps {
                clients.push(NativeSession::open_client(state).await?);
            }
            let actions =
                steps.into_iter().map(|(_, action)| raw_json(action)).collect::<Result<Vec<_>, _>>()?;
            let pairs = clients.iter().zip(actions);
            let batch = pairs.map(|(client, action)| BatchStep { client, action, key: None }).collect();
            Ok(NativeReply::Steps(shared.connected().await?.step_batch(batch).await?))
        })
    }
}

impl NativeConnection {
    fn request<F>(&self, work: impl FnOnce(Arc<LazyConnection>) -> F) -> NativeRequest
    where
        F: Future<Output = ReplyResult> + Send + 'static,
    {
        NativeRequest::of_generation(self.born, work(self.shared.clone()))
    }
}

impl LazyConnection {
    async fn connected(&self) -> Result<&oxenv_client::Connection, ClientError> {
        self.connection.get_or_try_init(|| oxenv_client::Connection::connect(&self.url, &self.client)).await
    }
}
