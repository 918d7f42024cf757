//! A server that has no descriptor left for one more connection.

use std::net::TcpStream;
use std::process::Command;

use serde_json::json;

use super::socket::Socket;
use super::tally::{report, tries};
use super::{Footprint, until};
use crate::process::Serving;

/// Descriptors that the server may have.
const LIMIT: usize = 64;
/// Connections that come all the same.
const FLOOD: usize = 100;

#[test]
fn a_server_without_descriptors_serves_those_it_has_and_recovers() {
    let rounds = tries(5, 100);
    let mut command = Command::new("/bin/sh");
    command.env_clear().args([
        "-c",
        &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\""),
        env!("CARGO_BIN_EXE_oxenv"),
    ]);
    let server = Serving::of(command.args(["serve", "--port", "0", "--log", "error"]));
    let mut sockets: Vec<Socket> = (0..8).map(|_| Socket::open(server.address, None).unwrap()).collect();
    let step = json!({ "type": "step", "data": { "message": "still here" } });
    for socket in &mut sockets {
        assert_eq!(socket.ask(&step)["type"], "observation");
    }
    let before = Footprint::of(server.pid());
    let (mut tried, mut answered) = (0, 0);
    for _ in 0..rounds {
        // The operating system takes connections that the server does not; they wait.
        let flood: Vec<TcpStream> = (0..FLOOD).map(|_| server.connect()).collect();
        tried += flood.len();
        until("the server has all that it may have", || Footprint::of(server.pid()).descriptors >= LIMIT - 1);
        for socket in &mut sockets {
            assert_eq!(socket.ask(&step)["type"], "observation");
            answered += 1;
        }
        drop(flood);
        // One that comes now is served, without being asked twice.
        assert_eq!(server.get("/health").0, 200);
        until("every descriptor is given back", || {
            Footprint::of(server.pid()).descriptors <= before.descriptors
        });
    }
    until("no thread is left", || Footprint::of(server.pid()).within(&before));
    drop(sockets);
    server.stop();
    let note = format!(
        "connections to a server with {LIMIT} descriptors, {FLOOD} at a time: {answered} steps of 8 sessions were \
         answered meanwhile, and the first connection after each flood was served"
    );
    report("descriptor exhaustion", tried, tried, &note);
}
