//! The requests of a client on a socket of `oxenv.1`, or in a batch.
//!
//! Invariant: a frame is split once, the items of a batch in it included; an invalid item is reported
//! when it is read and leaves the others alone.

use std::borrow::Cow;

use serde_json::json;

use crate::body::{ResetRequest, SessionCreate, label, name};
use crate::fork::{ForkRequest, RestoreRequest};
use crate::frame::FrameError;
use crate::issue::ValidationIssue;
use crate::json::{Items, Json, Object, ParseError, python_preview};
use crate::seconds::Seconds;
use crate::shape::Shape;

/// Most items that one batch may have.
pub const MAX_BATCH_ITEMS: usize = 4096;

/// Most characters of an id.
const MAX_ID: usize = 255;

/// A frame from a client.
#[derive(Debug, Clone)]
pub struct MultiFrame<'a> {
    /// The id of the reply: a string or an integer, as it was sent.
    pub id: Json<'a>,
    /// The request.
    pub work: MultiWork<'a>,
}

/// The request of a frame.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every frame is one step or a batch of many, and a box would cost each an allocation"
)]
pub enum MultiWork<'a> {
    /// One thing.
    One(MultiRequest<'a>),
    /// Many.
    Batch(BatchRequest<'a>),
}

/// One request, in a frame or in a batch.
#[derive(Debug, Clone)]
pub struct MultiRequest<'a> {
    /// The session; empty for `open` and `restore`, which make one.
    pub session: Cow<'a, str>,
    /// The client's key under which a repeat is the same request.
    pub key: Option<Cow<'a, str>>,
    /// The number that the request is to have within its session.
    pub seq: Option<u64>,
    /// The number that the step is to have within its episode.
    pub expected_step: Option<u64>,
    /// Deadline of a step in seconds, above 0; absent: none.
    pub timeout_s: Option<Seconds>,
    /// The operation.
    pub operation: Operation<'a>,
}

/// The operation.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "nearly every request is a step")]
pub enum Operation<'a> {
    /// Make a session.
    Open(SessionCreate<'a>),
    /// Take a session that exists.
    Attach,
    /// Begin an episode.
    Reset(ResetRequest<'a>),
    /// Take one action, which is an object.
    Step(Object<'a>),
    /// Return the state.
    State,
    /// List the tools.
    Tools,
    /// Make sessions that start from the present state.
    Fork(ForkRequest),
    /// Save the session.
    Snapshot,
    /// Make a session of what was saved.
    Restore(RestoreRequest<'a>),
    /// End the session.
    Close,
    /// Let the session's lease begin anew.
    KeepAlive,
}

/// Many requests that are run together.
#[derive(Debug, Clone)]
pub struct BatchRequest<'a> {
    items: Items<'a>,
    /// How many results the first reply waits for; absent: all.
    pub first: Option<usize>,
    /// Deadline in seconds of each step that names none; absent: none.
    pub timeout_s: Option<Seconds>,
}

/// An item of a batch, or why it is not one.
pub type BatchItem<'a> = Result<MultiRequest<'a>, FrameError>;

/// Why a text is not a frame.
#[derive(Debug, Clone)]
pub struct MultiFrameError<'a> {
    /// The frame's id, if it could be read.
    pub id: Option<Json<'a>>,
    /// What is wrong.
    pub fault: FrameError,
}

impl<'a> MultiFrame<'a> {
    /// Reads a frame.
    ///
    /// ```
    /// use oxenv_wire::{MultiFrame, MultiWork};
    ///
    /// let sent = r#"{"id": 1, "type": "step", "session": "s", "data": {"column": 3}}"#;
    /// let frame = MultiFrame::parse(sent).unwrap();
    /// assert_eq!(frame.id.get(), "1");
    /// assert!(matches!(frame.work, MultiWork::One(request) if request.session == "s"));
    /// ```
    ///
    /// # Errors
    /// [`MultiFrameError`], which names the code to answer with.
    pub fn parse(frame: &'a str) -> Result<Self, MultiFrameError<'a>> {
        let (object, items) = Object::parse_with_items(frame, true)
            .map_err(|fault| MultiFrameError { id: None, fault: unsplit(fault, frame) })?;
        let id = read_id(&object);
        let known = id.as_ref().ok().copied();
        let refuse = |fault| MultiFrameError { id: known, fault };
        let id = id.map_err(|issues| refuse(FrameError::Invalid(issues)))?;
        let work = match object.get("type").and_then(Json::text).as_deref() {
            Some("batch") => batch(&object, items).map(MultiWork::Batch).map_err(FrameError::Invalid),
            _ => request(&object, &["id"]).map(MultiWork::One),
        };
        Ok(MultiFrame { id, work: work.map_err(refuse)? })
    }
}

impl<'a> BatchRequest<'a> {
    /// Reads the body of `POST /batch`; its reply waits for all results.
    ///
    /// # Errors
    /// Every issue found with the envelope; `loc` is the path that they begin with.
    pub fn parse_body(value: Json<'a>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let (object, items) = Object::parse_with_items(value.get(), false)
            .map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])?;
        let mut shape = Shape::new(&object, loc);
        list_of_items(&mut shape, &object, &items);
        let timeout_s = shape.optional_seconds("timeout_s");
        shape.only(&["items", "timeout_s"]);
        shape.finish(BatchRequest { items, first: None, timeout_s })
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order, read one after the other.
    pub fn items(&self) -> impl Iterator<Item = BatchItem<'a>> {
        self.items.iter().map(|(sent, object)| match object {
            Ok(object) => request(&object, &[]),
            Err(fault) => Err(FrameError::Invalid(vec![ValidationIssue::from_parse(&[], &fault, sent)])),
        })
    }
}

