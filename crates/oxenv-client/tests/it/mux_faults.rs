//! The multiplexer over endpoints that fail: each has its own outcome, and no call is sent twice that may
//! have run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oxenv_client::{Code, MultiplexOptions, Multiplexer, Strictness};
use oxenv_test_support::until;
use oxenv_wire::{Delivered, ErrorCode, FailureKind};
use rmcp::model::ProtocolVersion;
use serde_json::json;

use crate::mux_support::*;

const KNOWN: &[ProtocolVersion] = ProtocolVersion::KNOWN_VERSIONS;
const HTML: &[(&str, &str)] = &[("content-type", "text/html")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream")];

/// An endpoint beside a good one: degraded lists the good one's tools, strict fails.
async fn outcome(bad: &str, code: Option<Code>, says: &str) {
    let before = alive();
    {
        let good = Fake::start(|seen| well_behaved(seen, &["good"])).await;
        let urls = [bad.to_owned(), good.url()];
        let listing = multiplexer(&urls, Strictness::Degraded).list().await.unwrap();
        assert_eq!(names(&listing), ["good"]);
        let report = &listing.endpoints[0];
        assert_eq!(report.code, code, "{report:?}");
        assert!(report.error.as_deref().unwrap_or_default().contains(says), "{report:?}");
        let strict = multiplexer(&urls, Strictness::Strict).list().await;
        match code {
            None => assert_eq!(names(&strict.unwrap()), ["good"]),
            Some(_) => {
                let error = strict.unwrap_err();
                assert_eq!(error.code(), Code::EndpointUnavailable);
                assert!(error.message().contains(says) && error.message().contains(bad), "{error}");
                assert_eq!(error.data()["endpoints"][0]["url"], bad);
            }
        }
    }
    wait_until_gone(before).await;
}

#[tokio::test]
async fn each_endpoint_that_cannot_be_used_says_why() {
    let status = |status| move |_: &Seen| Act::Status(status, &[], "no");
    let unavailable = Some(Code::EndpointUnavailable);
    outcome(&nowhere(), Some(Code::ConnectFailed), "cannot be reached").await;
    outcome("http://no.such.host.invalid/mcp", Some(Code::ConnectFailed), "cannot be reached").await;
    let fake = Fake::start(status(404)).await;
    outcome(&fake.url(), unavailable, "has nothing at that path (HTTP 404)").await;
    let fake = Fake::start(status(502)).await;
    outcome(&fake.url(), unavailable, "HTTP 502").await;
    let fake = Fake::start(status(401)).await;
    outcome(&fake.url(), Some(Code::Server(ErrorCode::Unauthorized)), "wants a token").await;
    assert!(fake.everything().iter().all(|seen| seen.rpc == "initialize"));
    let fake = Fake::start(|_| Act::Status(401, &[("www-authenticate", "Bearer")], "")).await;
    outcome(&fake.url(), Some(Code::Server(ErrorCode::Unauthorized)), "wants a token").await;
    let fake = Fake::start(|_| Act::Status(200, HTML, "<html>Welcome</html>")).await;
    outcome(&fake.url(), Some(Code::NotAServer), "check the url").await;
    let fake = Fake::start(|_| Act::Status(200, JSON, "{\"hello\": 1}")).await;
    outcome(&fake.url(), Some(Code::NotAServer), "check the url").await;
    let fake = Fake::start(|seen| match &*seen.http {
        "GET" => Act::Status(200, EVENTS, "event: endpoint\ndata: /messages?session=1\n\n"),
        _ => Act::Status(405, &[], "Method Not Allowed"),
    })
    .await;
    let says =
        "speaks the old HTTP+SSE transport, which is not supported; ask its operator for Streamable HTTP";
    outcome(&fake.url(), Some(Code::NotAServer), says).await;
    let fake = Fake::start(|seen| match &*seen.rpc {
        "tools/list" => Act::Status(502, HTML, "<html>Bad Gateway</html>"),
        _ => well_behaved(seen, &[]),
    })
    .await;
    outcome(&fake.url(), unavailable, "HTTP 502").await;
    let fake = Fake::start(|seen| match &*seen.rpc {
        "tools/list" => Act::Result(json!({ "tools": 5 })),
        _ => well_behaved(seen, &[]),
    })
    .await;
    outcome(&fake.url(), Some(Code::InvalidReply), "no list").await;
    let fake = Fake::start(|seen| well_behaved(seen, &[])).await;
    outcome(&fake.url(), None, "").await;
}

#[tokio::test]
async fn a_certificate_that_nobody_knows_is_refused() {
    // Whoever answers a TLS greeting with plain HTTP has none at all.
    let fake = Fake::start(|seen| well_behaved(seen, &["tool"])).await;
    let url = fake.url().replace("http:", "https:");
    outcome(&url, Some(Code::TlsFailed), "no safe connection").await;
    assert!(fake.everything().is_empty());
}

#[tokio::test]
async fn an_optional_endpoint_may_be_absent_but_not_broken() {
    let absent = Fake::start(|_| Act::Status(404, &[], "")).await;
    let good = Fake::start(|seen| well_behaved(seen, &["good"])).await;
    let options = |optional: String| MultiplexOptions {
        strictness: Strictness::Strict,
        optional: vec![optional],
        ..MultiplexOptions::default()
    };
    let urls = [absent.url(), good.url()];
    let listing = Multiplexer::new(&urls, options(absent.url())).unwrap().list().await.unwrap();
    let report = &listing.endpoints[0];
    assert_eq!((names(&listing), report.absent, &report.error), (vec!["good"], true, &None));
    // What is absent by permission has no tool; what cannot be reached may have any.
    let mux = Multiplexer::new(&urls, options(absent.url())).unwrap();
    assert_eq!(fault(&mux, "other").await.code(), Code::ToolNotFound);
    let mux = multiplexer(&[nowhere(), good.url()], Strictness::Degraded);
    let error = fault(&mux, "other").await;
    assert_eq!(
        (error.code(), error.kind()),
        (Code::EndpointUnavailable, FailureKind::Infrastructure),
        "{error}"
    );
    assert!(error.message().contains("These could not be listed: "), "{error}");
    let urls = [nowhere(), good.url()];
    let error = Multiplexer::new(&urls, options(urls[0].clone())).unwrap().list().await.unwrap_err();
    assert_eq!(error.code(), Code::EndpointUnavailable);
    let urls = [absent.url()];
    let error = Multiplexer::new(&urls, options(absent.url())).unwrap().list().await.unwrap_err();
    assert_eq!(error.code(), Code::EndpointUnavailable, "there is nothing at all");
}

#[tokio::test]
async fn one_that_hangs_holds_up_nobody_beyond_its_deadline() {
    for hangs_at in ["initialize", "tools/list"] {
        let hung = Fake::start(
            move |seen| if seen.rpc == hangs_at { Act::Hang } else { well_behaved(seen, &["a"]) },
        )
        .await;
        let good = Fake::start(|seen| well_behaved(seen, &["good"])).await;
        let before = alive();
        let options =
            MultiplexOptions { connect_timeout: Duration::from_millis(300), ..MultiplexOptions::default() };
        let mux = Multiplexer::new(&[hung.url(), good.url()], options).unwrap();
        let began = Instant::now();
        let listing = mux.list().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!((names(&listing), listing.endpoints[0].code), (vec!["good"], Some(Code::TimedOut)));
        assert_eq!(say(&mux, "good").await, "good");
        drop(mux);
        wait_until_gone(before).await;
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_cancelled() {
    let fake =
        Fake::start(|seen| if seen.rpc == "tools/call" { Act::Hang } else { well_behaved(seen, &["a"]) })
            .await;
    let options = MultiplexOptions { timeout: Duration::from_millis(200), ..MultiplexOptions::default() };
    let mux = Multiplexer::new(&[fake.url()], options).unwrap();
    mux.list().await.unwrap();
    let error = fault(&mux, "a").await;
    assert_eq!((error.code(), error.delivered()), (Code::TimedOut, Delivered::Maybe), "{error}");
    until("the call is cancelled", || fake.seen("notifications/cancelled").len() == 1).await;
    let called = fake.seen("tools/call");
    assert_eq!(called.len(), 1);
    assert_eq!(fake.seen("notifications/cancelled")[0].body["params"]["requestId"], called[0].body["id"]);
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_sent_again() {
    for framing in [Framing::Json, Framing::Events] {
        type Fault = fn() -> Act;
        let faults: [(Fault, Code, Delivered); 6] = [
            (|| Act::Cut, Code::ConnectionLost, Delivered::Maybe),
            (|| Act::Status(502, HTML, "<html>"), Code::ConnectionLost, Delivered::Maybe),
            (|| Act::Status(200, HTML, "<html>"), Code::ConnectionLost, Delivered::Maybe),
            (|| Act::Error(-32603, "it broke"), Code::ToolFailed, Delivered::Yes),
            (|| Act::Error(-32602, "n is wrong"), Code::InvalidArguments, Delivered::Yes),
            (|| Act::Result(json!({ "content": 5 })), Code::InvalidReply, Delivered::Yes),
        ];
        for (act, code, delivered) in faults {
            let fake = Fake::framed(framing, Some("s"), move |seen| match &*seen.rpc {
                "tools/call" if seen.before == 0 => act(),
                _ => well_behaved(seen, &["a"]),
            })
            .await;
            let mux = multiplexer(&[fake.url()], Strictness::Strict);
            let error = fault(&mux, "a").await;
            assert_eq!((error.code(), error.delivered()), (code, delivered), "{error}");
            assert!(error.message().contains(&fake.url()) && !error.is_retryable(), "{error}");
            assert_eq!(fake.seen("tools/call").len(), 1);
            // The endpoint is of use still.
            assert_eq!(say(&mux, "a").await, "a");
        }
    }
}

#[tokio::test]
async fn a_call_that_was_not_delivered_is_sent_once_more() {
    // The session was forgotten: there is another, and with it perhaps another list.
    let fake = Fake::framed(Framing::Json, Some("s"), |seen| match &*seen.rpc {
        "tools/call" if seen.before == 0 => Act::Status(404, &[], "Session not found"),
        _ => well_behaved(seen, &["a"]),
    })
    .await;
    let mux = multiplexer(&[fake.url()], Strictness::Strict);
    assert_eq!(say(&mux, "a").await, "a");
    assert_eq!((fake.seen("tools/call").len(), fake.seen("initialize").len()), (2, 2));
    within_limit(mux.changed()).await;
    assert_eq!(say(&mux, "a").await, "a");
    assert_eq!(fake.seen("tools/list").len(), 2);
    // It stays forgotten.
    let fake = Fake::framed(Framing::Json, Some("s"), |seen| match &*seen.rpc {
        "tools/call" => Act::Status(404, &[], "Session not found"),
        _ => well_behaved(seen, &["a"]),
    })
    .await;
    let mux = multiplexer(&[fake.url()], Strictness::Strict);
    let error = fault(&mux, "a").await;
    assert_eq!((error.code(), error.delivered()), (Code::EndpointUnavailable, Delivered::No), "{error}");
    assert_eq!(fake.seen("tools/call").len(), 2);
    // It is busy, for a time that fits the deadline or not.
    for (after, calls) in [("0", 2), ("3600", 1)] {
        let headers: &'static [(&str, &str)] = Box::leak(Box::new([("retry-after", after)]));
        let fake = Fake::start(move |seen| match &*seen.rpc {
            "tools/call" if seen.before == 0 => Act::Status(429, headers, ""),
            _ => well_behaved(seen, &["a"]),
        })
        .await;
        let mux = multiplexer(&[fake.url()], Strictness::Strict);
        let outcome = mux.call_tool("a", json!({})).await;
        assert_eq!(fake.seen("tools/call").len(), calls);
        if let Err(error) = outcome {
            assert_eq!((error.delivered(), error.is_retryable()), (Delivered::No, true));
            assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_found() {
    let mut server = Rmcp::start(KNOWN, "127.0.0.1:0").await;
    let mux = multiplexer(&[server.url()], Strictness::Strict);
    assert_eq!(say(&mux, "count").await, "1");
    server.stop();
    // A connection that was open may break only when it is written to.
    let error = fault(&mux, "count").await;
    assert!(matches!(error.code(), Code::EndpointUnavailable | Code::ConnectionLost), "{error}");
    let error = fault(&mux, "count").await;
    assert_eq!((error.code(), error.delivered()), (Code::EndpointUnavailable, Delivered::No), "{error}");
    assert!(error.message().contains(&server.url()) && error.is_retryable(), "{error}");
    assert_eq!(mux.list().await.unwrap_err().code(), Code::EndpointUnavailable);
    let _server = Rmcp::start(KNOWN, &server.address.to_string()).await;
    within_limit(mux.changed()).await;
    assert_eq!(say(&mux, "count").await, "1");
    assert!(mux.list().await.is_ok());
}

#[tokio::test]
async fn one_that_restarts_is_noticed_without_a_call() {
    for versions in [KNOWN, &[ProtocolVersion::V_2026_07_28]] {
        let mut server = Rmcp::start(versions, "127.0.0.1:0").await;
        let mux = multiplexer(&[server.url()], Strictness::Strict);
        mux.list().await.unwrap();
        server.stop();
        within_limit(mux.changed()).await;
        assert_eq!(mux.list().await.unwrap_err().code(), Code::EndpointUnavailable);
        let _server = Rmcp::start(versions, &server.address.to_string()).await;
        within_limit(mux.changed()).await;
        assert_eq!(say(&mux, "count").await, "1");
    }
}

#[tokio::test]
async fn many_calls_share_one_new_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let made = connections.clone();
    let fake = Fake::framed(Framing::Json, Some("s"), move |seen| match &*seen.rpc {
        "initialize" => {
            made.fetch_add(1, Ordering::SeqCst);
            well_behaved(seen, &["a"])
        }
        // The first session is forgotten.
        "tools/call" if made.load(Ordering::SeqCst) == 1 => Act::Status(404, &[], ""),
        _ => well_behaved(seen, &["a"]),
    })
    .await;
    let mux = multiplexer(&[fake.url()], Strictness::Strict);
    mux.list().await.unwrap();
    let calls = (0..32).map(|_| say(&mux, "a"));
    assert!(within_limit(futures_util::future::join_all(calls)).await.iter().all(|text| text == "a"));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_schema_and_the_call_are_of_one_endpoint() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let first = Fake::framed(Framing::Json, Some("s"), move |seen| {
        if away.load(Ordering::SeqCst) { Act::Status(503, &[], "") } else { well_behaved(seen, &["both"]) }
    })
    .await;
    let second = Fake::start(|seen| match &*seen.rpc {
        "tools/list" => {
            let mut other = tool("both");
            other["inputSchema"] = json!({ "type": "object", "required": ["other"] });
            Act::Result(json!({ "tools": [other] }))
        }
        _ => well_behaved(seen, &["both"]),
    })
    .await;
    let mux = multiplexer(&[first.url(), second.url()], Strictness::Degraded);
    let own =
        |listing: &oxenv_client::ToolListing| listing.tools[0].input_schema["required"][0] == json!(null);
    assert!(own(&mux.list().await.unwrap()));
    assert_eq!(say(&mux, "both").await, "both");
    // While the owner is away, nobody else gets its calls.
    is_away.store(true, Ordering::SeqCst);
    assert_eq!(fault(&mux, "both").await.code(), Code::ConnectionLost);
    assert!(second.seen("tools/call").is_empty());
    // Unless somebody lists anew, and sees so.
    let listing = mux.list().await.unwrap();
    assert!(!own(&listing) && listing.endpoints[0].error.is_some() && listing.conflicts.is_empty());
    assert_eq!(fault(&mux, "both").await.code(), Code::InvalidArguments);
    mux.call_tool("both", json!({ "other": 1 })).await.unwrap();
    assert_eq!((first.seen("tools/call").len(), second.seen("tools/call").len()), (2, 1));
    // Once it is back, the next call lists it, and its schema is the one that counts.
    is_away.store(false, Ordering::SeqCst);
    within_limit(mux.changed()).await;
    assert_eq!(
        mux.call_tool("both", json!({ "other": 1 })).await.unwrap_err().code(),
        Code::InvalidArguments
    );
    assert_eq!(say(&mux, "both").await, "both");
    assert_eq!((first.seen("tools/call").len(), second.seen("tools/call").len()), (3, 1));
    let listing = mux.list().await.unwrap();
    assert_eq!((own(&listing), listing.conflicts.len()), (true, 1));
}
