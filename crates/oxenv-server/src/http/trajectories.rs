//! `/trajectories…`: recorded sessions, for control and observers.
//!
//! Invariant: nothing here touches a live session; the record is read where blocking is allowed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::Failure;
use oxenv_wire::{ErrorCode, RawJson};
use serde::Deserialize;
use serde_json::Value;

use super::{InPath, InQuery};
use crate::app::App;
use crate::error::{Refusal, json_response};
use crate::trajectories::{EntriesPage, TrajectoryFilter, TrajectorySource};

/// Entries of a page if the request names no limit.
const DEFAULT_LIMIT: usize = 100;
/// The highest limit that a request may name.
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub(crate) struct SessionsQuery {
    environment: Option<String>,
    since_us: Option<u64>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
pub(crate) struct StepsQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    InQuery(query): InQuery<SessionsQuery>,
) -> Result<Response, Refusal> {
    let limit = limit(query.limit)?;
    let SessionsQuery { environment, since_us, after, .. } = query;
    let asked = TrajectoryFilter { environment, since_us, after, limit };
    let sessions = read(&app, move |source| source.sessions(&asked)).await?;
    let next = sessions.last().filter(|_| sessions.len() == limit).map(|(id, _)| Value::from(id.as_str()));
    Ok(page("trajectories", sessions.into_iter().map(|(_, session)| session), next))
}

pub(crate) async fn show(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    let asked = id.clone();
    let session = read(&app, move |source| source.session(&asked)).await?;
    let session = session.ok_or_else(|| unknown(&id))?;
    Ok(json_response(StatusCode::OK, session.get().to_owned()))
}

pub(crate) async fn steps(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    InQuery(query): InQuery<StepsQuery>,
) -> Result<Response, Refusal> {
    let limit = limit(query.limit)?;
    let asked = id.clone();
    let entries = read(&app, move |source| match source.session(&asked)? {
        Some(_) => source.entries(&asked, query.after, limit).map(Some),
        None => Ok(None),
    });
    let EntriesPage { entries, more } = entries.await?.ok_or_else(|| unknown(&id))?;
    let next = entries.last().filter(|_| more).map(|(seq, _)| Value::from(*seq));
    Ok(page("steps", entries.into_iter().map(|(_, entry)| entry), next))
}

/// Reads the record, if there is one.
async fn read<T: Send + 'static>(
    app: &App,
    look: impl FnOnce(&dyn TrajectorySource) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Refusal> {
    let Some(source) = app.config.trajectories.clone() else {
        let hint = "this server records nothing: start it with --record DIR";
        return Err(Refusal::Status(StatusCode::NOT_FOUND, hint.to_owned()));
    };
    let read = tokio::task::spawn_blocking(move || look(source.as_ref())).await;
    let read = read.map_err(|error| Failure::infrastructure(error.to_string()))?;
    Ok(read?)
}

fn limit(asked: Option<usize>) -> Result<usize, Refusal> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        other => {
            let detail = format!("limit is {other}: ask for 1 to {MAX_LIMIT} at a time");
            Err(Refusal::Status(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

fn unknown(id: &str) -> Failure {
    Failure::new(
        ErrorCode::SessionNotFound,
        format!("no session {} is in the record", oxenv_wire::preview(id)),
    )
}

/// A list, and from where on to ask for more.
fn page(key: &str, items: impl Iterator<Item = RawJson>, next: Option<Value>) -> Response {
    let mut body = format!("{{\"{key}\":[");
    for (index, item) in items.enumerate() {
        body.push_str(if index > 0 { "," } else { "" });
        body.push_str(item.get());
    }
    body.push_str(&format!("],\"next\":{}}}", next.unwrap_or(Value::Null)));
    json_response(StatusCode::OK, body)
}
