//! An upstream as a toolset: for one session, or for calls without one.
//!
//! Invariant: a call is sent to one instance, once; dropping the toolset ends the session's instance.

use std::borrow::Cow;
use std::sync::Arc;

use oxenv_core::{
    CallContext, ChangeCounter, EpisodeSeeds, Failure, ForkMode, RequestError, ResourcesAndPrompts, Scope,
    Toolset, Work,
};
use oxenv_wire::{ErrorCode, Phase, RawJson, RpcCode, Tool, ToolError, ToolResult, exceeds_values};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::episodes::EpisodeSlots;
use super::instance::Instance;
use super::slot::InstanceSlot;
use super::upstream::Upstream;
use super::watchers::Watchers;
use super::workspace_paths::WorkspacePaths;
use crate::client::{Lists, RawRequest, UpstreamError, tool_result};
use crate::manifest::{OnReset, Transport};

/// Requests beside tool calls that are passed on.
const FORWARDED_METHODS: [&str; 5] =
    ["resources/read", "prompts/get", "completion/complete", "resources/subscribe", "resources/unsubscribe"];
/// Metadata keys that a door's connection has agreed on; a server has its own agreement with us.
const CONNECTION_META_KEYS: [&str; 5] = [
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/subscriptionId",
];

/// Maximum number of values of a caller's metadata, which is built before it is passed on.
const MAX_META_VALUES: usize = 1 << 12;

/// An upstream as a toolset.
pub(super) struct UpstreamToolset {
    upstream: Arc<Upstream>,
    /// Where its instances are; nothing for the toolset of a session when there is no session.
    slots: Option<Arc<EpisodeSlots>>,
    watchers: Arc<Watchers>,
    /// Set where the session's agents know its folder by another path.
    view: Option<WorkspacePaths>,
}

/// The parameters of a call at our door.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct CallParameters<'a> {
    #[serde(rename = "_meta", borrow, default)]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input_responses: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_state: Option<&'a RawValue>,
}

impl UpstreamToolset {
    /// The toolset of an upstream whose instances are in those slots.
    pub(super) fn new(
        upstream: Arc<Upstream>,
        slots: Option<Arc<EpisodeSlots>>,
        watchers: Arc<Watchers>,
        view: Option<WorkspacePaths>,
    ) -> Self {
        upstream.handles.add(&watchers);
        UpstreamToolset { upstream, slots, watchers, view }
    }

