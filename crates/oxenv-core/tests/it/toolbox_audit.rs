//! Exactly one record for each call, whatever became of it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oxenv_core::{
    AgentCall, AuditRecord, AuditSink, Auditor, CallContext, CallRequest, MemoryAudit, Mount, NativeToolset,
    Policy, Principal, Redact, RoleRules, Rules, SessionOptions, Toolbox, Work,
};
use oxenv_wire::{Content, Delivered, ErrorCode, ToolErrorType, ToolResult, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{agent_call, reset_as, step, tool_step};
use crate::toolbox_support::{Host, Set, ask, broken, done, mounts};

fn redact() -> Redact {
    Arc::new(|text| text.replace("hunter2", "***"))
}

fn audited(toolbox: Toolbox, arguments: bool) -> (Toolbox, Arc<MemoryAudit>) {
    let sink = Arc::new(MemoryAudit::default());
    let auditor = Auditor::new(Arc::clone(&sink) as Arc<dyn AuditSink>, arguments, redact());
    (toolbox.with_auditor(Some(Arc::new(auditor))), sink)
}

/// Tools that end in every way.
fn every_way() -> Arc<Set> {
    let set = Set::new("set", &["ok", "complain", "fail", "panic", "wait", "denied"]);
    Arc::new(set.answering(|tool, _| match tool {
        "complain" => Work::done(Ok(ToolResult {
            content: [Content::Text("no, hunter2".to_owned())].into_iter().collect(),
            is_error: true,
            ..ToolResult::default()
        })),
        "fail" => broken("hunter2 is wrong"),
        "panic" => panic!("made to panic"),
        "wait" => Work::pending(pending()),
        _ => done(&json!("hunter2")),
    }))
}

fn ruled(set: &Arc<Set>, rules: Rules) -> Toolbox {
    let policy = Arc::new(Policy::compile(rules).unwrap());
    Toolbox::new(vec![Mount { policy, ..Mount::new(Arc::clone(set) as Arc<_>) }])
}

/// Parts of the one record that a call left.
async fn record_of(toolbox: &Toolbox, sink: &MemoryAudit, tool: &str, arguments: &str) -> Value {
    let before = sink.records().len();
    let _ = ask(toolbox, tool, arguments).await;
    let records = sink.records();
    assert_eq!(records.len(), before + 1, "{tool}");
    let mut record = records[before].clone();
    let record_fields = record.as_object_mut().unwrap();
    assert!(record_fields.remove("duration_us").unwrap().is_u64());
    assert!(record_fields.remove("time_us").unwrap().as_u64().unwrap() > 1_600_000_000_000_000);
    assert_eq!(record_fields.remove("call_id").unwrap(), json!(before.to_string()));
    assert_eq!(record_fields.remove("principal").unwrap(), json!("agent"));
    assert_eq!(record_fields.remove("epoch").unwrap(), json!(0));
    assert_eq!(record_fields.remove("tool").unwrap(), json!(tool));
    record
}

/// A call that is made again for a copy is judged as others are, but for rate limits.
#[tokio::test]
async fn a_repeat_is_judged_and_recorded_and_takes_no_token() {
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let set = Arc::new(Set::with_schemas("set", schema, None));
    let agent = RoleRules { deny: vec!["tool".to_owned()], ..RoleRules::default() };
    let rules = Rules {
        rate_limit: Some("1/h".parse().unwrap()),
        roles: [(Principal::Agent, agent)].into_iter().collect(),
        ..Rules::default()
    };
    let (toolbox, sink) = audited(ruled(&set, rules), false);
    let repeat = async |principal, tool: &str, arguments: &str| {
        let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
        let request = CallRequest::new(CallContext::sessionless(principal), Some(&arguments));
        let outcome = toolbox.find(tool).repeat(&request).await;
        let record = sink.records().pop().unwrap();
        (outcome.is_ok(), record["decision"].as_str().unwrap().to_owned())
    };
    let decided = |made: bool, decision: &str| (made, decision.to_owned());
    assert_eq!(repeat(Principal::Agent, "tool", r#"{"n": 1}"#).await, decided(false, "denied"));
    assert_eq!(repeat(Principal::Control, "tool", r#"{"n": "x"}"#).await, decided(false, "invalid"));
    assert_eq!(repeat(Principal::Control, "nobodys", "{}").await, decided(false, "not_found"));
    assert!(set.calls().is_empty(), "it ran");
    for _ in 0..3 {
        assert_eq!(repeat(Principal::Control, "tool", r#"{"n": 1}"#).await, decided(true, "repeat"));
    }
    assert_eq!((set.calls().len(), sink.records().len()), (3, 6));
    let request = CallRequest::new(CallContext::sessionless(Principal::Control), None);
    let call = toolbox.find("tool").call(&request).await.unwrap_err();
    assert_eq!(call.error_type, ToolErrorType::InvalidArgs, "the hour's one call is there still");
}

#[tokio::test]
async fn every_decision_and_outcome_leaves_one_record() {
    let rules = Rules {
        deny: vec!["denied".to_owned()],
        rate_limit: Some("5/h".parse().unwrap()),
        arguments: [("ok".to_owned(), json!({ "properties": { "n": { "maximum": 5 } } }))].into(),
        ..Rules::default()
    };
    let (toolbox, sink) = audited(ruled(&every_way(), rules), false);
    let owned = |tool: &str, rest: Value| {
        let mut record = json!({ "toolset": "set", "upstream_tool": tool });
        record.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        record
    };
    for (tool, arguments, expected) in [
        ("ok", "{}", owned("ok", json!({ "decision": "allowed", "outcome": "ok" }))),
        (
            "complain",
            "{}",
            owned(
                "complain",
                json!({ "decision": "allowed", "outcome": "tool_error", "message": "no, ***" }),
            ),
        ),
        (
            "fail",
            "{}",
            owned(
                "fail",
                json!({
                    "decision": "allowed", "outcome": "error", "error_type": "execution_error",
                    "message": "*** is wrong",
                }),
            ),
        ),
        (
            "ok",
            r#"{"n": 6}"#,
            owned(
                "ok",
                json!({
                    "decision": "denied", "rule": "arguments: ok", "outcome": "error",
                    "error_type": "execution_error", "code": "DENIED",
                }),
            ),
        ),
        (
            "ok",
            "[]",
            owned("ok", json!({ "decision": "invalid", "outcome": "error", "error_type": "invalid_args" })),
        ),
        (
            "ok",
            "{}",
            owned(
                "ok",
                json!({
                    "decision": "rate_limited", "rule": "rate_limit: 5/h, burst 5, per session",
                    "outcome": "error", "error_type": "execution_error", "code": "RATE_LIMITED",
                }),
            ),
        ),
        (
            "denied",
            "{}",
            owned(
                "denied",
                json!({
                    "decision": "denied", "rule": "deny: denied", "outcome": "error",
                    "error_type": "execution_error", "code": "DENIED",
                    "message": "tool 'denied' is not allowed here: deny: denied",
                }),
            ),
        ),
        (
            "nobody",
            "{}",
            json!({
                "decision": "not_found", "outcome": "error", "error_type": "tool_not_found",
                "message": "Unknown tool: 'nobody'",
            }),
        ),
    ] {
        let mut record = record_of(&toolbox, &sink, tool, arguments).await;
        if expected.get("message").is_none() && expected["decision"] != "invalid" {
            // Its words are of other tests.
            record.as_object_mut().unwrap().remove("message");
        }
        assert_eq!(record, expected, "{tool} {arguments}");
    }
}

#[tokio::test(start_paused = true)]
async fn panics_and_deadlines_leave_one_record_each() {
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&every_way()])), false);
    let panicked = record_of(&toolbox, &sink, "panic", "{}").await;
    assert_eq!((&panicked["outcome"], panicked.get("code")), (&json!("error"), None));
    let late = record_of(&toolbox, &sink, "wait", "{}").await;
    assert_eq!((&late["error_type"], &late["code"]), (&json!("timeout"), &json!("DEADLINE_EXCEEDED")));
}

#[tokio::test]
async fn a_cancelled_call_leaves_one_record() {
    let set = every_way();
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&set])), false);
    let toolbox = Arc::new(toolbox);
    let shared = Arc::clone(&toolbox);
    let calling = tokio::spawn(async move { ask(&shared, "wait", "{}").await });
    while set.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(sink.records().is_empty());
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    let records = sink.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (&records[0]["decision"], &records[0]["outcome"], &records[0]["code"], &records[0]["toolset"]),
        (&json!("allowed"), &json!("error"), &json!("CANCELLED"), &json!("set"))
    );
}

