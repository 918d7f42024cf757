//! Records that somebody or some disk has damaged: nothing that is missing is proven, and the rest still is.

use std::fs;
use std::path::{Path, PathBuf};

use oxenv_test_support::TempFolder;
use oxenv_test_support::tally::{Dice, report, tries};
use serde_json::Value;

use crate::holes::{ended_session, remove};
use crate::process::{Serving, run};
use crate::records::segments;

const SERVERS: usize = 3;
const SESSIONS: usize = 3;

/// What a damage is about: a segment, and the session of it that is hit if only one is.
struct Hit {
    what: &'static str,
    segment: usize,
    session: Option<usize>,
}

#[test]
fn a_record_with_a_hole_is_never_proven_and_what_is_whole_is() {
    let folder = TempFolder::new("holes");
    let records = folder.join("records");
    let ids: Vec<Vec<String>> = (0..SERVERS)
        .map(|_| {
            let server =
                Serving::start(&["grid_world", "--log", "error", "--record", records.to_str().unwrap()]);
            let ids = (0..SESSIONS).map(|_| ended_session(&server)).collect();
            server.stop();
            ids
        })
        .collect();
    let files = segments(&records);
    assert_eq!(files.len(), SERVERS);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let (tries, mut dice) = (tries(15, 300), Dice::new(11));
    let (mut told, mut sessions) = (0, 0);
    let mut by_kind = [0; 5];
    for round in 0..tries {
        by_kind[round % by_kind.len()] += 1;
        let hit = damage(round % by_kind.len(), &mut dice, &files, &ids);
        let replayed = run(&["replay", records.to_str().unwrap(), "--json"]);
        let lines: Vec<Value> =
            replayed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let same =
            |id: &String| lines.iter().any(|line| line["session_id"] == **id && line["outcome"] == "same");
        let named = replayed.stderr.contains(files[hit.segment].file_name().unwrap().to_str().unwrap());
        // Those of other segments are the same, and those that were hit are not.
        let others = ids.iter().enumerate().filter(|(segment, _)| *segment != hit.segment);
        let others_same = others.flat_map(|(_, ids)| ids).inspect(|_| sessions += 1).all(same);
        let of_it = hit.session.is_some_and(|session| same(&ids[hit.segment][session]));
        let right = replayed.code == Some(6) && named && others_same && !of_it;
        assert!(right, "{} in {}: {replayed:#?}", hit.what, hit.segment);
        told += usize::from(right);
        for (file, bytes) in files.iter().zip(&whole) {
            fs::write(file, bytes).unwrap();
        }
    }
    let replayed = run(&["replay", records.to_str().unwrap()]);
    assert!(replayed.succeeded().ends_with("9 of 9 the same\n"), "{replayed:#?}");
    let [entries, epochs, gone, bits, ends] = by_kind;
    let note = format!(
        "records of 3 segments and 9 sessions, damaged ({entries} times an entry was removed, {epochs} an \
         epoch, {gone} a segment, {bits} a bit flipped, {ends} an end cut off): each named by file and told \
         by exit code 6, no session with a hole called the same, {sessions} sessions of other segments \
         proven all the same"
    );
    report("records with holes", tries, told, &note);
}

/// Damages one of the segments.
fn damage(kind: usize, dice: &mut Dice, files: &[PathBuf], ids: &[Vec<String>]) -> Hit {
    let (segment, session) = (dice.below(files.len()), dice.below(SESSIONS));
    let (file, id): (&Path, _) = (&files[segment], &ids[segment][session]);
    let what = match kind {
        0 => {
            let seq = 1 + dice.below(9);
            assert_eq!(remove(file, |record| record["session"] == **id && record["seq"] == seq), 1);
            "an entry"
        }
        1 => {
            let epoch = 1 + dice.below(2);
            assert!(remove(file, |record| record["session"] == **id && record["epoch"] == epoch) >= 4);
            "an epoch"
        }
        2 => {
            fs::remove_file(file).unwrap();
            "a segment"
        }
        3 => {
            let mut bytes = fs::read(file).unwrap();
            // The digit that tells the format might tell of a newer one, which is refused.
            let at = Some(dice.below(bytes.len())).filter(|at| *at != 10).unwrap_or(0);
            bytes[at] ^= 1 << dice.below(8);
            fs::write(file, bytes).unwrap();
            "a bit"
        }
        _ => {
            let bytes = fs::read(file).unwrap();
            let left = bytes.len() - 1 - dice.below(2_000);
            fs::write(file, &bytes[..left]).unwrap();
            "an end"
        }
    };
    Hit { what, segment, session: (kind < 2).then_some(session) }
}
