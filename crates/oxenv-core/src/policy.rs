//! The policy of a toolset: which callers may call which of its tools, with which arguments, how
//! often.
//!
//! Invariant: a compiled policy never changes and never guesses. Deny wins over allow, a role can only
//! restrict the rules for all callers, and a rule that cannot be kept is an error before anything
//! runs.
//!
//! Rules are about a tool's name in its own toolset, not the name it is offered under, so that a
//! prefix given because of a conflict does not undo them.

mod arguments;
mod explain;
mod pattern;
mod rate;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use oxenv_schema::{CheckBudget, TooDeep};
use serde_json::Value;

use crate::principal::Principal;
use arguments::ArgumentRule;
use rate::{Limit, Limits};

pub use arguments::ArgumentRefusal;
pub use explain::{ConsideredRule, Explanation};
pub(crate) use pattern::Pattern;
pub use rate::{Buckets, RateLimit, RateScope, RetryAfter};

/// The rules of one toolset, as they were written. The default lets everything through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Patterns of the tools that may be called; none: all of them.
    pub allow: Vec<String>,
    /// Patterns of the tools that may not be called, whatever `allow` contains.
    pub deny: Vec<String>,
    /// What holds for a role besides; observers may never call, so they have no rules.
    pub roles: HashMap<Principal, RoleRules>,
    /// How often all callers together may call.
    pub rate_limit: Option<RateLimit>,
    /// By a pattern of tools: a JSON Schema (2020-12 unless it names another draft) that the
    /// arguments must fit besides the tool's own.
    pub arguments: BTreeMap<String, Value>,
}

/// The rules of one role, besides the rules for all callers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoleRules {
    /// Patterns of the tools that this role may call; none: all that the rules for all callers
    /// allow.
    pub allow: Vec<String>,
    /// Patterns of the tools that this role may not call.
    pub deny: Vec<String>,
    /// How often this role may call.
    pub rate_limit: Option<RateLimit>,
}

/// Rules that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// Where they stand, as keys below the toolset: `roles.agent.deny`.
    pub place: String,
    /// What is wrong, naming the pattern or the schema.
    pub problem: String,
}

/// Whether a role may call a tool at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may.
    Allowed,
    /// It may not.
    Denied {
        /// The rule that decides it.
        by: &'a str,
    },
}

/// Compiled rules. The default lets everything through, except that observers never call.
#[derive(Debug, Default)]
pub struct Policy {
    everybody: Layer,
    roles: HashMap<Principal, Layer>,
    arguments: Vec<ArgumentRule>,
    limits: Limits,
}

/// The patterns for all callers, or those of one role.
#[derive(Debug, Default)]
struct Layer {
    deny: Vec<NameRule>,
    allow: Vec<NameRule>,
    /// The rule that denies what no pattern of `allow` matches.
    unlisted: String,
}

#[derive(Debug)]
struct NameRule {
    pattern: Pattern,
    /// The rule as people read it.
    rule: String,
}

const OBSERVER_RULE: &str = "observers never call tools";

impl Policy {
    /// Compiles rules.
    ///
    /// # Errors
    /// The first rule that cannot be kept: a pattern or a rate that makes no sense, a schema that
    /// does not compile or refers to something outside itself.
    pub fn compile(rules: Rules) -> Result<Self, PolicyError> {
        let mut limits = Limits::default();
        limits.add(rules.rate_limit, None, "")?;
        let mut roles = HashMap::new();
        for (role, rules) in in_order(rules.roles) {
            let place = format!("roles.{role}");
            if role == Principal::Observer {
                let problem = format!("{OBSERVER_RULE}, so rules about them do nothing; remove them");
                return Err(PolicyError { place, problem });
            }
            let place = format!("{place}.");
            limits.add(rules.rate_limit, Some(role), &place)?;
            roles.insert(role, Layer::new(&rules.allow, &rules.deny, &place)?);
        }
        let mut arguments = Vec::new();
        for (text, schema) in &rules.arguments {
            let wrong = |problem| PolicyError { place: "arguments".to_owned(), problem };
            let pattern = Pattern::new(text).map_err(wrong)?;
            let rule = ArgumentRule::new(pattern, format!("arguments: {text}"), schema)
                .map_err(|problem| wrong(format!("'{text}' is {problem}")))?;
            arguments.push(rule);
        }
        Ok(Policy { everybody: Layer::new(&rules.allow, &rules.deny, "")?, roles, arguments, limits })
    }

