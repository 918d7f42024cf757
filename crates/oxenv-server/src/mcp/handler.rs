//! The server that rmcp's service and the stdio door see: the tools, resources and prompts of what
//! a client is connected to.
//!
//! Invariant: it translates and never decides: calls go to the session, lists come from its toolbox,
//! and what no toolset offers is not declared.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use axum::http::request::Parts;
use oxenv_core::{Failure, Offered, Principal, ResourcesAndPrompts};
use oxenv_wire::{McpEra, RawJson, ToolSpelling, preview, raw, write_mcp_call};
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    CustomRequest, CustomResult, DiscoverResult, ErrorCode, ErrorData, GetPromptRequestParams,
    GetPromptResponse, Implementation, InitializeRequestParams, InitializeResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};
use serde::Serialize;
use serde_json::{Value, json};

use super::call_errors::error_response;
use super::client_channel::{ClientHandle, NotificationFilter};
use super::list_changes::{OfferedLists, Subscribed, Watcher, notify_listener};
use super::log_level::LogThreshold;
use super::rmcp_types::{
    RmcpResult, cancelled, declined, era, first_page, internal, items, parsed, refused, severity,
    wants_input, with_meta,
};
use super::started_call::{CallHandover, Epoch, OwnedCall, StartedCall};
use super::target::McpTarget;
use super::tool_access::ToolAccess;
use crate::app::App;
use crate::{error, traces};

/// The MCP server that a client is connected to.
pub(super) struct ToolboxHandler {
    app: Arc<App>,
    target: McpTarget,
    /// The target when the client connected.
    access: ToolAccess,
    info: OnceLock<ServerConfig>,
    level: LogThreshold,
    subscribed: Subscribed,
    /// What was offered before the client could ask: it is notified of what changes from then on.
    offer: Mutex<Option<OfferedLists>>,
    watcher: Mutex<Option<Watcher>>,
}

/// The most resources that one client subscribes to.
const MAX_SUBSCRIPTIONS: usize = 1024;
/// The longest URI of one of them, in bytes.
const MAX_SUBSCRIBED_URI_BYTES: usize = 8 << 10;

/// Methods with parameters that a request can get wrong.
const METHODS_WITH_PARAMS: [&str; 9] = [
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
];

/// Those of them that 2026-07-28 has no more.
const HANDSHAKE_METHODS: [&str; 2] = ["resources/subscribe", "resources/unsubscribe"];

impl ToolboxHandler {
    pub(super) async fn new(
        app: &Arc<App>,
        target: McpTarget,
        level: LogThreshold,
    ) -> Result<Arc<Self>, Failure> {
        let access = ToolAccess::of(app, &target).await?;
        Ok(Arc::new(ToolboxHandler {
            app: Arc::clone(app),
            target,
            access,
            info: OnceLock::new(),
            level,
            subscribed: Arc::default(),
            offer: Mutex::default(),
            watcher: Mutex::default(),
        }))
    }

    /// The present target, with its lists known.
    async fn access(&self) -> RmcpResult<ToolAccess> {
        let access =
            ToolAccess::of(&self.app, &self.target).await.map_err(|failure| refused(error::rpc(&failure)))?;
        access.settled().await;
        Ok(access)
    }