#[tokio::test]
async fn a_call_that_was_cancelled_while_its_toolset_started_leaves_one_record() {
    let late = Arc::new(Set::new("late", &[]).late());
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&late])), false);
    let calling = tokio::spawn(async move { ask(&toolbox, "then", "{}").await });
    tokio::task::yield_now().await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    let records = sink.records();
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["tool"], &records[0]["code"]), (&json!("then"), &json!("CANCELLED")));
}

#[tokio::test]
async fn arguments_are_written_only_when_asked_and_never_with_secrets() {
    let own = r#"{"password": "hunter2", "n": 1e2}"#;
    for asked in [false, true] {
        let (toolbox, sink) = audited(Toolbox::new(mounts(&[&every_way()])), asked);
        let record = record_of(&toolbox, &sink, "ok", own).await;
        let expected = json!({ "password": "***", "n": 1e2 });
        assert_eq!(record.get("arguments"), asked.then_some(&expected));
        // Nor do they come in by the message of what is wrong with them.
        let schema = json!({ "properties": { "password": { "type": "integer" } } });
        let set = Arc::new(Set::with_schemas("strict", schema, None));
        let (toolbox, sink) = audited(Toolbox::new(mounts(&[&set])), asked);
        let record = record_of(&toolbox, &sink, "tool", r#"{"password": "swordfish"}"#).await;
        assert_eq!(record["decision"], json!("invalid"));
        assert_eq!(record.to_string().contains("swordfish"), asked, "{record}");
        let record = record_of(&toolbox, &sink, "tool", own).await;
        assert!(!record.to_string().contains("hunter2"), "{record}");
        assert_eq!(record.to_string().contains("***"), asked, "{record}");
    }
}

/// A tool says as much as it likes; a cut must leave no part of a secret.
#[tokio::test]
async fn a_message_is_bounded_after_its_secrets_are_gone() {
    let said = format!("{}hunter2{}", "x".repeat((16 << 10) - 3), "y".repeat(1_000_000));
    let set = Set::new("set", &["complain", "fail"]).answering(move |tool, _| match tool {
        "fail" => broken(&said),
        _ => Work::done(Ok(ToolResult {
            content: [Content::Text(said.clone())].into_iter().collect(),
            is_error: true,
            ..ToolResult::default()
        })),
    });
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&Arc::new(set)])), false);
    for tool in ["complain", "fail"] {
        let record = record_of(&toolbox, &sink, tool, "{}").await;
        let message = record["message"].as_str().unwrap();
        assert!(message.len() == 16 << 10 && message.ends_with("x***"), "{tool}");
    }
}

