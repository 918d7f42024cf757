//! Policy on the road of a call: what is not listed, what is refused, and that nothing ran.

use std::sync::Arc;

use oxenv_core::{
    Buckets, CallContext, CallRequest, Mount, Naming, Policy, Principal, RateLimit, RateScope, RoleRules,
    Rules, Toolbox,
};
use oxenv_wire::{ErrorCode, ToolErrorType, ToolSpelling};
use serde_json::json;

use crate::toolbox_support::{Outcome, Set, ask, names};

fn ruled(set: &Arc<Set>, rules: Rules) -> Mount {
    Mount { policy: Arc::new(Policy::compile(rules).unwrap()), ..Mount::new(Arc::clone(set) as Arc<_>) }
}

fn texts(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

async fn by(toolbox: &Toolbox, principal: Principal, tool: &str) -> Outcome {
    toolbox.find(tool).call(&CallRequest::new(CallContext::sessionless(principal), None)).await
}

#[track_caller]
fn refused(outcome: &Outcome, code: ErrorCode, says: &str) {
    let error = outcome.as_ref().unwrap_err();
    assert_eq!((error.error_type, error.code), (ToolErrorType::ExecutionError, Some(code)), "{error:?}");
    assert!(error.message.contains(says), "{}", error.message);
}

#[tokio::test]
async fn what_is_denied_is_not_listed_and_does_not_run() {
    let set = Arc::new(Set::new("files", &["read", "write_file", "write_all"]));
    let rules = Rules { deny: texts(&["write_*"]), ..Rules::default() };
    let toolbox = Toolbox::new(vec![ruled(&set, rules)]);
    assert_eq!(names(&toolbox), ["read"]);
    for spelling in [ToolSpelling::Step, ToolSpelling::Rest, ToolSpelling::Dialect, ToolSpelling::Mcp] {
        let listing = toolbox.listing(Principal::Agent, spelling);
        assert!(listing.contains("read") && !listing.contains("write"), "{listing}");
    }
    refused(&ask(&toolbox, "write_file", "{}").await, ErrorCode::Denied, "'write_file'");
    refused(&ask(&toolbox, "write_all", r#"{"n": 1}"#).await, ErrorCode::Denied, "deny: write_*");
    assert!(set.calls().is_empty());
    ask(&toolbox, "read", "{}").await.unwrap();
    assert_eq!(set.calls().len(), 1);
}

#[tokio::test]
async fn roles_see_and_call_what_is_theirs() {
    let set = Arc::new(Set::new("game", &["look", "cheat"]));
    let agent = RoleRules { deny: texts(&["cheat"]), ..RoleRules::default() };
    let rules = Rules { roles: [(Principal::Agent, agent)].into(), ..Rules::default() };
    let toolbox = Toolbox::new(vec![ruled(&set, rules)]);
    let seen = |role| toolbox.tools(role).iter().map(|tool| tool.name.to_string()).collect::<Vec<_>>();
    assert_eq!(seen(Principal::Agent), ["look"]);
    assert_eq!(seen(Principal::Control), ["look", "cheat"]);
    assert!(seen(Principal::Observer).is_empty());
    by(&toolbox, Principal::Control, "cheat").await.unwrap();
    refused(&by(&toolbox, Principal::Agent, "cheat").await, ErrorCode::Denied, "roles.agent.deny: cheat");
    refused(&by(&toolbox, Principal::Observer, "look").await, ErrorCode::Denied, "observers");
    assert_eq!(set.calls().len(), 1);
}

#[tokio::test]
async fn rules_are_about_a_tools_own_name() {
    let (first, second) =
        (Arc::new(Set::new("first", &["x"])), Arc::new(Set::new("second", &["x", "reset"])));
    let rules = Rules { deny: texts(&["x"]), ..Rules::default() };
    let always = Mount { naming: Naming::PrefixAlways, ..ruled(&first, rules.clone()) };
    let toolbox = Toolbox::new(vec![always, ruled(&second, rules)]);
    assert_eq!(names(&toolbox), ["second__reset"]);
    refused(&ask(&toolbox, "first__x", "{}").await, ErrorCode::Denied, "deny: x");
    refused(&ask(&toolbox, "x", "{}").await, ErrorCode::Denied, "deny: x");
}

#[tokio::test]
async fn a_denied_tool_still_has_its_name() {
    // Otherwise a name would mean another tool as soon as a rule changes.
    let (first, second) = (Arc::new(Set::new("first", &["x"])), Arc::new(Set::new("second", &["x"])));
    let rules = Rules { deny: texts(&["x"]), ..Rules::default() };
    let toolbox = Toolbox::new(vec![ruled(&first, rules), Mount::new(Arc::clone(&second) as Arc<_>)]);
    assert_eq!(names(&toolbox), ["second__x"]);
    refused(&ask(&toolbox, "x", "{}").await, ErrorCode::Denied, "deny: x");
    assert!(second.calls().is_empty());
}

#[tokio::test]
async fn argument_rules_narrow_a_tools_own_schema() {
    for validates in [false, true] {
        let set = Arc::new(Set::new("files", &["read"]).with(|set| set.validates = validates));
        let schema = json!({ "properties": { "path": { "pattern": "^/home/" } }, "required": ["path"] });
        let rules = Rules { arguments: [("re*".to_owned(), schema)].into(), ..Rules::default() };
        let toolbox = Toolbox::new(vec![ruled(&set, rules)]);
        ask(&toolbox, "read", r#"{"path": "/home/x"}"#).await.unwrap();
        refused(&ask(&toolbox, "read", r#"{"path": "/etc/shadow"}"#).await, ErrorCode::Denied, "at /path: ");
        refused(&by(&toolbox, Principal::Agent, "read").await, ErrorCode::Denied, "\"path\" is a required");
        let unreadable = ask(&toolbox, "read", r#"{"path": "/home/\ud800"}"#).await.unwrap_err();
        assert_eq!(unreadable.error_type, ToolErrorType::InvalidArgs);
        assert_eq!(set.calls(), [("read".to_owned(), r#"{"path": "/home/x"}"#.to_owned())]);
    }
}

#[tokio::test]
async fn the_rate_comes_before_the_schema_and_that_before_the_rule() {
    let set = Arc::new(Set::with_schemas(
        "s",
        json!({ "type": "object", "properties": { "n": { "type": "integer" } } }),
        None,
    ));
    let rules = Rules {
        arguments: [("*".to_owned(), json!({ "properties": { "n": { "maximum": 5 } } }))].into(),
        rate_limit: Some("3/h".parse().unwrap()),
        ..Rules::default()
    };
    let toolbox = Toolbox::new(vec![ruled(&set, rules)]);
    let error = ask(&toolbox, "tool", r#"{"n": "x"}"#).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    refused(&ask(&toolbox, "tool", r#"{"n": 6}"#).await, ErrorCode::Denied, "at /n: ");
    ask(&toolbox, "tool", r#"{"n": 5}"#).await.unwrap();
    // Each took a token, so nobody makes us check arguments without end.
    for arguments in [r#"{"n": 5}"#, r#"{"n": 6}"#, r#"{"n": "x"}"#] {
        refused(&ask(&toolbox, "tool", arguments).await, ErrorCode::RateLimited, "rate_limit: 3/h");
    }
    assert_eq!(set.calls().len(), 1);
}

#[tokio::test]
async fn a_session_and_the_server_have_their_own_limits() {
    let limit = |calls, scope| {
        let rate_limit = Some(RateLimit { scope, ..format!("{calls}/h").parse().unwrap() });
        Arc::new(Policy::compile(Rules { rate_limit, ..Rules::default() }).unwrap())
    };
    for (scope, of_the_second) in [(RateScope::Session, 2), (RateScope::Server, 0)] {
        let set = Arc::new(Set::new("s", &["a", "b"]));
        let (policy, server_buckets) = (limit(2, scope), Arc::new(Buckets::default()));
        // Two sessions over one toolset.
        let session = || {
            let toolset = Arc::clone(&set) as Arc<_>;
            let (policy, server_buckets) = (Arc::clone(&policy), Arc::clone(&server_buckets));
            Toolbox::new(vec![Mount { policy, server_buckets, ..Mount::new(toolset) }])
        };
        let (one, two) = (session(), session());
        for tool in ["a", "b"] {
            ask(&one, tool, "{}").await.unwrap();
        }
        let outcome = ask(&one, "a", "{}").await;
        refused(&outcome, ErrorCode::RateLimited, "try again in");
        assert!(outcome.unwrap_err().data().unwrap().retryable);
        let mut through = 0;
        for _ in 0..5 {
            through += usize::from(ask(&two, "a", "{}").await.is_ok());
        }
        assert_eq!((through, set.calls().len()), (of_the_second, 2 + of_the_second), "{scope:?}");
    }
}

#[tokio::test]
async fn an_observer_calls_nothing_even_without_rules() {
    let set = Arc::new(Set::new("s", &["a"]));
    let toolbox = Toolbox::new(vec![Mount::new(Arc::clone(&set) as Arc<_>)]);
    refused(&by(&toolbox, Principal::Observer, "a").await, ErrorCode::Denied, "observers never call");
    assert!(set.calls().is_empty());
}
