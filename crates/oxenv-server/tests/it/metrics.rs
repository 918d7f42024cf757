//! `/metrics`: what is counted is shown, in the format that Prometheus reads, under the names that the
//! documentation has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{
    CallError, EndReason, Execution, Failure, ObservedCall, Observer, Operation, OperationKind, StoreLimits,
};
use oxenv_server::{AuditStatus, Metrics, Mode, RecordStatus, ServerConfig};
use oxenv_test_support::{get, until};
use oxenv_wire::{ErrorCode, Phase, ToolErrorType};

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

/// A server that counts, and what it counts with.
async fn counting(metrics: Metrics, mode: Mode) -> (Served, Arc<Metrics>) {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let metrics = Arc::new(metrics);
    let config = ServerConfig { mode, metrics: Some(Arc::clone(&metrics)), ..ServerConfig::default() };
    (Served::start(&stage, factory, StoreLimits::default(), config).await, metrics)
}

/// A page, by the rules of the format.
struct Page {
    /// The type of each family.
    types: BTreeMap<String, String>,
    /// The value of each series, by its name and labels as they are written.
    series: BTreeMap<String, f64>,
}

impl Page {
    async fn of(served: &Served) -> Self {
        let reply = get(served.address, "/metrics").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let mut page = Page { types: BTreeMap::new(), series: BTreeMap::new() };
        let text = reply.text();
        assert!(text.ends_with('\n'));
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap().to_owned();
                assert!(!page.types.contains_key(&family), "{family} comes twice");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family);
                page.types.insert(name.to_owned(), kind.to_owned());
            } else {
                assert!(line.starts_with(&family), "{line} stands below {family}");
                let (series, value) = line.rsplit_once(' ').unwrap();
                let twice = page.series.insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(twice, None, "{series} comes twice");
            }
        }
        page
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.series))
    }
}

fn operation(waited: Duration, took: Duration, failure: Option<&Failure>) -> Operation<'_> {
    let kind = OperationKind::Step;
    Operation { kind, session_id: "s", epoch: 1, waited, took, failure, trace: None }
}

fn call<'a>(toolset: &'a str, tool: &'a str) -> ObservedCall<'a> {
    let took = Duration::from_millis(3);
    ObservedCall { session_id: None, tool, toolset, took, tool_error: false, error: None, trace: None }
}

#[tokio::test]
async fn a_server_that_counts_nothing_says_how_to() {
    let served = serve().await;
    let reply = get(served.address, "/metrics").await;
    assert_eq!(reply.status, 404);
    assert!(reply.json()["detail"].as_str().unwrap().contains("--metrics"), "{}", reply.text());
    served.end().await;
    for mode in [Mode::Simulation, Mode::Production] {
        let (served, _) = counting(Metrics::new("scripted"), mode).await;
        let document = get(served.address, "/openapi.json").await.json();
        let answer = &document["paths"]["/metrics"]["get"]["responses"]["200"]["content"];
        assert!(answer["text/plain"].is_object(), "{mode:?}: {answer}");
        assert_eq!(get(served.address, "/metrics").await.status, 200);
        served.end().await;
    }
}

#[tokio::test]
async fn waiting_and_running_are_told_apart() {
    let (served, metrics) = counting(Metrics::new("scripted"), Mode::Simulation).await;
    metrics.operated(&operation(Duration::from_secs(2), Duration::from_micros(7), None));
    metrics.operated(&operation(Duration::ZERO, Duration::from_millis(40), None));
    let page = Page::of(&served).await;
    let labels = "environment=\"scripted\",kind=\"step\"";
    let waited =
        |le: &str| page.value(&format!("oxenv_operation_wait_seconds_bucket{{{labels},le=\"{le}\"}}"));
    let took = |le: &str| page.value(&format!("oxenv_operation_seconds_bucket{{{labels},le=\"{le}\"}}"));
    assert_eq!((waited("5e-06"), waited("1"), waited("2.5"), waited("+Inf")), (1.0, 1.0, 2.0, 2.0));
    assert_eq!((took("5e-06"), took("1e-05"), took("0.025"), took("0.05")), (0.0, 1.0, 1.0, 2.0));
    assert_eq!(page.value(&format!("oxenv_operation_wait_seconds_sum{{{labels}}}")), 2.0);
    let sum = page.value(&format!("oxenv_operation_seconds_sum{{{labels}}}"));
    assert!((sum - 0.040_007).abs() < 1e-9, "{sum}");
    assert_eq!(page.value(&format!("oxenv_operation_seconds_count{{{labels}}}")), 2.0);
    served.end().await;
}

#[tokio::test]
async fn failures_and_ends_are_counted_by_their_words() {
    let (served, metrics) = counting(Metrics::new("scripted"), Mode::Production).await;
    let late = Failure::new(ErrorCode::DeadlineExceeded, "late");
    metrics.operated(&operation(Duration::ZERO, Duration::ZERO, Some(&late)));
    metrics.operated(&operation(Duration::ZERO, Duration::ZERO, Some(&late)));
    metrics.opened(Duration::from_millis(20));
    metrics.refused(&Failure::new(ErrorCode::CapacityReached, "full").in_phase(Phase::Boot));
    metrics.ended(&EndReason::Expired);
    metrics.ended(&EndReason::Failed("secret of a panic".to_owned()));
    let page = Page::of(&served).await;
    for (series, value) in [
        ("oxenv_failures_total{code=\"DEADLINE_EXCEEDED\",kind=\"timeout\",phase=\"step\"}", 2.0),
        ("oxenv_failures_total{code=\"CAPACITY_REACHED\",kind=\"infrastructure\",phase=\"boot\"}", 1.0),
        ("oxenv_sessions_refused_total{code=\"CAPACITY_REACHED\"}", 1.0),
        ("oxenv_sessions_opened_total", 1.0),
        ("oxenv_sessions_ended_total{reason=\"expired\"}", 1.0),
        ("oxenv_sessions_ended_total{reason=\"failed\"}", 1.0),
        ("oxenv_session_wait_seconds_bucket{le=\"0.01\"}", 0.0),
        ("oxenv_session_wait_seconds_bucket{le=\"0.025\"}", 1.0),
    ] {
        assert_eq!(page.value(series), value, "{series}");
    }
    assert!(!page.series.keys().any(|series| series.contains("secret")));
    served.end().await;
}

