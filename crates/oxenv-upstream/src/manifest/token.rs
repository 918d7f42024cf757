//! Tells secrets that somebody wrote out.
//!
//! Invariant: only names and beginnings are looked at; a text that refers to a variable is no literal.

/// Words in the name of a variable, header, option or parameter whose value is a secret.
const NAMES: [&str; 10] = [
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL",
    "AUTHORIZATION",
];

/// How well-known tokens begin.
const BEGINNINGS: [&str; 14] = [
    "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "sk-", "sk_live_", "xoxb-", "xoxp-", "AKIA", "AIza", "hf_",
    "eyJ", "npm_",
];

/// The shortest token that is known by its beginning, in bytes.
const SHORTEST: usize = 16;

/// Whether a value under this name is a secret written out.
pub(super) fn is_literal(name: &str, value: &str) -> bool {
    !value.is_empty() && !value.contains("${") && (is_secret_name(name) || begins_as_one(value))
}

/// Whether a value under this name is secret, by the name.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    // `TOKEN_URL` and `MAX_TOKENS` are no secrets.
    let says_where = ["_URL", "_URI", "_FILE", "_PATH", "_TYPE", "_ID", "TOKENS"].iter().any(|end| name.ends_with(end));
    !says_where && (name == "KEY" || name.ends_with("_PAT") || NAMES.iter().any(|word| name.contains(word)))
}

/// Whether a value is a well-known kind of token, perhaps after `Bearer `.
pub(super) fn begins_as_one(value: &str) -> bool {
    let value = scheme(value).1;
    let is_word = value.len() >= SHORTEST && value.chars().all(|c| c.is_ascii_graphic());
    is_word && BEGINNINGS.iter().any(|beginning| value.starts_with(beginning))
}

/// A header's value as its scheme, with the space, and the rest: `Bearer `, `abc`.
pub(super) fn scheme(value: &str) -> (&str, &str) {
    let end = ["Bearer ", "Basic ", "Token "].iter().find_map(|scheme| {
        value.get(..scheme.len()).filter(|head| head.eq_ignore_ascii_case(scheme)).map(str::len)
    });
    value.split_at(end.unwrap_or(0))
}

/// The first parameter of an address that is a secret written out: its name and value.
pub(super) fn in_url(url: &str) -> Option<(&str, &str)> {
    let (_, query) = url.split_once('?')?;
    query.split('&').filter_map(|parameter| parameter.split_once('=')).find(|(name, value)| is_literal(name, value))
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
        assert_eq!(in_url("http://h/mcp?a=b&apiKey=x"), Some(("apiKey", "x")));
        assert_eq!(in_url("http://h/mcp?a=b"), None);
    }
}
