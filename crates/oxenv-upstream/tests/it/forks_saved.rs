//! Sessions of tools as bytes: restored here, restored elsewhere, and refused where they do not belong.

use std::sync::Arc;

use oxenv_core::{
    ActionSpace, Capabilities, EnvironmentContext, EnvironmentFactory, EnvironmentSpec, Failure, ForkMode,
    Reset, Session, SessionOptions, SessionRequest, Step, StepReply, TypedEnvironment, WorkspaceSource,
    typed,
};
use oxenv_test_support::until;
use oxenv_wire::{Action, ErrorCode, raw};
use serde_json::json;

use crate::forks_support::*;

const WORKSPACE: &str = "    on_fork: workspace\n";
const REPLAY: &str = "    on_fork: replay\n    on_reset: restart\n";

async fn saved(tools: &Tools) -> (String, String) {
    let session = tools.session().await;
    let folder = call(&session, "where", json!({})).await;
    let path = format!("{}/note.txt", folder.as_str().unwrap());
    call(&session, "write", json!({ "path": &path, "text": "saved" })).await;
    call(&session, "memory__add", json!({ "n": 5 })).await;
    let snapshot = tools.store.snapshot(&session).await.unwrap();
    call(&session, "write", json!({ "path": &path, "text": "later" })).await;
    (snapshot, path)
}

async fn goes_on(session: &Arc<Session>, path: &str) {
    assert_eq!(call(session, "read", json!({ "path": path })).await, "saved");
    assert_eq!(call(session, "memory__add", json!({ "n": 1 })).await, 6);
    assert_eq!((session.info().epoch, session.info().step_count), (1, 5));
}

#[tokio::test]
async fn a_saved_session_goes_on_here_and_elsewhere() {
    let entries = [functions("files", WORKSPACE), functions("memory", REPLAY)];
    let (tools, elsewhere) = (Tools::new(&entries), Tools::new(&entries));
    assert!(tools.factory.spec().capabilities.snapshot);
    let (snapshot, path) = saved(&tools).await;
    let here = tools.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    goes_on(&here, &path).await;
    drop(tools);
    let there = elsewhere.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    goes_on(&there, &path).await;
    let fork = elsewhere.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    goes_on(&fork, &path).await;
    reset(&there).await;
    assert!(call(&there, "read", json!({ "path": &path })).await.as_str().unwrap().contains("No such file"));
}

#[tokio::test]
async fn another_manifest_refuses_it_and_tells_the_difference() {
    let entries = [functions("files", WORKSPACE), functions("memory", REPLAY)];
    let tools = Tools::new(&entries);
    let (snapshot, _) = saved(&tools).await;
    for (entries, says) in [
        (
            vec![functions("files", WORKSPACE)],
            "they are of a session with a toolset 'memory', and here is none",
        ),
        (
            vec![functions("files", WORKSPACE), functions("memory", WORKSPACE)],
            "they are of a session whose toolset 'memory' had on_fork: replay, and here it has workspace",
        ),
        (
            [&entries[..], &[functions("more", WORKSPACE)]].concat(),
            "they are of a session without the toolset 'more' that is here",
        ),
    ] {
        let other = Tools::new(&entries);
        let failure = other.store.restore(&snapshot, SessionOptions::default()).await.map(drop).unwrap_err();
        assert_eq!(failure.code, ErrorCode::SnapshotInvalid);
        assert_eq!(failure.message, format!("these bytes cannot be restored here: {says}"));
        assert_eq!(other.store.status().active, 0);
        until("its folder is gone", || other.workspaces() == 0).await;
    }
    let shared = Tools::with(&entries, None, WorkspaceSource::Shared(tools.folder.clone()));
    let failure = shared.store.restore(&snapshot, SessionOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Unsupported, "{failure}");
}

/// The snapshot is genuine, and policy has changed since it was taken.
#[tokio::test]
async fn a_call_that_policy_denies_now_is_not_repeated() {
    let tools = Tools::new(&[functions("memory", REPLAY)]);
    let session = tools.session().await;
    call(&session, "add", json!({ "n": 5 })).await;
    let snapshot = tools.store.snapshot(&session).await.unwrap();
    let role = "    roles:\n      agent: { deny: [add] }\n";
    let argument = "    arguments:\n      add: { properties: { n: { maximum: 4 } } }\n";
    for (rule, says) in [("    deny: [add]\n", "deny: add"), (role, "roles.agent.deny: add"), (argument, "n")]
    {
        let strict = Tools::new(&[functions("memory", &format!("{REPLAY}{rule}"))]);
        let failure = strict.store.restore(&snapshot, SessionOptions::default()).await.map(drop).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Unsupported, "{failure}");
        assert!(
            failure.message.contains("call 1 is refused now: ") && failure.message.contains(says),
            "{failure}"
        );
        assert_eq!(decisions(&strict), [("add".to_owned(), "denied".to_owned())]);
        assert_eq!(strict.store.status().active, 0);
        until("its folder is gone", || strict.workspaces() == 0).await;
    }
    // What is not allowed to another role is no matter.
    let other = Tools::new(&[functions(
        "memory",
        &format!("{REPLAY}    roles:\n      control: {{ deny: [add] }}\n"),
    )]);
    let restored = other.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    assert_eq!(call(&restored, "add", json!({ "n": 1 })).await, 6);
}

