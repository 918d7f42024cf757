//! A server that is killed (signal 9) while it writes its record.

use std::net::SocketAddr;
use std::time::Duration;

use oxenv_store::{SessionFilter, Trajectories};
use oxenv_test_support::tally::{Dice, report, tries};
use oxenv_test_support::{BlockingSocket, Received, TempFolder};
use serde_json::json;

use super::{Acknowledged, found, recorded};
use crate::process::{Serving, run};

const CLIENTS: usize = 4;

#[test]
fn what_was_acknowledged_is_in_the_record_of_a_killed_server() {
    let kills = tries(8, 100);
    let folder = TempFolder::new("killed-server");
    let record = folder.join("record");
    let mut dice = Dice::new(7);
    let mut acknowledged = Vec::new();
    for kill in 0..kills {
        // Each start opens what the last one left, torn as it may be.
        let server = Serving::start(&["--log", "error", "--record", record.to_str().unwrap()]);
        let (address, delay) = (server.address, dice.below(200));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| std::thread::spawn(move || step_until_lost(address, &format!("{kill}.{client}"))))
            .collect();
        // The moment of the kill is to be any; nothing is waited for here.
        std::thread::sleep(Duration::from_millis(20 + delay as u64));
        server.signal("KILL");
        for client in clients {
            acknowledged.extend(client.join().unwrap());
        }
    }
    let survived = found(&recorded(&record), &acknowledged);
    let trajectories = Trajectories::open(&record).unwrap();
    assert_eq!(trajectories.refresh().unwrap().faults.len(), 0);
    let listed =
        trajectories.sessions(&SessionFilter { limit: usize::MAX, ..SessionFilter::default() }).unwrap();
    let known: u64 = listed.iter().map(|session| session.steps).sum();
    assert!(known >= acknowledged.len() as u64, "the index has {known} steps");
    let shown = run(&["trajectories", "list", record.to_str().unwrap()]);
    assert!(shown.code == Some(0), "{shown:#?}");
    assert!(acknowledged.len() > kills, "hardly a step was acknowledged");
    let note = format!(
        "acknowledged steps of {} sessions over {kills} kills; every start opened the record that the last \
         left",
        listed.len()
    );
    report("server killed in mid-write", acknowledged.len(), survived, &note);
}

/// Steps a session until the server is gone; gives what was acknowledged.
fn step_until_lost(address: SocketAddr, client: &str) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let Ok(mut socket) = BlockingSocket::many(address) else { return acknowledged };
    let Some(session) = socket.session() else { return acknowledged };
    for step in 1_u64.. {
        let said = format!("step {step} of {client}.");
        // Now and then one that is long, and one that is kept as a blob.
        let length = match step % 50 {
            0 => 100_000,
            7 | 21 => 20_000,
            _ => 10,
        };
        let action = json!({ "message": said.clone() + &"x".repeat(length) });
        let sent = socket.send(&json!({ "id": step, "type": "step", "session": session, "data": action }));
        if sent.is_err() {
            break;
        }
        match socket.receive() {
            Received::Frame(reply) => {
                assert_eq!(reply["type"], "observation", "{reply}");
                acknowledged.push((session.clone(), reply["seq"].as_u64().unwrap(), said));
            }
            _ => break,
        }
    }
    acknowledged
}
