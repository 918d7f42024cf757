//! What MCP's conformance suite wants a server to offer, behind our own doors.
//!
//! Run it with `cargo run -p oxenv-server --example conformance_server [ADDRESS]`; its first line is
//! the URL that the suite is given. docs/conformance.md says how, and with what outcome.

#[path = "conformance_server/declared.rs"]
mod declared;
#[path = "conformance_server/offered.rs"]
mod offered;
#[path = "conformance_server/rounds.rs"]
mod rounds;
#[path = "conformance_server/tools.rs"]
mod tools;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use oxenv_core::{
    CallContext, ChangeCounter, Mount, RequestError, ResourcesAndPrompts, SessionStore, StoreLimits, Toolset,
    Work, tool_environment,
};
use oxenv_server::{Server, ServerConfig};
use oxenv_wire::{RawJson, Tool, ToolError, ToolResult};
use serde_json::value::RawValue;

/// The suite's tools, resources and prompts.
struct Fixture {
    lists: Mutex<Lists>,
    watchers: Mutex<Vec<ChangeCounter>>,
    seal: rounds::Seal,
}

struct Lists {
    tools: Arc<[Tool]>,
    extras: Arc<ResourcesAndPrompts>,
}

impl Fixture {
    fn new() -> Self {
        let lists = Lists { tools: declared::tools(0).into(), extras: Arc::new(offered::extras(0)) };
        Fixture { lists: Mutex::new(lists), watchers: Mutex::default(), seal: rounds::Seal::default() }
    }

    /// Changes a list, as the suite's triggers ask for.
    fn change(&self, change: impl FnOnce(&mut Lists)) {
        change(&mut self.lists.lock().unwrap_or_else(PoisonError::into_inner));
        for watcher in self.watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            watcher.bump();
        }
    }

    fn change_tools(&self) {
        self.change(|lists| lists.tools = declared::tools(lists.tools.len()).into());
    }

    fn change_prompts(&self) {
        self.change(|lists| lists.extras = Arc::new(offered::extras(lists.extras.prompts.len())));
    }
}

impl Toolset for Fixture {
    fn name(&self) -> &str {
        "conformance"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::clone(&self.lists.lock().unwrap_or_else(PoisonError::into_inner).tools)
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(changes.clone());
    }

    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(tools::call(self, context, tool, arguments))
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        Arc::clone(&self.lists.lock().unwrap_or_else(PoisonError::into_inner).extras)
    }

    fn request<'a>(
        &'a self,
        _context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        Work::done(offered::answer(method, parameters))
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let toolset = Mount::new(Arc::new(Fixture::new()));
    let factory =
        tool_environment("conformance", "What MCP's conformance suite asks for", vec![toolset], None);
    let store = SessionStore::new(factory, StoreLimits::default());
    let server = Server::bind(address, store, ServerConfig::default()).await?;
    println!("listening on http://{}/mcp", server.address()?);
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    server.run(stop).await;
    Ok(())
}
