//! Message authentication codes: HMAC-SHA256 (RFC 2104).
//!
//! Invariant: a key is never shown, and codes are compared in constant time.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The bytes that SHA-256 takes at once.
const BLOCK_BYTES: usize = 64;

/// A key of HMAC-SHA256, taken in already.
#[derive(Clone)]
pub struct MacKey {
    inner: Sha256,
    outer: Sha256,
}

impl MacKey {
    /// The key of these bytes, of any number.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK_BYTES];
        match block.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => block[..32].copy_from_slice(&Sha256::digest(key)),
        }
        let padded = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        MacKey { inner: padded(0x36), outer: padded(0x5c) }
    }

    /// A new random key.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system has randomness");
        Self::new(&key)
    }

    /// The code of a message.
    #[must_use]
    pub fn mac(&self, message: &[u8]) -> [u8; 32] {
        self.mac_of(&[message])
    }

    /// The code of a message that is in parts.
    #[must_use]
    pub(crate) fn mac_of(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|part| inner.update(part));
        self.outer.clone().chain_update(inner.finalize()).finalize().into()
    }

    /// Whether that is the code of a message.
    #[must_use]
    pub(crate) fn verifies(&self, message: &[u8], mac: &[u8]) -> bool {
        self.mac(message).ct_eq(mac).into()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 4231, test cases 1 to 3 and 6.
    #[test]
    fn the_mac_is_hmac_sha_256() {
        let mac = |key: &[u8], text: &[u8]| hex(MacKey::new(key).mac(text));
        assert_eq!(
            mac(&[0x0b; 20], b"Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            mac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            mac(&[0xaa; 20], &[0xdd; 50]),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
        );
        assert_eq!(
            mac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn a_code_is_of_one_message_and_one_key() {
        let key = MacKey::random();
        let mac = key.mac(b"text");
        assert!(key.verifies(b"text", &mac));
        assert!(!key.verifies(b"Text", &mac) && !key.verifies(b"text", &mac[1..]));
        assert!(!MacKey::random().verifies(b"text", &mac));
        assert_eq!(format!("{key:?}"), "MacKey(***)");
    }
}
