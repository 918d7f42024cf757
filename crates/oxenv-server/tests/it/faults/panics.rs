//! Environments that panic under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oxenv_test_support::code;
use oxenv_test_support::tally::{report, tries};
use serde_json::json;
use tokio::task::JoinSet;

use crate::served::{Served, serve};

const SESSIONS: usize = 64;
/// How many steps there are for each that panics.
const EVERY: usize = 100;

/// What the sessions have seen together.
#[derive(Default)]
struct Seen {
    begun: AtomicUsize,
    right: AtomicUsize,
    panicked: AtomicUsize,
}

#[tokio::test]
async fn a_panic_per_hundred_steps_harms_its_own_session_only() {
    // The panics are meant; what they print would bury what is not.
    std::panic::set_hook(Box::new(|panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"made to panic") {
            eprintln!("{panic}");
        }
    }));
    let tried = tries(6_400, 100_000);
    let served = Arc::new(serve().await);
    let seen = Arc::new(Seen::default());
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (served, seen) = (Arc::clone(&served), Arc::clone(&seen));
        sessions.spawn(async move { load(&served, &seen, tried).await });
    }
    sessions.join_all().await;
    Arc::into_inner(served).unwrap().end().await;
    let (right, panicked) = (seen.right.load(Ordering::SeqCst), seen.panicked.load(Ordering::SeqCst));
    assert_eq!(panicked, tried / EVERY);
    let note = format!(
        "steps of {SESSIONS} sessions, {panicked} of which panicked: a typed error without reward each, and \
         a new session at the next reset; the other steps all went on from the state before"
    );
    report("a panic per 100 steps", tried, right + panicked, &note);
}

/// Steps one session until all steps are taken, and checks that it is never disturbed by the others.
async fn load(served: &Served, seen: &Seen, tried: usize) {
    let mut socket = served.ws("/ws").await;
    let mut count = 0;
    loop {
        let step = seen.begun.fetch_add(1, Ordering::SeqCst) + 1;
        if step > tried {
            break;
        }
        if !step.is_multiple_of(EVERY) {
            count += 1;
            let shown = socket.step(&json!({})).await;
            assert_eq!(
                (&shown["data"]["observation"]["count"], &shown["data"]["reward"]),
                (&json!(count), &json!(1))
            );
            seen.right.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let how = if step.is_multiple_of(2 * EVERY) { "panic" } else { "panic_later" };
        let failed = socket.step(&json!({ "do": how })).await;
        assert_eq!(code(&failed), "EXECUTION_ERROR", "{failed}");
        assert!(!failed.to_string().contains("reward"), "{failed}");
        seen.panicked.fetch_add(1, Ordering::SeqCst);
        let reset = socket.ask(&json!({ "type": "reset" })).await;
        assert_eq!(reset["data"]["observation"]["count"], 0, "{reset}");
        count = 0;
    }
    socket.close().await;
}
