//! The process in numbers, as Linux has them below `/proc/self`.
//!
//! Invariant: what cannot be read is absent, never 0; elsewhere than on Linux all of it is.

use std::fs;

/// Ticks of the processor clock per second: what Linux shows to programs on every architecture of ours.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process at present.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProcessStats {
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_descriptors: Option<usize>,
    /// None where there is no limit.
    pub(super) max_descriptors: Option<usize>,
    pub(super) cpu_seconds: Option<f64>,
    /// Seconds of Unix time.
    pub(super) started: Option<f64>,
}

/// Reads them. These files are in memory, so it does not wait for a disk.
pub(super) fn read() -> ProcessStats {
    let times = fs::read_to_string("/proc/self/stat").ok();
    let times = times.as_deref().and_then(times_of);
    let boot = fs::read_to_string("/proc/stat").ok();
    let boot = boot.as_deref().and_then(|text| field(text, "btime "));
    ProcessStats {
        resident_bytes: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| field(&text, "VmRSS:"))
            .map(|kibibytes| kibibytes * 1024),
        open_descriptors: oxenv_core::open_descriptors(),
        max_descriptors: oxenv_core::descriptor_limit(),
        cpu_seconds: times.map(|times| times.cpu_seconds),
        started: boot.zip(times).map(|(boot, times)| boot as f64 + times.started_after_boot),
    }
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Times of a process, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ProcessTimes {
    cpu_seconds: f64,
    started_after_boot: f64,
}

/// Reads proc(5), fields 14, 15 and 22. The second field is a name that may hold anything, within
/// parentheses.
fn times_of(stat: &str) -> Option<ProcessTimes> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(ProcessTimes {
        cpu_seconds: (ticks(14)? + ticks(15)?) as f64 / TICKS_PER_SECOND,
        started_after_boot: ticks(22)? as f64 / TICKS_PER_SECOND,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) (b 1 2) S 1 1 1 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 9 0 12345 1 2 3";
        assert_eq!(times_of(stat), Some(ProcessTimes { cpu_seconds: 4.0, started_after_boot: 123.45 }));
        assert_eq!(times_of("7 (a"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_alive() {
        let process = read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.open_descriptors.unwrap() >= 3);
        assert!(process.cpu_seconds.unwrap() >= 0.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - process.started.unwrap();
        assert!((-2.0..600.0).contains(&age), "{age}");
    }
}
