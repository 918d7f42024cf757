//! The target of an MCP client.
//!
//! Invariant: a session that was made for one client ends with it, unless a socket has taken it since.

use std::sync::Arc;

use oxenv_core::{Attachment, EndReason, Failure, Session, SessionStore};

use crate::auth::caller::Caller;

/// The target of an MCP client; looked up anew for each request.
#[derive(Clone)]
pub(crate) enum McpTarget {
    /// The session of requests that name none.
    Default,
    /// The server's own tools.
    Server,
    /// The session of the URL.
    Named(Arc<Session>),
    /// A session that was made for this client.
    Private(Arc<PrivateSession>),
}

impl McpTarget {
    /// Whether there will never be anything to reach again.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            McpTarget::Default | McpTarget::Server => false,
            McpTarget::Named(session) => session.ended().is_some(),
            McpTarget::Private(private) => private.0.session().ended().is_some(),
        }
    }
}

/// A session that ends with the client that it was made for.
pub(crate) struct PrivateSession(pub(super) Attachment);

impl PrivateSession {
    pub(crate) async fn make(store: &SessionStore, caller: &Caller) -> Result<McpTarget, Failure> {
        let session = store.create(caller.options()).await?;
        Ok(McpTarget::Private(Arc::new(PrivateSession(session.attach()))))
    }

    pub(crate) fn end(&self) {
        self.0.session().end(EndReason::Closed);
    }
}

impl Drop for PrivateSession {
    fn drop(&mut self) {
        if !self.0.is_superseded() {
            self.end();
        }
    }
}
