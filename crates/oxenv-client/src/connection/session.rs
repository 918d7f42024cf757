//! [`MultiSession`]: one session of a connection.
//!
//! Invariant: with a resume, whatever changes the session carries a key, so that the server runs it once however
//! often it is sent.

use std::time::Duration;

use oxenv_wire::{ErrorCode, RawJson, ReplyKind, SessionSnapshot, Tool};
use serde_json::value::RawValue;

use super::Connection;
use super::frame::Frame;
use super::reply::{Envelope, invalid, parsed, step};
use super::state::{Hold, Making, Reply, Request, Whose, close, closed};
use crate::env_client::tools;
use crate::error::{ClientError, Code, Result};
use crate::options::{ResetOptions, StepOptions};
use crate::result::StepResult;

/// After its own deadline the client waits that long for the server's word about it, which knows more.
pub(super) const LAST_WORD: Duration = Duration::from_millis(500);

/// One session of a connection. Dropping it ends the session, unless it was attached to.
pub(crate) struct MultiSession {
    hold: Hold,
    connection: Connection,
}

impl MultiSession {
    pub(super) fn new(hold: Hold, connection: Connection) -> Self {
        MultiSession { hold, connection }
    }

    /// The sessions that came with a reply of that kind.
    pub(super) fn of_reply(reply: Reply, kind: ReplyKind, connection: &Connection) -> Result<Vec<Self>> {
        let data = Envelope::read(&reply.text)?.data(kind)?;
        if reply.holds.is_empty() {
            return Err(invalid(data, "it names no session"));
        }
        Ok(reply.holds.into_iter().map(|hold| MultiSession::new(hold, connection.clone())).collect())
    }

    pub(crate) async fn reset(&self, options: &ResetOptions, timeout: Duration) -> Result<StepResult> {
        let data = serde_json::to_string(options).map_err(|error| {
            ClientError::new(Code::InvalidOptions, format!("the reset's options: {error}"))
        })?;
        let request = self.request("reset", |frame, key| frame.with_text("key", key).with("data", &data));
        let reply = self.ask(request, options.timeout.unwrap_or(timeout)).await?;
        step(&reply.text)
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
        let reply = self.ask(request, limit.saturating_add(LAST_WORD)).await?;
        step(&reply.text)
    }

    pub(crate) async fn state(&self, timeout: Duration) -> Result<RawJson> {
        let reply = self.ask(self.request("state", |frame, _| frame), timeout).await?;
        let data = Envelope::read(&reply.text)?.data(ReplyKind::State)?;
        RawValue::from_string(data.to_owned()).map_err(|error| invalid(data, &error.to_string()))
    }

    pub(crate) async fn tools(&self, timeout: Duration) -> Result<Vec<Tool>> {
        let reply = self.ask(self.request("tools", |frame, _| frame), timeout).await?;
        tools::listed(Envelope::read(&reply.text)?.data(ReplyKind::Tools)?)
    }

    pub(crate) async fn fork(&self, n: usize, timeout: Duration) -> Result<Vec<MultiSession>> {
        let resume = self.hold.kept.resume;
        let mut request = self.request("fork", |frame, key| {
            let seconds = resume.map(|resume| format!(",\"resume_s\":{}", resume.as_secs_f64()));
            let data = format!("{{\"n\":{n}{}}}", seconds.unwrap_or_default());
            frame.with_text("key", key).with("data", &data)
        });
        request.makes = Some(Making { resume, owned: true });
        let reply = self.ask(request, timeout).await?;
        MultiSession::of_reply(reply, ReplyKind::Forked, &self.connection)
    }

    pub(crate) async fn snapshot(&self, timeout: Duration) -> Result<String> {
        let reply = self.ask(self.request("snapshot", |frame, _| frame), timeout).await?;
        let saved: SessionSnapshot = parsed(Envelope::read(&reply.text)?.data(ReplyKind::Snapshot)?)?;
        Ok(saved.snapshot)
    }

    /// Ends the session and waits for that, even if it was attached to.
    pub(crate) async fn close(&self, timeout: Duration) -> Result<()> {
        let link = &self.hold.link;
        let asked = self.ask(close(link.id(), &self.hold.kept), timeout).await;
        let told = asked.and_then(|reply| Envelope::read(&reply.text)?.data(ReplyKind::Closed).map(drop));
        match told {
            Err(error) if !has_ended(&error) => Err(error),
            _ => {
                let _ = self.hold.kept.gone.set(closed(&self.hold.kept.id));
                Ok(())
            }
        }
    }

    pub(crate) fn session_id(&self) -> &str {
        &self.hold.kept.id
    }

    pub(crate) fn mcp_url(&self) -> &str {
        &self.hold.kept.mcp_url
    }

    pub(crate) fn agent_token(&self) -> Option<&str> {
        self.hold.kept.agent_token.as_deref()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn hold(&self) -> &Hold {
        &self.hold
    }

    /// A request about this session; `fill` gets the key that it is to carry if it has a resume.
    fn request(&self, kind: &str, fill: impl FnOnce(Frame, Option<&str>) -> Frame) -> Request {
        let kept = &self.hold.kept;
        let id = self.hold.link.id();
        let key = kept.resume.map(|_| self.hold.link.key(id));
        let frame = Frame::request(id, kind).with("session", &kept.quoted);
        Request {
            id,
            text: fill(frame, key.as_deref()).end(),
            again: kept.resume,
            whose: Whose::One(kept.clone()),
            makes: None,
            weight: 1,
        }
    }

    async fn ask(&self, request: Request, limit: Duration) -> Result<Reply> {
        self.hold.link.ask(request, limit).await
    }
}

/// Whether a close that failed so found nothing to close.
fn has_ended(error: &ClientError) -> bool {
    matches!(error.code(), Code::Closed | Code::Server(ErrorCode::SessionEnded | ErrorCode::SessionNotFound))
}
