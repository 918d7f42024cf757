//! The names that tools are offered by: unique, at most 64 characters, the same in every run.

use std::collections::HashSet;
use std::sync::Arc;

use oxenv_core::{Mount, Naming, NativeToolset, Principal, Toolbox, Toolset};
use oxenv_wire::{RESERVED_TOOL_NAMES, ToolErrorType, ToolSpelling};
use serde_json::{Value, json};

use crate::toolbox_support::{Set, ask, messages, mounts, names, value};

fn named(sets: &[(&str, &[&str])], naming: Naming) -> Toolbox {
    let mount =
        |(name, tools): &(&str, &[&str])| Mount { naming, ..Mount::new(Arc::new(Set::new(name, tools))) };
    Toolbox::new(sets.iter().map(mount).collect())
}

/// Who answers to a name, and as which tool of its own.
async fn owner(toolbox: &Toolbox, name: &str) -> (String, String) {
    let value = value(&ask(toolbox, name, "{}").await);
    (value["set"].as_str().unwrap().to_owned(), value["tool"].as_str().unwrap().to_owned())
}

fn is(set: &str, tool: &str) -> (String, String) {
    (set.to_owned(), tool.to_owned())
}

#[tokio::test]
async fn a_name_stays_while_it_is_unique() {
    let toolbox = named(&[("git", &["log", "diff"]), ("files", &["read", "log"])], Naming::PrefixOnConflict);
    assert_eq!(names(&toolbox), ["log", "diff", "read", "files__log"]);
    assert_eq!(owner(&toolbox, "log").await, is("git", "log"));
    assert_eq!(owner(&toolbox, "files__log").await, is("files", "log"));
    assert_eq!(ask(&toolbox, "git__log", "{}").await.unwrap_err().error_type, ToolErrorType::ToolNotFound);
    assert!(messages(&toolbox).is_empty());
}

#[tokio::test]
async fn a_prefix_may_be_wanted_always_and_of_ones_own() {
    let toolbox = named(&[("git", &["log"]), ("files", &["read"])], Naming::PrefixAlways);
    assert_eq!(names(&toolbox), ["git__log", "files__read"]);
    let prefix = Some("f".to_owned());
    let mount =
        Mount { prefix, naming: Naming::PrefixAlways, ..Mount::new(Arc::new(Set::new("files", &["a"]))) };
    let toolbox = Toolbox::new(vec![mount]);
    assert_eq!(names(&toolbox), ["f__a"]);
    assert_eq!(owner(&toolbox, "f__a").await, is("files", "a"));
    assert_eq!(ask(&toolbox, "a", "{}").await.unwrap_err().error_type, ToolErrorType::ToolNotFound);
}

