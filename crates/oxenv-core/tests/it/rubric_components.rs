//! What each component gives, alone and within others, and what holds for any numbers.

use oxenv_core::Rubric;
use oxenv_core::rubric::{
    Combination, ComponentRubric, EnvironmentReward, Gate, Rescored, Trajectory, rescore,
};
use oxenv_wire::{ErrorCode, Phase, Reward, ToolErrorType, raw};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::rubric_support::{action, by, call, episode, failed, last, rewarded, rewards, text_only};

fn constant(name: &str, value: f64) -> Value {
    json!({ "type": "constant", "name": name, "value": value })
}

fn part(name: &str, rubric: impl Rubric + 'static) -> ComponentRubric {
    ComponentRubric::new(name, Box::new(rubric))
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Steps whose environment gave these rewards.
fn steps(rewards: &[f64]) -> Vec<oxenv_core::rubric::RecordedStep> {
    let step = |reward: &f64| rewarded(action(&json!({}), &json!({})), *reward);
    let mut steps: Vec<_> = rewards.iter().map(step).collect();
    if let Some(step) = steps.pop() {
        steps.push(last(step));
    }
    steps
}

fn scores(rescored: &Rescored, step: usize) -> Value {
    let parts = rescored.steps[step].report.parts.iter();
    parts.map(|(name, reward)| (name.clone(), json!(reward))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_tool_is_called_as_often_as_it_should_be() {
    let calls = || {
        let call = |argument: i64| call("search_web", &json!({ "n": argument }), &json!("ok"));
        vec![call(1), failed(call(2)), call(3), last(action(&json!({}), &json!({})))]
    };
    for (more, expected) in [
        (json!({}), 1.0),
        (json!({ "at_least": 2 }), 1.0),
        (json!({ "at_least": 3 }), 0.0),
        (json!({ "at_most": 1 }), 0.0),
        (json!({ "at_most": 2 }), 1.0),
        (json!({ "at_most": 0 }), 0.0),
        (json!({ "tool": "search" }), 0.0),
        (json!({ "tool": "read", "at_most": 0 }), 1.0),
        (json!({ "arguments": { "properties": { "n": { "const": 3 } } } }), 1.0),
        (json!({ "arguments": { "properties": { "n": { "const": 2 } } } }), 0.0),
    ] {
        let mut component = json!({ "type": "tool_called", "tool": "search_*" });
        component.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let given = rewards(component.clone(), calls()).await;
        assert_eq!(given, [None, None, None, Some(expected)], "{component}");
    }
}

#[tokio::test]
async fn an_output_matches_its_schema_or_not() {
    let component = json!({ "type": "output_matches", "tool": "a*", "schema": { "type": "integer" } });
    let episode = vec![
        call("a", &json!({}), &json!(7)),
        failed(call("a", &json!({}), &json!(7))),
        call("ab", &json!({}), &json!("7")),
        text_only(call("a", &json!({}), &json!(0)), "7"),
        text_only(call("a", &json!({}), &json!(0)), "seven"),
        call("b", &json!({}), &json!(7)),
        action(&json!({}), &json!({})),
    ];
    let expected = [Some(1.0), Some(0.0), Some(0.0), Some(1.0), Some(0.0), None, None];
    assert_eq!(rewards(component, episode.clone()).await, expected);
    let component = json!({ "type": "output_matches", "schema": { "maxProperties": 0 } });
    assert_eq!(rewards(component, episode).await, [None, None, None, None, None, None, Some(1.0)]);
}

/// Whether the texts of a text-only tool fit a schema, each.
async fn fit(schema: &Value, texts: &[&str]) -> Vec<bool> {
    let component = json!({ "type": "output_matches", "tool": "a", "schema": schema });
    let steps = texts.iter().map(|text| text_only(call("a", &json!({}), &json!(0)), text)).collect();
    rewards(component, steps).await.into_iter().map(|reward| reward == Some(1.0)).collect()
}

#[tokio::test]
async fn a_keyword_is_not_met_by_a_value_of_another_type() {
    let texts = ["0", "null", "true", "[]", "{}", "passed", "4", "[1]", ""];
    for (schema, fitting) in [
        (json!({ "pattern": "^passed$" }), &["passed"][..]),
        (json!({ "minLength": 5 }), &["passed"]),
        (json!({ "minimum": 3 }), &["4"]),
        (json!({ "multipleOf": 2 }), &["0", "4"]),
        (json!({ "minItems": 1 }), &["[1]"]),
        (json!({ "items": {} }), &["[]", "[1]"]),
        (json!({ "minItems": 1, "minimum": 3 }), &["4", "[1]"]),
        (json!({ "anyOf": [{ "pattern": "^p" }, { "minimum": 1 }] }), &["passed", "4"]),
        (
            json!({ "maxLength": 6, "type": ["string", "null"], "not": { "pattern": "^.?.?$" } }),
            &["null", "passed", "true", "[1]"],
        ),
    ] {
        let expected: Vec<bool> = texts.iter().map(|text| fitting.contains(text)).collect();
        assert_eq!(fit(&schema, &texts).await, expected, "{schema}");
    }
}

#[tokio::test]
async fn a_text_fits_as_a_string_or_as_its_json() {
    for (schema, text, fits) in [
        (json!({ "type": "string", "pattern": r"^\d+$" }), "42", true),
        (json!({ "pattern": r"^\d+$" }), "42", true),
        (json!({ "const": "42" }), "42", true),
        (json!({ "const": 42 }), "42", true),
        (json!({ "enum": ["42", null] }), "42", true),
        (json!({ "const": "ok" }), r#""ok""#, true),
        (json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "string", "minLength": 2 } } }), "42", true),
        (json!({ "type": "integer" }), "42", true),
        (json!({ "type": "string" }), "{}", true),
        // What is no string must not get round a schema as one.
        (json!({ "not": { "const": 1 } }), "1", false),
        (json!({ "not": { "const": "1" } }), "1", false),
        (json!({ "not": { "type": "object" } }), "{}", false),
        (
            json!({ "type": ["object", "string"], "properties": { "ok": { "const": true } } }),
            r#"{"ok": false}"#,
            false,
        ),
    ] {
        assert_eq!(fit(&schema, &[text]).await, [fits], "{schema} {text}");
    }
}

