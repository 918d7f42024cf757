//! The reports, as `--json` prints them.
//!
//! The keys are an interface that `bench/compare` and users' scripts read.

use serde::Serialize;

use crate::procfs::CpuUsage;
use crate::statistics::LatencySummary;

/// The report of every load except `idle`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    /// The subcommand.
    pub(crate) bench: &'static str,
    /// The revision of MCP; null if MCP was not spoken.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) url: String,
    /// `closed` or `open`.
    pub(crate) mode: &'static str,
    /// Sessions or connections: how many were requested, and how many could be opened.
    pub(crate) sessions: usize,
    pub(crate) opened: usize,
    pub(crate) depth: usize,
    pub(crate) threads: usize,
    /// Length of one request, with its framing.
    pub(crate) request_bytes: usize,
    pub(crate) rate_target: Option<f64>,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    /// Requests with a successful reply during the measurement.
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Requests of an open loop that were due but never sent; their latency is a lower bound.
    pub(crate) unsent: u64,
    /// The beginning of the first successful reply, and its length in bytes.
    pub(crate) reply: Option<String>,
    pub(crate) reply_bytes: Option<usize>,
    /// Successful replies per second.
    pub(crate) rate: f64,
    pub(crate) latency_us: Option<LatencySummary>,
    pub(crate) server: Option<ServerUsage>,
    /// The CPU use of the load generator. Near 1 per thread, the generator limits the rate.
    pub(crate) load: Option<CpuUsage>,
}

/// CPU time and memory of the server during the measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ServerUsage {
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) cpu: CpuUsage,
    /// CPU microseconds per successful reply.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Resident memory at the end of the measurement.
    pub(crate) rss_bytes: u64,
}

/// The report of `idle`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleReport {
    pub(crate) bench: &'static str,
    pub(crate) url: String,
    pub(crate) sessions: usize,
    /// Sessions that were opened and reset, and how many of them the server ended while they were idle.
    pub(crate) opened: usize,
    pub(crate) lost: usize,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// How long it took to open all sessions, and how long they were idle.
    pub(crate) open_s: f64,
    pub(crate) idle_s: f64,
    pub(crate) pid: u32,
    /// Resident memory of the server before and with the sessions, and the difference per session.
    pub(crate) rss_before_bytes: u64,
    pub(crate) rss_idle_bytes: u64,
    pub(crate) bytes_per_session: i64,
}

impl ServerUsage {
    pub(crate) fn new(pid: u32, cpu: CpuUsage, rss_bytes: u64, requests: u64) -> Self {
        let each = (requests > 0).then(|| round(cpu.cpu_s * 1e6 / requests as f64, 100.0));
        Self { pid, cpu, cpu_us_per_request: each, rss_bytes }
    }
}

/// Rounds to a multiple of `1 / parts`.
pub(crate) fn round(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_per_request_is_microseconds() {
        let cpu = CpuUsage { cpu_s: 2.0, cpu_share: 1.0 };
        assert_eq!(ServerUsage::new(1, cpu, 0, 300_000).cpu_us_per_request, Some(6.67));
        assert_eq!(ServerUsage::new(1, cpu, 0, 0).cpu_us_per_request, None);
    }
}
