//! What the tests of upstreams share: managers of small manifests, and callers that record.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use oxenv_core::{
    CallContext, CallNotification, CallerChannel, EpisodeSeeds, Failure, Principal, RequestError, Toolset,
    Work,
};
use oxenv_process::child::{Supervisor, base_environment};
use oxenv_test_support::until;
use oxenv_upstream::manifest::Manifest;
use oxenv_upstream::{ManagerOptions, SessionContext, UpstreamManager};
use oxenv_wire::{ToolError, ToolResult};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The secret in the environment of every server of a stage.
pub(crate) const TOKEN: &str = "hunter2-hunter2";

/// A manager of upstreams with a folder of its own, and a mark on each of its processes.
pub(crate) struct Stage {
    pub(crate) manager: Arc<UpstreamManager>,
    pub(crate) folder: PathBuf,
    pub(crate) mark: String,
}

/// The program of `tests/servers/stdio.rs`.
pub(crate) fn stdio_server() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().parent().unwrap().join("examples/upstream-stdio")
}

pub(crate) fn supervisor() -> Supervisor {
    Supervisor::new(stdio_server(), ["supervise"])
}

/// The interpreter itself: what stands for it on PATH may be a slow script.
pub(crate) fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let asked =
            std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        String::from_utf8(asked.unwrap().stdout).unwrap().trim().to_owned()
    })
}

/// The entry of a server that misbehaves as told.
pub(crate) fn odd(name: &str, mode: &str, more: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/odd.py");
    let python = python();
    format!(
        "  - name: {name}\n    mcp_server:\n      command: {python}\n      args: [\"-S\", \"{script}\", \
         \"{mode}\"]\n      env: {{ MARK: \"@MARK@\", TOKEN: \"${{TOKEN}}\" }}\n{more}"
    )
}

impl Stage {
    /// A stage whose manifest has these entries.
    pub(crate) fn new(entries: &[String]) -> Self {
        Self::with(entries, 4, 1)
    }

    pub(crate) fn with(entries: &[String], concurrency: usize, warm: usize) -> Self {
        Self::build(entries, None, concurrency, warm, true)
    }

    /// A stage as a server in production mode has it.
    pub(crate) fn in_production(entries: &[String]) -> Self {
        Self::build(entries, None, 4, 1, false)
    }

    /// A stage whose folder holds a file.
    pub(crate) fn new_with_file(entries: &[String], name: &str, text: &str) -> Self {
        Self::build(entries, Some((name, text)), 4, 1, true)
    }

    fn build(
        entries: &[String],
        file: Option<(&str, &str)>,
        concurrency: usize,
        warm: usize,
        discover_scope: bool,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("stage-{}-{count}", std::process::id());
        let folder = temporary().join(&mark);
        std::fs::create_dir_all(&folder).unwrap();
        if let Some((name, text)) = file {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let entries = entries.concat().replace("@MARK@", &mark).replace("@FOLDER@", folder.to_str().unwrap());
        let text = if entries.is_empty() { "tools: []".to_owned() } else { format!("tools:\n{entries}") };
        let lookup = |name: &str| (name == "TOKEN").then(|| TOKEN.to_owned());
        let parsed = Manifest::parse(&text, Some(&folder.join("tools.yaml")), &lookup);
        let (manifest, _) = parsed.unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        let mut base = base_environment(&|name| std::env::var(name).ok());
        base.retain(|(name, _)| name != "TMPDIR");
        base.push(("TMPDIR".into(), folder.clone().into()));
        let options = ManagerOptions {
            supervisor: supervisor(),
            base_environment: base,
            concurrency,
            discover_scope,
            reload: false,
            warm,
            builtin: Arc::new(|_| None),
        };
        Stage { manager: UpstreamManager::new(manifest, options), folder, mark }
    }

    /// The toolsets of a new session with that number.
    pub(crate) fn session(&self, number: u64) -> Vec<Arc<dyn Toolset>> {
        let workspace = self.folder.join(format!("workspace-{number}"));
        std::fs::create_dir_all(&workspace).unwrap();
        let (session_id, known_as) = (format!("s{number}"), workspace.clone());
        self.manager.open_session(SessionContext {
            session_id,
            seeds: EpisodeSeeds::before_reset(number),
            workspace,
            known_as,
            running: tokio_util::task::TaskTracker::new(),
        })
    }

    /// How many of its processes live, supervisors included.
    pub(crate) fn processes(&self) -> usize {
        self.commands().len()
    }

    /// The command lines of its living processes.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.marked().into_values().collect()
    }

    /// Its living processes by their ids, each with its command line.
    pub(crate) fn marked(&self) -> HashMap<u32, String> {
        let needle = format!("MARK={}\0", self.mark);
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let marked = processes.filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.windows(needle.len()).any(|part| part == needle.as_bytes())
        });
        let numbered = |entry: std::fs::DirEntry| {
            Some((entry.file_name().to_str()?.parse().ok()?, command_line(&entry.path())))
        };
        marked.filter_map(numbered).collect()
    }

    /// Waits until none of its processes lives.
    pub(crate) async fn emptied(&self) {
        until("all processes have ended", || self.processes() == 0).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = oxenv_core::folders::remove(&self.folder);
    }
}

fn command_line(process: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).unwrap_or_default()).replace('\0', " ")
}

/// A folder in memory where there is one: a disk takes long to make and remove many folders.
fn temporary() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Does with a toolset what a session's reset does.
pub(crate) async fn reset_toolset(toolset: &Arc<dyn Toolset>, seeds: EpisodeSeeds) -> Result<(), Failure> {
    toolset.end_episode(seeds).await;
    toolset.reset(seeds).await
}

/// Calls a tool without a caller that listens.
pub(crate) async fn call(
    toolset: &Arc<dyn Toolset>,
    tool: &str,
    arguments: Value,
) -> Result<ToolResult, ToolError> {
    call_as(toolset, None, tool, arguments).await
}

pub(crate) async fn call_as(
    toolset: &Arc<dyn Toolset>,
    caller: Option<&dyn CallerChannel>,
    tool: &str,
    arguments: Value,
) -> Result<ToolResult, ToolError> {
    let context = CallContext { caller, ..CallContext::sessionless(Principal::Agent) };
    let arguments = oxenv_wire::raw(&arguments).unwrap();
    toolset.call(context, tool, Some(&arguments)).await
}

/// Calls a tool that answers with text.
pub(crate) async fn say(toolset: &Arc<dyn Toolset>, tool: &str) -> String {
    call(toolset, tool, json!({})).await.unwrap().text()
}

/// A caller that records what it hears, and answers questions with what it was asked.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<String>>);

impl CallerChannel for Recorder {
    fn tell(&self, note: CallNotification) {
        self.0.lock().push(match note {
            CallNotification::Progress { progress, total, message } => {
                format!("{progress}/{total:?} {message:?}")
            }
            CallNotification::Log { level, logger, data } => format!("{level} {logger:?} {data}"),
        });
    }

    fn ask<'a>(&'a self, method: &'a str, parameters: Value) -> Work<'a, Result<Value, RequestError>> {
        Work::done(Ok(json!({ "method": method, "parameters": parameters })))
    }
}
