//! Servers that are told the seed: each serves the episode of its seed, in the session and in its copies.

use std::sync::Arc;

use oxenv_core::{EpisodeSeeds, ResetOptions, Session, SessionOptions, SessionRequest, Toolset, derive_seed};
use oxenv_test_support::until;
use serde_json::{Value, json};

use crate::forks_support::{Tools, call as call_in, functions, reset};
use crate::upstream_support::*;

/// The entry of a server that has the seed as its last argument.
fn seeded(more: &str) -> String {
    odd("odd", "plain", more).replace("\"plain\"]", "\"plain\", \"seed=${seed}\"]")
}

async fn seed_of(toolset: &Arc<dyn Toolset>) -> String {
    let found: Value = serde_json::from_str(&say(toolset, "where").await).unwrap();
    found["args"][0].as_str().unwrap().to_owned()
}

/// The servers of a stage that were told that seed.
fn servers(stage: &Stage, seed: u64) -> Vec<u32> {
    let processes = stage.marked();
    let told = |command: &str| command.ends_with(&format!(" seed={seed} ")) && !command.contains("--parent");
    processes.into_iter().filter(|(_, command)| told(command)).map(|(pid, _)| pid).collect()
}

#[tokio::test]
async fn each_episode_has_a_server_of_its_seed_and_the_next_is_started_ahead() {
    let stage = Stage::new(&[seeded("")]);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let first = EpisodeSeeds::before_reset(1).next;
    reset_toolset(&toolset, EpisodeSeeds { present: first, next: 102 }).await.unwrap();
    assert_eq!(seed_of(&toolset).await, format!("seed={first}"));
    until("the next episode's is there", || !servers(&stage, 102).is_empty()).await;
    let ahead = servers(&stage, 102);
    reset_toolset(&toolset, EpisodeSeeds { present: 102, next: 103 }).await.unwrap();
    assert_eq!(seed_of(&toolset).await, "seed=102");
    assert_eq!(say(&toolset, "pid").await, ahead[0].to_string());
    until("the last episode's has ended", || servers(&stage, first).is_empty()).await;
    // A seed that is given is followed as well, and what was started for another one ends.
    until("the next episode's is there", || !servers(&stage, 103).is_empty()).await;
    reset_toolset(&toolset, EpisodeSeeds { present: 7, next: 104 }).await.unwrap();
    assert_eq!(seed_of(&toolset).await, "seed=7");
    until("both have ended", || servers(&stage, 102).is_empty() && servers(&stage, 103).is_empty()).await;
    // Who gives a seed gives the next one too, so none is started ahead.
    assert_eq!(seed_of(&toolset).await, "seed=7");
    assert_eq!(servers(&stage, 104), Vec::<u32>::new());
    // The same seed again is another episode all the same.
    assert_eq!(say(&toolset, "count").await, "1");
    reset_toolset(&toolset, EpisodeSeeds { present: 7, next: 105 }).await.unwrap();
    assert_eq!((seed_of(&toolset).await, say(&toolset, "count").await), ("seed=7".into(), "1".into()));
    toolset.close();
    stage.manager.close().await;
    stage.emptied().await;
}

#[tokio::test]
async fn an_eager_one_is_there_before_the_first_reset_and_an_unused_one_ends() {
    let stage = Stage::new(&[seeded("    startup: eager\n")]);
    let toolset = stage.session(1).remove(0);
    let first = EpisodeSeeds::before_reset(1);
    until("the first episode's is there", || !servers(&stage, first.next).is_empty()).await;
    reset_toolset(&toolset, EpisodeSeeds { present: first.next, next: 2 }).await.unwrap();
    assert_eq!(seed_of(&toolset).await, format!("seed={}", first.next));
    until("the next episode's is there", || !servers(&stage, 2).is_empty()).await;
    drop(toolset);
    until("all of the session have ended", || servers(&stage, 2).is_empty()).await;
}

#[tokio::test]
async fn one_in_the_workspace_is_started_after_the_reset() {
    let entry = seeded("").replace("seed=${seed}", "seed=${seed}\", \"${workspace}");
    let stage = Stage::new(&[entry]);
    let toolset = stage.session(1).remove(0);
    for seed in [11, 12, 13] {
        reset_toolset(&toolset, EpisodeSeeds { present: seed, next: seed + 1 }).await.unwrap();
        assert_eq!(seed_of(&toolset).await, format!("seed={seed}"));
        let others: Vec<_> =
            stage.commands().into_iter().filter(|line| !line.contains(&format!("seed={seed} "))).collect();
        assert!(!others.iter().any(|line| line.contains("seed=1") && !line.contains("seed=0")), "{others:?}");
    }
}

#[tokio::test]
async fn one_that_is_kept_keeps_the_seed_that_it_was_started_with() {
    let stage = Stage::new(&[seeded("    on_reset: keep\n")]);
    let toolset = stage.session(5).remove(0);
    assert_eq!(seed_of(&toolset).await, "seed=5");
    reset_toolset(&toolset, EpisodeSeeds { present: 6, next: 7 }).await.unwrap();
    assert_eq!(seed_of(&toolset).await, "seed=5");
}

async fn reset_to(session: &Arc<Session>, seed: u64) {
    let options = ResetOptions { seed: Some(seed), ..ResetOptions::default() };
    session.submit(SessionRequest::reset(options)).await.into_outcome().unwrap();
}

#[tokio::test]
async fn a_copy_of_a_session_is_of_the_seed_of_its_episode() {
    let entry = functions("seeded", "    on_fork: stateless\n")
        .replace("path: tools.py", "path: tools.py, env: { SEED: \"${seed}\" }");
    let tools = Tools::new(&[entry]);
    let session = tools.session().await;
    let own = session.info().seed;
    assert_eq!(call_in(&session, "seed", json!({})).await, derive_seed(own, 1).to_string());
    reset(&session).await;
    assert_eq!(call_in(&session, "seed", json!({})).await, derive_seed(own, 2).to_string());
    reset_to(&session, 77).await;
    assert_eq!(call_in(&session, "seed", json!({})).await, "77");
    let fork = tools.fork(&session, 1).await.remove(0);
    assert_eq!(call_in(&fork, "seed", json!({})).await, "77");
    let saved = tools.store.snapshot(&session).await.unwrap();
    let restored = tools.store.restore(&saved, SessionOptions::default()).await.unwrap();
    let again = tools.fork(&restored, 1).await.remove(0);
    for copy in [fork, restored, again] {
        assert_eq!(call_in(&copy, "seed", json!({})).await, "77");
        reset(&copy).await;
        assert_eq!(call_in(&copy, "seed", json!({})).await, derive_seed(own, 4).to_string());
    }
    tools.manager.close().await;
}
