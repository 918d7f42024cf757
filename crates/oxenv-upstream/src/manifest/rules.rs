//! Reads an entry's rules: `allow`, `deny`, `roles`, `rate_limit`, `arguments`.
//!
//! Invariant: each rule is tried on its own with the policy that will keep it, so that a mistake
//! is reported at its own place.

use std::collections::{BTreeMap, HashMap};

use oxenv_core::{Policy, Principal, RateLimit, RateScope, RoleRules, Rules};
use serde_json::Value;

use crate::manifest::node::Kind;
use crate::manifest::problem::Severity;
use crate::manifest::reader::{Fields, Reader, YamlValue};

/// The keys of a role.
pub(super) const ROLE_KEYS: [&str; 3] = ["allow", "deny", "rate_limit"];
/// The keys of a rate limit.
pub(super) const RATE_KEYS: [&str; 3] = ["rate", "burst", "per"];
pub(super) const ROLES: [(&str, Principal); 2] =
    [("control", Principal::Control), ("agent", Principal::Agent)];
pub(super) const RATE_SCOPES: [(&str, RateScope); 2] =
    [("session", RateScope::Session), ("server", RateScope::Server)];

/// The rules of an entry, without those that were reported.
pub(super) fn read(fields: &Fields<'_>, reader: &mut Reader<'_>) -> Rules {
    Rules {
        allow: patterns("allow", fields, reader),
        deny: patterns("deny", fields, reader),
        roles: fields.get("roles").map(|spot| roles(spot, reader)).unwrap_or_default(),
        rate_limit: fields.get("rate_limit").and_then(|spot| rate_limit(spot, reader)),
        arguments: fields.get("arguments").map(|spot| arguments(spot, reader)).unwrap_or_default(),
    }
}

fn patterns(key: &str, fields: &Fields<'_>, reader: &mut Reader<'_>) -> Vec<String> {
    let Some(items) = fields.get(key).and_then(|spot| spot.list(reader)) else { return Vec::new() };
    if items.is_empty() && key == "allow" {
        // In the policy an empty list allows everything, which is not what its author means.
        let spot = fields.get(key).unwrap_or(&fields.spot);
        reader.error_with(
            spot,
            format!("{} is empty", spot.path),
            "remove it to allow all tools, or write deny: [\"*\"]",
        );
    }
    let mut patterns = Vec::new();
    for item in items {
        let Some(pattern) = item.text(reader) else { continue };
        let rules = Rules { allow: vec![pattern.to_owned()], ..Rules::default() };
        if is_kept(rules, &item, reader) {
            patterns.push(pattern.to_owned());
        }
    }
    patterns
}

fn roles(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> HashMap<Principal, RoleRules> {
    let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
    let hint = |key: &str| {
        (key == "observer").then(|| "observers never call tools, so they need no rules".to_owned())
    };
    let Some(fields) = spot.fields("roles", &names, &hint, reader) else { return HashMap::new() };
    let mut roles = HashMap::new();
    for (name, role) in ROLES {
        let Some(fields) =
            fields.get(name).and_then(|spot| spot.fields("a role", &ROLE_KEYS, &|_| None, reader))
        else {
            continue;
        };
        let rules = RoleRules {
            allow: patterns("allow", &fields, reader),
            deny: patterns("deny", &fields, reader),
            rate_limit: fields.get("rate_limit").and_then(|spot| rate_limit(spot, reader)),
        };
        roles.insert(role, rules);
    }
    roles
}

/// `10/s`, or a mapping of `rate`, `burst` and `per`.
fn rate_limit(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<RateLimit> {
    if !matches!(spot.node.kind, Kind::Map(_)) {
        return rate(spot, reader);
    }
    let fields = spot.fields("a rate limit", &RATE_KEYS, &|_| None, reader)?;
    let burst = fields.get("burst").and_then(|spot| calls(spot, reader));
    let scope = fields.get("per").and_then(|spot| spot.one_of(&RATE_SCOPES, reader));
    let rate = rate(fields.required("rate", reader)?, reader)?;
    Some(RateLimit { burst: burst.unwrap_or(rate.burst), scope: scope.unwrap_or(rate.scope), ..rate })
}

fn rate(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<RateLimit> {
    let Kind::Text(text) = &spot.node.kind else {
        let message = format!("{} must be a rate or a mapping, not {}", spot.path, spot.node.kind_name());
        reader.error_with(spot, message, "write 10/s, 100/m or 1000/h");
        return None;
    };
    match text.parse() {
        Ok(rate) => Some(rate),
        Err(why) => {
            reader.error(spot, why);
            None
        }
    }
}

fn calls(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<u32> {
    let whole = match &spot.node.kind {
        Kind::Number(_, Some(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        _ => None,
    };
    let calls = whole.filter(|calls| *calls > 0);
    if calls.is_none() {
        reader.error(spot, format!("{} must be a whole number above 0", spot.path));
    }
    calls
}

/// By pattern, the schemas that arguments must fit besides the tools' own.
fn arguments(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> BTreeMap<String, Value> {
    let mut arguments = BTreeMap::new();
    for (pattern, spot) in spot.map(reader).unwrap_or_default() {
        let schema = match spot.node.to_json() {
            Ok(schema) => schema,
            Err(at) => {
                let message = "a number that JSON has no spelling for";
                reader.report(Severity::Error, at, &spot.path, message, None);
                continue;
            }
        };
        let rules =
            Rules { arguments: BTreeMap::from([(pattern.to_owned(), schema.clone())]), ..Rules::default() };
        if is_kept(rules, &spot, reader) {
            arguments.insert(pattern.to_owned(), schema);
        }
    }
    arguments
}

/// Whether a policy can keep these rules; if not, why is reported.
fn is_kept(rules: Rules, spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> bool {
    match Policy::compile(rules) {
        Ok(_) => true,
        Err(error) => {
            reader.error(spot, error.problem);
            false
        }
    }
}
