//! A proxy between client and server that cuts connections where a test says.
//!
//! Invariant: a cut is made at a frame, not at a time: before a request was passed on, within it, after it,
//! or within the reply to it. What was passed on whole reaches the server before the end of the connection
//! does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Where a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    BeforeRequest,
    InRequest,
    AfterRequest,
    InReply,
    /// The connection stays, and nothing is passed on any more.
    Silence,
}

impl Cut {
    /// Those that end the connection.
    pub(crate) const ALL: [Cut; 4] = [Cut::BeforeRequest, Cut::InRequest, Cut::AfterRequest, Cut::InReply];
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    server: SocketAddr,
    /// What a request has in it that a cut is made at.
    marker: String,
    /// The cuts that are still to be made, each after that many requests that are let through.
    plan: Mutex<VecDeque<(usize, Cut)>>,
    made: AtomicUsize,
    refusing: AtomicBool,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, kind: &str, plan: &[(usize, Cut)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            marker: format!("\"type\":\"{kind}\""),
            plan: Mutex::new(plan.iter().copied().collect()),
            made: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Proxy { address, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether connections are hung up on as soon as they are made.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Cuts that were made.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// What to do with a request: nothing, or a cut.
    fn next(&self, payload: &[u8]) -> Option<Cut> {
        if !String::from_utf8_lossy(payload).contains(&self.marker) {
            return None;
        }
        let mut plan = self.plan.lock().unwrap();
        let (after, _) = plan.front_mut()?;
        if *after > 0 {
            *after -= 1;
            return None;
        }
        self.made.fetch_add(1, Ordering::SeqCst);
        plan.pop_front().map(|(_, cut)| cut)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if shared.refusing.load(Ordering::SeqCst) {
            continue;
        }
        let shared = Arc::clone(&shared);
        running.spawn(async move {
            let Ok(server) = TcpStream::connect(shared.server).await else { return };
            pass(&shared, client, server).await;
        });
    }
}

/// Passes frames on until one end is gone, or the plan says so.
async fn pass(shared: &Shared, mut client: TcpStream, mut server: TcpStream) {
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    if !head(&mut client, &mut server, &mut from_client).await
        || !head(&mut server, &mut client, &mut from_server).await
    {
        return;
    }
    let mut cut_reply = false;
    loop {
        while let Some(length) = frame(&from_client) {
            let bytes: Vec<u8> = from_client.drain(..length).collect();
            let cut = shared.next(&payload(&bytes));
            let passed = match cut {
                Some(Cut::BeforeRequest) => 0,
                Some(Cut::InRequest) => length / 2,
                _ => length,
            };
            if server.write_all(&bytes[..passed]).await.is_err() {
                return;
            }
            match cut {
                Some(Cut::InReply) => cut_reply = true,
                Some(Cut::Silence) => return std::future::pending().await,
                Some(_) => return hang_up(client, server).await,
                None => {}
            }
        }
        while let Some(length) = frame(&from_server) {
            let bytes: Vec<u8> = from_server.drain(..length).collect();
            let passed = if cut_reply { length / 2 } else { length };
            if client.write_all(&bytes[..passed]).await.is_err() {
                return;
            }
            if cut_reply {
                return hang_up(client, server).await;
            }
        }
        let read = tokio::select! {
            read = client.read_buf(&mut from_client) => read,
            read = server.read_buf(&mut from_server) => read,
        };
        if !read.is_ok_and(|read| read > 0) {
            return;
        }
    }
}

/// The client sees an end at once; the server reads what it was sent, and then sees one too.
async fn hang_up(client: TcpStream, mut server: TcpStream) {
    drop(client);
    let _ = server.shutdown().await;
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
}

/// Passes a head on; what follows it stays in the buffer.
async fn head(from: &mut TcpStream, to: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return to.write_all(&head).await.is_ok();
        }
        if !from.read_buf(buffer).await.is_ok_and(|read| read > 0) {
            return false;
        }
    }
}

/// Bytes of the first frame, if it is whole.
fn frame(bytes: &[u8]) -> Option<usize> {
    let (begin, length) = extent(bytes)?;
    (bytes.len() >= begin + length).then_some(begin + length)
}

/// Where the payload begins, and how long it is.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let second = *bytes.get(1)?;
    let (wide, length) = match second & 0x7f {
        126 => (2, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (8, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (0, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    Some((2 + wide + mask, usize::try_from(length).ok()?))
}

fn payload(frame: &[u8]) -> Vec<u8> {
    let Some((begin, _)) = extent(frame) else { return Vec::new() };
    let masked = frame[1] & 0x80 != 0;
    let key = if masked { &frame[begin - 4..begin] } else { &[0; 4] };
    frame[begin..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}
