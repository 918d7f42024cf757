//! Environments, toolsets and sessions: everything that happens between a door and an
//! environment, without knowing which door.
//!
//! Invariant: this crate knows no HTTP, no MCP transport, no database and no container, and a panic
//! in an environment ends its session, never the process.
//!
//! An author writes a [`TypedEnvironment`] and wraps it in [`typed`], or implements [`Environment`]
//! and [`EnvironmentFactory`] by hand; [`contract::check`] reports whether it keeps the rules. A
//! door asks a [`SessionStore`] for a [`Session`] and calls its `reset`, `step`, `call` and
//! `state`.

pub mod contract;

mod audit;
mod capabilities;
mod code;
mod descriptors;
mod end_reason;
mod environment;
mod failure;
pub mod folders;
mod graph;
mod idempotency;
mod mac;
mod native;
mod observe;
mod output_log;
mod policy;
mod principal;
mod record;
mod registry;
pub mod render;
mod reply;
pub mod rubric;
mod seed;
mod session;
mod slots;
mod snapshot;
mod snapshot_room;
mod spec;
mod store;
mod tape;
mod tasks;
mod tool_environment;
mod tool_schemas;
mod toolbox;
mod toolset;
mod typed;
mod work;
mod workspace;

pub use audit::{AuditOutcome, AuditRecord, AuditSink, Decision, MemoryAudit, utc_micros};
pub use capabilities::{Capabilities, Execution, ForkMode};
pub use code::{CodeAbilities, CodeContext, CodeEngine, CodeLimits, CodeTools, Interpreter, Program};
pub use descriptors::{descriptor_limit, open_descriptors};
pub use end_reason::EndReason;
pub use environment::{CallRecord, Environment, Observed, Reset};
pub use failure::{Failure, FailureDetail};
pub use idempotency::{Idempotency, IdempotentReply};
pub use mac::MacKey;
pub use native::NativeToolset;
pub use observe::{CallError, ObservedCall, Observer, Operation, OperationKind, TraceContext};
pub use output_log::{Output, OutputLog};
pub use policy::{
    ArgumentRefusal, Buckets, ConsideredRule, Explanation, Policy, PolicyError, RateLimit, RateScope,
    RetryAfter, RoleRules, Rules, Verdict,
};
pub use principal::Principal;
pub use record::{CallEntry, RecordEntry, RecordEvent, RecordedOutcome, Recorder, SessionOrigin};
pub use reply::{CallReply, CodeReply, GraphReply, StepReply, ToolListing};
pub use rubric::{
    Judge, JudgeAnswer, JudgeQuestion, Judges, Rubric, RubricError, RubricFactory, RubricSpec, Score, scored,
};
pub use seed::{EpisodeSeeds, derive_seed};
pub use session::{
    AgentCall, Attachment, ResetOptions, Session, SessionOperation, SessionOptions, SessionRequest,
};
pub use snapshot::{SealedSnapshot, SnapshotKey, SnapshotKeySource};
pub use snapshot_room::SnapshotRoom;
pub use spec::{
    ActionSpace, CopySource, EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec,
    EpisodeCall,
};
pub use store::{OpenKey, SessionIds, SessionSource, SessionStore, StoreLimits, StoreStatus};
pub use tasks::{TaskError, TaskList, TaskSource};
pub use tool_environment::{ToolEnvironment, tool_environment};
pub use tool_schemas::tool_schemas;
pub use toolbox::{
    Auditor, CallRequest, CatalogueCache, Mount, Naming, Offered, Redact, ResolvedTool, Toolbox,
};
pub use toolset::{
    CallContext, CallNotification, CallerChannel, ChangeCounter, RequestError, ResourcesAndPrompts, Scope,
    Toolset,
};
pub use typed::{Step, TypedEnvironment, TypedFactory, typed};
pub use work::Work;
pub use workspace::{Workspace, WorkspaceLimits, WorkspaceSource, Workspaces};
