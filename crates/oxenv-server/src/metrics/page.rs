//! The page: every family of metrics, in order. `prometheus-client` writes it; the numbers are ours.
//!
//! Invariant: docs/observability.md lists exactly these families; a test compares the two. The names of
//! counters get their `_total` when they are written.

use std::fmt;

use oxenv_wire::ToolsetProblem;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::counts::Counts;
use super::histogram::Histogram;
use super::process::{self, ProcessStats};
use super::{AuditStatus, RecordStatus};

/// Figures that are looked up when the page is requested, rather than counted before.
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

/// The state of files that are written.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) record: Option<RecordStatus>,
    pub(super) audit: Option<AuditStatus>,
}

/// All that a page shows, but for the process.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) environment: String,
    pub(super) counts: Counts,
    pub(super) gauges: Gauges,
    pub(super) files: Files,
}

/// The page in Prometheus's text format, version 0.0.4.
pub(super) fn render(page: Page) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        sessions(&mut encoder, &self.counts, &self.gauges)?;
        operations(&mut encoder, &self.environment, &self.counts)?;
        tools(&mut encoder, &self.counts)?;
        state(&mut encoder, &self.gauges)?;
        if let Some(record) = self.files.record {
            log(&mut encoder, record)?;
        }
        if let Some(status) = self.files.audit {
            audit(&mut encoder, status)?;
        }
        this_process(&mut encoder, process::read())?;
        let mut info = gauge(&mut encoder, "oxenv_build_info", "Always 1; the label tells the version.")?;
        write_gauge(&mut info, &[("version", env!("CARGO_PKG_VERSION"))], 1_u64)
    }
}

fn sessions(page: &mut DescriptorEncoder<'_>, counts: &Counts, gauges: &Gauges) -> fmt::Result {
    let help = "Sessions that take a slot, and callers that wait for one.";
    let mut sessions = gauge(page, "oxenv_sessions", help)?;
    write_gauge(&mut sessions, &[("state", "active")], gauges.active_sessions)?;
    write_gauge(&mut sessions, &[("state", "waiting")], gauges.waiting_sessions)?;
    write_gauge(&mut gauge(page, "oxenv_sessions_max", "Slots for sessions.")?, &[], gauges.max_sessions)?;
    let mut opened = counter(page, "oxenv_sessions_opened", "Sessions that were made.")?;
    write_counter(&mut opened, &[], counts.opened)?;
    let help = "Sessions that could not be made, by error code.";
    let mut refused = counter(page, "oxenv_sessions_refused", help)?;
    for (code, number) in sorted(counts.refused.iter().map(|(code, number)| (name(code), *number))) {
        write_counter(&mut refused, &[("code", &code)], number)?;
    }
    let mut ended = counter(page, "oxenv_sessions_ended", "Sessions that ended, by reason.")?;
    for (reason, number) in sorted(counts.ended.iter()) {
        write_counter(&mut ended, &[("reason", reason)], *number)?;
    }
    let help = "How long sessions that were made had waited for a slot.";
    let mut waited = histogram(page, "oxenv_session_wait_seconds", help)?;
    write_histogram(&mut waited, &[], &counts.session_wait)
}

fn operations(page: &mut DescriptorEncoder<'_>, environment: &str, counts: &Counts) -> fmt::Result {
    let by_kind = sorted(counts.operations.iter().map(|(kind, times)| (kind.name(), times)));
    let help = "How long operations waited for earlier steps of their session before they ran.";
    let mut waited = histogram(page, "oxenv_operation_wait_seconds", help)?;
    for (kind, operations) in &by_kind {
        write_histogram(&mut waited, &[("environment", environment), ("kind", kind)], &operations.waited)?;
    }
    let help = "How long operations took after they had waited.";
    let mut took = histogram(page, "oxenv_operation_seconds", help)?;
    for (kind, operations) in &by_kind {
        write_histogram(&mut took, &[("environment", environment), ("kind", kind)], &operations.took)?;
    }
    let help = "Operations that failed and sessions that could not be made, by code, kind and phase.";
    let mut failed = counter(page, "oxenv_failures", help)?;
    let failures = counts.failures.iter();
    let failures =
        failures.map(|((code, kind, phase), number)| ((name(code), name(kind), name(phase)), *number));
    for ((code, kind, phase), number) in sorted(failures) {
        write_counter(&mut failed, &[("code", &code), ("kind", &kind), ("phase", &phase)], number)?;
    }
    Ok(())
}

fn tools(page: &mut DescriptorEncoder<'_>, counts: &Counts) -> fmt::Result {
    let by_toolset = counts.tools.iter();
    let all = by_toolset
        .flat_map(|(toolset, tools)| tools.iter().map(move |(tool, calls)| ((toolset, tool), calls)));
    let all = sorted(all);
    let mut took = histogram(page, "oxenv_tool_call_seconds", "How long tool calls took.")?;
    for ((toolset, tool), calls) in &all {
        write_histogram(&mut took, &[("tool", tool), ("toolset", toolset)], &calls.took)?;
    }
    let help = "Tool calls that gave an error, by its type.";
    let mut errors = counter(page, "oxenv_tool_errors", help)?;
    for ((toolset, tool), calls) in &all {
        for (kind, number) in sorted(calls.errors.iter().copied()) {
            write_counter(&mut errors, &[("tool", tool), ("toolset", toolset), ("type", kind)], number)?;
        }
    }
    Ok(())
}

