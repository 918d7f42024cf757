//! A record whose disk is full, again and again.

use std::fs;
use std::process::Command;

use oxenv_store::Trajectories;
use oxenv_test_support::tally::{report, skip, tries};
use oxenv_test_support::{BlockingSocket, TempFolder, block_until};
use serde_json::{Value, json};

use super::{found, recorded, reply};
use crate::process::Serving;

/// What is freed each time, in KiB.
const PIECE_KB: usize = 256;

/// A small disk.
struct Disk(TempFolder);

impl Disk {
    fn new(kilobytes: usize) -> Result<Self, String> {
        let folder = TempFolder::new("full-disk");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "oxenv-faults", folder.as_str()])
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        match mount.status.success() {
            true => Ok(Disk(folder)),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, for a server that a failed test left may still have files open.
        let _ = Command::new("umount").args(["-l", self.0.as_str()]).status();
    }
}

#[test]
fn a_full_disk_fails_steps_and_loses_none_that_was_acknowledged() {
    let fills = tries(3, 50);
    let disk = match Disk::new((fills + 4) * PIECE_KB) {
        Ok(disk) => disk,
        Err(why) => return skip("disk full", &why),
    };
    let ballast = |piece: usize| disk.0.join(format!("ballast{piece}"));
    for piece in 0..fills {
        fs::write(ballast(piece), vec![1; PIECE_KB << 10]).unwrap();
    }
    let record = disk.0.join("record");
    let server = Serving::start(&["--log", "error", "--record", record.to_str().unwrap()]);
    let mut socket = BlockingSocket::many(server.address).unwrap();
    let session = socket.session().unwrap();
    let (mut acknowledged, mut refused, mut step) = (Vec::new(), Vec::new(), 0);
    for fill in 0..fills {
        loop {
            step += 1;
            let said = format!("step {step}.");
            let reply = socket.ask(&json!({
                "id": step, "type": "step", "session": session,
                "data": { "message": said.clone() + &"x".repeat(1_000) },
            }));
            if reply["type"] == "observation" {
                acknowledged.push((session.clone(), reply["seq"].as_u64().unwrap(), said));
                continue;
            }
            failed(&reply);
            refused.push(said);
            break;
        }
        assert_eq!(server.get("/health").0, 200, "the server is not well while its disk is full");
        fs::remove_file(ballast(fill)).unwrap();
        // There is room again: the session goes on from its next reset.
        block_until("a reset is recorded", || {
            step += 1;
            let reply = socket.ask(&json!({ "id": step, "type": "reset", "session": session }));
            if reply["type"] == "error" {
                failed(&reply);
            }
            reply["type"] == "observation"
        });
    }
    drop(socket);
    server.stop();
    let recorded = recorded(&record);
    let survived = found(&recorded, &acknowledged);
    for said in &refused {
        let is_there = recorded.values().filter_map(reply).any(|reply| reply.contains(said.as_str()));
        assert!(!is_there, "{said} was refused, and is recorded as answered");
    }
    // What could not be written is told, so that nothing is missed.
    let trajectories = Trajectories::open(&record).unwrap();
    trajectories.refresh().unwrap();
    assert!(trajectories.faults().unwrap().is_empty());
    let session = trajectories.session(&session).unwrap().unwrap();
    assert!(session.holes.is_empty() && session.unwritten >= refused.len() as u64, "{session:?}");
    let note = format!(
        "acknowledged steps on a disk that was full {fills} times; {} steps failed with RECORD_FAILED, none \
         of them in the record, and the session went on when there was room",
        refused.len()
    );
    report("disk full", acknowledged.len(), survived, &note);
}

/// That a reply is a failure of the infrastructure and no reward.
#[track_caller]
fn failed(reply: &Value) {
    let why = (&reply["type"], &reply["data"]["code"], &reply["data"]["kind"]);
    assert_eq!(why, (&json!("error"), &json!("RECORD_FAILED"), &json!("infrastructure")), "{reply}");
    assert!(!reply.to_string().contains("reward"), "{reply}");
}
