//! The end of a store: nothing new, what runs may finish, then everything ends.

use oxenv_core::{EndReason, Execution, SessionOptions};
use oxenv_wire::{Delivered, ErrorCode};
use serde_json::json;

use crate::stage::{Scripted, Stage, Unblock};
use crate::support::{close, code, observe, open, reset, settled, spawn_step, store};

#[tokio::test]
async fn draining_refuses_new_sessions_and_lets_old_ones_go_on() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let default = store.default_session(false).await.unwrap();
    store.drain();
    assert!(store.status().draining);
    let refused = store.create(SessionOptions::default()).await.err().unwrap();
    assert_eq!((refused.code, refused.delivered), (ErrorCode::Draining, Delivered::No));
    assert!(refused.retryable);
    observe(&session, json!({})).await;
    reset(&session).await.unwrap();
    let same = store.default_session(true).await.unwrap();
    assert_eq!(same.id(), default.id());
    close(default);
    assert_eq!(code(store.default_session(true).await.map(|_| ())), ErrorCode::Draining);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn the_end_of_all_cancels_what_still_runs() {
    for (execution, how) in [(Execution::Task, "wait"), (Execution::Blocking, "block")] {
        let stage = Stage::default();
        let _unblock = Unblock(stage.clone());
        let store = store(Scripted::new(&stage, execution));
        let sessions = [open(&store).await, open(&store).await, store.default_session(false).await.unwrap()];
        let running = sessions.each_ref().map(|session| spawn_step(session, json!({ "do": how })));
        for _ in &sessions {
            stage.entered().await;
        }
        store.drain();
        store.end_all(&EndReason::Drained);
        for (session, step) in sessions.iter().zip(running) {
            let failure = step.await.unwrap().unwrap_err();
            assert_eq!((failure.code, failure.delivered), (ErrorCode::Draining, Delivered::Maybe));
            assert!(!failure.retryable);
            assert!(failure.message.contains("shutting down"), "{failure}");
            assert_eq!(session.ended(), Some(EndReason::Drained));
        }
        drop(sessions);
        for _ in 0..3 {
            stage.unblock();
        }
        settled(&store, &stage).await;
    }
}
