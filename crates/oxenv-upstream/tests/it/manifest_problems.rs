//! The problems of wrong manifests: for each `fixtures/problems/NAME.yaml` there is `NAME.txt` with
//! every line that is told about it.
//!
//! Invariant: a fixture without its text fails; `UPDATE_EXPECT=1` rewrites the texts.

use std::fs;
use std::path::Path;

use expect_test::expect_file;
use oxenv_upstream::manifest::{Manifest, Problem};

use crate::manifest::{fixture, lookup};

fn problems(path: &Path) -> Vec<Problem> {
    let text = fs::read_to_string(path).unwrap();
    let name = Path::new(path.file_name().unwrap());
    match Manifest::parse(&text, Some(name), &lookup) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    }
}

#[test]
fn every_problem_is_told_with_its_place() {
    let mut files: Vec<_> =
        fs::read_dir(fixture("problems")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let problems = problems(&file);
        assert!(!problems.is_empty(), "{}", file.display());
        let told: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        expect_file![file.with_extension("txt")].assert_eq(&told);
    }
}

#[test]
fn a_problem_names_its_path_and_serializes() {
    let problems = problems(&fixture("problems/keys.yaml"));
    let json = serde_json::to_value(&problems).unwrap();
    let comand = json.as_array().unwrap().iter().find(|problem| problem["line"] == 11).unwrap();
    let expected = serde_json::json!({
        "severity": "error", "file": "keys.yaml", "line": 11, "column": 7,
        "path": "tools[0].mcp_server.comand", "message": "unknown key 'comand' in mcp_server",
        "suggestion": "did you mean 'command'?",
    });
    assert_eq!(*comand, expected);
}

#[test]
fn a_problem_is_one_line_and_repeats_little_of_the_file() {
    let long = "x".repeat(10_000);
    let text = format!(
        "tools:\n  - name: \"a\\nb\"\n    startup: {long}\n    \"c\\nd\": 1\n    {}: 1\n",
        "k".repeat(900)
    );
    for problem in Manifest::parse(&text, None, &lookup).unwrap_err() {
        let told = problem.to_string();
        assert!(!told.contains('\n') && told.len() < 600, "{told}");
    }
}
