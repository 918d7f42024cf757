//! The messages of OpenEnv and of its MCP dialect: every body, frame, action spelling, tool and
//! error that crosses a socket, as plain data.
//!
//! Invariant: this crate knows serde and nothing else. It opens no socket, runs no task and holds
//! no state, so whatever it can express is exactly what a peer can send or receive. The set of
//! messages is held by the golden files under `tests/golden/`.
//!
//! Reading goes `text → `[`Object`]` → typed request`, borrowing from the text; what is not read
//! (arguments, typed actions) stays raw. Writing appends to one `String` per reply.
//!
//! Python's dialect of JSON has a defined answer everywhere:
//!
//! | input | answer |
//! |---|---|
//! | `NaN`, `Infinity`, `-Infinity` | refused as invalid JSON (RFC 8259 has no such numbers) |
//! | a lone surrogate (`"\ud800"`) | refused where the string is read; it is not a Unicode character |
//! | an integer beyond 64 bits | passed on unchanged while raw; refused where a number is needed |
//! | nesting deeper than 128 levels | passed on unchanged while raw; refused where it is read |
//! | the same key twice in one object | refused: an ambiguous message is never guessed at |

mod action;
mod body;
mod code;
mod error;
mod fault;
mod fingerprint;
mod fork;
mod frame;
mod graph;
mod issue;
mod json;
mod mcp;
mod multi;
mod outcome;
mod preview;
mod readable;
mod reply;
mod result;
mod reward;
mod scan;
mod seconds;
mod shape;
mod task;
mod template;
mod tool;

pub use action::{Action, Spelling, ToolCall, default_call, legacy_message};
pub use body::{
    Health, Metadata, Ready, ResetRequest, Schemas, SessionCreate, SessionCreated, SessionInfo,
    SessionProgress, StepRequest, ToolsetProblem,
};
pub use code::{CodeCall, CodeException, CodeOutcome, CodePart, write_code_fields};
pub use error::{Delivered, ErrorCode, ErrorTraits, FailureKind, Phase, ToolErrorType};
pub use fault::JsonError;
pub use fingerprint::fingerprint;
pub use fork::{ForkRequest, Forked, RestoreRequest, SessionSnapshot};
pub use frame::{ClientFrame, FrameError};
pub use graph::{CallGraph, GraphCall, MAX_GRAPH_CALLS};
pub use issue::{Loc, ValidationIssue, render_issues};
pub use json::{Json, Object, ParseError, RawJson, empty_object, python_repr, raw, read};
pub use mcp::{
    McpEra, RpcCode, RpcError, RpcId, RpcParams, RpcRequest, ToolCallParams, write_mcp_call, write_mcp_tools,
    write_rpc_error, write_rpc_result,
};
pub use multi::{
    BatchItem, BatchRequest, MAX_BATCH_ITEMS, MULTI_PROTOCOL, MultiError, MultiFrame, MultiFrameError,
    MultiReply, MultiRequest, MultiWork, Operation, ReplyHead, ReplyKind, write_batch_data,
    write_multi_error, write_multi_reply,
};
pub use outcome::{CallOutcome, call_metadata, graph_metadata, write_call_fields, write_graph_fields};
pub use preview::{panic_text, preview};
pub use readable::{check_readable, exceeds_values};
pub use reply::{
    ErrorData, ObservationParts, write_error_frame, write_mcp_frame, write_observation_body,
    write_observation_data, write_observation_frame, write_state_frame,
};
pub use result::{Content, Structured, ToolResult};
pub use reward::Reward;
pub use seconds::{Seconds, after};
pub use task::{EnvironmentTasks, NumTasks, OneTask, RangeRequest, Split, SplitRequest, TaskRequest, Tasks};
pub use template::{FillBudget, FillError, MAX_REFERENCES, Reference, Template, TooManyReferences};
pub use tool::{RESERVED_TOOL_NAMES, Tool, ToolError, ToolSpelling};
