//! Agents' tokens: a session's id and what only this server can have made of it.
//!
//! Invariant: nothing is kept per token. Its key is random and this process's own: no session
//! outlives the process, and a key that came from a control token would let an agent try guesses at it
//! without asking us.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The bytes that SHA-256 takes at once.
const BLOCK: usize = 64;

/// Makes and reads agents' tokens.
pub(super) struct AgentTokens {
    /// HMAC-SHA256 (RFC 2104) with its key taken in already.
    inner: Sha256,
    outer: Sha256,
}

impl AgentTokens {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system has randomness");
        Self::with_key(&key)
    }

    fn with_key(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        block[..key.len()].copy_from_slice(key);
        let padded = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        AgentTokens { inner: padded(0x36), outer: padded(0x5c) }
    }

    /// The token for a session: `ID.MAC`.
    pub(super) fn issue(&self, session_id: &str) -> String {
        format!("{session_id}.{}", self.mac(session_id))
    }

    /// The session that a token of ours is for.
    pub(super) fn session<'a>(&self, token: &'a str) -> Option<&'a str> {
        let (id, mac) = token.rsplit_once('.')?;
        // Texts are compared, so that each token has one spelling only.
        bool::from(self.mac(id).as_bytes().ct_eq(mac.as_bytes())).then_some(id)
    }

    fn mac(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac_bytes(text.as_bytes()))
    }

    fn mac_bytes(&self, bytes: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(bytes).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 4231, test cases 1 to 3.
    #[test]
    fn the_mac_is_hmac_sha_256() {
        let mac = |key: &[u8], text: &[u8]| hex(AgentTokens::with_key(key).mac_bytes(text));
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
    }

    #[test]
    fn a_token_is_for_its_session_and_from_its_server() {
        let (ours, theirs) = (AgentTokens::new(), AgentTokens::new());
        let token = ours.issue("a-b");
        assert_eq!(ours.session(&token), Some("a-b"));
        assert_eq!(theirs.session(&token), None);
        let mac = token.strip_prefix("a-b.").unwrap();
        for forged in [
            format!("a-c.{mac}"),
            format!("a-b.x.{mac}"),
            format!("a-b.{mac}="),
            format!("a-b.{}", &mac[1..]),
            format!("a-b.{}", mac.to_lowercase()),
            "a-b.".to_owned(),
            "a-b".to_owned(),
            format!(".{mac}"),
            String::new(),
        ] {
            assert_eq!(ours.session(&forged), None, "{forged}");
        }
        // 43 characters stand for 258 bits: the last two change nothing but the spelling.
        let (last, rest) = (mac.chars().last().unwrap(), &mac[..42]);
        let spellings = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
        for other in spellings.filter(|other| *other != last) {
            assert_eq!(ours.session(&format!("a-b.{rest}{other}")), None, "{other}");
        }
    }
}