    /// Whether a role may call a tool. Ask once for each, when a toolbox is built: the answer is
    /// always the same.
    #[must_use]
    pub fn verdict(&self, role: Principal, tool: &str) -> Verdict<'_> {
        if role == Principal::Observer {
            return Verdict::Denied { by: OBSERVER_RULE };
        }
        let denied = self.layers(role).find_map(|layer| layer.deny.iter().find(|rule| rule.matches(tool)));
        if let Some(rule) = denied {
            return Verdict::Denied { by: &rule.rule };
        }
        match self.layers(role).find(|layer| layer.leaves_out(tool)) {
            Some(layer) => Verdict::Denied { by: &layer.unlisted },
            None => Verdict::Allowed,
        }
    }

    /// Whether [`Policy::check_arguments`] looks at anything for this tool.
    #[must_use]
    pub fn has_argument_rules(&self, tool: &str) -> bool {
        self.rules_of(tool).next().is_some()
    }

    /// Holds arguments against every argument rule of a tool. Absent arguments are `{}`.
    ///
    /// # Errors
    /// The first rule that refuses, with where and why; values of the arguments are not included. A rule
    /// also refuses what it cannot check because it is nested too deep.
    pub fn check_arguments(&self, tool: &str, arguments: &Value) -> Result<(), ArgumentRefusal<'_>> {
        self.rules_of(tool).try_for_each(|rule| rule.verdict(arguments))
    }

    /// Holds arguments against every argument rule of a tool, within a budget.
    ///
    /// # Errors
    /// [`TooDeep`] when a rule could not find out; the inner error is the first rule that refuses.
    pub(crate) fn check_within(
        &self,
        tool: &str,
        arguments: &Value,
        budget: &CheckBudget,
    ) -> Result<Result<(), ArgumentRefusal<'_>>, TooDeep> {
        for rule in self.rules_of(tool) {
            if let Err(refusal) = rule.check(arguments, budget)? {
                return Ok(Err(refusal));
            }
        }
        Ok(Ok(()))
    }

    fn rules_of(&self, tool: &str) -> impl Iterator<Item = &ArgumentRule> {
        self.arguments.iter().filter(move |rule| rule.pattern.matches(tool))
    }

    /// The rate limits that count calls of that role.
    pub fn limits(&self, role: Principal) -> impl Iterator<Item = &RateLimit> {
        self.limits_of(role).map(|limit| &limit.rate)
    }

    fn limits_of(&self, role: Principal) -> impl Iterator<Item = &Limit> {
        let all = self.limits.session.iter().chain(&self.limits.server);
        all.filter(move |limit| limit.counts(role))
    }

    fn layers(&self, role: Principal) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.everybody).chain(self.roles.get(&role))
    }
}

impl Layer {
    fn new(allow: &[String], deny: &[String], place: &str) -> Result<Self, PolicyError> {
        Ok(Layer {
            deny: name_rules(deny, &format!("{place}deny"))?,
            allow: name_rules(allow, &format!("{place}allow"))?,
            unlisted: format!("{place}allow: no pattern matches"),
        })
    }

    fn leaves_out(&self, tool: &str) -> bool {
        !self.allow.is_empty() && !self.allow.iter().any(|rule| rule.matches(tool))
    }
}

impl Limits {
    fn add(
        &mut self,
        rate: Option<RateLimit>,
        role: Option<Principal>,
        place: &str,
    ) -> Result<(), PolicyError> {
        let Some(rate) = rate else { return Ok(()) };
        let place = format!("{place}rate_limit");
        rate.check().map_err(|problem| PolicyError { place: place.clone(), problem })?;
        let shared = match rate.scope {
            RateScope::Session => &mut self.session,
            RateScope::Server => &mut self.server,
        };
        shared.push(Limit { rate, role, rule: format!("{place}: {rate}") });
        Ok(())
    }
}

impl NameRule {
    fn matches(&self, tool: &str) -> bool {
        self.pattern.matches(tool)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for PolicyError {}

impl fmt::Display for ArgumentRefusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// The role's name in rules and records.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Principal::Control => "control",
            Principal::Agent => "agent",
            Principal::Observer => "observer",
        })
    }
}

impl FromStr for Principal {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "control" => Ok(Principal::Control),
            "agent" => Ok(Principal::Agent),
            "observer" => Ok(Principal::Observer),
            _ => Err(format!("'{name}' is no role; roles are control, agent and observer")),
        }
    }
}

/// Roles in a fixed order, so that the same rules give the same error.
fn in_order(mut roles: HashMap<Principal, RoleRules>) -> Vec<(Principal, RoleRules)> {
    [Principal::Control, Principal::Agent, Principal::Observer]
        .into_iter()
        .filter_map(|role| roles.remove(&role).map(|rules| (role, rules)))
        .collect()
}

fn name_rules(patterns: &[String], place: &str) -> Result<Vec<NameRule>, PolicyError> {
    let compile = |text: &String| match Pattern::new(text) {
        Ok(pattern) => Ok(NameRule { pattern, rule: format!("{place}: {text}") }),
        Err(problem) => Err(PolicyError { place: place.to_owned(), problem }),
    };
    patterns.iter().map(compile).collect()
}
