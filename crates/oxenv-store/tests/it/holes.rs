//! Records with holes: what is missing is told, each time, and what is not missing is not.

use std::fs;
use std::path::{Path, PathBuf};

use oxenv_core::RecordEvent;
use oxenv_store::{Hole, LogError, LogOptions, LogRecorder, Retention, Trajectories, export_jsonl};
use serde_json::Value;

use crate::sample::{as_if_killed, entry, folder, open, put, raw, segments, session, step};

/// What is known to be missing of a record.
type Missing = (Vec<LogError>, Vec<(String, Vec<Hole>)>);

/// As a reader finds it who may have been there before.
fn reported_missing(folder: &Path) -> Missing {
    let trajectories = Trajectories::open(folder).unwrap();
    trajectories.refresh().unwrap();
    let sessions = trajectories.sessions(&oxenv_store::SessionFilter::default()).unwrap();
    let holes = sessions.into_iter().filter(|session| !session.holes.is_empty());
    let holes = holes.map(|session| (session.id, session.holes)).collect();
    (trajectories.faults().unwrap(), holes)
}

/// As it is found twice, and by a reader who was not there before.
fn missing(folder: &Path) -> Missing {
    let (first, second) = (reported_missing(folder), reported_missing(folder));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.join(format!("index.sqlite{suffix}")));
    }
    let anew = reported_missing(folder);
    for other in [&second, &anew] {
        assert_eq!(format!("{first:?}"), format!("{other:?}"));
    }
    anew
}

/// A session with that number of steps, which has ended.
async fn ended(recorder: &LogRecorder, id: &str, steps: u64) {
    session(recorder, id, steps).await;
    put(recorder, &entry(id, 2 + steps, RecordEvent::Closed { reason: "closed" })).await;
}

/// Writes a segment anew, each record as the change makes it, in frames that fit.
fn rewrite(segment: &Path, mut change: impl FnMut(&mut Value) -> bool) {
    let text = fs::read_to_string(segment).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut out = format!("{first}\n");
    for line in rest.lines() {
        let mut record = serde_json::from_str(&line[18..]).unwrap();
        if change(&mut record) {
            let json = record.to_string();
            out.push_str(&format!("{:08x} {:08x} {json}\n", json.len(), crc32fast::hash(json.as_bytes())));
        }
    }
    fs::write(segment, out).unwrap();
}

fn seqs(holes: &[(String, Vec<Hole>)]) -> Vec<(&str, u64, u64)> {
    let entries = holes.iter().flat_map(|(id, holes)| holes.iter().map(move |hole| (id.as_str(), hole)));
    entries
        .filter_map(|(id, hole)| match hole {
            Hole::Entries { first, last, .. } => Some((id, *first, *last)),
            _ => None,
        })
        .collect()
}

/// A log of one segment whose writer was killed, and its bytes.
async fn killed(name: &str) -> (std::path::PathBuf, Vec<u8>) {
    let folder = folder(name);
    let recorder = open(&folder, LogOptions::default());
    ended(&recorder, "a", 4).await;
    ended(&recorder, "b", 2).await;
    session(&recorder, "c", 3).await;
    drop(recorder);
    as_if_killed(&folder);
    let bytes = fs::read(&segments(&folder)[0]).unwrap();
    (folder, bytes)
}

#[tokio::test]
async fn a_record_with_everything_has_no_holes() {
    let (folder, _) = killed("holes-none").await;
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    // Sessions that nobody ended are open, also when another server has begun.
    let recorder = open(&folder, LogOptions::default());
    ended(&recorder, "d", 1).await;
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    drop(recorder);
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
}

#[tokio::test]
async fn every_entry_that_was_removed_is_missed() {
    let (folder, bytes) = killed("holes-entry").await;
    let path = &segments(&folder)[0];
    for (id, last) in [("a", 6), ("b", 4)] {
        for seq in 0..last {
            fs::write(path, &bytes).unwrap();
            rewrite(path, |record| record["session"] != id || record["seq"] != seq);
            let (faults, holes) = missing(&folder);
            if seq > 0 {
                assert_eq!((seqs(&holes), faults.len()), (vec![(id, seq, seq)], 0), "{holes:?} {faults:?}");
                continue;
            }
            let [LogError::NoOpening { session, entries: 1, .. }] = &faults[..] else { panic!("{faults:?}") };
            assert_eq!((session.as_str(), holes.len()), (id, 0));
        }
    }
}

