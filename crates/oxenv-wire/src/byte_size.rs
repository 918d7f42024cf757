//! Numbers of bytes as somebody outside writes them.
//!
//! Invariant: one that is too large to be counted with cannot be held, so sums of a few need no care.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: above 0, and at most [`ByteSize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// The largest size that is taken: 1 EiB, 2^60 bytes.
    pub const MAX: ByteSize = ByteSize(1 << 60);

    /// That many bytes, if they are not 0 and not more than [`ByteSize::MAX`].
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        (1..=Self::MAX.0).contains(&bytes).then_some(ByteSize(bytes))
    }

    /// The number of bytes.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    /// Reads `512MiB`, `4GiB`, `20GB`, or a plain number of bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(no_size(text)),
        };
        if number.is_empty() {
            return Err(no_size(text));
        }
        // A number that 64 bits do not hold is one that is too large.
        let bytes = number.parse().unwrap_or(u64::MAX).saturating_mul(scale);
        match ByteSize::new(bytes) {
            Some(size) => Ok(size),
            None if bytes == 0 => Err("must be more than 0".to_owned()),
            None => Err(format!("must be at most {} bytes, which is 1 EiB", Self::MAX)),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn no_size(text: &str) -> String {
    format!("'{}' is no size; write 512MiB or 4GiB", crate::preview(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let read = |text: &str| text.parse::<ByteSize>().map(ByteSize::get);
        assert_eq!(read("512MiB"), Ok(512 << 20));
        assert_eq!(read(" 20 GB "), Ok(20_000_000_000));
        assert_eq!(read("4096"), Ok(4096));
        assert_eq!(read("1048576TiB"), Ok(ByteSize::MAX.get()));
        for large in ["1048577TiB", "18446744073709551615", "18446744073709551616", "99999999999999999999TiB"]
        {
            assert_eq!(
                read(large),
                Err("must be at most 1152921504606846976 bytes, which is 1 EiB".to_owned())
            );
        }
        for wrong in ["", "0", "0GiB", "-1", "1.5GiB", "GiB", "many", "1 PiB"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
