//! House rules that a machine can check: who may use whom, how long files and functions are, that
//! each file says what it is.
//!
//! Invariant: a rule that is written in CONTRIBUTING.md or ARCHITECTURE.md with a number is held here.

mod architecture;
mod circles;
mod columns;
mod modules;
mod public_api;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates a crate may depend on; tests may use any.
const ARROWS: [(&str, &[&str]); 18] = [
    ("oxenv-wire", &[]),
    ("oxenv-schema", &["oxenv-wire"]),
    ("oxenv-core", &["oxenv-schema", "oxenv-wire"]),
    ("oxenv-envs", &["oxenv-core", "oxenv-wire"]),
    ("oxenv-store", &["oxenv-core", "oxenv-wire"]),
    ("oxenv-process", &[]),
    ("oxenv-upstream", &["oxenv-core", "oxenv-process", "oxenv-wire"]),
    ("oxenv-server", &["oxenv-core", "oxenv-wire"]),
    ("oxenv-providers", &["oxenv-core", "oxenv-process", "oxenv-wire"]),
    ("oxenv-client", &["oxenv-process", "oxenv-providers", "oxenv-schema", "oxenv-upstream", "oxenv-wire"]),
    ("oxenv-fleet-simulator", &["oxenv-process"]),
    ("oxenv-host", &["oxenv-core", "oxenv-process", "oxenv-wire"]),
    ("oxenv-code", &["oxenv-core", "oxenv-process", "oxenv-wire"]),
    ("oxenv-test-support", &[]),
    (
        "oxenv",
        &[
            "oxenv-bench",
            "oxenv-client",
            "oxenv-code",
            "oxenv-core",
            "oxenv-envs",
            "oxenv-fleet-simulator",
            "oxenv-host",
            "oxenv-process",
            "oxenv-providers",
            "oxenv-server",
            "oxenv-store",
            "oxenv-upstream",
            "oxenv-wire",
        ],
    ),
    ("oxenv-py", &["oxenv-client", "oxenv-process", "oxenv-providers", "oxenv-wire"]),
    ("oxenv-bench", &["oxenv-client", "oxenv-core", "oxenv-wire"]),
    ("oxenv-paths", &["oxenv-core", "oxenv-envs", "oxenv-server", "oxenv-store"]),
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate is two folders below the root").to_owned()
}

/// Our members' folders: `crates/*`, `bench` and `bench/paths`.
fn members() -> Vec<PathBuf> {
    let mut members: Vec<PathBuf> =
        fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    members.push(root().join("bench"));
    members.push(root().join("bench/paths"));
    members.sort();
    members
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(below) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The sources of all that is shipped: the support of tests may do what tests may.
fn sources() -> Vec<PathBuf> {
    let shipped = members().into_iter().filter(|member| !member.ends_with("oxenv-test-support"));
    shipped.flat_map(|member| rust_files(&member.join("src"))).collect()
}

fn everything() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = members().iter().flat_map(|member| rust_files(member)).collect();
    files.extend(rust_files(&root().join("fuzz")));
    files
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The lines of a file without its unit tests.
fn code_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().take_while(|line| *line != "#[cfg(test)]").map(str::to_owned).collect()
}

/// The value below which nine of ten are.
fn p90(sorted: &[usize]) -> usize {
    sorted[(sorted.len() * 9).div_ceil(10) - 1]
}

#[test]
fn crates_use_only_what_the_arrows_allow() {
    let mut seen = BTreeSet::new();
    for member in members() {
        let manifest = fs::read_to_string(member.join("Cargo.toml")).unwrap();
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "))
            .unwrap()
            .trim_matches('"')
            .to_owned();
        let allowed =
            ARROWS.iter().find(|(from, _)| *from == name).unwrap_or_else(|| panic!("{name} has no arrows")).1;
        let normal = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for line in normal.lines().filter(|line| line.starts_with("oxenv")) {
            let used = line.split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&used), "{name} uses {used}, which no arrow allows");
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), ARROWS.len(), "an arrow names a crate that is gone");
}

#[test]
fn the_wire_knows_serde_only() {
    let manifest = fs::read_to_string(root().join("crates/oxenv-wire/Cargo.toml")).unwrap();
    let normal = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let used: Vec<&str> = normal
        .lines()
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(used, ["serde", "serde_json", "smallvec"]);
}

