//! Accepting connections, and stopping.
//!
//! Invariant: when [`Server::run`] returns, every connection has been closed and every session has
//! ended. A stop lets calls in flight finish for a bounded time; what is then cut off is answered.

use std::convert::Infallible;
use std::fs::Permissions;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use oxenv_core::{EndReason, SessionStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::app::App;
use crate::config::ServerConfig;
use crate::error::Refusal;
use crate::hosts::Hosts;
use crate::operations::panicked;
use crate::peer::{CountedBody, Peer};
use crate::peer_stream::SplitSocket;
use crate::routes::router;
use crate::shutdown::Shutdown;
use crate::stall_timeout::StallTimeoutStream;
use crate::timing::Events;

/// Time limit for sending the answers to calls that the end of the drain cut off.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// How long connections may take to end after the drain, answers included.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The response to a connection that there is no room for.
const NO_ROOM_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
content-type: application/json\r\ncontent-length: 52\r\n\r\n\
{\"detail\":\"the server has no room for a connection\"}";

/// A bound listener with an application behind it.
///
/// ```
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{Server, ServerConfig};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
/// let server = Server::bind(([127, 0, 0, 1], 0).into(), store, ServerConfig::default()).await?;
/// let address = server.address()?;
/// assert_ne!(address.port(), 0, "the port that the operating system chose");
/// server.run(async { /* until this ends */ }).await;
/// assert!(tokio::net::TcpStream::connect(address).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Server {
    listener: TcpListener,
    socket: Option<UnixSocket>,
    app: Arc<App>,
    hosts: Hosts,
}

impl Server {
    /// Binds an address.
    ///
    /// # Errors
    /// The operating system's, with the address in it.
    pub async fn bind(address: SocketAddr, store: SessionStore, config: ServerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        let hosts = Hosts::new(listener.local_addr()?.ip(), &config);
        Ok(Server { listener, socket: None, app: App::new(store, config), hosts })
    }

    /// Listens on a Unix socket as well, which only this user can connect to. Its file is removed when the
    /// server is dropped. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The operating system's, with the path in it; also if there is a file of that name.
    pub fn with_socket(mut self, path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on the socket {}: {error}", path.display()))
        })?;
        let socket = UnixSocket { listener, path: path.to_owned() };
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        self.socket = Some(socket);
        Ok(self)
    }

    /// The address that was bound; the port is the real one if 0 was requested.
    ///
    /// # Errors
    /// The operating system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The state that the handlers share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves until `stop` is ready, then drains: no new connections and sessions, calls in flight
    /// go on for the configured time, then everything ends.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        self.serve(stop, std::future::pending()).await;
    }

    /// Serves until a signal comes, then drains. Calls in flight are not waited for any more after a second
    /// signal. Connections that do not end when they are asked to, because an environment blocks its
    /// thread, are left.
    pub async fn run_until(self, shutdown: &Shutdown) {
        let given_up = async {
            shutdown.give_up_time().await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        let served = async {
            tokio::select! {
                () = self.serve(shutdown.requested(), shutdown.give_up_time()) => true,
                () = given_up => false,
            }
        };
        // The timer above does not run where every thread of the runtime is blocked.
        if shutdown.finish(served).await != Some(true) {
            tracing::error!("connections are left that do not end");
        }
    }

    /// Serves until `stop`, then drains for the configured time, but not beyond `hurry`.
    async fn serve(self, stop: impl Future<Output = ()>, hurry: impl Future<Output = ()>) {
        let Server { listener, socket, app, hosts } = self;
        let routes = TowerToHyperService::new(router(Arc::clone(&app)));
        let guarded = Arc::new(GuardedRoutes { hosts, routes });
        tokio::select! {
            () = accept(&listener, socket.as_ref(), &app, &guarded) => {}
            () = app.store.reap() => {}
            () = app.transports.reap() => {}
            () = stop => {}
        }
        tracing::info!("stopping: calls in flight may finish");
        drop((listener, socket));
        app.store.drain();
        app.stopping.cancel();
        app.tasks.close();
        let drained = tokio::select! {
            drained = tokio::time::timeout(app.config.drain, app.tasks.wait()) => drained.is_ok(),
            () = hurry => false,
        };
        if !drained {
            tracing::warn!(connections = app.tasks.len(), "closing what is left: the drain is over");
        }
        // What still runs is cut off, and its callers get failures that state it.
        app.store.end_all(&EndReason::Drained);
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, app.tasks.wait()).await;
        app.killed.cancel();
        app.transports.end_all().await;
        app.tasks.wait().await;
    }
}

