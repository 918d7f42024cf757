//! Many sessions over one socket, and many steps in one frame.
//!
//! Invariant: the socket is opened at the first request and closes with its last user.

use std::future::Future;
use std::sync::Arc;

use oxenv_client::{BatchStep, ClientError, ClientOptions, OpenOptions};
use pyo3::prelude::*;
use tokio::sync::OnceCell;

use crate::error::raised;
use crate::options::SessionOptions;
use crate::reply::{Reply, raw, value};
use crate::request::Request;
use crate::runtime::generation;
use crate::session::Session;

/// A socket that many sessions share.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    born: usize,
}

struct Shared {
    url: String,
    client: ClientOptions,
    open: OpenOptions,
    live: OnceCell<oxenv_client::Connection>,
}

#[pymethods]
impl Connection {
    /// A socket at an address. Nothing is connected yet.
    #[new]
    fn new(py: Python<'_>, url: String, options: &str) -> PyResult<Self> {
        let options = value::<SessionOptions>("options", options).and_then(SessionOptions::split);
        let (client, open) = options.map_err(|error| raised(py, &error))?;
        let shared = Shared { url, client, open, live: OnceCell::new() };
        Ok(Connection { shared: Arc::new(shared), born: generation() })
    }

    /// Opens a session, from that seed if there is one.
    #[pyo3(signature = (seed=None, episode_id=None))]
    fn open(&self, seed: Option<u64>, episode_id: Option<String>) -> Request {
        self.request(|shared| async move {
            let mut open = shared.open.clone();
            open.seed = seed.or(open.seed);
            open.episode_id = episode_id.or(open.episode_id);
            let client = shared.live().await?.open(&open).await?;
            Ok(Reply::Sessions(vec![client]))
        })
    }

    /// Attaches to a session that exists.
    fn attach(&self, session_id: String) -> Request {
        self.request(|shared| async move {
            Ok(Reply::Sessions(vec![shared.live().await?.attach(&session_id).await?]))
        })
    }

    /// Makes a session of a snapshot.
    fn restore(&self, snapshot: String) -> Request {
        self.request(|shared| async move {
            Ok(Reply::Sessions(vec![shared.live().await?.restore(&snapshot, &shared.open).await?]))
        })
    }

    /// Takes many steps in one frame: pairs of a session of this connection and the JSON text of its action.
    fn step_batch(&self, steps: Vec<(PyRef<'_, Session>, String)>) -> Request {
        let steps: Vec<_> = steps.into_iter().map(|(session, action)| (session.shared(), action)).collect();
        self.request(|shared| async move {
            let mut clients = Vec::with_capacity(steps.len());
            for (state, _) in &steps {
                clients.push(Session::open_client(state).await?);
            }
            let actions = steps.into_iter().map(|(_, action)| raw(action)).collect::<Result<Vec<_>, _>>()?;
            let pairs = clients.iter().zip(actions);
            let batch = pairs.map(|(client, action)| BatchStep { client, action, key: None }).collect();
            Ok(Reply::Steps(shared.live().await?.step_batch(batch).await?))
        })
    }
}

impl Connection {
    fn request<F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> Request
    where
        F: Future<Output = Result<Reply, ClientError>> + Send + 'static,
    {
        Request::of(self.born, work(self.shared.clone()))
    }
}

impl Shared {
    async fn live(&self) -> Result<&oxenv_client::Connection, ClientError> {
        self.live.get_or_try_init(|| oxenv_client::Connection::connect(&self.url, &self.client)).await
    }
}
