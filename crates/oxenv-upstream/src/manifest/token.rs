//! Detects secrets that are written out.
//!
//! Invariant: only names and beginnings are looked at; a text that refers to a variable is no literal.

use std::ops::Range;

/// Words in the name of a variable, header, option or parameter whose value is a secret.
const SECRET_WORDS: [&str; 10] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
    "AUTHORIZATION",
];

/// How well-known tokens begin.
const TOKEN_PREFIXES: [&str; 14] = [
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "sk-",
    "sk_live_",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "AIza",
    "hf_",
    "eyJ",
    "npm_",
];

/// The shortest token that is known by its beginning, in bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// Whether a value under this name is a secret written out.
pub(super) fn is_literal(name: &str, value: &str) -> bool {
    is_written_out(value) && (is_secret_name(name) || begins_as_one(value))
}

/// Whether a value under this name is secret, by the name.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    // `TOKEN_URL` and `MAX_TOKENS` are no secrets.
    let says_where =
        ["_URL", "_URI", "_FILE", "_PATH", "_TYPE", "_ID", "TOKENS"].iter().any(|end| name.ends_with(end));
    !says_where
        && (name == "KEY" || name.ends_with("_PAT") || SECRET_WORDS.iter().any(|word| name.contains(word)))
}

/// Whether a value is a well-known kind of token, perhaps after `Bearer `.
pub(super) fn begins_as_one(value: &str) -> bool {
    let value = scheme(value).1;
    let is_word = value.len() >= MIN_TOKEN_BYTES && value.chars().all(|c| c.is_ascii_graphic());
    is_word && TOKEN_PREFIXES.iter().any(|beginning| value.starts_with(beginning))
}

/// A header's value as its scheme, with the space, and the rest: `Bearer `, `abc`.
pub(super) fn scheme(value: &str) -> (&str, &str) {
    let end = ["Bearer ", "Basic ", "Token "].iter().find_map(|scheme| {
        value.get(..scheme.len()).filter(|head| head.eq_ignore_ascii_case(scheme)).map(str::len)
    });
    value.split_at(end.unwrap_or(0))
}

/// Where in an address a secret is written out, with the name of its parameter: the first such.
pub(super) fn in_url(url: &str) -> Option<(&str, Range<usize>)> {
    let authority = url.find("://")? + 3;
    let rest = &url[authority..];
    let rest = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if let Some((user, _)) = rest.rsplit_once('@')
        && let Some((name, password)) = user.split_once(':')
        && is_written_out(password)
    {
        let start = authority + name.len() + 1;
        return Some(("password", start..start + password.len()));
    }
    let mut start = url.find('?')? + 1;
    for parameter in url[start..].split('&') {
        if let Some((name, value)) = parameter.split_once('=').filter(|(name, value)| is_literal(name, value))
        {
            return Some((name, start + name.len() + 1..start + name.len() + 1 + value.len()));
        }
        start += parameter.len() + 1;
    }
    None
}

/// Where in an argument a secret is written out, with the name that shows it: that of the option
/// before it or within it, of a header, of an address's parameter.
pub(super) fn in_argument<'t>(option: Option<&'t str>, argument: &'t str) -> Option<(&'t str, Range<usize>)> {
    let (option, start) = match argument.split_once('=') {
        Some((name, _)) if name.starts_with('-') => (Some(name), name.len() + 1),
        _ => (option, 0),
    };
    let value = &argument[start..];
    if value.starts_with('-') {
        return None;
    }
    let ending = |secret: &str| argument.len() - scheme(secret).1.len()..argument.len();
    if let Some((header, secret)) = value.split_once(':').map(|(name, value)| (name, value.trim_start()))
        && is_secret_name(header)
        && is_written_out(secret)
    {
        return Some((header, ending(secret)));
    }
    let name = option.unwrap_or("token").trim_start_matches('-');
    if begins_as_one(value) || option.is_some() && is_literal(name, value) {
        return Some((name, ending(value)));
    }
    in_url(value).map(|(name, range)| (name, start + range.start..start + range.end))
}

fn is_written_out(value: &str) -> bool {
    !value.is_empty() && !value.contains("${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_beginnings_tell_secrets() {
        for (name, value) in [
            ("GITHUB_TOKEN", "x"),
            ("BRAVE_API_KEY", "x"),
            ("X-Api-Key", "x"),
            ("Authorization", "Basic dTpw"),
            ("tavilyApiKey", "x"),
            ("db_password", "x"),
            ("ANY", "ghp_0123456789abcdef"),
            ("ANY", "Bearer sk-0123456789abcdef"),
        ] {
            assert!(is_literal(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("GITHUB_TOKEN", "${GITHUB_TOKEN}"),
            ("GITHUB_TOKEN", ""),
            ("SIMULATOR_SEED", "42"),
            ("TOKEN_URL", "http://host"),
            ("MAX_TOKENS", "4096"),
            ("ANY", "sk-short"),
            ("ANY", "a text of many words"),
        ] {
            assert!(!is_literal(name, value), "{name}={value}");
        }
    }

    #[test]
    fn secrets_are_found_within_addresses_and_arguments() {
        let found = |option: Option<&'static str>, text: &'static str| {
            in_argument(option, text).map(|(name, range)| (name, &text[range]))
        };
        assert_eq!(found(None, "http://h/mcp?xkey=1&apiKey=x&b=1"), Some(("apiKey", "x")));
        assert_eq!(found(None, "http://me:word@h:80/mcp"), Some(("password", "word")));
        assert_eq!(found(None, "http://me@h/mcp?a=b"), None);
        assert_eq!(found(Some("--header"), "Authorization: Bearer x"), Some(("Authorization", "x")));
        assert_eq!(found(Some("--api-key"), "x"), Some(("api-key", "x")));
        assert_eq!(found(None, "--api-key=x"), Some(("api-key", "x")));
        assert_eq!(found(None, "ghp_0123456789abcdef"), Some(("token", "ghp_0123456789abcdef")));
        for (option, text) in [
            (None, "x"),
            (Some("--api-key"), "--verbose"),
            (Some("--api-key"), "${API_KEY}"),
            (Some("--header"), "Authorization: Bearer ${API_KEY}"),
            (Some("--root"), "/files"),
            (None, "http://me:${WORD}@h/mcp"),
        ] {
            assert_eq!(found(option, text), None, "{text}");
        }
    }
}
