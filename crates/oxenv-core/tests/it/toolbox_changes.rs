//! Lists that change, and lists that come late.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_core::{CatalogueCache, Principal, Toolbox};
use oxenv_test_support::soon;
use oxenv_wire::{ToolErrorType, ToolSpelling};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::stage::at_once;
use crate::toolbox_support::{Host, Set, ask, done, mounts, names, value};
use oxenv_core::{AgentCall, SessionOptions, Work};

#[tokio::test]
async fn a_change_replaces_the_names_as_a_whole() {
    let (first, second) = (Arc::new(Set::new("first", &["a"])), Arc::new(Set::new("second", &["a", "b"])));
    let toolbox = Toolbox::new(mounts(&[&first, &second]));
    assert_eq!(names(&toolbox), ["a", "second__a", "b"]);
    let seen = toolbox.changes().count();
    first.change(&["b", "c"]);
    assert_eq!(at_once(toolbox.changes().after(seen)), seen + 1);
    assert_eq!(names(&toolbox), ["b", "c", "a", "second__b"]);
    assert_eq!(value(&ask(&toolbox, "a", "{}").await)["set"], "second");
    assert_eq!(value(&ask(&toolbox, "b", "{}").await)["set"], "first");
    let error = ask(&toolbox, "second__a", "{}").await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
    second.change(&[]);
    assert_eq!(names(&toolbox), ["b", "c"]);
}

#[tokio::test]
async fn a_call_in_flight_outlives_its_tool() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let set = Set::new("set", &["slow"]).answering(move |tool, _| {
        let (gate, tool) = (Arc::clone(&waiting), tool.to_owned());
        Work::pending(async move {
            gate.acquire().await.unwrap().forget();
            done(&json!(tool)).await
        })
    });
    let set = Arc::new(set);
    let toolbox = Arc::new(Toolbox::new(mounts(&[&set])));
    let shared = Arc::clone(&toolbox);
    let calling = tokio::spawn(async move { ask(&shared, "slow", "{}").await });
    while set.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    set.change(&["other"]);
    assert_eq!(names(&toolbox), ["other"]);
    assert_eq!(ask(&toolbox, "slow", "{}").await.unwrap_err().error_type, ToolErrorType::ToolNotFound);
    gate.add_permits(1);
    assert_eq!(value(&soon(calling).await.unwrap()), json!("slow"));
}

#[test]
fn a_listing_is_made_once_per_change() {
    let set = Arc::new(Set::new("set", &["a"]));
    let toolbox = Toolbox::new(mounts(&[&set]));
    let listing = |spelling| toolbox.listing(Principal::Agent, spelling);
    let spellings = [ToolSpelling::Step, ToolSpelling::Rest, ToolSpelling::Dialect, ToolSpelling::Mcp];
    let first = spellings.map(listing);
    for (one, spelling) in first.iter().zip(spellings) {
        assert!(Arc::ptr_eq(one, &listing(spelling)), "{spelling:?}");
        assert!(serde_json::from_str::<Vec<serde_json::Value>>(one).unwrap()[0]["name"] == "a");
    }
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
    let tools = toolbox.tools(Principal::Agent);
    assert!(Arc::ptr_eq(&tools, &toolbox.tools(Principal::Agent)));
    set.change(&["a", "b"]);
    for (old, spelling) in first.iter().zip(spellings) {
        assert!(!Arc::ptr_eq(old, &listing(spelling)), "{spelling:?}");
    }
    assert_eq!(toolbox.tools(Principal::Agent).len(), 2);
}

#[test]
fn toolboxes_with_the_same_lists_share_their_names() {
    let cache = Arc::new(CatalogueCache::default());
    let shared = Arc::new(Set::new("shared", &["a"]));
    let sharing = |own: &Arc<Set>| Toolbox::sharing(mounts(&[&shared, own]), Arc::clone(&cache));
    let listing = |toolbox: &Toolbox| toolbox.listing(Principal::Agent, ToolSpelling::Mcp);
    // Lists are the same by pointer, whoever offers them.
    let own = Arc::new(Set::new("own", &["b"]));
    let (one, two) = (sharing(&own), sharing(&own));
    assert!(Arc::ptr_eq(&listing(&one), &listing(&two)));
    let other = Arc::new(Set::new("own", &["b"]));
    let three = sharing(&other);
    assert!(!Arc::ptr_eq(&listing(&one), &listing(&three)));
    assert_eq!(listing(&one), listing(&three));
    // The change of a shared list reaches all of them, and again they share.
    shared.change(&["c"]);
    assert!(Arc::ptr_eq(&listing(&one), &listing(&two)));
    assert_eq!((names(&one).concat(), names(&three).concat()), ("cb".to_owned(), "cb".to_owned()));
    // The change of one session's list is its own.
    other.change(&["d"]);
    assert_eq!((names(&one).concat(), names(&three).concat()), ("cb".to_owned(), "cd".to_owned()));
    assert!(Arc::ptr_eq(&listing(&one), &listing(&two)));
}

