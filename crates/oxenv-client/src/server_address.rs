//! [`ServerAddress`]: the server that a URL names, and the headers that every request to it carries.
//!
//! Invariant: neither `Display` nor `Debug` shows a user, a password, a token or the value of a header.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::error::{ClientError, Code, Result};
use crate::options::ClientOptions;

/// Headers that belong to the handshake; callers may not set them.
const RESERVED_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "upgrade",
];

/// Where a server is, and how to authenticate there.
#[derive(Clone)]
pub(crate) struct ServerAddress {
    pub(crate) secure: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host` or `host:port`, as a request's `Host` has it.
    pub(crate) authority: String,
    /// The path before the server's routes, without a slash at its end.
    pub(crate) prefix: String,
    /// What every request carries: the caller's headers and the token.
    pub(crate) headers: HeaderMap,
}

impl ServerAddress {
    /// Reads a URL; `http` if it has no scheme.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if the URL, a header or the token cannot be used.
    pub(crate) fn parse(url: &str, options: &ClientOptions) -> Result<Self> {
        let text = if url.contains("://") { url.trim().to_owned() } else { format!("http://{}", url.trim()) };
        let parsed =
            Url::parse(&text).map_err(|error| invalid_options(format!("the URL cannot be read: {error}")))?;
        let secure = match parsed.scheme() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            other => {
                return Err(invalid_options(format!(
                    "the URL's scheme is {other:?}; use http, https, ws or wss, or none"
                )));
            }
        };
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(invalid_options(
                "the URL has a query or a fragment; give the address of the server alone",
            ));
        }
        let host = parsed.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| invalid_options("the URL has no host"))?;
        let authority = match parsed.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(ServerAddress {
            secure,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: parsed.port().unwrap_or(if secure { 443 } else { 80 }),
            authority,
            prefix: parsed.path().trim_end_matches('/').to_owned(),
            headers: headers(&parsed, options)?,
        })
    }

    /// The URL of a path of the server, over HTTP.
    pub(crate) fn http_url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }

    /// An address from the server, made absolute: a path is one of this server.
    pub(crate) fn absolute_url(&self, address: &str) -> String {
        if address.contains("://") {
            return address.to_owned();
        }
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{address}", self.authority)
    }
}

/// The caller's headers, and what stands for the token.
fn headers(url: &Url, options: &ClientOptions) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid_options(format!("{name:?} is no name of a header")))?;
        if RESERVED_HEADERS.contains(&key.as_str()) {
            return Err(invalid_options(format!(
                "the header {name:?} is the connection's own; leave it out"
            )));
        }
        headers.append(
            key,
            sensitive_value(value).ok_or_else(|| invalid_header_value(&format!("the header {name:?}")))?,
        );
    }
    let authorization = match &options.token {
        Some(token) => Some(format!("Bearer {token}")),
        None => basic_credentials(url),
    };
    if let Some(text) = authorization {
        headers
            .insert(AUTHORIZATION, sensitive_value(&text).ok_or_else(|| invalid_header_value("the token"))?);
    }
    Ok(headers)
}

/// The user and the password of a URL, as Basic authentication has them.
fn basic_credentials(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let mut pair = decoded(url.username());
    pair.push(b':');
    pair.extend(decoded(url.password().unwrap_or_default()));
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

fn sensitive_value(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn invalid_options(message: impl Into<String>) -> ClientError {
    ClientError::new(Code::InvalidOptions, message)
}

fn invalid_header_value(what: &str) -> ClientError {
    invalid_options(format!("{what} has characters that no header may have"))
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.http_url(""))
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> ServerAddress {
        ServerAddress::parse(url, &ClientOptions::default()).unwrap()
    }

    fn refused(url: &str) -> String {
        let error = ServerAddress::parse(url, &ClientOptions::default()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidOptions);
        error.to_string()
    }

    #[test]
    fn schemes_ports_and_prefixes() {
        assert_eq!(target("localhost:8000").to_string(), "http://localhost:8000");
        assert_eq!(target("ws://h/").to_string(), "http://h");
        let wss = target("wss://h/envs/one/");
        assert_eq!(
            (wss.secure, wss.port, wss.http_url("/ws").as_str()),
            (true, 443, "https://h/envs/one/ws")
        );
        let six = target("[::1]:9");
        assert_eq!((six.host.as_str(), six.authority.as_str(), six.port), ("::1", "[::1]:9", 9));
        assert_eq!(wss.absolute_url("/sessions/a/mcp"), "https://h/sessions/a/mcp");
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let target = target("http://oxenv:se%2Fcret@h:1");
        let sent = target.headers[AUTHORIZATION].to_str().unwrap();
        assert_eq!(sent, format!("Basic {}", STANDARD.encode("oxenv:se/cret")));
        let shown = format!("{target} {target:?} {:?}", target.headers);
        assert!(!shown.contains("cret") && !shown.contains("Basic"), "{shown}");
    }

    #[test]
    fn a_token_goes_before_what_the_url_has() {
        let options = ClientOptions { token: Some("tok".into()), ..ClientOptions::default() };
        let target = ServerAddress::parse("http://a:b@h", &options).unwrap();
        assert_eq!(target.headers[AUTHORIZATION], "Bearer tok");
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_secrets() {
        assert!(refused("ftp://h").contains("ftp"));
        assert!(refused("http://").contains("cannot be read"));
        assert!(refused("http://h/?a=1").contains("query"));
        assert!(!refused("http://u:hunter22@h:99999").contains("hunter22"));
        let headers = [("Upgrade", "x"), ("a b", "x"), ("x", "hunter\n22")];
        for (name, value) in headers {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let options = ClientOptions { headers, ..ClientOptions::default() };
            let error = ServerAddress::parse("h", &options).unwrap_err();
            assert_eq!(error.code(), Code::InvalidOptions);
            assert!(!error.to_string().contains("hunter"), "{error}");
        }
    }
}
