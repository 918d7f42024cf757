//! The bare WebSocket responder.
//!
//! One task per socket. The buffers are small, as in a server with many idle sessions.

use std::io;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use crate::payload::{self, Frame};

const BUFFER: usize = 1024;

/// Answers every socket until the process is ended.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // An error means that the client is gone.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(stream: TcpStream) -> Result<(), Error> {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let mut socket: WebSocketStream<TcpStream> = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let reply = match reply(text.as_str()) {
            Ok(Some(reply)) => Message::text(reply),
            Ok(None) => Message::Close(None),
            Err(error) => Message::text(format!(r#"{{"type":"error","data":{{"message":"{error}"}}}}"#)),
        };
        socket.send(reply).await?;
    }
    Ok(())
}

/// The reply to a frame; `None` if it asks to close.
fn reply(text: &str) -> serde_json::Result<Option<String>> {
    let frame: Frame<'_> = serde_json::from_str(text)?;
    match &*frame.kind {
        "step" => frame.data.as_ref().map(payload::frame).transpose(),
        "reset" => Ok(Some(payload::RESET.to_owned())),
        _ => Ok(None),
    }
}
