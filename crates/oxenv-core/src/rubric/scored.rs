//! [`scored`]: any environment, with its rewards by a rubric.
//!
//! Invariant: only reward, done and `metadata.oxenv` differ from what the environment shows; rubric
//! and environment are forked and saved together.

use std::any::Any;
use std::sync::Arc;

use oxenv_wire::{ErrorCode, Phase, RawJson, empty_object, raw};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::scorer::{EnvironmentVerdict, ScoredEvent, Scorer};
use super::{EpisodeEvent, RubricFactory};
use crate::capabilities::{Execution, ForkMode};
use crate::environment::{CallRecord, Environment, Observed, Reset};
use crate::failure::Failure;
use crate::output_log::OutputLog;
use crate::spec::{CopySource, EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec};
use crate::toolbox::Toolbox;
use crate::work::Work;

/// What begins the bytes of a saved environment with its rubric; the number is the format's version.
const MAGIC: &[u8] = b"oxenv-scored-1\n";

/// An environment whose steps and tool calls are scored by a rubric instead of the environment
/// itself.
///
/// `suspends` means that scores take time, as those of a judge do; such an environment runs in a
/// task of its own, and does not count as deterministic. Each observation has the score of each part
/// in `metadata.oxenv.scores`, null where a part has no opinion; the environment's own reward, where
/// it gave one, is `metadata.oxenv.environment_reward`.
#[must_use]
pub fn scored(
    factory: Arc<dyn EnvironmentFactory>,
    rubric: RubricFactory,
    suspends: bool,
) -> Arc<dyn EnvironmentFactory> {
    let mut spec = EnvironmentSpec::clone(factory.spec());
    let capabilities = &mut spec.capabilities;
    let base_observes = capabilities.observes_calls;
    capabilities.observes_calls = true;
    capabilities.scored = true;
    if suspends {
        capabilities.deterministic = false;
        if capabilities.execution == Execution::Inline {
            capabilities.execution = Execution::Task;
        }
    }
    // The rubric knows the episode, so there is something to copy now.
    if capabilities.fork == ForkMode::Stateless {
        capabilities.fork = ForkMode::Native;
    }
    Arc::new(ScoredFactory { spec: Arc::new(spec), base: factory, base_observes, rubric })
}

struct ScoredFactory {
    spec: Arc<EnvironmentSpec>,
    base: Arc<dyn EnvironmentFactory>,
    /// Whether the environment itself wants to know of calls.
    base_observes: bool,
    rubric: RubricFactory,
}

struct ScoredEnvironment {
    inner: Box<dyn Environment>,
    inner_observes: bool,
    scorer: Scorer,
}

impl ScoredFactory {
    fn wrap(&self, mut instance: EnvironmentInstance, scorer: Scorer) -> EnvironmentInstance {
        let (inner, inner_observes) = (instance.environment, self.base_observes);
        instance.environment = Box::new(ScoredEnvironment { inner, inner_observes, scorer });
        instance
    }

    fn scorer(&self) -> Scorer {
        Scorer::new((self.rubric)())
    }
}

impl EnvironmentFactory for ScoredFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move { Ok(self.wrap(self.base.create(boot).await?, self.scorer())) })
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move {
            let ScoredEnvironment { inner, scorer, .. } = as_scored(original.environment)?;
            let fork = scorer.fork();
            let instance =
                self.base.fork(boot, CopySource { environment: inner.as_mut(), ..original }).await?;
            Ok(self.wrap(instance, fork))
        })
    }

    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        Work::pending(async move {
            let ScoredEnvironment { inner, scorer, .. } = as_scored(original.environment)?;
            let rubric = scorer.save()?;
            let saved = self.base.save(CopySource { environment: inner.as_mut(), ..original }).await?;
            Ok(joined(&rubric, &saved))
        })
    }

    fn restore<'a>(
        &'a self,
        boot: EnvironmentContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move {
            let (rubric, inner) = split(saved)?;
            let mut scorer = self.scorer();
            scorer.load(rubric)?;
            Ok(self.wrap(self.base.restore(boot, inner).await?, scorer))
        })
    }

    fn problem(&self) -> Option<String> {
        self.base.problem()
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        self.base.server_tools()
    }

    fn all_tools(&self) -> Arc<Toolbox> {
        self.base.all_tools()
    }
}

impl ScoredEnvironment {
    async fn begin(&mut self, reset: &Reset) -> Result<Observed, Failure> {
        let observed = self.inner.reset(reset).await?;
        self.scorer.begin(reset);
        Ok(Observed { reward: None, ..observed })
    }

