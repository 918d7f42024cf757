//! The server under test: its address, and requests to it.
//!
//! The address is resolved once, before the load starts.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tokio::net::TcpStream;

/// A server that speaks HTTP/1.1 without TLS.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    addr: SocketAddr,
    host: String,
    prefix: String,
    headers: String,
}

impl Target {
    /// Parses `http://host[:port][/prefix]` (or `ws://`) and resolves the host.
    pub(crate) fn parse(url: &str, headers: &[String]) -> anyhow::Result<Self> {
        let (host, prefix) = split(url)?;
        let named = if has_port(host) { host.to_owned() } else { format!("{host}:80") };
        let addr = std::net::ToSocketAddrs::to_socket_addrs(&named)
            .with_context(|| format!("cannot resolve `{host}`"))?
            .next()
            .with_context(|| format!("`{host}` has no address"))?;
        let headers = headers.iter().map(|header| format!("{header}\r\n")).collect();
        Ok(Self { addr, host: host.to_owned(), prefix: prefix.to_owned(), headers })
    }

    /// The same server, with another header for every request.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Opens a connection with TCP_NODELAY, so that small requests are sent at once.
    pub(crate) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = match TcpStream::connect(self.addr).await {
            Ok(stream) => stream,
            // EMFILE is 24 on Linux.
            Err(error) if error.raw_os_error() == Some(24) => {
                bail!("too many open files: raise the limit with `ulimit -n`")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", self.host)),
        };
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(stream)
    }

    /// A POST request with a JSON body.
    pub(crate) fn post(&self, path: &str, body: &str) -> Vec<u8> {
        let Self { host, prefix, headers, .. } = self;
        let length = body.len();
        format!(
            "POST {prefix}{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        )
        .into_bytes()
    }

    /// A request without a body.
    pub(crate) fn bodyless(&self, method: &str, path: &str) -> Vec<u8> {
        let Self { host, prefix, headers, .. } = self;
        format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").into_bytes()
    }

    /// A request to open a WebSocket at `path`.
    pub(crate) fn upgrade(&self, path: &str, key: &str) -> Vec<u8> {
        let Self { host, prefix, headers, .. } = self;
        format!(
            "GET {prefix}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
        )
        .into_bytes()
    }
}

/// Splits a URL into its authority and its path without a trailing slash.
fn split(url: &str) -> anyhow::Result<(&str, &str)> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")) else {
        bail!("`{url}` must begin with http:// or ws:// (the load generator has no TLS)");
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    ensure!(!host.is_empty(), "`{url}` names no host");
    ensure!(!host.contains('@'), "`{url}`: pass credentials with --header 'Authorization: …'");
    ensure!(!path.contains(['?', '#', ' ']), "`{url}` must be the server's base address, without a query");
    Ok((host, path.trim_end_matches('/')))
}

/// Whether an authority ends in a port. The colons of an IPv6 address are inside brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_host_and_prefix() {
        assert_eq!(split("http://127.0.0.1:8000").unwrap(), ("127.0.0.1:8000", ""));
        assert_eq!(split("ws://localhost:1/web/").unwrap(), ("localhost:1", "/web"));
        assert!(split("https://host").is_err());
        assert!(split("http:///path").is_err());
        assert!(split("http://host/?a=1").is_err());
    }

    #[test]
    fn a_port_is_told_from_an_ipv6_address() {
        assert!(has_port("localhost:8000") && has_port("[::1]:8000"));
        assert!(!has_port("localhost") && !has_port("[::1]"));
    }

    #[test]
    fn requests_carry_length_and_headers() {
        let target = Target::parse("http://127.0.0.1:9/base", &["X-A: b".to_owned()]).unwrap();
        let request = String::from_utf8(target.post("/step", "{}")).unwrap();
        assert!(request.starts_with("POST /base/step HTTP/1.1\r\nHost: 127.0.0.1:9\r\n"));
        assert!(request.ends_with("Content-Length: 2\r\nX-A: b\r\n\r\n{}"));
    }
}
