//! [`ResolvedTool`]: a tool that was looked up, before it is called.
//!
//! Invariant: it sees one catalogue, even if the toolbox has another one meanwhile.

use std::sync::Arc;

use super::Toolbox;
use super::catalogue::{Catalogue, CatalogueEntry};
use super::mount::Mount;
use crate::capabilities::ForkMode;

/// A tool by the name that a caller uses, and what is known of it before it is called.
pub struct ResolvedTool<'a> {
    pub(super) toolbox: &'a Toolbox,
    pub(super) name: &'a str,
    pub(super) catalogue: Arc<Catalogue>,
    /// Its number in the catalogue; absent if no toolset has it.
    pub(super) entry: Option<usize>,
}

impl<'a> ResolvedTool<'a> {
    pub(super) fn of(toolbox: &'a Toolbox, name: &'a str) -> Self {
        let catalogue = toolbox.catalogue();
        let entry = catalogue.position(name);
        ResolvedTool { toolbox, name, catalogue, entry }
    }

    /// The name that it is called by.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The name of the toolset that owns it.
    #[must_use]
    pub fn toolset(&self) -> Option<&str> {
        self.entry().map(|entry| self.toolbox.mounts[entry.mount].toolset.name())
    }

    /// Whether calls of it may overlap with other calls and steps of the session. A name that no toolset has
    /// yet may become any toolset's.
    #[must_use]
    pub fn concurrent(&self) -> bool {
        self.all_owners(|mount| mount.toolset.concurrent())
    }

    /// Whether its toolset keeps no state between calls. A name that no toolset has yet may become any
    /// toolset's.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        self.all_owners(|mount| mount.toolset.fork() == ForkMode::Stateless)
    }

    /// The number of its toolset among the mounts.
    #[must_use]
    pub fn mount(&self) -> Option<usize> {
        self.entry().map(|entry| entry.mount)
    }

    pub(super) fn entry(&self) -> Option<&CatalogueEntry> {
        self.entry.map(|entry| self.catalogue.entry(entry))
    }

    fn all_owners(&self, holds: impl Fn(&Mount) -> bool) -> bool {
        let mounts = &self.toolbox.mounts;
        self.entry().map_or_else(|| mounts.iter().all(&holds), |entry| holds(&mounts[entry.mount]))
    }
}
