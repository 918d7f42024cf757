//! Deriving seeds: a session's from the server's, an episode's from its session's.
//!
//! Invariant: a pure function, the same on every machine and in every version (SplitMix64, Steele,
//! Lea and Flood 2014, "Fast splittable pseudorandom number generators").

/// The seed of child number `index` of `parent`.
#[must_use]
pub fn derive_seed(parent: u64, index: u64) -> u64 {
    let mut z = parent.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 53 bits, so that every JSON reader, JavaScript's and pandas' included, reads it back exactly.
    (z ^ (z >> 31)) >> 11
}

/// The seeds of a session's present episode and of the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpisodeSeeds {
    /// The present episode's: the one that its reset named, else derived. Before the first reset, the
    /// session's own.
    pub present: u64,
    /// The next episode's, unless its reset names another.
    pub next: u64,
}

impl EpisodeSeeds {
    /// Those of a session before its first reset.
    #[must_use]
    pub fn before_reset(session: u64) -> Self {
        Self::in_epoch(session, 0, session)
    }

    /// Those of a session in that epoch, whose seed is `present`.
    #[must_use]
    pub(crate) fn in_epoch(session: u64, epoch: u64, present: u64) -> Self {
        EpisodeSeeds { present, next: derive_seed(session, epoch.wrapping_add(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_changes() {
        assert_eq!(derive_seed(0, 0), 0xe220_a839_7b1d_cdaf >> 11);
        assert_ne!(derive_seed(1, 0), derive_seed(0, 1));
    }
}
