//! The HTTP client of the commands that ask a server: JSON both ways, over `http://` and `https://`, and a
//! WebSocket.
//!
//! Invariant: a failure reports whether the server was reached, and what it answered; it never
//! shows a token. Requests go to the server of the URL, through no proxy and no redirect.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use percent_encoding::percent_decode_str;
use reqwest::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Upgraded, Url};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::env;
use crate::exit::{Problem, usage};
use crate::values::duration;

/// Largest reply that is read, in bytes.
const MAX_REPLY: usize = 100 << 20;

/// An open WebSocket.
pub(crate) type Socket = WebSocketStream<Upgraded>;

/// How a command speaks to a server.
#[derive(Args)]
pub(crate) struct ConnectionArgs {
    /// How long to wait for a reply
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    token: ClientTokenArgs,
}

/// A client's token.
#[derive(Args)]
pub(crate) struct ClientTokenArgs {
    /// The token, if the server wants one; otherwise the one in the URL, `http://oxenv:TOKEN@HOST`, or
    /// OXENV_TOKEN
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

impl ConnectionArgs {
    /// A client of the server at a URL.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn client(&self, url: &str) -> anyhow::Result<Client> {
        Client::new(url, self.timeout, self.token.token.as_deref())
    }
}

/// A server, or a place below one, that requests are sent to.
pub(crate) struct Client {
    http: reqwest::Client,
    /// Scheme, host, port and the path before the routes, without a token and without a slash at its end.
    base: String,
    has_path: bool,
    timeout: Duration,
}

impl Client {
    /// Reads a URL; the scheme may be left out, and is `http` then. What is sent as a token is the given one,
    /// else what stands in the URL, else `OXENV_TOKEN`. `timeout` is for each request, its reply included.
    ///
    /// # Errors
    /// [`Problem::Usage`], if the URL or the token cannot be used, or this machine has no trusted
    /// certificates and the URL is `https`.
    pub(crate) fn new(url: &str, timeout: Duration, token: Option<&str>) -> anyhow::Result<Self> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let url = without_token(url);
        let parsed = Url::parse(&full).map_err(|error| usage(format!("'{url}' is no URL: {error}")))?;
        let (host, port) = match (parsed.scheme(), parsed.host_str(), parsed.port_or_known_default()) {
            ("http" | "https", Some(host), Some(port)) => (host, port),
            _ => return Err(usage(format!("'{url}': only http:// and https:// are spoken here"))),
        };
        let behind_host = [Some(parsed.path()), parsed.query(), parsed.fragment()];
        if behind_host.into_iter().flatten().any(|part| part.contains('@')) {
            let problem = "an '@' stands behind the host: write %40 for it, and %2F for a '/' in a token";
            return Err(usage(format!("'{url}': {problem}")));
        }
        let path = parsed.path().trim_end_matches('/');
        let mut headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        headers.extend(authorization(token, &parsed)?.map(|value| (AUTHORIZATION, value)));
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(Policy::none());
        if parsed.scheme() == "http" {
            // Trusted certificates are slow to read, and an image may have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| usage(format!("'{url}': {}", root_cause(&error))))?;
        let base = format!("{}://{host}:{port}{path}", parsed.scheme());
        Ok(Client { http, base, has_path: !path.is_empty(), timeout })
    }

