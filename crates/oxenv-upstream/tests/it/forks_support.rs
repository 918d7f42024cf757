//! What the tests of forks share: sessions of a manifest's tools, and a toolset that copies itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use oxenv_core::{
    AgentCall, AuditSink, Auditor, CallContext, CopySource, EnvironmentContext, EnvironmentFactory,
    EnvironmentInstance, EpisodeCall, Failure, ForkMode, MemoryAudit, ResetOptions, Session, SessionOptions,
    SessionRequest, SessionStore, SnapshotKey, SnapshotKeySource, SnapshotRoom, StepReply, StoreLimits,
    Toolset, Work, WorkspaceSource, Workspaces,
};
use oxenv_process::child::base_environment;
use oxenv_upstream::manifest::Manifest;
use oxenv_upstream::{FactoryOptions, ManagerOptions, ToolFactory, UpstreamManager};
use oxenv_wire::{Tool, ToolError, ToolResult, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::upstream_support::{python, supervisor};

/// Functions that keep something in memory, and in files of the folder they run in.
const TOOLS: &str = r#"
import os, pathlib, random, time

TOTAL = [0]

def add(n: int):
    TOTAL[0] += n
    return TOTAL[0]

def fail():
    TOTAL[0] += 100
    raise ValueError("not today")

def lot():
    return random.random()

def slow():
    if TOTAL[0] == 0:
        TOTAL[0] = -1
        return "done"
    time.sleep(60)

def seed():
    return os.environ["SEED"]

def where():
    return os.getcwd()

def write(path: str, text: str):
    return pathlib.Path(path).write_text(text)

def read(path: str):
    return pathlib.Path(path).read_text()
"#;

/// The key of the snapshots of all servers here.
const KEY: &[u8] = b"a key that servers of tests share";

/// A server of tools with a folder of its own.
pub(crate) struct Tools {
    pub(crate) factory: Arc<ToolFactory>,
    pub(crate) manager: Arc<UpstreamManager>,
    pub(crate) store: SessionStore,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) audit: Arc<MemoryAudit>,
}

/// The entry of a toolset of these functions.
pub(crate) fn functions(name: &str, more: &str) -> String {
    format!("  - name: {name}\n    mcp_server: {{ transport: python, path: tools.py }}\n{more}")
}

/// The entry of a toolset that is compiled in and copies itself.
pub(crate) fn tally(name: &str, more: &str) -> String {
    format!("  - name: {name}\n    mcp_server: {{ transport: builtin, toolset: tally }}\n{more}")
}

impl Tools {
    pub(crate) fn new(entries: &[String]) -> Self {
        Self::with(entries, None, WorkspaceSource::Empty)
    }

