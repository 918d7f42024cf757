//! Who started an instance: a process that may be gone.
//!
//! Invariant: a process is called gone only where that is sure; one that cannot be seen from here is not.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    /// Clock ticks from the machine's start to its own.
    start: u64,
    /// The namespace that its number counts in.
    namespace: u64,
    /// The machine's present run.
    boot: String,
}

impl Owner {
    /// This process.
    pub(crate) fn this() -> Self {
        let pid = std::process::id();
        Owner { pid, start: start_of(pid).unwrap_or(0), namespace: namespace(), boot: boot() }
    }

    /// The owner that a label names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Owner {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            namespace: parts.next()?.parse().ok()?,
            boot: parts.next()?.to_owned(),
        })
    }

    /// Whether it is surely gone.
    pub(crate) fn is_gone(&self) -> bool {
        let comparable = self.start > 0 && self.boot == boot() && self.namespace == namespace();
        comparable && start_of(self.pid) != Some(self.start)
    }

    /// Whether it belongs to another run of a machine, this one or not.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.boot != boot()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.pid, self.start, self.namespace, self.boot)
    }
}

/// When a process started, in clock ticks since the machine did; `None` if it has ended.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // proc(5): the state is field 3, the start field 22.
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_back() {
        let this = Owner::this();
        assert_eq!(Owner::parse(&this.to_string()), Some(this.clone()));
        assert!(!this.is_gone() && !this.is_elsewhere());
        assert_eq!(Owner::parse("1 2 x"), None);
    }

    #[test]
    fn a_number_that_was_given_again_is_another_process() {
        let this = Owner::this();
        assert!(Owner { start: this.start - 1, ..this.clone() }.is_gone());
        assert!(Owner { pid: u32::MAX, ..this.clone() }.is_gone());
        // In another namespace, or before the machine started anew, nobody here can know.
        assert!(!Owner { pid: u32::MAX, namespace: 1, ..this.clone() }.is_gone());
        let elsewhere = Owner { pid: u32::MAX, boot: "other".to_owned(), ..this };
        assert!(!elsewhere.is_gone() && elsewhere.is_elsewhere());
    }
}
