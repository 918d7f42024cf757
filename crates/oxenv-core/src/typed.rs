//! Authoring: an environment as a Rust type with typed actions, observations and state.
//!
//! Invariant: an author never touches JSON. Serde reads the action, schemars makes the schemas, and
//! a wrong action is refused with every issue before the author's code runs.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use oxenv_schema::{LazySchema, explain};
use oxenv_wire::{RawJson, Reward, Schemas, raw, read};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::capabilities::{Capabilities, Execution};
use crate::environment::{Environment, Observed, Reset};
use crate::failure::Failure;
use crate::spec::{
    ActionSpace, EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec,
};
use crate::toolbox::Toolbox;
use crate::work::Work;

/// What an author's reset or step gives back.
#[derive(Debug, Clone)]
pub struct Step<O> {
    /// The observation; its fields must not be called `metadata`, `reward` or `done`.
    pub observation: O,
    /// The reward; absent is null.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
    /// Metadata: an object, or null for none.
    pub metadata: Value,
}

impl<O> Step<O> {
    /// A step without reward, not done, without metadata.
    pub fn new(observation: O) -> Self {
        Step { observation, reward: None, done: false, metadata: Value::Null }
    }

    /// Sets the reward.
    #[must_use]
    pub fn reward(mut self, reward: impl Into<Reward>) -> Self {
        self.reward = Some(reward.into());
        self
    }

    /// Sets whether the episode is done.
    #[must_use]
    pub fn done(mut self, done: bool) -> Self {
        self.done = done;
        self
    }

    /// Sets the metadata, an object.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }
}

/// An environment as an author writes it; [`typed`] makes a factory of it.
///
/// The methods are `async` and may suspend if the capabilities include [`Execution::Task`]; under
/// [`Execution::Inline`], the default, they must finish at once.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::{EnvironmentSpec, Failure, Reset, Step, TypedEnvironment, contract, typed};
/// use serde_json::json;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Add {
///     number: i64,
/// }
///
/// #[derive(serde::Serialize, schemars::JsonSchema)]
/// struct Sum {
///     sum: i64,
/// }
///
/// /// Adds up numbers until there are 10.
/// struct Adding(i64);
///
/// impl TypedEnvironment for Adding {
///     type Action = Add;
///     type Observation = Sum;
///     type State = Sum;
///
///     async fn reset(&mut self, _reset: &Reset) -> Result<Step<Sum>, Failure> {
///         self.0 = 0;
///         Ok(Step::new(self.state()))
///     }
///
///     async fn step(&mut self, action: Add) -> Result<Step<Sum>, Failure> {
///         self.0 += action.number;
///         Ok(Step::new(self.state()).reward(1.0).done(self.0 >= 10))
///     }
///
///     fn state(&self) -> Sum {
///         Sum { sum: self.0 }
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let factory = typed(EnvironmentSpec::new("adding", "Adds up numbers."), |_| Adding(0));
/// let violations = contract::check(Arc::new(factory), &[json!({ "number": 3 })]).await;
/// assert!(violations.is_empty(), "{violations:#?}");
/// # });
/// ```
pub trait TypedEnvironment: Send + Sync + Sized + 'static {
    /// The agent's action.
    type Action: DeserializeOwned + JsonSchema + Send;
    /// The agent's observation.
    type Observation: Serialize + JsonSchema + Send;
    /// What an orchestrator may look at, beside `episode_id` and `step_count`.
    type State: Serialize + JsonSchema;

    /// Begins an episode from `reset.seed`.
    fn reset(
        &mut self,
        reset: &Reset,
    ) -> impl Future<Output = Result<Step<Self::Observation>, Failure>> + Send;

    /// Takes one action.
    fn step(
        &mut self,
        action: Self::Action,
    ) -> impl Future<Output = Result<Step<Self::Observation>, Failure>> + Send;

    /// The present state.
    fn state(&self) -> Self::State;

    /// A copy that goes on independently; `None` if it cannot be copied.
    fn fork(&self) -> Option<Self> {
        None
    }

    /// The present state as bytes; `None` if it cannot be saved.
    fn snapshot(&self) -> Option<Vec<u8>> {
        None
    }

    /// The state that [`TypedEnvironment::snapshot`] saved; `None` if the bytes are invalid.
    fn restore(bytes: &[u8]) -> Option<Self> {
        let _ = bytes;
        None
    }
}

/// Makes a factory from a constructor. The spec's schemas are filled in from the types.
pub fn typed<E, F>(mut spec: EnvironmentSpec, make: F) -> TypedFactory
where
    E: TypedEnvironment,
    F: Fn(&EnvironmentContext) -> E + Send + Sync + 'static,
{
    spec.schemas = Schemas {
        action: schema_of::<E::Action>(),
        observation: observation_schema::<E::Observation>(),
        state: state_schema::<E::State>(),
        reset_observation: observation_schema::<E::Observation>(),
    };
    spec.action_space = ActionSpace::Typed;
    let spec = Arc::new(spec);
    let shared = Arc::clone(&spec);
    let actions = Arc::<LazySchema>::default();
    TypedFactory {
        spec,
        toolbox: Arc::new(Toolbox::empty()),
        make: Box::new(move |boot| {
            let (spec, actions) = (Arc::clone(&shared), Arc::clone(&actions));
            Box::new(Adapter { inner: make(boot), spec, actions })
        }),
    }
}

