//! A client of `oxenv.1`, and servers of bundled environments for it.
//!
//! Invariant: a reply is found by its id, whatever came before it; what nobody asked for is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use oxenv_core::{
    CopySource, EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec, Failure,
    StoreLimits, Toolbox, Work,
};
use oxenv_server::ServerConfig;
use oxenv_test_support::{Ws, soon};
use oxenv_wire::MultiReply;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::served::Served;
use crate::stage::Stage;

/// A socket of many sessions.
pub(crate) struct Multi {
    pub(crate) ws: Ws,
    sent: u64,
    /// Frames that came while another was waited for.
    others: VecDeque<Value>,
}

impl Multi {
    pub(crate) async fn connect(served: &Served) -> Self {
        let (ws, chosen) = offer(served, "/ws", "oxenv.1").await;
        assert_eq!(chosen.as_deref(), Some("oxenv.1"));
        Multi { ws, sent: 0, others: VecDeque::new() }
    }

    /// Sends a request and gives the id that it got.
    pub(crate) async fn send(&mut self, mut request: Value) -> u64 {
        self.sent += 1;
        request["id"] = json!(self.sent);
        self.ws.send(&request).await;
        self.sent
    }

    /// The next frame, which is one that a client can read.
    pub(crate) async fn recv(&mut self) -> Value {
        if let Some(frame) = self.others.pop_front() {
            return frame;
        }
        self.fresh().await
    }

    /// The reply to the request of that id.
    pub(crate) async fn reply(&mut self, id: u64) -> Value {
        if let Some(at) = self.others.iter().position(|frame| frame["id"] == id) {
            return self.others.remove(at).unwrap();
        }
        loop {
            let frame = self.fresh().await;
            if frame["id"] == id {
                return frame;
            }
            self.others.push_back(frame);
        }
    }

    pub(crate) async fn ask(&mut self, request: Value) -> Value {
        let id = self.send(request).await;
        self.reply(id).await
    }

    /// Opens a session that ends with the socket, and gives its id.
    pub(crate) async fn open(&mut self) -> String {
        self.open_with(json!({})).await
    }

    pub(crate) async fn open_with(&mut self, data: Value) -> String {
        let reply = self.ask(json!({ "type": "open", "data": data })).await;
        assert_eq!(reply["type"], "opened", "{reply}");
        reply["session"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn step(&mut self, session: &str, action: Value) -> Value {
        self.ask(step(session, action)).await
    }

    async fn fresh(&mut self) -> Value {
        let frame = self.ws.recv().await;
        serde_json::from_value::<MultiReply>(frame.clone())
            .unwrap_or_else(|error| panic!("{error}: {frame}"));
        frame
    }
}

/// A step's frame, without its id.
pub(crate) fn step(session: &str, action: Value) -> Value {
    let mut frame = json!({ "type": "step", "session": session });
    frame["data"] = action;
    frame
}

/// The code of a reply of the type `error`.
#[track_caller]
pub(crate) fn refused(reply: &Value) -> &str {
    assert_eq!(reply["type"], "error", "{reply}");
    assert!(reply["data"].get("reward").is_none() && reply["data"]["message"].is_string(), "{reply}");
    reply["data"]["code"].as_str().unwrap()
}

/// Connects with an offer of subprotocols, and gives the one that was chosen.
pub(crate) async fn offer(served: &Served, path: &str, protocols: &str) -> (Ws, Option<String>) {
    let stream = TcpStream::connect(served.address).await.unwrap();
    let mut request = format!("ws://{}{path}", served.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let limits = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let (socket, response) =
        soon(tokio_tungstenite::client_async_with_config(request, stream, Some(limits))).await.unwrap();
    let chosen =
        response.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
    (Ws(socket), chosen)
}

/// A server of a bundled environment.
pub(crate) async fn serve_bundled(factory: Arc<dyn EnvironmentFactory>) -> Served {
    Served::start(&Stage::default(), Bundled(factory), StoreLimits::default(), ServerConfig::default()).await
}

struct Bundled(Arc<dyn EnvironmentFactory>);

impl EnvironmentFactory for Bundled {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        self.0.spec()
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        self.0.create(boot)
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        self.0.fork(boot, original)
    }

    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        self.0.save(original)
    }

    fn restore<'a>(
        &'a self,
        boot: EnvironmentContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        self.0.restore(boot, saved)
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        self.0.server_tools()
    }
}