#[tokio::test]
async fn a_refused_name_is_a_problem_that_names_both_owners() {
    let toolbox = named(&[("git", &["log"]), ("files", &["log", "read"])], Naming::Refuse);
    assert_eq!(names(&toolbox), ["log", "read"]);
    assert_eq!(owner(&toolbox, "log").await, is("git", "log"));
    let problems = messages(&toolbox);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("'log'") && problems[0].contains("'git'") && problems[0].contains("'files'"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn names_of_orchestration_carry_a_prefix_whatever_the_rule() {
    let reserved: Vec<&str> = RESERVED_TOOL_NAMES.to_vec();
    for naming in [Naming::PrefixOnConflict, Naming::PrefixAlways, Naming::Refuse] {
        let toolbox = named(&[("game", &reserved)], naming);
        let offered: Vec<String> = reserved.iter().map(|name| format!("game__{name}")).collect();
        assert_eq!(names(&toolbox), offered);
        assert_eq!(owner(&toolbox, "game__reset").await, is("game", "reset"));
        for name in &reserved {
            let error = ask(&toolbox, name, "{}").await.unwrap_err();
            assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
        }
        assert!(messages(&toolbox).is_empty());
    }
}

#[test]
fn a_native_tool_never_has_such_a_name() {
    for name in RESERVED_TOOL_NAMES {
        let made = std::panic::catch_unwind(|| NativeToolset::new("n").tool(name, "", |(): ()| Ok(1)));
        assert!(made.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_long_name_is_shortened_and_stays_unique() {
    let long = |end: &str| format!("{}{end}", "a".repeat(70));
    let (one, two, wide) = (long("1"), long("2"), "é".repeat(40));
    let tools = [one.as_str(), two.as_str(), wide.as_str()];
    let toolbox = named(&[("first", &tools), ("second", &tools)], Naming::PrefixOnConflict);
    let offered = names(&toolbox);
    assert_eq!(offered.iter().collect::<HashSet<_>>().len(), 6);
    assert!(offered.iter().all(|name| name.len() <= 64), "{offered:?}");
    for (name, (set, own)) in offered.iter().zip([
        ("first", &one),
        ("first", &two),
        ("first", &wide),
        ("second", &one),
        ("second", &two),
        ("second", &wide),
    ]) {
        assert_eq!(owner(&toolbox, name).await, is(set, own));
    }
    // As written here once, so that a name that a model has learnt stays.
    assert_eq!(offered[0], format!("{}_f39b901d", "a".repeat(55)));
    assert!(offered[3].starts_with("second__aaaa"));
    let exact = "b".repeat(64);
    assert_eq!(names(&named(&[("s", &[&exact])], Naming::PrefixOnConflict)), [exact]);
}

#[tokio::test]
async fn a_name_whose_prefixed_form_is_taken_too_is_a_problem() {
    let toolbox =
        named(&[("a", &["x", "b__x"]), ("b", &["x", "y"]), ("b", &["x"])], Naming::PrefixOnConflict);
    assert_eq!(names(&toolbox), ["x", "b__x", "y"]);
    assert_eq!(owner(&toolbox, "b__x").await, is("a", "b__x"));
    let problems = messages(&toolbox);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.contains("'x' of 'b'") && problem.contains("'b__x'")));
}

#[tokio::test]
async fn a_tool_that_its_set_lists_twice_is_offered_once() {
    for naming in [Naming::PrefixOnConflict, Naming::PrefixAlways, Naming::Refuse] {
        let toolbox = named(&[("a", &["x", "y", "x", "reset", "reset"])], naming);
        assert_eq!(names(&toolbox).len(), 3, "{:?}", names(&toolbox));
        let problems = messages(&toolbox);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("'x'") && problems[0].contains("'a'"), "{problems:?}");
    }
}

#[test]
fn empty_and_strange_names_are_offered_as_they_are() {
    let toolbox = named(&[("a", &["", "a b", "é/ü", "\"quoted\""])], Naming::PrefixOnConflict);
    assert_eq!(names(&toolbox), ["", "a b", "é/ü", "\"quoted\""]);
    let listing = toolbox.listing(Principal::Agent, ToolSpelling::Rest);
    let listing: Vec<Value> = serde_json::from_str(&listing).unwrap();
    assert_eq!(listing[3]["name"], json!("\"quoted\""));
}

#[tokio::test]
async fn fifty_sets_of_twenty_tools() {
    let own: Vec<String> = (0..20).map(|tool| format!("tool_{tool}")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let make = || {
        let sets: Vec<Arc<Set>> =
            (0..50).map(|set| Arc::new(Set::new(&format!("set_{set}"), &own))).collect();
        Toolbox::new(mounts(&sets.iter().collect::<Vec<_>>()))
    };
    let (toolbox, again) = (make(), make());
    let offered = names(&toolbox);
    assert_eq!(offered.len(), 1000);
    assert_eq!(offered, names(&again), "the order is the same in every run");
    assert_eq!((offered[0].as_str(), offered[20].as_str()), ("tool_0", "set_1__tool_0"));
    for (place, name) in offered.iter().enumerate() {
        let expected = is(&format!("set_{}", place / 20), own[place % 20]);
        assert_eq!(owner(&toolbox, name).await, expected);
    }
    assert!(messages(&toolbox).is_empty());
}

#[test]
fn toolsets_without_rules_must_not_share_a_name() {
    let set = |name: &str| Arc::new(Set::new(name, &["same"])) as Arc<dyn Toolset>;
    let error = Toolbox::of(vec![set("one"), set("two")]).err().unwrap();
    assert!(error.contains("'one'") && error.contains("'two'"), "{error}");
    assert!(Toolbox::of(vec![set("one")]).is_ok());
}

#[test]
fn problems_of_toolsets_come_with_their_names() {
    let down = Set::new("down", &[]).with(|set| set.problem = Some("it did not start".to_owned()));
    let up = Set::new("up", &["x", "x"]);
    let required = Mount { required: true, ..Mount::new(Arc::new(down)) };
    let toolbox = Toolbox::new(vec![required, Mount::new(Arc::new(up))]);
    let problems = toolbox.problems();
    assert_eq!(problems.len(), 2);
    assert_eq!(
        (problems[0].toolset.as_deref(), problems[0].message.as_str(), problems[0].required),
        (Some("down"), "it did not start", true)
    );
    assert_eq!((problems[1].toolset.as_deref(), problems[1].required), (None, false));
}

#[test]
fn only_tools_of_the_server_are_left_without_a_session() {
    let server = Arc::new(Set::new("server", &["a"]));
    let session = Arc::new(Set::new("session", &["b"]).with(|set| set.scope = oxenv_core::Scope::Session));
    let toolbox = Toolbox::new(mounts(&[&session, &server]));
    assert_eq!(names(&toolbox), ["b", "a"]);
    assert_eq!(names(&toolbox.server_scoped()), ["a"]);
}