type Make = Box<dyn Fn(&EnvironmentContext) -> Box<dyn Environment> + Send + Sync>;

/// A factory of typed environments.
pub struct TypedFactory {
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
    make: Make,
}

impl TypedFactory {
    /// Offers tools beside the typed actions.
    #[must_use]
    pub fn with_tools(mut self, toolbox: Toolbox) -> Self {
        self.toolbox = Arc::new(toolbox);
        self
    }
}

impl EnvironmentFactory for TypedFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        let environment = (self.make)(&boot);
        Work::done(Ok(EnvironmentInstance::new(environment, Arc::clone(&self.toolbox))))
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::new(self.toolbox.server_scoped())
    }
}

struct Adapter<E> {
    inner: E,
    spec: Arc<EnvironmentSpec>,
    /// The schema of actions, for those that are refused.
    actions: Arc<LazySchema>,
}

impl<E: TypedEnvironment> Adapter<E> {
    /// Runs an author's future: now if the environment is inline, later if it may suspend.
    fn run<'a, F>(capabilities: Capabilities, future: F) -> Work<'a, Result<Observed, Failure>>
    where
        F: Future<Output = Result<Step<E::Observation>, Failure>> + Send + 'a,
    {
        if capabilities.execution != Execution::Inline {
            return Work::pending(async { observed(future.await?) });
        }
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(step) => Work::done(step.and_then(observed)),
            Poll::Pending => Work::done(Err(Failure::environment(
                "the environment declares inline execution but suspended: declare Execution::Task",
            ))),
        }
    }
}

impl<E: TypedEnvironment> Environment for Adapter<E> {
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        Self::run(self.spec.capabilities, self.inner.reset(reset))
    }

    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        match read::<E::Action>(action) {
            Ok(action) => Self::run(self.spec.capabilities, self.inner.step(action)),
            Err(error) => {
                let issues = explain(&self.actions, &self.spec.schemas.action, action, &error.to_string());
                Work::done(Err(Failure::invalid(issues)))
            }
        }
    }

    fn state(&self) -> Result<RawJson, Failure> {
        raw(&self.inner.state())
            .map_err(|error| Failure::environment(format!("the state is not JSON: {error}")))
    }

    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        let inner = self.inner.fork().ok_or_else(|| {
            Failure::unsupported(format!("environment '{}' cannot be forked", self.spec.name))
        })?;
        Ok(Box::new(Adapter { inner, spec: Arc::clone(&self.spec), actions: Arc::clone(&self.actions) }))
    }

    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        self.inner.snapshot().ok_or_else(|| {
            Failure::unsupported(format!("environment '{}' cannot be snapshotted", self.spec.name))
        })
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        self.inner = E::restore(snapshot).ok_or_else(|| {
            Failure::action(format!("these bytes are no snapshot of environment '{}'", self.spec.name))
        })?;
        Ok(())
    }
}

fn observed<O: Serialize>(step: Step<O>) -> Result<Observed, Failure> {
    let not_json = |error| Failure::environment(format!("the observation is not a JSON object: {error}"));
    let fields = raw(&step.observation).map_err(not_json)?;
    if !fields.get().starts_with('{') {
        return Err(Failure::environment("the observation type must serialize to a JSON object"));
    }
    let metadata = match step.metadata {
        Value::Null => None,
        metadata => Some(raw(&metadata).map_err(not_json)?),
    };
    Ok(Observed { fields, metadata, reward: step.reward, done: step.done })
}

/// The JSON Schema (2020-12) of a type, without the dialect's `$schema` key.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    schema
}

fn observation_schema<O: JsonSchema>() -> Value {
    let mut schema = schema_of::<O>();
    let fields = json!({
        "done": {
            "type": "boolean", "default": false, "title": "Done",
            "description": "Whether the episode has ended."
        },
        "reward": {
            "anyOf": [{ "type": "boolean" }, { "type": "integer" }, { "type": "number" }, { "type": "null" }],
            "default": null, "title": "Reward", "description": "Reward of the last action."
        },
        "metadata": { "type": "object", "additionalProperties": true, "title": "Metadata" },
    });
    prepend(&mut schema, fields);
    schema
}

fn state_schema<S: JsonSchema>() -> Value {
    let mut schema = schema_of::<S>();
    let fields = json!({
        "episode_id": {
            "anyOf": [{ "type": "string" }, { "type": "null" }],
            "default": null, "title": "Episode Id", "description": "Identifier of the current episode."
        },
        "step_count": {
            "type": "integer", "minimum": 0, "default": 0, "title": "Step Count",
            "description": "Steps taken in the current episode."
        },
    });
    prepend(&mut schema, fields);
    schema
}

fn prepend(schema: &mut Value, fields: Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let own = object.insert("properties".to_owned(), fields);
    if let (Some(Value::Object(own)), Some(all)) = (own, object["properties"].as_object_mut()) {
        all.extend(own);
    }
    object.entry("type").or_insert_with(|| json!("object"));
}
