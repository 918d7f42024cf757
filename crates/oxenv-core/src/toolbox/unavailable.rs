//! The error for an unknown name while a toolset that may have it does not work.
//!
//! Invariant: a name is called unknown only if every toolset that could offer it has listed what it
//! has.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use oxenv_wire::{ErrorCode, ToolError, ToolErrorType, preview};

use super::mount::{Mount, Naming};
use super::resources_and_prompts::request_fault;
use super::{Toolbox, shortened};
use crate::policy::Verdict;
use crate::principal::Principal;
use crate::toolset::RequestError;

/// A toolset that has not listed what it offers, and why.
struct Silent<'a> {
    mount: &'a Mount,
    why: String,
}

impl Toolbox {
    /// Why a tool that no toolset offers cannot be called.
    pub(super) fn not_offered(&self, role: Principal, tool: &str) -> ToolError {
        let silent = self.unavailable_toolsets();
        let by_prefix: Vec<&Silent<'_>> = silent
            .iter()
            .filter(|silent| own_name(silent.mount, tool).is_some_and(|own| allows(silent.mount, role, own)))
            .collect();
        if !by_prefix.is_empty() {
            return unavailable(describe(&by_prefix));
        }
        if self.mounts.iter().any(|mount| own_name(mount, tool).is_some()) {
            return ToolError::not_found(tool);
        }
        let possible = silent
            .iter()
            .filter(|silent| silent.mount.naming != Naming::PrefixAlways && allows(silent.mount, role, tool));
        let possible: Vec<&Silent<'_>> = possible.collect();
        match possible.is_empty() {
            true => ToolError::not_found(tool),
            false => unavailable(format!(
                "tool '{}' is not offered at present: {}",
                preview(tool),
                describe(&possible)
            )),
        }
    }

    /// Why a resource or a prompt that no toolset offers is not available: that it does not exist, unless a
    /// toolset has not listed what it offers.
    pub(super) fn unknown_item(&self, role: Principal, what: &str, missing: RequestError) -> RequestError {
        let silent = self.unavailable_toolsets();
        let possible: Vec<&Silent<'_>> =
            silent.iter().filter(|silent| allows(silent.mount, role, what)).collect();
        if possible.is_empty() {
            return missing;
        }
        request_fault(unavailable(format!("{}, but {}", missing.message, describe(&possible))))
    }

    fn unavailable_toolsets(&self) -> Vec<Silent<'_>> {
        self.mounts
            .iter()
            .filter_map(|mount| Some(Silent { mount, why: unavailable_reason(mount)? }))
            .collect()
    }
}

/// Why a toolset has not listed what it offers; nothing if it has. Asking lets it try again in the
/// background.
fn unavailable_reason(mount: &Mount) -> Option<String> {
    let toolset = &mount.toolset;
    let extras = toolset.extras();
    let told_extras = [&extras.resources, &extras.templates, &extras.prompts];
    if !toolset.list().is_empty() || told_extras.iter().any(|items| !items.is_empty()) {
        return None;
    }
    let problem = toolset.problem();
    let ready = pin!(toolset.ready()).poll(&mut Context::from_waker(Waker::noop()));
    match (problem, ready) {
        (Some(problem), _) => Some(problem),
        (None, Poll::Pending) => Some("its list of tools has not come yet".to_owned()),
        (None, Poll::Ready(())) => None,
    }
}

/// The name that the toolset would have for a tool that is offered with its prefix.
fn own_name<'t>(mount: &Mount, tool: &'t str) -> Option<&'t str> {
    tool.strip_prefix(mount.prefix())?.strip_prefix("__").filter(|own| !own.is_empty())
}

fn allows(mount: &Mount, role: Principal, own: &str) -> bool {
    matches!(mount.policy.verdict(role, own), Verdict::Allowed)
}

fn describe(silent: &[&Silent<'_>]) -> String {
    let problems = silent.iter().map(|silent| {
        let name = silent.mount.toolset.name();
        format!("toolset '{name}' is not available: {}", shortened(silent.why.clone()))
    });
    problems.collect::<Vec<_>>().join("; ")
}

fn unavailable(message: String) -> ToolError {
    ToolError::new(ToolErrorType::TransportError, message).with_code(ErrorCode::UpstreamUnavailable)
}
