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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_changes() {
        assert_eq!(derive_seed(0, 0), 0xe220_a839_7b1d_cdaf >> 11);
        assert_ne!(derive_seed(1, 0), derive_seed(0, 1));
    }
}
