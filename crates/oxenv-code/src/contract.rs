//! The rules that every engine keeps, as a suite.
//!
//! Invariant: a rule is checked on interpreters as a session has them, and every engine passes the same
//! suite. [`check`] finds every violation that it can; an empty list means that each rule was exercised.
//!
//! ```no_run
//! # async fn run(engine: std::sync::Arc<dyn oxenv_core::CodeEngine>) {
//! let violations = oxenv_code::contract::check(engine).await;
//! assert!(violations.is_empty(), "{violations:#?}");
//! # }
//! ```

mod copies;
mod limits;
mod programs;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::contract::Violation;
use oxenv_core::{CodeContext, CodeEngine, CodeLimits, Failure, Interpreter, Program};
use oxenv_wire::CodeOutcome;
use serde_json::value::RawValue;

use tools::SuiteTools;

/// The seed of interpreters where it does not matter.
const SEED: u64 = 7;
/// Within this an engine has to answer, whatever a program does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks every rule.
pub async fn check(engine: Arc<dyn CodeEngine>) -> Vec<Violation> {
    let mut suite = Suite { engine, tools: SuiteTools::new(), found: Vec::new() };
    suite.programs().await;
    suite.tools().await;
    suite.limits().await;
    suite.copies().await;
    suite.found
}

struct Suite {
    engine: Arc<dyn CodeEngine>,
    tools: SuiteTools,
    found: Vec<Violation>,
}

/// What a program is expected to show.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    stdout: &'static str,
    /// As JSON; absent: none.
    result: Option<&'static str>,
    /// The class of the exception that ends it; absent: none does.
    error: Option<&'static str>,
    /// What is in the message of that.
    message: &'static str,
    exit_code: i32,
}

impl Suite {
    fn fail(&mut self, rule: &'static str, seen: impl Into<String>) {
        self.found.push(Violation { rule, seen: seen.into() });
    }

    fn require(&mut self, rule: &'static str, holds: bool, seen: impl FnOnce() -> String) {
        if !holds {
            self.fail(rule, seen());
        }
    }

    /// An interpreter without variables.
    async fn open(&mut self, limits: CodeLimits) -> Option<Box<dyn Interpreter>> {
        self.open_with(SEED, limits).await
    }

    async fn open_with(&mut self, seed: u64, limits: CodeLimits) -> Option<Box<dyn Interpreter>> {
        match self.engine.open(CodeContext { seed, limits }).await {
            Ok(interpreter) => Some(interpreter),
            Err(failure) => {
                self.fail("an interpreter opens", failure.to_string());
                None
            }
        }
    }

    /// Runs a program; absent if it did not end in time.
    async fn try_run(
        &mut self,
        rule: &'static str,
        interpreter: &mut dyn Interpreter,
        code: &str,
    ) -> Option<Result<CodeOutcome, Failure>> {
        let program = Program { code, deadline: None, tools: &self.tools };
        let ran = tokio::time::timeout(ANSWER_TIMEOUT, interpreter.run(program)).await;
        if ran.is_err() {
            self.fail(rule, format!("{code:?} is still at work after {} s", ANSWER_TIMEOUT.as_secs()));
        }
        ran.ok()
    }

    /// Runs a program that must end with an outcome.
    async fn run(
        &mut self,
        rule: &'static str,
        interpreter: &mut dyn Interpreter,
        code: &str,
    ) -> Option<CodeOutcome> {
        match self.try_run(rule, interpreter, code).await? {
            Ok(outcome) => Some(outcome),
            Err(failure) => {
                self.fail(rule, format!("{code:?} has no outcome: {failure}"));
                None
            }
        }
    }

    /// Runs a program, and compares what it shows.
    async fn shows(
        &mut self,
        rule: &'static str,
        interpreter: &mut dyn Interpreter,
        code: &str,
        expected: Expected,
    ) {
        let Some(outcome) = self.run(rule, interpreter, code).await else { return };
        let error = outcome.error.as_ref();
        let fits = outcome.stdout == expected.stdout
            && outcome.result.as_deref().map(RawValue::get) == expected.result
            && error.map(|error| error.error_type.as_str()) == expected.error
            && error.is_none_or(|error| error.message.contains(expected.message))
            && outcome.exit_code == expected.exit_code;
        self.require(rule, fits, || format!("{code:?} shows {outcome:?}, and not {expected:?}"));
    }
}

impl Expected {
    fn result(json: &'static str) -> Self {
        Expected { result: Some(json), ..Expected::default() }
    }

    fn stdout(stdout: &'static str) -> Self {
        Expected { stdout, ..Expected::default() }
    }

    fn error(class: &'static str, message: &'static str) -> Self {
        Expected { error: Some(class), message, exit_code: 1, ..Expected::default() }
    }
}
