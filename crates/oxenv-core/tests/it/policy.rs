//! Who may call what: patterns, roles, argument rules, and explanations that agree with them.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;

use oxenv_core::{Policy, Principal, RoleRules, Rules, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};

const AGENT: Principal = Principal::Agent;

fn texts(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
}

fn compiled(rules: Rules) -> Policy {
    Policy::compile(rules).unwrap()
}

fn with_arguments(rules: &[(&str, Value)]) -> Result<Policy, String> {
    let arguments = rules.iter().map(|(pattern, schema)| ((*pattern).to_owned(), schema.clone())).collect();
    Policy::compile(Rules { arguments, ..Rules::default() }).map_err(|error| error.to_string())
}

/// Reading is allowed, secrets are not, and an agent may not write what the orchestrator may.
fn files() -> Policy {
    compiled(Rules {
        allow: texts(&["read_*", "write_?"]),
        deny: texts(&["*_secret"]),
        roles: HashMap::from([(AGENT, RoleRules { deny: texts(&["write_*"]), ..RoleRules::default() })]),
        ..Rules::default()
    })
}

#[test]
fn without_rules_everybody_but_observers_may_call_everything() {
    for policy in [Policy::default(), compiled(Rules::default())] {
        for role in [Principal::Control, AGENT] {
            assert_eq!(policy.verdict(role, "anything"), Verdict::Allowed);
            assert_eq!(policy.limits(role).count(), 0);
        }
        let by = "observers never call tools";
        assert_eq!(policy.verdict(Principal::Observer, "anything"), Verdict::Denied { by });
        assert_eq!(policy.check_arguments("anything", &json!({})), Ok(()));
    }
}

#[test]
fn deny_wins_and_a_role_only_narrows() {
    let policy = files();
    let by = |role, tool| match policy.verdict(role, tool) {
        Verdict::Allowed => "",
        Verdict::Denied { by } => by,
    };
    assert_eq!(by(Principal::Control, "read_file"), "");
    assert_eq!(by(Principal::Control, "write_a"), "");
    assert_eq!(by(Principal::Control, "write_ab"), "allow: no pattern matches");
    assert_eq!(by(Principal::Control, "Read_file"), "allow: no pattern matches");
    assert_eq!(by(Principal::Control, "read_secret"), "deny: *_secret");
    assert_eq!(by(AGENT, "read_file"), "");
    assert_eq!(by(AGENT, "write_a"), "roles.agent.deny: write_*");
    assert_eq!(by(AGENT, "read_secret"), "deny: *_secret");

    // What everybody may not, a role cannot be given.
    let generous = RoleRules { allow: texts(&["*"]), ..RoleRules::default() };
    let policy = compiled(Rules {
        allow: texts(&["read"]),
        roles: HashMap::from([(AGENT, generous)]),
        ..Rules::default()
    });
    assert_eq!(policy.verdict(AGENT, "write"), Verdict::Denied { by: "allow: no pattern matches" });
}