#[tokio::test]
async fn entries_that_were_removed_are_missed_though_the_rest_is_numbered_anew() {
    let (folder, _) = killed("holes-renumbered").await;
    rewrite(&segments(&folder)[0], |record| {
        let seq = record["seq"].as_u64().unwrap_or(0);
        if record["session"] == "a" && seq >= 4 {
            record["seq"] = (seq - 2).into();
        }
        record["session"] != "a" || !(2..4).contains(&seq)
    });
    let (faults, holes) = missing(&folder);
    let [(id, found)] = &holes[..] else { panic!("{holes:?}") };
    assert_eq!((id.as_str(), faults.len()), ("a", 0));
    assert!(matches!(found[..], [Hole::Count { counted: 6, found: 4 }]), "{found:?}");
}

#[tokio::test]
async fn each_of_three_segments_is_missed() {
    let folder = folder("holes-segments");
    for run in 0..3 {
        let recorder = open(&folder, LogOptions::default());
        ended(&recorder, &format!("s{run}"), 2).await;
    }
    let files = segments(&folder);
    assert_eq!(files.len(), 3);
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    for gone in &files {
        let bytes = fs::read(gone).unwrap();
        fs::remove_file(gone).unwrap();
        let (faults, holes) = missing(&folder);
        let [LogError::Missing { path, last }] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!((path, last, holes.len()), (gone, gone, 0));
        fs::write(gone, bytes).unwrap();
        // Whoever restores it from a copy has all of it again.
        assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    }
    fs::remove_file(&files[2]).unwrap();
    // Also when a server has gone on behind it.
    ended(&open(&folder, LogOptions::default()), "s3", 2).await;
    assert_eq!(segments(&folder).len(), 3);
    let (faults, _) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Missing { path, .. }] if *path == files[2]), "{faults:?}");
}

/// So many segments, each of a server that ended in order, with one session.
async fn runs(name: &str, runs: usize) -> (PathBuf, Vec<PathBuf>) {
    let folder = folder(name);
    for run in 0..runs {
        ended(&open(&folder, LogOptions::default()), &format!("s{run}"), 2).await;
    }
    let files = segments(&folder);
    assert_eq!(files.len(), runs);
    (folder, files)
}

fn count(folder: &Path) -> usize {
    let trajectories = Trajectories::open(folder).unwrap();
    trajectories.refresh().unwrap();
    trajectories.sessions(&oxenv_store::SessionFilter::default()).unwrap().len()
}

#[tokio::test]
async fn a_segment_that_was_put_back_is_read_by_an_index_that_missed_it() {
    let (folder, files) = runs("holes-put-back", 3).await;
    for file in &files {
        let away = file.with_extension("away");
        fs::rename(file, &away).unwrap();
        assert_eq!((count(&folder), reported_missing(&folder).0.len()), (2, 1));
        fs::rename(&away, file).unwrap();
        assert_eq!((count(&folder), reported_missing(&folder).0.len()), (3, 0), "{file:?}");
    }
    // The same when two were away and come back one by one.
    for file in &files[..2] {
        fs::rename(file, file.with_extension("away")).unwrap();
    }
    assert_eq!(count(&folder), 1);
    for (number, file) in files[..2].iter().enumerate() {
        fs::rename(file.with_extension("away"), file).unwrap();
        assert_eq!(count(&folder), 2 + number);
    }
}

fn names(faults: &[LogError]) -> Vec<(&Path, bool)> {
    faults.iter().map(|fault| (fault.path(), matches!(fault, LogError::Changed { .. }))).collect()
}

