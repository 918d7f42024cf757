//! What observes sessions: metrics, slow steps, traces.
//!
//! Invariant: when nothing was asked for there is no observer, so nothing is measured.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use oxenv_core::{EndReason, Failure, ObservedCall, Observer, Operation, TraceContext};
use oxenv_server::{AuditStatus, Metrics, RecordStatus};
use oxenv_store::JsonlAudit;
use serde::Deserialize;

use crate::slow_steps::SlowSteps;
use crate::traces::{Endpoint, Exporter, Traces};
use crate::values::{duration, duration_setting, ratio, ratio_setting};

/// How the server is observed; see docs/observability.md.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ObservingArgs {
    /// Count and measure, and show the numbers at /metrics for Prometheus
    #[arg(long)]
    pub(crate) metrics: bool,

    /// Log a warning for each step, reset or call that takes at least this long: 250ms, 1s [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(deserialize_with = "duration_setting")]
    pub(crate) slow_step: Option<Duration>,

    /// Send traces to a receiver of OTLP over HTTP, such as http://127.0.0.1:4318 [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<Endpoint>,

    /// Fraction of traces to record, from 0 to 1, of those that no caller began [default: 1]
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    #[serde(deserialize_with = "ratio_setting")]
    pub(crate) otlp_sample: Option<f64>,
}

/// Reports the state of the log of steps.
pub(crate) type RecordStatusReader = Box<dyn Fn() -> RecordStatus + Send + Sync>;

/// What observes a server.
pub(crate) struct Observing {
    /// What `/metrics` shows.
    pub(crate) metrics: Option<Arc<Metrics>>,
    /// The observer that the store reports its sessions to.
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Whether callers' traces are needed.
    pub(crate) traces: bool,
    exporter: Option<Exporter>,
}

impl Observing {
    /// Begins to observe, within a runtime.
    ///
    /// # Errors
    /// When traces cannot be sent at all.
    pub(crate) fn start(
        asked: &ObservingArgs,
        environment: &str,
        record: Option<RecordStatusReader>,
        audit: Option<Arc<JsonlAudit>>,
    ) -> anyhow::Result<Self> {
        let metrics = asked.metrics.then(|| {
            let mut metrics = Metrics::new(environment);
            if let Some(record) = record {
                metrics = metrics.with_record_status(record);
            }
            if let Some(audit) = audit {
                metrics = metrics.with_audit_status(move || {
                    let status = audit.status();
                    AuditStatus { waiting: status.waiting, failed: status.failed, refused: status.refused }
                });
            }
            Arc::new(metrics)
        });
        let mut observers: Vec<Arc<dyn Observer>> = Vec::new();
        if let Some(metrics) = &metrics {
            observers.push(Arc::clone(metrics) as Arc<dyn Observer>);
        }
        if let Some(threshold) = asked.slow_step {
            observers.push(Arc::new(SlowSteps::new(threshold, environment)));
        }
        let mut exporter = None;
        if let Some(endpoint) = &asked.otlp {
            let (traces, sends) = Traces::start(endpoint, asked.otlp_sample.unwrap_or(1.0), environment)?;
            observers.push(traces);
            exporter = Some(sends);
        }
        let observer = match observers.len() {
            0 | 1 => observers.pop(),
            _ => Some(Arc::new(ObserverSet(observers)) as Arc<dyn Observer>),
        };
        Ok(Observing { metrics, observer, traces: exporter.is_some(), exporter })
    }

    /// Sends what is left to send, for a few seconds at most.
    pub(crate) async fn close(self) {
        if let Some(exporter) = self.exporter {
            exporter.close().await;
        }
    }
}

/// More than one observer.
struct ObserverSet(Vec<Arc<dyn Observer>>);

impl Observer for ObserverSet {
    fn begins(&self, caller: Option<TraceContext>) -> Option<TraceContext> {
        // At most one of them gives out places; the others pass on what they are given.
        self.0.iter().fold(caller, |place, observer| observer.begins(place))
    }

    fn opened(&self, waited: Duration) {
        self.0.iter().for_each(|observer| observer.opened(waited));
    }

    fn refused(&self, failure: &Failure) {
        self.0.iter().for_each(|observer| observer.refused(failure));
    }

    fn ended(&self, reason: &EndReason) {
        self.0.iter().for_each(|observer| observer.ended(reason));
    }

    fn operated(&self, operation: &Operation<'_>) {
        self.0.iter().for_each(|observer| observer.operated(operation));
    }

    fn called(&self, call: &ObservedCall<'_>) {
        self.0.iter().for_each(|observer| observer.called(call));
    }
}
