//! A listener and the connections that it accepted.
//!
//! Invariant: once [`Connections::abort`] returns, no client can connect any more, and each connection is
//! dropped as soon as its task is polled; [`Connections::close`] waits for that.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The longest body that is read.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Handles requests: the control plane, or an instance.
pub(crate) trait RequestHandler: Send + Sync + 'static {
    /// The response, or an error, and then the connection is closed without one.
    fn handle(
        self: Arc<Self>,
        parts: Parts,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Response, ConnectionClosed>>;
}

/// The connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct ConnectionClosed;

impl fmt::Display for ConnectionClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed without an answer")
    }
}

impl std::error::Error for ConnectionClosed {}

/// A listener and what it accepted.
pub(crate) struct Connections {
    listener: Arc<Mutex<Option<TcpListener>>>,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl Connections {
    pub(crate) fn serve(listener: TcpListener, by: Arc<dyn RequestHandler>) -> Self {
        let listener = Arc::new(Mutex::new(Some(listener)));
        let connections = Connections {
            listener: Arc::clone(&listener),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
        };
        let (tasks, ended) = (connections.tasks.clone(), connections.ended.clone());
        connections.tasks.spawn(async move {
            while let Some(stream) = accept(&listener, &ended).await {
                let (by, ended) = (Arc::clone(&by), ended.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = ended.cancelled() => {}
                        () = serve_connection(stream, by) => {}
                    }
                });
            }
        });
        connections
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listener.lock().is_some()
    }

    /// Stops listening now and drops all connections.
    pub(crate) fn abort(&self) {
        self.ended.cancel();
        self.listener.lock().take();
        self.tasks.close();
    }

    /// Stops listening, and waits until all connections are closed.
    pub(crate) async fn close(&self) {
        self.abort();
        self.tasks.wait().await;
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.abort();
    }
}

async fn accept(listener: &Mutex<Option<TcpListener>>, ended: &CancellationToken) -> Option<TcpStream> {
    let next = |context: &mut Context<'_>| match listener.lock().as_ref() {
        Some(listener) => listener.poll_accept(context).map(Some),
        None => Poll::Ready(None),
    };
    loop {
        let accepted: Option<io::Result<(TcpStream, SocketAddr)>> = tokio::select! {
            biased;
            () = ended.cancelled() => return None,
            accepted = std::future::poll_fn(next) => accepted,
        };
        match accepted? {
            Ok((stream, _)) => return Some(stream),
            // That one is lost, the next may come; the pause is for when there are no descriptors left.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, by: Arc<dyn RequestHandler>) {
    // Without it a reply may wait 40 ms for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let by = Arc::clone(&by);
        async move {
            let (parts, body) = request.into_parts();
            // A page in a browser could otherwise run queries and verifiers here.
            if parts.headers.contains_key(header::ORIGIN) {
                return Ok((StatusCode::FORBIDDEN, "a simulated Fleet is not for web pages").into_response());
            }
            match to_bytes(Body::new(body), MAX_BODY_BYTES).await {
                Ok(body) => by.handle(parts, body).await,
                Err(_) => Err(ConnectionClosed),
            }
        }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// A JSON document as an answer.
pub(crate) struct JsonResponse<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for JsonResponse<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// An error as Fleet reports it.
pub(crate) fn error_response(status: StatusCode, detail: impl Into<Value>) -> Response {
    (status, JsonResponse(json!({"detail": detail.into()}))).into_response()
}

/// The first half of a text, and then the end of the connection.
pub(crate) fn truncated_body(bytes: &Bytes) -> Body {
    let first = Ok::<_, ConnectionClosed>(bytes.slice(..bytes.len() / 2));
    Body::from_stream(futures_util::stream::iter([first, Err(ConnectionClosed)]))
}
