//! Replies of a socket of `oxenv.1`, parsed.
//!
//! Invariant: a reply of an unexpected kind is [`Code::InvalidReply`], never a panic and never half a
//! result.

use std::borrow::Cow;

use oxenv_wire::{Delivered, ReplyKind, SessionCreated};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{ClientError, Code, Result};
use crate::result::StepResult;
use crate::server_error;

/// A reply with data that is not read yet.
#[derive(Deserialize)]
pub(super) struct ReplyEnvelope<'a> {
    #[serde(default, borrow)]
    pub(super) session: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    pub(super) kind: ReplyKind,
    #[serde(default, borrow)]
    pub(super) data: Option<&'a RawValue>,
}

/// A reply that is what a reset or a step gives, read in one pass.
#[derive(Deserialize)]
struct ObservationReply {
    #[serde(default)]
    seq: Option<u64>,
    #[serde(rename = "type")]
    kind: ReplyKind,
    #[serde(default)]
    repeated: bool,
    data: StepResult,
}

/// The id of a reply, and nothing else.
#[derive(Deserialize)]
struct ReplyId {
    #[serde(default)]
    id: Option<u64>,
}

impl<'a> ReplyEnvelope<'a> {
    /// Reads a reply.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| invalid_reply(text, &error.to_string()))
    }

    /// The data of a reply of that kind, or the failure that came instead.
    pub(super) fn data(&self, kind: ReplyKind) -> Result<&'a str> {
        let data = self.data.map(RawValue::get).unwrap_or_default();
        match self.kind {
            found if found == kind => Ok(data),
            ReplyKind::Error => Err(server_error::from_frame(data)),
            other => {
                Err(invalid_reply(data, &format!("{} was asked for, not {}", kind.name(), other.name())))
            }
        }
    }
}

/// The result of a reset or a step, or the failure that came instead.
pub(super) fn parse_step(text: &str) -> Result<StepResult> {
    match serde_json::from_str::<ObservationReply>(text) {
        Ok(ObservationReply { seq, kind: ReplyKind::Observation, repeated, data }) => {
            Ok(StepResult { seq, repeated, ..data })
        }
        _ => {
            let data = ReplyEnvelope::parse(text)?.data(ReplyKind::Observation)?;
            let half = parse_data::<StepResult>(data).err();
            Err(half.unwrap_or_else(|| invalid_reply(text, "what stands around it")))
        }
    }
}

/// The number of the request that a reply answers; `None` for an unrequested frame.
pub(super) fn reply_id(text: &str) -> Option<u64> {
    if let Some(rest) = text.strip_prefix("{\"id\":")
        && let Some((digits, _)) = rest.split_once(',')
        && let Ok(id) = digits.parse()
    {
        return Some(id);
    }
    // Another server may order the keys as it likes.
    serde_json::from_str::<ReplyId>(text).ok()?.id
}

/// Parses the data of a reply.
pub(super) fn parse_data<T: DeserializeOwned>(data: &str) -> Result<T> {
    serde_json::from_str(data).map_err(|error| invalid_reply(data, &error.to_string()))
}

/// The sessions in a reply; none if it holds anything else.
pub(super) fn created_sessions(text: &str) -> Vec<SessionCreated> {
    #[derive(Deserialize)]
    struct ForkedData {
        sessions: Vec<SessionCreated>,
    }
    let Ok(envelope) = ReplyEnvelope::parse(text) else { return Vec::new() };
    match envelope.kind {
        ReplyKind::Opened => {
            envelope.data(ReplyKind::Opened).and_then(parse_data).map(|one| vec![one]).unwrap_or_default()
        }
        ReplyKind::Forked => envelope
            .data(ReplyKind::Forked)
            .and_then(parse_data::<ForkedData>)
            .map(|forked| forked.sessions)
            .unwrap_or_default(),
        ReplyKind::Attached => envelope.session.map(attached_session).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A session that was there before. Only its maker gets its agent's token.
fn attached_session(id: Cow<'_, str>) -> SessionCreated {
    let mcp_url = format!("/sessions/{id}/mcp");
    SessionCreated { session_id: id.into_owned(), mcp_url, agent_token: None }
}

/// The error for a reply that cannot be read.
pub(super) fn invalid_reply(text: &str, why: &str) -> ClientError {
    let shown = server_error::excerpt(text.as_bytes());
    ClientError::new(Code::InvalidReply, format!("the server's reply cannot be read: {why}: {shown}"))
        .with_delivered(Delivered::Maybe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_any_order_of_keys() {
        assert_eq!(reply_id(r#"{"id":12,"type":"state","data":{}}"#), Some(12));
        assert_eq!(reply_id(r#"{"type":"state", "id": 12}"#), Some(12));
        for other in [r#"{"session":"a","type":"taken"}"#, r#"{"id":null,"type":"error"}"#, "x", ""] {
            assert_eq!(reply_id(other), None, "{other}");
        }
    }

    #[test]
    fn a_step_keeps_its_number_and_whether_it_was_repeated() {
        let text = r#"{"id":1,"session":"a","seq":4,"type":"observation","repeated":true,
            "data":{"observation":{"x": 1},"reward":1,"done":true}}"#;
        let result = parse_step(text).unwrap();
        assert_eq!((result.seq, result.repeated, result.done), (Some(4), true, true));
        assert_eq!(result.observation.get(), r#"{"x": 1}"#);
    }

    #[test]
    fn what_was_not_asked_for_is_a_failure() {
        let error = r#"{"id":1,"type":"error","data":{"message":"no","code":"SESSION_ENDED","kind":"infrastructure","phase":"step","delivered":"no","retryable":false}}"#;
        let failure = parse_step(error).unwrap_err();
        assert_eq!(failure.code(), Code::Server(oxenv_wire::ErrorCode::SessionEnded));
        assert_eq!(failure.delivered(), Delivered::No);
        let state = r#"{"id":1,"type":"state","data":{}}"#;
        assert_eq!(parse_step(state).unwrap_err().code(), Code::InvalidReply);
        let half = r#"{"id":1,"type":"observation","data":{"reward":1}}"#;
        assert_eq!(parse_step(half).unwrap_err().code(), Code::InvalidReply);
    }

    #[test]
    fn sessions_that_were_made_are_read_from_either_reply() {
        let opened = r#"{"id":1,"session":"a","seq":0,"type":"opened","data":{"session_id":"a","mcp_url":"/a","agent_token":null}}"#;
        assert_eq!(created_sessions(opened)[0].session_id, "a");
        let forked = r#"{"id":1,"type":"forked","data":{"sessions":[{"session_id":"b","mcp_url":"/b","agent_token":"t"}]}}"#;
        assert_eq!(created_sessions(forked)[0].agent_token.as_deref(), Some("t"));
        assert!(created_sessions(r#"{"id":1,"type":"error","data":{}}"#).is_empty());
    }
}
