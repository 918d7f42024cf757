//! A process's CPU time and memory, from Linux's `/proc`.
//!
//! CPU time is in ticks of USER_HZ, 100 per second on every architecture that this is built for. A
//! measurement of 3 s is thus exact to 0.3 % of a core.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

const TICKS_PER_SECOND: u64 = 100;

/// CPU time that a process used during a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CpuUsage {
    /// User and system time of all threads, in seconds.
    pub(crate) cpu_s: f64,
    /// `cpu_s` as a share of one core.
    pub(crate) cpu_share: f64,
}

/// User and system time of a process so far, including threads that have ended.
pub(crate) fn cpu_time(pid: &str) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse_cpu_ticks(&stat).with_context(|| format!("cannot understand {path}"))?;
    Ok(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

/// The resident memory of a process in bytes.
///
/// `smaps_rollup` counts pages; `statm` is an estimate in newer kernels.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_resident_bytes(&rollup).with_context(|| format!("cannot understand {path}"))
}

impl CpuUsage {
    /// The use between two readings of [`cpu_time`].
    pub(crate) fn between(before: Duration, after: Duration, wall: Duration) -> Self {
        let used = after.saturating_sub(before).as_secs_f64();
        Self { cpu_s: used, cpu_share: (used / wall.as_secs_f64() * 1000.0).round() / 1000.0 }
    }
}

/// utime and stime, fields 14 and 15 of proc_pid_stat(5). The name, field 2, can contain spaces and brackets.
fn parse_cpu_ticks(stat: &str) -> anyhow::Result<u64> {
    let (_, after_name) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let &[utime, stime] = fields.get(11..13).context("too few fields")? else { bail!("too few fields") };
    Ok(utime.parse::<u64>()? + stime.parse::<u64>()?)
}

fn parse_resident_bytes(rollup: &str) -> anyhow::Result<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no `Rss:` line")?;
    let kilobytes = line.trim().strip_suffix("kB").context("`Rss:` is not in kB")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let plain = "42 (oxenv) S 1 42 42 0 -1 4194560 900 0 0 0 123 45 0 0 20 0 3 0 5000 1 2";
        assert_eq!(parse_cpu_ticks(plain).unwrap(), 168);
        let odd = plain.replace("(oxenv)", "(a) 1 (b 2)");
        assert_eq!(parse_cpu_ticks(&odd).unwrap(), 168);
    }

    #[test]
    fn broken_lines_are_errors() {
        for line in ["", "42 (x", "42 (x) S 1 2 3", "42 (x) S 1 2 3 4 5 6 7 8 9 10 a b 0"] {
            assert!(parse_cpu_ticks(line).is_err(), "{line}");
        }
        assert!(parse_resident_bytes("Pss: 1 kB").is_err());
    }

    #[test]
    fn resident_memory_is_bytes() {
        let rollup = "5581-7ffe ---p 0 00:00 0 [rollup]\nRss:                2984 kB\nPss: 7 kB\n";
        assert_eq!(parse_resident_bytes(rollup).unwrap(), 2984 * 1024);
    }

    #[test]
    fn cpu_use_is_a_share_of_one_core() {
        let cpu =
            CpuUsage::between(Duration::from_secs(1), Duration::from_millis(2500), Duration::from_secs(3));
        assert_eq!(cpu, CpuUsage { cpu_s: 1.5, cpu_share: 0.5 });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_read() {
        assert!(cpu_time("self").is_ok());
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
    }
}