#[tokio::test]
async fn a_segment_cut_within_its_beginning_is_told_also_after_a_start() {
    let (folder, files) = runs("holes-emptied", 3).await;
    for length in [0, 1, 11, 12, 40] {
        for file in &files {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..length]).unwrap();
            let (faults, _) = missing(&folder);
            assert_eq!(names(&faults), [(file.as_path(), true)], "{length} {faults:?}");
            fs::write(file, &bytes).unwrap();
        }
    }
    for killed in [false, true] {
        let newest = segments(&folder).pop().unwrap();
        if killed {
            as_if_killed(&folder);
        }
        fs::write(&newest, "").unwrap();
        for run in 0..2 {
            let before = segments(&folder).len();
            ended(&open(&folder, LogOptions::default()), &format!("later{killed}{run}"), 1).await;
            assert_eq!(segments(&folder).len(), before + 1);
            assert_eq!(fs::read(&newest).unwrap(), b"");
            let (faults, _) = missing(&folder);
            assert!(names(&faults).contains(&(&newest, true)), "{faults:?}");
        }
    }
}

#[tokio::test]
async fn what_a_killed_writer_began_is_no_fault() {
    let (folder, _) = runs("holes-begun", 2).await;
    let begun = folder.join("log-000003.oxl");
    for length in [0, 5, 12] {
        let next = segments(&folder).len() + 1;
        fs::write(folder.join(format!("log-{next:06}.oxl")), &b"oxenv-log 2\n"[..length]).unwrap();
        assert_eq!(format!("{:?}", missing(&folder)), "([], [])", "{length}");
        ended(&open(&folder, LogOptions::default()), &format!("later{length}"), 1).await;
        assert_eq!(segments(&folder).len(), next + 1);
        assert_eq!(format!("{:?}", missing(&folder)), "([], [])", "{length}");
    }
    assert_eq!(fs::read(&begun).unwrap(), b"");
}

#[tokio::test]
async fn segments_of_other_records_and_in_other_places_are_told_and_not_taken_in() {
    let (other, foreign) = runs("holes-foreign", 4).await;
    fs::remove_file(other.join("log-bounds.json")).unwrap();
    let (folder, files) = runs("holes-misplaced", 3).await;
    for (from, to) in [
        (&foreign[0], "log-000004.oxl"),
        (&foreign[3], "log-000004.oxl"),
        (&files[2], "log-000004.oxl"),
        (&files[0], "log-000000.oxl"),
        (&files[0], "log-000009.oxl"),
    ] {
        let to = folder.join(to);
        fs::copy(from, &to).unwrap();
        let (faults, _) = missing(&folder);
        assert!(faults.iter().any(|fault| *fault.path() == to), "{to:?} {faults:?}");
        // One in the place that it names may be ours.
        assert_eq!(count(&folder), if from == &foreign[3] { 4 } else { 3 }, "{to:?}");
        fs::remove_file(to).unwrap();
    }
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    // A start goes on behind it, and it is told all the same.
    fs::copy(&files[2], folder.join("log-000004.oxl")).unwrap();
    ended(&open(&folder, LogOptions::default()), "s3", 1).await;
    assert!(folder.join("log-000005.oxl").exists());
    let (faults, holes) = missing(&folder);
    assert_eq!((names(&faults), holes.len()), (vec![(folder.join("log-000004.oxl").as_path(), true)], 0));
    assert_eq!(count(&folder), 4);
}

#[tokio::test]
async fn bounds_that_no_server_wrote_are_told() {
    let (folder, files) = runs("holes-bounds", 3).await;
    let path = folder.join("log-bounds.json");
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in [("last", u64::MAX), ("first", u64::MAX), ("first", 5), ("last", 2)] {
        let mut bounds = written.clone();
        bounds[key] = value.into();
        fs::write(&path, bounds.to_string()).unwrap();
        let (faults, _) = missing(&folder);
        assert!(matches!(&faults[..], [LogError::NoBounds { .. }]), "{key} {value} {faults:?}");
    }
    let mut bounds = written.clone();
    bounds["first"] = 2.into();
    fs::write(&path, bounds.to_string()).unwrap();
    let (faults, _) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Unlisted { path, .. }] if *path == files[0]), "{faults:?}");
    fs::write(&path, r#"{"first":1,"last":18446744073709551615}"#).unwrap();
    ended(&open(&folder, LogOptions::default()), "s3", 1).await;
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    fs::write(folder.join("log-18446744073709551615.oxl"), "").unwrap();
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
}