#[test]
fn rules_that_cannot_be_kept_are_named() {
    let role = |role, rules| Rules { roles: HashMap::from([(role, rules)]), ..Rules::default() };
    let odd = RoleRules { allow: texts(&["{a,b}"]), ..RoleRules::default() };
    let cases = [
        (Rules { deny: texts(&["ok", "no[pe]"]), ..Rules::default() }, "deny: pattern 'no[pe]' holds '['"),
        (Rules { allow: texts(&[""]), ..Rules::default() }, "allow: an empty pattern"),
        (role(AGENT, odd), "roles.agent.allow: pattern '{a,b}' holds '{'"),
        (role(Principal::Observer, RoleRules::default()), "roles.observer: observers never call tools"),
    ];
    for (rules, expected) in cases {
        let error = Policy::compile(rules).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    for (schema, expected) in [
        (json!({ "type": 5 }), "at /type: 5 is not valid"),
        (json!("path"), "\"path\" is not of types"),
        (
            json!({ "properties": { "a": { "pattern": "(" } } }),
            "at /properties/a/pattern: \"(\" is no regular expression",
        ),
        // What would need backtracking is refused, and so is a format that nobody checks.
        (json!({ "pattern": "^(?!/etc)" }), "for a lookahead use \"not\""),
        (json!({ "format": "pathname" }), "at /format: \"pathname\" is no format that is checked"),
        (json!({ "$schema": "https://example.com/mine" }), "'https://example.com/mine' is not known"),
        (json!({ "$ref": "other.json" }), "it refers to 'other.json', but nothing is fetched"),
        (json!({ "type": "é".repeat(1000) }), "…"),
    ] {
        let error = with_arguments(&[("write_*", schema)]).unwrap_err();
        assert!(error.starts_with("arguments: 'write_*' is not a usable JSON Schema: "), "{error}");
        assert!(error.contains(expected) && error.len() < 1100, "{error}");
    }
}

#[test]
fn arguments_are_held_to_every_rule_that_matches() {
    let inside = json!({
        "properties": {
            "path": { "type": "string", "pattern": "^/workspace/", "not": { "pattern": "\\.\\." } }
        },
        "required": ["path"],
    });
    let short = json!({ "properties": { "text": { "maxLength": 5 } } });
    let policy = with_arguments(&[("*_file", inside), ("write_*", short)]).unwrap();
    let refusal = |tool, arguments| policy.check_arguments(tool, &arguments).map_err(|why| why.to_string());

    assert!(policy.has_argument_rules("read_file") && policy.has_argument_rules("write_x"));
    assert!(!policy.has_argument_rules("list"));
    assert_eq!(refusal("write_file", json!({ "path": "/workspace/a", "text": "short" })), Ok(()));
    assert_eq!(refusal("list", json!({ "path": 5 })), Ok(()));
    let cases = [
        (
            "read_file",
            json!({ "path": "/etc/passwd" }),
            "arguments: *_file: at /path: the value does not match",
        ),
        ("read_file", json!({ "path": "/workspace/../x" }), "arguments: *_file: at /path: "),
        (
            "read_file",
            json!({ "path": ["/workspace/a"] }),
            "arguments: *_file: at /path: the value is not of type",
        ),
        ("read_file", json!({}), "arguments: *_file: \"path\" is a required property"),
        ("write_file", json!({ "path": "/workspace/a", "text": "longer" }), "arguments: write_*: at /text: "),
    ];
    for (tool, arguments, expected) in cases {
        let why = refusal(tool, arguments).unwrap_err();
        assert!(why.starts_with(expected), "{why}");
        assert!(!why.contains("passwd"), "a value is told: {why}");
    }
    let rule = policy.check_arguments("read_file", &json!({})).unwrap_err().rule;
    assert_eq!(rule, "arguments: *_file");
}

#[test]
fn a_refusal_stays_short_and_tells_no_value() {
    let policy = with_arguments(&[("*", json!({ "additionalProperties": { "enum": ["a"] } }))]).unwrap();
    let secret = "hunter2".repeat(50);
    let many: BTreeMap<String, &str> =
        (0..1000).map(|n| (format!("{n}{}", "é".repeat(400)), secret.as_str())).collect();
    let why = policy.check_arguments("any", &json!(many)).unwrap_err().message;
    assert!(why.len() < 1010 && !why.contains("hunter2"), "{why}");
}

#[test]
fn formats_are_checked_and_booleans_are_schemas() {
    let uri = json!({ "properties": { "url": { "format": "uri" } } });
    let policy = with_arguments(&[("fetch", uri), ("never", json!(false)), ("always", json!(true))]).unwrap();
    assert!(policy.check_arguments("fetch", &json!({ "url": "not a uri" })).is_err());
    assert!(policy.check_arguments("fetch", &json!({ "url": "https://example.com" })).is_ok());
    assert!(policy.check_arguments("never", &json!({})).is_err());
    assert!(policy.check_arguments("always", &json!({})).is_ok());
}

#[test]
fn a_schema_fetches_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let web = format!("http://{}/schema.json", listener.local_addr().unwrap());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy_schema.json");
    std::fs::write(&file, "true").unwrap();
    let file = format!("file://{}", file.display());
    for target in [web.as_str(), file.as_str(), "schema.json", "https://example.com/schema.json#/a"] {
        for schema in [
            json!({ "$ref": target }),
            json!({ "$dynamicRef": target }),
            json!({ "properties": { "a": { "items": { "$ref": target } } } }),
            json!({ "$schema": target }),
            json!({ "$id": target, "$ref": "other.json" }),
        ] {
            let error = with_arguments(&[("*", schema)]).unwrap_err();
            assert!(error.starts_with("arguments: '*' is not a usable JSON Schema"), "{error}");
        }
    }
    assert!(listener.accept().is_err(), "somebody came to fetch the schema");
    // What is inside the schema is no fetch.
    let inner = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "object" } } });
    assert!(with_arguments(&[("*", inner)]).unwrap().check_arguments("x", &json!([])).is_err());
}

