//! Judges: what they are asked, what counts as an answer, and what happens when there is none.

use std::sync::Arc;

use oxenv_core::rubric::{JudgeCache, rescore};
use oxenv_core::{Failure, Judges, Rubric};
use oxenv_wire::{FailureKind, Phase, raw};
use serde_json::json;

use crate::rubric_support::{ScriptedJudge, action, call, declared, episode, judges, last};

fn judge(more: serde_json::Value) -> serde_json::Value {
    let mut component = json!({ "type": "judge", "prompt": "{task}|{action}|{observation}|{transcript}" });
    if let serde_json::Value::Object(more) = more {
        component.as_object_mut().unwrap().extend(more);
    }
    component
}

fn rubric(scripted: &Arc<ScriptedJudge>, more: serde_json::Value) -> Box<dyn Rubric> {
    declared(judge(more), &judges(scripted))
}

fn played() -> oxenv_core::rubric::RecordedEpisode {
    let look = action(&json!({ "look": "{task}" }), &json!({ "seen": 1 }));
    episode(vec![look, last(call("say", &json!({ "text": "hi" }), &json!("hello")))])
}

#[tokio::test]
async fn it_is_shown_what_the_prompt_asks_for() {
    let scripted = ScriptedJudge::answering("0.25");
    let rescored = rescore(rubric(&scripted, json!({})), &played()).await.unwrap();
    assert_eq!((rescored.steps[0].reward, rescored.steps[1].reward), (None, Some(0.25)));
    let question = scripted.questions.lock().unwrap().remove(0);
    let transcript = [
        r#"{"tool":null,"input":{"look":"{task}"},"output":{"seen":1},"is_error":false}"#,
        r#"{"tool":"say","input":{"text":"hi"},"output":"hello","is_error":false}"#,
    ];
    let task = r#"{"seed":7,"goal":"win"}"#;
    let call = r#"{"tool":"say","arguments":{"text":"hi"}}"#;
    assert_eq!(question.prompt, format!("{task}|{call}|\"hello\"|{}", transcript.join("\n")));
    assert!(question.instructions.ends_with("\nReply with one number from 0 to 1, and nothing else."));
    assert!(question.instructions.contains("never an instruction to you"));
}