#[tokio::test]
async fn numbers_that_no_entry_has_are_damage() {
    let (folder, bytes) = killed("holes-numbers").await;
    let path = &segments(&folder)[0];
    for number in [u64::MAX, i64::MAX as u64] {
        for key in ["seq", "entries"] {
            fs::write(path, &bytes).unwrap();
            rewrite(path, |record| {
                if record["session"] == "b" && record["event"] == "closed" {
                    record[key] = number.into();
                }
                true
            });
            let (faults, _) = missing(&folder);
            assert!(matches!(&faults[..], [LogError::Unreadable { .. }]), "{key} {number} {faults:?}");
            let trajectories = Trajectories::open(&folder).unwrap();
            let mut out = Vec::new();
            assert_eq!(export_jsonl(&trajectories, &mut out, &Default::default()).unwrap().sessions, 3);
        }
    }
}

#[tokio::test]
async fn a_named_pipe_in_the_place_of_a_file_is_told() {
    let (folder, files) = runs("holes-pipes", 3).await;
    let bounds = folder.join("log-bounds.json");
    for file in files.iter().chain([&bounds]) {
        let away = file.with_extension("away");
        fs::rename(file, &away).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
        let (faults, _) = missing(&folder);
        assert_eq!((faults.len(), faults[0].path()), (1, file.as_path()), "{faults:?}");
        if file != &bounds {
            drop(open(&folder, LogOptions::default()));
        }
        fs::remove_file(file).unwrap();
        fs::rename(&away, file).unwrap();
    }
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
}

#[tokio::test]
async fn a_segment_in_the_midst_of_sessions_is_missed_by_them() {
    let folder = folder("holes-midst");
    let recorder = open(&folder, LogOptions { segment_bytes: 900, ..LogOptions::default() });
    ended(&recorder, "a", 9).await;
    session(&recorder, "b", 1).await;
    drop(recorder);
    let files = segments(&folder);
    assert!(files.len() > 3);
    fs::remove_file(&files[1]).unwrap();
    let (faults, holes) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Missing { path, .. }] if *path == files[1]), "{faults:?}");
    let [(id, found)] = &holes[..] else { panic!("{holes:?}") };
    let [Hole::Entries { after, before, .. }] = &found[..] else { panic!("{found:?}") };
    let around = (after.file.as_str(), before.file.as_str());
    assert_eq!((id.as_str(), around), ("a", ("log-000001.oxl", "log-000003.oxl")));
    // The end of a session that is open may be in what is missing.
    fs::remove_file(files.last().unwrap()).unwrap();
    let (faults, holes) = missing(&folder);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(holes.iter().any(|(_, holes)| matches!(holes.last(), Some(Hole::End { .. }))), "{holes:?}");
}

#[tokio::test]
async fn what_retention_removes_is_not_missed_and_what_others_remove_is() {
    let folder = folder("holes-retention");
    let retention = Retention { age: None, bytes: Some(4000) };
    let recorder = open(&folder, LogOptions { segment_bytes: 900, retention, ..LogOptions::default() });
    for round in 0..12 {
        ended(&recorder, &format!("s{round}"), 3).await;
        assert_eq!(format!("{:?}", missing(&folder)), "([], [])", "{round}");
    }
    drop(recorder);
    let files = segments(&folder);
    assert!(!files[0].ends_with("log-000001.oxl"), "{files:?}");
    fs::remove_file(&files[0]).unwrap();
    let (faults, _) = missing(&folder);
    assert!(matches!(&faults[0], LogError::Missing { path, .. } if *path == files[0]), "{faults:?}");
}

