//! The token that a request carries, by either of HTTP's two schemes for it.
//!
//! Invariant: only the one `Authorization` header counts. A request that has two presents no token,
//! for a proxy in front might have read the other one.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Presented<'a> {
    Nothing,
    Token(Cow<'a, str>),
    /// It presents something that is no token; holds what is wrong with it.
    Unreadable(&'static str),
}

/// `Bearer TOKEN`, or `Basic` whose password is the token: clients send that for the URL
/// `http://oxenv:TOKEN@host`. See RFC 6750 and RFC 7617.
pub(super) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Presented::Nothing };
    if all.next().is_some() {
        return Presented::Unreadable("the request has more than one Authorization header: send one");
    }
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Presented::Unreadable("the Authorization header is not 'Bearer TOKEN'");
    };
    let rest = rest.trim_matches(' ');
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        Some(Cow::Borrowed(rest))
    } else if scheme.eq_ignore_ascii_case("basic") {
        password(rest).map(Cow::Owned)
    } else {
        return Presented::Unreadable(
            "the Authorization header has a scheme that is neither Bearer nor Basic",
        );
    };
    match token {
        Some(token) if !token.is_empty() => Presented::Token(token),
        _ => Presented::Unreadable("the Authorization header has no token in it"),
    }
}

fn password(credentials: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_comes_by_either_scheme_in_any_case() {
        let encoded = STANDARD.encode("oxenv:abc:d");
        let basic = format!("Basic {encoded}");
        let lower = format!("basic {encoded}");
        for (header, token) in [
            ("Bearer abc", "abc"),
            ("bearer abc", "abc"),
            ("BEARER   abc ", "abc"),
            (basic.as_str(), "abc:d"),
            (lower.as_str(), "abc:d"),
        ] {
            assert_eq!(presented(&given(&[header])), Presented::Token(token.into()), "{header}");
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        assert_eq!(presented(&given(&[])), Presented::Nothing);
        let no_password = format!("Basic {}", STANDARD.encode("abc"));
        let empty = format!("Basic {}", STANDARD.encode("oxenv:"));
        let binary = format!("Basic {}", STANDARD.encode([b':', 0xff]));
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer    ",
            "abc",
            "Token abc",
            "Bearer\tabc",
            "Basic !",
            "Basic",
            &no_password,
            &empty,
            &binary,
        ] {
            assert!(matches!(presented(&given(&[header])), Presented::Unreadable(_)), "{header:?}");
        }
        for twice in [["Bearer a", "Bearer a"], ["Bearer a", ""], ["Basic b", "Bearer a"]] {
            assert!(matches!(presented(&given(&twice)), Presented::Unreadable(_)), "{twice:?}");
        }
    }
}
