//! The trait of a source of tools.
//!
//! Invariant: a toolset never repeats a call and never guesses: what it does not know is an error
//! of one of the five types that stock clients know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oxenv_schema::memory_size;
use oxenv_wire::{RawJson, RpcCode, Tool, ToolError, ToolResult};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::capabilities::ForkMode;
use crate::failure::Failure;
use crate::principal::Principal;
use crate::seed::EpisodeSeeds;
use crate::work::Work;

/// Whether tools belong to the session or are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One for the whole server: no state of a session is in it.
    Server,
    /// One per session.
    Session,
}

/// The caller, for tools that need to know.
#[derive(Clone, Copy)]
pub struct CallContext<'a> {
    /// The session, if the call belongs to one.
    pub session_id: Option<&'a str>,
    /// The session's epoch.
    pub epoch: u64,
    /// The step that the call is, or is part of; counted from 1.
    pub step: u64,
    /// Through which door it came.
    pub principal: Principal,
    /// The client behind the call, where the door can carry messages both ways.
    pub caller: Option<&'a dyn CallerChannel>,
    /// The parameters of the MCP request that the call is, with `_meta`, `inputResponses` and
    /// `requestState`.
    pub request: Option<&'a RawValue>,
}

impl CallContext<'static> {
    /// A call that belongs to no session.
    #[must_use]
    pub fn sessionless(principal: Principal) -> Self {
        CallContext { session_id: None, epoch: 0, step: 0, principal, caller: None, request: None }
    }
}

/// What a tool reports to its caller while it runs.
#[derive(Debug, Clone)]
pub enum CallNotification {
    /// Its progress.
    Progress {
        /// Rises with every note of a call.
        progress: f64,
        /// What `progress` will be at the end, if that is known.
        total: Option<f64>,
        /// For people.
        message: Option<String>,
    },
    /// A line of its log.
    Log {
        /// One of MCP's levels: `debug`, `info`, `notice`, `warning`, `error`, …
        level: String,
        /// Which part of the tool's server speaks.
        logger: Option<String>,
        /// The message: text, or any JSON.
        data: Value,
    },
}

impl CallNotification {
    /// Roughly the bytes of memory that it takes, so that code that keeps notes can bound them.
    #[must_use]
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |value: &Value| usize::try_from(memory_size(value)).unwrap_or(usize::MAX);
        size_of::<Self>()
            + match self {
                CallNotification::Progress { message, .. } => text(message),
                CallNotification::Log { level, logger, data } => level.len() + text(logger) + json(data),
            }
    }
}

/// The client behind a call, for tools that talk back while they run.
pub trait CallerChannel: Send + Sync {
    /// Passes a note on. Never waits; a client that asked for none receives none.
    fn tell(&self, note: CallNotification);

    /// Asks the client: `sampling/createMessage`, `elicitation/create` or `roots/list` with its
    /// parameters as MCP spells them. Dropping the work withdraws the question.
    fn ask<'a>(&'a self, method: &'a str, parameters: Value) -> Work<'a, Result<Value, RequestError>>;
}

/// The offers of a toolset besides tools, each item as MCP spells it.
#[derive(Debug, Clone, Default)]
pub struct ResourcesAndPrompts {
    /// Resources, with `uri` and `name`.
    pub resources: Vec<Value>,
    /// Resource templates, with `uriTemplate` and `name`.
    pub templates: Vec<Value>,
    /// Prompts, with `name`.
    pub prompts: Vec<Value>,
}

/// Why a request that is not a tool call was refused: a JSON-RPC error.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestError {
    /// JSON-RPC's or MCP's number.
    pub code: i32,
    /// What happened.
    pub message: String,
    /// Details; null for none.
    pub data: Value,
}

impl RequestError {
    /// A fault without details.
    #[must_use]
    pub fn new(code: impl Into<i32>, message: impl Into<String>) -> Self {
        RequestError { code: code.into(), message: message.into(), data: Value::Null }
    }
}

/// Counts the changes of the lists that a toolbox is made of, and wakes those waiting for one.
#[derive(Debug, Clone, Default)]
pub struct ChangeCounter(Arc<ChangeState>);

#[derive(Debug, Default)]
struct ChangeState {
    count: AtomicU64,
    notify: Notify,
}