#[test]
fn hostile_schemas_and_arguments_end() {
    for endless in [
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }] }),
        json!({
            "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }
        }),
    ] {
        if let Ok(policy) = with_arguments(&[("*", endless)]) {
            let _ = policy.check_arguments("x", &json!({}));
        }
    }
    let policy =
        with_arguments(&[("*", json!({ "properties": { "a": { "pattern": "^(a+)+$" } } }))]).unwrap();
    assert!(policy.check_arguments("x", &json!({ "a": format!("{}!", "a".repeat(100_000)) })).is_err());
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let recursive = json!({ "items": { "$ref": "#" }, "type": "array" });
    let policy = with_arguments(&[("*", recursive)]).unwrap();
    assert!(policy.check_arguments("x", &deep).is_err());
}

#[test]
fn an_explanation_says_every_rule_in_order() {
    let policy = compiled(Rules {
        arguments: BTreeMap::from([("write_*".to_owned(), json!({ "required": ["path"] }))]),
        rate_limit: Some("10/s".parse().unwrap()),
        allow: texts(&["write_*"]),
        deny: texts(&["*_secret"]),
        roles: HashMap::from([(
            AGENT,
            RoleRules {
                deny: texts(&["write_b"]),
                rate_limit: Some("60/m".parse().unwrap()),
                ..RoleRules::default()
            },
        )]),
    });
    expect_test::expect![[r#"
          deny: *_secret             -
          roles.agent.deny: write_b  -
          allow: write_*             matches
          arguments: write_*         denies: "path" is a required property
        denied: agent may not call write_a (arguments: write_*)"#]]
    .assert_eq(&policy.explain(AGENT, "write_a", Some(&json!({}))).to_string());
    expect_test::expect![[r#"
          deny: *_secret      -
          allow: write_*      matches
          arguments: write_*  matches: no arguments were given to look into
        allowed: control may call write_a, within rate_limit: 10/s, burst 10, per session"#]]
    .assert_eq(&policy.explain(Principal::Control, "write_a", None).to_string());
    expect_test::expect![[r#"{"role":"observer","tool":"x","allowed":false,"by":"observers never call tools","rules":[{"rule":"observers never call tools","matched":true,"denies":true},{"rule":"deny: *_secret","matched":false,"denies":false},{"rule":"allow: write_*","matched":false,"denies":false},{"rule":"allow: no pattern matches","matched":true,"denies":true},{"rule":"arguments: write_*","matched":false,"denies":false}],"rate_limits":["rate_limit: 10/s, burst 10, per session"]}"#]]
    .assert_eq(&serde_json::to_string(&policy.explain(Principal::Observer, "x", None)).unwrap());
    let explained = policy.explain(AGENT, "write_b", None);
    assert_eq!(explained.rate_limits.len(), 2);
    assert_eq!(explained.by.as_deref(), Some("roles.agent.deny: write_b"));
}

/// A few patterns over a small alphabet, so that they often match.
fn patterns() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab*?]{1,3}", 0..3)
}

proptest! {
    #[test]
    fn an_explanation_agrees_with_the_policy(
        (allow, deny) in (patterns(), patterns()),
        (agent_allow, agent_deny, about) in (patterns(), patterns(), patterns()),
        role in prop::sample::select(vec![Principal::Control, AGENT, Principal::Observer]),
        tool in "[ab]{0,3}",
        arguments in prop::sample::select(vec![json!({}), json!({ "a": 1 })]),
    ) {
        let agent = RoleRules { allow: agent_allow, deny: agent_deny, rate_limit: None };
        let arguments_rules =
            about.into_iter().map(|pattern| (pattern, json!({ "required": ["a"] }))).collect();
        let policy = compiled(Rules {
            allow, deny, roles: HashMap::from([(AGENT, agent)]), rate_limit: None, arguments: arguments_rules,
        });
        let by_name = policy.verdict(role, &tool);
        let by_both = match by_name {
            Verdict::Denied { by } => Some(by.to_owned()),
            Verdict::Allowed => {
                policy.check_arguments(&tool, &arguments).err().map(|why| why.rule.to_owned())
            }
        };
        prop_assert_eq!(policy.explain(role, &tool, None).allowed, by_name == Verdict::Allowed);
        let explained = policy.explain(role, &tool, Some(&arguments));
        prop_assert_eq!(explained.allowed, by_both.is_none());
        prop_assert_eq!(explained.by, by_both);
    }
}
