//! The commands that ask a server, over TLS: an endpoint in front of the built binary, as a proxy is in
//! production.

use std::process::Command;

use oxenv_test_support::{pem, tls_acceptor};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::process::{Ended, Serving, oxenv};
use crate::records::Folder;

/// Ends TLS in front of a server. One `without_sessions` answers `GET /sessions` as a server of another make
/// does.
async fn endpoint(server: &Serving, without_sessions: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The certificate is that of this name.
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (acceptor, address) = (tls_acceptor(), server.address);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(stream).await else { return };
                let mut first = vec![0; 4096];
                let Ok(length) = outer.read(&mut first).await else { return };
                if without_sessions && first.starts_with(b"GET /sessions ") {
                    let reply = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = outer.write_all(reply).await;
                    let _ = outer.shutdown().await;
                    return;
                }
                let mut inner = TcpStream::connect(address).await.unwrap();
                inner.write_all(&first[..length]).await.unwrap();
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    url
}

/// Runs a command that trusts who signed the certificate.
async fn trusting(arguments: &[&str]) -> Ended {
    let mut command = oxenv();
    command.args(arguments).env("SSL_CERT_FILE", pem("ca.pem"));
    ended(command).await
}

async fn ended(mut command: Command) -> Ended {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    Ended::of(output.unwrap().unwrap())
}

#[tokio::test]
async fn every_command_that_asks_a_server_speaks_tls() {
    let folder = Folder::new("tls");
    let server = Serving::start(&["--record", &folder.records()]);
    let url = endpoint(&server, false).await;
    assert_eq!(trusting(&["health", &url]).await.succeeded(), "healthy\n");
    let said = trusting(&["call", &url, "echo_message", r#"{"message": "hi"}"#]).await;
    assert_eq!(said.succeeded(), "hi\n");
    let stepped = trusting(&["step", &url, r#"{"type": "list_tools"}"#, "--reset"]).await;
    assert!(stepped.succeeded().contains("\"tools\""));
    let listed = trusting(&["trajectories", "list", &url]).await;
    assert!(listed.succeeded().contains("echo"), "{listed:#?}");
    let checked = trusting(&["check", &url, "--episodes", "1"]).await;
    assert!(checked.succeeded().contains("holds"), "{checked:#?}");
    server.stop();
}

#[tokio::test]
async fn a_socket_is_opened_over_tls() {
    let server = Serving::start(&["number_guess"]);
    let url = endpoint(&server, true).await;
    let checked = trusting(&["check", &url, "--episodes", "1", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(checked.succeeded()).unwrap();
    assert_eq!(report["door"], json!("websocket"), "{report}");
    server.stop();
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_or_speaks_no_tls_is_exit_code_4() {
    let server = Serving::start(&[]);
    let url = endpoint(&server, false).await;
    // It trusts only somebody else.
    for command in ["call", "step"] {
        let arguments = [command, url.as_str(), "{}"];
        ended(distrusting(&arguments)).await.failed(4, &[&url, "certificate", "trusted?"]);
    }
    ended(distrusting(&["check", &url])).await.failed(4, &[&url, "trusted?"]);
    let plain = server.url().replace("http:", "https:");
    trusting(&["call", &plain, "echo_message"]).await.failed(4, &[&plain, "does it speak TLS"]);
    // Somebody who answers plain HTTP with TLS.
    let tls = url.replace("https:", "http:");
    trusting(&["call", &tls, "echo_message"]).await.failed(1, &[&tls]);
    server.stop();
}

/// A command that trusts this certificate alone, and not who signed that of the endpoint.
fn distrusting(arguments: &[&str]) -> Command {
    let mut command = oxenv();
    command.args(arguments).env("SSL_CERT_FILE", pem("cert.pem"));
    command
}

/// `http://` needs no certificates at all, as in an image that has none.
#[test]
fn plain_http_reads_no_certificates() {
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--otlp", "http://127.0.0.1:1"]).env("SSL_CERT_FILE", "/nowhere");
    let server = Serving::of(&mut command);
    let run = oxenv().args(["health", &server.url()]).env("SSL_CERT_FILE", "/nowhere").output().unwrap();
    assert_eq!(Ended::of(run).succeeded(), "healthy\n");
    let mut command = oxenv();
    command.args(["health", "https://127.0.0.1:1"]).env("SSL_CERT_FILE", "/nowhere");
    Ended::of(command.output().unwrap()).failed(2, &["https://127.0.0.1:1", "certificates"]);
    server.stop();
}