/// Serves one connection that the caller has accepted, over any stream of bytes, until it ends or the
/// application is killed. For embedding behind another listener.
///
/// ```
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{App, ServerConfig, serve_connection};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
/// let app = App::new(store, ServerConfig::default());
/// let (mut client, server) = tokio::io::duplex(4096);
/// tokio::spawn(serve_connection(app, server));
/// client.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
/// let mut reply = String::new();
/// client.read_to_string(&mut reply).await?;
/// assert!(reply.ends_with(r#"{"status":"healthy"}"#));
/// # Ok(())
/// # }
/// ```
pub async fn serve_connection<S>(app: Arc<App>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Without an address to compare with, every host is allowed unless the configuration names some.
    let hosts = Hosts::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &app.config);
    let routes = TowerToHyperService::new(router(Arc::clone(&app)));
    serve(stream, Peer::default(), app, Arc::new(GuardedRoutes { hosts, routes })).await;
}

/// The routes, behind the check of hosts and origins.
struct GuardedRoutes {
    hosts: Hosts,
    routes: TowerToHyperService<axum::Router>,
}

/// A Unix socket that is listened on. Its file goes with it.
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The next connection of a socket.
async fn local(socket: Option<&UnixSocket>) -> io::Result<UnixStream> {
    match socket {
        Some(socket) => Ok(socket.listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Lets the operating system detect peers that vanished without closing, in at most 40 s: a
/// connection that waits for its next request, or for a long step, sends nothing by itself.
fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(5))
        .with_retries(4);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&probes)?;
    // There are no probes while something that was sent waits to be acknowledged, as on a stream of events,
    // which sends by itself only every 10 s.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    socket: Option<&UnixSocket>,
    app: &Arc<App>,
    guarded: &Arc<GuardedRoutes>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nodelay(true).and_then(|()| watch_peer(&stream)) {
                        tracing::debug!(%error, "could not set the options of a connection");
                    }
                    enter(stream, app, guarded).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            accepted = local(socket) => match accepted {
                Ok(stream) => {
                    enter(stream, app, guarded).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        // Out of descriptors, or a peer that left already: others go on, and so do we.
        if let Err(error) = accepted {
            tracing::warn!(%error, "could not accept a connection");
            app.accepted.make_room().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Serves a connection that was accepted, if there is room for it.
async fn enter<S: SplitSocket>(stream: S, app: &Arc<App>, guarded: &Arc<GuardedRoutes>) {
    let Some(place) = app.accepted.enter().await else {
        tracing::debug!("refused a connection: no descriptors are left for it");
        // As far as the peer takes it at once.
        let (_, stream) = Peer::of(stream, None);
        return stream.say(NO_ROOM_RESPONSE);
    };
    let (peer, stream) = Peer::of(stream, Some(place));
    app.accepted.add(&peer);
    app.tasks.spawn(serve(stream, peer, Arc::clone(app), Arc::clone(guarded)));
}

/// What may happen beside requests.
enum ConnectionEvent {
    /// A stop was requested.
    Stop,
    /// The time for finishing is over.
    Killed,
    /// The peer has ended its side.
    Lost,
    /// Another connection needs the place of this one.
    End,
}

async fn serve<S>(stream: S, peer: Peer, app: Arc<App>, guarded: Arc<GuardedRoutes>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = StallTimeoutStream::new(stream, app.config.stall, peer.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        let busy = peer.busy();
        // A request that becomes a WebSocket watches its connection.
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(peer.clone());
        }
        let guarded = Arc::clone(&guarded);
        async move {
            let response = match guarded.hosts.refuse(&request) {
                Some(refusal) => refusal,
                None => {
                    let work = AssertUnwindSafe(async { guarded.routes.call(request).await });
                    // A panic is the failure of its request alone; one of an environment is a failure of
                    // its session.
                    work.catch_unwind()
                        .await
                        .unwrap_or_else(|_| Ok(Refusal::from(panicked()).into_response()))?
                }
            };
            Ok::<_, Infallible>(response.map(|body| CountedBody::new(body, busy)))
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut events = Events::new();
    events.watch(app.stopping.cancelled().map(|()| ConnectionEvent::Stop));
    events.watch(peer.clone().lost().map(|()| ConnectionEvent::Lost));
    events.watch(peer.clone().end_requested().map(|()| ConnectionEvent::End));
    let mut lost = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            event = events.next() => match event {
                ConnectionEvent::Stop => {
                    connection.as_mut().graceful_shutdown();
                    events.watch(app.killed.cancelled().map(|()| ConnectionEvent::Killed));
                }
                ConnectionEvent::Killed => break Ok(()),
                ConnectionEvent::Lost => lost = true,
                ConnectionEvent::End if peer.is_idle() => {
                    app.accepted.ends();
                    break Ok(());
                }
                ConnectionEvent::End => {
                    peer.stays();
                    events.watch(peer.clone().end_requested().map(|()| ConnectionEvent::End));
                }
            },
            // The connection reads nothing more while bytes wait behind the request that is being answered.
            () = poll_fn(|_| match lost && peer.is_busy() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }) => break Ok(()),
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}