fn unsplit(fault: ParseError, frame: &str) -> FrameError {
    match fault {
        ParseError::Syntax(fault) => FrameError::Json(fault),
        ParseError::NotObject(name) => FrameError::NotObject(name),
        ParseError::DuplicateKey(_) => {
            let whole = Json::parse(frame).unwrap_or(Json::NULL);
            FrameError::Invalid(vec![ValidationIssue::from_parse(&[], &fault, whole)])
        }
    }
}

fn read_id<'a>(object: &Object<'a>) -> Result<Json<'a>, Vec<ValidationIssue>> {
    let Some(id) = object.get("id") else {
        return Err(vec![ValidationIssue::missing(&["id"], object.json())]);
    };
    let text = id.get();
    let integer = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    let length = if integer { Some(text.len()) } else { id.text().map(|text| text.chars().count()) };
    if length.is_some_and(|length| length <= MAX_ID) {
        return Ok(id);
    }
    let msg = "Input should be an integer or a string, of 255 characters at most";
    Err(vec![ValidationIssue::new("id_type", &["id"], msg, id).without_url()])
}

fn batch<'a>(object: &Object<'a>, items: Items<'a>) -> Result<BatchRequest<'a>, Vec<ValidationIssue>> {
    let mut shape = Shape::new(object, &[]);
    let sent = shape.required("data");
    shape.only(&["id", "type", "data"]);
    shape.finish(())?;
    let data = match object.child("data") {
        Some(Ok(data)) => data,
        Some(Err(fault)) => {
            return Err(vec![ValidationIssue::from_parse(&["data"], &fault, sent.unwrap_or(Json::NULL))]);
        }
        None => return Err(vec![ValidationIssue::missing(&["data"], object.json())]),
    };
    let mut shape = Shape::new(&data, &["data"]);
    list_of_items(&mut shape, &data, &items);
    let first = shape.optional_u64("first");
    if first.is_some_and(|first| first == 0 || first > items.len() as u64) {
        let msg = "Input should be between 1 and the number of items";
        let issue = ValidationIssue::new("out_of_range", &["data", "first"], msg, data.json());
        shape.issues.push(issue.without_url());
    }
    let timeout_s = shape.optional_seconds("timeout_s");
    shape.only(&["items", "first", "timeout_s"]);
    let first = first.and_then(|first| usize::try_from(first).ok());
    shape.finish(BatchRequest { items, first, timeout_s })
}