fn state(page: &mut DescriptorEncoder<'_>, gauges: &Gauges) -> fmt::Result {
    let mut up = gauge(page, "oxenv_toolset_up", "1 while a toolset works, 0 while it does not.")?;
    for toolset in &gauges.toolsets {
        let down = gauges.problems.iter().any(|problem| problem.toolset.as_ref() == Some(toolset));
        write_gauge(&mut up, &[("toolset", toolset)], u64::from(!down))?;
    }
    let help = "Abandoned environment calls that have not come back.";
    write_gauge(&mut gauge(page, "oxenv_stuck_environments", help)?, &[], gauges.stuck_environments)?;
    write_gauge(
        &mut gauge(page, "oxenv_connections", "Connections that are open.")?,
        &[],
        gauges.connections,
    )?;
    let help = "Connections that were refused, because no descriptors were left for them.";
    let mut refused = counter(page, "oxenv_connections_refused", help)?;
    write_counter(&mut refused, &[], gauges.refused_connections)?;
    let help = "Idle connections that were ended to make room for others.";
    write_counter(&mut counter(page, "oxenv_connections_ended", help)?, &[], gauges.ended_connections)?;
    let help = "MCP sessions of clients that shook hands.";
    write_gauge(&mut gauge(page, "oxenv_mcp_sessions", help)?, &[], gauges.mcp_sessions)
}

fn log(page: &mut DescriptorEncoder<'_>, record: RecordStatus) -> fmt::Result {
    let help = "Bytes handed to the log and not written yet.";
    write_gauge(&mut gauge(page, "oxenv_log_lag_bytes", help)?, &[], record.lag_bytes)?;
    let help = "Records handed to the log and not written yet.";
    write_gauge(&mut gauge(page, "oxenv_log_lag_records", help)?, &[], record.lag_records)?;
    let help = "Records that could not be written to the log.";
    write_counter(&mut counter(page, "oxenv_log_failed", help)?, &[], record.failed)
}

fn audit(page: &mut DescriptorEncoder<'_>, audit: AuditStatus) -> fmt::Result {
    let help = "Audit records that are not written yet.";
    write_gauge(&mut gauge(page, "oxenv_audit_waiting_records", help)?, &[], audit.waiting)?;
    let help = "Writes of the audit file that failed and were tried again.";
    write_counter(&mut counter(page, "oxenv_audit_failed", help)?, &[], audit.failed)?;
    let help = "Tool calls that were refused because they could not be audited.";
    write_counter(&mut counter(page, "oxenv_audit_refused", help)?, &[], audit.refused)
}

fn this_process(page: &mut DescriptorEncoder<'_>, process: ProcessStats) -> fmt::Result {
    if let Some(bytes) = process.resident_bytes {
        let help = "Memory that the process holds.";
        write_gauge(&mut gauge(page, "process_resident_memory_bytes", help)?, &[], bytes)?;
    }
    if let Some(descriptors) = process.open_descriptors {
        let help = "Descriptors that the process has open.";
        write_gauge(&mut gauge(page, "process_open_fds", help)?, &[], descriptors)?;
    }
    if let Some(descriptors) = process.max_descriptors {
        let help = "Descriptors that the process may have open.";
        write_gauge(&mut gauge(page, "process_max_fds", help)?, &[], descriptors)?;
    }
    if let Some(seconds) = process.cpu_seconds {
        let help = "Processor time that the process used.";
        write_counter(&mut counter(page, "process_cpu_seconds", help)?, &[], seconds)?;
    }
    if let Some(started) = process.started {
        let help = "When the process started, in seconds of Unix time.";
        write_gauge(&mut gauge(page, "process_start_time_seconds", help)?, &[], started)?;
    }
    Ok(())
}

/// Names and values that identify a sample within its family.
type Labels<'a> = &'a [(&'a str, &'a str)];

type Family<'a> = Result<MetricEncoder<'a>, fmt::Error>;

fn counter<'a>(page: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Family<'a> {
    page.encode_descriptor(name, help, None, MetricType::Counter)
}

fn gauge<'a>(page: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Family<'a> {
    page.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn histogram<'a>(page: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Family<'a> {
    page.encode_descriptor(name, help, None, MetricType::Histogram)
}

/// A sample of a counter.
fn write_counter(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    value: impl EncodeCounterValue + Copy,
) -> fmt::Result {
    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

/// A sample of a gauge.
fn write_gauge(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    value: impl EncodeGaugeValue + Copy,
) -> fmt::Result {
    family.encode_family(&labels)?.encode_gauge(&value)
}

/// The samples of one histogram.
fn write_histogram(family: &mut MetricEncoder<'_>, labels: Labels<'_>, times: &Histogram) -> fmt::Result {
    let mut samples = family.encode_family(&labels)?;
    samples.encode_histogram::<NoLabelSet>(times.seconds(), times.count(), &times.buckets(), None)
}

/// Sorted by key, so that every scrape has the series in one order.
fn sorted<K: Ord, V>(pairs: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut pairs: Vec<(K, V)> = pairs.collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs
}

/// The name of a code, a kind or a phase on the wire.
fn name(of: &impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
