//! A small HTTP client for `call` and `step`: one request per connection, JSON both ways.
//!
//! Invariant: a failure says whether the server was reached, and what it answered.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::exit::{Problem, usage};

/// Largest reply that is read.
const MAX_REPLY: usize = 100 << 20;

/// A server that is talked to over plain HTTP.
pub(crate) struct Client {
    host: String,
    port: u16,
    path: String,
    timeout: Duration,
}

impl Client {
    /// Reads a URL; the scheme may be left out.
    pub(crate) fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|error| usage(format!("'{url}' is no URL: {error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(usage(format!("'{url}': only http:// is spoken here")));
        }
        let host = uri.host().ok_or_else(|| usage(format!("'{url}' names no host")))?;
        Ok(Client {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: uri.path().trim_end_matches('/').to_owned(),
            timeout,
        })
    }

    /// Whether the URL named more than a server.
    pub(crate) fn has_path(&self) -> bool {
        !self.path.is_empty()
    }

    /// Posts JSON below the URL and gives back the JSON of a successful reply.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let at = format!("http://{}:{}{}{path}", self.host, self.port, self.path);
        tokio::time::timeout(self.timeout, self.exchange(path, body))
            .await
            .map_err(|_| {
                let time = humantime::format_duration(self.timeout);
                Problem::Unreachable(format!("{at} did not answer within {time}; wait longer with --timeout"))
            })?
            .with_context(|| at)
    }

    async fn exchange(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| {
            Problem::Unreachable(format!("cannot connect ({error}); is the server running?"))
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.path))
            .header(HOST, format!("{host}:{}", self.port))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        let bytes = Limited::new(reply.into_body(), MAX_REPLY)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the reply broke off: {error}"))?
            .to_bytes();
        driver.abort();
        let text = String::from_utf8_lossy(&bytes);
        if !status.is_success() {
            let json: Value = serde_json::from_str(&text).unwrap_or_default();
            match &json["detail"] {
                Value::Null => bail!("{status}: {text}"),
                Value::String(detail) => bail!("{status}: {detail}"),
                detail => bail!("{status}: {detail}"),
            }
        }
        serde_json::from_str(&text).with_context(|| format!("the reply is not JSON: {text}"))
    }
}
