//! The multiplexer over endpoints that behave: ours, rmcp's in both eras, and fakes of each framing.

use std::sync::Arc;
use std::time::Duration;

use oxenv_client::{Code, Conflict, MultiplexOptions, Multiplexer, Strictness};
use oxenv_core::{SessionStore, StoreLimits};
use oxenv_process::secret::Secret;
use oxenv_server::{Server, ServerConfig};
use oxenv_test_support::until;
use oxenv_wire::Delivered;
use rmcp::model::ProtocolVersion;
use serde_json::json;
use tokio::sync::oneshot;

use crate::mux_support::*;

const OLD: &[ProtocolVersion] = &[ProtocolVersion::V_2025_11_25];
const MODERN: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];

#[tokio::test]
async fn two_servers_of_ours_are_one() {
    let (mut urls, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
        let server =
            Server::bind("127.0.0.1:0".parse().unwrap(), store, ServerConfig::default()).await.unwrap();
        urls.push(format!("http://{}/mcp", server.address().unwrap()));
        let (stop, stopped) = oneshot::channel::<()>();
        stops.push((stop, tokio::spawn(server.run(async { drop(stopped.await) }))));
    }
    let mux = multiplexer(&urls, Strictness::Strict);
    let listing = mux.list().await.unwrap();
    assert_eq!(names(&listing), ["echo_message", "echo_with_length"]);
    let conflict = |name: &str| Conflict {
        name: name.to_owned(),
        owner: urls[0].clone(),
        shadowed: vec![urls[1].clone()],
    };
    assert_eq!(listing.conflicts, [conflict("echo_message"), conflict("echo_with_length")]);
    assert!(listing.endpoints.iter().all(|report| report.error.is_none() && report.tools == 2));
    let result = mux.call_tool("echo_with_length", json!({ "message": "hé" })).await.unwrap();
    assert_eq!(result.data(), r#"{"message":"hé","length":2}"#);
    let error = mux.call_tool("echo_message", json!({ "message": 5 })).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::InvalidArguments, Delivered::No));
    mux.close().await;
    for (stop, running) in stops {
        stop.send(()).unwrap();
        within_limit(running).await.unwrap();
    }
}

