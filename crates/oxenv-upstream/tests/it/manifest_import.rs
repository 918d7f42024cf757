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

/// A configuration of a megabyte is taken over in a moment, however its names and secrets are in each other's
/// way.
#[test]
fn configurations_made_to_take_long_do_not() {
    let many = |text: &dyn Fn(usize) -> String, count: usize| (0..count).map(text).collect::<Vec<_>>();
    let stdio = |args: &str| format!(r#"{{"mcpServers": {{"a": {{"command": "c", "args": [{args}]}}}}}}"#);
    let url = |url: &str| format!(r#"{{"mcpServers": {{"a": {{"url": "{url}"}}}}}}"#);
    let began = std::time::Instant::now();
    for text in [
        stdio(&format!("\"{}\"", "${".repeat(400_000))),
        stdio(&format!("\"{}}}\"", "${".repeat(400_000))),
        stdio(&many(&|number| format!("\"--key={number:05}\""), 60_000).join(",")),
        url(&format!("http://h/?{}", many(&|number| format!("key={number}"), 80_000).join("&"))),
        format!(
            "{{\"mcpServers\": {{{}}}}}",
            many(
                &|number| {
                    let name = format!("{}{}", "!".repeat(1 + number % 150), "?".repeat(number / 150));
                    format!("\"{name}\": {{\"command\": \"c\"}}")
                },
                4_000
            )
            .join(",")
        ),
    ] {
        assert!(text.len() <= Manifest::MAX_TEXT_BYTES);
        let imported = import(&text, "client.json").unwrap();
        assert!(imported.manifest.len() < 16 << 20, "{}", imported.manifest.len());
        assert!(Manifest::parse(&imported.manifest, None, &|_| None).is_err() || text.len() > 100_000);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn the_same_secret_has_one_variable_and_another_has_another() {
    let text = r#"{"mcpServers": {"a": {"command": "c", "args": ["--key=one", "--key=two", "--key=one", "--key=six"]}}}"#;
    let imported = import(text, "client.json").unwrap();
    let args = r#"args: ["--key=${A_KEY}", "--key=${A_A_KEY}", "--key=${A_KEY}", "--key=${A_A_KEY_2}"]"#;
    assert!(imported.manifest.contains(args), "{}", imported.manifest);
}