    fn inward<'a>(&self, json: &'a RawValue) -> Cow<'a, RawValue> {
        self.view.as_ref().map_or(Cow::Borrowed(json), |view| view.inward(json))
    }

    fn outward(&self, text: String) -> String {
        match &self.view {
            Some(view) => view.outward(text),
            None => text,
        }
    }

    fn is_per_session(&self) -> bool {
        self.scope() == Scope::Session
    }

    fn lists(&self) -> Option<Lists> {
        self.slot().and_then(|slot| slot.lists()).or_else(|| self.upstream.known())
    }

    /// The slot of the present episode.
    fn slot(&self) -> Option<Arc<InstanceSlot>> {
        self.slots.as_ref().map(|slots| slots.present())
    }

    /// The instance that a request is for, started if need be.
    async fn instance(&self) -> Result<Arc<Instance>, UpstreamError> {
        let scope = self.upstream.scope_found().await?;
        let within = |slots: &&Arc<EpisodeSlots>| scope == Scope::Server || slots.are_of_session();
        let slots = self.slots.as_ref().filter(within).ok_or_else(|| {
            UpstreamError::Unavailable("each session has its own; call it within a session".to_owned())
        })?;
        let instance = slots.present().instance().await?;
        slots.used();
        Ok(instance)
    }

    /// Waits for the first lists. Some servers start in the session's own place only, such as one
    /// whose workspace must hold a repository: then the session's instance lists them.
    async fn first_lists(&self) {
        self.upstream.settled().await;
        let own = self.slot().filter(|_| self.is_per_session() && self.lists().is_none());
        if let Some(slot) = own
            && let Ok(instance) = slot.instance().await
            && let Ok(lists) = instance.first_lists().await
        {
            slot.lists_arrived(Ok(lists));
        }
    }

    async fn call_tool(
        &self,
        context: CallContext<'_>,
        tool: &str,
        arguments: Option<&RawValue>,
    ) -> Result<ToolResult, ToolError> {
        let lists = self.lists();
        let listed = lists.as_ref().and_then(|lists| lists.tool(tool));
        if lists.is_some() && listed.is_none() {
            return Err(ToolError::not_found(tool));
        }
        let output_schema = listed.and_then(|tool| tool.output_schema.as_ref());
        let arguments = arguments.map(|arguments| self.inward(arguments));
        let outcome = async {
            let instance = self.instance().await?;
            let request = call_request(context, tool, arguments.as_deref())?;
            let text = self.outward(instance.request(request, context.caller).await?);
            tool_result(&text, output_schema)
        };
        outcome.await.map_err(|fault| {
            let error = fault.into_tool_error(self.name());
            ToolError { message: self.outward(error.message), ..error }
        })
    }

    async fn pass_on(
        &self,
        context: CallContext<'_>,
        method: &str,
        parameters: &RawValue,
    ) -> Result<RawJson, RequestError> {
        if !FORWARDED_METHODS.contains(&method) {
            return Err(RequestError::new(RpcCode::MethodNotFound, format!("Method not found: {method}")));
        }
        let parameters = self.inward(parameters);
        let request = passed_request(method, &parameters)?;
        let outcome = async {
            let instance = self.instance().await?;
            let text = self.outward(instance.request(request, context.caller).await?);
            let garbage = |error| UpstreamError::Lost(format!("its answer cannot be read: {error}"));
            RawValue::from_string(text).map_err(garbage)
        };
        outcome.await.map_err(|fault| fault.into_request_fault(self.name()))
    }

    /// The slots that a reset of the session begins anew: the one that all sessions share is no session's to
    /// restart.
    fn restarted(&self) -> Option<&Arc<EpisodeSlots>> {
        let restarts = matches!(self.upstream.entry.on_reset, OnReset::Restart) && self.is_per_session();
        self.slots.as_ref().filter(|_| restarts)
    }

    /// Does what a reset of the session asks for. An instance that was never started is as new.
    async fn make_ready(&self) -> Result<(), Failure> {
        let Some(slots) = &self.slots else { return Ok(()) };
        match &self.upstream.entry.on_reset {
            OnReset::Keep => Ok(()),
            OnReset::Restart => {
                if let Some(slots) = self.restarted() {
                    slots.begin_if_eager();
                }
                Ok(())
            }
            OnReset::Call(_) if slots.present().running().is_none() && self.is_per_session() => Ok(()),
            OnReset::Call(tool) => {
                let context = CallContext::sessionless(oxenv_core::Principal::Control);
                let limit = self.upstream.entry.timeout;
                let why = match timeout(limit, self.call_tool(context, tool, None)).await {
                    Ok(Ok(result)) if !result.is_error => return Ok(()),
                    Ok(Ok(result)) => result.text(),
                    Ok(Err(error)) => error.message,
                    Err(_) => format!("it did not answer within {} s", limit.as_secs_f64()),
                };
                let says =
                    format!("toolset '{}' could not be reset by its tool '{tool}': {why}", self.name());
                Err(Failure::new(ErrorCode::ExecutionError, says).in_phase(Phase::Reset))
            }
        }
    }
}

impl Toolset for UpstreamToolset {
    fn name(&self) -> &str {
        &self.upstream.entry.name
    }

    fn list(&self) -> Arc<[Tool]> {
        self.lists().map(|lists| lists.tools).unwrap_or_default()
    }

