//! The width of lines, of Rust and of Python.
//!
//! Lines with a link or with a raw string are left out: neither can be broken.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use super::{root, shown};

const MAX_COLUMNS: usize = 110;

#[test]
fn lines_are_narrow() {
    let folders = ["crates", "bench", "fuzz", "tests", "examples", "images", "scripts"];
    let files = folders.iter().flat_map(|folder| code_files(&root().join(folder)));
    let wide: Vec<String> = files.flat_map(|path| wide_lines(&path)).collect();
    assert!(wide.is_empty(), "{MAX_COLUMNS} columns is the most: {wide:#?}");
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
