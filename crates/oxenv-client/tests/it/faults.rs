//! What can go wrong on the way to a session, and in each phase of one.

use std::time::Duration;

use oxenv_client::{ClientError, ClientOptions, Code, Protocol, ResetOptions};
use oxenv_core::StoreLimits;
use oxenv_server::{ServerConfig, Tokens};
use oxenv_test_support::tls_acceptor;
use oxenv_wire::{Delivered, ErrorCode, Phase};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::multi_support::{serve, serve_with};
use crate::support::{FakeStockServer, http, listen, open, refused, server_answering, silent_server, stock};

/// Both ways to a server, each of which has to name a fault alike.
fn protocols() -> [ClientOptions; 2] {
    [stock(), http()]
}

async fn expect_error(url: &str, code: Code, says: &str) {
    for options in protocols() {
        let error = refused(url, &options).await;
        assert_eq!(error.code(), code, "{:?}: {error}", options.protocol);
        assert!(error.message().contains(says), "{:?}: {error}", options.protocol);
        assert_eq!(error.phase(), Some(Phase::Boot));
    }
}

#[tokio::test]
async fn nobody_there() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    expect_error(&format!("http://{gone}"), Code::ConnectFailed, &gone.to_string()).await;
    expect_error("http://no-such-host.invalid", Code::ConnectFailed, "no-such-host.invalid").await;
    for options in protocols() {
        let error = refused(&format!("http://{gone}"), &options).await;
        assert_eq!((error.delivered(), error.is_retryable()), (Delivered::No, true));
        assert_eq!(refused("ftp://h", &options).await.code(), Code::InvalidOptions);
    }
}

#[tokio::test]
async fn what_answers_is_no_environment_server() {
    let page = b"<html><body>It works!</body></html>";
    let html = |status: &str| {
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n", page.len());
        [head.as_bytes(), page].concat()
    };
    expect_error(&server_answering(html("200 OK")).await, Code::NotAServer, "It works!").await;
    expect_error(&server_answering(html("404 Not Found")).await, Code::NotAServer, "It works!").await;
    let bare =
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len()).as_bytes(), page].concat();
    expect_error(&server_answering(bare).await, Code::NotAServer, "It works!").await;
    expect_error(&server_answering("SSH-2.0-OpenSSH_9.6\r\n").await, Code::NotAServer, "").await;
    expect_error(&server_answering(vec![0xff; 64]).await, Code::NotAServer, "").await;
    expect_error(&server_answering(html("501 Unsupported")).await, Code::NotAServer, "It works!").await;
    let elsewhere = "HTTP/1.1 301 Moved\r\nlocation: https://other.example/\r\ncontent-length: 0\r\n\r\n";
    expect_error(&server_answering(elsewhere).await, Code::NotAServer, "https://other.example/").await;
    let h2c = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    assert_eq!(refused(&server_answering(h2c).await, &stock()).await.code(), Code::NotAServer);
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: AAAA\r\n\r\n";
    assert_eq!(refused(&server_answering(wrong).await, &stock()).await.code(), Code::NotAServer);
    let version = "HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 8\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(refused(&server_answering(version).await, &stock()).await.code(), Code::VersionMismatch);
}

#[tokio::test]
async fn an_address_below_the_servers() {
    let served = serve().await;
    expect_error(&format!("{}/ws", served.url()), Code::NotAServer, "/ws").await;
    served.end().await;
}

#[tokio::test]
async fn half_an_answer() {
    let half = refused(&server_answering("HTTP/1.1 101 Switching Pro").await, &stock()).await;
    assert_eq!(half.code(), Code::NotAServer);
    let silent = server_answering("").await;
    for options in protocols() {
        assert_eq!(refused(&silent, &options).await.code(), Code::ConnectionLost);
    }
    let body = server_answering(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"se",
    )
    .await;
    let half = refused(&body, &http()).await;
    assert_eq!((half.code(), half.delivered()), (Code::ConnectionLost, Delivered::Maybe));
}

#[tokio::test]
async fn a_token_that_is_missing_or_wrong_and_one_that_is_right() {
    let mut tokens = Tokens::default();
    tokens.add_control("right-secret").unwrap();
    let served = serve_with(StoreLimits::default(), ServerConfig { tokens, ..ServerConfig::default() }).await;
    for options in protocols() {
        for token in [None, Some("wrong-secret".to_owned())] {
            let error = refused(&served.url(), &ClientOptions { token, ..options.clone() }).await;
            assert_eq!(error.code(), Code::Server(ErrorCode::Unauthorized), "{error}");
            assert_eq!(error.delivered(), Delivered::No);
            assert!(!format!("{error:?}").contains("wrong-secret"));
        }
        let right = ClientOptions { token: Some("right-secret".to_owned()), ..options.clone() };
        open(&served.url(), &right).await.unwrap().close().await.unwrap();
        let in_url = served.url().replace("://", "://oxenv:right-secret@");
        open(&in_url, &options).await.unwrap().close().await.unwrap();
    }
    served.end().await;
}

/// A server that speaks TLS with a certificate that nobody trusts, and then hangs up.
async fn tls() -> String {
    let url = listen(move |stream| async move {
        let Ok(mut stream) = tls_acceptor().accept(stream).await else { return };
        let _ = stream.read(&mut [0; 64]).await;
        let _ = stream.shutdown().await;
    })
    .await;
    url.replace("http:", "https:")
}

