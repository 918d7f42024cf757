//! Calls an upstream through the SDK's client, with a fixed number of calls in flight.
//!
//! The report has the keys of `oxenv bench --json`. `server` is this process, which does the work of a server
//! that forwards calls to the upstream.

use std::fs;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rmcp::RoleClient;
use rmcp::model::{CallToolRequestParams, JsonObject};
use rmcp::service::Peer;
use serde_json::json;
use tokio::task::JoinSet;

use crate::Upstream;
use crate::echo::ECHO;

const MESSAGE: &str = "hello";
const TICKS_PER_SECOND: f64 = 100.0;

/// The measurement: calls count that end in it.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// Runs the measurement and prints its report on stdout. A call that fails ends the run.
pub(crate) async fn run(
    upstream: Upstream,
    in_flight: usize,
    warmup: Duration,
    measured: Duration,
) -> Result<(), String> {
    let from = Instant::now() + warmup;
    let window = Window { from, until: from + measured };
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        callers.spawn(calls(upstream.client.peer().clone(), window));
    }
    tokio::time::sleep_until(window.from.into()).await;
    let before = (cpu_seconds()?, Instant::now());
    tokio::time::sleep_until(window.until.into()).await;
    let (cpu_s, wall) = (cpu_seconds()? - before.0, before.1.elapsed());
    let mut all = histogram()?;
    for latencies in callers.join_all().await {
        all.add(latencies?).map_err(|error| error.to_string())?;
    }
    if all.is_empty() {
        return Err("no call came back within the measured time".to_owned());
    }
    let micros = |nanos: f64| (nanos / 100.0).round() / 10.0;
    let at = |quantile| micros(all.value_at_quantile(quantile) as f64);
    let report = json!({
        "bench": "calls",
        "mode": "closed",
        "sessions": in_flight,
        "requests": all.len(),
        "errors": 0,
        "rate": all.len() as f64 / measured.as_secs_f64(),
        "latency_us": {
            "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99_9": at(0.999),
            "max": micros(all.max() as f64), "mean": micros(all.mean()),
        },
        "server": {
            "cpu_s": cpu_s,
            "cpu_share": cpu_s / wall.as_secs_f64(),
            "cpu_us_per_request": cpu_s * 1e6 / all.len() as f64,
        },
    });
    println!("{report}");
    Ok(())
}

/// Calls the tool repeatedly, one call at a time.
async fn calls(peer: Peer<RoleClient>, window: Window) -> Result<Histogram<u64>, String> {
    let mut latencies = histogram()?;
    let mut arguments = JsonObject::new();
    arguments.insert("message".to_owned(), MESSAGE.into());
    let params = CallToolRequestParams::new(ECHO).with_arguments(arguments);
    loop {
        let sent = Instant::now();
        if sent >= window.until {
            return Ok(latencies);
        }
        let result = peer.call_tool(params.clone()).await.map_err(|error| error.to_string())?;
        if result.is_error == Some(true) || result.content.is_empty() {
            return Err(format!("the tool failed: {result:?}"));
        }
        let answered = Instant::now();
        if (window.from..window.until).contains(&answered) {
            let nanos = u64::try_from((answered - sent).as_nanos()).unwrap_or(u64::MAX);
            latencies.saturating_record(nanos);
        }
    }
}

/// A histogram of nanoseconds up to 100 s, with three significant digits.
fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).map_err(|error| error.to_string())
}

/// User and system time of this process: fields 14 and 15 of proc_pid_stat(5), in ticks.
fn cpu_seconds() -> Result<f64, String> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(|error| format!("/proc/self/stat: {error}"))?;
    let after_name = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: Option<f64> =
        after_name.split_ascii_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().ok()).sum();
    ticks.map(|ticks| ticks / TICKS_PER_SECOND).ok_or_else(|| "/proc/self/stat: not understood".to_owned())
}
