//! The server that rmcp's service and the stdio door see: the tools, resources and prompts of what
//! a client is connected to.
//!
//! Invariant: it translates and never decides: calls go to the session, lists come from its toolbox,
//! and what no toolset offers is not declared.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use axum::http::request::Parts;
use oxenv_core::{Extras, Failure, Principal, RequestFault};
use oxenv_wire::{McpEra, RawJson, RpcFault, ToolSpelling, raw, write_mcp_call};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    DiscoverResult, ErrorCode, ErrorData, GetPromptRequestParams, GetPromptResponse,
    Implementation, InitializeRequestParams, InitializeResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, RequestMetaObject, ServerCapabilities,
    ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};
use rmcp::ServerHandler;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::begun::{Asked, Begun, Handed};
use super::http::Epoch;
use super::line::{Client, Wants};
use super::reach::{Reach, Target};
use super::severity::{Level, Severity};
use super::short::told;
use super::watch::{Subscribed, Watcher, tell_listener};
use crate::app::App;
use crate::error;

/// What a client is connected to, as a server of MCP.
pub(super) struct ToolboxHandler {
    app: Arc<App>,
    target: Target,
    /// What the target was when the client came.
    reach: Reach,
    info: OnceLock<ServerConfig>,
    level: Level,
    subscribed: Subscribed,
    watcher: Mutex<Option<Watcher>>,
}

type Answer<T> = Result<T, ErrorData>;

impl ToolboxHandler {
    pub(super) async fn new(app: &Arc<App>, target: Target, level: Level) -> Result<Arc<Self>, Failure> {
        let reach = target.reach(app).await?;
        Ok(Arc::new(ToolboxHandler {
            app: Arc::clone(app),
            target,
            reach,
            info: OnceLock::new(),
            level,
            subscribed: Arc::default(),
            watcher: Mutex::default(),
        }))
    }

    /// What the target is now, with its lists known.
    async fn reach(&self) -> Answer<Reach> {
        let reach = self.target.reach(&self.app).await.map_err(|failure| refused(error::rpc(&failure)))?;
        reach.toolbox().settled().await;
        Ok(reach)
    }

    async fn extras(&self, request: Option<PaginatedRequestParams>, of: fn(&Extras) -> bool) -> Answer<Extras> {
        first_page(request)?;
        let declared = of(&self.reach.toolbox().extras(Principal::Agent));
        let extras = self.reach().await?.toolbox().extras(Principal::Agent);
        match declared || of(&extras) {
            true => Ok(extras),
            false => Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "nothing of that kind is offered here", None)),
        }
    }

    async fn asked<T: Serialize>(
        &self,
        method: &str,
        params: &T,
        context: &RequestContext<RoleServer>,
    ) -> Answer<RawJson> {
        let parameters = with_meta(params, &context.meta)?;
        let reach = self.reach().await?;
        tokio::select! {
            biased;
            () = context.ct.cancelled() => Err(cancelled()),
            answer = reach.request(method, &parameters) => answer.map_err(declined),
        }
    }

    fn declared(&self) -> ServerConfig {
        let extras = self.reach.toolbox().extras(Principal::Agent);
        let mut capabilities = json!({ "logging": {}, "tools": { "listChanged": true } });
        if has_prompts(&extras) {
            capabilities["prompts"] = json!({ "listChanged": true });
        }
        if has_resources(&extras) {
            capabilities["resources"] = json!({ "listChanged": true, "subscribe": true });
        }
        if has_prompts(&extras) || !extras.templates.is_empty() {
            capabilities["completions"] = json!({});
        }
        let capabilities: ServerCapabilities = serde_json::from_value(capabilities).unwrap_or_default();
        let spec = self.app.store.spec();
        let me = Implementation::new("oxenv", env!("CARGO_PKG_VERSION")).with_title(spec.title.clone());
        ServerConfig::new(capabilities).with_server_info(me).with_instructions(spec.description.clone())
    }

    async fn begin(&self, params: &CallToolRequestParams, context: &RequestContext<RoleServer>) -> Answer<Begun> {
        let text = |text: RawJson| Bytes::from(String::from(Box::<str>::from(text)));
        let arguments = params.arguments.as_ref().map(raw).transpose().map_err(internal)?;
        let parts = context.extensions.get::<Parts>();
        let epoch = parts.and_then(|parts| parts.extensions.get::<Epoch>()).and_then(|epoch| epoch.0);
        let level = match era(context) {
            McpEra::Stateless => context.meta.log_level().map(severity),
            McpEra::Handshake => Some(self.level.get()),
        };
        let wants = Wants { progress: context.meta.get_progress_token(), level };
        let asked = Asked {
            reach: self.reach().await?,
            name: params.name.to_string(),
            arguments: arguments.map(text),
            request: Some(text(with_meta(params, &context.meta)?)),
            epoch,
        };
        Ok(Begun::new(asked, wants))
    }
}