#[test]
fn files_are_short() {
    let mut lengths = Vec::new();
    for path in sources() {
        let lines = code_lines(&path).len();
        assert!(lines <= 600, "{} has {lines} lines without its tests; 600 is the most", shown(&path));
        if path.ends_with("lib.rs") {
            assert!(lines <= 120, "{} has {lines} lines; a lib.rs has 120 at the most", shown(&path));
        }
        lengths.push(lines);
    }
    lengths.sort_unstable();
    let (median, p90) = (lengths[lengths.len() / 2], p90(&lengths));
    assert!(median <= 200, "the median file has {median} lines; 200 is the most");
    assert!(p90 <= 400, "one file in ten has more than {p90} lines; 400 is the most");
}

#[test]
fn functions_are_short() {
    let mut lengths = Vec::new();
    for path in sources() {
        let lines = code_lines(&path);
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let head = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "];
            let head = head.iter().chain(&["pub(crate) async fn ", "pub(super) async fn "]);
            if !head.clone().any(|head| code.starts_with(head)) {
                continue;
            }
            let close = format!("{}}}", " ".repeat(line.len() - code.len()));
            let length =
                lines[at..].iter().take_while(|line| **line != close && !line.ends_with(';')).count();
            // A declaration without a body ends at its semicolon, and is no function.
            if lines[at..].iter().take(length + 1).any(|line| line.ends_with('{')) {
                let length = lines[at..].iter().take_while(|line| **line != close).count() + 1;
                lengths.push(length);
            }
        }
    }
    lengths.sort_unstable();
    assert!(lengths.len() > 300, "only {} functions were found", lengths.len());
    assert!(p90(&lengths) <= 40, "one function in ten has more than {} lines; 40 is the most", p90(&lengths));
}

#[test]
fn every_file_says_what_it_is() {
    for path in everything() {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().find(|line| !line.starts_with("#![")).unwrap_or_default();
        assert!(first.starts_with("//!"), "{} does not open with a `//!` doc", shown(&path));
    }
}

/// Names that are idioms: of Rust, or of environments, each of which has its own.
const COMMON_TYPE_NAMES: [&str; 7] =
    ["Action", "Builder", "Config", "Error", "Observation", "Options", "State"];

/// The name of a type that a line at the left margin defines.
fn defined_type(line: &str) -> Option<&str> {
    let code = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    let name = kinds.iter().find_map(|kind| code.strip_prefix(kind))?;
    let end = name.find(|character: char| !character.is_alphanumeric()).unwrap_or(name.len());
    Some(&name[..end])
}

#[test]
fn a_type_name_is_defined_in_three_places_at_most() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources() {
        for name in fs::read_to_string(&path).unwrap().lines().filter_map(defined_type) {
            places.entry(name.to_owned()).or_default().push(shown(&path));
        }
    }
    assert!(places.len() > 500, "only {} types were found", places.len());
    places.retain(|name, places| places.len() > 3 && !COMMON_TYPE_NAMES.contains(&name.as_str()));
    assert!(places.is_empty(), "give these types more exact names: {places:#?}");
}

#[test]
fn every_page_is_in_the_index() {
    let docs = root().join("docs");
    let index = fs::read_to_string(docs.join("README.md")).unwrap();
    let pages = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let missing: Vec<String> = pages
        .filter(|page| page.ends_with(".md") && page != "README.md" && !index.contains(&format!("({page})")))
        .collect();
    assert!(missing.is_empty(), "docs/README.md names none of {missing:?}");
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    for path in everything() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
                if let Some(rest) = line.split(mark).nth(1) {
                    let issue = rest.trim_start_matches('(').starts_with('#');
                    assert!(issue, "{}:{}: {mark} without an issue number", shown(&path), number + 1);
                }
            }
        }
    }
}

#[test]
fn no_test_is_ignored() {
    // In two parts, or this file would be found.
    let ignored = ["#[", "ignore"].concat();
    for path in everything() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(&ignored),
            "{} ignores a test, which nobody would notice: run it, or move it to scripts/nightly behind a \
             feature",
            shown(&path)
        );
    }
}

#[test]
fn environment_variables_are_read_in_one_file() {
    for path in sources() {
        let reads = fs::read_to_string(&path).unwrap().contains("env::var");
        assert!(
            !reads || path.ends_with("oxenv/src/env.rs"),
            "{} reads an environment variable",
            shown(&path)
        );
    }
}