/// A redaction that leaves no JSON behind must not make the record unreadable.
#[tokio::test]
async fn arguments_that_are_no_json_once_redacted_are_left_out() {
    let sink = Arc::new(MemoryAudit::default());
    let redact: Redact = Arc::new(|text| text.replace("12345", "***"));
    let auditor = Auditor::new(Arc::clone(&sink) as Arc<dyn AuditSink>, true, redact);
    let toolbox = Toolbox::new(mounts(&[&every_way()])).with_auditor(Some(Arc::new(auditor)));
    let record = record_of(&toolbox, &sink, "ok", r#"{"pin": 12345}"#).await;
    assert_eq!(record.get("arguments"), None);
    assert!(!record.to_string().contains("12345"));
}

#[tokio::test]
async fn a_call_within_a_session_tells_where_it_belongs() {
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&every_way()])), false);
    let store = Host::new(toolbox).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, None, None, None).await.unwrap();
    step(&session, tool_step("ok", &json!({}))).await.unwrap();
    agent_call(&session, AgentCall { name: "ok".into(), ..AgentCall::default() }).await.unwrap();
    let graph = json!({ "type": "call_tools", "calls": [
        { "id": "a", "tool_name": "ok" }, { "id": "b", "tool_name": "fail" },
        { "id": "c", "tool_name": "ok", "needs": ["b"] },
    ] });
    step(&session, graph).await.unwrap();
    let records = sink.records();
    let told: Vec<Value> = records
        .iter()
        .map(|record| json!([record["principal"], record["epoch"], record["step"], record["tool"]]))
        .collect();
    // A call that is never made leaves no record.
    assert_eq!(
        told,
        [
            json!(["control", 1, 1, "ok"]),
            json!(["agent", 1, 2, "ok"]),
            json!(["control", 1, 3, "ok"]),
            json!(["control", 1, 3, "fail"]),
        ]
    );
    assert!(records.iter().all(|record| record["session_id"] == session.id()));
    // Without a session there is no step either.
    let _ = ask(session.toolbox(), "ok", "{}").await;
    let last = sink.records().pop().unwrap();
    assert_eq!((last.get("session_id"), last.get("step")), (None, None));
}

