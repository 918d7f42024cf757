//! [`HttpJudge`] against a real endpoint on a port of its own: answers, refusals, silence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use oxenv_core::rubric::{RecordedEpisode, RecordedStep, rescore};
use oxenv_core::{Failure, Judge, JudgeQuestion, Judges, Observed, Reset, RubricSpec};
use oxenv_server::{HttpJudge, HttpJudgeOptions, JudgeKey};
use oxenv_wire::{ErrorCode, FailureKind, Phase, raw};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const SECRET: &str = "sk-very-secret";

/// What the endpoint does with its next question.
enum Turn {
    Say(Value),
    Refuse(u16, Option<&'static str>),
    Send(String),
    /// Never answers.
    Hang,
}

/// An endpoint that does as it is told, and answers 500 when it was told nothing.
#[derive(Default)]
struct Endpoint {
    turns: Mutex<VecDeque<Turn>>,
    asked: Mutex<Vec<(HeaderMap, Value)>>,
    at_once: Mutex<(usize, usize)>,
    gate: Option<Semaphore>,
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap, body: String) -> Response {
    endpoint.asked.lock().unwrap().push((headers, serde_json::from_str(&body).unwrap()));
    let turn = endpoint.turns.lock().unwrap().pop_front();
    if let Some(gate) = &endpoint.gate {
        {
            let mut at_once = endpoint.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        gate.acquire().await.unwrap().forget();
        endpoint.at_once.lock().unwrap().0 -= 1;
    }
    match turn.unwrap_or(Turn::Refuse(500, None)) {
        Turn::Say(content) => json!({
            "id": "1", "choices": [{ "index": 0, "message": { "role": "assistant", "content": content } }]
        })
        .to_string()
        .into_response(),
        Turn::Send(body) => body.into_response(),
        Turn::Refuse(status, wait) => {
            let headers = wait.map(|wait| [("retry-after", wait)]).unwrap_or([("x-nothing", "0")]);
            (StatusCode::from_u16(status).unwrap(), headers, format!("your key {SECRET} is wrong"))
                .into_response()
        }
        Turn::Hang => std::future::pending().await,
    }
}

async fn endpoint(turns: Vec<Turn>) -> (Arc<Endpoint>, HttpJudgeOptions) {
    serve(Endpoint { turns: Mutex::new(turns.into()), ..Endpoint::default() }).await
}

/// The endpoint and how it is asked: quickly.
async fn serve(endpoint: Endpoint) -> (Arc<Endpoint>, HttpJudgeOptions) {
    let endpoint = Arc::new(endpoint);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&endpoint));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let backoff = Duration::from_millis(1);
    let key = Some(JudgeKey::new(SECRET));
    (endpoint, HttpJudgeOptions { backoff, key, ..HttpJudgeOptions::new(url, "small-model") })
}

fn question() -> JudgeQuestion {
    JudgeQuestion { instructions: "Be just.".to_owned(), prompt: "How good is \"this\"?".to_owned() }
}

async fn ask(options: HttpJudgeOptions) -> Result<String, Failure> {
    let judge = HttpJudge::new(options).unwrap();
    judge.ask(question()).await.map(|answer| answer.text)
}

/// A failure that tells what happened, and no secret.
fn assert_judge_error(failure: &Failure, what: &str) {
    assert_eq!(failure.phase, Phase::Verify);
    assert_eq!(failure.message, format!("the judge 'small-model' {what}; the act was not scored"));
    assert!(!format!("{failure:?}").contains(SECRET), "{failure:?}");
}

/// What a rubric that asks the judge makes of one step.
async fn score(judges: &Judges) -> Result<Option<f64>, Failure> {
    let rubric = json!({ "version": 1, "rubric": { "type": "judge", "prompt": "{observation}" } });
    let rubric = (RubricSpec::read(rubric).unwrap().compile(judges).unwrap())();
    let observed =
        Observed { fields: raw(&json!({ "seen": 1 })).unwrap(), metadata: None, reward: None, done: true };
    let step = RecordedStep { action: raw(&json!({})).unwrap(), calls: Vec::new(), observed };
    let reset = Reset { seed: 1, seed_given: true, episode_id: "e".to_owned(), arguments: None };
    let episode = RecordedEpisode { reset, steps: vec![step], ends: false };
    Ok(rescore(rubric, &episode).await?.reward)
}

fn judges(options: HttpJudgeOptions) -> Judges {
    let judge: Arc<dyn Judge> = Arc::new(HttpJudge::new(options).unwrap());
    Judges { by_name: [("default".to_owned(), judge)].into(), ..Judges::default() }
}

#[tokio::test]
async fn a_question_is_asked_in_the_form_of_chat_completions() {
    let (endpoint, options) = endpoint(vec![Turn::Say(json!("0.75"))]).await;
    assert_eq!(ask(options).await.unwrap(), "0.75");
    let (headers, body) = endpoint.asked.lock().unwrap().remove(0);
    assert_eq!(headers["authorization"], format!("Bearer {SECRET}").as_str());
    let messages = json!([
        { "role": "system", "content": "Be just." },
        { "role": "user", "content": "How good is \"this\"?" },
    ]);
    assert_eq!(body, json!({ "model": "small-model", "temperature": 0, "messages": messages }));
}

