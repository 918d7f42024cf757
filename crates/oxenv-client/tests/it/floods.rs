//! Servers that send without end and read nothing: the client's memory stays bounded, and its caller is told.

use std::time::Duration;

use oxenv_client::{ClientOptions, Code, Connection, OpenOptions};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::support::{listen, open, step, stock};

/// How much this process may grow by what a server sends, in MiB.
const MAX_GROWTH: u64 = 64;

/// Memory of this process that is in use, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A server that shakes hands, pings without end and reads nothing.
async fn pinging() -> String {
    listen(|stream: TcpStream| async move {
        #[expect(clippy::result_large_err, reason = "as the library has it")]
        let select = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            if let Some(offered) = request.headers().get("sec-websocket-protocol") {
                response.headers_mut().insert("sec-websocket-protocol", offered.clone());
            }
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, select).await.unwrap();
        let mut stream = socket.into_inner();
        let mut pings = vec![0x89, 125];
        pings.extend([b'p'; 125]);
        let pings = pings.repeat(1000);
        while stream.write_all(&pings).await.is_ok() {}
    })
    .await
}

/// Waits for something, unless the process grows too much meanwhile.
async fn within_bounds<T>(work: impl Future<Output = T>) -> T {
    let start = resident();
    let check = async {
        loop {
            let growth = resident().saturating_sub(start);
            assert!(growth < MAX_GROWTH, "the process grew by {growth} MiB");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = async {
        tokio::select! {
            done = work => done,
            () = check => unreachable!("it checks for ever"),
        }
    };
    timeout(Duration::from_secs(60), done).await.expect("the server is never given up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pings_and_reads_nothing_is_given_up() {
    let url = pinging().await;
    let client = open(&url, &stock()).await.unwrap();
    let error = within_bounds(step(&client, json!({}))).await.unwrap_err();
    assert_eq!(error.code(), Code::ConnectionLost);
    assert!(error.message().contains("pings and takes no pongs"), "{error}");

    let options = ClientOptions::default();
    let connection = within_bounds(Connection::connect(&url, &options)).await.unwrap();
    let error = within_bounds(connection.open(&OpenOptions::default())).await.err().unwrap();
    assert_eq!(error.code(), Code::ConnectionLost);
    assert!(error.message().contains("pings and takes no pongs"), "{error}");
}
