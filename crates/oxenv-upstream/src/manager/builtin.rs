//! A toolset that is compiled in, under the name and the rules of its entry.
//!
//! Invariant: all that the entry does not say is the toolset's own.

use std::sync::Arc;

use oxenv_core::{
    CallContext, ChangeCounter, EpisodeSeeds, Failure, ForkMode, NativeToolset, RequestError,
    ResourcesAndPrompts, Scope, Toolset, Work,
};
use oxenv_wire::{ErrorCode, Phase, RawJson, Tool, ToolError, ToolResult};
use parking_lot::RwLock;
use serde_json::value::RawValue;

use super::Builtin;
use crate::manifest::{OnReset, ToolsetEntry};

/// A toolset that is compiled in.
pub(super) struct BuiltinToolset {
    entry: ToolsetEntry,
    /// Its name in the registry.
    toolset: String,
    make: Builtin,
    inner: RwLock<Arc<dyn Toolset>>,
    /// Whether the registry has none of that name, so that there is nothing in it.
    missing: bool,
    watchers: parking_lot::Mutex<Vec<ChangeCounter>>,
}

impl BuiltinToolset {
    /// The toolset of an entry. One that is not in the registry is empty and reports that.
    pub(super) fn new(entry: ToolsetEntry, toolset: String, make: Builtin) -> Self {
        let found = make(&toolset);
        Self::over(found, entry, toolset, make)
    }

    fn over(found: Option<Arc<dyn Toolset>>, entry: ToolsetEntry, toolset: String, make: Builtin) -> Self {
        let missing = found.is_none();
        let inner = found.unwrap_or_else(|| Arc::new(NativeToolset::new(entry.name.clone())));
        let watchers = parking_lot::Mutex::default();
        BuiltinToolset { entry, toolset, make, inner: RwLock::new(inner), missing, watchers }
    }

    fn inner(&self) -> Arc<dyn Toolset> {
        self.inner.read().clone()
    }

    fn renew(&self) {
        let Some(new) = (self.make)(&self.toolset) else { return };
        let watchers = self.watchers.lock();
        watchers.iter().for_each(|changes| new.watch(changes));
        *self.inner.write() = new;
        watchers.iter().for_each(ChangeCounter::bump);
    }

    async fn call_to_reset(&self, tool: &str) -> Result<(), Failure> {
        let context = CallContext::sessionless(oxenv_core::Principal::Control);
        let result = self.inner().call(context, tool, None).await;
        let why = match result {
            Ok(result) if !result.is_error => return Ok(()),
            Ok(result) => result.text(),
            Err(error) => error.message,
        };
        let says = format!("toolset '{}' could not be reset by its tool '{tool}': {why}", self.entry.name);
        Err(Failure::new(ErrorCode::ExecutionError, says).in_phase(Phase::Reset))
    }
}

impl Toolset for BuiltinToolset {
    fn name(&self) -> &str {
        &self.entry.name
    }

    fn list(&self) -> Arc<[Tool]> {
        self.inner().list()
    }

    fn ready(&self) -> Work<'_, ()> {
        let inner = self.inner();
        Work::pending(async move { inner.ready().await })
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.watchers.lock().push(changes.clone());
        self.inner().watch(changes);
    }

    fn problem(&self) -> Option<String> {
        if self.missing {
            return Some(format!("no toolset of the name '{}' is compiled in", self.toolset));
        }
        self.inner().problem()
    }

    fn scope(&self) -> Scope {
        self.entry.scope
    }

    fn concurrent(&self) -> bool {
        self.inner().concurrent()
    }

    fn validates(&self) -> bool {
        self.inner().validates()
    }

    fn fork(&self) -> ForkMode {
        match self.entry.on_fork {
            ForkMode::Native => self.inner().fork(),
            mode => mode,
        }
    }

    fn copied(&self) -> Result<Arc<dyn Toolset>, Failure> {
        let copy = self.inner().copied()?;
        Ok(Arc::new(Self::over(Some(copy), self.entry.clone(), self.toolset.clone(), self.make.clone())))
    }

    fn reset(&self, seeds: EpisodeSeeds) -> Work<'_, Result<(), Failure>> {
        match &self.entry.on_reset {
            OnReset::Keep => {
                let inner = self.inner();
                Work::pending(async move { inner.reset(seeds).await })
            }
            OnReset::Restart => {
                self.renew();
                Work::done(Ok(()))
            }
            OnReset::Call(tool) => Work::pending(self.call_to_reset(tool)),
        }
    }

    fn close(&self) {
        self.inner().close();
    }

    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let inner = self.inner();
        Work::pending(async move { inner.call(context, tool, arguments).await })
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        self.inner().extras()
    }

    fn request<'a>(
        &'a self,
        context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        let inner = self.inner();
        Work::pending(async move { inner.request(context, method, parameters).await })
    }
}
