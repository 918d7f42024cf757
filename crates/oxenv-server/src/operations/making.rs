//! Sessions that a request makes, or takes from where they were.
//!
//! Invariant: a session that was made for a socket alone ends with that socket; one with a time to
//! resume within outlives it by that time.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Answer, Failure, Session, SessionIds, SessionOptions, SessionSource};
use oxenv_wire::{
    ErrorCode, ForkRequest, Forked, ReplyKind, RestoreRequest, Seconds, SessionCreate, SessionCreated,
    SessionProgress,
};
use serde_json::json;

use super::{Desk, Told};

/// Sessions that were made for a request.
pub(crate) struct Made {
    pub(crate) ids: SessionIds,
    /// Whether that was for an earlier request with the same key.
    pub(crate) repeated: bool,
}

impl Desk {
    pub(super) async fn open(&self, asked: &SessionCreate<'_>, key: Option<&str>) -> Result<Told, Failure> {
        let Made { ids, repeated } = self.create(asked, key).await?;
        self.opened(&ids, repeated, asked.resume_s)
    }

    pub(super) async fn restore(
        &self,
        asked: &RestoreRequest<'_>,
        key: Option<&str>,
    ) -> Result<Told, Failure> {
        let Made { ids, repeated } = self.create_restored(asked.clone(), key).await?;
        self.opened(&ids, repeated, asked.resume_s)
    }

    pub(super) async fn fork(
        &self,
        session: &Arc<Session>,
        asked: &ForkRequest,
        key: Option<&str>,
    ) -> Result<Told, Failure> {
        let Made { ids, repeated } = self.create_forks(session, asked, key).await?;
        for id in &ids {
            // A repeat may come when some of them have ended.
            if let Ok(fork) = self.app.store.get(id) {
                self.keep(&fork, asked.resume_s);
            }
        }
        let sessions = ids.iter().map(|id| self.created(id)).collect();
        let told = Told::about(session, ReplyKind::Forked, &Forked { sessions });
        Ok(Told { repeated, ..told })
    }

    pub(super) fn attach(&self, id: &str) -> Result<Told, Failure> {
        let Some(held) = &self.held else {
            return Err(Failure::unsupported("only a socket can attach to a session"));
        };
        let session = self.app.store.get(id)?;
        // One that was made for another socket lives on when this one goes.
        if !held.has(id) {
            held.take(&session, false);
        }
        Ok(Told::about(&session, ReplyKind::Attached, &progress(&session)))
    }

    /// Makes a session.
    pub(crate) async fn create(&self, asked: &SessionCreate<'_>, key: Option<&str>) -> Result<Made, Failure> {
        let options = SessionOptions {
            seed: asked.seed,
            episode_id: asked.episode_id.as_deref().map(str::to_owned),
            queue: asked.queue_s.map(Duration::from),
            ..self.options(asked.resume_s)
        };
        made(self.app.store.open(SessionSource::Environment, options, key).await)
    }

    /// Makes a session of a snapshot.
    pub(crate) async fn create_restored(
        &self,
        asked: RestoreRequest<'_>,
        key: Option<&str>,
    ) -> Result<Made, Failure> {
        let options = self.options(asked.resume_s);
        let source = SessionSource::Snapshot(asked.snapshot.into_owned());
        made(self.app.store.open(source, options, key).await)
    }

    /// Makes sessions that go on from the state of another.
    pub(crate) async fn create_forks(
        &self,
        session: &Arc<Session>,
        asked: &ForkRequest,
        key: Option<&str>,
    ) -> Result<Made, Failure> {
        let count = usize::try_from(asked.n).unwrap_or(usize::MAX);
        let source = SessionSource::Fork { of: Arc::clone(session), count };
        made(self.app.store.open(source, self.options(asked.resume_s), key).await)
    }

    /// What a client is told about a session that was made for it.
    pub(crate) fn created(&self, id: &str) -> SessionCreated {
        SessionCreated {
            session_id: id.to_owned(),
            mcp_url: mcp_url(self.host.as_deref(), id),
            agent_token: self.app.agent_token(id),
        }
    }

    fn opened(&self, ids: &[String], repeated: bool, resume_s: Option<Seconds>) -> Result<Told, Failure> {
        let Some(id) = ids.first() else {
            return Err(Failure::new(ErrorCode::SessionNotFound, "no session was made"));
        };
        let session = self.app.store.get(id)?;
        self.keep(&session, resume_s);
        let data = json!(self.created(id)).to_string();
        let session_id = Some(id.clone());
        Ok(Told { session: session_id, repeated, ..Told::text(&session, ReplyKind::Opened, data) })
    }

    fn keep(&self, session: &Arc<Session>, resume_s: Option<Seconds>) {
        if let Some(held) = &self.held {
            held.take(session, resume_s.is_none());
        }
    }

    fn options(&self, resume_s: Option<Seconds>) -> SessionOptions {
        SessionOptions { lease: resume_s.map(Duration::from), ..self.caller.options() }
    }
}

fn made(answer: Answer<SessionIds>) -> Result<Made, Failure> {
    let repeated = answer.repeated;
    Ok(Made { ids: answer.into_outcome()?, repeated })
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
