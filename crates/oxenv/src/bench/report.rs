//! The reports, as `--json` prints them.
//!
//! The keys are an interface: `bench/compare` and other people's scripts read them. Add, never rename.

use serde::Serialize;

use super::proc::Cpu;
use super::tally::Latency;

/// What every load but `held` reports.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// The subcommand.
    pub(super) bench: &'static str,
    /// How MCP was spoken; null where it was not.
    pub(super) protocol: Option<&'static str>,
    pub(super) url: String,
    /// `closed` or `open`.
    pub(super) mode: &'static str,
    /// Sessions or connections that were asked for, and those that could be opened.
    pub(super) sessions: usize,
    pub(super) opened: usize,
    pub(super) depth: usize,
    pub(super) threads: usize,
    /// The bytes of one request, with its framing.
    pub(super) request_bytes: usize,
    pub(super) rate_target: Option<f64>,
    pub(super) warmup_s: f64,
    pub(super) duration_s: f64,
    /// Requests that got a good reply in the measured time.
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Requests of an open loop that were due and never sent; their latency is a lower bound.
    pub(super) unsent: u64,
    /// The first good reply, cut where it is long, and the bytes that it had.
    pub(super) reply: Option<String>,
    pub(super) reply_bytes: Option<usize>,
    /// Good replies per second.
    pub(super) rate: f64,
    pub(super) latency_us: Option<Latency>,
    pub(super) server: Option<Server>,
    /// The load generator's own use; near 1 per thread, it is the generator that was measured.
    pub(super) load: Option<Cpu>,
}

/// The server's use of the machine in the measured time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Server {
    pub(super) pid: u32,
    #[serde(flatten)]
    pub(super) cpu: Cpu,
    /// CPU microseconds for each good reply.
    pub(super) cpu_us_per_request: Option<f64>,
    /// Resident memory at the end of the measured time.
    pub(super) rss_bytes: u64,
}

/// What `held` reports.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HeldReport {
    pub(super) bench: &'static str,
    pub(super) url: String,
    pub(super) sessions: usize,
    /// Sessions that were opened and reset, and those that the server ended while they were held.
    pub(super) opened: usize,
    pub(super) lost: usize,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// How long opening all of them took, and how long they were held.
    pub(super) open_s: f64,
    pub(super) hold_s: f64,
    pub(super) pid: u32,
    /// Resident memory of the server before and with the sessions, and the difference for each.
    pub(super) rss_before_bytes: u64,
    pub(super) rss_held_bytes: u64,
    pub(super) bytes_per_session: i64,
}

impl Server {
    pub(super) fn new(pid: u32, cpu: Cpu, rss_bytes: u64, requests: u64) -> Self {
        let each = (requests > 0).then(|| round(cpu.cpu_s * 1e6 / requests as f64, 100.0));
        Self { pid, cpu, cpu_us_per_request: each, rss_bytes }
    }
}

/// Rounds to a fraction, so that a report has no digits that mean nothing.
pub(super) fn round(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_per_request_is_microseconds() {
        let cpu = Cpu { cpu_s: 2.0, cpu_share: 1.0 };
        assert_eq!(Server::new(1, cpu, 0, 300_000).cpu_us_per_request, Some(6.67));
        assert_eq!(Server::new(1, cpu, 0, 0).cpu_us_per_request, None);
    }
}