    async fn take(&mut self, action: &RawValue) -> Result<Observed, Failure> {
        let observed = self.inner.step(action).await?;
        let state = self.state_for_rubric()?;
        let own =
            EnvironmentVerdict { reward: observed.reward, done: observed.done, state: state.as_deref() };
        let judged = self.scorer.score(EpisodeEvent::Step { action, observed: &observed }, own).await?;
        with_score(observed, judged)
    }

    async fn observe_call(&mut self, call: &CallRecord) -> Result<Observed, Failure> {
        let observed = match self.inner_observes {
            true => self.inner.after_call(call).await?,
            false => Observed { fields: empty_object(), metadata: None, reward: None, done: false },
        };
        let state = self.state_for_rubric()?;
        let own =
            EnvironmentVerdict { reward: observed.reward, done: observed.done, state: state.as_deref() };
        let judged = self.scorer.score(EpisodeEvent::Call(call), own).await?;
        with_score(observed, judged)
    }

    fn state_for_rubric(&self) -> Result<Option<RawJson>, Failure> {
        let state = self.scorer.needs().state.then(|| self.inner.state()).transpose();
        state.map_err(|failure| failure.in_phase(Phase::Verify))
    }
}

impl Environment for ScoredEnvironment {
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        Work::pending(self.begin(reset))
    }

    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        Work::pending(self.take(action))
    }

    fn state(&self) -> Result<RawJson, Failure> {
        self.inner.state()
    }

    fn after_call<'a>(&'a mut self, call: &'a CallRecord) -> Work<'a, Result<Observed, Failure>> {
        Work::pending(self.observe_call(call))
    }

    fn scores(&self) -> Option<RawJson> {
        raw(&self.scorer.totals()).ok()
    }

    fn output_log(&self) -> Option<OutputLog> {
        self.inner.output_log()
    }

    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        let (inner, inner_observes) = (self.inner.fork()?, self.inner_observes);
        Ok(Box::new(ScoredEnvironment { inner, inner_observes, scorer: self.scorer.fork() }))
    }

    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Ok(joined(&self.scorer.save()?, &self.inner.snapshot()?))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        let (rubric, inner) = split(snapshot)?;
        let mut scorer = self.scorer.fork();
        scorer.load(rubric)?;
        self.inner.restore(inner)?;
        self.scorer = scorer;
        Ok(())
    }
}

/// The environment with its rubric; nothing but this factory makes one.
fn as_scored(environment: &mut dyn Environment) -> Result<&mut ScoredEnvironment, Failure> {
    let environment: &mut dyn Any = environment;
    environment.downcast_mut().ok_or_else(|| Failure::environment("this environment has no rubric over it"))
}

/// The environment's observation, with the reward and the scores of the rubric.
fn with_score(observed: Observed, judged: ScoredEvent) -> Result<Observed, Failure> {
    let ScoredEvent { score, report } = judged;
    let not_ours = |what| Failure::environment(format!("the environment's {what} is not a JSON object"));
    let mut metadata: Map<String, Value> = match &observed.metadata {
        Some(metadata) => serde_json::from_str(metadata.get()).map_err(|_| not_ours("metadata"))?,
        None => Map::new(),
    };
    let ours = metadata.entry("oxenv").or_insert_with(|| json!({}));
    let ours = ours.as_object_mut().ok_or_else(|| not_ours("'metadata.oxenv'"))?;
    let scores: Map<String, Value> =
        report.parts.into_iter().map(|(name, reward)| (name, json!(reward))).collect();
    ours.insert("scores".to_owned(), scores.into());
    if let Some(own) = observed.reward {
        ours.insert("environment_reward".to_owned(), json!(own));
    }
    if !report.step_rewards.is_empty() {
        let rewards: Map<String, Value> =
            report.step_rewards.into_iter().map(|(name, rewards)| (name, json!(rewards))).collect();
        ours.insert("step_rewards".to_owned(), rewards.into());
    }
    if !report.answers.is_empty() {
        let answers: Map<String, Value> =
            report.answers.into_iter().map(|(digest, answer)| (digest, json!(answer))).collect();
        ours.insert("judged".to_owned(), answers.into());
    }
    let metadata = raw(&metadata).map_err(|_| not_ours("metadata"))?;
    Ok(Observed {
        metadata: Some(metadata),
        reward: score.reward,
        done: observed.done || score.done,
        fields: observed.fields,
    })
}

/// The saved rubric, on a line of its own, before the saved environment.
fn joined(rubric: &RawValue, environment: &[u8]) -> Vec<u8> {
    [MAGIC, rubric.get().as_bytes(), b"\n", environment].concat()
}

fn split(saved: &[u8]) -> Result<(&str, &[u8]), Failure> {
    let parts = saved.strip_prefix(MAGIC).and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
    });
    let message = "these bytes are no snapshot of an environment with a rubric over it";
    parts.ok_or_else(|| Failure::new(ErrorCode::SnapshotInvalid, message))
}
