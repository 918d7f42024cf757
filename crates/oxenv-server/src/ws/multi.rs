//! `WS /ws` with the subprotocol `oxenv.1`: one socket, many sessions, several requests in flight.
//!
//! Invariant: each request is begun in the order of its arrival, so requests of one session run in that
//! order, and answered as soon as it is done. When the socket goes, what is in flight goes with it,
//! unless it has a key or a number.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::ws::Utf8Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oxenv_wire::{
    BatchRequest, ErrorCode, FrameError, Json, MultiFrame, MultiWork, ReplyHead, ReplyKind, write_multi_reply,
};

use super::socket::{Incoming, ServerSocket, SocketEvent};
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error;
use crate::load::Load;
use crate::operations::{RequestContext, RunningBatch, SocketSessions, write_outcome};

/// What to do when a frame has been worked on.
enum AfterFrame {
    Reply(String),
    /// Reply, then close.
    Last(String),
    /// It was answered in parts.
    Sent,
}

type RunningFrames = FuturesUnordered<Pin<Box<dyn Future<Output = AfterFrame> + Send>>>;

pub(super) async fn serve(app: Arc<App>, caller: Caller, host: Option<String>, mut socket: ServerSocket) {
    let (held, mut frames) = SocketSessions::new();
    let context = Arc::new(RequestContext { app, caller, host, held: Some(Arc::clone(&held)) });
    let load = Arc::new(Load::default());
    let (of_socket, work) = (Arc::downgrade(&held), Arc::downgrade(&load));
    socket.peer().useless_when(move || {
        of_socket.upgrade().is_none_or(|held| held.is_empty())
            && work.upgrade().is_none_or(|load| load.is_empty())
    });
    let mut running = RunningFrames::new();
    let mut stopping = false;
    loop {
        if stopping && running.is_empty() && frames.is_empty() {
            return socket.close_stopping().await;
        }
        let turn = socket.turn(!stopping && load.has_room(), |context| {
            if let Poll::Ready(Some(next)) = running.poll_next_unpin(context) {
                return Poll::Ready(next);
            }
            match frames.poll_recv(context) {
                Poll::Ready(Some(frame)) => Poll::Ready(AfterFrame::Reply(frame)),
                _ => Poll::Pending,
            }
        });
        let next = match turn.await {
            SocketEvent::Done(next) => next,
            SocketEvent::ToldToEnd if held.is_empty() && running.is_empty() => {
                context.app.accepted.ends();
                return socket.close_for_another().await;
            }
            SocketEvent::ToldToEnd => {
                socket.peer().stays();
                continue;
            }
            SocketEvent::Came(Incoming::Text(text)) => {
                let mut work = Box::pin(answer(Arc::clone(&context), Arc::clone(&load), text));
                match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
                    Poll::Ready(next) => next,
                    Poll::Pending => {
                        running.push(work);
                        continue;
                    }
                }
            }
            SocketEvent::Came(Incoming::Binary) => {
                let message = "binary frames are not part of this protocol: send JSON as text";
                AfterFrame::Last(refusal(message))
            }
            SocketEvent::Came(Incoming::Stopping) => {
                stopping = true;
                continue;
            }
            SocketEvent::Came(Incoming::Watched) => continue,
            SocketEvent::Came(Incoming::Gone) => return,
        };
        let sent = match next {
            AfterFrame::Reply(reply) => socket.feed(reply).await,
            AfterFrame::Last(reply) => {
                socket.send(reply).await;
                return socket.close().await;
            }
            AfterFrame::Sent => true,
        };
        if !sent {
            return;
        }
    }
}

async fn answer(context: Arc<RequestContext>, load: Arc<Load>, text: Utf8Bytes) -> AfterFrame {
    let frame = match MultiFrame::parse(&text) {
        Ok(frame) => frame,
        Err(fault) => {
            let last = matches!(fault.fault, FrameError::NotObject(_));
            let mut reply = String::new();
            let id = Some(fault.id.unwrap_or(Json::NULL));
            error::multi(&mut reply, &ReplyHead { id, ..ReplyHead::default() }, &error::unread(fault.fault));
            return if last { AfterFrame::Last(reply) } else { AfterFrame::Reply(reply) };
        }
    };
    let id = frame.id;
    match frame.work {
        MultiWork::One(request) => {
            let _in_flight = load.add(1, text.len());
            let started = context.begin(&request, None);
            let outcome = context.finish(&request, started).await;
            let session = Some(&*request.session).filter(|session| !session.is_empty());
            let mut reply = String::new();
            write_outcome(&mut reply, ReplyHead { id: Some(id), session, ..ReplyHead::default() }, &outcome);
            AfterFrame::Reply(reply)
        }
        MultiWork::Batch(request) => {
            let _in_flight = load.add(request.len(), text.len());
            answer_batch(&context, id, &request).await
        }
    }
}

async fn answer_batch(context: &RequestContext, id: Json<'_>, request: &BatchRequest<'_>) -> AfterFrame {
    let mut batch = RunningBatch::begin(context, request).await;
    let wanted = request.first.unwrap_or(request.len());
    while batch.ready() < wanted && batch.next().await.is_some() {}
    let head = ReplyHead { id: Some(id), ..ReplyHead::default() };
    let mut reply = String::new();
    write_multi_reply(&mut reply, &head, ReplyKind::Batch, |out| batch.write(out, request.first.is_some()));
    let Some(held) = context.held.as_ref().filter(|_| !batch.is_over()) else {
        return AfterFrame::Reply(reply);
    };
    held.send(reply).await;
    while let Some(index) = batch.next().await {
        let mut more = String::new();
        write_multi_reply(&mut more, &head, ReplyKind::BatchMore, |out| {
            out.push_str(&format!("{{\"index\":{index},\"result\":"));
            out.push_str(batch.result(index).unwrap_or("null"));
            out.push_str(if batch.is_over() { ",\"last\":true}" } else { "}" });
        });
        held.send(more).await;
    }
    AfterFrame::Sent
}

fn refusal(message: &str) -> String {
    let mut reply = String::new();
    let head = ReplyHead { id: Some(Json::NULL), ..ReplyHead::default() };
    error::multi(&mut reply, &head, &oxenv_core::Failure::new(ErrorCode::SessionError, message));
    reply
}
