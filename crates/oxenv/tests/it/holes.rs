//! Records that are incomplete or damaged: every command says so, each time, and none of them proves what is
//! not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Ended, Serving, run};
use crate::records::{Folder, Session, actions, segments};

/// The exit code of what is incomplete.
const INCOMPLETE: i32 = 6;

const RUBRIC: &str = r#"{"version": 1, "rubric": {"type": "environment_reward", "name": "own"}}"#;

/// Writes a segment anew without the records that are chosen, in frames that fit; says how many went.
pub(crate) fn remove(segment: &Path, mut chosen: impl FnMut(&Value) -> bool) -> usize {
    let text = fs::read_to_string(segment).unwrap();
    let mut gone = 0;
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| {
            let record: Value =
                line.get(18..).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
            let goes = chosen(&record);
            gone += usize::from(goes);
            !goes
        })
        .collect();
    fs::write(segment, kept).unwrap();
    gone
}

/// A session of two episodes that has ended; gives its id.
pub(crate) fn ended_session(server: &Serving) -> String {
    let session = Session::open(server);
    for seed in [7, 8] {
        session.post("reset", &json!({ "seed": seed }));
        session.steps(&actions("grid_world"));
    }
    server.delete(&format!("/sessions/{}", session.id));
    session.id
}

/// A record of three servers, one session each, in three segments.
fn three(folder: &Folder) -> Vec<String> {
    (0..3)
        .map(|_| {
            let server = Serving::start(&["grid_world", "--record", &folder.records()]);
            let id = ended_session(&server);
            server.stop();
            id
        })
        .collect()
}

fn files(folder: &Folder) -> Vec<PathBuf> {
    segments(Path::new(&folder.records()))
}

#[track_caller]
fn says(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(INCOMPLETE), "{ended:#?}");
    for word in words {
        assert!(ended.stderr.contains(word), "'{word}' is not said: {ended:#?}");
    }
}

