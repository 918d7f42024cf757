//! The examples of `docs/rubrics.md`: each declaration is read, each episode under it is played.
//!
//! Invariant: every component has an example there.

use oxenv_core::rubric::{RecordedStep, ScoringContext, rescore};
use oxenv_core::{Failure, Judges, Reset, Rubric, RubricSpec, Score, Work};
use serde_json::{Deserializer, Value, json};

use crate::rubric_support::{ScriptedJudge, action, call, episode, judges, last, rewarded, text_only};

const COMPONENTS: [&str; 11] = [
    "sequence",
    "gate",
    "weighted_sum",
    "sum",
    "trajectory",
    "tool_called",
    "output_matches",
    "final_state",
    "environment_reward",
    "constant",
    "judge",
];

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/rubrics.md");
    std::fs::read_to_string(path).unwrap()
}

/// The fenced blocks of a page with what stands behind the fence.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut pieces = page.split("```");
    let mut blocks = Vec::new();
    while let (Some(_), Some(block)) = (pieces.next(), pieces.next()) {
        blocks.push(block.split_once('\n').unwrap());
    }
    blocks
}

/// One line of an episode, and what is expected of it.
fn line(line: &str) -> (RecordedStep, Option<f64>, bool) {
    let (did, expected) = line.rsplit_once(" : ").unwrap();
    let (did, came) = did.split_once(" -> ").unwrap();
    let (is_text, came) = came.strip_prefix("text ").map_or((false, came), |came| (true, came));
    let mut values = Deserializer::from_str(came).into_iter::<Value>();
    let result = values.next().unwrap().unwrap();
    let rest = &came[values.byte_offset()..];
    let mut step = match did.trim().split_once(' ') {
        Some((tool, arguments)) if !tool.starts_with('{') => {
            call(tool, &serde_json::from_str(arguments.trim()).unwrap(), &result)
        }
        _ => action(&serde_json::from_str(did.trim()).unwrap(), &result),
    };
    if is_text {
        step = text_only(step, result.as_str().unwrap());
    }
    let mut words = rest.split_whitespace();
    while let Some(word) = words.next() {
        step = match word {
            "reward" => rewarded(step, words.next().unwrap().parse::<f64>().unwrap()),
            "done" => last(step),
            other => panic!("'{other}' in {line}"),
        };
    }
    let (reward, done) = match expected.trim().strip_suffix(" done") {
        Some(reward) => (reward, true),
        None => (expected.trim(), step.observed.done),
    };
    (step, (reward != "null").then(|| reward.parse().unwrap()), done)
}

#[tokio::test]
async fn every_example_gives_what_the_page_says() {
    let page = page();
    let blocks = blocks(&page);
    let judges: Judges = judges(&ScriptedJudge::answering("0.8"));
    let mut played = 0;
    for (index, (kind, text)) in blocks.iter().enumerate() {
        if *kind != "json" {
            continue;
        }
        let spec = RubricSpec::read(serde_json::from_str(text).unwrap()).unwrap();
        let rubric = (spec.compile(&judges).unwrap())();
        let Some(("episode", lines)) = blocks.get(index + 1) else { panic!("no episode after {text}") };
        let (mut steps, mut expected) = (Vec::new(), Vec::new());
        for (step, reward, done) in lines.lines().map(line) {
            steps.push(step);
            expected.push((reward, done));
        }
        let rescored = rescore(rubric, &episode(steps)).await.unwrap();
        let given: Vec<_> = rescored.steps.iter().map(|step| (step.reward, step.done)).collect();
        assert_eq!(given, expected, "{text}");
        played += 1;
        if text.contains("gamma") {
            let rewards = &rescored.steps.last().unwrap().report.step_rewards;
            assert_eq!(json!(rewards), json!([["trajectory", [1.0, 2.0, 4.0]]]));
        }
    }
    assert!(played >= 10, "only {played} examples were found");
}

#[test]
fn every_component_has_an_example() {
    let page = page();
    let examples: String =
        blocks(&page).iter().filter(|(kind, _)| *kind == "json").map(|(_, text)| *text).collect();
    for component in COMPONENTS {
        assert!(page.contains(&format!("### `{component}`")), "{component} has no section");
        assert!(examples.contains(&format!("\"type\": \"{component}\"")), "{component} has no example");
    }
    // The list here is the list of the reader, which tells it when nothing is near.
    let error = RubricSpec::read(json!({ "version": 1, "rubric": { "type": "zzzzzzzzz" } })).unwrap_err();
    assert!(error.problem.ends_with(&format!("known are {}", COMPONENTS.join(", "))), "{error}");
}

#[derive(Clone)]
struct Brevity;

impl Rubric for Brevity {
    fn reset(&mut self, _reset: &Reset) {}

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        let reward = if seen.act.input().len() < 200 { 1.0 } else { 0.0 };
        Work::done(Ok(Score::of(Some(reward.into()))))
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn the_example_in_rust_is_the_one_here() {
    let page = page();
    let blocks = blocks(&page);
    let (_, code) = blocks.iter().find(|(kind, _)| *kind == "rust").unwrap();
    let from = code.find("#[derive(Clone)]").unwrap();
    let to = code.find("let factory").unwrap();
    assert!(include_str!("rubric_docs.rs").contains(code[from..to].trim_end()));
    let short = call("a", &json!({}), &json!(0));
    let long = call("a", &json!({ "text": "x".repeat(200) }), &json!(0));
    let rescored = rescore(Brevity.fork(), &episode(vec![short, long])).await.unwrap();
    assert_eq!(rescored.steps.iter().map(|step| step.reward).collect::<Vec<_>>(), [Some(1.0), Some(0.0)]);
}
