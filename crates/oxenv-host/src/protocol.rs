//! Messages to `worker.py` and its answers, as JSON.
//!
//! Invariant: `worker.py` documents the frames; this file is their only other description.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use oxenv_wire::{Reward, ToolErrorType};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// What to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostSource {
    /// The folder of the environment; absent when only a name on Python's path is given.
    pub folder: Option<PathBuf>,
    /// The package's name, if a manifest gives it.
    pub name: Option<String>,
    /// `package.module:Name`: a class, a factory, an instance or an application; absent: what the folder
    /// has.
    pub target: Option<String>,
    /// The action's class as `package.module:Name`; absent: as annotated.
    pub action: Option<String>,
    /// The observation's class; absent: as annotated.
    pub observation: Option<String>,
    /// The state's class; absent: as annotated.
    pub state: Option<String>,
    /// What stands first on Python's path when there is no folder; absent: the present folder.
    pub path: Option<PathBuf>,
}

/// A request to a template.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum TemplateRequest<'a> {
    /// Import the environment.
    Load {
        #[serde(flatten)]
        source: &'a HostSource,
        /// Where a worker writes its output to once it has imported the environment.
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<&'a Path>,
        #[serde(flatten)]
        place: WorkerPlace<'a>,
    },
    /// Fork a child for one session, which connects to a socket.
    Fork {
        worker: u64,
        socket: &'a Path,
        #[serde(flatten)]
        place: WorkerPlace<'a>,
    },
    /// Serve one session in a thread, which connects to a socket.
    Thread { worker: u64, socket: &'a Path },
    /// End a child.
    Kill { worker: u64 },
    /// End itself, and all children.
    End,
}

/// Where a worker runs.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct WorkerPlace<'a> {
    /// Its working directory; absent: as inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<&'a Path>,
    /// Its folder for temporary files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temporary: Option<&'a Path>,
    /// Whether it leaves the machine's network, before it runs anything of the environment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) without_network: bool,
    /// What it limits for itself.
    pub(crate) limits: WorkerLimits,
    /// Files in which it enters its number, before it runs anything of the environment.
    #[serde(skip_serializing_if = "<[PathBuf]>::is_empty")]
    pub(crate) groups: &'a [PathBuf],
}

/// A folder, and the path at which a process sees it; written as a pair.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShownFolder {
    pub(crate) path: PathBuf,
    pub(crate) shown_at: PathBuf,
}

impl Serialize for ShownFolder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.path, &self.shown_at).serialize(serializer)
    }
}

/// What one worker, and what it starts, may use; absent: as much as there is.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct WorkerLimits {
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Seconds of CPU time, of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Processes and threads at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// A request to the worker of a session.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum SessionRequest<'a> {
    /// Answer that it is there.
    Ping,
    Create {
        seed: u64,
        mode: &'a str,
    },
    Reset {
        seed: u64,
        episode_id: &'a str,
        arguments: &'a RawValue,
    },
    Step {
        action: &'a RawValue,
    },
    Call {
        tool: &'a str,
        arguments: &'a RawValue,
    },
    Task {
        method: &'a str,
        arguments: &'a [Value],
    },
    /// Fork a process that goes on from the present state and connects to a socket.
    Copy {
        worker: u64,
        socket: &'a Path,
    },
    /// Enter the groups and folders of a copy: its first request.
    Enter {
        groups: &'a [PathBuf],
        /// Folders, each with the path at which it is shown.
        folders: &'a [ShownFolder],
    },
    /// Close the environment, and be ready for another session's.
    Release {
        /// Where its output goes from now on.
        log: &'a Path,
        #[serde(flatten)]
        place: WorkerPlace<'a>,
    },
    Close,
}

/// A message of a template or a worker.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply<'a> {
    /// The request was done.
    #[serde(borrow)]
    Ok(Success<'a>),
    /// It was not.
    Error(WorkerError),
    /// A template's alone, and no reply: a child has ended.
    Exited(ChildExit),
}

/// How a child of the template ended.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ChildExit {
    /// The worker's number.
    pub(crate) worker: u64,
    /// Python's spelling: an exit code, or minus a signal's number; absent when it was not started.
    pub(crate) status: Option<i32>,
    /// Why it was not started.
    pub(crate) error: Option<String>,
}

