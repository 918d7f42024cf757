//! [`MultiSession`]: one session of a connection.
//!
//! Invariant: with a resume, every request that changes the session carries a key, so that the server
//! runs it once however often it is sent.

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{ErrorCode, RawJson, ReplyKind, SessionSnapshot, Tool};
use serde_json::value::RawValue;

use super::Connection;
use super::frame::FrameWriter;
use super::reply::{ReplyEnvelope, invalid_reply, parse_data, parse_step};
use super::state::{
    OutgoingRequest, RequestScope, ServerReply, SessionCreation, SessionHandle, close_request, session_closed,
};
use crate::env_client::tools;
use crate::error::{ClientError, Code, Result};
use crate::options::{ResetOptions, StepOptions};
use crate::result::StepResult;

/// How much longer than its own deadline the client waits for the server's reply, which explains
/// more.
pub(super) const SERVER_REPLY_MARGIN: Duration = Duration::from_millis(500);

/// One session of a connection. Dropping it ends the session, unless it was attached to.
pub(crate) struct MultiSession {
    handle: SessionHandle,
    connection: Connection,
}

impl MultiSession {
    pub(super) fn new(hold: SessionHandle, connection: Connection) -> Self {
        MultiSession { handle: hold, connection }
    }

    /// The sessions that came with a reply of that kind.
    pub(super) fn from_reply(
        reply: ServerReply,
        kind: ReplyKind,
        connection: &Connection,
    ) -> Result<Vec<Self>> {
        let data = ReplyEnvelope::parse(&reply.text)?.data(kind)?;
        if reply.sessions.is_empty() {
            return Err(invalid_reply(data, "it names no session"));
        }
        Ok(reply.sessions.into_iter().map(|hold| MultiSession::new(hold, connection.clone())).collect())
    }

    pub(crate) async fn reset(&self, options: &ResetOptions, timeout: Duration) -> Result<StepResult> {
        let data = serde_json::to_string(options).map_err(|error| {
            ClientError::new(Code::InvalidOptions, format!("the reset's options: {error}"))
        })?;
        let request = self.request("reset", |frame, key| frame.with_text("key", key).with("data", &data));
        let reply = self.send(request, options.timeout.unwrap_or(timeout)).await?;
        parse_step(&reply.text)
    }

    pub(crate) async fn step(
        &self,
        action: RawJson,
        options: &StepOptions,
        timeout: Duration,
    ) -> Result<StepResult> {
        let limit = options.timeout.unwrap_or(timeout);
        let request = self.request("step", |frame, key| {
            frame
                .with_text("key", options.key.as_deref().or(key))
                .with_number("expected_step", options.expected_step)
                .with_deadline(limit)
                .with("data", action.get())
        });
        let reply = self.send(request, limit.saturating_add(SERVER_REPLY_MARGIN)).await?;
        parse_step(&reply.text)
    }

    pub(crate) async fn state(&self, timeout: Duration) -> Result<RawJson> {
        let reply = self.send(self.request("state", |frame, _| frame), timeout).await?;
        let data = ReplyEnvelope::parse(&reply.text)?.data(ReplyKind::State)?;
        RawValue::from_string(data.to_owned()).map_err(|error| invalid_reply(data, &error.to_string()))
    }

    pub(crate) async fn tools(&self, timeout: Duration) -> Result<Vec<Tool>> {
        let reply = self.send(self.request("tools", |frame, _| frame), timeout).await?;
        tools::parse_tools(ReplyEnvelope::parse(&reply.text)?.data(ReplyKind::Tools)?)
    }

    pub(crate) async fn fork(&self, n: usize, timeout: Duration) -> Result<Vec<MultiSession>> {
        let resume = self.handle.entry.resume;
        let mut request = self.request("fork", |frame, key| {
            let seconds = resume.map(|resume| format!(",\"resume_s\":{}", resume.as_secs_f64()));
            let data = format!("{{\"n\":{n}{}}}", seconds.unwrap_or_default());
            frame.with_text("key", key).with("data", &data)
        });
        request.creates = Some(SessionCreation { resume, owned: true });
        let reply = self.send(request, timeout).await?;
        MultiSession::from_reply(reply, ReplyKind::Forked, &self.connection)
    }

    pub(crate) async fn snapshot(&self, timeout: Duration) -> Result<String> {
        let reply = self.send(self.request("snapshot", |frame, _| frame), timeout).await?;
        let saved: SessionSnapshot =
            parse_data(ReplyEnvelope::parse(&reply.text)?.data(ReplyKind::Snapshot)?)?;
        Ok(saved.snapshot)
    }

    /// Ends the session and waits for that, even if it was attached to.
    pub(crate) async fn close(&self, timeout: Duration) -> Result<()> {
        let inner = &self.handle.inner;
        let asked = self.send(close_request(inner.next_id(), &self.handle.entry), timeout).await;
        let closed =
            asked.and_then(|reply| ReplyEnvelope::parse(&reply.text)?.data(ReplyKind::Closed).map(drop));
        match closed {
            Err(error) if !has_ended(&error) => Err(error),
            _ => {
                let _ = self.handle.entry.gone_error.set(session_closed(&self.handle.entry.id));
                Ok(())
            }
        }
    }

    pub(crate) fn session_id(&self) -> &str {
        &self.handle.entry.id
    }

    pub(crate) fn mcp_url(&self) -> &str {
        &self.handle.entry.mcp_url
    }

    pub(crate) fn agent_token(&self) -> Option<&str> {
        self.handle.entry.agent_token.as_deref()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether that connection has it.
    pub(crate) fn is_of(&self, connection: &Connection) -> bool {
        Arc::ptr_eq(&self.handle.inner, connection.inner())
    }

    /// Refuses a session that is gone.
    pub(crate) fn check_usable(&self) -> Result<()> {
        self.handle.entry.check_usable()
    }

    pub(super) fn handle(&self) -> &SessionHandle {
        &self.handle
    }

    /// A request about this session; `fill` gets the key that it is to carry if it has a resume.
    fn request(
        &self,
        kind: &str,
        fill: impl FnOnce(FrameWriter, Option<&str>) -> FrameWriter,
    ) -> OutgoingRequest {
        let entry = &self.handle.entry;
        let id = self.handle.inner.next_id();
        let key = entry.resume.map(|_| self.handle.inner.request_key(id));
        let frame = FrameWriter::request(id, kind).with("session", &entry.quoted_id);
        OutgoingRequest {
            id,
            text: fill(frame, key.as_deref()).finish(),
            resend_within: entry.resume,
            scope: RequestScope::Session(entry.clone()),
            creates: None,
            weight: 1,
        }
    }

    async fn send(&self, request: OutgoingRequest, limit: Duration) -> Result<ServerReply> {
        self.handle.inner.send(request, limit).await
    }
}

/// Whether a close that failed so found nothing to close.
fn has_ended(error: &ClientError) -> bool {
    matches!(error.code(), Code::Closed | Code::Server(ErrorCode::SessionEnded | ErrorCode::SessionNotFound))
}
