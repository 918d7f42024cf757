//! A WebSocket client without a runtime, which sees how its socket ends.
//!
//! Invariant: every wait has an end.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::frame::masked_frame;
use crate::wait::WAIT_TIMEOUT;

/// A socket that is open.
pub struct BlockingSocket(BufReader<TcpStream>);

/// What a socket brings.
#[derive(Debug)]
pub enum Received {
    /// A text frame.
    Frame(Value),
    /// The other side's goodbye: the code and the reason.
    Closed(u16, String),
    /// The end of the connection without one.
    Lost,
}

impl BlockingSocket {
    /// A socket of one session, or of many with the subprotocol `oxenv.1`.
    pub fn open(address: SocketAddr, protocol: Option<&str>) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        let protocol = protocol.map(|name| format!("sec-websocket-protocol: {name}\r\n")).unwrap_or_default();
        write!(
            stream,
            "GET /ws HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n{protocol}\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 101 ") {
            return Err(io::Error::other(format!("no WebSocket: {line}")));
        }
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(BlockingSocket(stream))
    }

    /// A socket of many sessions.
    pub fn many(address: SocketAddr) -> io::Result<Self> {
        Self::open(address, Some("oxenv.1"))
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Value) -> io::Result<()> {
        self.0.get_mut().write_all(&masked_frame(0x81, frame.to_string().as_bytes()))
    }

    /// Waits for what the socket brings next.
    pub fn receive(&mut self) -> Received {
        loop {
            let Ok((first, payload)) = self.frame() else { return Received::Lost };
            match first {
                0x81 => return Received::Frame(serde_json::from_slice(&payload).unwrap()),
                0x88 => {
                    // The other side waits for ours.
                    let _ = self.0.get_mut().write_all(&masked_frame(0x88, &payload));
                    let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    return Received::Closed(code, reason);
                }
                0x89 => {
                    // A socket that cannot be written to says so at the next read.
                    let _ = self.0.get_mut().write_all(&masked_frame(0x8a, &payload));
                }
                _ => {}
            }
        }
    }

    /// Sends a text and gives the next, which must come, as it is.
    #[track_caller]
    pub fn ask_text(&mut self, text: &str) -> String {
        self.0.get_mut().write_all(&masked_frame(0x81, text.as_bytes())).unwrap();
        loop {
            match self.frame().unwrap() {
                (0x81, payload) => return String::from_utf8(payload).unwrap(),
                (0x89, payload) => self.0.get_mut().write_all(&masked_frame(0x8a, &payload)).unwrap(),
                other => panic!("no reply: {other:?}"),
            }
        }
    }

    /// Sends a frame and gives the next, which must come.
    #[track_caller]
    pub fn ask(&mut self, frame: &Value) -> Value {
        self.send(frame).unwrap();
        match self.receive() {
            Received::Frame(reply) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    /// Makes a session on a socket of many.
    pub fn session(&mut self) -> Option<String> {
        self.send(&json!({ "id": "open", "type": "open" })).ok()?;
        match self.receive() {
            Received::Frame(opened) => opened["session"].as_str().map(str::to_owned),
            _ => None,
        }
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length)?;
                usize::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.0.read_exact(&mut length)?;
                usize::try_from(u64::from_be_bytes(length)).map_err(io::Error::other)?
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }
}
