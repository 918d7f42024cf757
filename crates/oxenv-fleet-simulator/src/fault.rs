//! What goes wrong: where, how, and how often.
//!
//! Invariant: a fault has one text form, and reading it gives the fault back (`text.rs`); one that could
//! never happen where it is put is refused.

mod apply;
mod registry;
mod syntax;
mod target;

use std::time::Duration;

use serde_json::Value;

pub(crate) use registry::{FaultRegistry, RequestFaults};
pub use syntax::FaultError;
pub use target::{FaultTarget, McpMethod};

/// Something that goes wrong. Write one as text, `create:429*2`, or build it with [`Fault::new`].
///
/// The text is `PLACE:EFFECT`, and `*N` after it if only the first N requests meet it. Of several faults that
/// answer at one place, the first that was injected is met until it is used up.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    target: FaultTarget,
    effect: Effect,
    times: Option<u32>,
}

impl Fault {
    /// A fault that every request meets.
    ///
    /// # Errors
    /// If the effect cannot happen at that place.
    pub fn new(place: FaultTarget, effect: Effect) -> Result<Self, FaultError> {
        if effect.fits(place) {
            Ok(Fault { target: place, effect, times: None })
        } else {
            Err(FaultError::misplaced(place, &effect))
        }
    }

    /// Limits the fault to the first `times` requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Fault { times: Some(times), ..self }
    }

    /// Where it happens.
    #[must_use]
    pub fn target(&self) -> FaultTarget {
        self.target
    }

    /// What happens.
    #[must_use]
    pub fn effect(&self) -> &Effect {
        &self.effect
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It is answered with this, and nothing else is done.
    Respond(FaultResponse),
    /// `drop`: the connection is closed, and nothing was done.
    Drop,
    /// `drop-after`: it is done, and the connection is closed instead of an answer.
    DropAfter,
    /// `hang`: it is never answered, and nothing is done.
    Hang,
    /// `hang-after`: it is done and never answered.
    HangAfter,
    /// `cut`: it is done, and the connection is closed in the middle of the answer.
    Cut,
    /// `slow=2s`, `slow=250ms`: it waits that long, in whole milliseconds, before anything is done.
    Slow(Duration),
    /// `garbage`: it is done and answered with a text that is not JSON, with status 200.
    Garbage,
    /// `refuse`, at `instance` alone: instances do not listen, those that run and those to come. What shares
    /// its host with others cannot refuse alone; that is `drop`.
    Refuse,
    /// `expire`, at an instance: the time of the instance is over as the request comes.
    Expire,
    /// `pending` and others, at `create` alone: the create is answered at once, with `pending`; the instance
    /// is still pending when it is asked for the first time, and after that what its outcome is.
    Pending(PendingOutcome),
    /// `lose-session`, over MCP: the session is forgotten as the request comes, which is answered with 404.
    LoseSession,
    /// `lose-session-in-call`, over MCP: it is done, then the connection and the session are gone.
    LoseSessionInCall,
    /// `empty-tools`: no tools are listed.
    EmptyTools,
    /// `is-error`: calls run and give a result with `isError` set.
    IsError,
    /// `null-image`: a screenshot has no image.
    NullImage,
    /// `mcp-image`: a screenshot is an image in MCP's own form, not JSON in a text.
    McpImage,
    /// `json`: the reply is one JSON document.
    Json,
    /// `sse`: the reply is a stream of events.
    Sse,
    /// `no-session`: an `initialize` is given no session id, and later requests need none.
    NoSession,
    /// `old-resources`, at `resources` alone: the list is inside an object.
    OldResources,
}

/// The outcome of an instance that is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingOutcome {
    /// `pending`: it runs.
    Running,
    /// `pending-then-error`: it failed.
    Error,
    /// `pending-then-stopped`: it was stopped.
    Stopped,
    /// `pending-for-ever`: nothing.
    Pending,
}

/// A response: `STATUS`, `STATUS~RETRY_AFTER_SECONDS`, `STATUS=BODY`, both, or a name:
/// `limit`, `403-limit`, `403-team`, `403-environment`, `403-permission`, `400-region`, `400-environment`,
/// `400-version`, `400-retryable`, `400-retryable-text`.
///
/// In the text form a body is JSON for JSON, a JSON string for plain text, and `html` before a JSON string
/// for HTML. A status alone has the body that Fleet, or a proxy before it, was seen to send.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultResponse {
    /// The status.
    pub status: u16,
    /// The seconds of a `Retry-After` header.
    pub retry_after: Option<u32>,
    /// The body.
    pub body: ResponseBody,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseBody {
    /// A JSON document.
    Json(Value),
    /// Plain text.
    Text(String),
    /// A page, as proxies send it.
    Html(String),
}

impl Effect {
    /// Whether it ends a request, so that nothing else can happen to it.
    fn ends_request(&self) -> bool {
        matches!(
            self,
            Effect::Respond(_)
                | Effect::Drop
                | Effect::Hang
                | Effect::Refuse
                | Effect::Expire
                | Effect::LoseSession
        )
    }

    fn fits(&self, place: FaultTarget) -> bool {
        match self {
            Effect::Respond(_) | Effect::Drop | Effect::DropAfter | Effect::Hang | Effect::HangAfter => true,
            Effect::Cut | Effect::Slow(_) | Effect::Garbage => true,
            Effect::Refuse => place == FaultTarget::Instance,
            Effect::Expire => place.is_instance(),
            Effect::Pending(_) => place == FaultTarget::Create,
            Effect::OldResources => place == FaultTarget::Resources,
            Effect::EmptyTools => place.includes_method(McpMethod::List),
            Effect::IsError | Effect::NullImage | Effect::McpImage => place.includes_method(McpMethod::Call),
            Effect::NoSession => place.includes_method(McpMethod::Initialize),
            Effect::LoseSession | Effect::LoseSessionInCall | Effect::Json | Effect::Sse => place.is_mcp(),
        }
    }
}
