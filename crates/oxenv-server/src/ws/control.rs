//! `WS /ws`: one socket, one session.
//!
//! Invariant: a session that the socket made is closed with it, unless another socket has taken it
//! over; one that it attached to is given back. In production the socket is an agent's: it lists and calls
//! tools and sees no reward.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use oxenv_core::render::{self, Envelope};
use oxenv_core::{
    ActionSpace, AgentCall, Attachment, CallReply, EndReason, Failure, Principal, Session, SessionRequest,
    StepReply,
};
use oxenv_wire::{
    Action, ClientFrame, ErrorCode, FrameError, Json, MULTI_PROTOCOL, Object, ResetRequest, RpcId,
    RpcRequest, ToolCall, default_call, write_mcp_frame, write_rpc_error, write_state_frame,
};
use serde::Deserialize;

use super::multi;
use super::socket::{self, Incoming, ServerSocket};
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{self, Refusal, frame_fault, session_error};
use crate::http::{InQuery, fallback};
use crate::mcp::dialect;
use crate::mcp::endpoint::McpEndpoint;
use crate::operations;
use crate::peer::Peer;

#[derive(Deserialize)]
pub(crate) struct AttachQuery {
    session_id: Option<String>,
}

pub(crate) async fn upgrade(
    State(app): State<Arc<App>>,
    caller: Caller,
    InQuery(query): InQuery<AttachQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: axum::extract::Request,
) -> Response {
    let session_id = match caller.session_for(query.session_id) {
        Ok(session_id) => session_id,
        Err(failure) => return Refusal::from(failure).into_response(),
    };
    match upgrade {
        Err(refused) if fallback::wants_websocket(request.headers()) => {
            Refusal::upgrade(&refused).into_response()
        }
        Ok(upgrade) => {
            let shared = Arc::clone(&app);
            let peer = request.extensions().get().cloned().unwrap_or_default();
            // An agent's socket has one session, so it cannot have the protocol for many.
            let protocols: &[&'static str] = if app.production() { &[] } else { &[MULTI_PROTOCOL] };
            let upgrade = upgrade.protocols(protocols.iter().copied());
            if upgrade.selected_protocol().is_some() {
                return many(app, caller, upgrade, peer, session_id.as_deref(), request.headers());
            }
            socket::accept(app, upgrade, peer, |socket| serve(shared, caller, socket, session_id))
        }
        Err(_) => fallback::not_found(request).await,
    }
}

/// A socket of many sessions.
fn many(
    app: Arc<App>,
    caller: Caller,
    upgrade: WebSocketUpgrade,
    peer: Peer,
    session_id: Option<&str>,
    headers: &HeaderMap,
) -> Response {
    if session_id.is_some() {
        let detail = "a socket of oxenv.1 names its sessions in its frames: leave session_id out, and attach";
        return Refusal::Status(StatusCode::BAD_REQUEST, detail.to_owned()).into_response();
    }
    let host = operations::host(headers);
    let shared = Arc::clone(&app);
    socket::accept(app, upgrade, peer, |socket| multi::serve(shared, caller, host, socket))
}

/// A session in the hands of a socket.
struct ControlSession {
    caller: Caller,
    attachment: Attachment,
    owned: bool,
    /// The session was replaced, so the new one has to be watched for a takeover.
    renewed: bool,
}

impl ControlSession {
    fn session(&self) -> &Arc<Session> {
        self.attachment.session()
    }
}

impl Drop for ControlSession {
    fn drop(&mut self) {
        if self.owned && !self.attachment.is_superseded() {
            self.session().end(EndReason::Closed);
        }
    }
}

/// What to do after an answer.
enum AfterReply {
    Reply(String),
    /// Reply, then close.
    Last(String),
    Close,
}

async fn serve(app: Arc<App>, caller: Caller, mut socket: ServerSocket, session_id: Option<String>) {
    let mut hold = match socket.read_while(open(&app, caller, session_id)).await {
        None => return,
        Some(Ok(hold)) => hold,
        Some(Err(failure)) => {
            socket.send(error::frame(&failure)).await;
            return socket.close().await;
        }
    };
    loop {
        if std::mem::take(&mut hold.renewed) {
            socket.watch(hold.attachment.superseded());
        }
        let text = match socket.next().await {
            Incoming::Text(text) => text,
            Incoming::Watched => {
                let mut frame = String::new();
                session_error(&mut frame, "another socket has attached to this session");
                socket.send(frame).await;
                return socket.close().await;
            }
            Incoming::Gone => return,
            Incoming::Stopping => return socket.close_stopping().await,
            Incoming::Binary => {
                let mut frame = String::new();
                session_error(&mut frame, "binary frames are not part of this protocol: send JSON as text");
                socket.send(frame).await;
                return socket.close().await;
            }
        };
        // Boxed, because a step's future is kilobytes: on the heap those are the same warm ones for
        // every session, within this task they would be each session's own cold ones.
        let work = AssertUnwindSafe(Box::pin(answer(&app, &mut hold, &text)));
        let next = socket.read_while(work.catch_unwind()).await;
        let sent = match next {
            None => return,
            // A panic is the failure of its request alone; one of an environment is a failure of its session.
            Some(Err(_)) => socket.send(error::frame(&operations::panicked())).await,
            Some(Ok(AfterReply::Reply(reply))) => socket.send(reply).await,
            Some(Ok(AfterReply::Last(reply))) => {
                socket.send(reply).await;
                return socket.close().await;
            }
            Some(Ok(AfterReply::Close)) => return socket.close().await,
        };
        if !sent {
            return;
        }
    }
}

async fn open(app: &App, caller: Caller, session_id: Option<String>) -> Result<ControlSession, Failure> {
    match session_id {
        Some(id) => {
            let session = app.store.get(&id)?;
            Ok(ControlSession { caller, attachment: session.attach(), owned: false, renewed: true })
        }
        None => {
            let session = app.store.create(caller.options()).await?;
            Ok(ControlSession { caller, attachment: session.attach(), owned: true, renewed: true })
        }
    }
}

async fn answer(app: &App, hold: &mut ControlSession, text: &str) -> AfterReply {
    let frame = match ClientFrame::parse(text) {
        Ok(frame) => frame,
        Err(fault @ FrameError::NotObject(_)) => return AfterReply::Last(frame_fault(fault)),
        Err(fault) => return AfterReply::Reply(frame_fault(fault)),
    };
    let reply = match frame {
        ClientFrame::Close => return AfterReply::Close,
        ClientFrame::Mcp(message) => {
            Ok(mcp_frame(app, McpEndpoint::socket(&hold.caller, hold.session()), message).await)
        }
        ClientFrame::Step(action) if app.production() => step_as_agent(hold.session(), &action).await,
        ClientFrame::Reset(_) | ClientFrame::State if app.production() => Err(refused()),
        ClientFrame::Step(action) => step(hold.session(), &action).await,
        ClientFrame::Reset(request) => reset(app, hold, request).await,
        ClientFrame::State => state(hold.session()).await,
    };
    match reply {
        Ok(reply) => AfterReply::Reply(reply),
        Err(failure) if failure.code == ErrorCode::SessionEnded => AfterReply::Last(error::frame(&failure)),
        Err(failure) => AfterReply::Reply(error::frame(&failure)),
    }
}

/// A socket whose own session has failed gets a new one by a reset; an attached one does not, for
/// others may hold the session's id.
async fn reset(app: &App, hold: &mut ControlSession, request: ResetRequest<'_>) -> Result<String, Failure> {
    if hold.owned && hold.session().ended().is_some() {
        *hold = open(app, hold.caller.clone(), None).await?;
    }
    let request = SessionRequest::reset(operations::reset(&request));
    let reply = hold.session().submit(request).await.into_outcome()?;
    Ok(render::step(&reply, Envelope::Frame))
}

async fn step(session: &Arc<Session>, action: &Object<'_>) -> Result<String, Failure> {
    let action = session.spec().read_action(action).map_err(Failure::invalid)?;
    let reply = session.submit(SessionRequest::step(action)).await.into_outcome()?;
    Ok(render::step(&reply, Envelope::Frame))
}

async fn state(session: &Arc<Session>) -> Result<String, Failure> {
    let mut frame = String::new();
    write_state_frame(&mut frame, &session.state().await?);
    Ok(frame)
}

async fn step_as_agent(session: &Arc<Session>, action: &Object<'_>) -> Result<String, Failure> {
    let call = match Action::from_object(action).map_err(Failure::invalid)? {
        Action::ListTools(spelling) => {
            let listed = session.submit(SessionRequest::list(Principal::Agent)).await.into_outcome()?;
            let reply = match listed {
                StepReply::Tools(_, listing) => StepReply::Tools(spelling, listing),
                other => other,
            };
            return Ok(render::step(&reply, Envelope::Frame));
        }
        Action::CallTool(call) => call,
        Action::Typed(action) if session.spec().action_space == ActionSpace::Tools => {
            default_call(action).map_err(|_| refused())?
        }
        _ => return Err(refused()),
    };
    let ToolCall { spelling, name, arguments } = call;
    let call = AgentCall { name, arguments, ..AgentCall::default() };
    let reply = match session.submit(SessionRequest::call(call)).await.into_outcome()? {
        StepReply::Call { name, reply, .. } => {
            let reply = CallReply { reward: None, metadata: None, ..reply };
            StepReply::Call { spelling, name, reply }
        }
        other => other,
    };
    Ok(render::step(&reply, Envelope::Frame))
}

async fn mcp_frame(app: &App, endpoint: McpEndpoint<'_>, message: Json<'_>) -> String {
    let mut reply = String::new();
    match RpcRequest::parse(message.get()) {
        Ok(rpc) => reply = dialect::answer(app, endpoint, None, &rpc).await,
        Err(fault) => write_rpc_error(&mut reply, RpcId::NULL, &fault),
    }
    let mut frame = String::with_capacity(reply.len() + 24);
    write_mcp_frame(&mut frame, |out| out.push_str(&reply));
    frame
}

fn refused() -> Failure {
    let message = "this server runs in production mode: only list_tools and call_tool are taken here";
    Failure::new(ErrorCode::ModeRefused, message)
}