/// What was listed last is what is offered at once, however calls, listings and changes overlap: who
/// is slow to make names must not put older ones back. And no call ever reaches a tool that it did not name.
fn overlap(cache: Option<Arc<CatalogueCache>>) {
    const CHANGES: usize = 10_000;
    let set = |name: &'static str| {
        Arc::new(Set::new(name, &["same"]).answering(move |tool, _| done(&json!([name, tool]))))
    };
    let (first, second) = (set("first"), set("second"));
    let mounts = mounts(&[&first, &second]);
    let toolbox = match cache {
        Some(cache) => Toolbox::sharing(mounts, cache),
        None => Toolbox::new(mounts),
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    assert!(names(&toolbox).len() >= 2);
                    for (name, own) in
                        [("same", "same"), ("second__same", "same"), ("x_0", "x_0"), ("y", "y")]
                    {
                        match at_once(ask(&toolbox, name, "{}")) {
                            Ok(result) => {
                                let value = value(&Ok(result));
                                assert_eq!(value[1], json!(own));
                                // These names are one toolset's, whatever the lists are.
                                let only = match name {
                                    "x_0" => Some("first"),
                                    "y" | "second__same" => Some("second"),
                                    _ => None,
                                };
                                assert!(only.is_none_or(|only| value[0] == only), "{name} reached {value}");
                            }
                            Err(error) => assert_eq!(error.error_type, ToolErrorType::ToolNotFound),
                        }
                    }
                }
            });
        }
        let changing = scope.spawn(|| {
            for change in 0..CHANGES {
                first.change(&["same", &format!("x_{}", change % 2)]);
                second.change(if change % 2 == 0 { &["same", "y"] } else { &["same"] });
                let offered = names(&toolbox);
                let expected = [format!("x_{}", change % 2), "second__same".to_owned()];
                assert!(expected.iter().all(|name| offered.contains(name)), "{offered:?} after {change}");
            }
        });
        let changed = changing.join();
        over.store(true, Ordering::Release);
        changed.unwrap();
    });
    assert_eq!(names(&toolbox), ["same", "x_1", "second__same"]);
}

#[test]
fn calls_and_changes_overlap() {
    overlap(None);
}

#[test]
fn calls_and_changes_overlap_with_shared_names() {
    overlap(Some(Arc::default()));
}

#[tokio::test]
async fn a_call_waits_for_a_list_that_is_to_come_and_others_do_not() {
    let (late, quick) = (Arc::new(Set::new("late", &[]).late()), Arc::new(Set::new("quick", &["now"])));
    let toolbox = Arc::new(Toolbox::new(mounts(&[&late, &quick])));
    let shared = Arc::clone(&toolbox);
    let waiting = tokio::spawn(async move { ask(&shared, "then", "{}").await });
    let shared = Arc::clone(&toolbox);
    let hopeless = tokio::spawn(async move { ask(&shared, "never", "{}").await });
    tokio::task::yield_now().await;
    assert_eq!(value(&at_once(ask(&toolbox, "now", "{}")))["set"], "quick");
    assert_eq!(names(&toolbox), ["now"]);
    assert!(!waiting.is_finished() && !hopeless.is_finished());
    late.begin(&["then"]);
    assert_eq!(value(&soon(waiting).await.unwrap())["set"], "late");
    let error = soon(hopeless).await.unwrap().unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
    at_once(toolbox.settled());
}

#[tokio::test]
async fn a_list_that_never_comes_is_no_tool() {
    let late = Arc::new(Set::new("late", &[]).late());
    let toolbox = Arc::new(Toolbox::new(mounts(&[&late])));
    late.begin(&[]);
    let error = at_once(ask(&toolbox, "then", "{}")).unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
}

#[tokio::test]
async fn a_sessions_list_waits_for_every_toolset() {
    let (late, quick) = (Arc::new(Set::new("late", &[]).late()), Arc::new(Set::new("quick", &["now"])));
    let store = Host::new(Toolbox::new(mounts(&[&late, &quick]))).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let shared = Arc::clone(&session);
    let listing = tokio::spawn(async move { crate::support::list(&shared, Principal::Control).await });
    tokio::task::yield_now().await;
    assert!(!listing.is_finished());
    late.begin(&["then"]);
    let tools = soon(listing).await.unwrap().unwrap().tools;
    assert!(tools.contains("\"then\"") && tools.contains("\"now\""), "{tools}");
}

/// A name that nobody has yet may become a toolset's whose calls must not overlap.
#[tokio::test]
async fn calls_that_wait_for_their_toolset_do_not_overlap_unless_they_may() {
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let late = Set::new("late", &[]).late().with(|set| set.concurrent = false).answering(move |_, _| {
        let running = Arc::clone(&counted);
        Work::pending(async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            done(&json!(null)).await
        })
    });
    let late = Arc::new(late);
    let store = Host::new(Toolbox::new(mounts(&[&late]))).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move {
                crate::support::agent_call(
                    &session,
                    AgentCall { name: "then".into(), ..AgentCall::default() },
                )
                .await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    late.begin(&["then"]);
    for call in calls {
        assert!(soon(call).await.unwrap().unwrap().outcome.is_ok());
    }
    assert_eq!(late.calls().len(), 3);
}
