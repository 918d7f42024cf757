//! Forks and snapshots through the store: what is carried over, what is independent, what is refused.

use std::sync::Arc;

use oxenv_core::{
    Execution, ForkMode, OpenKey, Session, SessionOptions, SessionSource, SessionStore, SnapshotKey,
    SnapshotKeySource, StoreLimits,
};
use oxenv_wire::ErrorCode;
use serde_json::json;

use crate::stage::{Scripted, Stage};
use crate::support::{
    call, close, code, observe, open, reset, settled, spawn_call, spawn_step, state, step, store, store_with,
};

fn forking(stage: &Stage, execution: Execution, fork: ForkMode) -> Scripted {
    Scripted::new(stage, execution).spec(|spec| {
        spec.capabilities.fork = fork;
        spec.capabilities.snapshot = true;
    })
}

async fn shown(session: &Arc<Session>) -> (String, String) {
    let observed = observe(session, json!({})).await;
    (observed.fields.get().to_owned(), session.state().await.unwrap())
}

#[tokio::test]
async fn forks_go_on_alike_and_apart() {
    for (execution, mode) in [
        (Execution::Inline, ForkMode::Native),
        (Execution::Task, ForkMode::Native),
        (Execution::Blocking, ForkMode::Native),
        (Execution::Inline, ForkMode::Replay),
        (Execution::Task, ForkMode::Replay),
    ] {
        let stage = Stage::default();
        let store = store(forking(&stage, execution, mode));
        let session = open(&store).await;
        reset(&session).await.unwrap();
        for _ in 0..3 {
            step(&session, json!({})).await.unwrap();
        }
        let forks = store.fork(&session, 8, SessionOptions::default()).await.unwrap();
        let original = state(&session).await;
        for fork in &forks {
            assert_eq!(state(fork).await, original);
            let (one, other) = (session.info(), fork.info());
            assert_eq!(
                (one.seed, one.epoch, one.episode_reward),
                (other.seed, other.epoch, other.episode_reward)
            );
            assert_eq!(fork.seq(), 0);
        }
        step(&forks[0], json!({})).await.unwrap();
        assert_eq!(state(&session).await, original);
        let undisturbed = shown(&session).await;
        for fork in &forks[1..] {
            assert_eq!(shown(fork).await, undisturbed, "{mode:?}");
        }
        let again = store.fork(&forks[1], 1, SessionOptions::default()).await.unwrap();
        assert_eq!(shown(&again[0]).await, shown(&session).await);
        store.list().into_iter().for_each(close);
        drop((forks, again, session));
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_fork_waits_for_the_step_and_the_calls_that_run() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Task, ForkMode::Native).tools(true));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let running = spawn_call(&session, "wait", json!({ "at": "tool" }));
    stage.entered().await;
    let forking = tokio::spawn({
        let (store, session) = (Arc::clone(&store), Arc::clone(&session));
        async move { store.fork(&session, 1, SessionOptions::default()).await }
    });
    tokio::task::yield_now().await;
    assert!(!forking.is_finished());
    // A call that comes now waits for the fork, and does not deadlock with it.
    let later = spawn_call(&session, "say", json!({ "text": "later" }));
    stage.open("tool");
    assert!(running.await.unwrap().unwrap().outcome.is_ok());
    let forks = forking.await.unwrap().unwrap();
    assert!(later.await.unwrap().unwrap().outcome.is_ok());
    assert_eq!(forks[0].info().step_count, 1);
    assert_eq!(session.info().step_count, 2);

    let slow = spawn_step(&session, json!({ "do": "wait", "at": "step" }));
    stage.entered().await;
    let forking = tokio::spawn({
        let (store, session) = (Arc::clone(&store), Arc::clone(&session));
        async move { store.fork(&session, 1, SessionOptions::default()).await }
    });
    stage.open("step");
    slow.await.unwrap().unwrap();
    assert_eq!(forking.await.unwrap().unwrap()[0].info().step_count, 3);
    store.list().into_iter().for_each(close);
    drop((forks, session));
    settled(&store, &stage).await;
}

#[tokio::test]
async fn what_cannot_be_forked_says_so() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let failure = store.fork(&session, 1, SessionOptions::default()).await.err().unwrap();
    assert_eq!(failure.code, ErrorCode::Unsupported);
    assert!(failure.message.contains("'scripted' cannot be forked"), "{failure}");
    assert_eq!(store.status().active, 1);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn all_forks_are_made_or_none() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 4, queue: std::time::Duration::ZERO, ..StoreLimits::default() };
    let store = store_with(forking(&stage, Execution::Inline, ForkMode::Native), limits);
    let session = open(&store).await;
    assert_eq!(
        code(store.fork(&session, 4, SessionOptions::default()).await.map(drop)),
        ErrorCode::CapacityReached
    );
    assert_eq!((store.status().active, store.list().len()), (1, 1));
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_session_whose_state_is_unknown_is_not_copied() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Task, ForkMode::Native));
    let session = open(&store).await;
    let slow = spawn_step(&session, json!({ "do": "wait", "at": "step" }));
    stage.entered().await;
    slow.abort();
    let _ = slow.await;
    let fork = store.fork(&session, 1, SessionOptions::default()).await.map(drop);
    assert_eq!(code(fork), ErrorCode::ResetRequired);
    assert_eq!(code(store.snapshot(&session).await.map(drop)), ErrorCode::ResetRequired);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_snapshot_is_a_new_session_that_goes_on() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Task, ForkMode::Native));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    step(&session, json!({})).await.unwrap();
    let snapshot = store.snapshot(&session).await.unwrap();
    let restored = store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    assert_ne!(restored.id(), session.id());
    assert_eq!(shown(&restored).await, shown(&session).await);
    let mut damaged = snapshot.clone();
    damaged.insert(snapshot.len() / 2, 'x');
    let failure = store.restore(&damaged, SessionOptions::default()).await.err().unwrap();
    assert_eq!(failure.code, ErrorCode::SnapshotInvalid);
    assert_eq!(store.status().active, 2);
    store.list().into_iter().for_each(close);
    drop((restored, session));
    settled(&store, &stage).await;
}

