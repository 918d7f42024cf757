//! An instance as Fleet reports it.
//!
//! Invariant: the fields needed to end an instance are read even if all others are missing; unknown fields
//! are not an error.

use serde::{Deserialize, Serialize};

use crate::error::{ClientError, Code, Result};

/// Where an instance's MCP endpoints are below its root, in the order of their precedence.
const MCP_PATHS: [&str; 2] = ["api/v1/mcp", "mcp"];

/// An instance as Fleet reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetInstance {
    /// Its id.
    pub instance_id: String,
    /// `pending`, `running`, `stopped` or `error`.
    pub status: String,
    /// The environment of the instance.
    #[serde(default)]
    pub env_key: String,
    /// The environment's version.
    #[serde(default)]
    pub version: String,
    /// Where it runs.
    #[serde(default)]
    pub region: String,
    /// When it was made, as ISO 8601.
    #[serde(default)]
    pub created_at: String,
    /// The run that it belongs to.
    #[serde(default)]
    pub run_id: Option<String>,
    /// After how many seconds without a heartbeat it is ended.
    #[serde(default)]
    pub heartbeat_interval: Option<f64>,
    /// Its URLs; there may be none before it runs.
    #[serde(default)]
    pub urls: Option<FleetUrls>,
}

/// An instance's URLs, as far as they are used here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetUrls {
    /// Its root.
    pub root: String,
    /// Those of the instance manager.
    #[serde(default)]
    pub manager: Option<FleetManagerUrls>,
}

/// The URLs of an instance manager, as far as they are used here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetManagerUrls {
    /// Where its routes are.
    pub api: String,
}

impl FleetInstance {
    /// Its root URL, once it has one.
    #[must_use]
    pub fn root(&self) -> Option<&str> {
        self.urls.as_ref().map(|urls| urls.root.as_str())
    }

    /// The URLs of its MCP endpoints, in the order of their precedence: the aggregator, then the
    /// environment's own.
    #[must_use]
    pub fn mcp_urls(&self) -> Vec<String> {
        let Some(root) = self.root() else { return Vec::new() };
        MCP_PATHS.iter().map(|path| join_url(root, path)).collect()
    }

    /// The URL of its manager.
    pub(super) fn manager_url(&self) -> Result<String> {
        let urls = self.urls.as_ref().filter(|urls| !urls.root.is_empty()).ok_or_else(|| {
            let message =
                format!("Fleet tells no URLs of the instance '{}', although it runs", self.instance_id);
            ClientError::new(Code::InvalidReply, message)
        })?;
        let api = urls.manager.as_ref().map(|manager| manager.api.trim_end_matches('/').to_owned());
        Ok(api.filter(|api| !api.is_empty()).unwrap_or_else(|| join_url(&urls.root, "api/v1/env")))
    }

    pub(super) fn is_running(&self) -> bool {
        self.status == "running"
    }

    /// Whether it will never run again.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "stopped" | "error")
    }
}

fn join_url(root: &str, path: &str) -> String {
    format!("{}/{path}", root.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcp_urls_join_with_and_without_a_slash() {
        for root in ["http://127.0.0.1:4611", "http://127.0.0.1:4611/"] {
            let urls = Some(FleetUrls { root: root.to_owned(), manager: None });
            let instance = FleetInstance { urls, ..FleetInstance::default() };
            assert_eq!(
                instance.mcp_urls(),
                ["http://127.0.0.1:4611/api/v1/mcp", "http://127.0.0.1:4611/mcp"]
            );
            assert_eq!(instance.manager_url().unwrap(), "http://127.0.0.1:4611/api/v1/env");
        }
        assert!(FleetInstance::default().manager_url().is_err());
    }

    #[test]
    fn little_is_needed_and_more_is_tolerated() {
        let api = r#"{"instance_id":"a","status":"pending","urls":null,"new":[1]}"#;
        let instance: FleetInstance = serde_json::from_str(api).unwrap();
        assert!(!instance.is_running() && instance.mcp_urls().is_empty());
    }
}
