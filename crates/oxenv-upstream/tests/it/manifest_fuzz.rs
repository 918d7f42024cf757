//! Arbitrary texts, and fixtures with mistakes in them, as manifests and as clients' configurations.
//!
//! Invariant: [`manifest`] is the body of a fuzz target too, so it takes any bytes and uses nothing
//! of this crate's tests.

use std::fs;

use oxenv_upstream::manifest::{Manifest, Problem, Severity, import};
use proptest::prelude::*;

use crate::manifest::fixture;

/// What holds for any bytes: nothing panics, each problem is one line with a place inside the text, a
/// manifest has no errors, and no variable's value is told.
pub(crate) fn manifest(data: &[u8]) {
    const VALUE: &str = "value-of-a-variable";
    // Those two are public by design.
    let lookup = |name: &str| match name {
        "UNSET" => None,
        "HOME" | "PATH" => Some("/public".to_owned()),
        _ => Some(VALUE.to_owned()),
    };
    let lines = data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    let problems = match Manifest::parse_bytes(data, None, &lookup) {
        Ok((manifest, warnings)) => {
            assert!(warnings.iter().all(|warning| !warning.is_error()), "a manifest has no errors");
            assert!(!format!("{manifest:?}").contains(VALUE), "a manifest can be printed");
            let _ = manifest.missing(&lookup, Severity::Warning);
            warnings
        }
        Err(problems) => {
            assert!(problems.iter().any(Problem::is_error), "what is refused has an error");
            problems
        }
    };
    for problem in problems {
        let told = problem.to_string();
        assert!(!told.contains(['\n', '\r']), "a problem is one line: {told:?}");
        assert!(!told.contains(VALUE), "a problem holds no secret: {told}");
        assert!(problem.at.line <= lines, "a problem stands in the text: {told}");
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(imported) = import(text, "client.json") {
        let read = Manifest::parse(&imported.manifest, None, &lookup);
        let syntax = |problem: &Problem| problem.message.starts_with("not YAML");
        assert!(!read.is_err_and(|problems| problems.iter().any(syntax)), "{}", imported.manifest);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let folders = ["valid", "rfc", "problems", "import"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(fixture(folder)).unwrap());
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn every_fixture_holds() {
    seeds().iter().for_each(|seed| manifest(seed));
}

#[test]
fn long_and_deep_texts_hold() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        "a:\n ".repeat(50_000),
        "? ".repeat(100_000),
        "!".repeat(100_000),
        "&a ".repeat(100_000),
        format!("tools: {}", "é".repeat(100_000)),
        format!("tools: [{}]", "{name: x},".repeat(50_000)),
    ] {
        manifest(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_holds(text in "[-\\[\\]{}:,&*!|>'\"#?@%\n\t $a-c0-9~<]{0,80}|.{0,80}") {
        manifest(text.as_bytes());
    }

    #[test]
    fn fixtures_with_mistakes_hold(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, edit()), 1..5),
    ) {
        let seeds = seeds();
        let mut text = which.get(&seeds).clone();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.bytes());
        }
        manifest(&text);
    }
}

fn edit() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("${UNSET}".to_owned()),
        Just("${workspace}".to_owned()),
        Just("${A}".to_owned()),
        Just("${".to_owned()),
        Just("<<: *a\n".to_owned()),
        Just("&a ".to_owned()),
        Just("*a".to_owned()),
        Just("\n---\n".to_owned()),
        Just("\u{0}".to_owned()),
        Just("\u{2028}".to_owned()),
        "[ -~\n\t]{1,3}",
        ".{1,2}",
    ]
}
