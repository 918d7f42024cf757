//! Making a WebSocket: TCP, TLS, handshake, in one connection.
//!
//! Invariant: one connection, whatever the server answers. A server that selects no subprotocol although one
//! was offered is not a failure, because stock servers select none and have one slot; so the handshake is
//! made here, not by tungstenite, which refuses that.

mod handshake;
pub(crate) mod tls;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::either::Either;

use oxenv_wire::{Delivered, Phase};

use crate::error::{ClientError, Code, Result};
use crate::options::ClientOptions;
pub(crate) use crate::server_address::ServerAddress;

/// Largest response to a handshake, the body of a refusal included.
const MAX_RESPONSE_BYTES: usize = 16 << 10;

/// How long the body of a refusal is waited for.
const REFUSAL_BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Pings of a server with pongs that may wait to be sent. A socket goes on reading while it cannot write,
/// because a server may take nothing before its replies are read.
pub(crate) const MAX_UNSENT_PONGS: usize = 1024;

/// A connection, safe or not.
pub(crate) type MaybeTlsStream = Either<TcpStream, TlsStream<TcpStream>>;

/// A response, and the bytes that were read so far: its head and what came after it.
struct ReceivedResponse {
    head: handshake::UpgradeResponse,
    bytes: Vec<u8>,
}

/// An open WebSocket.
pub(crate) struct OpenedSocket {
    pub(crate) socket: WebSocketStream<MaybeTlsStream>,
    /// The server's choice among what was offered.
    pub(crate) subprotocol: Option<String>,
}

/// Opens a WebSocket at a path of the server, such as `/ws?session_id=a`, within `connect_timeout`.
///
/// # Errors
/// [`Code::ConnectFailed`], [`Code::TlsFailed`], [`Code::NotAServer`], [`Code::VersionMismatch`],
/// [`Code::ConnectionLost`], [`Code::TimedOut`], or the server's own refusal. Nothing was delivered.
pub(crate) async fn dial(
    target: &ServerAddress,
    path: &str,
    subprotocol: Option<&str>,
    options: &ClientOptions,
) -> Result<OpenedSocket> {
    let mut stage = "finding and reaching";
    let dialled =
        timeout(options.connect_timeout, connect(target, path, subprotocol, options, &mut stage)).await;
    let result = dialled.unwrap_or_else(|_| {
        let limit = options.connect_timeout.as_secs_f64();
        let message = format!("{stage} {target} took longer than {limit} s");
        Err(ClientError::new(Code::TimedOut, message).with_retry(true, None))
    });
    result.map_err(|error| error.with_delivered(Delivered::No).with_phase(Phase::Boot))
}

async fn connect(
    target: &ServerAddress,
    path: &str,
    subprotocol: Option<&str>,
    options: &ClientOptions,
    stage: &mut &'static str,
) -> Result<OpenedSocket> {
    let tcp = connect_tcp(target).await?;
    let mut stream = if target.secure {
        *stage = "the TLS handshake with";
        Either::Right(tls::handshake(target, tcp).await?)
    } else {
        Either::Left(tcp)
    };
    *stage = "the WebSocket handshake with";
    let key = generate_key();
    let request = upgrade_request(target, path, subprotocol, &key);
    stream.write_all(&request).await.map_err(|error| handshake_lost(target, &error))?;
    let ReceivedResponse { head, bytes } = read_response(target, &mut stream).await?;
    let selected = head.check_accepted(target, &key, subprotocol)?;
    let rest = bytes[head.head_length..].to_vec();
    let config = WebSocketConfig::default()
        // It is filled with zeros before each read, so a large one costs more than it saves.
        .read_buffer_size(8 << 10)
        // Unflushed frames wait, so that requests that come together are one write.
        .write_buffer_size(64 << 10)
        .max_message_size(Some(options.max_message))
        .max_frame_size(Some(options.max_message));
    let socket = WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await;
    Ok(OpenedSocket { socket, subprotocol: selected })
}

async fn connect_tcp(target: &ServerAddress) -> Result<TcpStream> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let addresses: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
    if addresses.is_empty() {
        let message = format!("the host {:?} is not known; check the URL", target.host);
        return Err(ClientError::new(Code::ConnectFailed, message));
    }
    let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nobody listens there; check the port, or start the server",
            _ => "check the address and the network",
        };
        ClientError::new(Code::ConnectFailed, format!("cannot connect to {target}: {error}; {what}"))
    })?;
    // Requests are small and waited for; a socket that does not accept the option still works.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// The handshake of RFC 6455, section 4.1.
fn upgrade_request(target: &ServerAddress, path: &str, subprotocol: Option<&str>, key: &str) -> Vec<u8> {
    let mut request = format!(
        "GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        target.prefix, target.authority
    )
    .into_bytes();
    let mut header = |name: &str, value: &[u8]| {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    };
    if let Some(subprotocol) = subprotocol {
        header("Sec-WebSocket-Protocol", subprotocol.as_bytes());
    }
    for (name, value) in &target.headers {
        header(name.as_str(), value.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Reads the answer's head, and of a refusal what explains it.
async fn read_response(target: &ServerAddress, stream: &mut MaybeTlsStream) -> Result<ReceivedResponse> {
    let mut bytes = Vec::with_capacity(1024);
    let mut head = loop {
        if let Some(head) = handshake::parse_response(target, &bytes)? {
            break head;
        }
        if bytes.len() > MAX_RESPONSE_BYTES {
            return Err(handshake::not_a_server(target, "its answer has no end", &bytes));
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Err(handshake::no_response(target)),
            Ok(0) => return Err(handshake::not_a_server(target, "it hung up within its answer", &bytes)),
            Ok(_) => {}
            Err(error) => return Err(handshake_lost(target, &error)),
        }
    };
    if head.status != 101 {
        let whole = async {
            let end = (head.head_length + head.body_length).min(MAX_RESPONSE_BYTES);
            while bytes.len() < end && stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
        };
        // A refusal is reported with its outcome.
        let _ = timeout(REFUSAL_BODY_TIMEOUT, whole).await;
        head.take_body(&bytes);
    }
    Ok(ReceivedResponse { head, bytes })
}

fn handshake_lost(target: &ServerAddress, error: &io::Error) -> ClientError {
    let message = format!("{target} broke the connection in the handshake: {error}");
    ClientError::new(Code::ConnectionLost, message).with_retry(true, None)
}
