//! Logs that were cut off or damaged: what is read is what was written, never anything else.

use std::fs;
use std::path::Path;

use oxenv_store::{LogError, LogOptions, LogReader, LogRecorder, Trajectories};
use proptest::prelude::*;

use crate::sample::{as_if_killed, entry, folder, found, open, opened, put, segments, session};

/// A small log, and where its frames end.
fn small(folder: &Path) -> (Vec<u8>, Vec<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let recorder = open(folder, LogOptions::default());
    runtime.block_on(session(&recorder, "a", 2));
    drop(recorder);
    let bytes = fs::read(&segments(folder)[0]).unwrap();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    (bytes, ends)
}

fn numbers(folder: &Path) -> Vec<u64> {
    found(folder).0.into_iter().map(|(_, seq)| seq).collect()
}

#[test]
fn a_log_cut_off_anywhere_keeps_what_is_whole() {
    let folder = folder("recovery-cut");
    let (bytes, ends) = small(&folder);
    as_if_killed(&folder);
    let bounds = fs::read(folder.join("log-bounds.json")).unwrap();
    let path = segments(&folder).remove(0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for length in 0..=bytes.len() {
        let _ = fs::remove_file(folder.join("log-000002.oxl"));
        fs::write(folder.join("log-bounds.json"), &bounds).unwrap();
        fs::write(&path, &bytes[..length]).unwrap();
        // The first two lines are the segment's own.
        let whole = ends.iter().filter(|end| **end <= length).count().saturating_sub(2) as u64;
        assert_eq!(found(&folder), ((0..whole).map(|seq| ("a".to_owned(), seq)).collect(), 0), "{length}");
        let recorder = open(&folder, LogOptions::default());
        let kept = ends.iter().copied().filter(|end| *end <= length).max().unwrap_or(0);
        let found_at_start = recorder.recovery().clone();
        assert_eq!(found_at_start.torn_bytes, (length - kept) as u64, "{length}");
        assert_eq!(found_at_start.damaged_bytes, 0, "{length}");
        runtime.block_on(put(&recorder, &entry("b", 77, opened())));
        drop(recorder);
        assert_eq!(numbers(&folder), (0..whole).chain([77]).collect::<Vec<_>>(), "{length}");
        // Its beginning was there when the bounds named it.
        let lost = usize::from(length < ends[1]);
        assert_eq!(found(&folder).1, lost, "{length}");
        assert_eq!(fs::read(&path).unwrap(), &bytes[..length], "{length}");
        if length % 31 != 0 {
            continue;
        }
        let trajectories = Trajectories::open(&folder).unwrap();
        trajectories.refresh().unwrap();
        assert_eq!(trajectories.faults().unwrap().len(), lost, "{length}: {:?}", trajectories.faults());
        assert!(
            trajectories.session("a").unwrap().is_none_or(|session| session.holes.is_empty()),
            "{length}"
        );
    }
}

#[test]
fn a_changed_byte_costs_its_own_record_only() {
    let folder = folder("recovery-flip");
    let (bytes, ends) = small(&folder);
    let path = segments(&folder).remove(0);
    let all: Vec<u64> = (0..4).collect();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x20, 0x80, bytes[at] ^ b'\n', bytes[at]] {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            if changed == bytes {
                continue;
            }
            fs::write(&path, &changed).unwrap();
            let line = ends.iter().position(|end| at < *end).unwrap();
            if line == 0
                && let Some(Err(LogError::Newer { .. })) = LogReader::open(&folder).unwrap().next()
            {
                continue;
            }
            let found = numbers(&folder);
            let without: Vec<u64> = all.iter().copied().filter(|seq| *seq + 2 != line as u64).collect();
            assert!(found == all || found == without, "{at} {mask:x}: {found:?}");
        }
    }
}

#[test]
fn damage_is_told_with_its_place_and_never_cut_off() {
    let folder = folder("recovery-middle");
    let (mut bytes, ends) = small(&folder);
    let path = segments(&folder).remove(0);
    bytes[ends[2] + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let faults: Vec<LogError> = LogReader::open(&folder).unwrap().filter_map(Result::err).collect();
    let [LogError::Damaged { path: named, offset, bytes: lost }] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!((named, *offset, *lost), (&path, ends[2] as u64, (ends[3] - ends[2]) as u64));
    assert!(faults[0].to_string().contains("log-000001.oxl"));

    let recorder = open(&folder, LogOptions::default());
    assert_eq!((recorder.recovery().torn_bytes, recorder.recovery().damaged_bytes), (0, *lost));
    drop(recorder);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(numbers(&folder), [0, 2, 3]);
}

#[test]
fn a_newer_format_is_refused() {
    let folder = folder("recovery-newer");
    fs::write(folder.join("log-000007.oxl"), "oxenv-log 3\nwhatever").unwrap();
    let error = LogRecorder::open(&folder, LogOptions::default()).unwrap_err();
    assert!(matches!(error, LogError::Newer { found: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("log-000007.oxl"), "{error}");
    assert!(matches!(LogReader::open(&folder).unwrap().next(), Some(Err(LogError::Newer { .. }))));
    fs::write(folder.join("log-000007.oxl"), "a letter\n").unwrap();
    // What is no log at all is damaged as a whole, and stops nobody.
    let recorder = open(&folder, LogOptions::default());
    assert_eq!(recorder.recovery().damaged_bytes, 9);
    assert!(matches!(LogReader::open(&folder).unwrap().next(), Some(Err(LogError::Damaged { .. }))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The body of a fuzz target: whatever a segment holds, reading it ends, and what comes of it
    /// was written by a recorder.
    #[test]
    fn any_bytes_can_be_read(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                Just(b"\n".to_vec()),
                Just(b"00000003 352441c2 ".to_vec()),
                Just(b"ffffffff 00000000 ".to_vec()),
                Just(b"00000002 a9052fd7 {}\n".to_vec()),
            ],
            0..20,
        ),
    ) {
        let folder = folder("recovery-any");
        let mut bytes = b"oxenv-log 1\n".to_vec();
        bytes.extend(pieces.concat());
        fs::write(folder.join("log-000001.oxl"), &bytes).unwrap();
        let (entries, faults) = found(&folder);
        prop_assert!(entries.is_empty());
        prop_assert!(faults <= bytes.len());
    }
}