#[tokio::test]
async fn what_must_not_fit_is_not_met_less_often() {
    let failed = json!({ "error": { "properties": { "code": { "minimum": 1 } } } });
    for (schema, text, fits) in [
        (json!({ "not": { "$ref": "#/$defs/error" }, "$defs": failed }), r#""x""#, false),
        (
            json!({ "not": { "$ref": "#/definitions/error" }, "definitions": failed,
                 "$schema": "http://json-schema.org/draft-07/schema#" }),
            "7",
            false,
        ),
        (
            json!({ "not": { "properties": { "$ref": { "$ref": "#/$defs/error" } } }, "$defs": failed }),
            r#"{"$ref": 7}"#,
            false,
        ),
        (json!({ "if": { "$ref": "#/$defs/error" }, "then": false, "$defs": failed }), "7", false),
        // Two of them are met as they are written.
        (
            json!({ "oneOf": [{ "type": "integer" }, { "$ref": "#/$defs/error" }], "$defs": failed }),
            "7",
            false,
        ),
        (json!({ "oneOf": [{ "minimum": 3 }, { "type": "integer" }] }), "7", false),
        (json!({ "oneOf": [{ "minimum": 3 }, { "type": "integer" }] }), "1", true),
        // And one must be met by a value of its type.
        (json!({ "oneOf": [{ "required": ["id"] }] }), "7", false),
        (json!({ "oneOf": [{ "$ref": "#/$defs/error" }], "$defs": failed }), "7", false),
        (json!({ "oneOf": [{ "$ref": "#/$defs/error" }], "$defs": failed }), r#"{"code": 7}"#, true),
        (json!({ "contains": { "required": ["id"] }, "maxContains": 1 }), r#"[{"id": 1}, "x"]"#, false),
    ] {
        assert_eq!(fit(&schema, &[text]).await, [fits], "{schema} {text}");
    }
}

#[tokio::test]
async fn keywords_about_objects_are_not_met_by_a_text() {
    let results = || {
        let call = || call("a", &json!({}), &json!({ "user": { "id": 1 } }));
        let texts = [r#"{"user": {"id": 1}}"#, r#"{"user": "root"}"#, "[1]", "all tests failed", "null", ""];
        [call()].into_iter().chain(texts.map(|text| text_only(call(), text))).collect::<Vec<_>>()
    };
    let id = json!({ "required": ["id"] });
    for (schema, fitting) in [
        (json!({ "required": ["user"] }), 3),
        (json!({ "properties": { "user": {} } }), 3),
        (json!({ "type": "object" }), 3),
        (json!({ "minProperties": 1 }), 3),
        (json!({ "properties": { "user": id } }), 2),
        (
            json!({
                "allOf": [{ "anyOf": [{ "properties": { "user": { "$ref": "#/$defs/id" } } }] }],
                "$defs": { "id": id }
            }),
            2,
        ),
        // A text must not fit because it has no such key.
        (json!({ "not": { "required": ["error"] } }), 3),
    ] {
        let component = json!({ "type": "output_matches", "tool": "a", "schema": schema });
        let given = rewards(component, results()).await;
        let expected: Vec<_> = (0..7).map(|at| Some(f64::from(u8::from(at < fitting)))).collect();
        assert_eq!(given, expected, "{schema}");
    }
}

#[tokio::test]
async fn a_final_state_is_looked_for_as_deep_as_it_goes() {
    let shown = json!({ "a": { "b": [1, { "c": 2.0, "d": 0 }], "e": null }, "f": 9_007_199_254_740_993_i64 });
    for (contains, expected) in [
        (json!({}), 1.0),
        (json!({ "a": {} }), 1.0),
        (json!({ "a": { "b": [1, { "c": 2 }] } }), 1.0),
        (json!({ "a": { "b": [1] } }), 0.0),
        (json!({ "a": { "e": null } }), 1.0),
        (json!({ "a": { "g": null } }), 0.0),
        (json!({ "f": 9_007_199_254_740_992_i64 }), 0.0),
        (json!([]), 0.0),
    ] {
        let component = json!({ "type": "final_state", "of": "observation", "contains": contains });
        let typed = vec![action(&json!({}), &json!({})), last(action(&json!({}), &shown))];
        assert_eq!(rewards(component.clone(), typed).await, [None, Some(expected)], "{contains}");
        // A call that ends the episode leaves what was shown last.
        let call = vec![action(&json!({}), &shown), last(call("end", &json!({}), &json!(0)))];
        assert_eq!(rewards(component, call).await, [None, Some(expected)], "{contains}");
    }
}

#[tokio::test]
async fn a_state_that_was_not_recorded_is_a_failure_and_no_reward() {
    let component = json!({ "type": "final_state", "contains": {} });
    let rubric = crate::rubric_support::declared(component, &oxenv_core::Judges::default());
    let failure = rescore(rubric, &episode(steps(&[1.0]))).await.unwrap_err();
    assert_eq!(failure.phase, Phase::Verify);
    assert!(failure.message.contains("records keep observations only"), "{failure}");
}

#[tokio::test]
async fn a_sequence_stops_at_the_first_zero() {
    let nothing = json!({ "type": "tool_called", "name": "silent", "tool": "x" });
    for (parts, reward, asked) in [
        (json!([constant("a", 2.0), constant("b", 3.0)]), Some(3.0), json!({ "a": 2.0, "b": 3.0 })),
        (json!([constant("a", 0.0), constant("b", 3.0)]), Some(0.0), json!({ "a": 0.0, "b": null })),
        (json!([constant("a", 2.0), nothing]), Some(2.0), json!({ "a": 2.0, "silent": null })),
        (json!([nothing]), None, json!({ "silent": null })),
    ] {
        let component = json!({ "type": "sequence", "parts": parts });
        let rescored = by(component, vec![action(&json!({}), &json!({}))]).await;
        assert_eq!((rescored.reward, scores(&rescored, 0)), (reward, asked));
    }
}

#[tokio::test]
async fn what_was_not_asked_reports_nothing_of_earlier_acts() {
    let inner = json!({ "type": "sum", "name": "inner", "parts": [constant("deep", 1.0)] });
    let gate = json!({ "type": "environment_reward", "name": "gate" });
    let component = json!({ "type": "sequence", "parts": [gate, inner] });
    let rescored = by(component, steps(&[1.0, 0.0])).await;
    assert_eq!(scores(&rescored, 0), json!({ "gate": 1.0, "inner": 1.0, "inner.deep": 1.0 }));
    assert_eq!(scores(&rescored, 1), json!({ "gate": 0.0, "inner": null, "inner.deep": null }));
    assert_eq!(rescored.scores, json!({ "gate": 1.0, "inner": 1.0, "inner.deep": 1.0 }));
}

#[tokio::test]
async fn parts_are_named_by_where_they_stand() {
    let judge = json!({ "type": "gate", "name": "quality", "part": constant("style", 1.0) });
    let component = json!({ "type": "trajectory", "gamma": 1, "part": judge });
    let rescored = by(component, steps(&[0.0, 0.0])).await;
    assert_eq!(scores(&rescored, 1), json!({ "quality": 1.0, "quality.style": 1.0 }));
    assert_eq!(rescored.steps[1].report.step_rewards, [("trajectory".to_owned(), vec![1.0, 1.0])]);
    // A rubric without parts is listed itself.
    let rescored = by(json!({ "type": "environment_reward" }), steps(&[2.0])).await;
    assert_eq!(scores(&rescored, 0), json!({ "environment_reward": 2.0 }));
    // A trajectory within another whole has the place of both.
    let trajectory = json!({ "type": "trajectory", "gamma": 0, "part": constant("c", 3.0) });
    let rescored = by(json!({ "type": "sum", "parts": [trajectory] }), steps(&[0.0, 0.0])).await;
    assert_eq!(rescored.steps[0].report.step_rewards, []);
    assert_eq!(rescored.steps[1].report.step_rewards, [("trajectory".to_owned(), vec![0.0, 3.0])]);
}

#[tokio::test]
async fn whole_rewards_stay_whole_where_nothing_is_computed() {
    let component = json!({ "type": "gate", "threshold": 0, "part": { "type": "environment_reward" } });
    let rescored = by(component, vec![rewarded(action(&json!({}), &json!({})), 5_i64)]).await;
    assert_eq!(rescored.steps[0].report.parts[0].1, Some(Reward::Int(5)));
}

#[tokio::test]
async fn calls_of_one_step_are_acts_of_their_own() {
    let mut both = call("a", &json!({}), &json!(1));
    both.calls.push(call("b", &json!({}), &json!(2)).calls.remove(0));
    let mut lost = call("a", &json!({}), &json!(1)).calls.remove(0);
    lost.outcome = Err(oxenv_wire::ToolError::new(ToolErrorType::ToolNotFound, "gone"));
    both.calls.push(lost);
    let rescored = by(constant("cost", -1.0), vec![last(both.clone())]).await;
    assert_eq!((rescored.reward, rescored.steps[0].done), (Some(-2.0), true));
    // Only the last of them ends the episode.
    let component = json!({ "type": "tool_called", "tool": "*", "at_least": 2, "at_most": 2 });
    assert_eq!(rewards(component, vec![last(both)]).await, [Some(1.0)]);
}

#[tokio::test]
async fn an_episode_that_was_broken_off_can_be_ended() {
    let rubric = || {
        crate::rubric_support::declared(
            json!({ "type": "trajectory", "part": { "type": "environment_reward" } }),
            &oxenv_core::Judges::default(),
        )
    };
    let mut recorded = episode(steps(&[1.0, 2.0]));
    recorded.steps[1].observed.done = false;
    assert_eq!(rescore(rubric(), &recorded).await.unwrap().reward, None);
    recorded.ends = true;
    let rescored = rescore(rubric(), &recorded).await.unwrap();
    assert_eq!((rescored.reward, rescored.steps[1].done), (Some(2.0), true));
}

#[tokio::test]
async fn a_recorded_reply_is_read_as_it_was_written() {
    let reply = r#"{"observation":{"metadata":{"oxenv":{"scores":{},"environment_reward":3}},"hint":"low"},
        "reward":0.5,"done":true,"metadata":{"oxenv":{"scores":{},"environment_reward":3}}}"#;
    let action = raw(&json!({ "guess": 1 })).unwrap();
    let step = oxenv_core::rubric::RecordedStep::read(action, Vec::new(), reply).unwrap();
    assert_eq!((step.observed.fields.get(), step.observed.done), (r#"{"hint":"low"}"#, true));
    // What a rubric gave then is not what the environment gave.
    assert_eq!(rewards(json!({ "type": "environment_reward" }), vec![step.clone()]).await, [Some(3.0)]);
    let mut silent = step;
    silent.observed.metadata = Some(raw(&json!({ "oxenv": { "scores": {} } })).unwrap());
    assert_eq!(rewards(json!({ "type": "environment_reward" }), vec![silent]).await, [None]);
    let broken = oxenv_core::rubric::RecordedStep::read(raw(&json!({})).unwrap(), Vec::new(), "{}");
    assert!(broken.is_err());
}

#[tokio::test]
async fn an_episode_too_long_to_look_back_on_is_a_failure() {
    let large = "x".repeat(5 << 20);
    let step = || action(&json!({}), &json!({ "large": large }));
    let component = json!({ "type": "tool_called", "tool": "a" });
    let rubric = |component: &Value| {
        crate::rubric_support::declared(component.clone(), &oxenv_core::Judges::default())
    };
    let long = episode(vec![step(), step(), step(), step(), step()]);
    let failure = rescore(rubric(&component), &long).await.unwrap_err();
    assert_eq!((failure.phase, failure.code), (Phase::Verify, ErrorCode::ExecutionError));
    assert!(failure.message.contains("16 MiB"), "{failure}");
    // Who does not look back does not mind.
    rescore(rubric(&json!({ "type": "environment_reward" })), &long).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// With weights from 0 that add up to 1, the sum is never beyond its parts.
    #[test]
    fn a_weighted_sum_is_within_its_parts(
        parts in prop::collection::vec((0.01_f64..10.0, -5.0_f64..5.0), 1..6),
    ) {
        let whole: f64 = parts.iter().map(|(weight, _)| weight).sum();
        let components = parts.iter().enumerate().map(|(index, (weight, value))| {
            let name = index.to_string();
            (weight / whole, part(&name, oxenv_core::rubric::Constant::new(Reward::Float(*value))))
        });
        let rubric = Combination::weighted_sum(components.collect()).unwrap();
        let reward = now(rescore(Box::new(rubric), &episode(steps(&[0.0])))).unwrap().reward.unwrap();
        let least = parts.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let most = parts.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(least - 1e-9 <= reward && reward <= most + 1e-9, "{least} {reward} {most}");
    }

    /// Weights that do not add up to 1 are refused.
    #[test]
    fn weights_add_up_to_one(weights in prop::collection::vec(0.0_f64..1.0, 1..6)) {
        let sum: f64 = weights.iter().sum();
        let parts = weights.iter().map(|weight| (*weight, part("p", EnvironmentReward))).collect();
        prop_assert_eq!(Combination::weighted_sum(parts).is_ok(), (sum - 1.0).abs() <= 1e-6);
    }

    /// A gate lets through what reaches its threshold, as it is.
    #[test]
    fn a_gate_lets_through_or_gives_zero(reward in -2.0_f64..2.0, threshold in -2.0_f64..2.0) {
        let gate = Gate::new(part("p", EnvironmentReward), threshold);
        let given = now(rescore(Box::new(gate), &episode(steps(&[reward])))).unwrap().reward;
        prop_assert_eq!(given, Some(if reward >= threshold { reward } else { 0.0 }));
    }

    /// A sequence gives 0 if any part does, else the last.
    #[test]
    fn a_sequence_is_zero_or_its_last(values in prop::collection::vec(0_i64..3, 1..6)) {
        let parts = values.iter().map(|value| {
            part("p", oxenv_core::rubric::Constant::new(Reward::Int(*value)))
        });
        let given = now(rescore(Box::new(Combination::sequence(parts.collect())), &episode(steps(&[0.0]))));
        let expected = if values.contains(&0) { 0 } else { values[values.len() - 1] };
        prop_assert_eq!(given.unwrap().reward, Some(expected as f64));
    }

    /// The formula of discounting, against the powers themselves; the episode's reward is the final one.
    #[test]
    fn discounting_follows_its_formula(
        gamma in 0.0_f64..=1.0,
        last in -10.0_f64..10.0,
        acts in 1_usize..40,
    ) {
        let mut rewards = vec![0.5; acts];
        rewards[acts - 1] = last;
        let rubric = Trajectory::new(part("p", EnvironmentReward)).discounted(gamma).unwrap();
        let rescored = now(rescore(Box::new(rubric), &episode(steps(&rewards)))).unwrap();
        prop_assert_eq!(rescored.reward, Some(last));
        prop_assert!(rescored.steps[..acts - 1].iter().all(|step| step.reward.is_none()));
        let step_rewards = &rescored.steps[acts - 1].report.step_rewards[0].1;
        prop_assert_eq!(step_rewards.len(), acts);
        for (t, reward) in step_rewards.iter().enumerate() {
            let expected = gamma.powi((acts - 1 - t) as i32) * last;
            prop_assert!((reward - expected).abs() < 1e-9, "{t}: {reward} {expected}");
        }
    }

    /// The rewards of an episode add up to the weighted totals of its parts.
    #[test]
    fn totals_add_up(rewards in prop::collection::vec(-3.0_f64..3.0, 1..20), weight in 0.0_f64..1.0) {
        let rubric = Combination::weighted_sum(vec![
            (weight, part("own", EnvironmentReward)),
            (1.0 - weight, part("end", Trajectory::new(part("own", EnvironmentReward)))),
        ]).unwrap();
        let rescored = now(rescore(Box::new(rubric), &episode(steps(&rewards)))).unwrap();
        let total = |name: &str| rescored.scores[name].as_f64().unwrap();
        let expected = weight * total("own") + (1.0 - weight) * total("end");
        prop_assert!((rescored.reward.unwrap() - expected).abs() < 1e-9);
    }
}
