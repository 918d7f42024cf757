//! The rules that every environment keeps, as a suite that an author runs on their own.
//!
//! Invariant: a rule is checked through the same sessions that doors use, so an environment that
//! passes here behaves the same when it is served. [`check`] finds every violation it can, and an
//! empty list means that each applicable rule was really exercised. `contract/copies.rs` has the
//! rules of forks, snapshots and repeated requests.
//!
//! ```no_run
//! # async fn run(factory: std::sync::Arc<dyn oxenv_core::EnvironmentFactory>) {
//! let actions = [serde_json::json!({"column": 3}), serde_json::json!({"column": 2})];
//! let violations = oxenv_core::contract::check(factory, &actions).await;
//! assert!(violations.is_empty(), "{violations:#?}");
//! # }
//! ```

mod copies;

use std::sync::Arc;

use oxenv_schema::{CheckBudget, Schema, describe_error};
use oxenv_wire::{Action, FailureKind, raw};
use serde_json::{Value, json};

use crate::environment::{Environment, Observed};
use crate::failure::Failure;
use crate::render::{self, Envelope};
use crate::reply::StepReply;
use crate::session::{ResetOptions, Session, SessionOptions, SessionRequest};
use crate::spec::{ActionSpace, EnvironmentContext, EnvironmentFactory};
use crate::store::{SessionStore, StoreLimits};

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The observed behaviour.
    pub seen: String,
}

/// Checks every rule with an episode of these actions. They need not reach its end, but each must be
/// one that the environment accepts after a reset with seed 7.
pub async fn check(factory: Arc<dyn EnvironmentFactory>, actions: &[Value]) -> Vec<Violation> {
    let limits = StoreLimits { seed: Some(1), ..StoreLimits::default() };
    let mut suite = Suite {
        store: SessionStore::new(Arc::clone(&factory), limits),
        factory,
        actions: actions.to_vec(),
        found: Vec::new(),
    };
    suite.spec();
    suite.schemas().await;
    suite.determinism().await;
    suite.isolation().await;
    suite.bad_actions().await;
    suite.fork().await;
    suite.snapshot().await;
    suite.foreign_bytes().await;
    suite.repeats().await;
    suite.found
}

struct Suite {
    factory: Arc<dyn EnvironmentFactory>,
    store: SessionStore,
    actions: Vec<Value>,
    found: Vec<Violation>,
}

impl Suite {
    fn fail(&mut self, rule: &'static str, seen: impl Into<String>) {
        self.found.push(Violation { rule, seen: seen.into() });
    }

    fn spec(&mut self) {
        let spec = Arc::clone(self.factory.spec());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if spec.name.is_empty() || !spec.name.chars().all(plain) {
            self.fail("name", format!("'{}' is not made of letters, digits, '_' and '-'", spec.name));
        }
        for (what, schema) in [
            ("action", &spec.schemas.action),
            ("observation", &spec.schemas.observation),
            ("state", &spec.schemas.state),
            ("reset_observation", &spec.schemas.reset_observation),
        ] {
            if let Err(error) = Schema::compile(schema) {
                self.fail("schemas are JSON Schema", format!("{what}: {error}"));
            }
        }
    }

    /// Observations and states fit their schemas and use no reserved field.
    async fn schemas(&mut self) {
        let Some(session) = self.session().await else { return };
        let schemas = self.factory.spec().schemas.clone();
        match reset(&session, 7).await {
            Ok(StepReply::Observed(observed)) => {
                self.fits("reset_observation", &schemas.reset_observation, &observed);
            }
            Ok(_) => {}
            Err(failure) => self.fail("reset succeeds", failure.to_string()),
        }
        for action in self.actions.clone() {
            match step(&session, &action).await {
                Ok(StepReply::Observed(observed)) => {
                    self.fits("observation", &schemas.observation, &observed);
                }
                Ok(_) => {}
                Err(failure) => self.fail("the given actions are accepted", format!("{action}: {failure}")),
            }
        }
        match session.state().await.map(|state| serde_json::from_str::<Value>(&state)) {
            Ok(Ok(state)) => {
                if state["episode_id"] != "contract" || state["step_count"] != json!(self.actions.len()) {
                    self.fail("the state counts steps", state.to_string());
                }
                if let Some(why) = first_error(&schemas.state, &state) {
                    self.fail("the state fits its schema", why);
                }
            }
            Ok(Err(error)) => self.fail("the state is JSON", error.to_string()),
            Err(failure) => self.fail("the state can be told", failure.to_string()),
        }
    }

    fn fits(&mut self, what: &'static str, schema: &Value, observed: &Observed) {
        // An environment of tools publishes the reference's schema of a call's observation, which
        // does not describe what a reset shows.
        if self.factory.spec().action_space == ActionSpace::Tools {
            return;
        }
        let Ok(mut fields) = serde_json::from_str::<Value>(observed.fields.get()) else {
            return self.fail("observations are JSON", observed.fields.get());
        };
        for reserved in ["metadata", "reward", "done"] {
            if fields.get(reserved).is_some() {
                self.fail("observations use no reserved field", format!("{what} has its own '{reserved}'"));
            }
        }
        fields["done"] = json!(observed.done);
        if let Some(why) = first_error(schema, &fields) {
            self.fail("observations fit their schema", format!("{what}: {why}"));
        }
    }