/// The factory is given bytes that a key has vouched for; it does not rely on that.
#[tokio::test]
async fn changed_bytes_are_a_failure_and_leave_nothing() {
    let tools = Tools::new(&[functions("files", WORKSPACE)]);
    let mut instance = tools.instance().await;
    std::fs::write(instance.workspace.as_ref().unwrap().path().join("file"), "text").unwrap();
    let bytes = tools.factory.save(original(&mut instance, &[])).await.unwrap();
    let restore = async |bytes: &[u8]| {
        let boot = EnvironmentContext::new(uuid(), 1);
        tools.factory.restore(boot, bytes).await.map(drop).map_err(|failure| failure.code)
    };
    assert_eq!(restore(&bytes).await, Ok(()));
    for cut in 0..bytes.len() {
        assert_eq!(restore(&bytes[..cut]).await, Err(ErrorCode::SnapshotInvalid), "cut at {cut}");
    }
    let known = instance.workspace.as_ref().unwrap().known_as().to_str().unwrap().to_owned();
    for other in
        ["a", "/", "/tmp", "/a/0123456789abcde", "relative/0123456789abcdef", "/0123456789\\nabcdefgh"]
    {
        let at = bytes.windows(known.len()).position(|part| part == known.as_bytes()).unwrap();
        let shorter = known.len() - other.len();
        let mut forged = bytes.clone();
        forged.splice(at..at + known.len(), other.bytes());
        let length_at = b"oxenv session of tools 2\n".len();
        let length = u64::from_le_bytes(forged[length_at..length_at + 8].try_into().unwrap());
        forged[length_at..length_at + 8].copy_from_slice(&(length - shorter as u64).to_le_bytes());
        assert_eq!(restore(&forged).await, Err(ErrorCode::SnapshotInvalid), "{other}");
    }
    until("its folder is gone", || tools.workspaces() == 1).await;
}

/// An environment of its own, with tools added.
struct Counter(u8);

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Count {}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Counted {
    count: u8,
}

impl TypedEnvironment for Counter {
    type Action = Count;
    type Observation = Counted;
    type State = Counted;

    async fn reset(&mut self, _: &Reset) -> Result<Step<Counted>, Failure> {
        self.0 = 0;
        Ok(Step::new(Counted { count: 0 }))
    }

    async fn step(&mut self, _: Count) -> Result<Step<Counted>, Failure> {
        self.0 += 1;
        Ok(Step::new(Counted { count: self.0 }))
    }

    fn state(&self) -> Counted {
        Counted { count: self.0 }
    }

    fn fork(&self) -> Option<Self> {
        Some(Counter(self.0))
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(vec![self.0])
    }

    fn restore(bytes: &[u8]) -> Option<Self> {
        bytes.first().map(|count| Counter(*count))
    }
}

async fn count(session: &Arc<Session>) -> String {
    let action = raw(&json!({})).unwrap();
    match session.submit(SessionRequest::step(Action::parse(&action).unwrap())).await.into_outcome().unwrap()
    {
        StepReply::Observed(observed) => observed.fields.get().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_environment_follows_with_its_tools() {
    for mode in [ForkMode::Native, ForkMode::None] {
        let capabilities = Capabilities { fork: mode, snapshot: true, ..Capabilities::default() };
        let spec = EnvironmentSpec {
            capabilities,
            action_space: ActionSpace::Typed,
            ..EnvironmentSpec::new("counter", "")
        };
        let base: Arc<dyn EnvironmentFactory> = Arc::new(typed(spec, |_| Counter(0)));
        let tools = Tools::with(&[functions("memory", REPLAY)], Some(base), WorkspaceSource::Empty);
        assert_eq!(tools.factory.spec().capabilities.fork, mode);
        let session = tools.session().await;
        call(&session, "add", json!({ "n": 5 })).await;
        assert_eq!(count(&session).await, r#"{"count":1}"#);
        if mode == ForkMode::None {
            let mut instance = tools.instance().await;
            let boot = EnvironmentContext::new(uuid(), 1);
            let failure = tools.factory.fork(boot, original(&mut instance, &[])).await.map(drop).unwrap_err();
            assert_eq!(failure.message, "environment 'counter' cannot be forked: it declares fork: none");
            continue;
        }
        let fork = tools.fork(&session, 1).await.remove(0);
        let snapshot = tools.store.snapshot(&session).await.unwrap();
        let restored = tools.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
        for copy in [&fork, &restored, &session] {
            assert_eq!(count(copy).await, r#"{"count":2}"#);
            assert_eq!(call(copy, "add", json!({ "n": 1 })).await, 6);
        }
    }
}
