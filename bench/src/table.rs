//! The reports as text tables.
//!
//! Invariant: the JSON report has every figure of the table, so that no program needs to parse a
//! table.

use std::fmt::Write;

use crate::report::{IdleReport, LoadReport};
use crate::statistics::LatencySummary;

/// The table of a load report.
pub(crate) fn load_table(report: &LoadReport) -> String {
    let LoadReport { sessions, opened, depth, duration_s, warmup_s, request_bytes, .. } = report;
    let mut rows = Rows::default();
    let mode = match report.rate_target {
        Some(rate) => format!("open loop at {} /s", grouped(rate)),
        None => "closed loop".to_owned(),
    };
    let protocol = report.protocol.map_or(String::new(), |protocol| format!(" ({protocol})"));
    rows.row("bench", &format!("{}{protocol} on {}, {mode}", report.bench, report.url));
    rows.row("sessions", &format!("{opened} of {sessions}, depth {depth}, threads {}", report.threads));
    rows.row("time", &format!("{duration_s} s after {warmup_s} s of warm-up"));
    rows.row("requests", &format!("{} of {request_bytes} bytes", grouped(report.requests as f64)));
    rows.row("rate", &format!("{} /s", grouped(report.rate)));
    if let Some(latency) = &report.latency_us {
        rows.row("latency", &latencies(latency));
    }
    if let Some(server) = &report.server {
        let cpu = format!("{:.2} s cpu ({:.0} % of a core)", server.cpu.cpu_s, server.cpu.cpu_share * 100.0);
        let each = server.cpu_us_per_request.map_or(String::new(), |each| format!(", {each} us per request"));
        rows.row("server", &format!("{cpu}{each}, {} resident", mebibytes(server.rss_bytes)));
    }
    if let Some(load) = &report.load {
        rows.row("load", &format!("{:.2} s cpu ({:.0} % of a core)", load.cpu_s, load.cpu_share * 100.0));
    }
    if report.unsent > 0 {
        rows.row("unsent", &format!("{} were due but never sent", grouped(report.unsent as f64)));
    }
    rows.errors(report.errors, report.first_error.as_deref());
    rows.0
}

/// The table of an idle report.
pub(crate) fn idle_table(report: &IdleReport) -> String {
    let IdleReport { opened, sessions, lost, open_s, idle_s, .. } = report;
    let mut rows = Rows::default();
    rows.row("bench", &format!("{} on {}", report.bench, report.url));
    rows.row("sessions", &format!("{opened} of {sessions} opened in {open_s} s, {lost} lost"));
    rows.row("time", &format!("idle for {idle_s} s"));
    let (before, idle) = (mebibytes(report.rss_before_bytes), mebibytes(report.rss_idle_bytes));
    rows.row("resident", &format!("{before} before, {idle} with the sessions"));
    rows.row("session", &format!("{} bytes", grouped(report.bytes_per_session as f64)));
    rows.errors(report.errors, report.first_error.as_deref());
    rows.0
}

#[derive(Debug, Default)]
struct Rows(String);

impl Rows {
    fn row(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<9} {value}");
    }

    fn errors(&mut self, errors: u64, first: Option<&str>) {
        let first = first.map_or(String::new(), |first| format!(", the first: {first}"));
        self.row("errors", &format!("{}{first}", grouped(errors as f64)));
    }
}

fn latencies(latency: &LatencySummary) -> String {
    let LatencySummary { p50, p90, p99, p99_9, max, mean } = latency;
    format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max}  mean {mean} us")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A number rounded to an integer, with commas between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = if number <= -0.5 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::CpuUsage;
    use crate::report::ServerUsage;

    fn report() -> LoadReport {
        let latency =
            LatencySummary { p50: 530.2, p90: 600.0, p99: 990.1, p99_9: 1200.0, max: 4000.5, mean: 540.0 };
        let cpu = CpuUsage { cpu_s: 2.95, cpu_share: 0.983 };
        LoadReport {
            bench: "ws",
            protocol: None,
            url: "http://127.0.0.1:8000".to_owned(),
            mode: "closed",
            sessions: 64,
            opened: 64,
            depth: 1,
            threads: 1,
            request_bytes: 102,
            rate_target: None,
            warmup_s: 1.0,
            duration_s: 3.0,
            requests: 312_400,
            errors: 0,
            first_error: None,
            unsent: 0,
            reply: None,
            reply_bytes: None,
            rate: 104_133.3,
            latency_us: Some(latency),
            server: Some(ServerUsage::new(42, cpu, 13 << 20, 312_400)),
            load: None,
        }
    }

    #[test]
    fn a_load_reads_as_rows() {
        let expected = "\
bench     ws on http://127.0.0.1:8000, closed loop
sessions  64 of 64, depth 1, threads 1
time      3 s after 1 s of warm-up
requests  312,400 of 102 bytes
rate      104,133 /s
latency   p50 530.2  p90 600  p99 990.1  p99.9 1200  max 4000.5  mean 540 us
server    2.95 s cpu (98 % of a core), 9.44 us per request, 13.0 MiB resident
errors    0
";
        assert_eq!(load_table(&report()), expected);
    }

    #[test]
    fn errors_and_what_was_not_sent_are_shown() {
        let mut report = report();
        (report.errors, report.unsent) = (1234, 5);
        report.first_error = Some("not an observation".to_owned());
        let table = load_table(&report);
        assert!(table.contains("unsent    5 were due but never sent\n"));
        assert!(table.ends_with("errors    1,234, the first: not an observation\n"));
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0.0, 999.0, 1000.0, 1_234_567.4, -20_480.0].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "-20,480"]);
    }

    #[test]
    fn json_has_the_documented_keys() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["latency_us"]["p99_9"], 1200.0);
        assert_eq!(json["server"]["cpu_s"], 2.95);
        assert_eq!(json["server"]["rss_bytes"], 13 << 20);
        assert!(json["first_error"].is_null() && json["rate_target"].is_null());
    }
}
