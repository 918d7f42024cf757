//! Which toolset owns which offered name, and everything that a call of it is checked against.
//!
//! Invariant: immutable. A changed list makes a new catalogue, which replaces the old one as a
//! whole, so a call sees one consistent set of names; sessions with the same lists share one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use oxenv_schema::{LazySchema, Schema, SchemaError};
use oxenv_wire::{RESERVED_TOOL_NAMES, RawJson, Tool, ToolSpelling};
use parking_lot::Mutex;
use serde_json::Value;

use super::mount::{Mount, Naming};
use crate::policy::Verdict;
use crate::principal::Principal;

/// What providers of models accept as the length of a tool's name.
const MAX_NAME: usize = 64;
/// Maximum number of references in the schemas of one toolset.
const MAX_REFERENCES: usize = 200_000;
const ROLES: [Principal; 3] = [Principal::Control, Principal::Agent, Principal::Observer];

/// The offered tools of a toolbox.
#[derive(Default)]
pub(super) struct Catalogue {
    sources: Vec<Arc<[Tool]>>,
    entries: Vec<CatalogueEntry>,
    index: HashMap<String, usize>,
    views: [RoleView; ROLES.len()],
    /// Tools that could not be offered, and why.
    problems: Vec<String>,
}

/// One offered tool.
pub(super) struct CatalogueEntry {
    /// The toolset: an index into the mounts.
    pub(super) mount: usize,
    /// The name that its toolset knows it by.
    pub(super) own: Cow<'static, str>,
    /// The tool under the name it is offered by.
    pub(super) tool: Tool,
    /// Per role, the rule that denies it.
    denied: [Option<String>; ROLES.len()],
    input: LazySchema,
    output: LazySchema,
}

/// What one role sees.
#[derive(Default)]
struct RoleView {
    tools: OnceLock<Arc<[Tool]>>,
    listings: [OnceLock<Arc<str>>; 4],
}

/// The last catalogue that sessions of one factory made, for the next one with the same lists.
#[derive(Default)]
pub struct CatalogueCache(Mutex<Option<Arc<Catalogue>>>);

impl CatalogueCache {
    /// The catalogue of these mounts, made only if the last one had other lists. All users of one
    /// cache have the same rules.
    pub(super) fn of(&self, mounts: &[Mount]) -> Arc<Catalogue> {
        let sources: Vec<Arc<[Tool]>> = mounts.iter().map(|mount| mount.toolset.list()).collect();
        let mut last = self.0.lock();
        match &*last {
            Some(catalogue) if catalogue.made_of(&sources) => Arc::clone(catalogue),
            _ => Arc::clone(last.insert(Arc::new(Catalogue::new(mounts, sources)))),
        }
    }
}

impl Catalogue {
    pub(super) fn of(mounts: &[Mount]) -> Self {
        Self::new(mounts, mounts.iter().map(|mount| mount.toolset.list()).collect())
    }

    fn new(mounts: &[Mount], sources: Vec<Arc<[Tool]>>) -> Self {
        let mut catalogue = Catalogue { sources, ..Catalogue::default() };
        for (number, mount) in mounts.iter().enumerate() {
            let list = Arc::clone(&catalogue.sources[number]);
            let mut references = 0;
            for tool in list.iter() {
                // Its own toolset checks calls, or we do: then a tool that we cannot check is not offered.
                if !mount.toolset.validates()
                    && let Err(problem) = check_bounds(tool, &mut references)
                {
                    let (own, set) = (&tool.name, mount.toolset.name());
                    catalogue.problems.push(format!("tool '{own}' of '{set}' is not offered: {problem}"));
                    continue;
                }
                catalogue.add(number, mount, tool, mounts);
            }
        }
        catalogue
    }

    fn made_of(&self, sources: &[Arc<[Tool]>]) -> bool {
        self.sources.len() == sources.len()
            && self.sources.iter().zip(sources).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn add(&mut self, number: usize, mount: &Mount, tool: &Tool, mounts: &[Mount]) {
        let own = tool.name.clone();
        let Some(offered) = self.offered_name(number, tool, mounts) else { return };
        let denied = ROLES.map(|role| match mount.policy.verdict(role, &own) {
            Verdict::Allowed => None,
            Verdict::Denied { by } => Some(by.to_owned()),
        });
        let tool = Tool { name: offered.clone(), ..tool.clone() };
        self.index.insert(offered.into_owned(), self.entries.len());
        let (input, output) = (LazySchema::default(), LazySchema::default());
        self.entries.push(CatalogueEntry { mount: number, own, tool, denied, input, output });
    }

    /// The name a tool is offered by; none when the mount's rule refuses it.
    fn offered_name(&mut self, number: usize, tool: &Tool, mounts: &[Mount]) -> Option<Cow<'static, str>> {
        let (mount, own) = (&mounts[number], &tool.name);
        let set = mount.toolset.name();
        let reserved = RESERVED_TOOL_NAMES.contains(&own.as_ref());
        let plain = match reserved || mount.naming == Naming::PrefixAlways {
            true => None,
            false => Some(shortened(own.clone())),
        };
        let owner = plain.as_ref().and_then(|name| self.find(name));
        match (plain, owner) {
            (Some(name), None) => return Some(name),
            (Some(_), Some(owner)) if owner.mount == number && owner.own == *own => {
                self.problems.push(format!("tool '{own}' is listed twice by '{set}'"));
                return None;
            }
            (Some(name), Some(owner)) if mount.naming == Naming::Refuse => {
                let owner = mounts[owner.mount].toolset.name();
                self.problems.push(format!("tool '{name}' is offered by '{owner}' and by '{set}'"));
                return None;
            }
            _ => {}
        }
        let name = shortened(Cow::Owned(mount.prefixed(own)));
        if self.index.contains_key(name.as_ref()) {
            self.problems.push(format!("tool '{own}' of '{set}' is not offered: '{name}' is taken as well"));
            return None;
        }
        Some(name)
    }

