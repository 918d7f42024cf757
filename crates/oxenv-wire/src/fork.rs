//! Bodies for forking, snapshotting and restoring sessions.
//!
//! Invariant: a snapshot is opaque to its carriers: one string, made and read by the server alone,
//! which checks its version and integrity.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::body::SessionCreated;
use crate::issue::ValidationIssue;
use crate::json::{Json, Object};
use crate::seconds::Seconds;
use crate::shape::Shape;

/// Most forks that one request may ask for.
const MAX_FORKS: u64 = 1024;

/// Asks for `n` new sessions that start from another's present state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForkRequest {
    /// How many, 1 to 1024. Default 1.
    pub n: u64,
    /// Seconds that each is kept while no socket is attached; absent: the server's lease.
    pub resume_s: Option<Seconds>,
}

impl Default for ForkRequest {
    fn default() -> Self {
        ForkRequest { n: 1, resume_s: None }
    }
}

impl ForkRequest {
    /// Reads the body; `loc` is the path that issues begin with.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse<'a>(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        let n = shape.optional_u64("n").unwrap_or(1);
        let bound = match n {
            0 => {
                Some(("greater_than_equal", "Input should be greater than or equal to 1", json!({ "ge": 1 })))
            }
            1..=MAX_FORKS => None,
            _ => Some((
                "less_than_equal",
                "Input should be less than or equal to 1024",
                json!({ "le": MAX_FORKS }),
            )),
        };
        if let Some((kind, msg, ctx)) = bound {
            let loc = shape.at("n");
            let sent = object.get("n").unwrap_or(Json::NULL);
            shape.issues.push(ValidationIssue::new(kind, &loc, msg, sent).with_ctx(ctx));
        }
        let resume_s = shape.optional_seconds("resume_s");
        shape.only(&["n", "resume_s"]);
        shape.finish(ForkRequest { n, resume_s })
    }
}

/// The reply to a fork: the new sessions, in no order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    /// Each as if it had just been made.
    pub sessions: Vec<SessionCreated>,
}

/// The reply to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSnapshot {
    /// The session's state, opaque.
    pub snapshot: String,
    /// The origin of the key that authenticates it, and so which servers restore it: `file` (those with the
    /// same key file), `record` (later ones with the same record) or `process` (this one alone). Empty from
    /// servers that do not report it.
    #[serde(default)]
    pub key: String,
}

/// Asks for a new session with the state of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreRequest<'a> {
    /// What [`SessionSnapshot`] held.
    pub snapshot: Cow<'a, str>,
    /// Seconds that the session is kept while no socket is attached; absent: the server's lease.
    pub resume_s: Option<Seconds>,
}

impl<'a> RestoreRequest<'a> {
    /// Reads the body; `loc` is the path that issues begin with.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        let snapshot = shape.string("snapshot");
        let resume_s = shape.optional_seconds("resume_s");
        // The reply to a snapshot may be sent back as it is.
        shape.only(&["snapshot", "key", "resume_s"]);
        shape.finish(RestoreRequest { snapshot, resume_s })
    }
}
