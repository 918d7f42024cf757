//! Agents' tokens: a session's id and what only this server can have made of it.
//!
//! Invariant: nothing is kept per token. Its key is random and this process's own: no session
//! outlives the process, and a key that came from a control token would let an agent try guesses at it
//! without asking us.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oxenv_core::MacKey;
use subtle::ConstantTimeEq;

/// Makes and reads agents' tokens.
pub(super) struct AgentTokens(MacKey);

impl AgentTokens {
    pub(super) fn new() -> Self {
        AgentTokens(MacKey::random())
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
        URL_SAFE_NO_PAD.encode(self.0.mac(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
