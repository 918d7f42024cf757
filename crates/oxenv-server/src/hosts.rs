//! Which hosts a request may name and which origins it may come from: the guard against pages that
//! make a browser speak to a server on its own machine.
//!
//! Invariant: it looks at headers only, before any route, and every route has it.

use std::net::IpAddr;

use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use crate::config::ServerConfig;
use crate::error::json_response;

/// The hosts that requests may name.
pub(crate) struct Hosts {
    /// Whether the server is on an address that only this machine reaches.
    loopback: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Hosts {
    pub(crate) fn new(bound: IpAddr, config: &ServerConfig) -> Self {
        Hosts {
            loopback: bound.is_loopback(),
            hosts: config.allowed_hosts.clone(),
            origins: config.allowed_origins.clone(),
        }
    }

    /// The refusal of a request that is not let in.
    pub(crate) fn refuse<B>(&self, request: &Request<B>) -> Option<Response> {
        let named = text(request.headers(), header::HOST);
        let target = request.uri().authority().map(axum::http::uri::Authority::as_str);
        let host = named.or(target);
        if ![named, target].into_iter().flatten().all(|host| self.takes_host(host)) {
            return Some(refusal("the host that the request names", host, "allowed_hosts"));
        }
        match text(request.headers(), header::ORIGIN) {
            Some(origin) if !self.takes_origin(origin, host) => {
                Some(refusal("the origin that the request comes from", Some(origin), "allowed_origins"))
            }
            _ => None,
        }
    }

    fn takes_host(&self, named: &str) -> bool {
        let Some(Authority { host, port }) = Authority::parse(named) else { return false };
        if self.loopback && is_local(host) || !self.loopback && self.hosts.is_empty() {
            return true;
        }
        self.hosts.iter().filter_map(|allowed| Authority::parse(allowed)).any(|allowed| {
            allowed.host.eq_ignore_ascii_case(host) && (allowed.port.is_none() || allowed.port == port)
        })
    }

    fn takes_origin(&self, origin: &str, host: Option<&str>) -> bool {
        if self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let Some((_, place)) = origin.split_once("://") else { return false };
        host.is_some_and(|host| host.eq_ignore_ascii_case(place))
            || Authority::parse(place).is_some_and(|authority| is_local(authority.host))
    }
}

/// A header's text; an invalid one matches nothing.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// `HOST` or `HOST:PORT`.
struct Authority<'a> {
    /// Without the brackets around an IPv6 address.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None if port.is_empty() => None,
            None => return None,
        };
        (!host.is_empty()).then_some(Authority { host, port })
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn refusal(what: &str, value: Option<&str>, setting: &str) -> Response {
    let value = value.unwrap_or_default();
    tracing::warn!(value, "refused a request: {what} is not allowed here");
    let detail = format!("{what} is not allowed here: '{value}'; the server's {setting} can add it");
    json_response(StatusCode::FORBIDDEN, json!({ "detail": detail }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(bound: &str, hosts: &[&str], origins: &[&str]) -> Hosts {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let config = ServerConfig {
            allowed_hosts: owned(hosts),
            allowed_origins: owned(origins),
            ..ServerConfig::default()
        };
        Hosts::new(bound.parse().unwrap(), &config)
    }

    #[test]
    fn a_loopback_server_takes_its_own_names() {
        let own = hosts("127.0.0.1", &[], &[]);
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.8.8.8", "[::1]", "[::1]:8000"] {
            assert!(own.takes_host(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:x",
            "a@localhost",
            "[::1",
            "[::1]x",
            "192.168.0.1",
            "::1",
        ] {
            assert!(!own.takes_host(host), "{host}");
        }
    }

    #[test]
    fn a_public_server_takes_every_name_or_its_list() {
        assert!(hosts("0.0.0.0", &[], &[]).takes_host("env.example:8000"));
        let listed = hosts("0.0.0.0", &["env.example", "other.example:81", "[fd00::1]"], &[]);
        for host in ["env.example", "Env.Example:8000", "other.example:81", "[fd00::1]:9"] {
            assert!(listed.takes_host(host), "{host}");
        }
        for host in ["other.example", "other.example:82", "localhost", "127.0.0.1"] {
            assert!(!listed.takes_host(host), "{host}");
        }
        let both = hosts("::1", &["env.example"], &[]);
        assert!(both.takes_host("localhost") && both.takes_host("env.example"));
    }

    #[test]
    fn origins_are_the_servers_own_or_this_machines_or_listed() {
        let open = hosts("0.0.0.0", &[], &["https://app.example"]);
        let host = Some("env.example:8000");
        for origin in [
            "http://env.example:8000",
            "http://localhost:5173",
            "http://127.0.0.1",
            "https://[::1]:1",
            "https://App.example",
        ] {
            assert!(open.takes_origin(origin, host), "{origin}");
        }
        for origin in [
            "null",
            "",
            "env.example:8000",
            "http://env.example",
            "https://app.example:444",
            "http://app.example",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://localhost:1/x",
        ] {
            assert!(!open.takes_origin(origin, host), "{origin}");
        }
    }
}
