//! Manifests made from clients' configurations: `fixtures/import/NAME.json` becomes `NAME.yaml`, and
//! `NAME.txt` has the notes.
//!
//! Invariant: what comes out is a manifest without errors, and no secret of the input is in it.

use std::fs;
use std::path::PathBuf;

use expect_test::expect_file;
use oxenv_upstream::manifest::{Manifest, import};

use crate::manifest::fixture;

fn configurations() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(fixture("import")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

#[test]
fn clients_configurations_become_manifests() {
    assert!(configurations().len() >= 4);
    for file in configurations() {
        let text = fs::read_to_string(&file).unwrap();
        let imported = import(&text, "client.json").unwrap();
        expect_file![file.with_extension("yaml")].assert_eq(&imported.manifest);
        expect_file![file.with_extension("txt")].assert_eq(&imported.notes.join("\n"));
        let known = |_: &str| Some("https://set".to_owned());
        if let Err(problems) = Manifest::parse(&imported.manifest, None, &known) {
            panic!("{}: {problems:?}", file.display());
        }
    }
}

#[test]
fn no_secret_is_written_or_told() {
    for file in configurations() {
        let text = fs::read_to_string(&file).unwrap();
        let imported = import(&text, "client.json").unwrap();
        let told = format!("{} {:?}", imported.manifest, imported.notes);
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.starts_with("Hunter")) {
            assert!(!told.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn what_is_no_configuration_is_told() {
    let told = |text: &str| import(text, "client.json").unwrap_err()[0].to_string();
    assert!(told("{").starts_with("client.json:1:"), "{}", told("{"));
    assert_eq!(
        told("{\"a\": 1}"),
        "client.json:1:1: error: no servers in it: a client's configuration has 'mcpServers' or 'servers'"
    );
    let nothing = told(r#"{"mcpServers": {"a": {"type": "sse", "url": "http://h"}, "b": 1, "c": {}}}"#);
    assert!(
        nothing.contains("no server can be taken over: server 'a' is left out: it speaks sse"),
        "{nothing}"
    );
    assert!(told(r#"{"mcpServers": {"a": {}, "a": {}}}"#).contains("duplicate key 'a'"));
}