/// Every command that reads the record says it, and says it again.
#[track_caller]
fn each_says(folder: &Folder, session: &str, words: &[&str]) {
    let records = folder.records();
    let rubric = folder.file("rubric.json", RUBRIC);
    for _ in 0..2 {
        for arguments in [
            &["trajectories", "list", &records][..],
            &["trajectories", "list", &records, "--json"],
            &["trajectories", "show", &records, session],
            &["trajectories", "export", &records],
            &["replay", &records],
            &["replay", &records, "--json"],
            &["rescore", &records, "--rubric", &rubric],
        ] {
            says(&run(arguments), words);
        }
    }
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_last_step_that_was_removed_is_missed() {
    let folder = Folder::new("last-step");
    let ids = three(&folder);
    let gone = remove(&files(&folder)[0], |record| record["event"] == "step" && record["seq"] == 8);
    assert_eq!(gone, 1);
    each_says(
        &folder,
        &ids[0],
        &["log-000001.oxl", "is not the file that was written", "entry 8 is missing"],
    );
    let records = folder.records();
    let replayed = run(&["replay", &records]);
    assert!(replayed.stdout.ends_with("2 of 3 the same, 1 incomplete or damaged\n"), "{replayed:#?}");
    let line = replayed.stdout.lines().find(|line| line.contains(&ids[0])).unwrap();
    assert!(line.starts_with("incomplete") && line.contains("entry 8 is missing"), "{line}");
    let told = lines(&run(&["replay", &records, "--json"]));
    assert_eq!(told[0]["outcome"], "incomplete", "{told:#?}");
    let holes = told[0]["holes"].as_array().unwrap();
    assert!(holes.iter().any(|hole| hole["first"] == 8 && hole["last"] == 8), "{holes:#?}");
    assert_eq!((&told[1]["outcome"], &told[2]["outcome"]), (&json!("same"), &json!("same")));
    for command in ["list", "export"] {
        let mut arguments = vec!["trajectories", command, &records];
        arguments.extend((command == "list").then_some("--json"));
        let told = lines(&run(&arguments));
        assert!(told[0]["holes"].is_array() && told[1]["holes"].is_null(), "{told:#?}");
    }
    let shown = run(&["trajectories", "show", &records, &ids[0]]);
    assert!(shown.stdout.contains("closed, incomplete"), "{shown:#?}");
    // What is whole is whole.
    let other = run(&["replay", &records, &ids[1]]);
    assert!(other.stdout.contains("same     "), "{other:#?}");
}

#[test]
fn an_epoch_that_was_removed_is_missed() {
    let folder = Folder::new("epoch");
    let ids = three(&folder);
    assert_eq!(remove(&files(&folder)[2], |record| record["epoch"] == 1), 4);
    each_says(&folder, &ids[2], &["log-000003.oxl", "entries 1 to 4 are missing"]);
    let told = lines(&run(&["replay", &folder.records(), "--json"]));
    assert_eq!(told[2]["outcome"], "incomplete", "{told:#?}");
}

#[test]
fn each_of_three_files_is_missed() {
    let folder = Folder::new("files");
    let ids = three(&folder);
    let files = files(&folder);
    assert_eq!(files.len(), 3);
    for gone in 0..3 {
        let bytes = fs::read(&files[gone]).unwrap();
        fs::remove_file(&files[gone]).unwrap();
        let name = format!("log-00000{}.oxl", gone + 1);
        each_says(&folder, &ids[(gone + 1) % 3], &[&name, "missing"]);
        fs::write(&files[gone], bytes).unwrap();
    }
    let replayed = run(&["replay", &folder.records()]);
    assert!(replayed.succeeded().ends_with("3 of 3 the same\n"), "{replayed:#?}");
}

#[test]
fn what_a_missing_file_may_have_held_is_no_other_failure() {
    let folder = Folder::new("origin");
    let records = folder.records();
    let mut ids = three(&folder);
    let server = Serving::start(&["grid_world", "--record", &records]);
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    let snapshot = session.post("snapshot", &json!({}))["snapshot"].clone();
    server.stop();
    let server = Serving::start(&["grid_world", "--record", &records]);
    let (status, made) = server.post("/restore", &json!({ "snapshot": snapshot }));
    assert_eq!(status, 201, "{made}");
    ids.push(made["session_id"].as_str().unwrap().to_owned());
    server.stop();
    let files = files(&folder);
    let origin = fs::read(&files[3]).unwrap();
    // The file of its origin, and the opening of its origin.
    fs::remove_file(&files[3]).unwrap();
    says(&run(&["replay", &records]), &["log-000004.oxl", "the beginning of session"]);
    // A session that is not there may have been in it.
    says(&run(&["replay", &records, "nobody"]), &["nobody"]);
    says(&run(&["trajectories", "show", &records, "nobody"]), &["nobody"]);
    fs::write(&files[3], &origin).unwrap();
    assert_eq!(remove(&files[3], |record| record["event"] == "opened"), 1);
    says(&run(&["replay", &records]), &["log-000004.oxl", "the beginning of session"]);
    fs::write(&files[3], &origin).unwrap();
    run(&["replay", &records]).succeeded();
    run(&["replay", &records, "nobody"]).failed(2, &["nobody"]);
    run(&["trajectories", "show", &records, "nobody"]).failed(2, &["nobody"]);
    // A server that starts tells what it finds.
    fs::remove_file(&files[1]).unwrap();
    let server = Serving::start(&["grid_world", "--record", &records]);
    server.get("/trajectories");
    let ended = server.stop();
    assert!(ended.stderr.contains("log-000002.oxl"), "{ended:#?}");
    for file in &files {
        let _ = fs::remove_file(file);
    }
    says(&run(&["replay", &records]), &["log-000001.oxl"]);
}

#[test]
fn a_folder_without_a_record_is_refused_and_left_alone() {
    let folder = Folder::new("no-record");
    let records = folder.records();
    fs::create_dir(&records).unwrap();
    for command in [
        &["trajectories", "list", &records][..],
        &["trajectories", "export", &records],
        &["replay", &records],
    ] {
        run(command).failed(2, &["no record", &records]);
    }
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    three(&folder);
    run(&["trajectories", "list", &records]).succeeded();
    for entry in fs::read_dir(&records).unwrap().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o77, 0, "{entry:?}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_line_survives_the_next_start() {
    let folder = Folder::new("last-line");
    let records = folder.records();
    let server = Serving::start(&["grid_world", "--record", &records]);
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    session.steps(&actions("grid_world"));
    let id = session.id.clone();
    server.signal("KILL");
    server.ended();
    let file = files(&folder).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 4;
    fs::write(&file, &bytes).unwrap();
    let words = ["log-000001.oxl", "is damaged", "what came after entry 3 may be missing"];
    each_says(&folder, &id, &words);
    let server = Serving::start(&["grid_world", "--record", &records]);
    let whole = ended_session(&server);
    let ended = server.stop();
    assert!(ended.stderr.contains("the log is damaged"), "{ended:#?}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "the start has changed what it found");
    each_says(&folder, &id, &words);
    let told = lines(&run(&["replay", &records, "--json"]));
    assert_eq!(
        (&told[0]["outcome"], &told[1]["outcome"]),
        (&json!("incomplete"), &json!("same")),
        "{told:#?}"
    );
    assert_eq!(told[1]["session_id"], whole.as_str());
}

#[test]
fn a_damaged_blob_is_named_and_the_others_are_exported() {
    let folder = Folder::new("blob");
    let records = folder.records();
    let server = Serving::start(&["echo", "--record", &records]);
    let sessions: Vec<Session<'_>> = (0..3).map(|_| Session::open(&server)).collect();
    for (session, letter) in sessions.iter().zip(["a", "b", "c"]) {
        session.post("reset", &json!({}));
        session.steps(&[json!({ "message": letter.repeat(100_000) })]);
    }
    let ids: Vec<String> = sessions.iter().map(|session| session.id.clone()).collect();
    server.stop();
    let parts = fs::read_dir(Path::new(&records).join("blobs")).unwrap();
    let mut damaged = 0;
    for blob in parts.flat_map(|part| fs::read_dir(part.unwrap().path()).unwrap()) {
        let path = blob.unwrap().path();
        if fs::read_to_string(&path).unwrap().contains("bbbb") {
            fs::remove_file(path).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    for _ in 0..2 {
        let exported = run(&["trajectories", "export", &records]);
        says(&exported, &[&ids[1], "the blob", "it is left out"]);
        let exported: Vec<Value> = lines(&exported).iter().map(|line| line["session_id"].clone()).collect();
        assert_eq!(exported, [ids[0].as_str(), ids[2].as_str()]);
        let replayed = run(&["replay", &records]);
        says(&replayed, &[&ids[1], "the blob"]);
        assert!(replayed.stdout.ends_with("2 of 3 the same, 1 incomplete or damaged\n"), "{replayed:#?}");
        let rescored = run(&["rescore", &records, "--rubric", &folder.file("r.json", RUBRIC)]);
        says(&rescored, &[&ids[1], "the blob", "it is left out"]);
        assert_eq!(rescored.stdout.lines().count(), 2, "{rescored:#?}");
        says(&run(&["trajectories", "show", &records, &ids[1]]), &["the blob"]);
        run(&["trajectories", "show", &records, &ids[0]]).succeeded();
    }
}

/// Records of a program that wrote format 1.
#[test]
fn records_of_format_1_are_replayed_as_before() {
    let folder = Folder::new("format-1");
    let records = folder.records();
    fs::create_dir_all(&records).unwrap();
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../oxenv-store/tests/golden/format-1/log-000001.oxl");
    let file = Path::new(&records).join("log-000001.oxl");
    fs::copy(&golden, &file).unwrap();
    let replayed = run(&["replay", &records]);
    assert!(replayed.succeeded().ends_with("2 of 2 the same\n"), "{replayed:#?}");
    let server = Serving::start(&["connect4", "--record", &records]);
    server.post("/sessions", &json!({ "seed": 11 }));
    server.stop();
    assert_eq!(fs::read(&file).unwrap(), fs::read(&golden).unwrap());
    let replayed = run(&["replay", &records]);
    assert!(replayed.succeeded().ends_with("3 of 3 the same\n"), "{replayed:#?}");
    assert_eq!(remove(&file, |record| record["seq"] == 8), 1);
    says(&run(&["replay", &records]), &["entry 8 is missing", "is not the file that was written"]);
}

/// A file system that goes with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], at: &Path) -> Result<Self, String> {
        let mount = Command::new("mount").args(arguments).arg(at).output();
        let mount = mount.map_err(|error| format!("mount: {error}"))?;
        match mount.status.success() {
            true => Ok(Mount(at.to_owned())),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the commands print of a record that is whole.
fn printed(records: &str) -> Vec<String> {
    [&["trajectories", "list", records][..], &["trajectories", "export", records], &["replay", records]]
        .map(|arguments| run(arguments).succeeded().to_owned())
        .to_vec()
}

#[test]
fn a_record_on_a_disk_that_cannot_be_written_is_read() {
    let folder = Folder::new("read-only");
    three(&folder);
    let was = printed(&folder.records());
    for index in [true, false] {
        if !index {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(Path::new(&folder.records()).join(format!("index.sqlite{suffix}")));
            }
        }
        let seen = folder.0.join("seen");
        fs::create_dir_all(&seen).unwrap();
        let mounted = Mount::new(&["--bind", &folder.records()], &seen).and_then(|bound| {
            Mount::new(&["-o", "remount,bind,ro"], &seen).map(|read_only| (bound, read_only))
        });
        let _mounted = match mounted {
            Ok(mounted) => mounted,
            Err(why) => {
                println!("skipped: read-only record: {why}");
                return;
            }
        };
        assert!(fs::write(seen.join("written"), "").is_err(), "it can be written");
        assert_eq!(printed(seen.to_str().unwrap()), was);
    }
}

#[test]
fn a_record_on_a_full_disk_is_read() {
    let folder = Folder::new("full");
    three(&folder);
    let was = printed(&folder.records());
    let disk = folder.0.join("disk");
    fs::create_dir_all(&disk).unwrap();
    let _disk = match Mount::new(&["-t", "tmpfs", "-o", "size=1m", "oxenv-full"], &disk) {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: record on a full disk: {why}");
            return;
        }
    };
    let there = disk.join("records");
    fs::create_dir_all(&there).unwrap();
    for file in fs::read_dir(folder.records()).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_owned();
        if !name.to_string_lossy().starts_with("index.sqlite") {
            fs::copy(&file, there.join(name)).unwrap();
        }
    }
    // More than there is room for.
    assert!(fs::write(disk.join("ballast"), vec![1; 2 << 20]).is_err());
    assert_eq!(printed(there.to_str().unwrap()), was);
}