impl ChangeCounter {
    /// A list has changed.
    pub fn bump(&self) {
        self.0.count.fetch_add(1, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    /// How many changes there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    /// Waits until there were more than `seen` changes; returns their number.
    pub async fn after(&self, seen: u64) -> u64 {
        loop {
            let mut changed = std::pin::pin!(self.0.notify.notified());
            changed.as_mut().enable();
            let count = self.count();
            if count > seen {
                return count;
            }
            changed.await;
        }
    }
}

/// A source of tools.
///
/// # Behavior
/// - `list` is cheap and gives the same list, by pointer, until it changes; every change is
///   followed by a [`ChangeCounter::bump`] of each watcher.
/// - `call` of a name that is not in `list` is `tool_not_found`.
/// - Arguments that do not fit the tool's schema are `invalid_args`, and nothing has run.
/// - Dropping the work cancels the call.
/// - A call is never repeated once it may have been delivered.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::{CallContext, Toolset, Work};
/// use oxenv_wire::{Tool, ToolError, ToolErrorType, ToolResult};
/// use serde_json::json;
/// use serde_json::value::RawValue;
///
/// /// One tool, which tells how many bytes its arguments have.
/// struct Lengths(Arc<[Tool]>);
///
/// impl Lengths {
///     fn new() -> Self {
///         Lengths(Arc::new([Tool {
///             name: "length".into(),
///             title: None,
///             description: "The bytes of the arguments.".to_owned(),
///             input_schema: json!({ "type": "object" }),
///             output_schema: None,
///             annotations: None,
///             meta: None,
///         }]))
///     }
/// }
///
/// impl Toolset for Lengths {
///     fn name(&self) -> &str {
///         "lengths"
///     }
///
///     fn list(&self) -> Arc<[Tool]> {
///         Arc::clone(&self.0)
///     }
///
///     fn call<'a>(
///         &'a self,
///         _context: CallContext<'a>,
///         tool: &'a str,
///         arguments: Option<&'a RawValue>,
///     ) -> Work<'a, Result<ToolResult, ToolError>> {
///         let length = arguments.map_or(0, |arguments| arguments.get().len());
///         Work::done(match tool {
///             "length" => ToolResult::from_value(&length)
///                 .map_err(|error| ToolError::new(ToolErrorType::ExecutionError, error.to_string())),
///             other => Err(ToolError::not_found(other)),
///         })
///     }
/// }
/// ```
pub trait Toolset: Send + Sync {
    /// Its name, which becomes the prefix where names conflict.
    fn name(&self) -> &str;

    /// Its tools, by the names it knows them by.
    fn list(&self) -> Arc<[Tool]>;

    /// Waits until its first list is known, or is known not to come: see [`Toolset::problem`].
    fn ready(&self) -> Work<'_, ()> {
        Work::done(())
    }

    /// Takes a counter to bump whenever a list has changed.
    fn watch(&self, changes: &ChangeCounter) {
        let _ = changes;
    }

    /// Why it cannot work at present, for people; nothing when it can.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Whether its tools belong to the session or are shared.
    fn scope(&self) -> Scope {
        Scope::Server
    }

    /// Whether its calls may overlap within one session.
    fn concurrent(&self) -> bool {
        true
    }

    /// Whether it checks arguments and results against its tools' schemas itself.
    fn validates(&self) -> bool {
        false
    }

    /// How its state follows a fork of the session.
    fn fork(&self) -> ForkMode {
        ForkMode::Stateless
    }

    /// A toolset with the same state for a fork of the session. Called only if it is forked natively.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] from one that cannot copy itself.
    fn copied(&self) -> Result<Arc<dyn Toolset>, Failure> {
        Err(Failure::unsupported(format!("toolset '{}' cannot copy itself", self.name())))
    }

    /// Ends whatever the new episode with that seed does not continue with, if its author asked for that, and
    /// waits for it: the session's folder is made fresh next, and nothing of the last episode may write there
    /// any more.
    fn end_episode(&self, seeds: EpisodeSeeds) -> Work<'_, ()> {
        let _ = seeds;
        Work::done(())
    }

    /// Makes it ready for a new episode with that seed, as its author asked for.
    fn reset(&self, seeds: EpisodeSeeds) -> Work<'_, Result<(), Failure>> {
        let _ = seeds;
        Work::done(Ok(()))
    }

    /// Ends what it runs for its session, which has ended; nothing waits, later calls fail. What
    /// sessions share is left alone.
    fn close(&self) {}

    /// Calls a tool.
    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>>;

    /// Its offers besides tools.
    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        Arc::default()
    }

    /// Answers a request about what it offers beside tools: `resources/read`, `prompts/get`,
    /// `completion/complete`, `resources/subscribe`, `resources/unsubscribe`, with parameters and
    /// result as MCP spells them.
    fn request<'a>(
        &'a self,
        context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        let _ = (context, parameters);
        Work::done(Err(RequestError::new(RpcCode::MethodNotFound, format!("Method not found: {method}"))))
    }
}
