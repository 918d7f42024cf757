//! A small HTTP client for `call` and `step`: one request per connection, JSON both ways.
//!
//! Invariant: a failure says whether the server was reached, and what it answered; it never shows a
//! token.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::env;
use crate::exit::{Problem, usage};

/// Largest reply that is read.
const MAX_REPLY: usize = 100 << 20;

/// A server that is talked to over plain HTTP.
pub(crate) struct Client {
    host: String,
    port: u16,
    path: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Client {
    /// Reads a URL; the scheme may be left out. What is sent as a token is the given one, else what
    /// stands in the URL, else `OXENV_TOKEN`.
    pub(crate) fn new(url: &str, timeout: Duration, token: Option<&str>) -> anyhow::Result<Self> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let url = shown(url);
        let uri: Uri = full.parse().map_err(|error| usage(format!("'{url}' is no URL: {error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(usage(format!("'{url}': only http:// is spoken here")));
        }
        if uri.path().contains('@') {
            let problem = "an '@' stands behind the host: write %40 for it, and %2F for a '/' in a token";
            return Err(usage(format!("'{url}': {problem}")));
        }
        let host = uri.host().ok_or_else(|| usage(format!("'{url}' names no host")))?;
        Ok(Client {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: uri.path().trim_end_matches('/').to_owned(),
            authorization: authorization(token, &uri)?,
            timeout,
        })
    }

    /// Whether the URL named more than a server.
    pub(crate) fn has_path(&self) -> bool {
        !self.path.is_empty()
    }

    /// Posts JSON below the URL and gives back the JSON of a successful reply.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let text = self.ask(Method::POST, path, body.to_string()).await?;
        serde_json::from_str(&text).with_context(|| format!("the reply is not JSON: {text}"))
    }

    /// Gets the text of a successful reply from below the URL.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<String> {
        self.ask(Method::GET, path, String::new()).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<String> {
        let (status, text) = self.send(method, path, None, body).await?;
        if !status.is_success() {
            let json: Value = serde_json::from_str(&text).unwrap_or_default();
            let said = match &json["detail"] {
                Value::Null => text,
                Value::String(detail) => detail.clone(),
                detail => detail.to_string(),
            };
            bail!("http://{}:{}{}{path}: {status}: {said}", self.host, self.port, shown(&self.path));
        }
        Ok(text)
    }

    /// Sends a request below the URL, with a key if it is to be run once; gives whatever is answered.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: String,
    ) -> anyhow::Result<(StatusCode, String)> {
        let at = format!("http://{}:{}{}{path}", self.host, self.port, shown(&self.path));
        tokio::time::timeout(self.timeout, self.exchange(method, path, key, body))
            .await
            .map_err(|_| {
                let time = humantime::format_duration(self.timeout);
                Problem::Unreachable(format!("{at} did not answer within {time}; wait longer with --timeout"))
            })?
            .with_context(|| at)
    }

    /// Opens a WebSocket below the URL.
    pub(crate) async fn websocket(&self, path: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
        let stream = self.connect().await?;
        let mut request = format!("ws://{}{}{path}", self.authority(), self.path).into_client_request()?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| {
            Problem::Unreachable(format!("cannot connect ({error}); is the server running?"))
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: String,
    ) -> anyhow::Result<(StatusCode, String)> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.path))
            .header(HOST, self.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", HeaderValue::try_from(key)?);
        }
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        let bytes = Limited::new(reply.into_body(), MAX_REPLY)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the reply broke off: {error}"))?
            .to_bytes();
        driver.abort();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The header that says who we are, if anything does.
fn authorization(token: Option<&str>, uri: &Uri) -> anyhow::Result<Option<HeaderValue>> {
    let in_url = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
    let text = match (token.map(str::to_owned), in_url) {
        (Some(token), _) => format!("Bearer {token}"),
        (None, Some((user, _))) => {
            format!("Basic {}", STANDARD.encode(percent_decode_str(user).collect::<Vec<u8>>()))
        }
        (None, None) => match env::token() {
            Some(token) => format!("Bearer {token}"),
            None => return Ok(None),
        },
    };
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| usage("the token has a character that no header can have: use the server's own"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A URL without what stands before an `@`: a token may.
fn shown(url: &str) -> Cow<'_, str> {
    match url.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            Cow::Owned(format!("{scheme}***@{after}"))
        }
        None => Cow::Borrowed(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(url: &str, token: Option<&str>) -> Option<String> {
        let client = Client::new(url, Duration::from_secs(1), token).unwrap();
        client.authorization.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_given_or_stands_in_the_url() {
        assert_eq!(sent("http://a:1", Some("t")), Some("Bearer t".to_owned()));
        assert_eq!(sent("http://oxenv:u@a:1", Some("t")), Some("Bearer t".to_owned()));
        // The base64 of "oxenv:u/v=".
        assert_eq!(sent("oxenv:u%2Fv%3D@a:1/x", None), Some("Basic b3hlbnY6dS92PQ==".to_owned()));
        assert_eq!(sent("http://a:1", None), None);
        let client = Client::new("oxenv:u@[::1]:1/x", Duration::from_secs(1), None).unwrap();
        assert_eq!((client.host.as_str(), client.port, client.path.as_str()), ("::1", 1, "/x"));
    }

    #[test]
    fn a_token_is_never_shown() {
        for url in [
            "https://oxenv:secret@a",
            "http://oxenv:secret@",
            "oxenv:secret@",
            "http://oxenv:sec ret@a",
            "http://oxenv:secret/secret@a",
            "ftp://secret@a@b",
        ] {
            let error = Client::new(url, Duration::from_secs(1), None).err().unwrap();
            assert!(!format!("{error:#} {error:?}").contains("sec"), "{url}: {error:#}");
        }
        let error = Client::new("http://a", Duration::from_secs(1), Some("sec\nret")).err().unwrap();
        assert!(!format!("{error:#}").contains("sec"), "{error:#}");
    }
}
