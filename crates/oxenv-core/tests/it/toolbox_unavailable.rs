//! Toolsets that do not work: what is said of the names that they may have, and where that they do not work.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::render::Envelope;
use oxenv_core::{
    CallContext, CallRequest, Mount, Naming, Policy, Principal, ResetOptions, RoleRules, Rules, Session,
    SessionOptions, SessionRequest, Toolbox, render,
};
use oxenv_wire::{Action, ErrorCode, FailureKind, ToolError, ToolErrorType, raw};
use serde_json::{Value, json};

use crate::toolbox_support::{Host, Set};

/// A toolset whose server does not start.
fn down(name: &str) -> Mount {
    let set = Set::new(name, &[]).with(|set| set.problem = Some(format!("{name} exited with code 1")));
    Mount::new(Arc::new(set))
}

fn up(name: &str, tools: &[&str]) -> Mount {
    Mount::new(Arc::new(Set::new(name, tools)))
}

async fn error(toolbox: &Toolbox, tool: &str) -> ToolError {
    let request = CallRequest::new(CallContext::sessionless(Principal::Agent), None);
    toolbox.find(tool).call(&request).await.unwrap_err()
}

fn is_unavailable(error: &ToolError) -> bool {
    error.error_type == ToolErrorType::TransportError
        && error.code == Some(ErrorCode::UpstreamUnavailable)
        && error.data().is_some_and(|data| data.kind == FailureKind::Infrastructure)
}

#[tokio::test]
async fn a_name_that_a_broken_toolset_may_have_is_not_called_unknown() {
    let toolbox = Toolbox::new(vec![down("git"), up("files", &["read"]), down("search")]);
    let found = error(&toolbox, "commit").await;
    assert!(is_unavailable(&found), "{found:?}");
    assert_eq!(
        found.message,
        "tool 'commit' is not offered at present: toolset 'git' is not available: git exited with code 1; \
         toolset 'search' is not available: search exited with code 1"
    );
    // A name with a prefix has one possible owner.
    let found = error(&toolbox, "git__commit").await;
    assert!(is_unavailable(&found), "{found:?}");
    assert_eq!(found.message, "toolset 'git' is not available: git exited with code 1");
    let found = error(&toolbox, "files__reed").await;
    assert_eq!((found.error_type, found.code), (ToolErrorType::ToolNotFound, None));
}