#[tokio::test]
async fn a_rubric_asks_the_same_question_once() {
    let (endpoint, options) = endpoint(vec![Turn::Say(json!("0.75"))]).await;
    let judges = judges(options);
    assert_eq!(score(&judges).await.unwrap(), Some(0.75));
    assert_eq!(score(&judges).await.unwrap(), Some(0.75));
    assert_eq!(endpoint.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_number_is_a_failure() {
    let turns = vec![Turn::Say(json!("quite good")), Turn::Say(json!("7")), Turn::Say(json!("1"))];
    let (endpoint, options) = endpoint(turns).await;
    let judges = judges(options);
    for _ in 0..2 {
        let failure = score(&judges).await.unwrap_err();
        assert_eq!((failure.kind, failure.phase), (FailureKind::Infrastructure, Phase::Verify));
        assert_eq!(failure.message, "the judge did not answer with one number from 0 to 1");
    }
    assert_eq!(score(&judges).await.unwrap(), Some(1.0));
    assert_eq!(endpoint.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    let turns = vec![Turn::Refuse(429, Some("0")), Turn::Refuse(503, None), Turn::Say(json!("1"))];
    let (endpoint, options) = endpoint(turns).await;
    assert_eq!(ask(options).await.unwrap(), "1");
    assert_eq!(endpoint.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn retries_come_to_an_end() {
    let (endpoint, options) = endpoint(Vec::new()).await;
    let failure = ask(options.clone()).await.unwrap_err();
    assert_judge_error(&failure, "answered with status 500");
    assert_eq!((failure.kind, endpoint.asked.lock().unwrap().len()), (FailureKind::Infrastructure, 3));
    ask(HttpJudgeOptions { retries: 0, ..options }).await.unwrap_err();
    assert_eq!(endpoint.asked.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_waited_for() {
    let (endpoint, options) = endpoint(vec![Turn::Refuse(429, Some("3600"))]).await;
    assert_judge_error(&ask(options).await.unwrap_err(), "answered with status 429");
    assert_eq!(endpoint.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_lasts_is_not_asked_again() {
    let empty = json!({ "choices": [] }).to_string();
    for (turn, what) in [
        (Turn::Refuse(401, None), "answered with status 401"),
        (Turn::Refuse(307, None), "answered with status 307"),
        (Turn::Say(Value::Null), "gave no text"),
        (Turn::Send(empty), "gave no text"),
        (Turn::Send("<html>".to_owned()), "did not answer in the form of chat/completions"),
        (Turn::Send("x".repeat(2 << 20)), "answered with more than 1048576 bytes"),
    ] {
        let (endpoint, options) = endpoint(vec![turn]).await;
        assert_judge_error(&ask(options).await.unwrap_err(), what);
        assert_eq!(endpoint.asked.lock().unwrap().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let (_endpoint, options) = endpoint(vec![Turn::Hang]).await;
    let failure = ask(HttpJudgeOptions { deadline: Duration::from_millis(50), ..options }).await.unwrap_err();
    assert_judge_error(&failure, "did not answer within 50ms");
    assert_eq!((failure.code, failure.kind), (ErrorCode::DeadlineExceeded, FailureKind::Timeout));
}

#[tokio::test]
async fn nobody_there_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let backoff = Duration::from_millis(1);
    let failure = ask(HttpJudgeOptions { backoff, ..HttpJudgeOptions::new(url, "small-model") }).await;
    assert_judge_error(&failure.unwrap_err(), "could not be reached");
}

#[tokio::test]
async fn so_many_are_asked_at_once_and_no_more() {
    let turns = (0..6).map(|_| Turn::Say(json!("1"))).collect();
    let gated = Endpoint { turns: Mutex::new(turns), gate: Some(Semaphore::new(0)), ..Endpoint::default() };
    let (endpoint, options) = serve(gated).await;
    let judge = Arc::new(HttpJudge::new(HttpJudgeOptions { concurrency: 2, ..options }).unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let judge = Arc::clone(&judge);
        asking.spawn(async move { judge.ask(question()).await.unwrap().text });
    }
    for _ in 0..6 {
        endpoint.gate.as_ref().unwrap().add_permits(1);
        assert_eq!(asking.join_next().await.unwrap().unwrap(), "1");
    }
    assert!(endpoint.at_once.lock().unwrap().1 <= 2);
    assert_eq!(endpoint.asked.lock().unwrap().len(), 6);
}

#[test]
fn what_cannot_be_used_is_told_without_secrets() {
    let with = |url: &str, key: &str| {
        let options = HttpJudgeOptions::new(url, "m");
        HttpJudge::new(HttpJudgeOptions { key: Some(JudgeKey::new(key)), ..options }).err().unwrap()
    };
    for (url, key, expected) in [
        ("somewhere", "k", "the judge's url cannot be used"),
        ("ftp://somewhere", "k", "http:// or https://"),
        ("http://name:sk-very-secret@somewhere", "k", "give the key by itself"),
        ("http://somewhere?key=sk-very-secret", "k", "give the key by itself"),
        ("http://somewhere", "sk-very-secret\n", "a character that HTTP does not allow"),
    ] {
        let problem = with(url, key);
        assert!(problem.contains(expected) && !problem.contains(SECRET), "{problem}");
    }
    let options = HttpJudgeOptions { key: Some(JudgeKey::new(SECRET)), ..HttpJudgeOptions::new("u", "m") };
    assert!(!format!("{options:?}").contains(SECRET));
    // The identity makes two models two judges, and has no secret either.
    let judge = HttpJudge::new(HttpJudgeOptions { url: "http://h/v1".to_owned(), ..options }).unwrap();
    assert_eq!(judge.identity(), "http://h/v1/chat/completions m at temperature 0");
}