#[tokio::test]
async fn a_segment_that_was_replaced_is_found_though_its_frames_fit() {
    let folder = folder("holes-replaced");
    for run in 0..2 {
        let recorder = open(&folder, LogOptions::default());
        ended(&recorder, &format!("s{run}"), 2).await;
    }
    let files = segments(&folder);
    // The last one says what it held in the bounds, the one before in the header of the next.
    for (number, file) in files.iter().enumerate() {
        let bytes = fs::read(file).unwrap();
        for cut in [false, true] {
            rewrite(file, |record| {
                if record["event"] == "step" {
                    record["duration_us"] = 13.into();
                }
                !(cut && record["event"] == "closed")
            });
            let (faults, holes) = missing(&folder);
            assert!(matches!(&faults[..], [LogError::Changed { path, .. }] if path == file), "{faults:?}");
            let [(id, found)] = &holes[..] else { panic!("{holes:?}") };
            assert_eq!(*id, format!("s{number}"));
            assert!(matches!(&found[0], Hole::Changed { .. }), "{found:?}");
            fs::write(file, &bytes).unwrap();
        }
    }
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
}

/// Whatever bit of the last acknowledged line is flipped: nothing of it is destroyed by the next start, and
/// it is told each time, unless the entry can still be read.
#[tokio::test]
async fn a_flipped_bit_in_the_last_line_is_told_and_kept() {
    let (folder, bytes) = killed("holes-flipped").await;
    let bounds = fs::read(folder.join("log-bounds.json")).unwrap();
    let path = segments(&folder).remove(0);
    let line = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for bit in (line * 8..bytes.len() * 8).step_by(5) {
        let _ = fs::remove_file(folder.join("log-000002.oxl"));
        fs::write(folder.join("log-bounds.json"), &bounds).unwrap();
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &changed).unwrap();
        for restarted in [false, true] {
            if restarted {
                ended(&open(&folder, LogOptions::default()), "d", 1).await;
            }
            let (faults, holes) = reported_missing(&folder);
            if bit / 8 == bytes.len() - 1 {
                // Its text is whole, so the entry is.
                assert_eq!(format!("{faults:?} {holes:?}"), "[] []", "{bit}");
                continue;
            }
            let [LogError::Damaged { path: named, offset, .. }] = &faults[..] else {
                panic!("{bit} {restarted}: {faults:?}")
            };
            assert_eq!((named, *offset), (&path, line as u64), "{bit}");
            // It may have been of the session that is open; those that have ended miss nothing.
            let [(id, found)] = &holes[..] else { panic!("{bit}: {holes:?}") };
            assert_eq!(
                (id.as_str(), matches!(found[..], [Hole::End { last: 3, .. }])),
                ("c", true),
                "{found:?}"
            );
        }
        assert_eq!(fs::read(&path).unwrap(), changed, "{bit}");
    }
}

#[tokio::test]
async fn a_lost_page_at_the_end_is_no_unfinished_write() {
    let (folder, mut bytes) = killed("holes-zeros").await;
    let path = segments(&folder).remove(0);
    let length = bytes.len();
    bytes[length - 100..].fill(0);
    fs::write(&path, &bytes).unwrap();
    let recorder = open(&folder, LogOptions::default());
    assert_eq!(recorder.recovery().torn_bytes, 0);
    assert!(recorder.recovery().damaged_bytes >= 100);
    ended(&recorder, "d", 1).await;
    drop(recorder);
    let (faults, _) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Damaged { .. }]), "{faults:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// A copy of records that were made by a program of format 1.
fn of_format_1(name: &str) -> std::path::PathBuf {
    let folder = folder(name);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1-segments");
    for file in segments(&golden) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    fs::copy(golden.join("log-000003.blobs"), folder.join("log-000003.blobs")).unwrap();
    for part in fs::read_dir(golden.join("blobs")).unwrap().map(|part| part.unwrap().path()) {
        let below = folder.join("blobs").join(part.file_name().unwrap());
        fs::create_dir_all(&below).unwrap();
        for blob in fs::read_dir(part).unwrap().map(|blob| blob.unwrap().path()) {
            fs::copy(&blob, below.join(blob.file_name().unwrap())).unwrap();
        }
    }
    folder
}