#[tokio::test]
async fn what_no_broken_toolset_may_have_is_unknown() {
    let prefixed = Mount { naming: Naming::PrefixAlways, prefix: Some("g".to_owned()), ..down("git") };
    let agents = RoleRules { deny: vec!["delete_*".to_owned()], ..RoleRules::default() };
    let rules = Rules { roles: [(Principal::Agent, agents)].into(), ..Rules::default() };
    let policy = Arc::new(Policy::compile(rules).unwrap());
    let guarded = Mount { policy, ..down("search") };
    let listed = Set::new("known", &["seen"]).with(|set| set.problem = Some("it died".to_owned()));
    let toolbox = Toolbox::new(vec![prefixed.clone(), Mount::new(Arc::new(listed)), up("files", &["read"])]);
    for unknown in ["commit", "git__commit", "known__seem", "sean"] {
        let found = error(&toolbox, unknown).await;
        assert_eq!((found.error_type, found.code), (ToolErrorType::ToolNotFound, None), "{unknown}");
    }
    assert!(is_unavailable(&error(&toolbox, "g__commit").await));
    let toolbox = Toolbox::new(vec![guarded]);
    for (name, unavailable) in [("delete_all", false), ("search__delete_all", false), ("find", true)] {
        assert_eq!(is_unavailable(&error(&toolbox, name).await), unavailable, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_still_starting_is_not_available_either() {
    let late = Mount::new(Arc::new(Set::new("late", &[]).late()));
    let toolbox = Toolbox::new(vec![late]).with_deadline(Duration::from_secs(2));
    let found = error(&toolbox, "then").await;
    assert!(is_unavailable(&found), "{found:?}");
    assert!(found.message.ends_with("toolset 'late' is not available: its list of tools has not come yet"));
}

#[tokio::test]
async fn resources_and_prompts_of_a_broken_toolset_are_not_called_unknown() {
    let ask = async |toolbox: &Toolbox, method: &str, parameters: Value| {
        let context = CallContext::sessionless(Principal::Agent);
        toolbox.request(context, method, &raw(&parameters).unwrap()).await.unwrap_err()
    };
    let (read, get) = (json!({ "uri": "git://head" }), json!({ "name": "review" }));
    let whole = Toolbox::new(vec![up("files", &["read"])]);
    assert_eq!(ask(&whole, "resources/read", read.clone()).await.code, -32002);
    assert_eq!(ask(&whole, "prompts/get", get.clone()).await.code, -32602);
    let broken = Toolbox::new(vec![down("git")]);
    for (method, parameters) in [("resources/read", read), ("prompts/get", get)] {
        let fault = ask(&broken, method, parameters).await;
        assert_eq!((fault.code, &fault.data["oxenv"]["code"]), (-32603, &json!("UPSTREAM_UNAVAILABLE")));
        assert!(fault.message.ends_with("toolset 'git' is not available: git exited with code 1"));
    }
}

async fn shown(session: &Arc<Session>, request: SessionRequest<'_>) -> Value {
    let reply = session.submit(request).await.into_outcome().unwrap();
    let frame: Value = serde_json::from_str(&render::step(&reply, Envelope::Frame)).unwrap();
    let body: Value = serde_json::from_str(&render::step(&reply, Envelope::Body)).unwrap();
    assert_eq!(frame["data"]["observation"]["metadata"], body["observation"]["metadata"]);
    body["observation"].clone()
}

async fn step(session: &Arc<Session>, action: Value) -> Value {
    let action = raw(&action).unwrap();
    shown(session, SessionRequest::step(Action::parse(&action).unwrap())).await
}

#[tokio::test]
async fn observations_of_reset_and_list_tell_what_does_not_work() {
    let store = Host::new(Toolbox::new(vec![down("git"), up("files", &["read"])])).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let problems =
        json!({ "problems": [{ "toolset": "git", "message": "git exited with code 1", "required": false }] });
    let reset = shown(&session, SessionRequest::reset(ResetOptions::default())).await;
    assert_eq!(reset["metadata"], json!({ "status": "ready", "oxenv": problems }));
    for (action, keys) in [
        (json!({ "type": "list_tools" }), vec!["metadata", "tools"]),
        (json!({ "type": "ListToolsAction" }), vec!["metadata"]),
    ] {
        let listed = step(&session, action).await;
        assert_eq!(listed["metadata"]["oxenv"], problems);
        let tools = if keys.len() == 2 { &listed["tools"] } else { &listed["metadata"]["tools"] };
        assert_eq!(tools[0]["name"], "read");
        assert_eq!(listed.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    }
    // The calls of every spelling, and of a graph, name it.
    let says =
        "tool 'commit' is not offered at present: toolset 'git' is not available: git exited with code 1";
    let stock = step(&session, json!({ "type": "call_tool", "tool_name": "commit", "arguments": {} })).await;
    assert_eq!(stock["error"], json!({ "error_type": "transport_error", "message": says }));
    assert_eq!(stock["metadata"]["oxenv"]["kind"], "infrastructure");
    let journal =
        step(&session, json!({ "type": "CallToolAction", "tool_name": "commit", "parameters": {} })).await;
    assert_eq!(journal["metadata"]["error"], says);
    assert_eq!(journal["metadata"]["oxenv"]["code"], "UPSTREAM_UNAVAILABLE");
    let unified =
        step(&session, json!({ "action_type": "tool", "tool_name": "commit", "tool_args": {} })).await;
    assert_eq!(unified["metadata"]["oxenv"]["kind"], "infrastructure");
    let calls = json!([{ "id": "one", "tool_name": "commit", "arguments": {} }]);
    let graph = step(&session, json!({ "type": "call_tools", "calls": calls })).await;
    assert_eq!(graph["metadata"]["oxenv"]["calls"]["one"]["kind"], "infrastructure");
    assert_eq!(graph["results"]["one"]["error"]["message"], says);
}

#[tokio::test]
async fn nothing_is_told_of_toolsets_that_work() {
    let store = Host::new(Toolbox::new(vec![up("files", &["read"])])).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let reset = shown(&session, SessionRequest::reset(ResetOptions::default())).await;
    assert_eq!(reset["metadata"], json!({ "status": "ready" }));
    assert_eq!(step(&session, json!({ "type": "list_tools" })).await["metadata"], json!({}));
}
