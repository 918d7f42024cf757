//! The width of lines, of Rust and of Python.
//!
//! Lines with a link or with a raw string are left out: neither can be broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use super::{root, shown};

const MAX_COLUMNS: usize = 110;

/// Folders that still have wider lines, with how many at most. Anywhere else none is allowed.
const WIDE_LINES_LEFT: [(&str, usize); 12] = [
    ("bench/peers", 3),
    ("crates/oxenv-client/src", 11),
    ("crates/oxenv-core/src", 26),
    ("crates/oxenv-envs/src", 1),
    ("crates/oxenv-fleet-simulator/src", 15),
    ("crates/oxenv-providers/src", 2),
    ("crates/oxenv-py/python", 36),
    ("crates/oxenv-py/src", 1),
    ("crates/oxenv-server/src", 25),
    ("crates/oxenv-store/src", 14),
    ("crates/oxenv-upstream/src", 17),
    ("crates/oxenv/src", 16),
];

#[test]
fn lines_are_narrow() {
    let mut wide: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for path in ["crates", "bench", "fuzz", "tests", "examples", "images", "scripts"]
        .iter()
        .flat_map(|folder| code_files(&root().join(folder)))
    {
        let left = WIDE_LINES_LEFT.iter().find(|(folder, _)| path.starts_with(root().join(folder)));
        wide.entry(left.map_or("", |(folder, _)| folder)).or_default().extend(wide_lines(&path));
    }
    for (folder, lines) in wide {
        let most = WIDE_LINES_LEFT.iter().find(|(left, _)| *left == folder).map_or(0, |(_, most)| *most);
        let found = lines.len();
        assert!(
            found <= most,
            "{MAX_COLUMNS} columns is the most; {folder} has {found} wider lines, and may have {most}: \
             {lines:#?}"
        );
    }
}

/// The files of Rust and of Python below a folder, but for what was built or installed there.
fn code_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules", "__pycache__"].contains(&name.as_str()) {
            files.extend(code_files(&path));
        } else if name.ends_with(".rs") || name.ends_with(".py") || name.ends_with(".pyi") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn wide_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let is_wide = |line: &str| line.chars().count() > MAX_COLUMNS && !line.contains("://");
    let mut wide: BTreeSet<usize> =
        text.lines().enumerate().filter(|(_, line)| is_wide(line)).map(|(index, _)| index + 1).collect();
    if !wide.is_empty() && path.extension().is_some_and(|extension| extension == "rs") {
        leave_out_raw_strings(text.parse().unwrap(), &mut wide);
    }
    wide.into_iter().map(|line| format!("{}:{line}", shown(path))).collect()
}

fn leave_out_raw_strings(tokens: TokenStream, wide: &mut BTreeSet<usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => leave_out_raw_strings(group.stream(), wide),
            TokenTree::Literal(literal) => {
                let spelled = literal.to_string();
                if ["r\"", "r#", "br\"", "br#"].iter().any(|opening| spelled.starts_with(opening)) {
                    let lines = literal.span().start().line..=literal.span().end().line;
                    wide.retain(|line| !lines.contains(line));
                }
            }
            _ => {}
        }
    }
}
