//! A process's CPU time and memory, from Linux's `/proc`.
//!
//! CPU time is in ticks of USER_HZ, 100 per second on every architecture that this is built for. A
//! measurement of 3 s is thus exact to 0.3 % of a core.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

const TICKS_PER_SECOND: u64 = 100;

/// CPU time that a process used during a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CpuUsage {
    /// User and system time of all threads, and of the processes that it started, in seconds.
    pub(crate) cpu_s: f64,
    /// `cpu_s` as a share of one core.
    pub(crate) cpu_share: f64,
}

/// User and system time of a process and of all that it has started so far, including what has ended.
pub(crate) fn cpu_time(pid: &str) -> anyhow::Result<Duration> {
    // One that has ended meanwhile is counted by its parent.
    let of_started = |pid: u32| cpu_ticks(&pid.to_string()).ok();
    let ticks = cpu_ticks(pid)? + descendants(pid)?.into_iter().filter_map(of_started).sum::<u64>();
    Ok(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

fn cpu_ticks(pid: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_ticks(&stat).with_context(|| format!("cannot understand {path}"))
}

/// The resident memory of a process in bytes; with that of the processes that it has started, where there are
/// any, and what they share counted once.
///
/// `smaps_rollup` counts pages; `statm` is an estimate in newer kernels.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let started = descendants(&pid.to_string())?;
    if started.is_empty() {
        return memory(pid, "Rss:");
    }
    // One that has ended meanwhile has no memory any more.
    let of_started = started.into_iter().filter_map(|pid| memory(pid, "Pss:").ok()).sum::<u64>();
    Ok(memory(pid, "Pss:")? + of_started)
}

fn memory(pid: u32, kind: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_memory(&rollup, kind).with_context(|| format!("cannot understand {path}"))
}

/// The processes that a process has started, and those that these have started.
fn descendants(pid: &str) -> anyhow::Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task");
    let mut found = Vec::new();
    for task in fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()) {
            found.push(child);
            found.extend(descendants(&child.to_string()).unwrap_or_default());
        }
    }
    Ok(found)
}

impl CpuUsage {
    /// The use between two readings of [`cpu_time`].
    pub(crate) fn between(before: Duration, after: Duration, wall: Duration) -> Self {
        let used = after.saturating_sub(before).as_secs_f64();
        Self { cpu_s: used, cpu_share: (used / wall.as_secs_f64() * 1000.0).round() / 1000.0 }
    }
}

/// utime, stime, and those of children that have ended: fields 14 to 17 of proc_pid_stat(5). The name, field
/// 2, can contain spaces and brackets.
fn parse_cpu_ticks(stat: &str) -> anyhow::Result<u64> {
    let (_, after_name) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let times = fields.get(11..15).context("too few fields")?;
    times.iter().map(|time| Ok(time.parse::<u64>()?)).sum()
}

fn parse_memory(rollup: &str, kind: &str) -> anyhow::Result<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(kind));
    let line = line.with_context(|| format!("no `{kind}` line"))?;
    let kilobytes = line.trim().strip_suffix("kB").with_context(|| format!("`{kind}` is not in kB"))?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let plain = "42 (oxenv) S 1 42 42 0 -1 4194560 900 0 0 0 123 45 6 1 20 0 3 0 5000 1 2";
        assert_eq!(parse_cpu_ticks(plain).unwrap(), 175);
        let odd = plain.replace("(oxenv)", "(a) 1 (b 2)");
        assert_eq!(parse_cpu_ticks(&odd).unwrap(), 175);
    }

    #[test]
    fn broken_lines_are_errors() {
        for line in ["", "42 (x", "42 (x) S 1 2 3", "42 (x) S 1 2 3 4 5 6 7 8 9 10 a b 0"] {
            assert!(parse_cpu_ticks(line).is_err(), "{line}");
        }
        assert!(parse_memory("Pss: 1 kB", "Rss:").is_err());
    }

    #[test]
    fn resident_memory_is_bytes() {
        let rollup = "5581-7ffe ---p 0 00:00 0 [rollup]\nRss:                2984 kB\nPss: 7 kB\n";
        assert_eq!(parse_memory(rollup, "Rss:").unwrap(), 2984 * 1024);
        assert_eq!(parse_memory(rollup, "Pss:").unwrap(), 7 * 1024);
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
