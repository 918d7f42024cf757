//! Numbers of bytes as people write them: `512MiB`, `4GiB`, `20GB`, or a plain number.
//!
//! Invariant: one that is too large to be counted with cannot be held, so sums of a few need no care.

use std::str::FromStr;

use oxenv_wire::preview;

/// A number of bytes: above 0, and at most [`ByteSize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(u64);

impl ByteSize {
    /// The largest size that is taken.
    const MAX: u64 = bytesize::EIB;

    /// The number of bytes.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.0 == 0 => Err("must be more than 0".to_owned()),
            Ok(size) if size.0 > Self::MAX => {
                Err(format!("must be at most {} bytes, which is 1 EiB", Self::MAX))
            }
            Ok(size) => Ok(ByteSize(size.0)),
            Err(_) => Err(format!("'{}' is no size; write 512MiB or 4GiB", preview(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let read = |text: &str| text.parse::<ByteSize>().map(ByteSize::get);
        assert_eq!(read("512MiB"), Ok(512 << 20));
        assert_eq!(read("512mib"), Ok(512 << 20));
        assert_eq!(read(" 20 GB "), Ok(20_000_000_000));
        assert_eq!(read("1.5GiB"), Ok(3 << 29));
        assert_eq!(read("4096"), Ok(4096));
        assert_eq!(read("4096 B"), Ok(4096));
        assert_eq!(read("1048576TiB"), Ok(ByteSize::MAX));
        for large in ["1048577TiB", "18446744073709551615", "99999999999999999999TiB"] {
            assert_eq!(
                read(large),
                Err("must be at most 1152921504606846976 bytes, which is 1 EiB".to_owned())
            );
        }
        for wrong in ["", "0", "0GiB", "-1", "GiB", "many", "1 MiBs"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
