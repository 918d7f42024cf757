//! The reports, as `--json` prints them.
//!
//! The keys are an interface: `bench/compare` and other people's scripts read them. Add, never rename.

use serde::Serialize;

use crate::procfs::CpuUsage;
use crate::statistics::LatencySummary;

/// What every load but `held` reports.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    /// The subcommand.
    pub(crate) bench: &'static str,
    /// How MCP was spoken; null where it was not.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) url: String,
    /// `closed` or `open`.
    pub(crate) mode: &'static str,
    /// Sessions or connections that were asked for, and those that could be opened.
    pub(crate) sessions: usize,
    pub(crate) opened: usize,
    pub(crate) depth: usize,
    pub(crate) threads: usize,
    /// The bytes of one request, with its framing.
    pub(crate) request_bytes: usize,
    pub(crate) rate_target: Option<f64>,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    /// Requests that got a good reply in the measured time.
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Requests of an open loop that were due and never sent; their latency is a lower bound.
    pub(crate) unsent: u64,
    /// The first good reply, cut where it is long, and the bytes that it had.
    pub(crate) reply: Option<String>,
    pub(crate) reply_bytes: Option<usize>,
    /// Good replies per second.
    pub(crate) rate: f64,
    pub(crate) latency_us: Option<LatencySummary>,
    pub(crate) server: Option<ServerUsage>,
    /// The load generator's own use; near 1 per thread, it is the generator that was measured.
    pub(crate) load: Option<CpuUsage>,
}

/// The server's use of the machine in the measured time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ServerUsage {
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) cpu: CpuUsage,
    /// CPU microseconds for each good reply.
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Resident memory at the end of the measured time.
    pub(crate) rss_bytes: u64,
}

/// What `held` reports.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleReport {
    pub(crate) bench: &'static str,
    pub(crate) url: String,
    pub(crate) sessions: usize,
    /// Sessions that were opened and reset, and those that the server ended while they were held.
    pub(crate) opened: usize,
    pub(crate) lost: usize,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// How long opening all of them took, and how long they were held.
    pub(crate) open_s: f64,
    pub(crate) hold_s: f64,
    pub(crate) pid: u32,
    /// Resident memory of the server before and with the sessions, and the difference for each.
    pub(crate) rss_before_bytes: u64,
    pub(crate) rss_held_bytes: u64,
    pub(crate) bytes_per_session: i64,
}

impl ServerUsage {
    pub(crate) fn new(pid: u32, cpu: CpuUsage, rss_bytes: u64, requests: u64) -> Self {
        let each = (requests > 0).then(|| round(cpu.cpu_s * 1e6 / requests as f64, 100.0));
        Self { pid, cpu, cpu_us_per_request: each, rss_bytes }
    }
}

/// Rounds to a fraction, so that a report has no digits that mean nothing.
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