/// Notes an issue unless `items` is a list of 1 to [`MAX_BATCH_ITEMS`] elements.
fn list_of_items<'o, 'a>(shape: &mut Shape<'o, 'a>, object: &Object<'a>, items: &Items<'a>) {
    let Some(sent) = shape.required("items") else { return };
    let loc = shape.at("items");
    let issue = if !sent.get().starts_with('[') {
        ValidationIssue::new("list_type", &loc, "Input should be a valid list", sent)
    } else if items.len() == 0 {
        ValidationIssue::new("too_short", &loc, "List should have at least 1 item", object.json())
            .with_ctx(json!({ "min_length": 1 }))
    } else if items.len() > MAX_BATCH_ITEMS {
        ValidationIssue::new("too_long", &loc, "List should have at most 4096 items", object.json())
            .with_ctx(json!({ "max_length": MAX_BATCH_ITEMS }))
    } else {
        return;
    };
    shape.issues.push(issue);
}

/// Reads a request; `envelope` names the keys that belong to the frame around it.
fn request<'a>(object: &Object<'a>, envelope: &[&str]) -> Result<MultiRequest<'a>, FrameError> {
    let tag = object.get("type");
    let own: &[&str] = match tag.and_then(Json::text).as_deref() {
        Some("step") => &["session", "key", "seq", "expected_step", "timeout_s", "data"],
        Some("reset") => &["session", "key", "seq", "data"],
        Some("open" | "restore") => &["key", "data"],
        Some("fork") => &["session", "key", "data"],
        Some("attach" | "state" | "tools" | "snapshot" | "close" | "keepalive") => &["session"],
        _ => return Err(FrameError::UnknownType(tag.map(python_preview).unwrap_or_default())),
    };
    let mut shape = Shape::new(object, &[]);
    let session =
        if own.contains(&"session") { name(&mut shape, "session", object) } else { Cow::Borrowed("") };
    let key = label(&mut shape, "key", object);
    let seq = shape.optional_counted("seq");
    let expected_step = shape.optional_u64("expected_step");
    let timeout_s = shape.optional_seconds("timeout_s");
    let extra = |key: &&str| *key != "type" && !own.contains(key) && !envelope.contains(key);
    if object.iter().any(|(key, _)| extra(&key)) {
        shape.only(&[&["type"], envelope, own].concat());
    }
    let read = shape.finish(()).and_then(|()| operation(object, tag));
    let operation = read.map_err(FrameError::Invalid)?;
    Ok(MultiRequest { session, key, seq, expected_step, timeout_s, operation })
}

fn operation<'a>(object: &Object<'a>, tag: Option<Json<'a>>) -> Result<Operation<'a>, Vec<ValidationIssue>> {
    const DATA: &[&str] = &["data"];
    let missing = || vec![ValidationIssue::missing(DATA, object.json())];
    let data = object.get("data");
    Ok(match tag.and_then(Json::text).as_deref().unwrap_or_default() {
        "step" => match object.child("data").ok_or_else(missing)? {
            Ok(action) => Operation::Step(action),
            Err(fault) => {
                return Err(vec![ValidationIssue::from_parse(DATA, &fault, data.unwrap_or(Json::NULL))]);
            }
        },
        "reset" => Operation::Reset(match data {
            Some(data) => ResetRequest::parse(data, DATA)?,
            None => ResetRequest::default(),
        }),
        "open" => Operation::Open(match data {
            Some(data) => SessionCreate::parse(data, DATA)?,
            None => SessionCreate::default(),
        }),
        "fork" => Operation::Fork(match data {
            Some(data) => ForkRequest::parse(data, DATA)?,
            None => ForkRequest::default(),
        }),
        "restore" => Operation::Restore(RestoreRequest::parse(data.ok_or_else(missing)?, DATA)?),
        "attach" => Operation::Attach,
        "state" => Operation::State,
        "tools" => Operation::Tools,
        "snapshot" => Operation::Snapshot,
        "close" => Operation::Close,
        _ => Operation::KeepAlive,
    })
}