#[tokio::test]
async fn both_eras_tell_of_their_changes() {
    for versions in [OLD, MODERN] {
        let before = alive();
        {
            let server = Rmcp::start(versions, "127.0.0.1:0").await;
            let fake = Fake::start(|seen| well_behaved(seen, &["mine", "echo"])).await;
            let mux = multiplexer(&[server.url(), fake.url()], Strictness::Strict);
            let listing = mux.list().await.unwrap();
            assert_eq!(listing.conflicts[0].owner, server.url());
            assert!(names(&listing).ends_with(&["rich", "mine"]), "{:?}", names(&listing));
            assert_eq!(mux.call_tool("echo", json!({ "text": "a" })).await.unwrap().text(), "a");
            assert_eq!(say(&mux, "mine").await, "mine");
            let mut rich = String::new();
            mux.call_tool("rich", json!({})).await.unwrap().write_mcp(&mut rich);
            assert!(rich.contains(r#""data":"AAAA""#) && rich.contains(r#"{"a":1.0}"#), "{rich}");
            assert_eq!(fault(&mux, "added_0").await.code(), Code::ToolNotFound);
            assert!(tokio::time::timeout(Duration::from_millis(50), mux.changed()).await.is_err());
            assert_eq!(say(&mux, "change").await, "changed");
            within_limit(mux.changed()).await;
            // The next call lists by itself; who waits for a change is told still.
            let error = fault(&mux, "added_0").await;
            assert_eq!(error.code(), Code::ToolNotFound, "{error}");
            assert!(error.message().contains("nknown tool: added_0"), "{error}");
            within_limit(mux.changed()).await;
            assert!(names(&mux.list().await.unwrap()).contains(&"added_0"));
        }
        wait_until_gone(before).await;
    }
}

#[tokio::test]
async fn results_keep_their_bytes_in_each_framing() {
    let blocks = concat!(
        r#"{"type":"image","data":"AAAA","mimeType":"image/png","later":12345678901234567890123}"#,
        r#",{"type":"text","text":"{\"base64_image\": null}"}"#,
        r#",{"type":"not_yet_known","x":1.50}"#,
        r#",{"type":"text","text":"a","annotations":{"audience":["user"],"new":1}}"#,
    );
    let result = format!(
        r#"{{"content":[{blocks}],"structuredContent":{{"a":123456789012345678901}},"_meta":{{"k": 1}},"isError":true}}"#
    );
    let sessions = [None, Some("a-session")];
    for (framing, session) in [Framing::Json, Framing::Events].map(|f| sessions.map(|s| (f, s))).concat() {
        let text = result.clone();
        let fake = Fake::framed(framing, session, move |seen| match &*seen.rpc {
            "tools/call" => Act::Text(text.clone()),
            _ => well_behaved(seen, &["shot"]),
        })
        .await;
        let mux = multiplexer(&[fake.url()], Strictness::Strict);
        let arguments: serde_json::Value = serde_json::from_str(r#"{"n":1}"#).unwrap();
        let got = mux.call_tool("shot", arguments).await.unwrap();
        assert!(got.is_error);
        let mut written = String::new();
        got.write_mcp(&mut written);
        assert_eq!(written, result, "{framing:?} {session:?}");
        let call = fake.seen("tools/call").remove(0);
        assert_eq!(call.body["params"], json!({ "name": "shot", "arguments": { "n": 1 } }));
        let header = call.headers.iter().find(|(name, _)| name == "mcp-session-id");
        assert_eq!(header.map(|(_, value)| &**value), session);
        mux.close().await;
        let ended = fake.everything().iter().any(|seen| seen.http == "DELETE");
        assert_eq!(ended, session.is_some());
    }
}

#[tokio::test]
async fn what_a_schema_forbids_is_not_sent() {
    let fake = Fake::start(|seen| well_behaved(seen, &["tool"])).await;
    let mux = multiplexer(&[fake.url()], Strictness::Strict);
    for arguments in [json!({ "n": "1" }), json!({ "m": 1 }), json!([]), json!("text")] {
        let error = mux.call_tool("tool", arguments).await.unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidArguments, Delivered::No), "{error}");
        assert!(error.message().contains("tool"), "{error}");
    }
    assert_eq!(fault(&mux, "other").await.code(), Code::ToolNotFound);
    assert!(fake.seen("tools/call").is_empty());
    assert_eq!(mux.call_tool("tool", json!(null)).await.unwrap().text(), "tool");
    assert_eq!(fake.seen("tools/list").len(), 1);
}

#[tokio::test]
async fn headers_go_to_the_endpoint_alone() {
    let other = Fake::start(|seen| well_behaved(seen, &["stolen"])).await;
    let elsewhere: &'static str = Box::leak(other.url().into_boxed_str());
    let headers: &'static [(&str, &str)] = Box::leak(Box::new([("location", elsewhere)]));
    let turns_away = Fake::start(move |_| Act::Status(307, headers, "")).await;
    let within = Fake::start(|seen| match &*seen.path {
        "/mcp" => Act::Status(308, &[("location", "/there")], ""),
        _ => well_behaved(seen, &["tool"]),
    })
    .await;
    let options = MultiplexOptions {
        headers: vec![("Authorization".to_owned(), Secret::new("Bearer hunter22"))],
        ..MultiplexOptions::default()
    };
    let mux = Multiplexer::new(&[turns_away.url(), within.url()], options).unwrap();
    let listing = mux.list().await.unwrap();
    assert_eq!(names(&listing), ["tool"]);
    assert!(listing.endpoints[0].error.is_some());
    assert!(other.everything().is_empty());
    let authorized = |seen: &Seen| seen.headers.contains(&("authorization".into(), "Bearer hunter22".into()));
    assert!(within.everything().iter().all(authorized));
    assert!(!format!("{listing:?}").contains("hunter22"));
}

#[tokio::test]
async fn nothing_is_left_of_one_that_was_dropped() {
    let fake = Fake::framed(Framing::Events, Some("a-session"), |seen| match (&*seen.http, &*seen.rpc) {
        ("GET", _) | (_, "tools/call") => Act::Hang,
        _ => well_behaved(seen, &["tool"]),
    })
    .await;
    let before = alive();
    let mux = multiplexer(&[fake.url(), nowhere()], Strictness::Degraded);
    mux.list().await.unwrap();
    let call = mux.call_tool("tool", json!({}));
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    // A call that nobody waits for any more is cancelled at the endpoint.
    until("the call is cancelled", || fake.seen("notifications/cancelled").len() == 1).await;
    assert!(alive().0 > before.0);
    drop(mux);
    wait_until_gone(before).await;
    assert!(fake.everything().iter().any(|seen| seen.http == "DELETE"));
}

#[tokio::test]
async fn one_that_was_closed_says_so() {
    let fake = Fake::start(|seen| match &*seen.rpc {
        "tools/call" => Act::Hang,
        _ => well_behaved(seen, &["tool"]),
    })
    .await;
    let before = alive();
    let mux = Arc::new(multiplexer(&[fake.url()], Strictness::Strict));
    mux.list().await.unwrap();
    let calling = tokio::spawn({
        let mux = mux.clone();
        async move { fault(&mux, "tool").await }
    });
    until("the call is sent", || fake.seen("tools/call").len() == 1).await;
    mux.close().await;
    mux.close().await;
    let error = within_limit(calling).await.unwrap();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::Maybe), "{error}");
    assert_eq!(fault(&mux, "tool").await.code(), Code::Closed);
    assert_eq!(mux.list().await.unwrap_err().code(), Code::Closed);
    within_limit(mux.changed()).await;
    wait_until_gone(before).await;
}

#[test]
fn wrong_options_are_refused() {
    let new = |urls: &[&str], options| Multiplexer::new(urls, options).err().unwrap();
    let none = MultiplexOptions::default;
    // One that is right needs no runtime.
    assert!(Multiplexer::new(&["https://user:password@a/mcp"], none()).is_ok());
    let optional = MultiplexOptions { optional: vec!["http://a/".to_owned()], ..none() };
    let headers = vec![("a b".to_owned(), Secret::new("hunter22"))];
    let header = MultiplexOptions { headers, ..none() };
    for error in [
        new(&[], none()),
        new(&["ftp://a/"], none()),
        new(&["nonsense"], none()),
        new(&["http://b/"], optional),
        new(&["http://b/"], header),
    ] {
        assert_eq!((error.code(), error.delivered()), (Code::InvalidOptions, Delivered::No));
        assert!(!error.message().contains("hunter22"));
    }
}
