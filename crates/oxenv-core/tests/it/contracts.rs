//! The contract suite itself: it passes environments that keep the rules and finds those that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oxenv_core::{
    Capabilities, EnvironmentFactory, EnvironmentSpec, Failure, ForkMode, Reset, Step, TypedEnvironment,
    contract, typed,
};
use serde_json::{Value, json};

/// What is wrong with an environment.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    Nothing,
    /// Its forks begin anew.
    ForgetfulFork,
    /// What one does, its forks see.
    SharedFork,
    /// Its snapshots lack a part of the state.
    ForgetfulSnapshot,
    /// It takes any bytes for a snapshot.
    Credulous,
}

/// Sums up what it is told.
struct Sum {
    total: Arc<AtomicU64>,
    steps: u64,
    flaw: Flaw,
    mode: ForkMode,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Add {
    add: u64,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Total {
    total: u64,
    steps: u64,
}

impl Sum {
    fn total(&self) -> Total {
        Total { total: self.total.load(Ordering::Relaxed), steps: self.steps }
    }

    fn of(total: u64, steps: u64, flaw: Flaw) -> Self {
        Sum { total: Arc::new(AtomicU64::new(total)), steps, flaw, mode: ForkMode::Native }
    }
}

impl TypedEnvironment for Sum {
    type Action = Add;
    type Observation = Total;
    type State = Total;

    async fn reset(&mut self, reset: &Reset) -> Result<Step<Total>, Failure> {
        *self = Sum { mode: self.mode, ..Sum::of(reset.seed % 100, 0, self.flaw) };
        Ok(Step::new(self.total()))
    }

    async fn step(&mut self, action: Add) -> Result<Step<Total>, Failure> {
        self.total.fetch_add(action.add, Ordering::Relaxed);
        self.steps += 1;
        Ok(Step::new(self.total()).reward(1.0).done(self.steps == 5))
    }

    fn state(&self) -> Total {
        self.total()
    }

    fn fork(&self) -> Option<Self> {
        let Total { total, steps } = self.total();
        match self.flaw {
            _ if self.mode != ForkMode::Native => None,
            Flaw::ForgetfulFork => Some(Sum::of(0, 0, self.flaw)),
            Flaw::SharedFork => Some(Sum { total: Arc::clone(&self.total), ..Sum::of(0, steps, self.flaw) }),
            _ => Some(Sum::of(total, steps, self.flaw)),
        }
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        let Total { total, steps } = self.total();
        let steps = if self.flaw == Flaw::ForgetfulSnapshot { 0 } else { steps };
        Some([total.to_le_bytes(), steps.to_le_bytes()].concat())
    }

    fn restore(bytes: &[u8]) -> Option<Self> {
        let (total, steps) = bytes.split_first_chunk()?;
        let steps: [u8; 8] = steps.try_into().ok()?;
        Some(Sum::of(u64::from_le_bytes(*total), u64::from_le_bytes(steps), Flaw::Nothing))
    }
}

/// One that takes any bytes.
struct Believer(Sum);

impl TypedEnvironment for Believer {
    type Action = Add;
    type Observation = Total;
    type State = Total;

    async fn reset(&mut self, reset: &Reset) -> Result<Step<Total>, Failure> {
        self.0.reset(reset).await
    }

    async fn step(&mut self, action: Add) -> Result<Step<Total>, Failure> {
        self.0.step(action).await
    }

    fn state(&self) -> Total {
        self.0.state()
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.0.snapshot()
    }

    fn restore(bytes: &[u8]) -> Option<Self> {
        Some(Believer(Sum::restore(bytes).unwrap_or_else(|| Sum::of(0, 0, Flaw::Credulous))))
    }
}

fn spec(fork: ForkMode) -> EnvironmentSpec {
    let capabilities = Capabilities { fork, snapshot: true, ..Capabilities::default() };
    EnvironmentSpec { capabilities, ..EnvironmentSpec::new("sum", "Sums up.") }
}

async fn violations(factory: impl EnvironmentFactory + 'static) -> Vec<&'static str> {
    let actions: Vec<Value> = [1, 2, 3, 4, 5, 6].iter().map(|add| json!({ "add": add })).collect();
    let found = contract::check(Arc::new(factory), &actions).await;
    found.into_iter().map(|violation| violation.rule).collect()
}

async fn found(fork: ForkMode, flaw: Flaw) -> Vec<&'static str> {
    let make = move |_: &_| Sum { mode: fork, ..Sum::of(0, 0, flaw) };
    violations(typed(spec(fork), make)).await
}

#[tokio::test]
async fn environments_that_keep_the_rules_pass_however_they_are_forked() {
    for mode in [ForkMode::Native, ForkMode::Replay, ForkMode::None] {
        assert!(found(mode, Flaw::Nothing).await.is_empty(), "{mode:?}");
    }
}

#[tokio::test]
async fn flaws_are_found() {
    let fork = "forks go on as the original would, each by itself";
    let restored = "a restored snapshot goes on as the session would";
    for (flaw, rule) in
        [(Flaw::ForgetfulFork, fork), (Flaw::SharedFork, fork), (Flaw::ForgetfulSnapshot, restored)]
    {
        let found = found(ForkMode::Native, flaw).await;
        assert!(!found.is_empty() && found.iter().all(|seen| *seen == rule), "{flaw:?}: {found:?}");
    }
    // It says that it copies itself, and does not.
    let broken = violations(typed(spec(ForkMode::Native), |_| Sum {
        mode: ForkMode::None,
        ..Sum::of(0, 0, Flaw::Nothing)
    }));
    assert_eq!(broken.await, ["fork is as declared"]);
    let credulous = violations(typed(spec(ForkMode::None), |_| Believer(Sum::of(0, 0, Flaw::Nothing))));
    assert_eq!(credulous.await, ["bytes that are no snapshot are refused"]);
}
