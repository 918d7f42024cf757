//! The tokens of control and of observers, as an operator gives them.
//!
//! Invariant: a token is kept as its digest only, so nothing that prints this can show one; and each
//! is compared, whichever it is, in the same time.

use std::fmt;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oxenv_core::Principal;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The longest name of a token.
const MAX_NAME_BYTES: usize = 64;

/// The tokens of control and of observers. None (the default): every caller has control.
///
/// ```
/// use oxenv_core::Principal;
/// use oxenv_server::{ServerConfig, Tokens};
///
/// let mut tokens = Tokens::default();
/// tokens.add_control("alice:2f7c1d")?;
/// tokens.add_observer("dashboard:90ab3e")?;
/// assert_eq!(tokens.count(Principal::Observer), 1);
/// let config = ServerConfig { tokens, ..ServerConfig::default() };
/// # Ok::<(), oxenv_server::TokenError>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens {
    known: Vec<KnownToken>,
}

/// Why tokens cannot be taken; names the line, never its content.
///
/// ```
/// let error = oxenv_server::Tokens::default().add_control("good\nnot good").unwrap_err();
/// assert_eq!(error.line, Some(2));
/// assert!(error.to_string().starts_with("line 2: a token has letters, digits"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    /// The line, from 1; absent if no line is at fault.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub problem: &'static str,
}

/// A token as it is kept.
#[derive(Clone)]
pub(super) struct KnownToken {
    digest: [u8; 32],
    pub(super) principal: Principal,
    pub(super) name: Arc<str>,
}

impl Tokens {
    /// A new token: 256 bits of the operating system's randomness, in characters that a URL takes.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> io::Result<String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Adds control's tokens: one a line, as `token` or `name:token`. Empty lines, and those that
    /// begin with `#`, count for nothing. A token without a name is called by its place: `control-1`.
    ///
    /// # Errors
    /// When there is no token, or one that is invalid; then no token of the text is taken.
    pub fn add_control(&mut self, text: &str) -> Result<(), TokenError> {
        self.add(Principal::Control, "control", text)
    }

    /// Adds observers' tokens, as [`Tokens::add_control`] does.
    ///
    /// # Errors
    /// As there.
    pub fn add_observer(&mut self, text: &str) -> Result<(), TokenError> {
        self.add(Principal::Observer, "observer", text)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many a principal has; agents have theirs from their sessions.
    #[must_use]
    pub fn count(&self, principal: Principal) -> usize {
        self.known.iter().filter(|known| known.principal == principal).count()
    }

    fn add(&mut self, principal: Principal, kind: &str, text: &str) -> Result<(), TokenError> {
        let mut all = self.clone();
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |problem| TokenError { line: Some(index + 1), problem };
            let (name, token) = split(line).map_err(fault)?;
            let digest = digest(token);
            if all.known.iter().any(|known| known.digest == digest) {
                return Err(fault("the token was given before: make another with 'openssl rand -hex 32'"));
            }
            let place = all.count(principal) + 1;
            let name = name.map_or_else(|| format!("{kind}-{place}").into(), Arc::from);
            all.known.push(KnownToken { digest, principal, name });
        }
        if all.known.len() == self.known.len() {
            let problem = "there is no token in it: make one with 'openssl rand -hex 32'";
            return Err(TokenError { line: None, problem });
        }
        *self = all;
        Ok(())
    }

    /// The known token that is the same as the given one.
    pub(super) fn find(&self, token: &str) -> Option<&KnownToken> {
        let presented = digest(token);
        let mut found = None;
        // Compares to the end also when it is found, so that the time taken does not reveal which
        // token it was.
        for known in &self.known {
            if bool::from(known.digest.ct_eq(&presented)) {
                found = Some(known);
            }
        }
        found
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("control", &self.count(Principal::Control))
            .field("observer", &self.count(Principal::Observer))
            .finish()
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(self.problem),
        }
    }
}

impl std::error::Error for TokenError {}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// `token`, or `name:token`; no character that a bearer token may have is a colon (RFC 6750).
fn split(line: &str) -> Result<(Option<&str>, &str), &'static str> {
    let (name, token) = match line.split_once(':') {
        Some((name, token)) => (Some(name), token),
        None => (None, line),
    };
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_some_and(|name| name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(of_name)) {
        return Err("a token's name has 1 to 64 letters, digits or -._ and ends at the colon");
    }
    if token.is_empty() || !token.bytes().all(|byte| of_name(byte) || b"~+/=".contains(&byte)) {
        return Err("a token has letters, digits and -._~+/= only, and at least one of them");
    }
    Ok((name, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tokens: &Tokens, token: &str) -> Option<(Principal, String)> {
        tokens.find(token).map(|known| (known.principal, known.name.to_string()))
    }

    #[test]
    fn each_token_has_a_holder_and_a_name() {
        let mut tokens = Tokens::default();
        assert!(tokens.is_empty());
        tokens.add_control("# training\nfirst\n\n alice:second \nalice:third\r\nfourth").unwrap();
        tokens.add_observer("fifth").unwrap();
        for (token, principal, called) in [
            ("first", Principal::Control, "control-1"),
            ("second", Principal::Control, "alice"),
            ("third", Principal::Control, "alice"),
            ("fourth", Principal::Control, "control-4"),
            ("fifth", Principal::Observer, "observer-1"),
        ] {
            assert_eq!(name(&tokens, token), Some((principal, called.to_owned())), "{token}");
        }
        for unknown in ["", "firs", "firstt", "First", "alice:second", "alice", "# training", "control-1"] {
            assert_eq!(name(&tokens, unknown), None, "{unknown}");
        }
        assert_eq!((tokens.count(Principal::Control), tokens.count(Principal::Observer)), (4, 1));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_shown() {
        for (text, line) in [
            ("", None),
            ("\n# nothing\n", None),
            ("good\nsecret secret", Some(2)),
            ("secret\u{e9}", Some(1)),
            (":secret", Some(1)),
            ("a b:secret", Some(1)),
            ("name:", Some(1)),
            ("name:sec:ret", Some(1)),
            ("secret\n\nother:secret", Some(3)),
        ] {
            let mut tokens = Tokens::default();
            let fault = tokens.add_control(text).unwrap_err();
            assert_eq!(fault.line, line, "{text}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
            assert!(tokens.is_empty(), "{text}: a part of it was taken");
        }
        let mut tokens = Tokens::default();
        tokens.add_control("same").unwrap();
        assert_eq!(tokens.add_observer("same").unwrap_err().line, Some(1));
    }

    #[test]
    fn nothing_that_prints_them_shows_one() {
        let mut tokens = Tokens::default();
        tokens.add_control("secret").unwrap();
        assert_eq!(format!("{tokens:?}"), "Tokens { control: 1, observer: 0 }");
    }

    #[test]
    fn generated_ones_are_long_and_differ_and_can_be_given() {
        let (one, other) = (Tokens::generate().unwrap(), Tokens::generate().unwrap());
        assert_eq!(one.len(), 43);
        assert_ne!(one, other);
        let mut tokens = Tokens::default();
        tokens.add_control(&one).unwrap();
        assert!(tokens.find(&one).is_some());
    }
}