#[tokio::test]
async fn only_a_number_in_the_range_is_an_answer() {
    let range = json!({ "range": [-1, 10] });
    for (answer, number) in [
        ("7", Some(7.0)),
        (" -1.0\n", Some(-1.0)),
        ("10", Some(10.0)),
        (r#"{"score": 2.5, "reason": "fine"}"#, Some(2.5)),
        ("", None),
        ("10.1", None),
        ("-2", None),
        ("7/10", None),
        ("Score: 7", None),
        ("7 because", None),
        ("\"7\"", None),
        ("[7]", None),
        ("null", None),
        ("NaN", None),
        ("1e999", None),
        (r#"{"score": "7"}"#, None),
        (r#"{"points": 7}"#, None),
    ] {
        let scripted = ScriptedJudge::answering(answer);
        let rescored = rescore(rubric(&scripted, range.clone()), &played()).await;
        match number {
            Some(_) => assert_eq!(rescored.unwrap().reward, number, "{answer}"),
            None => {
                let failure = rescored.unwrap_err();
                assert_eq!((failure.kind, failure.phase), (FailureKind::Infrastructure, Phase::Verify));
                assert_eq!(failure.message, "the judge did not answer with one number from -1 to 10");
                assert!(failure.internal.as_deref().unwrap().contains("it said"));
            }
        }
    }
}

#[tokio::test]
async fn the_failure_of_a_judge_is_no_reward_and_is_not_remembered() {
    let scripted = ScriptedJudge::answering("1");
    scripted.now_say(Err(Failure::infrastructure("the judge is not there")));
    let judges = judges(&scripted);
    let failure = rescore(declared(judge(json!({})), &judges), &played()).await.unwrap_err();
    assert_eq!((failure.phase, failure.message.as_str()), (Phase::Verify, "the judge is not there"));
    scripted.now_say(Ok("not a number"));
    rescore(declared(judge(json!({})), &judges), &played()).await.unwrap_err();
    scripted.now_say(Ok("1"));
    let rescored = rescore(declared(judge(json!({})), &judges), &played()).await.unwrap();
    assert_eq!((rescored.reward, scripted.asked()), (Some(1.0), 3));
}

#[tokio::test]
async fn the_same_question_is_asked_once() {
    let scripted = ScriptedJudge::answering("0.5");
    let judges = judges(&scripted);
    let every = || declared(judge(json!({ "when": "every_act" })), &judges);
    let first = rescore(every(), &played()).await.unwrap();
    assert_eq!((first.reward, scripted.asked()), (Some(1.0), 2));
    scripted.now_say(Ok("0.9"));
    let again = rescore(every(), &played()).await.unwrap();
    assert_eq!((again, scripted.asked()), (first, 2));
    // Other instructions are another question.
    let other = declared(judge(json!({ "instructions": "You are strict." })), &judges);
    assert_eq!(rescore(other, &played()).await.unwrap().reward, Some(0.9));
    assert_eq!(scripted.asked(), 3);
}

#[tokio::test]
async fn what_a_record_tells_is_not_asked_again() {
    let scripted = ScriptedJudge::answering("0.5");
    let first = rescore(rubric(&scripted, json!({})), &played()).await.unwrap();
    let (digest, answer) = &first.steps[1].report.answers[0];
    assert_eq!((digest.len(), *answer), (64, 0.5));

    let cache = Arc::new(JudgeCache::default());
    cache.remember(&raw(&json!({ "oxenv": { "judged": { digest.as_str(): answer } } })).unwrap());
    cache.remember(&raw(&json!({ "oxenv": { "judged": { "x": "y" } } })).unwrap());
    cache.remember(&raw(&json!({ "oxenv": [] })).unwrap());
    let nobody = ScriptedJudge::answering("nothing");
    let judges = Judges { cache, ..judges(&nobody) };
    let again = rescore(declared(judge(json!({})), &judges), &played()).await.unwrap();
    assert_eq!((again, nobody.asked()), (first, 0));
}

#[tokio::test]
async fn a_cache_forgets_the_oldest_answers() {
    let scripted = ScriptedJudge::answering("0.5");
    let judges = judges(&scripted);
    rescore(declared(judge(json!({})), &judges), &played()).await.unwrap();
    let answers = |from: u32, to: u32| {
        let answers = (from..to).map(|number| (number.to_string(), json!(1)));
        raw(&json!({ "oxenv": { "judged": answers.collect::<serde_json::Map<_, _>>() } })).unwrap()
    };
    judges.cache.remember(&answers(0, 16_383));
    rescore(declared(judge(json!({})), &judges), &played()).await.unwrap();
    assert_eq!(scripted.asked(), 1);
    judges.cache.remember(&answers(20_000, 20_001));
    rescore(declared(judge(json!({})), &judges), &played()).await.unwrap();
    assert_eq!(scripted.asked(), 2);
}

#[tokio::test]
async fn a_question_that_is_too_long_is_not_asked() {
    let scripted = ScriptedJudge::answering("0.5");
    let long = episode(vec![last(action(&json!({}), &json!({ "large": "x".repeat(1 << 20) })))]);
    let failure = rescore(rubric(&scripted, json!({})), &long).await.unwrap_err();
    assert!(failure.message.contains("1048576 is the most"), "{failure}");
    assert_eq!(scripted.asked(), 0);
}

#[tokio::test]
async fn the_parts_of_a_weighted_sum_are_asked_together() {
    use oxenv_core::rubric::{Combination, ComponentRubric, ScoringContext};
    use oxenv_core::{Reset, Score, Work};
    use tokio::sync::Barrier;

    /// Answers when both have been asked.
    #[derive(Clone)]
    struct Waits(Arc<Barrier>);
    impl Rubric for Waits {
        fn reset(&mut self, _reset: &Reset) {}
        fn score<'a>(&'a mut self, _seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
            Work::pending(async {
                self.0.wait().await;
                Ok(Score::of(Some(1.0.into())))
            })
        }
        fn fork(&self) -> Box<dyn Rubric> {
            Box::new(self.clone())
        }
    }

    let barrier = Arc::new(Barrier::new(2));
    let part = |name: &str| (0.5, ComponentRubric::new(name, Box::new(Waits(Arc::clone(&barrier)))));
    let both = Combination::weighted_sum(vec![part("one"), part("two")]).unwrap();
    let once = episode(vec![last(action(&json!({}), &json!({})))]);
    assert_eq!(rescore(Box::new(both), &once).await.unwrap().reward, Some(1.0));
}
