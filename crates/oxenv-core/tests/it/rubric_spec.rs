//! Declared rubrics: an error names the place of what is wrong, and what was probably meant.

use oxenv_core::{Judges, RubricSpec};
use serde_json::{Value, json};

use crate::rubric_support::{ScriptedJudge, judges};

fn problem(declared: Value) -> String {
    RubricSpec::read(declared).unwrap_err().to_string()
}

fn rubric(component: Value) -> Value {
    let mut whole = json!({ "version": 1 });
    whole["rubric"] = component;
    whole
}

#[test]
fn every_mistake_has_a_place_and_a_remedy() {
    for (component, expected) in [
        (json!([]), "rubric: must be an object, not a list"),
        (json!({}), "rubric: 'type' is missing"),
        (json!({ "type": 5 }), "rubric.type: must be a string, not a number"),
        (json!({ "type": "gat" }), "rubric.type: no component is called 'gat'; did you mean 'gate'?"),
        (json!({ "type": "tool_called", "tol": "x" }), "rubric: unknown key 'tol'; did you mean 'tool'?"),
        (
            json!({ "type": "tool_called", "tool": "a b" }),
            "rubric.tool: pattern 'a b' holds ' '; only * and ? are special, so write ? for such a character",
        ),
        (
            json!({ "type": "tool_called", "tool": "a", "at_least": -1 }),
            "rubric.at_least: must be a whole number, 0 or more, not another one",
        ),
        (
            json!({ "type": "tool_called", "tool": "a", "at_least": 3, "at_most": 2 }),
            "rubric.at_most: must be 3 or more, as 'at_least' is",
        ),
        (json!({ "type": "output_matches" }), "rubric: 'schema' is missing"),
        (json!({ "type": "final_state" }), "rubric.schema: give either 'schema' or 'contains'"),
        (
            json!({ "type": "final_state", "of": "board", "contains": 1 }),
            "rubric.of: must be 'state' or 'observation'",
        ),
        (json!({ "type": "constant" }), "rubric: 'value' is missing"),
        (json!({ "type": "constant", "value": "1" }), "rubric.value: must be a number, not a string"),
        (
            json!({ "type": "constant", "value": 1, "weight": 1 }),
            "rubric: unknown key 'weight'; known are type, name, value, tool",
        ),
        (json!({ "type": "sequence", "parts": [] }), "rubric.parts: the list is empty"),
        (
            json!({
                "type": "sequence",
                "parts": [{ "type": "environment_reward" }, { "type": "environment_reward" }]
            }),
            "rubric.parts[1]: two parts are called 'environment_reward'; give one of them a 'name'",
        ),
        (
            json!({ "type": "gate", "part": { "type": "constant", "value": 1, "name": "a.b" } }),
            "rubric.part.name: a name has 1 to 64 bytes, and no dot in it",
        ),
        (
            json!({ "type": "weighted_sum", "parts": [{ "type": "environment_reward" }] }),
            "rubric.parts[0]: 'weight' is missing",
        ),
        (
            json!({ "type": "weighted_sum", "parts": [{ "weight": 0.5, "type": "environment_reward" }] }),
            "rubric.parts: the weights add up to 0.5; make them add up to 1",
        ),
        (
            json!({ "type": "trajectory", "gamma": 1.5, "part": { "type": "environment_reward" } }),
            "rubric.gamma: gamma is 1.5; it must be from 0 to 1",
        ),
        (
            json!({ "type": "judge", "prompt": "Well?" }),
            "rubric.prompt: the prompt shows nothing of the episode; put {transcript}, {action}, \
             {observation} or {task} into it",
        ),
        (
            json!({ "type": "judge", "prompt": "{transcripts}" }),
            "rubric.prompt: '{transcripts}' is no part of an episode; did you mean 'transcript'?",
        ),
        (
            json!({ "type": "judge", "prompt": "{task}", "range": [1, 1] }),
            "rubric.range: the range is from 1 to 1; the second must be the greater one",
        ),
        (
            json!({ "type": "judge", "prompt": "{task}", "range": 1 }),
            "rubric.range: must be two numbers: [0, 1]",
        ),
        (
            json!({ "type": "judge", "prompt": "{task}", "when": "never" }),
            "rubric.when: must be 'end' or 'every_act'",
        ),
    ] {
        assert_eq!(problem(rubric(component.clone())), expected, "{component}");
    }
    let schema = problem(rubric(json!({ "type": "output_matches", "schema": { "type": "objct" } })));
    assert!(schema.starts_with("rubric.schema: not a usable JSON Schema: at /type"), "{schema}");
    let remote = json!({ "type": "output_matches", "schema": { "$ref": "http://localhost/x.json" } });
    assert!(problem(rubric(remote)).contains("nothing is fetched"));
}

