//! ARCHITECTURE.md names what is there: files, folders, and the tests that hold an invariant.

use std::fs;
use std::path::Path;

use super::root;

/// A test that the page names: `CRATE: FILE: TEST` or `FILE: TEST`.
struct NamedTest<'a> {
    file: &'a str,
    test: &'a str,
}

/// The parts of a line that are code.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The paths of the tree's files and folders, each from the root on; a folder ends with a slash.
fn tree() -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let (is_folder, name) = (path.is_dir(), name.to_string_lossy().into_owned());
            if name == "target" || name == "node_modules" || name.starts_with(".git") {
                continue;
            }
            let below = path.strip_prefix(root()).unwrap_or(Path::new("")).display().to_string();
            found.push(format!("/{below}{}", if is_folder { "/" } else { "" }));
            if is_folder {
                folders.push(path);
            }
        }
    }
    found
}

/// The tests of a line. A name alone is of the file before it.
fn tests(line: &str) -> Vec<NamedTest<'_>> {
    let (mut found, mut file): (Vec<NamedTest<'_>>, Option<&str>) = (Vec::new(), None);
    for part in code(line) {
        match part.rsplit_once(": ") {
            Some((before, test)) => {
                let named = before.rsplit(": ").next().unwrap_or(before);
                file = Some(named);
                found.push(NamedTest { file: named, test });
            }
            None => {
                let is_name =
                    part.contains('_') && part.chars().all(|one| one.is_alphanumeric() || one == '_');
                found.extend(file.filter(|_| is_name).map(|file| NamedTest { file, test: part }));
            }
        }
    }
    found
}

#[test]
fn architecture_names_what_is_there() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let tree = tree();
    let places = |name: &str| {
        let ending = format!("/{}", name.trim_start_matches('/'));
        tree.iter().filter(move |path| path.ends_with(&ending)).collect::<Vec<_>>()
    };
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(page.lines()) {
        let is_row = line.starts_with('|');
        for part in code(line) {
            let is_path = [".rs", ".py", ".md", ".json", "/"].iter().any(|ending| part.ends_with(ending))
                && !part.contains([' ', ':', '*'])
                && !part.starts_with('/');
            if is_path && places(part).is_empty() {
                wrong.push(format!("line {number}: there is no {part}"));
            }
        }
        for NamedTest { file, test } in tests(line).into_iter().filter(|_| is_row) {
            if !file.contains('.') {
                continue;
            }
            let heads = [format!("fn {test}("), format!("def {test}(")];
            let has_it = |path: &&String| {
                let text = fs::read_to_string(root().join(path.trim_start_matches('/'))).unwrap_or_default();
                heads.iter().any(|head| text.contains(head.as_str()))
            };
            let files = places(file);
            if files.is_empty() || (test != "all tests" && !files.iter().any(has_it)) {
                wrong.push(format!("line {number}: there is no test {test} in {file}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "ARCHITECTURE.md");
}
