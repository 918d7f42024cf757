//! How often a fault is tried, and what came of it.
//!
//! Invariant: a line of figures is printed before it is judged, so that a failure shows its figures.

/// The variable with which `scripts/faults` asks for the full counts.
const FULL: &str = "OXENV_FAULTS_FULL";

/// Whether the full counts are asked for.
pub fn full() -> bool {
    std::env::var_os(FULL).is_some()
}

/// How often to try: a few times, or as often as the figures are to be had for.
pub fn tries(usual: usize, in_full: usize) -> usize {
    if full() { in_full } else { usual }
}

/// Prints the figures of a fault, and fails if anything was lost.
#[track_caller]
pub fn report(fault: &str, tried: usize, survived: usize, note: &str) {
    let lost = tried.abs_diff(survived);
    println!("figures: {fault}: tried {tried}, survived {survived}, lost {lost}; {note}");
    assert_eq!(survived, tried, "{fault}: {note}");
}

/// Says that a fault cannot be brought about here.
pub fn skip(fault: &str, why: &str) {
    println!("skipped: {fault}: {why}");
}

/// A number of this process's or another's `/proc/PID/status`, in the unit that stands there.
pub fn status(pid: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {field} in {status}"))
}

/// Numbers that look random and are the same in every run.
pub struct Dice(u64);

impl Dice {
    /// The numbers that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number below `bound` (Steele, Lea, Flood: SplitMix64).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    /// Puts things into another order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.below(last + 1);
            things.swap(last, other);
        }
    }
}
