//! The outcome of each rule, for people and for programs.
//!
//! Invariant: a rule that was not really exercised is never reported as one that holds.

use serde::Serialize;

/// The outcome of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "detail", rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It holds; names what was tried.
    Holds(String),
    /// It does not hold; names what was seen.
    Fails(String),
    /// It does not apply; names the reason.
    NotOffered(String),
}

/// A rule and its outcome.
#[derive(Debug, Serialize)]
pub(super) struct RuleResult {
    rule: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

/// The outcomes of all rules.
#[derive(Debug, Serialize)]
pub(super) struct CheckReport {
    pub(super) environment: String,
    /// How it was reached: `sessions` over HTTP, or the `websocket` of any OpenEnv server.
    pub(super) door: &'static str,
    pub(super) deterministic: bool,
    rules: Vec<RuleResult>,
}

impl CheckReport {
    pub(super) fn new(environment: String, door: &'static str, deterministic: bool) -> Self {
        CheckReport { environment, door, deterministic, rules: Vec::new() }
    }

    pub(super) fn add(&mut self, rule: &'static str, verdict: Verdict) {
        self.rules.push(RuleResult { rule, verdict });
    }

    pub(super) fn failures(&self) -> usize {
        self.rules.iter().filter(|line| matches!(line.verdict, Verdict::Fails(_))).count()
    }

    pub(super) fn table(&self) -> String {
        let promise = match self.deterministic {
            true => "held to be deterministic",
            false => "not held to be deterministic",
        };
        let mut lines = vec![format!("{}, {promise}, by way of {}", self.environment, self.door)];
        lines.extend(self.rules.iter().map(|line| {
            let (word, detail) = match &line.verdict {
                Verdict::Holds(detail) => ("holds", detail),
                Verdict::Fails(detail) => ("FAILS", detail),
                Verdict::NotOffered(detail) => ("not offered", detail),
            };
            format!("{word:<12} {:<16} {detail}", line.rule)
        }));
        lines.join("\n")
    }
}
