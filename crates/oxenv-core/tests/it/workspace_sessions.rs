//! What a reset does before the environment's own, and what the end of a session leaves: nothing.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oxenv_core::{EndReason, Failure, Session, SessionOptions, Toolbox, Work, WorkspaceSource, Workspaces};
use oxenv_test_support::soon;
use oxenv_wire::{ErrorCode, FailureKind, Phase};
use serde_json::json;
use tokio::sync::{Barrier, Semaphore};

use crate::stage::eventually;
use crate::support::{code, reset, spawn_step, state, step, tool_step};
use crate::toolbox_support::{Host, Set, done, mounts};
use crate::workspace::{Folder, listing};

/// The folders of the sessions below `parent`.
fn folders(parent: &Folder) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in fs::read_dir(&parent.0).unwrap() {
        for entry in fs::read_dir(root.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_reset_makes_the_workspace_fresh() {
    let from = Folder::new();
    fs::write(from.0.join("given"), "as it was").unwrap();
    for (source, fresh) in [
        (WorkspaceSource::Empty, vec![]),
        (WorkspaceSource::CopyOf(from.0.clone()), vec!["given: as it was"]),
    ] {
        let parent = Folder::new();
        let workspaces = Arc::new(Workspaces::new(&parent.0, source).unwrap());
        let store = Host::new(Toolbox::empty()).within(&workspaces).store();
        let session = store.create(SessionOptions::default()).await.unwrap();
        let other = store.create(SessionOptions::default()).await.unwrap();
        let all = folders(&parent);
        assert_eq!(all.len(), 2);
        let own = all.iter().find(|path| path.ends_with(session.id())).unwrap();
        let others = all.iter().find(|path| path.ends_with(other.id())).unwrap();
        for path in &all {
            assert_eq!(listing(path), fresh);
            fs::write(path.join("made"), "by a tool").unwrap();
        }
        reset(&session).await.unwrap();
        assert_eq!(listing(own), fresh);
        assert_eq!(listing(others).len(), fresh.len() + 1);
        session.end(EndReason::Closed);
        eventually("its folder is gone", || !own.exists()).await;
        assert!(others.exists());
        drop((session, other));
        store.end_all(&EndReason::Drained);
        eventually("all folders are gone", || folders(&parent).is_empty()).await;
        drop((store, workspaces));
        assert!(listing(&parent.0).is_empty());
    }
}

#[tokio::test]
async fn a_shared_workspace_outlives_everybody() {
    let (parent, own) = (Folder::new(), Folder::new());
    fs::write(own.0.join("mine"), "kept").unwrap();
    let source = WorkspaceSource::Shared(own.0.clone());
    let workspaces = Arc::new(Workspaces::new(&parent.0, source).unwrap());
    let store = Host::new(Toolbox::empty()).within(&workspaces).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    session.end(EndReason::Closed);
    drop((session, store, workspaces));
    assert_eq!(listing(&own.0), ["mine: kept"]);
}

#[tokio::test]
async fn a_workspace_that_cannot_be_made_fresh_fails_the_reset() {
    let (parent, from) = (Folder::new(), Folder::new());
    let source = WorkspaceSource::CopyOf(from.0.clone());
    let workspaces = Arc::new(Workspaces::new(&parent.0, source).unwrap());
    let set = Arc::new(Set::new("set", &["tool"]));
    let store = Host::new(Toolbox::new(mounts(&[&set]))).within(&workspaces).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    fs::remove_dir_all(&from.0).unwrap();
    let failure = reset(&session).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (FailureKind::Infrastructure, Phase::Reset));
    assert!(failure.message.contains("workspace") && failure.message.contains(from.0.to_str().unwrap()));
    assert_eq!(code(step(&session, tool_step("tool", &json!({}))).await), ErrorCode::ResetRequired);
    fs::create_dir(&from.0).unwrap();
    reset(&session).await.unwrap();
    step(&session, tool_step("tool", &json!({}))).await.unwrap();
}

async fn session_of(sets: &[&Arc<Set>]) -> (oxenv_core::SessionStore, Arc<Session>) {
    let store = Host::new(Toolbox::new(mounts(sets))).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    (store, session)
}

#[tokio::test]
async fn a_reset_resets_all_toolsets_together() {
    let barrier = Arc::new(Barrier::new(2));
    let meeting = |name: &str| {
        let barrier = Arc::clone(&barrier);
        Arc::new(Set::new(name, &[]).resetting(move || {
            let barrier = Arc::clone(&barrier);
            Work::pending(async move {
                barrier.wait().await;
                Ok(())
            })
        }))
    };
    let (_store, session) = session_of(&[&meeting("one"), &meeting("two")]).await;
    soon(reset(&session)).await.unwrap();
    soon(reset(&session)).await.unwrap();
}

#[tokio::test]
async fn the_failure_of_one_toolset_fails_the_reset_as_it_is() {
    let resets = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&resets);
    let fine = Arc::new(Set::new("fine", &["tool"]).resetting(move || {
        shared.fetch_add(1, Ordering::SeqCst);
        Work::done(Ok(()))
    }));
    let healed = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&healed);
    let failing = Arc::new(Set::new("failing", &[]).resetting(move || {
        let outcome = match shared.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Failure::infrastructure("it did not come back")),
            1 => Err(Failure::action("not in this state")),
            _ => Ok(()),
        };
        Work::pending(async move { outcome })
    }));
    let (_store, session) = session_of(&[&failing, &fine]).await;
    for (kind, message) in
        [(FailureKind::Infrastructure, "it did not come back"), (FailureKind::Action, "not in this state")]
    {
        let failure = reset(&session).await.unwrap_err();
        assert_eq!((failure.kind, failure.phase), (kind, Phase::Reset));
        assert_eq!(failure.message, message);
        assert_eq!(code(step(&session, tool_step("tool", &json!({}))).await), ErrorCode::ResetRequired);
    }
    reset(&session).await.unwrap();
    assert_eq!(resets.load(Ordering::SeqCst), 3, "others are reset all the same");
    step(&session, tool_step("tool", &json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_a_toolsets_reset_is_a_failure_of_that_reset() {
    for later in [false, true] {
        let panicked = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&panicked);
        let set = Arc::new(Set::new("fragile", &["tool"]).resetting(move || {
            if shared.fetch_add(1, Ordering::SeqCst) > 0 {
                return Work::done(Ok(()));
            }
            assert!(later, "secret of the panic");
            Work::pending(async {
                tokio::task::yield_now().await;
                panic!("secret of the panic")
            })
        }));
        let (_store, session) = session_of(&[&set]).await;
        let failure = reset(&session).await.unwrap_err();
        assert_eq!((failure.kind, failure.phase), (FailureKind::Infrastructure, Phase::Reset));
        assert!(failure.message.contains("'fragile'") && !failure.message.contains("secret"));
        reset(&session).await.unwrap();
        step(&session, tool_step("tool", &json!({}))).await.unwrap();
    }
}

#[tokio::test]
async fn the_state_can_be_read_while_toolsets_are_reset() {
    let gate = Arc::new(Semaphore::new(1));
    let begun = Arc::new(AtomicUsize::new(0));
    let (shared, count) = (Arc::clone(&gate), Arc::clone(&begun));
    let set = Arc::new(Set::new("slow", &["tool"]).resetting(move || {
        let gate = Arc::clone(&shared);
        count.fetch_add(1, Ordering::SeqCst);
        Work::pending(async move {
            gate.acquire().await.unwrap().forget();
            Ok(())
        })
    }));
    let (_store, session) = session_of(&[&set]).await;
    reset(&session).await.unwrap();
    step(&session, tool_step("tool", &json!({}))).await.unwrap();
    let shared = Arc::clone(&session);
    let resetting = tokio::spawn(async move { reset(&shared).await });
    eventually("the toolset is reset", || begun.load(Ordering::SeqCst) == 2).await;
    assert_eq!(soon(state(&session)).await["step_count"], 1, "the state before the reset");
    assert_eq!(session.info().epoch, 2);
    assert!(!resetting.is_finished());
    // A step waits, and then runs in the new episode or says that it was cancelled.
    let waiting = spawn_step(&session, tool_step("tool", &json!({})));
    gate.add_permits(1);
    soon(resetting).await.unwrap().unwrap();
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(soon(state(&session)).await["step_count"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_toolset_that_is_never_reset_is_held_to_the_deadline() {
    let healed = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&healed);
    let set =
        Arc::new(Set::new("stuck", &["tool"]).resetting(
            move || match shared.fetch_add(1, Ordering::SeqCst) {
                0 => Work::pending(std::future::pending()),
                _ => Work::done(Ok(())),
            },
        ));
    let (_store, session) = session_of(&[&set]).await;
    let failure = reset(&session).await.unwrap_err();
    assert_eq!((failure.code, failure.phase), (ErrorCode::DeadlineExceeded, Phase::Reset));
    reset(&session).await.unwrap();
}

#[tokio::test]
async fn a_later_reset_cancels_one_whose_toolsets_hang() {
    let (entered, seen) = <(Arc<AtomicUsize>, Arc<Mutex<Vec<usize>>>)>::default();
    let (count, notes) = (Arc::clone(&entered), Arc::clone(&seen));
    let set = Arc::new(Set::new("set", &[]).resetting(move || {
        let (number, notes) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&notes));
        Work::pending(async move {
            if number == 0 {
                std::future::pending::<()>().await;
            }
            notes.lock().unwrap().push(number);
            Ok(())
        })
    }));
    let (_store, session) = session_of(&[&set]).await;
    let shared = Arc::clone(&session);
    let first = tokio::spawn(async move { reset(&shared).await });
    eventually("the first hangs", || entered.load(Ordering::SeqCst) == 1).await;
    soon(reset(&session)).await.unwrap();
    assert_eq!(code(soon(first).await.unwrap()), ErrorCode::Cancelled);
    assert_eq!(*seen.lock().unwrap(), [1]);
}

#[tokio::test]
async fn toolsets_are_closed_once_however_often_a_session_ends() {
    let parent = Folder::new();
    let workspaces = Arc::new(Workspaces::new(&parent.0, WorkspaceSource::Empty).unwrap());
    let set = Arc::new(Set::new("set", &["wait"]).answering(|_, _| Work::pending(std::future::pending())));
    let store = Host::new(Toolbox::new(mounts(&[&set]))).within(&workspaces).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    let running = spawn_step(&session, tool_step("wait", &json!({})));
    eventually("it runs", || set.calls().len() == 1).await;
    assert_eq!((set.closed(), folders(&parent).len()), (0, 1));
    session.end(EndReason::Closed);
    session.end(EndReason::Expired);
    store.end_all(&EndReason::Drained);
    assert_eq!(code(soon(running).await.unwrap()), ErrorCode::SessionEnded);
    drop(session);
    eventually("its folder is gone", || folders(&parent).is_empty()).await;
    assert_eq!(set.closed(), 1);
}

#[tokio::test]
async fn a_session_whose_rubric_panics_is_closed_too() {
    let set = Arc::new(Set::new("set", &["tool"]).answering(|_, _| done(&json!(1))));
    let (host, notes) = Host::new(Toolbox::new(mounts(&[&set]))).scored();
    let store = host.store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    // The notes cannot be locked any more, so the rubric panics.
    let shared = Arc::clone(&notes);
    let _ = std::thread::spawn(move || {
        let _held = shared.lock().unwrap();
        panic!("made to panic");
    })
    .join();
    assert_eq!(code(step(&session, tool_step("tool", &json!({}))).await), ErrorCode::EnvironmentPanicked);
    assert_eq!(set.closed(), 1);
    assert!(session.ended().is_some());
}