#[tokio::test]
async fn tls_that_nobody_trusts_or_that_one_side_does_not_speak() {
    let url = tls().await;
    expect_error(&url, Code::TlsFailed, "certificate").await;
    let plain_to_tls = refused(&url.replace("https:", "http:"), &stock()).await;
    assert_eq!(plain_to_tls.code(), Code::TlsFailed);
    assert!(plain_to_tls.message().contains("https://"), "{plain_to_tls}");
    let served = serve().await;
    expect_error(&served.url().replace("http:", "https:"), Code::TlsFailed, "").await;
    served.end().await;
}

/// Who signed the certificate of these tests; nobody trusts it by itself.
const ISSUER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../oxenv-test-support/tls/ca.pem");

/// Run by the next test once more, in a process of its own, because what a process trusts is read once.
#[tokio::test]
async fn every_protocol_over_tls_if_the_issuer_is_trusted() {
    let served = serve().await;
    let address = served.address;
    let url = listen(move |stream| async move {
        let Ok(mut outer) = tls_acceptor().accept(stream).await else { return };
        let mut inner = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    })
    .await;
    let trusted = std::env::var("SSL_CERT_FILE").is_ok_and(|file| file == ISSUER);
    for options in [stock(), http(), ClientOptions::default()] {
        match open(&url.replace("http:", "https:"), &options).await {
            Ok(client) => {
                assert!(trusted);
                client.reset(&ResetOptions::default()).await.unwrap();
                client.close().await.unwrap();
            }
            Err(error) => assert_eq!((error.code(), trusted), (Code::TlsFailed, false), "{error}"),
        }
    }
    served.end().await;
}

#[test]
fn a_certificate_that_is_trusted_serves_every_protocol() {
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::every_protocol_over_tls_if_the_issuer_is_trusted"])
        .env("SSL_CERT_FILE", ISSUER)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let failed = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{failed}");
}

fn timed_out(error: &ClientError, delivered: Delivered) {
    assert_eq!((error.code(), error.delivered()), (Code::TimedOut, delivered), "{error}");
}

#[tokio::test]
async fn a_reply_that_never_comes_in_each_phase() {
    let short = Duration::from_millis(30);
    for options in protocols() {
        let hasty = ClientOptions { connect_timeout: short, timeout: short, ..options };
        let delivered = if hasty.protocol == Protocol::Http { Delivered::Maybe } else { Delivered::No };
        timed_out(&refused(&silent_server().await, &hasty).await, delivered);
    }
    let hasty = ClientOptions { connect_timeout: short, ..stock() };
    let tls = silent_server().await.replace("http:", "https:");
    let error = refused(&tls, &hasty).await;
    timed_out(&error, Delivered::No);
    assert!(error.message().contains("TLS"), "{error}");

    let mut server = FakeStockServer::start().await;
    let (client, _peer) = server.pair(&ClientOptions { timeout: short, ..stock() }).await;
    timed_out(&client.reset(&ResetOptions::default()).await.unwrap_err(), Delivered::Maybe);
    timed_out(&client.step(&json!({})).await.unwrap_err(), Delivered::Maybe);
    timed_out(&client.state().await.unwrap_err(), Delivered::Maybe);
    timed_out(&client.list_tools().await.unwrap_err(), Delivered::Maybe);
    timed_out(&client.call_tool("t", json!({})).await.unwrap_err(), Delivered::No);
    assert_eq!(client.close().await.unwrap_err().code(), Code::TimedOut);
}

#[tokio::test]
async fn a_future_that_is_dropped_in_each_phase_leaves_nothing() {
    let served = serve().await;
    for options in protocols() {
        // While it connects, at every point at which it waits.
        for polls in 1..12 {
            let url = served.url();
            let mut opening = Box::pin(open(&url, &options));
            for _ in 0..polls {
                if futures_util::poll!(&mut opening).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let client = open(&served.url(), &options).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        let waiting = json!({ "do": "wait", "at": "never" });
        tokio::select! {
            _ = client.step(&waiting) => panic!("it was not to end"),
            () = served.stage.entered() => {}
        }
        drop(client);
    }
    served.end().await;
}

#[tokio::test]
async fn a_server_that_ends_within_a_step() {
    for options in protocols() {
        let config = ServerConfig { drain: Duration::ZERO, ..ServerConfig::default() };
        let served = serve_with(StoreLimits::default(), config).await;
        let client = open(&served.url(), &options).await.unwrap();
        client.reset(&ResetOptions::default()).await.unwrap();
        let stage = served.stage.clone();
        let waiting = json!({ "do": "wait", "at": "never" });
        let (step, ()) = tokio::join!(client.step(&waiting), async {
            stage.entered().await;
            served.stop().await;
        });
        let error = step.unwrap_err();
        assert!(matches!(error.code(), Code::ConnectionLost | Code::Server(_)), "{error:?}");
        // The environment had it.
        assert_ne!(error.delivered(), Delivered::No, "{error:?}");
        let after = client.reset(&ResetOptions::default()).await.unwrap_err();
        assert_eq!(after.delivered(), Delivered::No, "{after:?}");
    }
}