    /// Whether the URL named more than a server.
    pub(crate) fn has_path(&self) -> bool {
        self.has_path
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
            bail!("{}{path}: {status}: {said}", self.base);
        }
        Ok(text)
    }

    /// Sends a request below the URL, with a key if it must run only once; returns any answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: String,
    ) -> anyhow::Result<(StatusCode, String)> {
        let mut request = self.http.request(method, self.at(path)).body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.within_timeout(path, async {
            let reply = self.execute(request).await?;
            Ok((reply.status(), body_text(reply).await?))
        })
        .await
    }

    /// Opens a WebSocket below the URL.
    pub(crate) async fn websocket(&self, path: &str) -> anyhow::Result<Socket> {
        let key = generate_key();
        let request = self
            .http
            .get(self.at(path))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let stream = self.within_timeout(path, async {
            let reply = self.execute(request).await?;
            if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                bail!("it opens no WebSocket: {}: {}", reply.status(), body_text(reply).await?);
            }
            let accepted = reply.headers().get(SEC_WEBSOCKET_ACCEPT);
            if accepted
                .is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
            {
                bail!("it opens no WebSocket: its Sec-WebSocket-Accept is not that of the request");
            }
            reply.upgrade().await.map_err(|error| anyhow!("it opens no WebSocket: {}", root_cause(&error)))
        });
        Ok(WebSocketStream::from_raw_socket(stream.await?, Role::Client, None).await)
    }

    /// Sends a request and waits for the head of its reply.
    async fn execute(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| {
            let cause = root_cause(&error);
            if !error.is_connect() {
                return anyhow!("{cause}");
            }
            let hint = match self.base.starts_with("https:") {
                true => {
                    "is the server running, does it speak TLS on that port, and is its certificate trusted?"
                }
                false => "is the server running?",
            };
            Problem::Unreachable(format!("cannot connect ({cause}); {hint}")).into()
        })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Waits for what is asked of a path, and names that path if it fails.
    async fn within_timeout<T>(
        &self,
        path: &str,
        asked: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let at = self.at(path);
        tokio::time::timeout(self.timeout, asked)
            .await
            .map_err(|_| {
                let time = humantime::format_duration(self.timeout);
                Problem::Unreachable(format!("{at} did not answer within {time}; wait longer with --timeout"))
            })?
            .with_context(|| at)
    }
}

/// The body of a reply.
async fn body_text(mut reply: Response) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    loop {
        match reply.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= MAX_REPLY => bytes.extend_from_slice(&chunk),
            Ok(Some(_)) => bail!("the reply is larger than {} MiB", MAX_REPLY >> 20),
            Ok(None) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => bail!("the reply broke off: {}", root_cause(&error)),
        }
    }
}

/// What an error comes from. What stands above it names the URL again, and which part of the client failed.
fn root_cause(error: &reqwest::Error) -> &(dyn std::error::Error + 'static) {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// The header with our credentials, if there are any.
fn authorization(token: Option<&str>, url: &Url) -> anyhow::Result<Option<HeaderValue>> {
    let text = match (token, url.username(), url.password()) {
        (Some(token), ..) => format!("Bearer {token}"),
        (None, "", None) => match env::token() {
            Some(token) => format!("Bearer {token}"),
            None => return Ok(None),
        },
        (None, user, password) => {
            let mut pair: Vec<u8> = percent_decode_str(user).collect();
            if let Some(password) = password {
                pair.push(b':');
                pair.extend(percent_decode_str(password));
            }
            format!("Basic {}", STANDARD.encode(pair))
        }
    };
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| usage("the token has a character that no header can have: use the server's own"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A URL without what stands before an `@`: a token may.
fn without_token(url: &str) -> Cow<'_, str> {
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
        let value = authorization(token, &Url::parse(url).unwrap()).unwrap();
        value.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_given_or_stands_in_the_url() {
        assert_eq!(sent("http://a:1", Some("t")), Some("Bearer t".to_owned()));
        assert_eq!(sent("http://oxenv:u@a:1", Some("t")), Some("Bearer t".to_owned()));
        // The base64 of "oxenv:u/v=".
        assert_eq!(sent("http://oxenv:u%2Fv%3D@a:1/x", None), Some("Basic b3hlbnY6dS92PQ==".to_owned()));
        assert_eq!(sent("http://a:1", None), None);
        let client = Client::new("oxenv:u@[::1]:1/x/", Duration::from_secs(1), None).unwrap();
        assert_eq!((client.base.as_str(), client.has_path()), ("http://[::1]:1/x", true));
    }

    #[test]
    fn a_token_is_never_shown() {
        for url in [
            "https://oxenv:secret@a:99999",
            "http://oxenv:secret@",
            "oxenv:secret@",
            "http://oxenv:secret@a b",
            "http://secret?secret@a",
            "http://secret#secret@a",
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