#[tokio::test]
async fn tools_are_counted_by_name_up_to_a_bound() {
    let (served, metrics) = counting(Metrics::new("scripted"), Mode::Simulation).await;
    let error = CallError { error_type: ToolErrorType::Timeout, code: Some(ErrorCode::DeadlineExceeded) };
    metrics.called(&ObservedCall { error: Some(error), ..call("files", "read") });
    metrics.called(&ObservedCall { tool_error: true, ..call("files", "read") });
    metrics.called(&call("files", "read"));
    metrics.called(&call("odd \"set\"", "a\\b\nc"));
    // From threads of their own, so that several shards meet the bound.
    for thread in 0..3 {
        let metrics = Arc::clone(&metrics);
        let many = move || (0..600).for_each(|tool| metrics.called(&call("many", &format!("{tool}"))));
        std::thread::Builder::new().name(format!("calls {thread}")).spawn(many).unwrap().join().unwrap();
    }
    let page = Page::of(&served).await;
    let files = "tool=\"read\",toolset=\"files\"";
    assert_eq!(page.value(&format!("oxenv_tool_call_seconds_count{{{files}}}")), 3.0);
    for kind in ["timeout", "reported"] {
        assert_eq!(page.value(&format!("oxenv_tool_errors_total{{{files},type=\"{kind}\"}}")), 1.0);
    }
    let odd = "oxenv_tool_call_seconds_count{tool=\"a\\\\b\\nc\",toolset=\"odd \\\"set\\\"\"}";
    assert_eq!(page.value(odd), 1.0);
    let tools = || page.series.iter().filter(|(name, _)| name.starts_with("oxenv_tool_call_seconds_count"));
    assert_eq!(tools().count(), 512 + 1);
    assert_eq!(tools().map(|(_, count)| count).sum::<f64>(), 4.0 + 3.0 * 600.0);
    let other = page.value("oxenv_tool_call_seconds_count{tool=\"other\",toolset=\"other\"}");
    assert_eq!(other, 3.0 * (2.0 + 600.0 - 512.0));
    served.end().await;
}

#[tokio::test]
async fn the_servers_state_is_looked_up() {
    let record = RecordStatus { lag_bytes: 70, lag_records: 7, failed: 1 };
    let audit = AuditStatus { waiting: 3, failed: 2, refused: 5 };
    let metrics =
        Metrics::new("scripted").with_record_status(move || record).with_audit_status(move || audit);
    let (served, _) = counting(metrics, Mode::Simulation).await;
    let socket = served.ws("/ws").await;
    until("the socket has its session", || served.active() == 1).await;
    let page = Page::of(&served).await;
    for (series, value) in [
        ("oxenv_sessions{state=\"active\"}", 1.0),
        ("oxenv_sessions{state=\"waiting\"}", 0.0),
        ("oxenv_sessions_max", 256.0),
        ("oxenv_stuck_environments", 0.0),
        ("oxenv_mcp_sessions", 0.0),
        ("oxenv_log_lag_bytes", 70.0),
        ("oxenv_log_lag_records", 7.0),
        ("oxenv_log_failed_total", 1.0),
        ("oxenv_audit_waiting_records", 3.0),
        ("oxenv_audit_failed_total", 2.0),
        ("oxenv_audit_refused_total", 5.0),
        (concat!("oxenv_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(page.value(series), value, "{series}");
    }
    // The socket, the page's own request, and any request that is still being ended.
    assert!(page.value("oxenv_connections") >= 2.0);
    assert!(page.series.keys().any(|series| series.starts_with("oxenv_toolset_up{")), "{:?}", page.series);
    drop(socket);
    served.end().await;
}

/// The documentation names each metric at the beginning of a row, in backquotes.
#[tokio::test]
async fn the_documentation_lists_what_is_shown() {
    let metrics = Metrics::new("scripted")
        .with_record_status(RecordStatus::default)
        .with_audit_status(AuditStatus::default);
    let (served, _) = counting(metrics, Mode::Simulation).await;
    let page = Page::of(&served).await;
    let document = include_str!("../../../../docs/observability.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<&str> = rows
        .map(|row| row.split(['`', '{']).next().unwrap())
        .filter(|name| name.starts_with("oxenv_") || name.starts_with("process_"))
        .collect();
    let shown: BTreeSet<&str> = page.types.keys().map(String::as_str).collect();
    assert_eq!(documented, shown);
    for (name, kind) in &page.types {
        let row = document.lines().find(|line| line.starts_with(&format!("| `{name}"))).unwrap();
        assert!(row.contains(&format!("| {kind} |")), "{name} is a {kind}: {row}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
    }
    served.end().await;
}
