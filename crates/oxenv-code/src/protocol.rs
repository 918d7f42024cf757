//! What a server and a worker say to each other.
//!
//! A worker says [`WorkerReply::Hello`] when it is started. Then each [`WorkerRequest`] has a reply. While a
//! program runs, its worker may ask for tool calls with [`WorkerReply::Call`], each of which is answered by a
//! request of its own.
//!
//! Invariant: both ends are of one version: another one's hello is refused before anything is sent to it.

use std::borrow::Cow;

use oxenv_wire::{CodeException, CodePart, RawJson};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::signature::Signature;

/// The version of these messages.
pub(crate) const PROTOCOL: u32 = 1;

/// What a server asks of a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerRequest<'a> {
    /// Begin without variables.
    Open(OpenRequest),
    /// Go on from variables that were saved, which follow as a frame of bytes.
    Restore(RestoreRequest),
    /// Run a program.
    #[serde(borrow)]
    Run(RunRequest<'a>),
    /// The value that a tool call gave.
    Return(&'a RawValue),
    /// The exception that a tool call raises.
    Raise(Cow<'a, str>),
    /// The program has made too many calls: an exception that it cannot catch.
    Refuse(Cow<'a, str>),
    /// Save the variables, if they have no more bytes than that: the reply is [`WorkerReply::Saved`], and a
    /// frame of bytes.
    Save { room: u64 },
}

/// What an interpreter begins with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenRequest {
    pub(crate) seed: u64,
    /// Bytes.
    pub(crate) memory: usize,
    pub(crate) recursion: usize,
}

/// What an interpreter that goes on from saved variables gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RestoreRequest {
    /// The bytes of the frame that follows.
    pub(crate) bytes: usize,
}

/// A program with its limits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunRequest<'a> {
    #[serde(borrow)]
    pub(crate) code: Cow<'a, str>,
    /// Microseconds of wall time until it is interrupted.
    pub(crate) time_us: u64,
    /// What the exception says that interrupts it.
    #[serde(borrow)]
    pub(crate) too_late: Cow<'a, str>,
    /// Bytes of each part of the outcome.
    pub(crate) output: usize,
    /// The tools; absent: those of the last program.
    pub(crate) tools: Option<Vec<Signature>>,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerReply<'a> {
    /// It is there.
    Hello(Hello),
    /// An interpreter is open.
    Ready,
    /// The program calls a tool.
    #[serde(borrow)]
    Call(CallRequest<'a>),
    /// The program is over.
    Done(Box<ProgramEnd>),
    /// The variables follow as a frame of bytes.
    Saved,
    /// What was asked for cannot be done.
    #[serde(borrow)]
    Failed(Cow<'a, str>),
}

/// A worker's version.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    /// That of its interpreter.
    pub(crate) monty: String,
}

/// A tool call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallRequest<'a> {
    #[serde(borrow)]
    pub(crate) tool: Cow<'a, str>,
    /// An object.
    #[serde(borrow)]
    pub(crate) arguments: &'a RawValue,
}

/// What became of a program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ProgramEnd {
    pub(crate) stdout: String,
    pub(crate) exit_code: i32,
    pub(crate) result: Option<RawJson>,
    pub(crate) error: Option<ProgramError>,
    pub(crate) truncated: Vec<TruncatedPart>,
}

/// The exception that ended a program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProgramError {
    pub(crate) error_type: String,
    pub(crate) message: String,
    pub(crate) traceback: String,
}

/// A part of the outcome that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TruncatedPart {
    Stdout,
    Result,
    Error,
}

impl From<ProgramError> for CodeException {
    fn from(error: ProgramError) -> Self {
        CodeException { error_type: error.error_type, message: error.message, traceback: error.traceback }
    }
}

impl From<TruncatedPart> for CodePart {
    fn from(part: TruncatedPart) -> Self {
        match part {
            TruncatedPart::Stdout => CodePart::Stdout,
            TruncatedPart::Result => CodePart::Result,
            TruncatedPart::Error => CodePart::Error,
        }
    }
}