    pub(crate) fn with(
        entries: &[String],
        base: Option<Arc<dyn EnvironmentFactory>>,
        source: WorkspaceSource,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("forks-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("tools.py"), TOOLS).unwrap();
        let text = format!("tools:\n{}", entries.concat());
        let (manifest, _) = Manifest::parse(&text, Some(&folder.join("tools.yaml")), &|_| None)
            .unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        let mut base_environment = base_environment(&|name| std::env::var(name).ok());
        base_environment.retain(|(name, _)| name != "TMPDIR" && name != "PATH");
        base_environment.push(("TMPDIR".into(), folder.clone().into()));
        let beside = std::path::Path::new(python()).parent().unwrap();
        base_environment.push(("PATH".into(), format!("{}:/usr/bin:/bin", beside.display()).into()));
        let options = ManagerOptions {
            supervisor: supervisor(),
            base_environment,
            concurrency: 4,
            discover_scope: true,
            reload: false,
            warm: 0,
            builtin: Arc::new(|name| {
                (name == "tally").then(|| Arc::new(Tally::default()) as Arc<dyn Toolset>)
            }),
        };
        let manager = UpstreamManager::new(manifest.clone(), options);
        let workspaces = Arc::new(Workspaces::new(&folder.join("sessions"), source).unwrap());
        let audit = Arc::new(MemoryAudit::default());
        let sink = Arc::clone(&audit) as Arc<dyn AuditSink>;
        let auditor = Auditor::new(sink, false, Arc::new(ToOwned::to_owned));
        let options =
            FactoryOptions { base, name: "tools".into(), workspaces, auditor: Some(Arc::new(auditor)) };
        let factory = Arc::new(ToolFactory::new(&manifest, Arc::clone(&manager), options).unwrap());
        let limits = StoreLimits { seed: Some(1), ..StoreLimits::default() };
        let store = SessionStore::new(Arc::clone(&factory) as Arc<dyn EnvironmentFactory>, limits)
            .with_snapshot_key(SnapshotKey::new(KEY, SnapshotKeySource::File));
        Tools { factory, manager, store, folder, audit }
    }

    pub(crate) async fn session(&self) -> Arc<Session> {
        let session = self.store.create(SessionOptions::default()).await.unwrap();
        reset(&session).await;
        session
    }

    pub(crate) async fn fork(&self, session: &Arc<Session>, n: usize) -> Vec<Arc<Session>> {
        self.store.fork(session, n, SessionOptions::default()).await.unwrap()
    }

    /// Asks the factory itself for a fork, after these calls.
    pub(crate) async fn refused(
        &self,
        instance: &mut EnvironmentInstance,
        calls: &[EpisodeCall],
    ) -> (Failure, Failure) {
        let boot = || EnvironmentContext::new(uuid(), 1);
        let forked = self.factory.fork(boot(), original(instance, calls)).await;
        let saved = self.factory.save(original(instance, calls)).await;
        (forked.map(drop).unwrap_err(), saved.map(drop).unwrap_err())
    }

    pub(crate) async fn instance(&self) -> EnvironmentInstance {
        self.factory.create(EnvironmentContext::new(uuid(), 1)).await.unwrap()
    }

    /// The folders of its sessions.
    pub(crate) fn workspaces(&self) -> usize {
        let roots = std::fs::read_dir(self.folder.join("sessions")).unwrap().flatten();
        let inside = roots.flat_map(|root| std::fs::read_dir(root.path()).unwrap().flatten());
        inside.filter(|entry| entry.path().is_dir()).count()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = oxenv_core::folders::remove(&self.folder);
    }
}

pub(crate) fn uuid() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("00000000-0000-4000-8000-{:012}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn original<'a>(
    instance: &'a mut EnvironmentInstance,
    calls: &'a [EpisodeCall],
) -> CopySource<'a> {
    CopySource {
        session_id: "original",
        environment: instance.environment.as_mut(),
        toolbox: &instance.toolbox,
        workspace: instance.workspace.as_ref(),
        calls,
        room: SnapshotRoom::default(),
    }
}

/// What an agent's call gives: its data, or its error's message.
pub(crate) async fn call(session: &Arc<Session>, tool: &str, arguments: Value) -> Value {
    let arguments = raw(&arguments).unwrap();
    let call = AgentCall { name: tool.into(), arguments: Some(&arguments), ..AgentCall::default() };
    let reply = session.submit(SessionRequest::call(call)).await.into_outcome().unwrap();
    let StepReply::Call { reply, .. } = reply else { panic!("no result: {reply:?}") };
    match reply.outcome {
        Ok(result) if result.is_error => json!(result.text()),
        Ok(result) => serde_json::from_str(result.data()).unwrap_or(Value::Null),
        Err(error) => json!(error.message),
    }
}

/// A toolset with a count that copies itself.
#[derive(Default)]
struct Tally(AtomicU64);

impl Toolset for Tally {
    fn name(&self) -> &str {
        "tally"
    }

    fn list(&self) -> Arc<[Tool]> {
        static TOOLS: OnceLock<Arc<[Tool]>> = OnceLock::new();
        let tool = || Tool {
            name: "tick".into(),
            title: None,
            description: "Counts.".into(),
            input_schema: json!({ "type": "object" }),
            output_schema: None,
            annotations: None,
            meta: None,
        };
        TOOLS.get_or_init(|| Arc::new([tool()])).clone()
    }

    fn fork(&self) -> ForkMode {
        ForkMode::Native
    }

    fn copied(&self) -> Result<Arc<dyn Toolset>, Failure> {
        Ok(Arc::new(Tally(AtomicU64::new(self.0.load(Ordering::Relaxed)))))
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        _tool: &'a str,
        _arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let count = 1 + self.0.fetch_add(1, Ordering::Relaxed);
        Work::done(Ok(ToolResult::from_value(&count).unwrap()))
    }
}

/// A reset that must succeed.
pub(crate) async fn reset(session: &Arc<Session>) {
    session.submit(SessionRequest::reset(ResetOptions::default())).await.into_outcome().unwrap();
}

/// Tool and decision of each call that was recorded.
pub(crate) fn decisions(tools: &Tools) -> Vec<(String, String)> {
    let part = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
    tools.audit.records().iter().map(|record| (part(record, "tool"), part(record, "decision"))).collect()
}
