//! [`scored`] environments: what a session shows of them, and that rubrics follow forks and snapshots.

use std::sync::Arc;

use oxenv_core::rubric::{EpisodeRubric, RecordedEpisode, RecordedStep, rescore};
use oxenv_core::{
    Capabilities, EnvironmentFactory, EnvironmentSpec, Execution, Failure, ForkMode, Judges, Mount,
    NativeToolset, Observed, Reset, RubricFactory, RubricSpec, Session, SessionOptions, SessionStore, Step,
    StoreLimits, TypedEnvironment, contract, scored, tool_environment, typed,
};
use oxenv_wire::{ErrorCode, FailureKind, Phase, Reward, raw};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rubric_support::{ScriptedJudge, judges};
use crate::support::{Shown, call, code, observe, reset_as, step, tool_step};

/// Counts to ten.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Counter {
    total: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Add {
    add: i64,
}

#[derive(Serialize, JsonSchema)]
struct Total {
    total: i64,
}

impl TypedEnvironment for Counter {
    type Action = Add;
    type Observation = Total;
    type State = Total;

    async fn reset(&mut self, _reset: &Reset) -> Result<Step<Total>, Failure> {
        self.total = 0;
        Ok(Step::new(Total { total: 0 }).reward(0))
    }

    async fn step(&mut self, action: Add) -> Result<Step<Total>, Failure> {
        self.total += action.add;
        let step = Step::new(Total { total: self.total }).done(self.total >= 10);
        Ok(match action.add {
            0 => step,
            add => step.reward(add).metadata(json!({ "own": true, "oxenv": { "kept": 1 } })),
        })
    }

    fn state(&self) -> Total {
        Total { total: self.total }
    }

