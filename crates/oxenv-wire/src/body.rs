//! Bodies of the HTTP routes.
//!
//! Invariant: request bodies take unknown keys where the reference takes them (reset and step
//! allow extras, which reach the environment), and refuse wrong types with pydantic's issues.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::issue::ValidationIssue;
use crate::json::{Json, Object};
use crate::seconds::Seconds;
use crate::shape::Shape;

/// `POST /reset`, or the data of a `reset` frame.
#[derive(Debug, Clone, Default)]
pub struct ResetRequest<'a> {
    /// Seed of the episode; absent: the session's next.
    pub seed: Option<u64>,
    /// The client's name for the episode, at most 255 characters; absent: a fresh UUID.
    pub episode_id: Option<Cow<'a, str>>,
    /// The whole object, for an environment that takes more arguments.
    pub arguments: Option<&'a RawValue>,
}

impl<'a> ResetRequest<'a> {
    /// Reads the arguments of a reset; `loc` is the path that issues begin with.
    ///
    /// ```
    /// use oxenv_wire::{Json, ResetRequest};
    ///
    /// let sent = Json::parse(r#"{"seed": 7, "size": 4}"#).unwrap();
    /// let reset = ResetRequest::parse(sent, &["body"]).unwrap();
    /// assert_eq!((reset.seed, reset.arguments.unwrap().get()), (Some(7), sent.get()));
    /// ```
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        let seed = shape.optional_u64("seed");
        let episode_id = label(&mut shape, "episode_id", &object);
        shape.finish(ResetRequest { seed, episode_id, arguments: Some(value.raw()) })
    }
}

/// `POST /step`.
#[derive(Debug, Clone)]
pub struct StepRequest<'a> {
    /// The action, an object.
    pub action: Json<'a>,
    /// Deadline of the step in seconds, above 0; absent: none.
    pub timeout_s: Option<Seconds>,
    /// The client's name for the request, for tracking only: it never replays anything.
    pub request_id: Option<Cow<'a, str>>,
    /// The session's step number that this step expects to become, if given.
    pub expected_step: Option<u64>,
    /// The number that the request expects within its session, if given.
    pub seq: Option<u64>,
    /// The client's key under which a repeat is the same step, if given.
    pub key: Option<Cow<'a, str>>,
}

impl<'a> StepRequest<'a> {
    /// Reads the body of a step; `loc` is the path that issues begin with.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        let action = match object.get("action") {
            Some(_) => shape.optional_object("action", false),
            None => shape.required("action"),
        };
        let timeout_s = shape.optional_seconds("timeout_s");
        let request_id = label(&mut shape, "request_id", &object);
        let expected_step = shape.optional_u64("expected_step");
        let seq = shape.optional_counted("seq");
        let key = label(&mut shape, "key", &object);
        let action = action.unwrap_or(Json::NULL);
        shape.finish(StepRequest { action, timeout_s, request_id, expected_step, seq, key })
    }
}

/// `POST /sessions`.
#[derive(Debug, Clone, Default)]
pub struct SessionCreate<'a> {
    /// Seed of the session, from which its episodes' seeds come.
    pub seed: Option<u64>,
    /// The id of its first episode.
    pub episode_id: Option<Cow<'a, str>>,
    /// Seconds that the session is kept while no socket is attached; absent: the server's lease.
    pub resume_s: Option<Seconds>,
    /// Seconds that the request may wait for a free slot; absent: the server's limit.
    pub queue_s: Option<Seconds>,
}

impl<'a> SessionCreate<'a> {
    /// Reads the body of a session's creation.
    ///
    /// # Errors
    /// Every issue found; here unknown keys are issues too.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        let seed = shape.optional_u64("seed");
        let episode_id = label(&mut shape, "episode_id", &object);
        let resume_s = shape.optional_seconds("resume_s");
        let queue_s = shape.optional_seconds("queue_s");
        shape.only(&["seed", "episode_id", "resume_s", "queue_s"]);
        shape.finish(SessionCreate { seed, episode_id, resume_s, queue_s })
    }
}

/// The reply to `POST /sessions`, status 201.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCreated {
    /// The session's opaque id; an id is not a credential.
    pub session_id: String,
    /// Where an agent finds this session's tools over MCP.
    pub mcp_url: String,
    /// The token that agent needs; null while the server knows no tokens.
    pub agent_token: Option<String>,
}

