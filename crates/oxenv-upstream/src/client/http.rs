//! The Streamable HTTP transport: rmcp's, with what its errors leave out mended.
//!
//! Requests of ours are posted by `post.rs`, which keeps their bytes.
//!
//! Invariant: headers are the HTTP client's own and marked sensitive, so they reach no log; they go to the
//! manifest's host and no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use rmcp::model::{ClientJsonRpcMessage, ErrorCode, ServerJsonRpcMessage};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::SseRetryPolicy;
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
    StreamableHttpPostResponse,
};
use sse_stream::Sse;
use tokio::time::timeout;

use super::post::{self, Fault, Post};
use super::state::ConnectionState;
use super::stdio::MAX_LINE_BYTES;
use oxenv_process::secret::Secret;

/// Requests that may wait for their answers at once.
const MAX_REQUESTS: usize = 256;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// How long a first request waits for the stream of news; some servers answer it only when there are any.
const STREAM_GRACE: Duration = Duration::from_millis(200);

/// Where an HTTP upstream is and what it is sent.
pub(crate) struct Endpoint {
    url: Url,
    client: reqwest::Client,
    renews: bool,
}

/// How often a stream that broke is taken up again, which repeats no request: after 0.2, 0.4, 0.8 and 1.6
/// seconds, or as the server asks. Then the calls that wait for it fail, rather than waiting without
/// limit.
#[derive(Debug)]
struct Resumption;

/// rmcp's HTTP client with our own account of its errors.
#[derive(Clone)]
pub(crate) struct Client {
    inner: reqwest::Client,
    traffic: Arc<ConnectionState>,
}

