//! The Streamable HTTP transport: rmcp's, with what its errors leave out mended.
//!
//! Results pass through rmcp's types here: a field that those do not have, within a block of a kind that
//! they do, is lost, and a number is what `f64`, `i64` and `u64` hold of it. Blocks of other kinds pass whole.
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

use super::lines::LONGEST_LINE;
use crate::secret::Secret;

/// Requests that may wait for their answers at once.
const MOST_REQUESTS: usize = 256;
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;

/// Where an HTTP upstream is and what it is sent.
pub(crate) struct Endpoint {
    /// Its URL.
    pub(crate) url: Secret,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, Secret)>,
    /// How long making a connection may take.
    pub(crate) connect_timeout: Duration,
}

/// How often a stream that broke is taken up again, which repeats no request: after 0.2, 0.4, 0.8 and 1.6 seconds,
/// or as the server asks. Then the calls that wait for it are lost, rather than waiting for ever.
#[derive(Debug)]
struct Resumption;

/// rmcp's HTTP client with our own account of its errors.
#[derive(Clone)]
pub(crate) struct Client(reqwest::Client);

impl Endpoint {
    /// A transport to it. Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL or a header cannot be used. The text holds no secret.
    pub(crate) fn transport(&self) -> Result<StreamableHttpClientTransport<Client>, String> {
        let client = reqwest::Client::builder()
            .default_headers(self.header_map()?)
            .redirect(within_origin())
            .connect_timeout(self.connect_timeout)
            .build()
            .map_err(|error| format!("the HTTP client cannot be made: {error}"))?;
        let url =
            Url::parse(self.url.expose()).map_err(|error| format!("its url cannot be used: {error}"))?;
        let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
            .max_concurrent_requests(MOST_REQUESTS)
            .max_sse_event_size(LONGEST_LINE);
        config.retry_config = Arc::new(Resumption);
        Ok(StreamableHttpClientTransport::with_client(Client(client), config))
    }

    fn header_map(&self) -> Result<HeaderMap, String> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let bad = |what: &str| format!("its header '{name}' has a {what} that HTTP does not allow");
            let key = HeaderName::try_from(name.as_str()).map_err(|_| bad("name"))?;
            let mut value = HeaderValue::try_from(value.expose()).map_err(|_| bad("value"))?;
            value.set_sensitive(true);
            map.append(key, value);
        }
        Ok(map)
    }
}

impl SseRetryPolicy for Resumption {
    fn retry(&self, times: usize) -> Option<Duration> {
        (times < 4).then(|| Duration::from_millis(200 << times))
    }
}

type Fault = StreamableHttpError<reqwest::Error>;

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
        self.post_message_with_max_sse_event_size(uri, message, session, authorization, headers, LONGEST_LINE)
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
        let posted = self
            .0
            .post_message_with_max_sse_event_size(uri, message, session, authorization, headers, longest)
            .await?;
        match (posted, request) {
            (
                StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(mut error), session),
                Some(request),
            ) => {
                if in_session && says_no_session(error.error.code, &error.error.message) {
                    return Err(StreamableHttpError::SessionExpired);
                }
                // The answer to this POST is about its request, also when it does not say so; without the
                // number, the request would wait for ever.
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
        self.0.delete_session(uri, session, authorization, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        authorization: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Fault> {
        self.0.get_stream(uri, session, last_event, authorization, headers).await
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
        self.0
            .get_stream_with_max_sse_event_size(uri, session, last_event, authorization, headers, longest)
            .await
    }
}

/// Whether a server says by an error, instead of status 404, that it does not know the session, so that
/// the request was not delivered. Servers after the TypeScript SDK's examples do.
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
        if keeps && first == Some(attempt.url().origin()) && attempt.previous().len() <= MOST_REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, headers: &[(&str, &str)]) -> Endpoint {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
        Endpoint {
            url: Secret::new(url),
            headers: headers.collect(),
            connect_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn headers_do_not_show_and_bad_ones_are_named() {
        let map = endpoint("http://a", &[("Authorization", "Bearer hunter22")]).header_map().unwrap();
        assert!(!format!("{map:?}").contains("hunter22"));
        let says = endpoint("http://a", &[("x-key", "hunter\n22")]).header_map().unwrap_err();
        assert_eq!(says, "its header 'x-key' has a value that HTTP does not allow");
        let says = endpoint("http://a", &[("x key", "a")]).header_map().unwrap_err();
        assert_eq!(says, "its header 'x key' has a name that HTTP does not allow");
    }
}
