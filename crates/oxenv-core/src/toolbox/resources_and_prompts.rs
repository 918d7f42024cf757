//! Resources and prompts of the toolsets: their union, and which toolset answers a request for one.
//!
//! Invariant: a prompt's name and a resource's URI have one owner, the first toolset in order; a
//! prompt whose name is taken carries its toolset's prefix, as tools do.
//!
//! Policy knows them by the names `resources` and `prompts`: a toolset that allows only some names
//! must allow these too, or they are not offered.

use std::collections::HashSet;
use std::sync::Arc;

use oxenv_wire::{RawJson, RpcCode, ToolError};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::audit_record::Recording;
use super::mount::Mount;
use super::request::CallRequest;
use super::{Toolbox, contained};
use crate::audit::Decision;
use crate::policy::Verdict;
use crate::principal::Principal;
use crate::toolset::{CallContext, RequestError, ResourcesAndPrompts};

/// JSON-RPC's number for parameters that are wrong, which MCP uses for unknown prompts as well.
const INVALID_PARAMS: i32 = RpcCode::InvalidParams as i32;
/// MCP's number for a resource that does not exist.
const RESOURCE_NOT_FOUND: i32 = RpcCode::ResourceNotFound as i32;

/// JSON-RPC's number for a fault of the server.
const INTERNAL_ERROR: i32 = RpcCode::InternalError as i32;

/// A prompt under the name that it is offered by.
struct OfferedPrompt<'a> {
    mount: &'a Mount,
    /// The name that its toolset knows it by.
    own: String,
    prompt: Value,
}

/// Which kinds of things a toolbox offers beside tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offered {
    /// Resources, or templates of their addresses.
    pub resources: bool,
    /// Templates of resources' addresses.
    pub templates: bool,
    /// Prompts.
    pub prompts: bool,
}

impl Toolbox {
    /// Which kinds of things a caller may see, without making a list of them.
    #[must_use]
    pub fn offers(&self, principal: Principal) -> Offered {
        let mut offered = Offered::default();
        for mount in &self.mounts {
            let own = mount.toolset.extras();
            if allowed(mount, principal, "resources") {
                offered.resources |= !own.resources.is_empty() || !own.templates.is_empty();
                offered.templates |= !own.templates.is_empty();
            }
            if allowed(mount, principal, "prompts") {
                offered.prompts |= own.prompts.iter().any(|prompt| prompt["name"].is_string());
            }
        }
        offered
    }

    /// Resources, templates and prompts that a caller may see.
    #[must_use]
    pub fn extras(&self, principal: Principal) -> ResourcesAndPrompts {
        let mut union = ResourcesAndPrompts::default();
        let own: Vec<Arc<ResourcesAndPrompts>> =
            self.mounts.iter().map(|mount| mount.toolset.extras()).collect();
        let mut taken: HashSet<&str> = HashSet::new();
        for (mount, own) in self.mounts.iter().zip(&own) {
            if allowed(mount, principal, "resources") {
                // Resources of one toolset do not hide each other.
                let fresh = own.resources.iter().filter(|item| !taken.contains(uri(item)));
                union.resources.extend(fresh.cloned());
                taken.extend(own.resources.iter().map(uri));
                union.templates.extend(own.templates.iter().cloned());
            }
        }
        union.prompts = self.prompts(principal).into_iter().map(|offered| offered.prompt).collect();
        union
    }

    /// Answers a request about a resource or a prompt: `resources/read`, `resources/subscribe`,
    /// `resources/unsubscribe`, `prompts/get`, `completion/complete`. Dropping the future cancels it.
    ///
    /// # Errors
    /// JSON-RPC's: `-32602` for a prompt, `-32002` for a resource that no toolset offers, `-32601`
    /// for another method, `-32603` where the request cannot be audited, and whatever the owner
    /// answers.
    pub async fn request(
        &self,
        context: CallContext<'_>,
        method: &str,
        parameters: &RawValue,
    ) -> Result<RawJson, RequestError> {
        let asked = CallRequest::new(context, Some(parameters));
        let mut recording =
            Recording::begin(self.auditor.as_deref(), &asked, method).await.map_err(request_fault)?;
        // A toolset that has not started within the time limit of an answer has nothing.
        let _ = tokio::time::timeout(self.deadline, self.settled()).await;
        let answer = match self.addressee(context.principal, method, parameters) {
            Ok((mount, parameters)) => {
                recording.owned_by(mount.toolset.name(), method);
                self.request_owner(mount, context, method, &parameters).await
            }
            Err(fault) => {
                recording.refused(Decision::NotFound, None);
                Err(fault)
            }
        };
        recording.answered(&answer);
        answer
    }