/// Where a session is: the reply to `POST /sessions/{id}/keepalive`, and to `attach` and `keepalive`
/// on a socket of many sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProgress {
    /// The number of the last thing that the session did.
    pub seq: u64,
    /// The present epoch; 0 before the first reset.
    pub epoch: u64,
    /// The present episode's id.
    pub episode_id: String,
    /// Steps in the present epoch.
    pub step_count: u64,
    /// Whether the present episode is done.
    pub done: bool,
}

/// One session in `GET /sessions` and `GET /sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session's opaque id.
    pub session_id: String,
    /// The environment's name.
    pub environment: String,
    /// The session's seed.
    pub seed: u64,
    /// The present epoch; 0 before the first reset.
    pub epoch: u64,
    /// The present episode's id.
    pub episode_id: String,
    /// Steps in the present epoch.
    pub step_count: u64,
    /// Whether the present episode is done.
    pub done: bool,
    /// The sum of the episode's rewards so far; null while there was none. Agents never see it.
    pub episode_reward: Option<f64>,
    /// What the episode is worth so far by the parts of its rubric, an object of numbers; left out
    /// where rewards have no parts. Agents never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode_scores: Option<Value>,
    /// The number of the last thing that the session did: resets, steps and agents' calls are
    /// counted from 1, over all epochs.
    pub seq: u64,
    /// Milliseconds that the session waited for a free slot before it was made.
    pub waited_ms: u64,
    /// Sockets attached now.
    pub attached: u32,
    /// Milliseconds since the session last did something.
    pub idle_ms: u64,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy`; a server that drains answers 503 with `draining`.
    pub status: String,
}

/// `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `ready`, `full`, `draining`, or `unavailable`: a required toolset does not work, or no environment can
    /// be made.
    pub status: String,
    /// Sessions that take a slot now.
    pub active_sessions: usize,
    /// Slots in all.
    pub max_sessions: usize,
    /// Environments that overran a deadline and have not come back yet.
    pub stuck_environments: usize,
    /// What does not work at present; left out when there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ToolsetProblem>,
}

/// What does not work at present, for `GET /ready` and `GET /tools`: a toolset, or the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsetProblem {
    /// The toolset; null when it is about the union of all, or about the environment.
    pub toolset: Option<String>,
    /// What is wrong.
    pub message: String,
    /// Whether a session is of no use without it.
    pub required: bool,
}

/// `GET /metadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The environment's name.
    pub name: String,
    /// A description in one sentence.
    pub description: String,
    /// Its README, in Markdown.
    pub readme_content: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its author.
    pub author: Option<String>,
    /// Where to read more.
    pub documentation_url: Option<String>,
}

/// `GET /schema`: JSON Schemas of what crosses the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schemas {
    /// Of an action.
    pub action: Value,
    /// Of an observation.
    pub observation: Value,
    /// Of the state.
    pub state: Value,
    /// Of the observation after a reset.
    pub reset_observation: Value,
}

/// A string of at most 255 characters that may be absent.
pub(crate) fn label<'o, 'a>(
    shape: &mut Shape<'o, 'a>,
    key: &'o str,
    object: &Object<'a>,
) -> Option<Cow<'a, str>> {
    let text = shape.optional_string(key)?;
    short(shape, key, object, text)
}

/// A required string of at most 255 characters; an empty one stands in where an issue was noted.
pub(crate) fn name<'o, 'a>(shape: &mut Shape<'o, 'a>, key: &'o str, object: &Object<'a>) -> Cow<'a, str> {
    let text = shape.string(key);
    short(shape, key, object, text).unwrap_or_default()
}

/// That text, unless it is too long, which is noted.
fn short<'o, 'a>(
    shape: &mut Shape<'o, 'a>,
    key: &'o str,
    object: &Object<'a>,
    text: Cow<'a, str>,
) -> Option<Cow<'a, str>> {
    if text.len() <= 255 || text.chars().count() <= 255 {
        return Some(text);
    }
    let loc = shape.at(key);
    let value = object.get(key).unwrap_or(Json::NULL);
    shape.issues.push(
        ValidationIssue::new("string_too_long", &loc, "String should have at most 255 characters", value)
            .with_ctx(serde_json::json!({ "max_length": 255 })),
    );
    None
}
