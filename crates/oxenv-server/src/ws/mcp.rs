//! `WS /mcp`: JSON-RPC messages of the MCP dialect on a session of the socket's own, or on the one
//! that an agent's token is for.
//!
//! Invariant: whatever text arrives is answered with one JSON-RPC message.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::Request;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use oxenv_core::{EndReason, Failure, Session};
use oxenv_wire::{RpcCode, RpcError, RpcId, RpcRequest, write_rpc_error};

use super::socket::{self, Incoming, ServerSocket};
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{self, Refusal};
use crate::mcp::dialect;
use crate::mcp::endpoint::McpEndpoint;
use crate::operations;

pub(crate) fn upgrade(
    app: Arc<App>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: &Request,
) -> Response {
    match upgrade {
        Ok(upgrade) => {
            let shared = Arc::clone(&app);
            let peer = request.extensions().get().cloned().unwrap_or_default();
            socket::accept(app, upgrade, peer, |socket| serve(shared, caller, socket))
        }
        Err(refused) => Refusal::upgrade(&refused).into_response(),
    }
}

async fn serve(app: Arc<App>, caller: Caller, mut socket: ServerSocket) {
    let session = match socket.read_while(open(&app, &caller)).await {
        None => return,
        Some(Ok(session)) => session,
        Some(Err(failure)) => {
            socket.send(failed(RpcId::NULL, &failure)).await;
            return socket.close().await;
        }
    };
    // The session of an agent's token is not the socket's: it is neither taken from another socket
    // nor ended with this one.
    let attachment = caller.controls().then(|| session.attach());
    if let Some(attachment) = &attachment {
        socket.watch(attachment.superseded());
    }
    loop {
        let reply = match socket.next().await {
            Incoming::Gone | Incoming::Watched => break,
            Incoming::Stopping => {
                socket.close_stopping().await;
                break;
            }
            Incoming::Binary => {
                let message = "Parse error: binary frames are not part of this protocol; send JSON as text";
                Some(fault_text(&RpcError::new(RpcCode::ParseError, message)))
            }
            Incoming::Text(text) => match RpcRequest::parse(&text) {
                Ok(rpc) => {
                    let endpoint = McpEndpoint::socket(&caller, &session);
                    let work = AssertUnwindSafe(Box::pin(dialect::answer(&app, endpoint, None, &rpc)));
                    let answer = socket.read_while(work.catch_unwind()).await;
                    // A panic is the failure of its request alone.
                    answer.map(|answer| answer.unwrap_or_else(|_| failed(rpc.id, &operations::panicked())))
                }
                Err(fault) => Some(fault_text(&fault)),
            },
        };
        let Some(reply) = reply else { break };
        if !socket.send(reply).await {
            break;
        }
    }
    if attachment.is_some_and(|attachment| !attachment.is_superseded()) {
        session.end(EndReason::Closed);
    }
}

async fn open(app: &App, caller: &Caller) -> Result<Arc<Session>, Failure> {
    match caller.own_session(&app.store)? {
        Some(session) => Ok(session),
        None => app.store.create(caller.options()).await,
    }
}

fn failed(id: RpcId<'_>, failure: &Failure) -> String {
    let mut out = String::new();
    write_rpc_error(&mut out, id, &error::rpc(failure));
    out
}

fn fault_text(fault: &RpcError) -> String {
    let mut out = String::new();
    write_rpc_error(&mut out, RpcId::NULL, fault);
    out
}