    /// Same seed, same actions, same bytes.
    async fn determinism(&mut self) {
        if !self.factory.spec().capabilities.deterministic {
            return;
        }
        let (Some(one), Some(two)) = (self.session().await, self.session().await) else { return };
        let (first, second) = (self.episode(&one, 7).await, self.episode(&two, 7).await);
        let again = self.episode(&one, 7).await;
        if first != second {
            self.fail("same seed, same bytes", difference(&first, &second));
        }
        if first != again {
            self.fail("a reset with the same seed begins the same episode", difference(&first, &again));
        }
    }

    /// What one session does is not seen by another.
    async fn isolation(&mut self) {
        if !self.factory.spec().capabilities.deterministic {
            return;
        }
        let (Some(quiet), Some(one), Some(two)) =
            (self.session().await, self.session().await, self.session().await)
        else {
            return;
        };
        let alone = self.episode(&quiet, 7).await;
        let mut interleaved = vec![reply(reset(&one, 7).await)];
        let _ = reset(&two, 8).await;
        for action in self.actions.clone() {
            interleaved.push(reply(step(&one, &action).await));
            let _ = step(&two, &action).await;
        }
        if alone != interleaved {
            self.fail("sessions do not see each other", difference(&alone, &interleaved));
        }
    }

    /// A wrong action is the agent's fault, and the episode goes on as if it had not been.
    async fn bad_actions(&mut self) {
        if self.factory.spec().action_space == ActionSpace::Tools {
            return;
        }
        let Some(session) = self.session().await else { return };
        let Some(first) = self.actions.first().cloned() else { return };
        let _ = reset(&session, 7).await;
        for bad in [json!({}), json!({ "no such field": [[]] })] {
            match step(&session, &bad).await {
                Err(failure) if failure.kind == FailureKind::Action => {}
                Err(failure) => {
                    self.fail("a wrong action is the agent's fault", format!("{bad}: {:?}", failure.kind));
                }
                Ok(_) => self.fail("a wrong action is refused", bad.to_string()),
            }
        }
        if let Err(failure) = step(&session, &first).await {
            self.fail("the episode goes on after a wrong action", failure.to_string());
        }
    }

    /// Bytes that are no snapshot are refused by the environment itself.
    async fn foreign_bytes(&mut self) {
        let Some(mut environment) = self.fresh().await else { return };
        if environment.restore(b"\xff no snapshot").is_ok() {
            self.fail("bytes that are no snapshot are refused", "they were taken");
        }
    }

    async fn session(&mut self) -> Option<Arc<Session>> {
        match self.store.create(SessionOptions { seed: Some(5), ..SessionOptions::default() }).await {
            Ok(session) => Some(session),
            Err(failure) => {
                self.fail("a session can be made", failure.to_string());
                None
            }
        }
    }

    async fn fresh(&mut self) -> Option<Box<dyn Environment>> {
        let factory = Arc::clone(&self.factory);
        match factory.create(EnvironmentContext::new("contract", 5)).await {
            Ok(instance) => Some(instance.environment),
            Err(failure) => {
                self.fail("an environment can be made", failure.to_string());
                None
            }
        }
    }

    async fn episode(&self, session: &Arc<Session>, seed: u64) -> Vec<String> {
        let mut shows = vec![reply(reset(session, seed).await)];
        for action in &self.actions {
            shows.push(reply(step(session, action).await));
        }
        shows
    }
}

async fn step(session: &Arc<Session>, action: &Value) -> Result<StepReply<'static>, Failure> {
    let action = raw(action).unwrap_or_default();
    let action = Action::parse(&action).map_err(Failure::invalid)?;
    session.submit(SessionRequest::step(action)).await.into_outcome().map(StepReply::into_owned)
}

/// An episode whose id is the same in every session.
async fn reset(session: &Arc<Session>, seed: u64) -> Result<StepReply<'static>, Failure> {
    let episode_id = Some("contract".to_owned());
    let options = ResetOptions { seed: Some(seed), episode_id, arguments: None };
    session.submit(SessionRequest::reset(options)).await.into_outcome()
}

fn reply(reply: Result<StepReply<'_>, Failure>) -> String {
    reply.map_or_else(|failure| failure.to_string(), |reply| render::step(&reply, Envelope::Frame))
}

/// What keeps a value from fitting a schema.
fn first_error(schema: &Value, value: &Value) -> Option<String> {
    let schema = match Schema::compile(schema) {
        Ok(schema) => schema,
        Err(error) => return Some(error.to_string()),
    };
    let errors = schema.errors(value, &CheckBudget::of(value), 1, describe_error);
    errors.map_or_else(|too_deep| Some(too_deep.to_string()), |mut errors| errors.pop())
}

fn difference(one: &[String], two: &[String]) -> String {
    let at = one.iter().zip(two).position(|(a, b)| a != b).unwrap_or_else(|| one.len().min(two.len()));
    let none = "nothing".to_owned();
    format!("reply {at}: {} against {}", one.get(at).unwrap_or(&none), two.get(at).unwrap_or(&none))
}