#[tokio::test]
async fn a_reset_that_cancels_calls_leaves_one_record_of_each() {
    let set = every_way();
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&set])), false);
    let store = Host::new(toolbox).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let shared = Arc::clone(&session);
    let graph = json!({ "type": "call_tools", "calls": [
        { "id": "a", "tool_name": "wait" }, { "id": "b", "tool_name": "wait" },
        { "id": "c", "tool_name": "ok", "needs": ["a"] },
    ] });
    let stepping = tokio::spawn(async move { step(&shared, graph).await });
    while set.calls().len() < 2 {
        tokio::task::yield_now().await;
    }
    reset_as(&session, None, None, None).await.unwrap();
    assert!(stepping.await.unwrap().is_err());
    let records = sink.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["code"] == "CANCELLED"), "{records:?}");
}

#[tokio::test]
async fn requests_that_are_no_calls_leave_one_record_too() {
    let set = Set::new("set", &[]).with(|set| {
        Arc::get_mut(&mut set.extras).unwrap().prompts.push(json!({ "name": "greet" }));
    });
    let panicking = Set::new("panicking", &[]).with(|set| {
        Arc::get_mut(&mut set.extras).unwrap().prompts.push(json!({ "name": "panic" }));
    });
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&Arc::new(set), &Arc::new(panicking)])), true);
    let request = async |method: &str, parameters: &RawValue| {
        toolbox.request(CallContext::sessionless(Principal::Agent), method, parameters).await
    };
    request("prompts/get", &raw(&json!({ "name": "greet" })).unwrap()).await.unwrap();
    request("prompts/get", &raw(&json!({ "name": "hunter2" })).unwrap()).await.unwrap_err();
    request("prompts/get", &raw(&json!({ "name": "panic" })).unwrap()).await.unwrap_err();
    let records = sink.records();
    let told: Vec<Value> = records
        .iter()
        .map(|record| json!([record["tool"], record["decision"], record["outcome"], record["toolset"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["prompts/get", "allowed", "ok", "set"]),
            json!(["prompts/get", "not_found", "error", null]),
            json!(["prompts/get", "allowed", "error", "panicking"]),
        ]
    );
    assert_eq!(records[1]["arguments"], json!({ "name": "***" }));
    assert!(records.iter().all(|record| !record.to_string().contains("hunter2")));
}