/// The result of a request; which part is there follows from the request.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Success<'a> {
    pub(crate) loaded: Option<Box<Loaded>>,
    pub(crate) created: Option<Box<Created>>,
    #[serde(borrow)]
    pub(crate) observed: Option<ObservedReply<'a>>,
    #[serde(borrow)]
    pub(crate) call: Option<CallReply<'a>>,
    pub(crate) task: Option<TaskReply>,
    #[serde(borrow)]
    pub(crate) state: Option<StateReply<'a>>,
}

/// The answer to a question about tasks.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskReply {
    Value(Value),
    /// It raised an IndexError.
    OutOfRange,
    /// It has no such method.
    Unsupported,
}

/// The imported environment.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Loaded {
    /// The name that the application gives it.
    pub(crate) name: Option<String>,
    /// The class.
    pub(crate) title: String,
    pub(crate) schemas: LoadedSchemas,
    /// The version of Python.
    pub(crate) python: String,
    /// Notes to print at the start, for people.
    pub(crate) notes: Vec<String>,
    /// Threads of the template after the import.
    pub(crate) threads: usize,
    /// Whether the import initialised CUDA, with which no process can be forked.
    pub(crate) cuda: bool,
}

/// JSON Schemas of the environment's models.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct LoadedSchemas {
    pub(crate) action: Value,
    pub(crate) observation: Value,
    pub(crate) reset_observation: Value,
    pub(crate) state: Value,
}

/// A new environment's description of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Created {
    pub(crate) tools: Vec<ListedTool>,
    /// Whether its actions are tool calls, and nothing else.
    pub(crate) takes_tool_calls: bool,
    pub(crate) metadata: Option<Metadata>,
    /// Whether it has a method of OpenEnv's Task API.
    pub(crate) tasks: bool,
}

/// A tool as the environment lists it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct ListedTool {
    pub(crate) name: String,
    pub(crate) description: String,
    #[serde(rename = "inputSchema")]
    pub(crate) input_schema: Value,
    #[serde(rename = "outputSchema", default)]
    pub(crate) output_schema: Option<Value>,
    #[serde(default)]
    pub(crate) title: Option<String>,
    #[serde(default)]
    pub(crate) annotations: Option<Value>,
}

/// OpenEnv's EnvironmentMetadata.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) readme_content: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) author: Option<String>,
    pub(crate) documentation_url: Option<String>,
}

/// An observation in its parts.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct ObservedReply<'a> {
    #[serde(borrow)]
    pub(crate) fields: &'a RawValue,
    #[serde(borrow)]
    pub(crate) metadata: &'a RawValue,
    pub(crate) reward: Option<Reward>,
    pub(crate) done: bool,
}

/// The outcome of a tool call, and its reward.
#[derive(Deserialize)]
pub(crate) struct CallReply<'a> {
    #[serde(borrow)]
    pub(crate) result: Option<&'a RawValue>,
    pub(crate) error: Option<CallError>,
    pub(crate) reward: Option<Reward>,
    pub(crate) done: bool,
}

/// An error of a tool, in the reference's types.
#[derive(Deserialize)]
pub(crate) struct CallError {
    pub(crate) error_type: ToolErrorType,
    pub(crate) message: String,
}

/// The state, or why it is missing.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateReply<'a> {
    #[serde(borrow)]
    Fields(&'a RawValue),
    #[serde(borrow)]
    Error(Cow<'a, str>),
}

/// Why a request failed.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkerError {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    /// Python's traceback.
    #[serde(default)]
    pub(crate) trace: Option<String>,
    /// The module that could not be found.
    #[serde(default)]
    pub(crate) module: Option<String>,
    /// pydantic's list.
    #[serde(default)]
    pub(crate) issues: Vec<PydanticIssue>,
}

/// Where the fault of a failed request lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorKind {
    /// An exception of the environment's.
    Environment,
    /// The reward is not a number, or infinite.
    Reward,
    /// The action does not fit its model.
    Invalid,
    /// The environment has no such method.
    Unsupported,
    /// The environment cannot be served, or the request was wrong.
    Host,
    /// A module is not installed.
    MissingModule,
    /// The import failed.
    Import,
}

/// One of pydantic's errors.
#[derive(Debug, Deserialize)]
pub(crate) struct PydanticIssue {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) loc: Vec<Value>,
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) input: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) ctx: Option<Value>,
    #[serde(default)]
    pub(crate) url: Option<String>,
}
