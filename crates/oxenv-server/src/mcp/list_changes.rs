//! Notifies clients of changes in what they are offered.
//!
//! Invariant: a client is notified only of lists that have changed. A change that is in none of them can
//! only be in what the resources hold, so then their subscribers are notified.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use oxenv_core::{Principal, Toolbox};
use oxenv_wire::ToolSpelling;
use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, RoleServer, ServiceError, SubscriptionSendError, SubscriptionSink};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::target::McpTarget;
use super::tool_access::ToolAccess;
use crate::app::App;

/// The URIs of the resources that a client has subscribed to.
pub(super) type Subscribed = Arc<Mutex<BTreeSet<String>>>;

/// Notifies a client that shook hands; ends with its drop.
pub(super) struct Watcher(JoinHandle<()>);

impl Watcher {
    pub(super) fn spawn(
        app: Arc<App>,
        target: McpTarget,
        subscribed: Subscribed,
        client: Peer<RoleServer>,
        mut offer: Option<OfferedLists>,
    ) -> Self {
        Watcher(tokio::spawn(async move {
            while let Some(changed) = next(&app, &target, &mut offer).await {
                if let Err(error) = notify(changed, &subscribed, &client).await {
                    tracing::debug!(%error, "a client no longer hears of changes");
                    return;
                }
            }
        }))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notifies a listener with a stream of its own, for as long as the future is polled.
pub(super) async fn notify_listener(
    app: &App,
    target: &McpTarget,
    listener: &SubscriptionSink,
    mut offer: Option<OfferedLists>,
) {
    while let Some(changed) = next(app, target, &mut offer).await {
        if let Err(error) = notify_one_listener(changed, listener).await {
            tracing::debug!(%error, "a listener no longer hears of changes");
            return;
        }
    }
}

/// What an agent is offered at one moment. Each client that came has one, so of the lists that are made for
/// it alone it has fingerprints.
pub(super) struct OfferedLists {
    of: Arc<Toolbox>,
    seen: u64,
    tools: Arc<str>,
    /// Changes of the resources and their templates.
    resources: u64,
    prompts: u64,
}

/// Which lists have changed.
struct ChangedLists {
    tools: bool,
    resources: bool,
    prompts: bool,
}

impl ChangedLists {
    /// Whether the content of resources may have changed.
    fn contents(&self) -> bool {
        !(self.tools || self.resources || self.prompts)
    }
}

impl OfferedLists {
    pub(super) fn of(toolbox: &Arc<Toolbox>) -> Self {
        let seen = toolbox.changes().count();
        let extras = toolbox.extras(Principal::Agent);
        OfferedLists {
            of: Arc::clone(toolbox),
            seen,
            tools: toolbox.listing(Principal::Agent, ToolSpelling::Mcp),
            resources: fingerprint(&[&extras.resources, &extras.templates]),
            prompts: fingerprint(&[&extras.prompts]),
        }
    }

    fn until(&self, now: &OfferedLists) -> ChangedLists {
        ChangedLists {
            tools: self.tools != now.tools,
            resources: self.resources != now.resources,
            prompts: self.prompts != now.prompts,
        }
    }
}

/// What lists are known by.
fn fingerprint(lists: &[&Vec<Value>]) -> u64 {
    /// Takes what is written into a hash.
    struct HashWriter(DefaultHasher);

    impl io::Write for HashWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut hashed = HashWriter(DefaultHasher::new());
    // Parsed JSON is always written, and a hash takes everything.
    let _ = serde_json::to_writer(&mut hashed, lists);
    hashed.0.finish()
}

/// Waits for the next change of what the target offers; nothing when it offers nothing any more.
async fn next(app: &App, target: &McpTarget, offer: &mut Option<OfferedLists>) -> Option<ChangedLists> {
    let access = ToolAccess::of(app, target).await.ok()?;
    let toolbox = access.toolbox();
    let old = offer.take().unwrap_or_else(|| OfferedLists::of(toolbox));
    // The default session may have been replaced by another.
    if Arc::ptr_eq(&old.of, toolbox) {
        toolbox.changes().after(old.seen).await;
    }
    let now = OfferedLists::of(toolbox);
    let changed = old.until(&now);
    *offer = Some(now);
    Some(changed)
}

async fn notify(
    changed: ChangedLists,
    subscribed: &Subscribed,
    client: &Peer<RoleServer>,
) -> Result<(), ServiceError> {
    if changed.tools {
        client.notify_tool_list_changed().await?;
    }
    if changed.resources {
        client.notify_resource_list_changed().await?;
    }
    if changed.prompts {
        client.notify_prompt_list_changed().await?;
    }
    if changed.contents() {
        let uris = subscribed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for uri in uris {
            client.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await?;
        }
    }
    Ok(())
}

async fn notify_one_listener(
    changed: ChangedLists,
    listener: &SubscriptionSink,
) -> Result<(), SubscriptionSendError> {
    let SubscriptionFilter {
        tools_list_changed,
        prompts_list_changed,
        resources_list_changed,
        resource_subscriptions,
        ..
    } = listener.accepted();
    if changed.tools && *tools_list_changed == Some(true) {
        listener.notify_tool_list_changed().await?;
    }
    if changed.resources && *resources_list_changed == Some(true) {
        listener.notify_resource_list_changed().await?;
    }
    if changed.prompts && *prompts_list_changed == Some(true) {
        listener.notify_prompt_list_changed().await?;
    }
    if changed.contents() {
        for uri in resource_subscriptions.iter().flatten() {
            listener.notify_resource_updated(uri).await?;
        }
    }
    Ok(())
}
