//! Tools that are answered from the record instead of being called.
//!
//! Invariant: a recorded answer is given once: to the call of the same tool with the same arguments
//! if there is one, else to the next call of that tool. A call for which no answer is left gets an
//! error that says so.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use oxenv_core::{
    CallContext, ChangeCounter, CopySource, EnvironmentContext, EnvironmentFactory, EnvironmentInstance,
    EnvironmentSpec, EpisodeSeeds, Failure, ForkMode, Mount, ResolvedTool, ResourcesAndPrompts, Scope,
    Toolbox, Toolset, Work,
};
use oxenv_store::{LogError, StoredCall, StoredJson};
use oxenv_wire::{ErrorCode, Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

/// The answers of the step that is being done again.
#[derive(Default)]
pub(crate) struct ToolTape {
    answers: Mutex<Vec<TapedResult>>,
    /// The toolsets that have a state when they are not answered from here.
    stateful: Mutex<BTreeSet<String>>,
    /// Whether tools are called really; what was refused for its rate is refused from the tape even so.
    live: bool,
}

struct TapedResult {
    tool: String,
    arguments: Option<String>,
    outcome: Result<ToolResult, ToolError>,
}

impl ToolTape {
    pub(crate) fn new(live: bool) -> Self {
        ToolTape { live, ..ToolTape::default() }
    }

    /// Whether a tool's own toolset has a state, so that a call of it that was cut off has an unknown effect.
    pub(crate) fn has_state(&self, tool: &ResolvedTool<'_>) -> bool {
        let stateful = self.stateful.lock().unwrap_or_else(PoisonError::into_inner);
        !tool.is_stateless() || tool.toolset().is_some_and(|toolset| stateful.contains(toolset))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Takes the answers of a step; those of the one before are gone.
    ///
    /// # Errors
    /// When a blob of the record cannot be read.
    pub(crate) fn load(&self, calls: &[StoredCall]) -> Result<(), LogError> {
        let answers = calls.iter().map(|call| {
            let arguments = call.arguments.as_ref().map(StoredJson::text).transpose()?;
            let arguments = arguments.map(Cow::into_owned);
            Ok(TapedResult { tool: call.tool.clone(), arguments, outcome: call.played_back()? })
        });
        *self.lock() = answers.collect::<Result<_, LogError>>()?;
        Ok(())
    }

    /// The answer to a call; `None` when it must really be made.
    fn answer(&self, tool: &str, arguments: Option<&RawValue>) -> Option<Result<ToolResult, ToolError>> {
        let mut answers = self.lock();
        let named = |answer: &TapedResult| answer.tool == tool || answer.tool.ends_with(&format!("__{tool}"));
        let given = arguments.map(RawValue::get);
        let exact = answers.iter().position(|answer| named(answer) && answer.arguments.as_deref() == given);
        let found = exact.or_else(|| answers.iter().position(named));
        let answer = found.map(|at| answers.remove(at).outcome);
        match answer {
            Some(Err(error)) if error.code == Some(ErrorCode::RateLimited) => Some(Err(error)),
            _ if self.live => None,
            Some(outcome) => Some(outcome),
            None => {
                let message = format!("the record has no call of tool '{tool}' here");
                Some(Err(ToolError::new(ToolErrorType::ExecutionError, message)))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TapedResult>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same environments, with tools that are answered from the tape: of the manifest's toolsets those
/// that `upstream` marks, and all of them where the environment does not promise to be deterministic.
pub(crate) fn taped(
    inner: Arc<dyn EnvironmentFactory>,
    tape: Arc<ToolTape>,
    upstream: Vec<bool>,
) -> Arc<dyn EnvironmentFactory> {
    Arc::new(TapedFactory { inner, tape, upstream })
}

struct TapedFactory {
    inner: Arc<dyn EnvironmentFactory>,
    tape: Arc<ToolTape>,
    /// For each of the manifest's toolsets, which come last.
    upstream: Vec<bool>,
}

impl TapedFactory {
    fn wrap(&self, mut instance: EnvironmentInstance) -> EnvironmentInstance {
        let mounts = instance.toolbox.mounts();
        let own = mounts.len().saturating_sub(self.upstream.len());
        let all = !self.inner.spec().capabilities.deterministic;
        let taped = |(at, mount): (usize, &Mount)| {
            let upstream = at.checked_sub(own).and_then(|at| self.upstream.get(at)).copied();
            match all || upstream == Some(true) {
                false => mount.clone(),
                true => {
                    let (inner, tape) = (Arc::clone(&mount.toolset), Arc::clone(&self.tape));
                    if inner.fork() != ForkMode::Stateless {
                        let mut stateful = tape.stateful.lock().unwrap_or_else(PoisonError::into_inner);
                        stateful.insert(inner.name().to_owned());
                    }
                    Mount { toolset: Arc::new(TapedToolset { inner, tape }), ..mount.clone() }
                }
            }
        };
        instance.toolbox = Arc::new(Toolbox::new(mounts.iter().enumerate().map(taped).collect()));
        instance
    }
}

impl EnvironmentFactory for TapedFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        self.inner.spec()
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move { Ok(self.wrap(self.inner.create(boot).await?)) })
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move { Ok(self.wrap(self.inner.fork(boot, original).await?)) })
    }

    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        self.inner.save(original)
    }

    fn restore<'a>(
        &'a self,
        boot: EnvironmentContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move { Ok(self.wrap(self.inner.restore(boot, saved).await?)) })
    }

    fn problem(&self) -> Option<String> {
        self.inner.problem()
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        self.inner.server_tools()
    }

    fn all_tools(&self) -> Arc<Toolbox> {
        self.inner.all_tools()
    }
}

/// A toolset with calls answered from the tape; its lists are its own.
struct TapedToolset {
    inner: Arc<dyn Toolset>,
    tape: Arc<ToolTape>,
}

impl Toolset for TapedToolset {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn list(&self) -> Arc<[Tool]> {
        self.inner.list()
    }

    fn ready(&self) -> Work<'_, ()> {
        self.inner.ready()
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.inner.watch(changes);
    }

    fn problem(&self) -> Option<String> {
        self.inner.problem()
    }

    fn scope(&self) -> Scope {
        self.inner.scope()
    }

    fn concurrent(&self) -> bool {
        self.inner.concurrent()
    }

    fn validates(&self) -> bool {
        self.inner.validates()
    }

    /// What is on the tape has no state that a fork would have to take along.
    fn fork(&self) -> ForkMode {
        if self.tape.live { self.inner.fork() } else { ForkMode::Stateless }
    }

    fn copied(&self) -> Result<Arc<dyn Toolset>, Failure> {
        self.inner.copied()
    }

    fn end_episode(&self, seeds: EpisodeSeeds) -> Work<'_, ()> {
        if self.tape.live { self.inner.end_episode(seeds) } else { Work::done(()) }
    }

    fn reset(&self, seeds: EpisodeSeeds) -> Work<'_, Result<(), Failure>> {
        if self.tape.live { self.inner.reset(seeds) } else { Work::done(Ok(())) }
    }

    fn close(&self) {
        self.inner.close();
    }

    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        match self.tape.answer(tool, arguments) {
            Some(outcome) => Work::done(outcome),
            None => self.inner.call(context, tool, arguments),
        }
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        self.inner.extras()
    }
}