    pub(super) fn find(&self, name: &str) -> Option<&CatalogueEntry> {
        self.position(name).map(|entry| self.entry(entry))
    }

    /// The number of the entry that has that name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub(super) fn entry(&self, position: usize) -> &CatalogueEntry {
        &self.entries[position]
    }

    /// What does not work at present.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let late = self.entries.iter().filter_map(CatalogueEntry::startup_problem);
        self.problems.iter().cloned().chain(late)
    }

    /// The tools that a role may call, in order.
    pub(super) fn tools(&self, role: Principal) -> &Arc<[Tool]> {
        self.views[slot(role)]
            .tools
            .get_or_init(|| self.seen_by(role).map(|entry| entry.tool.clone()).collect())
    }

    /// The tools that a caller may call as a JSON array.
    pub(super) fn listing(&self, role: Principal, spelling: ToolSpelling, mounts: &[Mount]) -> &Arc<str> {
        self.views[slot(role)].listings[spelling as usize].get_or_init(|| {
            let tools: Vec<RawJson> = self
                .seen_by(role)
                .map(|entry| entry.tool.spelled(spelling, mounts[entry.mount].toolset.name()))
                .collect();
            let tools: Vec<&str> = tools.iter().map(|tool| tool.get()).collect();
            format!("[{}]", tools.join(",")).into()
        })
    }

    fn seen_by(&self, role: Principal) -> impl Iterator<Item = &CatalogueEntry> {
        self.entries.iter().filter(move |entry| entry.denied_to(role).is_none())
    }
}

impl CatalogueEntry {
    /// The rule that keeps that role from calling it.
    pub(super) fn denied_to(&self, role: Principal) -> Option<&str> {
        self.denied[slot(role)].as_deref()
    }

    /// The schema of its arguments; none when it is not a JSON Schema.
    ///
    /// # Errors
    /// Why what it accepts cannot be checked.
    pub(super) fn input(&self) -> Result<Option<&Schema>, String> {
        self.usable("input", &self.input, &self.tool.input_schema)
    }

    /// The schema of its structured results, where it declares one.
    ///
    /// # Errors
    /// Why what it accepts cannot be checked.
    pub(super) fn output(&self) -> Result<Option<&Schema>, String> {
        match &self.tool.output_schema {
            Some(schema) => self.usable("output", &self.output, schema),
            None => Ok(None),
        }
    }

    /// Whether the schema of its arguments was compiled before, or is quickly.
    pub(super) fn has_input(&self) -> bool {
        self.input.get_quickly(&self.tool.input_schema).is_some()
    }

    /// Whether the schema of its results was compiled before, or is quickly.
    pub(super) fn has_output(&self) -> bool {
        self.tool.output_schema.as_ref().is_none_or(|schema| self.output.get_quickly(schema).is_some())
    }

    /// An invalid schema must not make its tool useless: the tool's own server still judges.
    fn usable<'a>(
        &self,
        which: &str,
        schema: &'a LazySchema,
        source: &Value,
    ) -> Result<Option<&'a Schema>, String> {
        match schema.get(source) {
            Ok(schema) => Ok(Some(schema)),
            Err(SchemaError::TooLarge(why)) => Err(unchecked(which, why)),
            Err(SchemaError::Unusable(why)) => {
                schema.report_once(|| {
                    let tool = &self.tool.name;
                    tracing::warn!(
                        %tool,
                        "the {which} schema is not a JSON Schema; it is not checked: {why}"
                    );
                });
                Ok(None)
            }
        }
    }

    /// What compiling found to exceed the bounds.
    fn startup_problem(&self) -> Option<String> {
        [("input", &self.input), ("output", &self.output)].into_iter().find_map(
            |(which, schema)| match schema.known()? {
                Err(SchemaError::TooLarge(why)) => {
                    Some(format!("tool '{}' cannot be called: {}", self.tool.name, unchecked(which, why)))
                }
                _ => None,
            },
        )
    }
}

/// Whether a tool's calls can be checked, as far as that is known without compiling its schemas. Adds up the
/// references of a list.
fn check_bounds(tool: &Tool, references: &mut usize) -> Result<(), String> {
    let output = tool.output_schema.as_ref().map(|schema| ("output", schema));
    for (which, schema) in [("input", &tool.input_schema)].into_iter().chain(output) {
        *references += Schema::check_bounds(schema).map_err(|why| unchecked(which, &why))?;
    }
    match *references <= MAX_REFERENCES {
        true => Ok(()),
        false => Err(format!("the schemas of its list have more than {MAX_REFERENCES} references together")),
    }
}

fn unchecked(which: &str, why: &str) -> String {
    format!("its {which} schema is past what can be checked: {why}")
}

fn slot(role: Principal) -> usize {
    match role {
        Principal::Control => 0,
        Principal::Agent => 1,
        Principal::Observer => 2,
    }
}

/// A name that providers of models accept: one that is too long keeps its beginning and ends with
/// a hash of the whole (FNV-1a), so that it stays the same from run to run.
fn shortened(name: Cow<'static, str>) -> Cow<'static, str> {
    if name.len() <= MAX_NAME {
        return name;
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut end = MAX_NAME - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}_{:08x}", &name[..end], hash >> 32))
}