    fn remember(&self, offer: OfferedLists) {
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer);
    }

    fn remembered(&self) -> Option<OfferedLists> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn extras(
        &self,
        request: Option<PaginatedRequestParams>,
        of: fn(&Offered) -> bool,
    ) -> RmcpResult<ResourcesAndPrompts> {
        first_page(request)?;
        let declared = of(&self.access.toolbox().offers(Principal::Agent));
        let access = self.access().await?;
        match declared || of(&access.toolbox().offers(Principal::Agent)) {
            true => Ok(access.toolbox().extras(Principal::Agent)),
            false => {
                Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "nothing of that kind is offered here", None))
            }
        }
    }

    async fn request<T: Serialize>(
        &self,
        method: &str,
        params: &T,
        context: &RequestContext<RoleServer>,
    ) -> RmcpResult<Value> {
        let parameters = with_meta(params, &context.meta)?;
        let access = self.access().await?;
        let answer = tokio::select! {
            biased;
            () = context.ct.cancelled() => return Err(cancelled()),
            answer = access.request(method, &parameters) => answer.map_err(declined)?,
        };
        let mut answer: Value = serde_json::from_str(answer.get()).map_err(internal)?;
        if let Some(answer) = answer.as_object_mut() {
            // rmcp takes it off again for clients that do not know it.
            answer.entry("resultType").or_insert_with(|| "complete".into());
        }
        Ok(answer)
    }

    fn declared(&self) -> ServerConfig {
        let offered = self.access.toolbox().offers(Principal::Agent);
        let mut capabilities = json!({ "logging": {}, "tools": { "listChanged": true } });
        if offered.prompts {
            capabilities["prompts"] = json!({ "listChanged": true });
        }
        if offered.resources {
            capabilities["resources"] = json!({ "listChanged": true, "subscribe": true });
        }
        if offered.prompts || offered.templates {
            capabilities["completions"] = json!({});
        }
        let capabilities: ServerCapabilities = serde_json::from_value(capabilities).unwrap_or_default();
        let spec = self.app.store.spec();
        let me = Implementation::new("oxenv", env!("CARGO_PKG_VERSION")).with_title(spec.title.clone());
        ServerConfig::new(capabilities).with_server_info(me).with_instructions(spec.description.clone())
    }

    /// Refuses a subscription that is one too many, or whose URI is too long to be kept.
    fn room_for(&self, uri: &str) -> RmcpResult<()> {
        let subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        let message = if uri.len() > MAX_SUBSCRIBED_URI_BYTES {
            format!("a resource is subscribed to by a URI of at most {MAX_SUBSCRIBED_URI_BYTES} bytes")
        } else if subscribed.len() >= MAX_SUBSCRIPTIONS && !subscribed.contains(uri) {
            format!("a client has at most {MAX_SUBSCRIPTIONS} subscriptions; unsubscribe from some")
        } else {
            return Ok(());
        };
        Err(ErrorData::new(ErrorCode::INVALID_PARAMS, message, None))
    }

    async fn begin(
        &self,
        params: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> RmcpResult<StartedCall> {
        let text = |text: RawJson| Bytes::from(String::from(Box::<str>::from(text)));
        let arguments = params.arguments.as_ref().map(raw).transpose().map_err(internal)?;
        let parts = context.extensions.get::<Parts>();
        let epoch = parts.and_then(|parts| parts.extensions.get::<Epoch>()).and_then(|epoch| epoch.0);
        let trace = parts.and_then(|parts| traces::of_meta(&self.app, &context.meta, &parts.headers));
        let level = match era(context) {
            McpEra::Stateless => context.meta.log_level().map(severity),
            McpEra::Handshake => Some(self.level.get()),
        };
        let wants = NotificationFilter { progress: context.meta.get_progress_token(), level };
        let asked = OwnedCall {
            access: self.access().await?,
            name: params.name.to_string(),
            arguments: arguments.map(text),
            request: Some(text(with_meta(params, &context.meta)?)),
            epoch,
            trace,
        };
        Ok(StartedCall::new(asked, wants))
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
    ) -> RmcpResult<InitializeResult> {
        let access = self.access().await?;
        self.remember(OfferedLists::of(access.toolbox()));
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> RmcpResult<DiscoverResult> {
        self.access().await?;
        let versions: Vec<ProtocolVersion> = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.declared()))
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let watcher = Watcher::spawn(
            Arc::clone(&self.app),
            self.target.clone(),
            Arc::clone(&self.subscribed),
            context.peer,
            self.remembered(),
        );
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> RmcpResult<ListToolsResult> {
        first_page(request)?;
        let listing = self.access().await?.toolbox().listing(Principal::Agent, ToolSpelling::Mcp);
        Ok(ListToolsResult::with_all_items(items(serde_json::from_str(&listing).map_err(internal)?)))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools = self.access.toolbox().tools(Principal::Agent);
        let tool = tools.iter().find(|tool| tool.name == name)?;
        serde_json::from_str(tool.for_mcp().get()).ok()
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<CallToolResponse> {
        let parts = context.extensions.get::<Parts>();
        let handed =
            parts.and_then(|parts| parts.extensions.get::<CallHandover>()).and_then(CallHandover::take);
        let started = match handed {
            Some(started) => started,
            None => self.begin(&params, &context).await?,
        };
        let era = era(&context);
        let capabilities = context.client_capabilities().unwrap_or_default();
        let declared = || serde_json::to_value(&capabilities).unwrap_or_default();
        let client = ClientHandle { peer: context.peer.clone(), capabilities: capabilities.clone(), era };
        let outcome = tokio::select! {
            biased;
            () = context.ct.cancelled() => return Err(cancelled()),
            outcome = started.finish(client) => error_response(outcome, era, declared).map_err(refused)?,
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
    ) -> RmcpResult<ListResourcesResult> {
        let extras = self.extras(request, |offered| offered.resources).await?;
        Ok(ListResourcesResult::with_all_items(items(extras.resources)))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> RmcpResult<ListResourceTemplatesResult> {
        let extras = self.extras(request, |offered| offered.resources).await?;
        Ok(ListResourceTemplatesResult::with_all_items(items(extras.templates)))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> RmcpResult<ListPromptsResult> {
        let extras = self.extras(request, |offered| offered.prompts).await?;
        Ok(ListPromptsResult::with_all_items(items(extras.prompts)))
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<ReadResourceResponse> {
        match self.request("resources/read", &params, &context).await? {
            answer if wants_input(&answer) => parsed(answer).map(ReadResourceResponse::InputRequired),
            answer => parsed(answer).map(ReadResourceResponse::Complete),
        }
    }

    async fn get_prompt(
        &self,
        params: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<GetPromptResponse> {
        match self.request("prompts/get", &params, &context).await? {
            answer if wants_input(&answer) => parsed(answer).map(GetPromptResponse::InputRequired),
            answer => parsed(answer).map(GetPromptResponse::Complete),
        }
    }

    async fn complete(
        &self,
        params: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<CompleteResult> {
        parsed(self.request("completion/complete", &params, &context).await?)
    }

    #[expect(deprecated, reason = "the log is part of every revision so far")]
    async fn set_level(
        &self,
        params: rmcp::model::SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> RmcpResult<()> {
        self.level.set(severity(params.level));
        Ok(())
    }

    async fn subscribe(
        &self,
        params: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<()> {
        self.room_for(&params.uri)?;
        match self.request("resources/subscribe", &params, &context).await {
            // A toolset without subscriptions still reports when something has changed.
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
    ) -> RmcpResult<()> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).remove(&params.uri);
        match self.request("resources/unsubscribe", &params, &context).await {
            Err(error) if error.code != ErrorCode::METHOD_NOT_FOUND => Err(error),
            _ => Ok(()),
        }
    }

    /// rmcp takes a request that it cannot read for one of a method that it does not know.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> RmcpResult<CustomResult> {
        let method = request.method;
        let gone = era(&context) == McpEra::Stateless && HANDSHAKE_METHODS.contains(&method.as_str());
        Err(match METHODS_WITH_PARAMS.contains(&method.as_str()) && !gone {
            true => {
                let message = format!("Invalid params - they are not as {method} has them");
                ErrorData::new(ErrorCode::INVALID_PARAMS, message, None)
            }
            false => ErrorData::new(
                ErrorCode::METHOD_NOT_FOUND,
                format!("Method not found: {}", preview(&method)),
                None,
            ),
        })
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.remember(OfferedLists::of(self.access.toolbox()));
        let mut accepted = requested.clone();
        if let Some(uris) = &mut accepted.resource_subscriptions {
            uris.retain(|uri| uri.len() <= MAX_SUBSCRIBED_URI_BYTES);
            uris.truncate(MAX_SUBSCRIPTIONS);
            uris.shrink_to_fit();
        }
        Some(accepted)
    }

    async fn listen(&self, context: SubscriptionContext) -> RmcpResult<()> {
        tokio::select! {
            () = context.cancelled() => {}
            () = self.app.stopping.cancelled() => {}
            () = notify_listener(&self.app, &self.target, context.sink(), self.remembered()) => {}
        }
        Ok(())
    }
}
