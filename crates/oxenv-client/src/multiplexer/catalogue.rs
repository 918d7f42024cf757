//! What all endpoints offer, at one time: the owner map.
//!
//! Invariant: it never changes; another takes its place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use oxenv_upstream::remote::RemoteError;
use oxenv_wire::Tool;
use serde_json::Value;

use super::{Conflict, EndpointReport, ToolListing, endpoint_error};
use crate::arguments::ArgumentChecker;

/// What one endpoint offers.
#[derive(Clone)]
pub(super) struct EndpointTools {
    pub(super) url: Arc<str>,
    /// Its tools; nothing if it could never be listed.
    pub(super) tools: Option<Arc<[Tool]>>,
    /// Why it could not be listed this time.
    pub(super) fault: Option<RemoteError>,
    /// Whether it may be absent.
    pub(super) optional: bool,
    /// The count of its changes that the list holds.
    pub(super) changes: u64,
}

/// The owner map, and what it was made of.
pub(super) struct OwnerMap {
    pub(super) endpoints: Vec<EndpointTools>,
    owners: HashMap<Cow<'static, str>, OwnedTool>,
    conflicts: Vec<Conflict>,
    /// The count of all changes that the lists hold.
    pub(super) changes: u64,
}

/// A tool and its owner.
pub(super) struct OwnedTool {
    /// The number of the endpoint.
    pub(super) endpoint: usize,
    /// The number of the tool in its list.
    position: usize,
    pub(super) argument_checker: Arc<ArgumentChecker>,
}

impl EndpointTools {
    /// Whether the endpoint reported an empty list.
    fn is_absent(&self) -> bool {
        use oxenv_upstream::remote::RemoteErrorKind::Status;
        self.fault.as_ref().is_some_and(|fault| fault.kind == Status(404))
    }

    /// Whether it is as it must be where all are demanded.
    pub(super) fn is_usable(&self) -> bool {
        self.fault.is_none() || (self.optional && self.is_absent())
    }

    fn report(&self) -> EndpointReport {
        let fault = self.fault.as_ref().filter(|_| !self.is_usable());
        EndpointReport {
            url: self.url.as_ref().to_owned(),
            tools: self.tools.as_ref().map_or(0, |tools| tools.len()),
            error: fault.map(|fault| fault.message.clone()),
            code: fault.map(endpoint_error::error_code),
            absent: self.is_absent(),
        }
    }
}

impl OwnerMap {
    /// The owner map over these endpoints; of tools of one name, the first endpoint's counts.
    pub(super) fn new(parts: Vec<EndpointTools>, changes: u64) -> Self {
        let mut owners: HashMap<Cow<'static, str>, OwnedTool> = HashMap::new();
        let mut conflicts: Vec<Conflict> = Vec::new();
        // Where the conflict about a name stands.
        let mut places: HashMap<Cow<'static, str>, usize> = HashMap::new();
        for (endpoint, part) in parts.iter().enumerate() {
            for (position, tool) in part.tools.iter().flat_map(|tools| tools.iter()).enumerate() {
                let Some(owner) = owners.get(&tool.name) else {
                    let arguments = Arc::new(ArgumentChecker::new(&tool.input_schema));
                    owners.insert(
                        tool.name.clone(),
                        OwnedTool { endpoint, position, argument_checker: arguments },
                    );
                    continue;
                };
                let url = part.url.as_ref().to_owned();
                match places.get(&tool.name) {
                    Some(place) => conflicts[*place].shadowed.push(url),
                    None => {
                        places.insert(tool.name.clone(), conflicts.len());
                        conflicts.push(Conflict {
                            name: tool.name.clone().into_owned(),
                            owner: parts[owner.endpoint].url.as_ref().to_owned(),
                            shadowed: vec![url],
                        });
                    }
                }
            }
        }
        OwnerMap { endpoints: parts, owners, conflicts, changes }
    }

    /// The owner of a tool.
    pub(super) fn owner(&self, tool: &str) -> Option<&OwnedTool> {
        self.owners.get(tool)
    }

    /// The schema that a tool's server declared for its results.
    pub(super) fn output_schema(&self, owned: &OwnedTool) -> Option<&Value> {
        let tools = self.endpoints[owned.endpoint].tools.as_ref()?;
        tools.get(owned.position)?.output_schema.as_ref()
    }

    /// How each endpoint is.
    pub(super) fn reports(&self) -> Vec<EndpointReport> {
        self.endpoints.iter().map(EndpointTools::report).collect()
    }

    /// Whether all are as they must be.
    pub(super) fn all_usable(&self) -> bool {
        self.endpoints.iter().all(EndpointTools::is_usable)
    }

    /// Whether none has any list.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.iter().all(|part| part.tools.is_none())
    }

    /// All of it for a caller.
    pub(super) fn listing(&self) -> ToolListing {
        let mut tools = Vec::with_capacity(self.owners.len());
        for (endpoint, part) in self.endpoints.iter().enumerate() {
            // A server's own list has each name once.
            let own = part.tools.iter().flat_map(|tools| tools.iter());
            tools.extend(
                own.filter(|tool| self.owner(&tool.name).is_some_and(|owner| owner.endpoint == endpoint))
                    .cloned(),
            );
        }
        ToolListing { tools, conflicts: self.conflicts.clone(), endpoints: self.reports() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    fn part(url: &str, tools: usize) -> EndpointTools {
        let tool = |number: usize| Tool {
            name: format!("tool{number}").into(),
            title: None,
            description: String::new(),
            input_schema: json!({}),
            output_schema: None,
            annotations: None,
            meta: None,
        };
        let tools = Some((0..tools).map(tool).collect());
        EndpointTools { url: url.into(), tools, fault: None, optional: false, changes: 0 }
    }

    /// Lists are as long as their servers make them; every conflict of every tool took minutes.
    #[test]
    fn long_lists_in_conflict_take_no_longer_than_others() {
        const TOOLS: usize = 50_000;
        let began = Instant::now();
        let catalogue = OwnerMap::new(vec![part("a", TOOLS), part("b", TOOLS), part("c", TOOLS)], 0);
        let listing = catalogue.listing();
        assert_eq!((listing.tools.len(), listing.conflicts.len()), (TOOLS, TOOLS));
        let last = &listing.conflicts[TOOLS - 1];
        assert_eq!(
            (last.owner.as_str(), last.shadowed.as_slice()),
            ("a", &["b".to_owned(), "c".to_owned()][..])
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
