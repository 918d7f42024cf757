//! Whether a server speaks HTTP+SSE, the transport of 2024-11-05: a GET there begins with the event
//! `endpoint`.
//!
//! Invariant: it asks once, and only a server that refused both handshakes.

use oxenv_wire::after;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use tokio::time::{Instant, timeout_at};

use crate::client::Endpoint;

/// How long the first event may take.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of the answer is looked at.
const MAX_PROBED_BYTES: usize = 4 << 10;

/// Whether it does.
pub(super) async fn speaks_old_transport(endpoint: &Endpoint, deadline: Instant) -> bool {
    let deadline = deadline.min(after(Instant::now(), FIRST_EVENT_TIMEOUT));
    timeout_at(deadline, first_event(endpoint)).await.ok().flatten().unwrap_or(false)
}

async fn first_event(endpoint: &Endpoint) -> Option<bool> {
    let request = endpoint.client().get(endpoint.url().clone()).header(ACCEPT, "text/event-stream");
    let mut response = request.send().await.ok()?;
    let kind = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    if !response.status().is_success() || !kind.starts_with("text/event-stream") {
        return None;
    }
    let mut read = Vec::new();
    while read.len() < MAX_PROBED_BYTES {
        read.extend_from_slice(&response.chunk().await.ok()??);
        let text = String::from_utf8_lossy(&read);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        if let Some(event) = whole.lines().find_map(|line| line.strip_prefix("event:")) {
            return Some(event.trim() == "endpoint");
        }
    }
    None
}