/// Whoever has the key can restore it; nothing of what others have made reaches the environment.
#[tokio::test]
async fn a_snapshot_is_restored_only_with_the_key_that_it_was_made_with() {
    let stage = Stage::default();
    let with = |key: SnapshotKey| {
        let store = SessionStore::new(
            Arc::new(forking(&stage, Execution::Inline, ForkMode::Native)),
            StoreLimits::default(),
        );
        Arc::new(store.with_snapshot_key(key))
    };
    let of_file = |key: &[u8]| SnapshotKey::new(key, SnapshotKeySource::File);
    let (one, same) = (with(of_file(b"one")), with(of_file(b"one")));
    let others = [with(of_file(b"two")), with(SnapshotKey::random()), with(SnapshotKey::random())];
    let session = open(&one).await;
    reset(&session).await.unwrap();
    let snapshot = one.snapshot(&session).await.unwrap();
    let restored = same.restore(&snapshot, SessionOptions::default()).await.unwrap();
    assert_eq!(shown(&restored).await, shown(&session).await);
    for other in &others {
        let failure = other.restore(&snapshot, SessionOptions::default()).await.err().unwrap();
        assert_eq!(failure.code, ErrorCode::SnapshotInvalid);
        assert!(failure.message.contains("another key"), "{failure}");
    }
    let middle = snapshot.len() / 2;
    let flipped = if snapshot.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let changed = format!("{}{flipped}{}", &snapshot[..middle], &snapshot[middle + 1..]);
    let older = snapshot.replacen("oxs2.", "oxs1.", 1);
    for wrong in [&changed, &older, &snapshot[..snapshot.len() - 1], &snapshot[..middle]] {
        let failure = one.restore(wrong, SessionOptions::default()).await.err().unwrap();
        assert_eq!(failure.code, ErrorCode::SnapshotInvalid, "{failure}");
    }
    let counts = [&one, &same, &others[0]].map(|store| store.status().active);
    assert_eq!(counts, [1, 1, 0]);
    close(session);
    close(restored);
    settled(&one, &stage).await;
}

#[tokio::test]
async fn forks_are_made_once_for_a_key() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Inline, ForkMode::Native).tools(true));
    let session = open(&store).await;
    call(&session, "say", json!({ "text": "x" })).await.unwrap();
    let key = OpenKey { key: "k", ends_with_caller: false };
    let open = async |source| store.open(source, SessionOptions::default(), Some(key)).await;
    let original = session.id().to_owned();
    let fork = || SessionSource::Fork { original: original.clone(), found: store.get(&original), count: 2 };
    let first = open(fork()).await;
    let again = open(fork()).await;
    assert_eq!(first.outcome().unwrap(), again.outcome().unwrap());
    assert_eq!((first.seq, again.seq, again.repeated, store.status().active), (1, 1, true, 3));
    let snapshot = store.snapshot(&session).await.unwrap();
    for repeated in [false, true] {
        let restored = open(SessionSource::Snapshot(snapshot.clone())).await;
        assert_eq!((restored.repeated, store.status().active), (repeated, 4));
    }
    // It is no other fork when its original has ended.
    close(session);
    let ended = open(fork()).await;
    assert_eq!((ended.outcome().unwrap(), ended.repeated), (first.outcome().unwrap(), true));
    let other = SessionSource::Fork { original: original.clone(), found: store.get(&original), count: 3 };
    assert_eq!(code(open(other).await.into_outcome()), ErrorCode::KeyConflict);
    store.list().into_iter().for_each(close);
    settled(&store, &stage).await;
}

/// Checking a snapshot of many megabytes takes a while; the thread that serves sessions does other things
/// meanwhile.
#[tokio::test]
async fn a_large_snapshot_keeps_no_thread_from_others() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Inline, ForkMode::Native));
    let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let others = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    let large = format!("oxs2.{}", "A".repeat(8 << 20));
    let restored = store.restore(&large, SessionOptions::default()).await.map(drop);
    assert_eq!(code(restored), ErrorCode::SnapshotInvalid);
    assert!(turns.load(std::sync::atomic::Ordering::SeqCst) > 1, "nothing else had a turn");
    others.abort();
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_fork_by_replay_scores_what_was_scored() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Inline, ForkMode::Replay).tools(true).scoring());
    let session = open(&store).await;
    reset(&session).await.unwrap();
    call(&session, "say", json!({ "after": {} })).await.unwrap();
    // What gave no result is not scored, neither now nor when it is repeated.
    call(&session, "fail", json!({ "after": {} })).await.unwrap().outcome.unwrap_err();
    call(&session, "complain", json!({ "after": {} })).await.unwrap().outcome.unwrap();
    let forks = store.fork(&session, 1, SessionOptions::default()).await.unwrap();
    assert_eq!(state(&session).await["count"], 2);
    assert_eq!(state(&forks[0]).await, state(&session).await);
    store.list().into_iter().for_each(close);
    drop((forks, session));
    settled(&store, &stage).await;
}
