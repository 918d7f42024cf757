//! Frames from a client on `/ws`: `reset`, `step`, `state`, `close`, `mcp`.
//!
//! Invariant: the envelope is as strict as the reference's: `type`, `data` and nothing else.

use crate::body::ResetRequest;
use crate::fault::JsonError;
use crate::issue::ValidationIssue;
use crate::json::{Json, Object, ParseError, python_preview};
use crate::shape::Shape;

/// A frame from a client.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every frame is a step, and a box would cost each an allocation"
)]
pub enum ClientFrame<'a> {
    /// Begin an episode.
    Reset(ResetRequest<'a>),
    /// Take one action, which is an object.
    Step(Object<'a>),
    /// Return the state.
    State,
    /// Close the socket.
    Close,
    /// A JSON-RPC message of the MCP dialect.
    Mcp(Json<'a>),
}

/// Why a text is not a frame.
#[derive(Debug, Clone)]
pub enum FrameError {
    /// Not JSON: `INVALID_JSON`, the socket stays open.
    Json(JsonError),
    /// JSON, but no object, of this Python type: `SESSION_ERROR`, the socket closes.
    NotObject(&'static str),
    /// An unknown `type`, as Python prints it: `UNKNOWN_TYPE`, the socket stays open.
    UnknownType(String),
    /// A known type with a wrong shape: `VALIDATION_ERROR`, the socket stays open.
    Invalid(Vec<ValidationIssue>),
}

impl<'a> ClientFrame<'a> {
    /// Reads a frame.
    ///
    /// ```
    /// use oxenv_wire::{ClientFrame, FrameError};
    ///
    /// let frame = ClientFrame::parse(r#"{"type": "reset", "data": {"seed": 7}}"#).unwrap();
    /// assert!(matches!(frame, ClientFrame::Reset(reset) if reset.seed == Some(7)));
    /// assert!(matches!(ClientFrame::parse("{bad"), Err(FrameError::Json(_))));
    /// ```
    ///
    /// # Errors
    /// [`FrameError`], which names the code to answer with.
    pub fn parse(frame: &'a str) -> Result<Self, FrameError> {
        let object = Object::parse(frame).map_err(|fault| match fault {
            ParseError::Syntax(fault) => FrameError::Json(fault),
            ParseError::NotObject(name) => FrameError::NotObject(name),
            ParseError::DuplicateKey(_) => {
                let whole = Json::parse(frame).unwrap_or(Json::NULL);
                FrameError::Invalid(vec![ValidationIssue::from_parse(&[], &fault, whole)])
            }
        })?;
        let tag = object.get("type");
        let frame = match tag.and_then(Json::text).as_deref() {
            Some("step") => step(&object),
            Some("reset") => reset(&object),
            Some("mcp") => data(&object).map(ClientFrame::Mcp),
            Some("state") => bare(&object, ClientFrame::State),
            Some("close") => bare(&object, ClientFrame::Close),
            _ => return Err(FrameError::UnknownType(tag.map(python_preview).unwrap_or_default())),
        };
        frame.map_err(FrameError::Invalid)
    }
}

fn step<'a>(object: &Object<'a>) -> Result<ClientFrame<'a>, Vec<ValidationIssue>> {
    let value = data(object)?;
    match object.child("data") {
        Some(Ok(action)) => Ok(ClientFrame::Step(action)),
        // The action's own paths begin at the action.
        Some(Err(fault)) => Err(vec![ValidationIssue::from_parse(&[], &fault, value)]),
        None => Err(vec![ValidationIssue::missing(&["data"], object.json())]),
    }
}

fn data<'a>(object: &Object<'a>) -> Result<Json<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let value = match object.get("data") {
        Some(_) => shape.optional_object("data", false),
        None => shape.required("data"),
    };
    shape.only(&["type", "data"]);
    shape.finish(value.unwrap_or(Json::NULL))
}

fn bare<'a>(object: &Object<'a>, frame: ClientFrame<'a>) -> Result<ClientFrame<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    shape.only(&["type"]);
    shape.finish(frame)
}

fn reset<'a>(object: &Object<'a>) -> Result<ClientFrame<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let value = shape.optional_object("data", false);
    shape.only(&["type", "data"]);
    let value = shape.finish(value)?;
    match value {
        Some(value) => ResetRequest::parse(value, &["data"]).map(ClientFrame::Reset),
        None => Ok(ClientFrame::Reset(ResetRequest::default())),
    }
}