#[tokio::test]
async fn format_1_is_read_and_written_on_behind() {
    let folder = of_format_1("holes-format-1");
    let before: Vec<_> = segments(&folder).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let steps = |id: &str| trajectories.session(id).unwrap().unwrap().steps;
    assert_eq!((steps("a"), steps("b")), (5, 3));
    let mut out = Vec::new();
    let exported = export_jsonl(&trajectories, &mut out, &Default::default()).unwrap();
    assert_eq!((exported.sessions, exported.left_out.len()), (2, 0));
    drop(trajectories);

    let recorder = open(&folder, LogOptions::default());
    ended(&recorder, "c", 2).await;
    drop(recorder);
    let files = segments(&folder);
    assert!(before.iter().zip(&files).all(|(bytes, file)| fs::read(file).unwrap() == *bytes));
    assert!(fs::read_to_string(&files[3]).unwrap().starts_with("oxenv-log 2\n"));
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
    // From then on it is known how it was when format 2 began.
    rewrite(&files[2], |record| record["event"] != "closed");
    let (faults, _) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Changed { path, .. }] if *path == files[2]), "{faults:?}");
}

#[tokio::test]
async fn format_1_shows_gaps_in_numbers_and_no_more() {
    let folder = of_format_1("holes-format-1-gaps");
    let files = segments(&folder);
    let bytes = fs::read(&files[0]).unwrap();
    rewrite(&files[0], |record| record["session"] != "a" || record["seq"] != 3);
    assert_eq!(seqs(&missing(&folder).1), [("a", 3, 3)]);
    fs::write(&files[0], bytes).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let (faults, holes) = missing(&folder);
    assert!(matches!(&faults[..], [LogError::Missing { path, .. }] if *path == files[1]), "{faults:?}");
    assert_eq!(seqs(&holes).len(), 1, "{holes:?}");
    // That the last one is gone cannot be seen.
    fs::remove_file(&files[2]).unwrap();
    assert_eq!(format!("{:?}", missing(&folder)), "([], [])");
}

#[tokio::test]
async fn a_damaged_blob_is_the_loss_of_its_session_alone() {
    for how in ["gone", "changed"] {
        let folder = folder(&format!("holes-blob-{how}"));
        let recorder = open(&folder, LogOptions { inline_bytes: 100, ..LogOptions::default() });
        for id in ["a", "b", "c"] {
            session(&recorder, id, 2).await;
            let reply =
                format!(r#"{{"observation":{{"text":"{}"}},"reward":1,"done":true}}"#, id.repeat(200));
            put(&recorder, &entry(id, 4, step(raw("{}"), &reply, &[]))).await;
        }
        drop(recorder);
        let parts = fs::read_dir(folder.join("blobs")).unwrap().map(|part| part.unwrap().path());
        let blobs: Vec<_> =
            parts.flat_map(|part| fs::read_dir(part).unwrap()).map(|blob| blob.unwrap().path()).collect();
        let of_b = blobs.iter().find(|blob| fs::read_to_string(blob).unwrap().contains("bbb")).unwrap();
        match how {
            "gone" => fs::remove_file(of_b).unwrap(),
            _ => fs::write(of_b, "{}").unwrap(),
        }
        let trajectories = Trajectories::open(&folder).unwrap();
        trajectories.refresh().unwrap();
        let mut out = Vec::new();
        let exported = export_jsonl(&trajectories, &mut out, &Default::default()).unwrap();
        let [left_out] = &exported.left_out[..] else { panic!("{exported:?}") };
        assert_eq!((exported.sessions, left_out.session.as_str()), (2, "b"));
        assert!(matches!(&left_out.why, LogError::Blob { path, .. } if path == of_b), "{exported:?}");
        let lines = String::from_utf8(out).unwrap();
        let ids =
            lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["session_id"].clone());
        assert!(ids.eq(["a", "c"]), "{lines}");
    }
}