#[test]
fn the_whole_is_looked_at_too() {
    let constant = json!({ "type": "constant", "value": 1 });
    assert_eq!(problem(json!(5)), "must be an object, not a number");
    assert_eq!(problem(json!({ "rubric": constant })), "'version' is missing");
    assert_eq!(problem(json!({ "version": 2, "rubric": constant })), "version: only version 1 is known here");
    assert_eq!(problem(json!({ "version": 1 })), "'rubric' is missing");
    let extra = json!({ "version": 1, "rubric": constant, "end": constant });
    assert_eq!(problem(extra), "unknown key 'end'; did you mean 'ends'?");
    let ends = json!({ "version": 1, "rubric": constant, "ends": { "type": "constant" } });
    assert_eq!(problem(ends), "ends: 'value' is missing");
}

#[test]
fn judges_are_found_by_their_names() {
    let asks = |name: &str| {
        let judge = |name: &str| json!({ "type": "judge", "name": name, "judge": name, "prompt": "{task}" });
        let parts = json!([judge(name), judge("default"), { "type": "judge", "prompt": "{action}" }]);
        RubricSpec::read(rubric(json!({ "type": "sum", "parts": parts }))).unwrap()
    };
    let spec = asks("style");
    assert_eq!((spec.judges(), spec.suspends()), (&["style".to_owned(), "default".to_owned()][..], true));
    let problem = |spec: &RubricSpec, judges: &Judges| spec.compile(judges).err().unwrap().to_string();
    let none = "rubric.parts[0].judge: no judge is called 'style'; configure one";
    assert_eq!(problem(&spec, &Judges::default()), none);
    let one = judges(&ScriptedJudge::answering("1"));
    let near = "rubric.parts[0].judge: no judge is called 'defalt'; did you mean 'default'?";
    assert_eq!(problem(&asks("defalt"), &one), near);
    let spec = RubricSpec::read(rubric(json!({ "type": "environment_reward" }))).unwrap();
    assert!(!spec.suspends() && spec.compile(&Judges::default()).is_ok());
}

#[test]
fn nothing_that_is_declared_makes_the_reader_panic() {
    let long = "x".repeat(100_000);
    let mut deep = json!({ "type": "environment_reward" });
    for _ in 0..100 {
        deep = json!({ "type": "gate", "part": deep });
    }
    assert!(RubricSpec::read(rubric(deep)).is_ok());
    for component in [json!({ "type": long }), json!({ "type": "gate", long.as_str(): 1 }), Value::Null] {
        assert!(RubricSpec::read(rubric(component)).is_err());
    }
    for prompt in ["{", "}", "{}", "{task", "{{", "{Task}", "{ task }", "{\"a\": 1}", "ü{ö}"] {
        assert!(RubricSpec::read(rubric(json!({ "type": "judge", "prompt": prompt }))).is_err(), "{prompt}");
        let whole = format!("{prompt}{{task}}");
        assert!(RubricSpec::read(rubric(json!({ "type": "judge", "prompt": whole }))).is_ok(), "{whole}");
    }
}
