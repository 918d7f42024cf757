//! Resources and prompts of several toolsets as one list, and who answers for them.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{
    CallContext, Mount, Policy, Principal, RequestError, ResourcesAndPrompts, RoleRules, Rules, Toolbox,
};
use oxenv_wire::{RawJson, raw};
use serde_json::{Value, json};

use crate::toolbox_support::{Set, mounts};

fn with_extras(name: &str, resources: &[&str], templates: &[&str], prompts: &[&str]) -> Arc<Set> {
    let extras = ResourcesAndPrompts {
        resources: resources.iter().map(|uri| json!({ "uri": uri, "name": format!("of {name}") })).collect(),
        templates: templates.iter().map(|uri| json!({ "uriTemplate": uri, "name": name })).collect(),
        prompts: prompts.iter().map(|prompt| json!({ "name": prompt, "description": name })).collect(),
    };
    Arc::new(Set::new(name, &[]).with(|set| set.extras = Arc::new(extras)))
}

fn keys(items: &[Value], key: &str) -> Vec<String> {
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

async fn request(toolbox: &Toolbox, method: &str, parameters: Value) -> Result<RawJson, RequestError> {
    let parameters = raw(&parameters).unwrap();
    toolbox.request(CallContext::sessionless(Principal::Agent), method, &parameters).await
}

/// Which toolset answered.
async fn by(toolbox: &Toolbox, method: &str, parameters: Value) -> String {
    let answer = request(toolbox, method, parameters).await.unwrap();
    serde_json::from_str::<Value>(answer.get()).unwrap()["by"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_union_has_each_resource_once_and_each_prompt_under_a_name_of_its_own() {
    let one = with_extras("one", &["a://1", "a://2"], &["t://{x}"], &["greet", "part"]);
    let two = with_extras("two", &["a://2", "b://1"], &["u://{x}"], &["greet", "other"]);
    let toolbox = Toolbox::new(mounts(&[&one, &two]));
    let union = toolbox.extras(Principal::Agent);
    assert_eq!(keys(&union.resources, "uri"), ["a://1", "a://2", "b://1"]);
    assert_eq!(union.resources[1]["name"], "of one");
    assert_eq!(keys(&union.templates, "uriTemplate"), ["t://{x}", "u://{x}"]);
    assert_eq!(keys(&union.prompts, "name"), ["greet", "part", "two__greet", "other"]);
    assert_eq!(union.prompts[2]["description"], "two", "only the name changes");
}

/// Lists are as long as their servers make them, and every client that comes asks for their union: it takes
/// time with the length of the lists and not with its square, which took minutes.
#[tokio::test]
async fn the_union_of_long_lists_is_made_quickly() {
    const ITEMS: usize = 50_000;
    let names = |kind: &str| (0..ITEMS).map(|item| format!("{kind}{item}")).collect::<Vec<_>>();
    let (one, two, prompts) = (names("a://"), names("b://"), names("prompt"));
    let set = |name: &str, uris: &[String]| {
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        with_extras(name, &uris, &[], &prompts)
    };
    let toolbox = Toolbox::new(mounts(&[&set("one", &one), &set("two", &two)]));
    let began = std::time::Instant::now();
    let union = toolbox.extras(Principal::Agent);
    assert_eq!((union.resources.len(), union.prompts.len()), (2 * ITEMS, 2 * ITEMS));
    assert_eq!(union.prompts[2 * ITEMS - 1]["name"], format!("two__prompt{}", ITEMS - 1));
    let asked = json!({ "name": format!("two__prompt{}", ITEMS - 1) });
    assert_eq!(by(&toolbox, "prompts/get", asked).await, "two");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_prompts_owner_hears_its_own_name() {
    let (one, two) = (with_extras("one", &[], &[], &["greet"]), with_extras("two", &[], &[], &["greet"]));
    let toolbox = Toolbox::new(mounts(&[&one, &two]));
    assert_eq!(
        by(&toolbox, "prompts/get", json!({ "name": "greet", "arguments": { "x": "1" } })).await,
        "one"
    );
    let asked = json!({ "name": "two__greet", "arguments": { "name": "two__greet" } });
    assert_eq!(by(&toolbox, "prompts/get", asked).await, "two");
    let heard: Value = serde_json::from_str(&two.calls()[0].1).unwrap();
    assert_eq!(heard, json!({ "name": "greet", "arguments": { "name": "two__greet" } }));
    let completing = json!({
        "ref": { "type": "ref/prompt", "name": "two__greet" }, "argument": { "name": "x", "value": "" },
    });
    assert_eq!(by(&toolbox, "completion/complete", completing).await, "two");
    let heard: Value = serde_json::from_str(&two.calls()[1].1).unwrap();
    assert_eq!(heard["ref"]["name"], "greet");
}

#[tokio::test]
async fn two_prompts_never_have_one_name() {
    let one = with_extras("one", &[], &[], &["greet", "two__greet"]);
    let (two, again) =
        (with_extras("two", &[], &[], &["greet"]), with_extras("two", &[], &[], &["greet", "new"]));
    let toolbox = Toolbox::new(mounts(&[&one, &two, &again]));
    assert_eq!(keys(&toolbox.extras(Principal::Agent).prompts, "name"), ["greet", "two__greet", "new"]);
    assert_eq!(by(&toolbox, "prompts/get", json!({ "name": "two__greet" })).await, "one");
    assert_eq!(by(&toolbox, "prompts/get", json!({ "name": "new" })).await, "two");
    assert_eq!((two.calls().len(), again.calls().len()), (0, 1));
}

#[tokio::test]
async fn a_resource_belongs_to_who_lists_it_and_then_to_who_has_its_template() {
    let one = with_extras("one", &["a://1"], &["t://one/{x}"], &[]);
    let two = with_extras("two", &["t://one/listed", "a://1"], &["t://{+path}", "exact://u"], &[]);
    let toolbox = Toolbox::new(mounts(&[&one, &two]));
    for (uri, owner) in [
        ("a://1", "one"),
        ("t://one/listed", "two"),
        ("t://one/other", "one"),
        ("t://two/x", "two"),
        ("exact://u", "two"),
    ] {
        for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
            assert_eq!(by(&toolbox, method, json!({ "uri": uri })).await, owner, "{method} {uri}");
        }
        let completing = json!({ "ref": { "type": "ref/resource", "uri": uri } });
        assert_eq!(by(&toolbox, "completion/complete", completing).await, owner);
    }
    // A template may be named as it is.
    let completing = json!({ "ref": { "type": "ref/resource", "uri": "t://one/{x}" } });
    assert_eq!(by(&toolbox, "completion/complete", completing).await, "one");
}

#[tokio::test]
async fn what_nobody_offers_has_mcps_codes() {
    let one = with_extras("one", &["a://1"], &["t://{x}"], &["greet"]);
    let toolbox = Toolbox::new(mounts(&[&one]));
    for (method, parameters, code) in [
        ("resources/read", json!({ "uri": "b://1" }), -32002),
        ("resources/subscribe", json!({ "uri": "" }), -32002),
        ("completion/complete", json!({ "ref": { "type": "ref/resource", "uri": "b://1" } }), -32002),
        ("prompts/get", json!({ "name": "nobody" }), -32602),
        ("completion/complete", json!({ "ref": { "type": "ref/prompt", "name": "nobody" } }), -32602),
        ("resources/read", json!({}), -32602),
        ("resources/read", json!({ "uri": 1 }), -32602),
        ("prompts/get", json!([]), -32602),
        ("prompts/get", json!("greet"), -32602),
        ("prompts/get", json!(null), -32602),
        ("completion/complete", json!({ "ref": "greet" }), -32602),
        ("completion/complete", json!({}), -32602),
        ("tools/call", json!({ "name": "greet" }), -32601),
        ("", json!({}), -32601),
    ] {
        let fault = request(&toolbox, method, parameters.clone()).await.unwrap_err();
        assert_eq!(fault.code, code, "{method} {parameters}: {fault:?}");
    }
    let fault = request(&toolbox, "resources/read", json!({ "uri": "b://1" })).await.unwrap_err();
    assert_eq!(fault.data, json!({ "uri": "b://1" }));
    let parameters = serde_json::value::RawValue::from_string(r#"{"name": "\ud800"}"#.to_owned()).unwrap();
    let context = CallContext::sessionless(Principal::Agent);
    assert_eq!(toolbox.request(context, "prompts/get", &parameters).await.unwrap_err().code, -32602);
    assert!(one.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn silence_panics_and_refusals_of_an_owner_are_told() {
    let sets = ["panicking", "silent", "refusing"].map(|name| with_extras(name, &[], &[], &[name]));
    let toolbox =
        Toolbox::new(mounts(&sets.iter().collect::<Vec<_>>())).with_deadline(Duration::from_secs(5));
    for (name, code, says) in [
        ("panicking", -32603, "panicked"),
        ("silent", -32603, "within 5 s"),
        ("refusing", -32000, "not today"),
    ] {
        let fault = request(&toolbox, "prompts/get", json!({ "name": name })).await.unwrap_err();
        assert_eq!(fault.code, code);
        assert!(fault.message.contains(says) && !fault.message.contains("made to"), "{}", fault.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_toolset_that_does_not_start_is_not_waited_for_longer_than_for_an_answer() {
    let starting = Set::new("starting", &[]).late();
    let (starting, there) = (Arc::new(starting), with_extras("there", &["a://1"], &[], &[]));
    let toolbox = Toolbox::new(mounts(&[&starting, &there])).with_deadline(Duration::from_secs(5));
    let answered = by(&toolbox, "resources/read", json!({ "uri": "a://1" }));
    let answered = tokio::time::timeout(Duration::from_secs(6), answered).await;
    assert_eq!(answered.as_deref(), Ok("there"));
}

#[tokio::test]
async fn policy_knows_them_by_name() {
    let set = with_extras("set", &["a://1"], &["t://{x}"], &["greet"]);
    let seen = |rules: Rules| {
        let policy = Arc::new(Policy::compile(rules).unwrap());
        let toolbox = Toolbox::new(vec![Mount { policy, ..Mount::new(Arc::clone(&set) as Arc<_>) }]);
        let extras = toolbox.extras(Principal::Agent);
        ((extras.resources.len(), extras.templates.len(), extras.prompts.len()), toolbox)
    };
    let patterns = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(seen(Rules::default()).0, (1, 1, 1));
    let (counts, toolbox) = seen(Rules { deny: patterns(&["resources"]), ..Rules::default() });
    assert_eq!(counts, (0, 0, 1));
    for uri in ["a://1", "t://1"] {
        let fault = request(&toolbox, "resources/read", json!({ "uri": uri })).await.unwrap_err();
        assert_eq!(fault.code, -32002);
    }
    by(&toolbox, "prompts/get", json!({ "name": "greet" })).await;
    let (counts, toolbox) = seen(Rules { allow: patterns(&["read_*", "resources"]), ..Rules::default() });
    assert_eq!(counts, (1, 1, 0));
    let fault = request(&toolbox, "prompts/get", json!({ "name": "greet" })).await.unwrap_err();
    assert_eq!(fault.code, -32602);
    let agent = RoleRules { deny: patterns(&["*"]), ..RoleRules::default() };
    let (counts, toolbox) = seen(Rules { roles: [(Principal::Agent, agent)].into(), ..Rules::default() });
    assert_eq!(counts, (0, 0, 0));
    assert_eq!(toolbox.extras(Principal::Control).prompts.len(), 1);
    assert_eq!(set.calls().len(), 1);
}

/// A denied prompt must not take a name from one that may be seen.
#[tokio::test]
async fn names_are_taken_by_what_is_seen() {
    let (one, two) = (with_extras("one", &[], &[], &["greet"]), with_extras("two", &[], &[], &["greet"]));
    let policy = Policy::compile(Rules { deny: vec!["prompts".to_owned()], ..Rules::default() }).unwrap();
    let hidden = Mount { policy: Arc::new(policy), ..Mount::new(one as Arc<_>) };
    let toolbox = Toolbox::new(vec![hidden, Mount::new(two as Arc<_>)]);
    assert_eq!(keys(&toolbox.extras(Principal::Agent).prompts, "name"), ["greet"]);
    assert_eq!(by(&toolbox, "prompts/get", json!({ "name": "greet" })).await, "two");
}

#[tokio::test]
async fn what_is_no_prompt_is_left_out() {
    let extras = ResourcesAndPrompts {
        prompts: vec![json!("text"), json!({}), json!(null), json!({ "name": "x" })],
        ..ResourcesAndPrompts::default()
    };
    let set = Arc::new(Set::new("set", &[]).with(|set| set.extras = Arc::new(extras)));
    let toolbox = Toolbox::new(mounts(&[&set]));
    assert_eq!(keys(&toolbox.extras(Principal::Agent).prompts, "name"), ["x"]);
}
