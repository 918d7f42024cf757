//! The page: every family of metrics, in order.
//!
//! Invariant: docs/observability.md lists exactly these families; a test compares the two.

use oxenv_wire::ToolsetProblem;
use serde::Serialize;

use super::counts::Counts;
use super::process::{self, Process};
use super::text::Page;
use super::{AuditStatus, RecordStatus};

/// What is looked up when the page is asked for, rather than counted before.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) active_sessions: usize,
    pub(crate) waiting_sessions: usize,
    pub(crate) max_sessions: usize,
    pub(crate) stuck_environments: usize,
    pub(crate) connections: usize,
    pub(crate) refused_connections: u64,
    pub(crate) ended_connections: u64,
    pub(crate) mcp_sessions: usize,
    /// Every toolset, by name.
    pub(crate) toolsets: Vec<String>,
    /// What does not work of them.
    pub(crate) problems: Vec<ToolsetProblem>,
}

/// What is written to files.
pub(super) struct Files {
    pub(super) record: Option<RecordStatus>,
    pub(super) audit: Option<AuditStatus>,
}

pub(super) fn render(environment: &str, counts: &Counts, gauges: &Gauges, files: &Files) -> String {
    let mut page = Page::default();
    sessions(&mut page, counts, gauges);
    operations(&mut page, environment, counts);
    tools(&mut page, counts);
    state(&mut page, gauges);
    if let Some(record) = files.record {
        log(&mut page, record);
    }
    if let Some(status) = files.audit {
        audit(&mut page, status);
    }
    this_process(&mut page, process::read());
    page.gauge("oxenv_build_info", "Always 1; the label tells the version.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.into_text()
}

fn sessions(page: &mut Page, counts: &Counts, gauges: &Gauges) {
    page.gauge("oxenv_sessions", "Sessions that take a slot, and callers that wait for one.");
    page.sample(&[("state", "active")], gauges.active_sessions);
    page.sample(&[("state", "waiting")], gauges.waiting_sessions);
    page.gauge("oxenv_sessions_max", "Slots for sessions.");
    page.sample(&[], gauges.max_sessions);
    page.counter("oxenv_sessions_opened_total", "Sessions that were made.");
    page.sample(&[], counts.opened);
    page.counter("oxenv_sessions_refused_total", "Sessions that could not be made, by error code.");
    for (code, count) in sorted(counts.refused.iter().map(|(code, count)| (name(code), *count))) {
        page.sample(&[("code", &code)], count);
    }
    page.counter("oxenv_sessions_ended_total", "Sessions that ended, by reason.");
    for (reason, count) in sorted(counts.ended.iter()) {
        page.sample(&[("reason", reason)], count);
    }
    page.histogram("oxenv_session_wait_seconds", "How long sessions that were made had waited for a slot.");
    page.times(&[], &counts.session_wait);
}

fn operations(page: &mut Page, environment: &str, counts: &Counts) {
    let by_kind = sorted(counts.operations.iter().map(|(kind, times)| (kind.name(), times)));
    let help = "How long operations waited for earlier steps of their session before they ran.";
    page.histogram("oxenv_operation_wait_seconds", help);
    for (kind, times) in &by_kind {
        page.times(&[("environment", environment), ("kind", kind)], &times.waited);
    }
    page.histogram("oxenv_operation_seconds", "How long operations took after they had waited.");
    for (kind, times) in &by_kind {
        page.times(&[("environment", environment), ("kind", kind)], &times.took);
    }
    let help = "Operations that failed and sessions that could not be made, by code, kind and phase.";
    page.counter("oxenv_failures_total", help);
    let failures = counts.failures.iter();
    let failures =
        failures.map(|((code, kind, phase), count)| ((name(code), name(kind), name(phase)), *count));
    for ((code, kind, phase), count) in sorted(failures) {
        page.sample(&[("code", &code), ("kind", &kind), ("phase", &phase)], count);
    }
}

fn tools(page: &mut Page, counts: &Counts) {
    let by_toolset = counts.tools.iter();
    let all = by_toolset
        .flat_map(|(toolset, tools)| tools.iter().map(move |(tool, calls)| ((toolset, tool), calls)));
    let all = sorted(all);
    page.histogram("oxenv_tool_call_seconds", "How long tool calls took.");
    for ((toolset, tool), calls) in &all {
        page.times(&[("tool", tool), ("toolset", toolset)], &calls.took);
    }
    page.counter("oxenv_tool_errors_total", "Tool calls that gave an error, by its type.");
    for ((toolset, tool), calls) in &all {
        for (kind, count) in sorted(calls.errors.iter().copied()) {
            page.sample(&[("tool", tool), ("toolset", toolset), ("type", kind)], count);
        }
    }
}

fn state(page: &mut Page, gauges: &Gauges) {
    page.gauge("oxenv_toolset_up", "1 while a toolset works, 0 while it does not.");
    for toolset in &gauges.toolsets {
        let down = gauges.problems.iter().any(|problem| problem.toolset.as_ref() == Some(toolset));
        page.sample(&[("toolset", toolset)], u8::from(!down));
    }
    page.gauge("oxenv_stuck_environments", "Abandoned environment calls that have not come back.");
    page.sample(&[], gauges.stuck_environments);
    page.gauge("oxenv_connections", "Connections that are open.");
    page.sample(&[], gauges.connections);
    let help = "Connections that were refused, because no descriptors were left for them.";
    page.counter("oxenv_connections_refused_total", help);
    page.sample(&[], gauges.refused_connections);
    page.counter(
        "oxenv_connections_ended_total",
        "Idle connections that were ended to make room for others.",
    );
    page.sample(&[], gauges.ended_connections);
    page.gauge("oxenv_mcp_sessions", "MCP sessions of clients that shook hands.");
    page.sample(&[], gauges.mcp_sessions);
}

fn log(page: &mut Page, record: RecordStatus) {
    page.gauge("oxenv_log_lag_bytes", "Bytes handed to the log and not written yet.");
    page.sample(&[], record.lag_bytes);
    page.gauge("oxenv_log_lag_records", "Records handed to the log and not written yet.");
    page.sample(&[], record.lag_records);
    page.counter("oxenv_log_failed_total", "Records that could not be written to the log.");
    page.sample(&[], record.failed);
}

fn audit(page: &mut Page, audit: AuditStatus) {
    page.gauge("oxenv_audit_waiting_records", "Audit records that are not written yet.");
    page.sample(&[], audit.waiting);
    page.counter("oxenv_audit_failed_total", "Writes of the audit file that failed and were tried again.");
    page.sample(&[], audit.failed);
    page.counter(
        "oxenv_audit_refused_total",
        "Tool calls that were refused because they could not be audited.",
    );
    page.sample(&[], audit.refused);
}

fn this_process(page: &mut Page, process: Process) {
    if let Some(bytes) = process.resident_bytes {
        page.gauge("process_resident_memory_bytes", "Memory that the process holds.");
        page.sample(&[], bytes);
    }
    if let Some(descriptors) = process.open_descriptors {
        page.gauge("process_open_fds", "Descriptors that the process has open.");
        page.sample(&[], descriptors);
    }
    if let Some(descriptors) = process.max_descriptors {
        page.gauge("process_max_fds", "Descriptors that the process may have open.");
        page.sample(&[], descriptors);
    }
    if let Some(seconds) = process.cpu_seconds {
        page.counter("process_cpu_seconds_total", "Processor time that the process used.");
        page.sample(&[], seconds);
    }
    if let Some(started) = process.started {
        page.gauge("process_start_time_seconds", "When the process started, in seconds of Unix time.");
        page.sample(&[], started);
    }
}

/// The same in the same order at every scrape.
fn sorted<K: Ord, V>(pairs: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut pairs: Vec<(K, V)> = pairs.collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs
}

/// What a code, a kind or a phase is called on the wire.
fn name(of: &impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
