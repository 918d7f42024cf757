//! The owner of an instance: the process that started it, which may be gone.
//!
//! Invariant: a process is called gone only where that is sure; one that cannot be seen from here is not.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, distinct from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerProcess {
    pid: u32,
    /// Clock ticks from the machine's start to its own.
    start: u64,
    /// The namespace that its number counts in.
    namespace: u64,
    /// The machine's present run.
    boot: String,
}

impl OwnerProcess {
    /// This process.
    pub(crate) fn current() -> Self {
        let pid = std::process::id();
        OwnerProcess {
            pid,
            start: process_start_time(pid).unwrap_or(0),
            namespace: pid_namespace(),
            boot: boot_id(),
        }
    }

    /// The owner that a label names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(OwnerProcess {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            namespace: parts.next()?.parse().ok()?,
            boot: parts.next()?.to_owned(),
        })
    }

    /// Whether it is surely gone.
    pub(crate) fn is_gone(&self) -> bool {
        let comparable = self.start > 0 && self.boot == boot_id() && self.namespace == pid_namespace();
        comparable && process_start_time(self.pid) != Some(self.start)
    }

    /// Whether it belongs to another run of a machine, this one or not.
    pub(crate) fn is_other_boot(&self) -> bool {
        self.boot != boot_id()
    }
}

impl fmt::Display for OwnerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.pid, self.start, self.namespace, self.boot)
    }
}

/// When a process started, in clock ticks since the machine did; `None` if it has ended.
pub(crate) fn process_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // proc(5): the state is field 3, the start field 22.
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

fn boot_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_back() {
        let this = OwnerProcess::current();
        assert_eq!(OwnerProcess::parse(&this.to_string()), Some(this.clone()));
        assert!(!this.is_gone() && !this.is_other_boot());
        assert_eq!(OwnerProcess::parse("1 2 x"), None);
    }

    #[test]
    fn a_number_that_was_given_again_is_another_process() {
        let this = OwnerProcess::current();
        assert!(OwnerProcess { start: this.start - 1, ..this.clone() }.is_gone());
        assert!(OwnerProcess { pid: u32::MAX, ..this.clone() }.is_gone());
        // In another namespace, or before the machine started anew, this cannot be known here.
        assert!(!OwnerProcess { pid: u32::MAX, namespace: 1, ..this.clone() }.is_gone());
        let elsewhere = OwnerProcess { pid: u32::MAX, boot: "other".to_owned(), ..this };
        assert!(!elsewhere.is_gone() && elsewhere.is_other_boot());
    }
}