impl Endpoint {
    /// An endpoint, with headers of every request and the time that making a connection may take. Nothing is
    /// sent.
    ///
    /// # Errors
    /// When the URL or a header cannot be used. The text holds no secret.
    pub(crate) fn new(
        url: &Secret,
        headers: &[(String, Secret)],
        connect_timeout: Duration,
    ) -> Result<Self, String> {
        let url = Url::parse(url.expose()).map_err(|error| format!("its url cannot be used: {error}"))?;
        let mut builder = reqwest::Client::builder()
            .default_headers(header_map(headers)?)
            .redirect(within_origin())
            .connect_timeout(connect_timeout);
        if url.scheme() == "http" {
            // Redirects keep to the origin, so it never needs the machine's roots, which take long to read.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| format!("the HTTP client cannot be made: {error}"))?;
        Ok(Endpoint { url, client, renews: true })
    }

    /// A client whose connections do not begin a new session by themselves when the server has forgotten
    /// theirs.
    pub(crate) fn without_renewal(self) -> Self {
        Endpoint { renews: false, ..self }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// What requests to it are made with.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A transport to it. Nothing is sent yet.
    pub(crate) fn transport(&self, traffic: Arc<ConnectionState>) -> StreamableHttpClientTransport<Client> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(self.url.as_str())
            .max_concurrent_requests(MAX_REQUESTS)
            .max_sse_event_size(MAX_LINE_BYTES);
        config.retry_config = Arc::new(Resumption);
        config.reinit_on_expired_session = self.renews;
        let client = Client { inner: self.client.clone(), traffic };
        StreamableHttpClientTransport::with_client(client, config)
    }
}

fn header_map(headers: &[(String, Secret)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = |what: &str| format!("its header '{name}' has a {what} that HTTP does not allow");
        let key = HeaderName::try_from(name.as_str()).map_err(|_| bad("name"))?;
        let mut value = HeaderValue::try_from(value.expose()).map_err(|_| bad("value"))?;
        value.set_sensitive(true);
        map.append(key, value);
    }
    Ok(map)
}

impl SseRetryPolicy for Resumption {
    fn retry(&self, times: usize) -> Option<Duration> {
        (times < 4).then(|| Duration::from_millis(200 << times))
    }
}

impl Client {
    async fn send(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
        longest: usize,
    ) -> Result<StreamableHttpPostResponse, Fault> {
        let inner = &self.inner;
        let Some(id) = post::textual(&message) else {
            return inner
                .post_message_with_max_sse_event_size(uri, message, session, authorization, headers, longest)
                .await;
        };
        let news = self.traffic.news_begun();
        if session.is_some() && !news.is_cancelled() {
            // What a server asks or reports during a request may come over the stream of news; without one
            // it would be lost.
            let _ = timeout(STREAM_GRACE, news.cancelled()).await;
        }
        let post = Post { url: &uri, message: &message, id, session, headers };
        post::post(inner, post, &self.traffic).await
    }
}

impl StreamableHttpClient for Client {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Fault> {
        self.post_message_with_max_sse_event_size(
            uri,
            message,
            session,
            authorization,
            headers,
            MAX_LINE_BYTES,
        )
        .await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
        longest: usize,
    ) -> Result<StreamableHttpPostResponse, Fault> {
        let request = match &message {
            ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        let in_session = session.is_some();
        let posting = self.send(uri, message, session, authorization, headers, longest);
        // rmcp waits for the answer to a greeting even when its caller no longer does.
        let posted = tokio::select! {
            posted = posting => posted?,
            () = self.traffic.closed().cancelled() => return Err(StreamableHttpError::TransportChannelClosed),
        };
        if let StreamableHttpPostResponse::Json(_, Some(_)) | StreamableHttpPostResponse::Sse(_, Some(_)) =
            posted
        {
            self.traffic.note_session();
        }
        match (posted, request) {
            (
                StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(mut error), session),
                Some(request),
            ) => {
                if in_session && says_no_session(error.error.code, &error.error.message) {
                    return Err(StreamableHttpError::SessionExpired);
                }
                // The answer to this POST belongs to its request, even if it does not say so; without the
                // number, the request would wait without limit.
                error.id = Some(request);
                Ok(StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(error), session))
            }
            (posted, _) => Ok(posted),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Fault> {
        self.inner.delete_session(uri, session, authorization, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Fault> {
        self.get_stream_with_max_sse_event_size(
            uri,
            session,
            last_event,
            authorization,
            headers,
            MAX_LINE_BYTES,
        )
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
        longest: usize,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Fault> {
        let (inner, traffic) = (&self.inner, self.traffic.clone());
        // Any other stream takes up the answer to a request.
        let is_news = session.is_some() && last_event.is_none();
        let _begun = is_news.then(|| traffic.news_begun().clone().drop_guard());
        let events = inner
            .get_stream_with_max_sse_event_size(uri, session, last_event, authorization, headers, longest)
            .await?;
        let events = post::as_text(events, traffic.clone());
        Ok(if is_news { post::report_end(events, traffic) } else { events })
    }
}

/// Whether a server reports by an error, instead of status 404, that it does not know the session, so
/// that the request was not delivered. Servers modelled on the TypeScript SDK's examples do.
fn says_no_session(code: ErrorCode, message: &str) -> bool {
    let known =
        ["Bad Request: No valid session ID", "Bad Request: Server not initialized", "Session not found"];
    matches!(code.0, -32000 | -32001) && known.iter().any(|known| message.starts_with(known))
}

/// Follows what keeps method, body and origin; anything else would lose the message or show the headers to
/// another host.
fn within_origin() -> Policy {
    Policy::custom(|attempt| {
        let keeps =
            [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&attempt.status());
        let first = attempt.previous().first().map(Url::origin);
        if keeps && first == Some(attempt.url().origin()) && attempt.previous().len() <= MAX_REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(headers: &[(&str, &str)]) -> Result<HeaderMap, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
        header_map(&headers.collect::<Vec<_>>())
    }

    #[test]
    fn headers_do_not_show_and_bad_ones_are_named() {
        let map = headers(&[("Authorization", "Bearer hunter22")]).unwrap();
        assert!(!format!("{map:?}").contains("hunter22"));
        let message = headers(&[("x-key", "hunter\n22")]).unwrap_err();
        assert_eq!(message, "its header 'x-key' has a value that HTTP does not allow");
        let message = headers(&[("x key", "a")]).unwrap_err();
        assert_eq!(message, "its header 'x key' has a name that HTTP does not allow");
    }
}