/// As many records as calls, each with an id of its own, from several threads at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_is_lost_under_load() {
    let (toolbox, sink) = audited(Toolbox::new(mounts(&[&every_way()])), false);
    let (toolbox, calls) = (Arc::new(toolbox), Arc::new(Semaphore::new(0)));
    let running: Vec<_> = (0..8)
        .map(|_| {
            let (toolbox, calls) = (Arc::clone(&toolbox), Arc::clone(&calls));
            tokio::spawn(async move {
                calls.acquire().await.unwrap().forget();
                for call in 0..500 {
                    let tool = ["ok", "fail", "nobody"][call % 3];
                    let _ = ask(&toolbox, tool, "{}").await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    calls.add_permits(8);
    for run in running {
        run.await.unwrap();
    }
    let records = sink.records();
    let ids: std::collections::HashSet<&str> =
        records.iter().map(|record| record["call_id"].as_str().unwrap()).collect();
    assert_eq!((records.len(), ids.len()), (4_000, 4_000));
}

#[tokio::test]
async fn arguments_that_a_toolset_refuses_itself_are_invalid_as_well() {
    let tools = NativeToolset::new("math").tool("double", "Doubles.", |n: Doubled| Ok(n.n * 2));
    let (toolbox, sink) = audited(Toolbox::of(vec![Arc::new(tools)]).unwrap(), false);
    ask(&toolbox, "double", r#"{"n": "two"}"#).await.unwrap_err();
    ask(&toolbox, "double", r#"{"n": 2}"#).await.unwrap();
    let decisions: Vec<Value> = sink.records().iter().map(|record| record["decision"].clone()).collect();
    assert_eq!(decisions, ["invalid", "allowed"]);
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Doubled {
    n: i64,
}

/// A sink with a number of places, each of which is free again when the test says so.
struct Few {
    places: Semaphore,
    refused: AtomicU64,
    records: MemoryAudit,
}

impl AuditSink for Few {
    fn take_place(&self) -> Work<'_, ()> {
        match self.places.try_acquire() {
            Ok(place) => {
                place.forget();
                Work::done(())
            }
            Err(_) => Work::pending(async { self.places.acquire().await.unwrap().forget() }),
        }
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, record: &AuditRecord<'_>) {
        self.records.record(record);
    }
}

/// No call runs unaudited: without a place within a second it is refused, whatever it asks for.
#[tokio::test(start_paused = true)]
async fn a_call_without_a_place_is_not_made() {
    let set = every_way();
    let sink = Arc::new(Few {
        places: Semaphore::new(1),
        refused: AtomicU64::new(0),
        records: MemoryAudit::default(),
    });
    let auditor = Auditor::new(Arc::clone(&sink) as Arc<dyn AuditSink>, false, redact());
    let toolbox = Toolbox::new(mounts(&[&set])).with_auditor(Some(Arc::new(auditor)));
    assert!(ask(&toolbox, "ok", "{}").await.is_ok());
    for tool in ["ok", "denied", "nobody has it"] {
        let began = tokio::time::Instant::now();
        let error = ask(&toolbox, tool, "{}").await.unwrap_err();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(error.code, Some(ErrorCode::AuditUnavailable), "{tool}: {}", error.message);
        assert_eq!((error.error_type, error.delivered()), (ToolErrorType::TransportError, Delivered::No));
    }
    let context = CallContext::sessionless(Principal::Agent);
    let fault = toolbox.request(context, "prompts/get", &raw("{}").unwrap()).await.unwrap_err();
    assert_eq!(fault.data["oxenv"]["code"], "AUDIT_UNAVAILABLE");
    // One whose caller goes away was not made either.
    let gone = tokio::time::timeout(Duration::from_millis(500), ask(&toolbox, "ok", "{}")).await;
    assert!(gone.is_err());
    assert_eq!((sink.refused.load(Ordering::Relaxed), sink.records.records().len()), (5, 1));
    assert_eq!(set.calls().len(), 1);

    let waiting = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        sink.places.add_permits(1);
    };
    let (outcome, ()) = tokio::join!(ask(&toolbox, "ok", "{}"), waiting);
    assert!(outcome.is_ok());
    assert_eq!((sink.refused.load(Ordering::Relaxed), sink.records.records().len()), (5, 2));
}
