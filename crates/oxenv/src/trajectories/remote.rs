//! Recorded sessions, read from a server.
//!
//! Invariant: a server that records nothing is distinguished from one that is not there.

use std::time::Duration;

use anyhow::Context;
use oxenv_store::SessionFilter;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::view::{EntryPage, SessionView};
use crate::client::Client;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A server that records.
pub(super) struct RemoteRecords(Client);

#[derive(Deserialize)]
struct Sessions {
    trajectories: Vec<SessionView>,
}

impl RemoteRecords {
    pub(super) fn new(url: &str, token: Option<&str>) -> anyhow::Result<Self> {
        Ok(RemoteRecords(Client::new(url, REQUEST_TIMEOUT, token)?))
    }

    pub(super) async fn sessions(&self, filter: &SessionFilter) -> anyhow::Result<Vec<SessionView>> {
        let mut path = format!("/trajectories?limit={}", filter.limit);
        let texts = [("environment", &filter.environment), ("after", &filter.after)];
        for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            path.push_str(&format!("&{name}={}", escaped(text)));
        }
        if let Some(since) = filter.since_us {
            path.push_str(&format!("&since_us={since}"));
        }
        Ok(self.get::<Sessions>(&path).await?.trajectories)
    }

    pub(super) async fn session(&self, id: &str) -> anyhow::Result<SessionView> {
        self.get(&format!("/trajectories/{}", escaped(id))).await
    }

    pub(super) async fn entries(
        &self,
        id: &str,
        after: Option<u64>,
        limit: usize,
    ) -> anyhow::Result<EntryPage> {
        let after = after.map_or(String::new(), |after| format!("&after={after}"));
        let path = format!("/trajectories/{}/steps?limit={limit}{after}", escaped(id));
        self.get(&path).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let text = self.0.get(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path} did not answer with a record"))
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
