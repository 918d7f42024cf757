//! Episodes written down as a test needs them, and judges that answer as they are scripted.
//!
//! Invariant: episodes are scored through `rescore`, which takes the same way as a live session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oxenv_core::rubric::{JudgeCache, RecordedEpisode, RecordedStep, Rescored, rescore};
use oxenv_core::{
    CallRecord, Failure, Judge, JudgeAnswer, JudgeQuestion, Judges, Observed, Reset, Rubric, RubricSpec, Work,
};
use oxenv_wire::{Content, Reward, ToolResult, raw};
use serde_json::{Value, json};

/// A typed action and its observation.
pub(crate) fn action(action: &Value, fields: &Value) -> RecordedStep {
    let observed = Observed { fields: raw(fields).unwrap(), metadata: None, reward: None, done: false };
    RecordedStep { action: raw(action).unwrap(), calls: Vec::new(), observed }
}

/// A tool call and its result.
pub(crate) fn call(tool: &str, arguments: &Value, result: &Value) -> RecordedStep {
    let outcome = Ok(ToolResult::from_value(result).unwrap());
    let call = CallRecord { tool: tool.to_owned(), arguments: Some(raw(arguments).unwrap()), outcome };
    RecordedStep { calls: vec![call], ..action(&json!({ "tool_name": tool }), &json!({})) }
}

/// The same call, but its tool says that it failed.
pub(crate) fn failed(mut step: RecordedStep) -> RecordedStep {
    step.calls[0].outcome.as_mut().unwrap().is_error = true;
    step
}

pub(crate) fn rewarded(mut step: RecordedStep, reward: impl Into<Reward>) -> RecordedStep {
    step.observed.reward = Some(reward.into());
    step
}

pub(crate) fn last(mut step: RecordedStep) -> RecordedStep {
    step.observed.done = true;
    step
}

pub(crate) fn reset() -> Reset {
    let arguments = Some(raw(&json!({ "seed": 7, "goal": "win" })).unwrap());
    Reset { seed: 7, seed_given: true, episode_id: "e".to_owned(), arguments }
}

pub(crate) fn episode(steps: Vec<RecordedStep>) -> RecordedEpisode {
    RecordedEpisode { reset: reset(), steps, ends: false }
}

/// The rubric of a component.
pub(crate) fn declared(component: Value, judges: &Judges) -> Box<dyn Rubric> {
    let mut whole = json!({ "version": 1 });
    whole["rubric"] = component;
    let spec = RubricSpec::read(whole).unwrap();
    (spec.compile(judges).unwrap())()
}

/// What a component makes of an episode.
pub(crate) async fn by(component: Value, steps: Vec<RecordedStep>) -> Rescored {
    rescore(declared(component, &Judges::default()), &episode(steps)).await.unwrap()
}

/// The rewards of its steps.
pub(crate) async fn rewards(component: Value, steps: Vec<RecordedStep>) -> Vec<Option<f64>> {
    by(component, steps).await.steps.iter().map(|step| step.reward).collect()
}

/// A judge of a test.
pub(crate) struct ScriptedJudge {
    answer: Mutex<Result<String, Failure>>,
    asked: AtomicUsize,
    pub(crate) questions: Mutex<Vec<JudgeQuestion>>,
}

impl ScriptedJudge {
    pub(crate) fn answering(answer: &str) -> Arc<Self> {
        Arc::new(ScriptedJudge {
            answer: Mutex::new(Ok(answer.to_owned())),
            asked: AtomicUsize::new(0),
            questions: Mutex::default(),
        })
    }

    pub(crate) fn now_say(&self, answer: Result<&str, Failure>) {
        *self.answer.lock().unwrap() = answer.map(str::to_owned);
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Judge for ScriptedJudge {
    fn identity(&self) -> &str {
        "scripted"
    }

    fn ask(&self, question: JudgeQuestion) -> Work<'_, Result<JudgeAnswer, Failure>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.questions.lock().unwrap().push(question);
        let answer = self.answer.lock().unwrap().clone();
        Work::pending(async move {
            // As a real one, it is not there at once.
            tokio::task::yield_now().await;
            answer.map(|text| JudgeAnswer { text })
        })
    }
}

pub(crate) fn judges(judge: &Arc<ScriptedJudge>) -> Judges {
    let by_name = [("default".to_owned(), Arc::clone(judge) as Arc<dyn Judge>)].into();
    Judges { by_name, cache: Arc::new(JudgeCache::default()) }
}

/// The same with a tool that gives a text and nothing structured.
pub(crate) fn text_only(mut step: RecordedStep, text: &str) -> RecordedStep {
    let content = [Content::Text(text.to_owned())].into_iter().collect();
    step.calls[0].outcome = Ok(ToolResult { content, ..ToolResult::default() });
    step
}