    fn fork(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    fn restore(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn counter() -> Arc<dyn EnvironmentFactory> {
    let capabilities = Capabilities { fork: ForkMode::Native, snapshot: true, ..Capabilities::default() };
    let spec = EnvironmentSpec { capabilities, ..EnvironmentSpec::new("counter", "Counts") };
    Arc::new(typed(spec, |_| Counter::default()))
}

fn says() -> Vec<Mount> {
    let set = NativeToolset::new("set").tool("say", "Says it.", |said: Value| match said["text"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err("there is no text".to_owned()),
    });
    vec![Mount::new(Arc::new(set))]
}

/// Half of what the environment gave, and half of 1 if it ends with exactly ten.
fn halves() -> Value {
    let exactly =
        json!({ "weight": 0.5, "type": "final_state", "name": "exactly", "contains": { "total": 10 } });
    let parts = json!([{ "weight": 0.5, "type": "environment_reward", "name": "own" }, exactly]);
    json!({ "version": 1, "rubric": { "type": "weighted_sum", "parts": parts } })
}

/// 3 for a second call of `say`, spread over the acts.
fn second() -> Value {
    let twice = json!({ "type": "tool_called", "tool": "say", "at_least": 2 });
    let three = json!({ "type": "constant", "value": 3 });
    let both = json!({ "type": "sequence", "parts": [twice, three] });
    let rubric = json!({ "type": "trajectory", "gamma": 0.5, "part": both });
    json!({ "version": 1, "rubric": rubric, "ends": twice })
}

fn factory(declared: Value) -> RubricFactory {
    RubricSpec::read(declared).unwrap().compile(&Judges::default()).unwrap()
}

fn store(factory: Arc<dyn EnvironmentFactory>) -> SessionStore {
    SessionStore::new(factory, StoreLimits { seed: Some(1), ..StoreLimits::default() })
}

async fn begun(store: &SessionStore) -> Arc<Session> {
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, Some(7), None, None).await.unwrap();
    session
}

fn ours(observed: &Observed) -> Value {
    let metadata: Value = serde_json::from_str(observed.metadata.as_ref().unwrap().get()).unwrap();
    metadata["oxenv"].clone()
}

#[test]
fn it_declares_what_it_became() {
    let base = counter();
    let was = base.spec().capabilities;
    let plain = scored(Arc::clone(&base), factory(halves()), false);
    assert_eq!(plain.spec().capabilities, Capabilities { observes_calls: true, scored: true, ..was });
    let judged = scored(base, factory(halves()), true).spec().capabilities;
    assert_eq!((judged.execution, judged.deterministic), (Execution::Task, false));
    let tools = tool_environment("tools", "Tools", says(), Some(factory(second())));
    let capabilities = tools.spec().capabilities;
    assert_eq!((capabilities.fork, capabilities.snapshot), (ForkMode::Native, true));
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let actions: Vec<Value> = [1, 0, 2, 3].iter().map(|add| json!({ "add": add })).collect();
    for declared in [halves(), second()] {
        for suspends in [false, true] {
            let environment = scored(counter(), factory(declared.clone()), suspends);
            assert_eq!(contract::check(environment, &actions).await, []);
        }
    }
    let say = |text: &str| json!({ "type": "call_tool", "tool_name": "say", "arguments": { "text": text } });
    let tools = tool_environment("tools", "Tools", says(), Some(factory(second())));
    assert_eq!(contract::check(tools, &[say("a")]).await, []);
    // A rubric over one that has a rubric.
    let twice = scored(scored(counter(), factory(halves()), false), factory(halves()), false);
    assert_eq!(contract::check(twice, &actions).await, []);
}

#[tokio::test]
async fn observations_tell_the_scores_beside_what_they_told_before() {
    let store = store(scored(counter(), factory(halves()), false));
    let session = store.create(SessionOptions::default()).await.unwrap();
    // A reset earns nothing.
    assert_eq!(reset_as(&session, Some(7), None, None).await.unwrap().reward, None);
    let observed = observe(&session, json!({ "add": 3 })).await;
    assert_eq!(observed.reward, Some(Reward::Float(1.5)));
    assert_eq!(
        observed.metadata.as_ref().unwrap().get(),
        r#"{"own":true,"oxenv":{"kept":1,"scores":{"own":3,"exactly":null},"environment_reward":3}}"#
    );
    let silent = observe(&session, json!({ "add": 0 })).await;
    assert_eq!((silent.reward, silent.done), (None, false));
    assert_eq!(ours(&silent), json!({ "scores": { "own": null, "exactly": null } }));
    let last = observe(&session, json!({ "add": 7 })).await;
    assert_eq!((last.reward, last.done), (Some(Reward::Float(4.0)), true));
    assert_eq!(ours(&last)["scores"], json!({ "own": 7, "exactly": 1.0 }));
    let info = session.info();
    assert_eq!(info.episode_reward, Some(5.5));
    assert_eq!(info.episode_scores, Some(json!({ "own": 10.0, "exactly": 1.0 })));
    reset_as(&session, Some(7), None, None).await.unwrap();
    assert_eq!(session.info().episode_scores, Some(json!({})));
}

#[tokio::test]
async fn calls_are_scored_and_may_end_the_episode() {
    let store = store(tool_environment("tools", "Tools", says(), Some(factory(second()))));
    let session = begun(&store).await;
    let reply = call(&session, "say", json!({ "text": "a" })).await.unwrap();
    assert_eq!((reply.reward, reply.done), (None, false));
    let Shown::Call(reply) = step(&session, tool_step("say", &json!({ "text": "b" }))).await.unwrap() else {
        panic!("no call")
    };
    assert_eq!((reply.reward, reply.done), (Some(Reward::Int(3)), true));
    let metadata: Value = serde_json::from_str(reply.metadata.as_ref().unwrap().get()).unwrap();
    let scores = json!({ "sequence": 3, "sequence.tool_called": 1.0, "sequence.constant": 3 });
    let step_rewards = json!({ "trajectory": [1.5, 3.0] });
    assert_eq!(metadata["oxenv"], json!({ "scores": scores, "step_rewards": step_rewards }));
    assert_eq!(code(call(&session, "say", json!({ "text": "c" })).await), ErrorCode::EpisodeDone);
}

#[tokio::test]
async fn a_rubric_follows_the_forks_of_its_session() {
    let store = store(tool_environment("tools", "Tools", says(), Some(factory(second()))));
    let session = begun(&store).await;
    call(&session, "say", json!({ "text": "a" })).await.unwrap();
    let forks = store.fork(&session, 3, SessionOptions::default()).await.unwrap();
    let restored = {
        let saved = store.snapshot(&session).await.unwrap();
        store.restore(&saved, SessionOptions::default()).await.unwrap()
    };
    for copy in forks.iter().chain([&restored, &session]) {
        // Each has one call behind it, and none has those of another.
        let reply = call(copy, "say", json!({ "text": "b" })).await.unwrap();
        assert_eq!((reply.reward, reply.done), (Some(Reward::Int(3)), true));
        assert_eq!(copy.info().episode_scores.unwrap()["sequence"], json!(3.0));
    }
    let fresh = begun(&store).await;
    assert_eq!(call(&fresh, "say", json!({ "text": "b" })).await.unwrap().reward, None);
}

#[tokio::test]
async fn totals_go_on_in_forks_and_snapshots() {
    let store = store(scored(counter(), factory(halves()), false));
    let session = begun(&store).await;
    observe(&session, json!({ "add": 4 })).await;
    let fork = store.fork(&session, 1, SessionOptions::default()).await.unwrap().remove(0);
    let saved = store.snapshot(&session).await.unwrap();
    let restored = store.restore(&saved, SessionOptions::default()).await.unwrap();
    for (copy, add, total) in [(&fork, 1, 5.0), (&restored, 2, 6.0), (&session, 3, 7.0)] {
        assert_eq!(copy.info().episode_scores, Some(json!({ "own": 4.0 })));
        observe(copy, json!({ "add": add })).await;
        assert_eq!(copy.info().episode_scores, Some(json!({ "own": total })));
    }
}

#[tokio::test]
async fn bytes_of_another_kind_are_refused() {
    let environment = scored(counter(), factory(halves()), false);
    let boot = || oxenv_core::EnvironmentContext::new("s", 1);
    let mut instance = environment.create(boot()).await.unwrap();
    let good = instance.environment.snapshot().unwrap();
    for end in 0..good.len() {
        assert!(instance.environment.restore(&good[..end]).is_err(), "cut at {end}");
        assert!(environment.restore(boot(), &good[..end]).await.is_err(), "cut at {end}");
    }
    instance.environment.restore(&good).unwrap();
    // The state of a rubric of three parts is none of one of two.
    let parts = json!([{ "type": "environment_reward" }, { "type": "constant", "value": 1 },
        { "type": "constant", "name": "more", "value": 1 }]);
    let other = factory(json!({ "version": 1, "rubric": { "type": "sum", "parts": parts } }));
    let other = scored(counter(), other, false);
    assert!(other.restore(boot(), &good).await.is_err());
}

/// Nothing keeps a client from making a snapshot up: an episode of as many acts as a number can count would
/// be as many rewards in its last observation, more than any machine holds.
#[tokio::test]
async fn an_episode_that_was_made_up_costs_no_more_than_another() {
    let part = json!({ "type": "environment_reward" });
    let rubric = json!({ "version": 1, "rubric": { "type": "trajectory", "part": part, "gamma": 0.9 } });
    let environment = scored(counter(), factory(rubric), false);
    let boot = || oxenv_core::EnvironmentContext::new("s", 1);
    let good = environment.create(boot()).await.unwrap().environment.snapshot().unwrap();
    let good = String::from_utf8(good).unwrap();
    let with = |old: &str, new: &str| {
        assert!(good.contains(old), "{good}");
        good.replacen(old, new, 1).into_bytes()
    };
    for refused in [
        with("\"steps\":0", &format!("\"steps\":{}", u64::MAX)),
        with("\"rubric\":[null]", &format!("\"rubric\":[{}null]", "0,".repeat(1 << 20))),
        with("\"totals\":[]", &format!("\"totals\":[{}[\"a\",0]]", "[\"a\",0],".repeat(1 << 13))),
    ] {
        assert!(environment.restore(boot(), &refused).await.is_err());
    }
    for (steps, scores) in [(10_u64, true), (1 << 50, false)] {
        let saved = with("\"steps\":0", &format!("\"steps\":{steps}"));
        let mut instance = environment.restore(boot(), &saved).await.unwrap();
        let last = raw(&json!({ "add": 10 })).unwrap();
        let outcome = instance.environment.step(&last).await;
        assert_eq!(outcome.is_ok(), scores, "{outcome:?}");
        if let Err(failure) = outcome {
            assert_eq!((failure.phase, failure.kind), (Phase::Verify, FailureKind::Infrastructure));
            assert!(failure.message.contains("100000 acts"), "{}", failure.message);
        }
    }
}

#[tokio::test]
async fn a_judge_that_fails_fails_the_step_and_never_rewards_it() {
    let scripted = ScriptedJudge::answering("0.5");
    let judge = json!({ "type": "judge", "prompt": "{action}", "when": "every_act" });
    let called = json!({ "type": "tool_called", "tool": "x", "at_most": 0 });
    let rubric = json!({ "version": 1, "rubric": { "type": "sum", "parts": [judge, called] } });
    let rubric = RubricSpec::read(rubric).unwrap().compile(&judges(&scripted)).unwrap();
    let tools = tool_environment("tools", "Tools", says(), None);
    let store = store(scored(tools, rubric, true));
    let session = begun(&store).await;
    let say = |text: &str| call(&session, "say", json!({ "text": text }));
    assert_eq!(say("a").await.unwrap().reward, Some(Reward::Float(0.5)));
    scripted.now_say(Err(Failure::new(ErrorCode::DeadlineExceeded, "the judge did not answer in time")));
    let failure = say("b").await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (FailureKind::Timeout, Phase::Verify));
    scripted.now_say(Ok("1"));
    // The call was made, and the episode goes on.
    let reply = say("c").await.unwrap();
    assert_eq!(reply.reward, Some(Reward::Float(1.0)));
    let metadata: Value = serde_json::from_str(reply.metadata.as_ref().unwrap().get()).unwrap();
    assert_eq!(metadata["oxenv"]["judged"].as_object().unwrap().values().collect::<Vec<_>>(), [&json!(1.0)]);
    assert_eq!(session.info().episode_reward, Some(1.5));
}

#[tokio::test]
async fn scoring_a_record_again_gives_what_was_given() {
    let store = store(scored(counter(), factory(halves()), false));
    let session = begun(&store).await;
    let (mut steps, mut given) = (Vec::new(), Vec::new());
    for add in [3, 0, 8] {
        let observed = observe(&session, json!({ "add": add })).await;
        given.push(observed.reward.map(Reward::as_f64));
        let action = raw(&json!({ "add": add })).unwrap();
        steps.push(RecordedStep { action, calls: Vec::new(), observed });
    }
    let episode = RecordedEpisode { reset: crate::rubric_support::reset(), steps, ends: false };
    // Of the same rubric without its look at the state.
    let own = json!({ "weight": 0.5, "type": "environment_reward", "name": "own" });
    let exactly = json!({ "weight": 0.5, "type": "final_state", "name": "exactly", "of": "observation",
        "contains": { "total": 10 } });
    let again = json!({ "version": 1, "rubric": { "type": "weighted_sum", "parts": [own, exactly] } });
    let rescored = rescore(factory(again)(), &episode).await.unwrap();
    assert_eq!(rescored.steps.iter().map(|step| step.reward).collect::<Vec<_>>(), given);
    assert_eq!(Some(rescored.scores), session.info().episode_scores);
}

#[tokio::test]
async fn components_can_be_put_together_by_hand() {
    use oxenv_core::rubric::{ComponentRubric, Constant, ToolCalled};
    let scores = ComponentRubric::new("cost", Box::new(Constant::new(Reward::Int(-1))));
    let ends = ComponentRubric::new("said", Box::new(ToolCalled::new("say").unwrap()));
    let rubric = || ComponentRubric::new("whole", Box::new(Constant::new(Reward::Int(-1))));
    assert_eq!(rubric().name(), "whole");
    let original = std::sync::Mutex::new(EpisodeRubric::new(scores).ending(ends));
    let factory: RubricFactory = Arc::new(move || oxenv_core::Rubric::fork(&*original.lock().unwrap()));
    let store = store(tool_environment("tools", "Tools", says(), Some(factory)));
    let session = begun(&store).await;
    let reply = call(&session, "say", json!({ "text": "a" })).await.unwrap();
    assert_eq!((reply.reward, reply.done), (Some(Reward::Int(-1)), true));
    assert_eq!(session.info().episode_scores, Some(json!({ "cost": -1.0 })));
}