/// What the standard library deletes a folder with needs a descriptor and a part of the stack for each level
/// of it.
#[test]
fn folders_are_removed_in_one_way() {
    for path in sources() {
        let removes = code_lines(&path).iter().any(|line| line.contains("remove_dir_all"));
        assert!(!removes, "{} does not remove folders with oxenv_core::folders::remove", shown(&path));
    }
}

#[test]
fn processes_are_started_in_oxenv_process_alone() {
    // Each with the reason.
    let allowed = [
        // A peer that `bench/compare` measures: the SDK alone, with nothing of ours.
        "bench/src/bin/oxenv-rmcp/main.rs",
    ];
    let elsewhere = |path: &&PathBuf| !path.starts_with(root().join("crates/oxenv-process"));
    let mut seen = BTreeSet::new();
    for path in sources().iter().filter(elsewhere) {
        let starts = |line: &String| {
            let line = line.replace("clap::Command", "");
            line.contains("Command::new(") || line.contains("process::Command")
        };
        if code_lines(path).iter().any(starts) {
            let shown = shown(path);
            assert!(allowed.contains(&shown.as_str()), "{shown} starts a process beside oxenv_process");
            seen.insert(shown);
        }
    }
    assert_eq!(seen.len(), allowed.len(), "an exception is no longer needed");
}

#[test]
fn json_schemas_are_compiled_in_one_place() {
    for path in sources() {
        let uses = fs::read_to_string(&path).unwrap().contains("jsonschema::");
        let is_the_place = path.to_string_lossy().contains("oxenv-schema/src/");
        assert!(!uses || is_the_place, "{} compiles JSON Schemas beside oxenv-schema", shown(&path));
    }
}

/// Whether a line adds a length of time to a time: told by the names on both sides of the sign, for a text
/// has no types.
fn adds_to_a_time(line: &str) -> bool {
    const TIMES: [&str; 9] =
        ["now()", "now", "UNIX_EPOCH", "began", "since", "deadline", "until", "due", "started"];
    const LENGTHS: [&str; 11] = [
        "Duration::",
        "timeout",
        "patience",
        "pause",
        "grace",
        "ttl",
        "lease",
        "interval",
        "wait",
        "warmup",
        "within",
    ];
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '(' || c == ')';
    line.match_indices(" + ").chain(line.match_indices(" += ")).any(|(at, sign)| {
        let left = line[..at].rsplit(|c| !word(c)).next().unwrap_or_default();
        let right = line[at + sign.len()..].trim_start_matches("self.");
        let counts = right.starts_with(|c: char| c.is_ascii_digit());
        let other_counts = line[at..].contains("other.");
        (TIMES.contains(&left) && !counts && !other_counts)
            || LENGTHS.iter().any(|length| right.starts_with(length))
    })
}

/// A length that somebody outside chose may be too long for a clock, and the sum then panics.
#[test]
fn times_are_added_to_in_one_place() {
    // Each with the reason.
    let allowed = [
        // Here the length is bounded first.
        "crates/oxenv-wire/src/seconds.rs",
        // A program for measuring, whose lengths are its own flags.
        "bench/src/bin/oxenv-rmcp/calls.rs",
    ];
    assert!(adds_to_a_time("let end = Instant::now() + self.timeout;"));
    assert!(
        adds_to_a_time("Some(self.unsynced? + interval)") && adds_to_a_time("start + Duration::from_secs(5)")
    );
    assert!(adds_to_a_time("self.until += pause;") && !adds_to_a_time("counts.opened += 1; epoch + 1"));
    for path in sources().iter().filter(|path| !allowed.iter().any(|allowed| path.ends_with(allowed))) {
        for (number, line) in code_lines(path).iter().enumerate() {
            let place = format!("{}:{}", shown(path), number + 1);
            assert!(!adds_to_a_time(line), "{place} adds to a time without oxenv_wire::after: {line}");
        }
    }
}

#[test]
fn statuses_of_failures_are_chosen_in_one_file() {
    for path in sources().iter().filter(|path| path.to_string_lossy().contains("oxenv-server")) {
        let text = fs::read_to_string(path).unwrap();
        let maps = text.contains("GATEWAY_TIMEOUT") || text.contains("StatusCode::CONFLICT");
        assert!(!maps || path.ends_with("src/error.rs"), "{} maps a failure to a status", shown(path));
    }
}