impl ServerHandler for ToolboxHandler {
    fn get_info(&self) -> ServerConfig {
        self.info.get_or_init(|| self.declared()).clone()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<InitializeResult> {
        self.reach().await?;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Answer<DiscoverResult> {
        self.reach().await?;
        let versions: Vec<ProtocolVersion> = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.declared()))
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let watcher = Watcher::spawn(
            Arc::clone(&self.app),
            self.target.clone(),
            Arc::clone(&self.subscribed),
            context.peer,
        );
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Answer<ListToolsResult> {
        first_page(request)?;
        let listing = self.reach().await?.toolbox().listing(Principal::Agent, ToolSpelling::Mcp);
        Ok(ListToolsResult::with_all_items(items(serde_json::from_str(&listing).map_err(internal)?)))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools = self.reach.toolbox().tools(Principal::Agent);
        let tool = tools.iter().find(|tool| tool.name == name)?;
        serde_json::from_str(tool.for_mcp().get()).ok()
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<CallToolResponse> {
        let parts = context.extensions.get::<Parts>();
        let handed = parts.and_then(|parts| parts.extensions.get::<Handed>()).and_then(Handed::take);
        let begun = match handed {
            Some(begun) => begun,
            None => self.begin(&params, &context).await?,
        };
        let era = era(&context);
        let client = Client {
            peer: context.peer.clone(),
            capabilities: context.client_capabilities().unwrap_or_default(),
            era,
        };
        let outcome = tokio::select! {
            biased;
            () = context.ct.cancelled() => return Err(cancelled()),
            outcome = begun.finish(client) => told(outcome, era).map_err(refused)?,
        };
        let wants_input = outcome.as_ref().is_ok_and(|result| result.input_required.is_some());
        let mut text = String::new();
        write_mcp_call(&mut text, era, outcome.as_ref());
        match wants_input {
            true => serde_json::from_str(&text).map(CallToolResponse::InputRequired),
            false => serde_json::from_str::<CallToolResult>(&text).map(CallToolResponse::Complete),
        }
        .map_err(|error| internal(format!("the tool's result is not one of MCP's: {error}")))
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Answer<ListResourcesResult> {
        let extras = self.extras(request, has_resources).await?;
        Ok(ListResourcesResult::with_all_items(items(extras.resources)))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Answer<ListResourceTemplatesResult> {
        let extras = self.extras(request, has_resources).await?;
        Ok(ListResourceTemplatesResult::with_all_items(items(extras.templates)))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Answer<ListPromptsResult> {
        let extras = self.extras(request, has_prompts).await?;
        Ok(ListPromptsResult::with_all_items(items(extras.prompts)))
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<ReadResourceResponse> {
        let answer = self.asked("resources/read", &params, &context).await?;
        match wants_input(&answer) {
            true => parsed(&answer).map(ReadResourceResponse::InputRequired),
            false => parsed(&answer).map(ReadResourceResponse::Complete),
        }
    }

    async fn get_prompt(
        &self,
        params: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<GetPromptResponse> {
        let answer = self.asked("prompts/get", &params, &context).await?;
        match wants_input(&answer) {
            true => parsed(&answer).map(GetPromptResponse::InputRequired),
            false => parsed(&answer).map(GetPromptResponse::Complete),
        }
    }

    async fn complete(
        &self,
        params: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<CompleteResult> {
        parsed(&self.asked("completion/complete", &params, &context).await?)
    }

    #[expect(deprecated, reason = "the log is part of every revision so far")]
    async fn set_level(
        &self,
        params: rmcp::model::SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Answer<()> {
        self.level.set(severity(params.level));
        Ok(())
    }

    async fn subscribe(
        &self,
        params: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<()> {
        match self.asked("resources/subscribe", &params, &context).await {
            // A toolset that knows of no subscriptions still says when something has changed.
            Err(error) if error.code != ErrorCode::METHOD_NOT_FOUND => return Err(error),
            _ => {}
        }
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).insert(params.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        params: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Answer<()> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).remove(&params.uri);
        match self.asked("resources/unsubscribe", &params, &context).await {
            Err(error) if error.code != ErrorCode::METHOD_NOT_FOUND => Err(error),
            _ => Ok(()),
        }
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Answer<()> {
        tokio::select! {
            () = context.cancelled() => {}
            () = self.app.stopping.cancelled() => {}
            () = tell_listener(&self.app, &self.target, context.sink()) => {}
        }
        Ok(())
    }
}

/// The era of a request.
fn era(context: &RequestContext<RoleServer>) -> McpEra {
    match context.protocol_version() {
        Some(version) if version >= ProtocolVersion::V_2026_07_28 => McpEra::Stateless,
        _ => McpEra::Handshake,
    }
}

#[expect(deprecated, reason = "the log is part of every revision so far")]
fn severity(level: rmcp::model::LoggingLevel) -> Severity {
    let name = serde_json::to_value(level).unwrap_or_default();
    Severity::of(name.as_str().unwrap_or_default())
}

/// Lists come as one page, so no cursor was ever given out.
fn first_page(request: Option<PaginatedRequestParams>) -> Answer<()> {
    match request.and_then(|request| request.cursor) {
        None => Ok(()),
        Some(cursor) => {
            let message = format!("unknown cursor '{cursor}': lists come as one page");
            Err(ErrorData::new(ErrorCode::INVALID_PARAMS, message, None))
        }
    }
}

fn has_resources(extras: &Extras) -> bool {
    !(extras.resources.is_empty() && extras.templates.is_empty())
}

fn has_prompts(extras: &Extras) -> bool {
    !extras.prompts.is_empty()
}

/// The items that are what MCP says they are; one that is not must not hide the others.
fn items<T: DeserializeOwned>(items: Vec<Value>) -> Vec<T> {
    let read = |item: Value| {
        let name = item.get("name").cloned().unwrap_or_default();
        serde_json::from_value(item)
            .inspect_err(|error| tracing::warn!(%name, %error, "left out of a list: it is not as MCP spells it"))
            .ok()
    };
    items.into_iter().filter_map(read).collect()
}

/// Parameters as they were sent: rmcp keeps their metadata elsewhere.
fn with_meta<T: Serialize>(params: &T, meta: &RequestMetaObject) -> Answer<RawJson> {
    let mut params = serde_json::to_value(params).map_err(internal)?;
    let meta = serde_json::to_value(meta).map_err(internal)?;
    if meta.as_object().is_some_and(|meta| !meta.is_empty()) {
        params["_meta"] = meta;
    }
    raw(&params).map_err(internal)
}

fn wants_input(answer: &RawJson) -> bool {
    let answer: Value = serde_json::from_str(answer.get()).unwrap_or_default();
    answer["resultType"] == "input_required"
}

fn parsed<T: DeserializeOwned>(answer: &RawJson) -> Answer<T> {
    serde_json::from_str(answer.get())
        .map_err(|error| internal(format!("the answer of the toolset is not one of MCP's: {error}")))
}

fn refused(fault: RpcFault) -> ErrorData {
    let data = Some(fault.data).filter(|data| !data.is_null());
    ErrorData::new(ErrorCode(fault.code as i32), fault.message, data)
}

fn declined(fault: RequestFault) -> ErrorData {
    let data = Some(fault.data).filter(|data| !data.is_null());
    ErrorData::new(ErrorCode(fault.code), fault.message, data)
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::new(ErrorCode::INTERNAL_ERROR, error.to_string(), None)
}

/// Nobody reads it: whoever cancelled waits for no answer.
fn cancelled() -> ErrorData {
    ErrorData::new(ErrorCode::INTERNAL_ERROR, "the request was cancelled", None)
}
