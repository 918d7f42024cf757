//! What an audit record looks like when it is written.

use std::time::{Duration, UNIX_EPOCH};

use oxenv_core::{AuditOutcome, AuditRecord, AuditSink, Decision, MemoryAudit, Principal, utc_micros};
use oxenv_wire::{ErrorCode, ToolErrorType};
use serde_json::json;
use serde_json::value::RawValue;

fn plain() -> AuditRecord<'static> {
    AuditRecord {
        time_us: 1_767_225_600_000_000,
        call_id: "7",
        principal: Principal::Agent,
        session_id: None,
        epoch: 0,
        step: None,
        parent: None,
        tool: "read_file",
        toolset: None,
        upstream_tool: None,
        decision: Decision::NotFound,
        rule: None,
        duration_us: 12,
        outcome: AuditOutcome::Error { error_type: ToolErrorType::ToolNotFound, code: None },
        message: None,
        arguments: None,
    }
}

#[test]
fn absent_parts_are_left_out() {
    let sink = MemoryAudit::default();
    sink.record(&plain());
    let expected = json!({
        "time_us": 1_767_225_600_000_000_u64, "call_id": "7", "principal": "agent", "epoch": 0,
        "tool": "read_file",
        "decision": "not_found", "duration_us": 12, "outcome": "error", "error_type": "tool_not_found",
    });
    assert_eq!(sink.records(), [expected]);
}

#[test]
fn everything_that_is_there_is_written() {
    let arguments = RawValue::from_string(r#"{"n": 1e400, "path": "***"}"#.to_owned()).unwrap();
    let record = AuditRecord {
        session_id: Some("s-1"),
        epoch: 3,
        step: Some(4),
        parent: Some("6"),
        tool: "files__read_file",
        toolset: Some("files"),
        upstream_tool: Some("read_file"),
        decision: Decision::RateLimited,
        rule: Some("rate_limit: 10/s, burst 10, per session"),
        outcome: AuditOutcome::Error {
            error_type: ToolErrorType::ExecutionError,
            code: Some(ErrorCode::DeadlineExceeded),
        },
        message: Some("too often"),
        arguments: Some(&arguments),
        ..plain()
    };
    expect_test::expect![[r#"{"time_us":1767225600000000,"call_id":"7","principal":"agent","session_id":"s-1","epoch":3,"step":4,"parent":"6","tool":"files__read_file","toolset":"files","upstream_tool":"read_file","decision":"rate_limited","rule":"rate_limit: 10/s, burst 10, per session","duration_us":12,"outcome":"error","error_type":"execution_error","code":"DEADLINE_EXCEEDED","message":"too often","arguments":{"n": 1e400, "path": "***"}}"#]]
    .assert_eq(&serde_json::to_string(&record).unwrap());
    for (outcome, name) in [(AuditOutcome::Ok, "ok"), (AuditOutcome::ToolError, "tool_error")] {
        let written = serde_json::to_value(AuditRecord { outcome, ..plain() }).unwrap();
        assert_eq!((&written["outcome"], written.get("error_type")), (&json!(name), None));
    }
}

#[test]
fn time_is_microseconds_of_utc() {
    assert_eq!(utc_micros(UNIX_EPOCH + Duration::from_micros(1_234_567)), 1_234_567);
    assert_eq!(utc_micros(UNIX_EPOCH - Duration::from_secs(1)), 0);
}
