//! Seeds: one from the server's, one per session, one per episode, the same ones every time.

use std::collections::HashSet;

use oxenv_core::{Execution, SessionOptions, StoreLimits, derive_seed};
use oxenv_wire::RawJson;
use serde_json::{Value, json};

use crate::stage::{Scripted, Stage};
use crate::support::{close, open, reset, reset_as, settled, store_with};

/// The seeds of three sessions and of two episodes of each.
async fn seeds(server: u64) -> Vec<u64> {
    let stage = Stage::default();
    let limits = StoreLimits { seed: Some(server), ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let mut seeds = Vec::new();
    for _ in 0..3 {
        let session = open(&store).await;
        seeds.push(session.info().seed);
        for _ in 0..2 {
            seeds.push(seen(&reset(&session).await.unwrap().fields));
        }
        close(session);
    }
    settled(&store, &stage).await;
    seeds
}

fn seen(fields: &RawJson) -> u64 {
    serde_json::from_str::<Value>(fields.get()).unwrap()["seed"].as_u64().unwrap()
}

#[tokio::test]
async fn the_same_server_seed_gives_the_same_seeds_everywhere() {
    let one = seeds(7).await;
    assert_eq!(one, seeds(7).await);
    assert_ne!(one, seeds(8).await);
    assert_eq!(one.iter().collect::<HashSet<_>>().len(), one.len(), "{one:?}");
    assert!(one.iter().all(|seed| *seed < 1 << 53), "{one:?}");
    // As documented: a session's from the server's and its number, an episode's from its session's
    // and its epoch.
    assert_eq!(one[0], derive_seed(7, 0));
    assert_eq!(one[1..3], [derive_seed(one[0], 1), derive_seed(one[0], 2)]);
}

#[tokio::test]
async fn a_seed_that_was_given_is_taken_as_it_is() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Inline), StoreLimits::default());
    for seed in [0, 42, u64::MAX] {
        let options = SessionOptions {
            seed: Some(seed),
            episode_id: Some("é".to_owned()),
            ..SessionOptions::default()
        };
        let session = store.create(options).await.unwrap();
        let info = session.info();
        assert_eq!((info.seed, info.episode_id.as_str(), info.epoch), (seed, "é", 0));
        assert_eq!(seen(&reset_as(&session, Some(seed), None, None).await.unwrap().fields), seed);
        close(session);
    }
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_episode_has_the_id_it_was_given_or_a_fresh_one() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Inline), StoreLimits::default());
    let session = open(&store).await;
    let mut ids = HashSet::from([session.info().episode_id]);
    for _ in 0..3 {
        reset(&session).await.unwrap();
        assert!(ids.insert(session.info().episode_id));
    }
    let odd = "\"quoted\"\n\u{0}";
    reset_as(&session, None, Some(odd.to_owned()), None).await.unwrap();
    let state: Value = serde_json::from_str(&session.state().await.unwrap()).unwrap();
    assert_eq!(state["episode_id"], json!(odd));
    close(session);
    settled(&store, &stage).await;
}