    fn ready(&self) -> Work<'_, ()> {
        if self.upstream.is_settled() && self.lists().is_some() {
            return Work::done(());
        }
        match (self.slot(), self.upstream.scope()) {
            (Some(slot), Some(Scope::Server)) => slot.begin(),
            _ => self.upstream.discover(),
        }
        Work::pending(self.first_lists())
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.watchers.add(changes);
    }

    fn problem(&self) -> Option<String> {
        let problem = match self.slot() {
            Some(slot) if slot.running().is_some() => slot.problem(),
            Some(slot) => slot.problem().or_else(|| self.upstream.problem()),
            None => self.upstream.problem(),
        };
        problem.map(|problem| self.outward(problem))
    }

    fn scope(&self) -> Scope {
        self.upstream.scope().unwrap_or(self.upstream.entry.scope)
    }

    fn concurrent(&self) -> bool {
        // The worker of a Python file runs one function at a time.
        !matches!(self.upstream.entry.transport, Transport::Python { .. })
    }

    fn fork(&self) -> ForkMode {
        self.upstream.entry.on_fork
    }

    fn end_episode(&self, seeds: EpisodeSeeds) -> Work<'_, ()> {
        match self.restarted() {
            Some(slots) => Work::pending(slots.restart(seeds)),
            None => Work::done(()),
        }
    }

    fn reset(&self, _seeds: EpisodeSeeds) -> Work<'_, Result<(), Failure>> {
        match self.upstream.entry.on_reset {
            OnReset::Keep => Work::done(Ok(())),
            _ => Work::pending(self.make_ready()),
        }
    }

    fn close(&self) {
        if let Some(slots) = &self.slots {
            slots.close();
        }
    }

    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(self.call_tool(context, tool, arguments))
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        self.lists().map(|lists| lists.extras).unwrap_or_default()
    }

    fn request<'a>(
        &'a self,
        context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        Work::pending(self.pass_on(context, method, parameters))
    }
}

impl Drop for UpstreamToolset {
    fn drop(&mut self) {
        self.close();
    }
}

/// A call as its server gets it.
fn call_request<'a>(
    context: CallContext<'_>,
    tool: &str,
    arguments: Option<&RawValue>,
) -> Result<RawRequest<'a>, UpstreamError> {
    let given = context.request.map(|request| serde_json::from_str::<CallParameters<'_>>(request.get()));
    let given = given.and_then(Result::ok).unwrap_or_default();
    let name = oxenv_wire::raw(tool).unwrap_or_default();
    let mut parameters = format!(r#"{{"name":{name}"#);
    let fields = [
        ("arguments", arguments),
        ("inputResponses", given.input_responses),
        ("requestState", given.request_state),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            parameters.extend([",\"", key, "\":", value.get()]);
        }
    }
    parameters.push('}');
    let broken = |error| UpstreamError::Unavailable(format!("the call cannot be written: {error}"));
    let parameters = RawValue::from_string(parameters).map_err(broken)?;
    let meta = passed_meta(given.meta).map_err(UpstreamError::Refused)?;
    Ok(RawRequest { method: "tools/call", parameters, meta })
}

/// A request beside tool calls as its server gets it.
fn passed_request<'a>(method: &'a str, parameters: &RawValue) -> Result<RawRequest<'a>, RequestError> {
    let wrong =
        |error: serde_json::Error| RequestError::new(RpcCode::InvalidParams, format!("{method}: {error}"));
    let mut fields: Vec<(Cow<'_, str>, &RawValue)> = oxenv_wire::Object::from_raw(parameters)
        .map_err(|_| {
            RequestError::new(RpcCode::InvalidParams, format!("{method}: the parameters are no object"))
        })?
        .iter()
        .map(|(key, value)| (key.to_owned().into(), value.raw()))
        .collect();
    let at = fields.iter().position(|(key, _)| key == "_meta");
    let meta = passed_meta(at.map(|at| fields.remove(at).1))?;
    let mut text = String::from("{");
    for (index, (key, value)) in fields.iter().enumerate() {
        let key = oxenv_wire::raw(key).map_err(wrong)?;
        text.extend([if index > 0 { "," } else { "" }, key.get(), ":", value.get()]);
    }
    text.push('}');
    let parameters = RawValue::from_string(text).map_err(wrong)?;
    Ok(RawRequest { method, parameters, meta })
}

/// Metadata of a caller that means its request, not its connection.
fn passed_meta(meta: Option<&RawValue>) -> Result<Map<String, Value>, RequestError> {
    let Some(meta) = meta else { return Ok(Map::new()) };
    if exceeds_values(meta.get(), MAX_META_VALUES) {
        let message = format!("Invalid params - _meta has more than {MAX_META_VALUES} values");
        return Err(RequestError::new(RpcCode::InvalidParams, message));
    }
    let mut meta: Map<String, Value> = serde_json::from_str(meta.get()).unwrap_or_default();
    meta.retain(|key, _| !CONNECTION_META_KEYS.contains(&key.as_str()));
    Ok(meta)
}
