//! Sends spans to a receiver of OTLP over HTTP, in JSON.
//!
//! Invariant: memory is bounded, because one group is sent at a time and what does not fit into the
//! queue meanwhile is dropped. Every span that was not taken is counted, and a warning reports it.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Deserializer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::span::{Span, request};

/// Maximum number of spans in one request.
const MAX_SPANS_PER_REQUEST: usize = 512;

/// How long a span waits for others.
const GATHER_TIME: Duration = Duration::from_secs(2);

/// Deadline of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses before a group is tried again; after the last it is dropped.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Least time between two reports of losses.
const LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// How much of an answer is read.
const MAX_ANSWER: usize = 64 << 10;

/// How long the end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where spans are sent: a receiver's address, below which `/v1/traces` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Url);

/// The task that sends. Dropping it ends it at once.
pub(crate) struct Exporter {
    stop: oneshot::Sender<()>,
    task: Task,
}

struct Task(JoinHandle<()>);

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("{error}; write http://127.0.0.1:4318"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("it is no http:// or https:// URL; write http://127.0.0.1:4318".to_owned());
        }
        let path = url.path().trim_end_matches('/');
        // Both are in use: the receiver's address, and the full one.
        let path = if path.ends_with("/v1/traces") { path.to_owned() } else { format!("{path}/v1/traces") };
        url.set_path(&path);
        Ok(Endpoint(url))
    }
}

impl Exporter {
    pub(super) fn start(
        endpoint: &Endpoint,
        spans: mpsc::Receiver<Span>,
        dropped: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        // Neither a proxy nor another place is guessed: spans go to the configured address.
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("oxenv/", env!("CARGO_PKG_VERSION")));
        if endpoint.0.scheme() == "http" {
            // An image may have no roots, and none are needed.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().context("traces cannot be sent")?;
        let (stop, stopped) = oneshot::channel();
        let sender = Sender {
            client,
            url: endpoint.0.clone(),
            spans,
            stopped,
            stopping: false,
            dropped,
            why: String::new(),
            told: None,
        };
        Ok(Exporter { stop, task: Task(tokio::spawn(sender.run())) })
    }

    /// Sends what is in the queue, once and for a few seconds at most.
    pub(crate) async fn close(mut self) {
        // It has ended already if there is no receiver.
        let _ = self.stop.send(());
        if tokio::time::timeout(CLOSE_TIMEOUT, &mut self.task.0).await.is_err() {
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The task's own state.
struct Sender {
    client: Client,
    url: Url,
    spans: mpsc::Receiver<Span>,
    stopped: oneshot::Receiver<()>,
    stopping: bool,
    /// Spans that were lost and not reported yet, because of a full queue or a missing receiver.
    dropped: Arc<AtomicU64>,
    /// Why the last group was lost.
    why: String,
    told: Option<Instant>,
}

/// Why a request failed, and whether another may not.
struct SendError {
    why: String,
    for_now: bool,
}

impl Sender {
    async fn run(mut self) {
        let mut group = Vec::with_capacity(MAX_SPANS_PER_REQUEST);
        while self.gather(&mut group).await {
            self.send(&group).await;
            group.clear();
            self.tell_losses();
        }
        self.tell_losses();
    }

    /// Waits for spans; false when there will be no more.
    async fn gather(&mut self, group: &mut Vec<Span>) -> bool {
        let Some(first) = self.next().await else { return false };
        group.push(first);
        let mut enough = std::pin::pin!(tokio::time::sleep(GATHER_TIME));
        while group.len() < MAX_SPANS_PER_REQUEST {
            tokio::select! {
                biased;
                span = self.next() => match span {
                    Some(span) => group.push(span),
                    None => break,
                },
                () = &mut enough => break,
            }
        }
        true
    }

    /// The next span; after a stop, those that are there already.
    async fn next(&mut self) -> Option<Span> {
        if !self.stopping {
            tokio::select! {
                biased;
                span = self.spans.recv() => return span,
                _ = &mut self.stopped => self.stop(),
            }
        }
        self.spans.recv().await
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.spans.close();
    }

    async fn send(&mut self, group: &[Span]) {
        let body = request(group).to_string();
        let mut pauses = RETRY_PAUSES.iter();
        let why = loop {
            match self.post(body.clone()).await {
                Ok(()) => return,
                Err(refused) if !refused.for_now || self.stopping => break refused.why,
                Err(refused) => {
                    let Some(pause) = pauses.next() else { break refused.why };
                    tokio::select! {
                        () = tokio::time::sleep(*pause) => {}
                        _ = &mut self.stopped => self.stop(),
                    }
                }
            }
        };
        self.why = why;
        self.dropped.fetch_add(group.len() as u64, Ordering::Relaxed);
    }

    async fn post(&self, body: String) -> Result<(), SendError> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        // The address may hold a password.
        let mut response = request
            .send()
            .await
            .map_err(|error| SendError { why: error.without_url().to_string(), for_now: true })?;
        let status = response.status();
        // Read to its end, so that the connection can be used again; its content is not needed.
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > MAX_ANSWER {
                break;
            }
        }
        let for_now = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        match status.is_success() {
            true => Ok(()),
            false => Err(SendError { why: format!("the receiver answered {status}"), for_now }),
        }
    }

    fn tell_losses(&mut self) {
        let recently = self.told.is_some_and(|told| told.elapsed() < LOSS_REPORT_INTERVAL);
        if recently && !self.stopping {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return;
        }
        self.told = Some(Instant::now());
        let why = std::mem::take(&mut self.why);
        let why = if why.is_empty() { "they came faster than they were taken" } else { &why };
        tracing::warn!(spans = dropped, why, "traces were lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_receivers_address_or_the_full_one() {
        for (given, sent_to) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://host/otlp/", "https://host/otlp/v1/traces"),
            ("http://host/v1/traces", "http://host/v1/traces"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().0.as_str(), sent_to);
        }
        for bad in ["", "127.0.0.1:4318", "localhost:4318", "grpc://host", "http://"] {
            let error = bad.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("http://127.0.0.1:4318"), "{bad}: {error}");
        }
    }
}