    /// The request itself, held to its deadline, its panics contained.
    async fn request_owner(
        &self,
        mount: &Mount,
        context: CallContext<'_>,
        method: &str,
        parameters: &RawValue,
    ) -> Result<RawJson, RequestError> {
        let deadline = mount.deadline.unwrap_or(self.deadline);
        let work = contained(|| mount.toolset.request(context, method, parameters));
        let message = match tokio::time::timeout(deadline, work).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(panic)) => {
                tracing::error!(method, toolset = mount.toolset.name(), panic, "toolset panicked");
                format!("{method} panicked; its server's log says where")
            }
            Err(_) => format!("{method} was not answered within {} s", deadline.as_secs_f64()),
        };
        Err(RequestError::new(INTERNAL_ERROR, message))
    }

    /// The toolset that answers, and the parameters in its own names.
    fn addressee(
        &self,
        principal: Principal,
        method: &str,
        parameters: &RawValue,
    ) -> Result<(&Mount, RawJson), RequestError> {
        let mut parsed: Value = serde_json::from_str(parameters.get())
            .map_err(|error| RequestError::new(INVALID_PARAMS, format!("Invalid params - {error}")))?;
        let reference = &parsed["ref"];
        let (pointer, value) = match method {
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => ("/uri", &parsed["uri"]),
            "prompts/get" => ("/name", &parsed["name"]),
            "completion/complete" if reference["type"] == "ref/prompt" => ("/ref/name", &reference["name"]),
            "completion/complete" => ("/ref/uri", &reference["uri"]),
            _ => {
                return Err(RequestError::new(
                    RpcCode::MethodNotFound,
                    format!("Method not found: {method}"),
                ));
            }
        };
        let Some(wanted) = value.as_str() else {
            let message = format!(
                "Invalid params - '{}' is a string",
                pointer.trim_start_matches('/').replace('/', ".")
            );
            return Err(RequestError::new(INVALID_PARAMS, message));
        };
        if pointer.ends_with("uri") {
            let owner = self.resource_owner(principal, wanted);
            let missing = || RequestError {
                code: RESOURCE_NOT_FOUND,
                message: format!("Resource not found: {wanted}"),
                data: json!({ "uri": wanted }),
            };
            let owner = owner.ok_or_else(|| self.unknown_item(principal, "resources", missing()))?;
            return Ok((owner, parameters.to_owned()));
        }
        let offered = self.prompts(principal).into_iter().find(|offered| offered.prompt["name"] == wanted);
        let Some(OfferedPrompt { mount, own, .. }) = offered else {
            let missing = RequestError::new(INVALID_PARAMS, format!("Unknown prompt: '{wanted}'"));
            return Err(self.unknown_item(principal, "prompts", missing));
        };
        if own == wanted {
            return Ok((mount, parameters.to_owned()));
        }
        if let Some(name) = parsed.pointer_mut(pointer) {
            *name = own.into();
        }
        Ok((mount, to_raw_value(&parsed).unwrap_or_default()))
    }

    fn resource_owner(&self, principal: Principal, uri: &str) -> Option<&Mount> {
        let offering = || self.mounts.iter().filter(|mount| allowed(mount, principal, "resources"));
        let listed = |mount: &&Mount| mount.toolset.extras().resources.iter().any(|item| item["uri"] == uri);
        // A template's literal beginning identifies its toolset; what follows is for the owner to
        // judge.
        let templated = |mount: &&Mount| {
            mount.toolset.extras().templates.iter().any(|item| {
                let template = item["uriTemplate"].as_str().unwrap_or_default();
                template == uri || uri.starts_with(template.split('{').next().unwrap_or_default())
            })
        };
        offering().find(listed).or_else(|| offering().find(templated))
    }

    /// The prompts that a caller may see, under names of their own. One for which neither its own
    /// name nor the prefixed one is free is not offered.
    fn prompts(&self, principal: Principal) -> Vec<OfferedPrompt<'_>> {
        let mut offered: Vec<OfferedPrompt<'_>> = Vec::new();
        let mut taken: HashSet<String> = HashSet::new();
        for mount in self.mounts.iter().filter(|mount| allowed(mount, principal, "prompts")) {
            for prompt in &mount.toolset.extras().prompts {
                let Some(own) = prompt["name"].as_str() else { continue };
                let name = if taken.contains(own) { mount.prefixed(own) } else { own.to_owned() };
                if taken.insert(name.clone()) {
                    let (own, mut prompt) = (own.to_owned(), prompt.clone());
                    prompt["name"] = name.into();
                    offered.push(OfferedPrompt { mount, own, prompt });
                }
            }
        }
        offered
    }
}

/// The address that a resource is known by.
fn uri(resource: &Value) -> &str {
    resource["uri"].as_str().unwrap_or_default()
}

/// A tool error as the answer to a request that is not a call.
pub(super) fn request_fault(error: ToolError) -> RequestError {
    let data = json!({ "oxenv": error.data() });
    RequestError { code: INTERNAL_ERROR, message: error.message, data }
}

fn allowed(mount: &Mount, principal: Principal, what: &str) -> bool {
    matches!(mount.policy.verdict(principal, what), Verdict::Allowed)
}
