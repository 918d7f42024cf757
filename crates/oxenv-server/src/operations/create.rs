//! Sessions that a request makes, or takes from where they were.
//!
//! Invariant: a session that was made for a socket alone ends with that socket, also while it is still being
//! made; one with a time to resume within outlives it by that time. A repeat gets the first reply, whatever
//! happened to the sessions.

use std::time::Duration;

use oxenv_core::{Failure, IdempotentReply, OpenKey, Session, SessionIds, SessionOptions, SessionSource};
use oxenv_wire::{
    ErrorCode, ForkRequest, Forked, ReplyKind, RestoreRequest, Seconds, SessionCreate, SessionCreated,
    SessionProgress,
};
use serde_json::json;

use super::{ControlReply, RequestContext};

/// Sessions that were made for a request.
pub(crate) struct CreatedSessions {
    pub(crate) ids: SessionIds,
    /// The number of the last thing that the original of forks had done; else 0.
    pub(crate) seq: u64,
    /// Whether that was for an earlier request with the same key.
    pub(crate) repeated: bool,
}

impl RequestContext {
    pub(super) async fn open(
        &self,
        asked: &SessionCreate<'_>,
        key: Option<&str>,
    ) -> Result<ControlReply, Failure> {
        let made = self.create(asked, key).await?;
        self.opened(made, asked.resume_s)
    }

    pub(super) async fn restore(
        &self,
        asked: &RestoreRequest<'_>,
        key: Option<&str>,
    ) -> Result<ControlReply, Failure> {
        let made = self.create_restored(asked.clone(), key).await?;
        self.opened(made, asked.resume_s)
    }

    pub(super) async fn fork(
        &self,
        original: &str,
        asked: &ForkRequest,
        key: Option<&str>,
    ) -> Result<ControlReply, Failure> {
        let CreatedSessions { ids, seq, repeated } = self.create_forks(original, asked, key).await?;
        for id in &ids {
            self.keep(id, asked.resume_s);
        }
        let sessions = ids.iter().map(|id| self.created(id)).collect();
        let data = json!(Forked { sessions }).to_string();
        Ok(ControlReply { kind: ReplyKind::Forked, session: None, seq: Some(seq), repeated, data })
    }

    pub(super) fn attach(&self, id: &str) -> Result<ControlReply, Failure> {
        let Some(held) = &self.held else {
            return Err(Failure::unsupported("only a socket can attach to a session"));
        };
        let session = self.app.store.get(id)?;
        // One that was made for another socket lives on when this one goes.
        if !held.has(id) {
            held.take(&session, false);
        }
        Ok(ControlReply::about(&session, ReplyKind::Attached, &progress(&session)))
    }

    /// Makes a session.
    pub(crate) async fn create(
        &self,
        asked: &SessionCreate<'_>,
        key: Option<&str>,
    ) -> Result<CreatedSessions, Failure> {
        let options = SessionOptions {
            seed: asked.seed,
            episode_id: asked.episode_id.as_deref().map(str::to_owned),
            queue: asked.queue_s.map(Duration::from),
            ..self.options(asked.resume_s)
        };
        self.make(SessionSource::Environment, options, key).await
    }

    /// Makes a session of a snapshot.
    pub(crate) async fn create_restored(
        &self,
        asked: RestoreRequest<'_>,
        key: Option<&str>,
    ) -> Result<CreatedSessions, Failure> {
        let options = self.options(asked.resume_s);
        let source = SessionSource::Snapshot(asked.snapshot.into_owned());
        self.make(source, options, key).await
    }

    /// Makes sessions that go on from the state of another.
    pub(crate) async fn create_forks(
        &self,
        original: &str,
        asked: &ForkRequest,
        key: Option<&str>,
    ) -> Result<CreatedSessions, Failure> {
        let count = usize::try_from(asked.n).unwrap_or(usize::MAX);
        let found = self.session(original);
        let source = SessionSource::Fork { original: original.to_owned(), found, count };
        self.make(source, self.options(asked.resume_s), key).await
    }

    async fn make(
        &self,
        source: SessionSource,
        options: SessionOptions,
        key: Option<&str>,
    ) -> Result<CreatedSessions, Failure> {
        let ends_with_caller = self.held.is_some() && options.lease.is_none();
        let key = key.map(|key| OpenKey { key, ends_with_caller });
        let answer: IdempotentReply<SessionIds> = self.app.store.open(source, options, key).await;
        let (seq, repeated) = (answer.seq, answer.repeated);
        Ok(CreatedSessions { ids: answer.into_outcome()?, seq, repeated })
    }

    /// The reply about a session that was made for a client.
    pub(crate) fn created(&self, id: &str) -> SessionCreated {
        SessionCreated {
            session_id: id.to_owned(),
            mcp_url: mcp_url(self.host.as_deref(), id),
            agent_token: self.app.agent_token(id),
        }
    }

    fn opened(&self, made: CreatedSessions, resume_s: Option<Seconds>) -> Result<ControlReply, Failure> {
        let CreatedSessions { ids, seq, repeated } = made;
        let Some(id) = ids.into_iter().next() else {
            return Err(Failure::new(ErrorCode::SessionNotFound, "no session was made"));
        };
        self.keep(&id, resume_s);
        let data = json!(self.created(&id)).to_string();
        Ok(ControlReply { kind: ReplyKind::Opened, session: Some(id), seq: Some(seq), repeated, data })
    }

    /// Takes a session for the socket, if there is one. At a repeat it may have ended.
    fn keep(&self, id: &str, resume_s: Option<Seconds>) {
        if let Some(held) = &self.held
            && let Ok(session) = self.app.store.get(id)
        {
            held.take(&session, resume_s.is_none());
        }
    }

    fn options(&self, resume_s: Option<Seconds>) -> SessionOptions {
        SessionOptions { lease: resume_s.map(Duration::from), ..self.caller.options() }
    }
}

/// Where an agent finds a session's tools: absolute by the name that the client called us by.
fn mcp_url(host: Option<&str>, id: &str) -> String {
    match host {
        Some(host) => format!("http://{host}/sessions/{id}/mcp"),
        None => format!("/sessions/{id}/mcp"),
    }
}

/// Where a session is.
pub(crate) fn progress(session: &Session) -> SessionProgress {
    let info = session.info();
    SessionProgress {
        seq: info.seq,
        epoch: info.epoch,
        episode_id: info.episode_id,
        step_count: info.step_count,
        done: info.done,
    }
}
