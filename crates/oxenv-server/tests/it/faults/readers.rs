//! Clients that ask for much and read nothing.

use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::tally::{report, status, tries};
use oxenv_test_support::{WAIT_TIMEOUT, Ws, until};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{multi, step};
use crate::served::Served;
use crate::stage::{Scripted, Stage};

/// Bytes of each observation that is asked for.
const LARGE: usize = 1 << 20;
/// How many are asked for by each client.
const ASKED: usize = 100;
/// What a client that reads nothing may cost the server, in KiB: the reply that it does not take, in the
/// forms that a reply has on its way, and the requests that were read ahead.
const COST_KB: usize = 8 << 10;

#[tokio::test]
async fn readers_that_take_nothing_cost_little_and_are_given_up() {
    let tried = tries(10, 200);
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let stall = Duration::from_millis(500);
    let config = ServerConfig { stall, ..ServerConfig::default() };
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let mut quick = served.ws("/ws").await;
    // What the process needs for one large reply that is read is no cost of those that are not.
    let big = json!({ "do": "big", "bytes": LARGE });
    assert_eq!(quick.step(&big).await["type"], "observation");
    let me = std::process::id();
    let before = status(me, "VmRSS");
    let (mut most, mut answered, mut silent) = (before, 0, Vec::new());
    for way in 0..tried {
        silent.push(asking(&served, way, &big).await);
        assert_eq!(quick.step(&json!({})).await["type"], "observation");
        answered += 1;
        most = most.max(status(me, "VmRSS"));
    }
    let began = Instant::now();
    while served.active() > 1 {
        assert!(began.elapsed() < 3 * WAIT_TIMEOUT, "{} are not given up", served.active() - 1);
        assert_eq!(quick.step(&json!({})).await["type"], "observation");
        answered += 1;
        most = most.max(status(me, "VmRSS"));
    }
    until("their connections are gone", || served.app.connections() == 1).await;
    let took = began.elapsed();
    drop(silent);
    quick.close().await;
    served.end().await;
    let cost = (most - before) / tried;
    let note = format!(
        "each asked for {ASKED} MiB and read nothing: {cost} KiB of memory each at most, the last given up \
         after {:.1} s with a limit of {:.1} s, {answered} steps of another session meanwhile",
        took.as_secs_f64(),
        stall.as_secs_f64(),
    );
    assert!(cost < COST_KB, "{note}");
    report("clients that never read", tried, tried, &note);
}

/// A client that sends as much as the server takes, and never reads again.
async fn asking(served: &Served, way: usize, big: &serde_json::Value) -> Ws {
    let (mut socket, frames) = if way.is_multiple_of(2) {
        let frame = json!({ "type": "step", "data": big });
        (served.ws("/ws").await, (0..ASKED).map(|_| frame.clone()).collect::<Vec<_>>())
    } else {
        let mut socket = multi(served.address).await;
        let session = open_mortal(&mut socket).await;
        let frames = (0..ASKED).map(|id| step(id, &session, big)).collect();
        (socket, frames)
    };
    for frame in frames {
        // The frames are small: what the server does not read yet waits in its socket's buffer.
        socket.0.feed(Message::text(frame.to_string())).await.unwrap();
    }
    socket.0.flush().await.unwrap();
    socket
}

/// A session that ends with its socket.
async fn open_mortal(socket: &mut Ws) -> String {
    let opened = socket.ask(&json!({ "id": 0, "type": "open" })).await;
    opened["session"].as_str().unwrap().to_owned()
}
