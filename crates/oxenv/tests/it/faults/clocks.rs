//! A wall clock that jumps, by days and decades, forwards and backwards.
//!
//! A small library in front of the C library moves the wall clock that the server sees; the monotonic
//! clock stays, as it does when a machine's time is set.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use oxenv_store::StoredEvent;
use oxenv_test_support::tally::{Dice, report, skip, tries};
use oxenv_test_support::{BlockingSocket, TempFolder, block_until};
use serde_json::json;

use super::recorded;
use crate::process::{Serving, oxenv};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) offset = map;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *offset;
    return result;
}
"#;

const DAY: i64 = 86_400;

/// The wall clock of the servers that are started with it.
struct Clock {
    offset: File,
    offset_path: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(folder: &TempFolder) -> Result<Self, String> {
        let (source, library) = (folder.file("clock.c", SHIM), folder.join("clock.so"));
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&library)
            .arg(source)
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        let offset_path = folder.join("offset");
        fs::write(&offset_path, 0_i64.to_ne_bytes()).unwrap();
        let offset = File::options().write(true).open(&offset_path).unwrap();
        Ok(Clock { offset, offset_path, library })
    }

    /// Lets it be that many seconds away from the true time.
    fn jump(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[test]
fn sessions_and_records_take_no_harm_from_a_clock_that_jumps() {
    let tried = tries(40, 2_000);
    let folder = TempFolder::new("clocks");
    let clock = match Clock::new(&folder) {
        Ok(clock) => clock,
        Err(why) => return skip("clock jumps", &why),
    };
    let record = folder.join("record");
    let mut command = oxenv();
    command.env("LD_PRELOAD", &clock.library).env("CLOCK_OFFSET", &clock.offset_path);
    command.args(["serve", "--port", "0", "--log", "error", "--record", record.to_str().unwrap()]);
    let server = Serving::of(&mut command);
    // One that is held by a socket, one that only its lease keeps, and one whose lease is short.
    let mut socket = BlockingSocket::many(server.address).unwrap();
    let held = socket.session().unwrap();
    let leased = created(&server, 600.0);
    let now = i64::try_from(unix_time().as_secs()).unwrap();
    let offsets = [DAY, -DAY, 3650 * DAY, -3650 * DAY, 0, 3600, -now - DAY, -now, 1];
    let (mut dice, mut jumps) = (Dice::new(3), Vec::new());
    for jump in 0..tried {
        let offset = offsets[dice.below(offsets.len())];
        clock.jump(offset);
        let reply = socket
            .ask(&json!({ "id": jump, "type": "step", "session": held, "data": { "message": "held" } }));
        assert_eq!(reply["type"], "observation", "{reply}");
        jumps.push((reply["seq"].as_u64().unwrap(), offset));
        let (status, reply) =
            server.post(&format!("/sessions/{leased}/step"), &json!({ "action": { "message": "leased" } }));
        assert_eq!(status, 200, "{reply}");
    }
    // A lease runs by a clock that does not jump, neither longer nor shorter.
    clock.jump(-DAY);
    let (short, began) = (created(&server, 1.0), Instant::now());
    clock.jump(DAY);
    assert_eq!(server.get(&format!("/sessions/{short}")).0, 200, "a jump ended a lease");
    clock.jump(-3650 * DAY);
    block_until("the short lease has run out", || server.get(&format!("/sessions/{short}")).0 == 410);
    let lasted = began.elapsed();
    assert!(
        lasted > Duration::from_secs(1) && lasted < Duration::from_secs(10),
        "a lease of 1 s took {lasted:?}"
    );
    drop(socket);
    server.stop();
    let survived = times_are_sane(&record, &held, &jumps);
    let note = format!(
        "jumps of up to ten years, some to before 1970: no session ended, a lease of 1 s ended after {:.1} \
         s, each record has the wall clock's time of its step and the true length of it",
        lasted.as_secs_f64()
    );
    report("clock jumps", tried, survived, &note);
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// Makes a session with a lease.
fn created(server: &Serving, lease_s: f64) -> String {
    let (status, created) = server.post("/sessions", &json!({ "resume_s": lease_s }));
    assert_eq!(status, 201, "{created}");
    created["session_id"].as_str().unwrap().to_owned()
}

/// How many steps have the time that the clock showed, and a length that is one.
fn times_are_sane(record: &std::path::Path, session: &str, jumps: &[(u64, i64)]) -> usize {
    let recorded = recorded(record);
    let now = i64::try_from(unix_time().as_secs()).unwrap();
    let is_sane = |(seq, offset): &&(u64, i64)| {
        let entry = &recorded[&(session.to_owned(), *seq)];
        let StoredEvent::Step { duration_us, .. } = entry.event else { return false };
        let shown = i64::try_from(entry.time_us / 1_000_000).unwrap();
        // A time before 1970 is written as 1970.
        let expected = (now + offset).max(0);
        (shown - expected).abs() < 300 && duration_us < 10_000_000
    };
    jumps.iter().filter(is_sane).count()
}
