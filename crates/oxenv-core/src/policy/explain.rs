//! How a policy decides one call, rule by rule.
//!
//! Invariant: an explanation has the same decision as [`Policy::verdict`] and
//! [`Policy::check_arguments`], but continues after it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::policy::{Layer, OBSERVER_RULE, Policy};
use crate::principal::Principal;

/// Every rule that was checked for a call, in order, with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The caller.
    pub role: String,
    /// What would be called.
    pub tool: String,
    /// Whether the call would be let through, if it is not too early.
    pub allowed: bool,
    /// The first rule that denies.
    pub by: Option<String>,
    /// The rules in the order in which they count.
    pub rules: Vec<ConsideredRule>,
    /// The rate limits that would count the call.
    pub rate_limits: Vec<String>,
}

/// The outcome of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsideredRule {
    /// The rule: where it stands, and its pattern.
    pub rule: String,
    /// Whether it is about this role and tool.
    pub matched: bool,
    /// Whether it denies the call.
    pub denies: bool,
    /// For an argument rule: why it refuses, or that it could not be looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Policy {
    /// Explains how a call would be decided; without arguments, argument rules are named only.
    #[must_use]
    pub fn explain(&self, role: Principal, tool: &str, arguments: Option<&Value>) -> Explanation {
        let mut rules = Vec::new();
        if role == Principal::Observer {
            rules.push(ConsideredRule::named(OBSERVER_RULE, true, true));
        }
        for layer in self.layers(role) {
            rules.extend(layer.deny.iter().map(|rule| {
                let matched = rule.matches(tool);
                ConsideredRule::named(&rule.rule, matched, matched)
            }));
        }
        for layer in self.layers(role) {
            rules.extend(layer.name_rules_for(tool));
        }
        for rule in &self.arguments {
            let matched = rule.pattern.matches(tool);
            let mut looked_at = ConsideredRule::named(&rule.rule, matched, false);
            if matched {
                looked_at.why = match arguments.map(|arguments| rule.verdict(arguments)) {
                    None => Some("no arguments were given to look into".to_owned()),
                    Some(Ok(())) => None,
                    Some(Err(refusal)) => Some(refusal.message),
                };
                looked_at.denies = arguments.is_some() && looked_at.why.is_some();
            }
            rules.push(looked_at);
        }
        let by = rules.iter().find(|rule| rule.denies).map(|rule| rule.rule.clone());
        Explanation {
            role: role.to_string(),
            tool: tool.to_owned(),
            allowed: by.is_none(),
            by,
            rules,
            rate_limits: self.limits_of(role).map(|limit| limit.rule.clone()).collect(),
        }
    }
}

impl Layer {
    /// The patterns of `allow`, and after them the denial that follows when none matches.
    fn name_rules_for(&self, tool: &str) -> Vec<ConsideredRule> {
        let mut rules: Vec<ConsideredRule> = self
            .allow
            .iter()
            .map(|rule| ConsideredRule::named(&rule.rule, rule.matches(tool), false))
            .collect();
        if self.leaves_out(tool) {
            rules.push(ConsideredRule::named(&self.unlisted, true, true));
        }
        rules
    }
}

impl ConsideredRule {
    fn named(rule: &str, matched: bool, denies: bool) -> Self {
        ConsideredRule { rule: rule.to_owned(), matched, denies, why: None }
    }

    fn finding(&self) -> &'static str {
        match (self.denies, self.matched) {
            (true, _) => "denies",
            (false, true) => "matches",
            (false, false) => "-",
        }
    }
}

/// One line for each rule, then one with the decision.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rules.iter().map(|rule| rule.rule.chars().count()).max().unwrap_or(0);
        for rule in &self.rules {
            write!(f, "  {:width$}  {}", rule.rule, rule.finding())?;
            match &rule.why {
                Some(why) => writeln!(f, ": {why}")?,
                None => writeln!(f)?,
            }
        }
        match &self.by {
            Some(rule) => write!(f, "denied: {} may not call {} ({rule})", self.role, self.tool),
            None => {
                write!(f, "allowed: {} may call {}", self.role, self.tool)?;
                let limits = self.rate_limits.join("; ");
                if limits.is_empty() { Ok(()) } else { write!(f, ", within {limits}") }
            }
        }
    }
}
