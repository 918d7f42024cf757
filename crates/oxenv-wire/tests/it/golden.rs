//! The golden files: one JSON file per message, and the proof that none is missing or left over.
//!
//! Invariant: a module of messages gives all of its files by one function, named in [`all`]. So what
//! is on the disk can be compared with what the tests look at even if each test has a process of
//! its own.

use std::collections::BTreeSet;
use std::path::Path;

use expect_test::expect_file;

use crate::pretty::{minified, pretty};
use crate::{catalogue, enumerations, errors, malformed, multi, observations, requests, results, rpc};

/// One golden file.
pub(crate) struct Golden {
    /// Its name under `tests/golden/`, without `.json`.
    name: String,
    /// What it holds, as JSON.
    text: String,
}

impl Golden {
    /// A file that people read beside the code: a request with what was understood, a list of faults.
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Golden { name: name.into(), text: text.into() }
    }

    /// A reply. Indentation aside, the file holds it to the byte, because replies have no spaces.
    pub(crate) fn reply(name: impl Into<String>, text: impl Into<String>) -> Self {
        let golden = Golden::new(name, text);
        assert_eq!(
            golden.text,
            minified(&golden.text),
            "{}: a reply has no spaces between its parts",
            golden.name
        );
        golden
    }
}

/// Compares with the disk.
pub(crate) fn check(goldens: Vec<Golden>) {
    for golden in goldens {
        let shown = pretty(&golden.text);
        assert_eq!(
            minified(&shown),
            minified(&golden.text),
            "{}: indentation changes nothing else",
            golden.name
        );
        expect_file![format!("../golden/{}.json", golden.name)].assert_eq(&shown);
    }
}

fn all() -> Vec<Golden> {
    let modules = [
        catalogue::goldens,
        enumerations::goldens,
        errors::goldens,
        malformed::goldens,
        multi::goldens,
        observations::goldens,
        requests::goldens,
        results::goldens,
        rpc::goldens,
    ];
    modules.into_iter().flat_map(|goldens| goldens()).collect()
}

#[test]
fn the_files_on_the_disk_are_the_messages_and_nothing_else() {
    let names: Vec<String> = all().into_iter().map(|golden| format!("{}.json", golden.name)).collect();
    let written: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(written.len(), names.len(), "two messages share a file: {names:?}");

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let on_disk: BTreeSet<String> = folder
        .read_dir()
        .expect("the folder of golden files exists")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("names are Unicode"))
        .collect();
    let left_over: Vec<_> = on_disk.difference(&written).collect();
    let missing: Vec<_> = written.difference(&on_disk).collect();
    assert!(left_over.is_empty() && missing.is_empty(), "left over: {left_over:?}; missing: {missing:?}");
}
